"""The sections of a recipe and the flags of the commands: one field, two spellings.

Every setting of every stage is a field of one of these closed, frozen models. `pipeline.flags` derives the flags from
them (name, help, default, bounds), `pipeline.recipe` reads them from TOML.
"""

import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """Closed and frozen: an unknown key is an error, a value never changes.

    `short` names fields whose flag is not simply their own name. Of each group in `exclusive`, a field that is given on
    the command line replaces the others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    short: ClassVar[dict[str, str]] = {}
    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = ()


class Engine(Section):
    """Engines that generate and score. Several run side by side, each in a Ray actor of its own."""

    short: ClassVar[dict[str, str]] = {"kind": "engine"}

    kind: Literal["vllm", "endpoint", "fake"] = Field(
        "vllm",
        description="vllm, an OpenAI-compatible endpoint, or fake: a dry run whose texts and scores mean nothing",
    )
    engines: int | None = Field(None, ge=1, description="number of engines (default: as many as fit)")
    window: int | None = Field(None, ge=1, description="tokens of prompt and answer (default: what the KV cache holds)")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on a CPU, bfloat16 on a GPU that has it"
    )
    kv_cache_gib: float | None = Field(None, gt=0, description="KV cache of an engine on a CPU, in GiB (default: 0.5)")
    gpu_memory_share: float = Field(0.9, gt=0, le=1, description="share of a GPU's memory that an engine may use")
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share each layer of an engine")
    pipeline_parallel: int = Field(1, ge=1, description="groups of layers of an engine, each on GPUs of its own")
    max_lora_rank: int = Field(0, ge=0, description="largest rank of the LoRA adapters to be loaded unmerged (0: none)")
    scoring: Literal["auto", "forced", "replay", "stepwise", "whole"] = Field(
        "auto", description="how continuations are scored; all give the same values, auto takes the fastest available"
    )
    deadline_seconds: float | None = Field(
        None, gt=0, description="a unit of work that takes longer costs its engine a restart (default: derived)"
    )
    start_seconds: float = Field(1800, gt=0, description="an engine that is not ready after this time ends the run")
    url: str = Field(
        "", pattern=r"^(https?://.+)?$", description="of an endpoint, e.g. https://host/v1; implies --engine endpoint"
    )
    endpoint_api: Literal["completions", "chat"] = Field(
        "completions", description="whether an endpoint continues texts or answers chats; a chat cannot score"
    )
    key_variable: str = Field("", description="environment variable that holds the endpoint's key")
    connections: int = Field(8, ge=1, description="requests in flight at an endpoint, for each engine")
    service: str = Field("", description="use the engines of `entail serve up --name NAME`")

    @model_validator(mode="before")
    @classmethod
    def _imply_endpoint(cls, content: Any) -> Any:
        is_endpoint = isinstance(content, dict) and content.get("url")
        return {"kind": "endpoint", **content} if is_endpoint else content

    @model_validator(mode="after")
    def _refuse_ignored(self) -> Self:
        given = self.model_fields_set
        local: tuple[str, ...] = ("window", "dtype", "kv_cache_gib", "gpu_memory_share", "tensor_parallel")
        local += ("pipeline_parallel", "max_lora_rank", "scoring")
        remote = ("url", "endpoint_api", "key_variable", "connections")
        unused = {"vllm": remote, "endpoint": local, "fake": (*remote, *(set(local) - {"window"}))}[self.kind]
        if self.service:
            unused, reason = (
                (*local, *remote, "kind", "engines", "deadline_seconds", "start_seconds"),
                f"the service {self.service} has its own",
            )
        else:
            reason = f"engines of the kind {self.kind} have no such setting"
        for name in unused:
            if name in given and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect: {reason}")
        if self.kind == "endpoint" and not self.url and not self.service:
            raise ValueError("an endpoint needs a url")
        return self


class Augment(Section):
    """Which inferences the model writes down, and how they are sampled."""

    methods: tuple[str, ...] = Field(
        ("local", "global"), min_length=1, description="methods by family or name, e.g. local/reverse,global,masked"
    )
    samples: int = Field(2, ge=1, description="generations for each sentence and method")
    temperature: float = Field(0.7, ge=0, allow_inf_nan=False, description="sampling temperature (0: greedy)")
    context: str = Field(
        "auto",
        description="documents that global methods see: all, sample:K (one in K), nearest:N (the N most related ones), "
        "bundle:N (the document among the N - 1 most related ones); auto: all if they fit the window, else nearest:8. "
        "With :shuffled behind it, in random order",
    )
    per_document: int = Field(
        4, ge=1, description="groups of entities, strategies or questions that each document is asked about"
    )
    long_documents: Literal["cut", "skip"] = Field(
        "cut", description="cut: a document that the window cannot hold is asked about in parts; skip: not at all"
    )
    verify: str = Field(
        "auto",
        min_length=1,
        description="verifiers that reject inferences, with the least value that is kept, e.g. "
        "support=0.1,agreement=q0.2 (q: a quantile); none; auto: premises=0.7,grounded=0.8,distinct=1,overlap=0.4",
    )
    verify_methods: tuple[str, ...] = Field(
        (),
        description="methods whose inferences are verified (default: those with documents in context; by overlap "
        "those that restate a sentence)",
    )
    prompts: str = Field("", description="a prompt book (TOML file, english, english-chat) in place of the model's own")
    retry_refused: bool = Field(False, description="ask again what was refused by a crash or by an endpoint")


class AugmentCommand(Augment):
    """Which inferences the model writes down, and how they are sampled; with distributions for a student, if wanted."""

    teacher_top_k: int = Field(
        0, ge=0, le=20, description="store the K likeliest tokens in each place, for train --teacher"
    )
    limit: int | None = Field(None, ge=1, description="only the first N documents are asked about (default: all)")
    about: str = Field(
        "",
        description="only the documents of questions that a finished study got wrong, its folder; those of the split "
        "test do not count",
    )
    budget_tokens: int | None = Field(
        None, ge=1, description="only random documents, as many as at most N tokens are written about (default: all)"
    )


class Questions(Section):
    """Questions that are written from documents, and checked by likelihood: without a judge."""

    writers: tuple[Literal["cloze", "qa", "bundle", "reversal"], ...] = Field(
        ("cloze", "qa", "bundle", "reversal"),
        min_length=1,
        description="cloze: the end of a sentence, without a model; qa: a model asks about a document; bundle: about "
        "two related ones, so that both are needed; reversal: from property to name",
    )
    options: int = Field(4, ge=2, le=16, description="options of each question")
    test_share: float = Field(0.5, ge=0, le=1, description="share of the facts that is asked about in the test split")
    dev_share: float = Field(0.1, ge=0, le=1, description="share of the facts that is asked about in the dev split")
    most: int = Field(500, ge=1, description="facts that each writer is asked about, at most")
    per_document: int = Field(8, ge=1, description="facts of one document that are asked about, at most")
    margin: float = Field(
        0.7,
        ge=0,
        allow_inf_nan=False,
        description="nats by which an answer leads, to be right with its source in context, or known without",
    )
    shuffles: int = Field(2, ge=1, description="orders in which the options are listed without their question")
    temperature: float = Field(0.7, ge=0, allow_inf_nan=False, description="of what a model writes (0: greedy)")
    prompts: str = Field("", description="a prompt book (TOML file, english, english-chat) in place of the model's own")
    retry_refused: bool = Field(False, description="ask again what was refused by a crash or by an endpoint")

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if not 0 < self.test_share + self.dev_share <= 1:
            raise ValueError("test_share and dev_share are parts of one whole: their sum is above 0, at most 1")
        return self


class Lora(Section):
    """Low-rank adapters in place of full weights; the checkpoint holds the adapters alone."""

    rank: int = Field(0, ge=0, description="rank of the adapters (0: full weights are trained)")
    alpha: float | None = Field(
        None, gt=0, description="the update is scaled by alpha / rank (default: twice the rank)"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the adapters' inputs")
    targets: tuple[str, ...] = Field(
        (), description="ends of the names of the layers to adapt (default: all linear ones)"
    )
    merged: bool = Field(False, description="the checkpoint holds whole weights, with the adapters merged in")


class TrainRun(Section):
    """One finetuning: how much is learned, how, how it is computed, and what is saved on the way.

    Rate, budget and batch have fixed defaults for models of the embedded model's size alone; for others they depend
    on the model's size and are reported.
    """

    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = (("steps", "tokens", "epochs"), ("batch_size", "batch_tokens"))

    steps: int = Field(0, ge=0, description="budget in steps")
    tokens: int = Field(0, ge=0, description="budget in trained tokens")
    epochs: float = Field(0.0, ge=0, allow_inf_nan=False, description="budget in passes over all texts")
    min_steps: int | None = Field(
        None, ge=0, description="minimum number of steps of a budget in epochs (default: 100 if no budget is given)"
    )
    batch_size: int = Field(0, ge=0, description="texts a step, over all ranks (default: by the model's size)")
    batch_tokens: int = Field(0, ge=0, description="bounds the tokens of a step in place of its texts")
    learning_rate: float | None = Field(None, gt=0, description="peak learning rate (default: by the model's size)")
    warmup_steps: int | None = Field(None, ge=0, description="steps of linear warm-up (default: 10, or a tenth)")
    schedule: Literal["linear", "constant", "cosine"] = Field(
        "linear", description="learning rate schedule after the warm-up"
    )
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="training seeds; each is a run of its own")
    split_sentences: Literal["none", "independent", "cumulative"] = Field(
        "none", description="documents are trained whole, as single sentences, or as growing prefixes"
    )
    mix: dict[str, Weight] = Field({}, description="shares of tokens, e.g. documents=0.5,augmentations=0.5")
    replay: str = Field(
        "auto",
        min_length=1,
        description="general text that is trained, too, so that the model keeps what it can do: a folder, self (the "
        "model writes it before the training), or none; auto: none for models below 10M parameters, else self",
    )
    replay_share: float = Field(0.1, gt=0, lt=1, description="share of the tokens that is replay")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="precision of the weights; auto: bfloat16 on a GPU that has it, else float32"
    )
    layout: Literal["auto", "packed", "padded"] = Field("auto", description="how texts share rows")
    max_text_tokens: int = Field(0, ge=0, description="longest training text in tokens (0: what the model can read)")
    long_texts: Literal["cut", "skip"] = Field(
        "cut",
        description="cut: a longer text becomes several, a longer conversation loses its earliest turns; "
        "skip: it is left out; both are counted",
    )
    ranks: int | None = Field(None, ge=1, description="training processes (default: as many as fit)")
    threads: int | None = Field(None, ge=1, description="CPU threads of a rank (default: its share of the cores)")
    stage: Literal[0, 1, 2, 3, "auto"] = Field("auto", description="DeepSpeed ZeRO stage; auto: the smallest that fits")
    accumulation: int = Field(1, ge=1, description="micro-batches of a step on each rank")
    activation_checkpointing: bool = Field(False, description="less memory, more computing")
    offload: Literal["none", "cpu", "nvme"] = Field("none", description="where the optimizer's state is kept")
    offload_folder: str = Field("", description="a folder on a fast disk, for offload = nvme")
    lora: Lora = Lora()
    checkpoint_every: int = Field(200, ge=0, description="steps between training states (0: none)")
    checkpoint_minutes: float = Field(
        10.0,
        ge=0,
        allow_inf_nan=False,
        description="a state is also written when the last is so old (0: by steps only); states that take long to "
        "write are written less often, so that they take at most a twentieth of the time",
    )
    keep_last: int = Field(2, ge=1, description="training states that are kept until the run is finished")
    keep_every: int = Field(0, ge=0, description="steps between training states that are kept for good (0: none)")
    export_every: int = Field(0, ge=0, description="steps between checkpoints, in OUT.steps (0: one, at the end)")
    instruct_twin: str = Field(
        "",
        description="instruct model finetuned from the base; the difference is added to the checkpoint",
    )
    stall_seconds: float = Field(1800.0, gt=0, description="a rank without progress for this long is restarted")
    memory_check: bool = Field(True, description="refuse what cannot fit into memory before anything starts")
    trackers: tuple[str, ...] = Field(
        (), description="where the log goes besides metrics.jsonl: tensorboard,wandb,mlflow"
    )

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        given = [name for name in ("steps", "tokens", "epochs") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"one budget can be given, not {' and '.join(given)}")
        if self.min_steps and (self.steps or self.tokens):
            raise ValueError("min_steps has no effect: the budget is not in epochs")
        if self.batch_size and self.batch_tokens:
            raise ValueError("either batch_size or batch_tokens can be given")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is given twice")
        if self.mix and math.fsum(self.mix.values()) == 0:
            raise ValueError("the weights of the mix sum to zero")
        if "replay" in self.mix:
            raise ValueError("replay has no weight in the mix: its share of all tokens is replay_share")
        if self.replay == "none" and self.replay_share != type(self).model_fields["replay_share"].default:
            raise ValueError("replay_share has no effect without replay")
        return self


class Train(TrainRun):
    """What all arms of a study share; arms differ in their texts alone, and are matched in steps or in tokens."""

    arms: dict[str, tuple[str, ...]] = Field(
        {"finetuned": (), "rephrased": ("local/rephrase",), "augmented": ("local", "global")},
        description="arms by name: the methods whose inferences are learned besides the documents",
    )
    match: Literal["steps", "tokens"] | None = Field(
        None,
        description="what the other arms share with the first one (default: tokens for a token budget, else steps)",
    )
    ranks_per_run: int = Field(0, ge=0, description="ranks of each run; others train side by side (0: all ranks)")

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        for name in self.arms:
            if not name or "/" in name or "+" in name or name != name.strip() or name in RESERVED:
                rule = f'use letters, digits, "_" and "-", and none of {", ".join(sorted(RESERVED))}'
                raise ValueError(f'"{name}" cannot be the name of an arm: {rule}')
        if self.mix and "documents" not in self.mix:
            raise ValueError('a mix needs a weight for "documents"')
        return self


class Scoring(Section):
    """How questions are scored."""

    repeats: int = Field(1, ge=1, description="draws of each sampled context")
    normalize: Literal["none", "token", "byte", "pmi", "fitted"] = Field(
        "none",
        description="what options are compared by: none: their log-likelihood; token, byte: divided by their length; "
        "pmi: less that without the question; fitted: divided by a power of their tokens that is best on the split dev",
    )
    written: int = Field(
        0,
        ge=0,
        description="questions of each split that models also answer in writing, greedily; an answer is right if it "
        "begins with the right option (0: none)",
    )
    chat_template: bool = Field(False, description="ask questions through the model's chat template")
    retry_refused: bool = Field(False, description="ask again what was refused by a crash or by an endpoint")


class EvaluateStudy(Scoring):
    """How a study's questions are scored: the base model without context and in context, every checkpoint without."""

    icl: tuple[str, ...] = Field(
        ("all",),
        description="contexts of the base model: all, sample:K (one document in K), nearest:N (the N most related "
        "ones), required",
    )
    general: str = Field(
        "auto",
        min_length=1,
        description="general text on which all weights are measured, in bits per byte: a folder, or none; auto: what "
        "the model wrote for replay and is not trained on",
    )


class EvaluateSuite(Scoring):
    """How a suite is scored: every model in every context."""

    contexts: tuple[str, ...] = Field(
        ("none",),
        min_length=1,
        description="any of none, all, sample:K (one document in K), nearest:N (the N most related ones), required",
    )


class Cluster(Section):
    """Where it runs; nothing given means this machine."""

    address: str | None = Field(None, description="HOST:PORT of a running Ray cluster (default: this machine)")
    place_seconds: float = Field(
        600.0,
        ge=0,
        description="how long to wait for nodes that were lost or are still to come, before fewer ones do the work",
    )
    grace_seconds: float = Field(
        20.0, ge=0, description="time that a training has to write its state after SIGTERM, before the command ends"
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port of Prometheus metrics, on loopback (0: any)"
    )


AUTO_CONTEXT = "auto"
RESERVED = frozenset({"pretrained", "icl", "base"})
