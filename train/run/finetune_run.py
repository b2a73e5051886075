"""The record of one finetuning run. Reads and writes nothing. Imports no torch, so that a driver plans runs cheaply."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from data.errors import InputError
from train.texts.sources import TextSource, check_mix

__all__ = ["FinetuneRun", "Lora", "TextSource", "absolute"]

Offload = Literal["none", "cpu", "nvme"]


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters, trained in place of the weights.

    `rank` and `alpha` as peft defines them (the update is scaled by alpha / rank). `targets` are the ends of the names
    of the linear layers to adapt; empty means all but the output layer. The checkpoint holds the adapters alone, or if
    `merged` whole weights. Producer: `pipeline`. Consumer: `train`.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: float = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: tuple[str, ...] = ()
    merged: bool = False


@dataclass(frozen=True, slots=True)
class FinetuneRun:
    """One finetuning: from `base`, on the texts of `sources`, into `out`. Producer: `pipeline`. Consumer: `train`.

    Exactly one of `num_steps`, `num_tokens` (tokens that are learned) and `num_epochs` is above 0: the budget.
    `min_steps` is the minimum number of steps of a budget in epochs. With `match` the budget is that of a run on the
    texts `matched_to`, and this run has the same number of "steps" or "tokens". `batch_size` counts texts over all
    ranks; `batch_tokens`, if above 0, bounds the tokens of a batch instead. `max_grad_norm` clips gradients (0: never),
    `warmup_steps` are part of the steps, `stage` is the ZeRO stage, `precision` that of the weights (auto: bfloat16 on
    a GPU that has it, else float32). `layout` says how texts share rows. Texts of more than `max_text_tokens` (0: what
    the model can read) become several texts, and conversations lose their earliest turns; with `long_texts` "skip" they
    are left out. `tokens` is a folder for tokenized texts and schedules that runs share, and that is kept ("": one
    beside `out`, deleted at the end).

    Each rank computes its rows of a step in `accumulation` micro-batches; `activation_checkpointing` recomputes
    activations instead of keeping them; `offload` (for "nvme" below `offload_folder`) is where the optimizer's state
    is stored; `lora` trains adapters. A training state is saved every `checkpoint_every` steps (0: never) and when
    the last is `checkpoint_minutes` old (0: by steps only; see `train.run.stopping.StateClock`); the `keep_last` newest
    are kept until the run is finished, and one every `keep_every` steps (0: none) for good. A checkpoint is written
    every `export_every` steps (0: at the end alone) into the folder `out`.steps. The difference between the model
    `instruct_twin` and `base` is added to the weights of checkpoints. Without `resume` the run starts at its first
    step. `trackers` get the log besides `metrics.jsonl`: see `train.run.trackers`.

    The bounds in the annotations hold for runs read from JSON and are those of the recipe's [train] section.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    base: str
    sources: tuple[TextSource, ...]
    out: str
    num_steps: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    seed: int = 0
    stage: Annotated[int, Field(ge=0, le=3)] = 1
    num_tokens: Annotated[int, Field(ge=0)] = 0
    num_epochs: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    min_steps: Annotated[int, Field(ge=0)] = 0
    match: Literal["", "steps", "tokens"] = ""
    matched_to: tuple[TextSource, ...] = ()
    batch_tokens: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    layout: Literal["auto", "packed", "padded"] = "auto"
    objective: Literal["text", "distillation"] = "text"
    max_text_tokens: Annotated[int, Field(ge=0)] = 0
    long_texts: Literal["cut", "skip"] = "cut"
    tokens: str = ""
    accumulation: Annotated[int, Field(ge=1)] = 1
    activation_checkpointing: bool = False
    offload: Offload = "none"
    offload_folder: str = ""
    lora: Lora | None = None
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    checkpoint_minutes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    keep_last: Annotated[int, Field(ge=1)] = 2
    keep_every: Annotated[int, Field(ge=0)] = 0
    export_every: Annotated[int, Field(ge=0)] = 0
    instruct_twin: str = ""
    resume: bool = True
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        budget = (self.num_steps, self.num_tokens, self.num_epochs)
        nvme = self.offload == "nvme"
        # By the recipe's key: settings that are valid by themselves and do not fit together.
        problems = {
            "steps": (sum(part > 0 for part in budget) != 1, f"give one of steps, tokens and epochs, not {budget}"),
            "warmup_steps": (
                0 < self.num_steps < self.warmup_steps,
                f"{self.warmup_steps} steps of warm-up do not fit into {self.num_steps} steps",
            ),
            "min_steps": (
                self.min_steps > 0 and not self.num_epochs,
                "min_steps applies to a budget in epochs only",
            ),
            "match": (bool(self.match) != bool(self.matched_to), "match needs the texts that the run is matched to"),
            "offload": (self.offload != "none" and self.stage == 0, "ZeRO stage 0 has nothing to offload"),
            "zero_stage": (nvme and self.stage < 3, f"offload to nvme needs ZeRO stage 3, not {self.stage}"),
            "offload_folder": (nvme and not self.offload_folder, "offload to nvme needs a folder"),
            "instruct_twin": (
                bool(self.instruct_twin) and self.lora is not None and not self.lora.merged,
                "a checkpoint of adapters has no weights to which an instruct twin could be added",
            ),
            "checkpoint_every": (
                nvme and self.checkpoint_every > 0,
                "training states cannot be saved with offload to nvme",
            ),
        }
        for key, (applies, problem) in problems.items():
            if applies:
                raise InputError(problem, where=f"train.{key} of run {self.name}", hint=f"change train.{key}")
        for sources in (self.sources, self.matched_to):
            check_mix(sources, where=f"train.mix of run {self.name}")


def absolute(run: FinetuneRun) -> FinetuneRun:
    """The same run with absolute paths, since workers have a working folder of their own."""
    changes: dict[str, Any] = {
        name: tuple(dataclasses.replace(source, folder=str(Path(source.folder).absolute())) for source in sources)
        for name, sources in (("sources", run.sources), ("matched_to", run.matched_to))
    }
    paths = {name: getattr(run, name) for name in ("base", "out", "tokens", "offload_folder", "instruct_twin")}
    changes |= {name: path and str(Path(path).absolute()) for name, path in paths.items()}
    return dataclasses.replace(run, **changes)
