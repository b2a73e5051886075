"""What is to be trained: the record of one finetuning run, and what it is known by.

Reads: the texts of its sources, for the key. Writes: nothing. Imports no torch, so that a driver can plan runs cheaply.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from data.errors import InputError
from data.seeds import fingerprint
from train.engine.zero_config import OFFLOADS
from train.texts.sources import TextSource, check_weights, content_of, read_texts

__all__ = ["FinetuneRun", "Lora", "TextSource", "absolute", "exact_settings", "read_texts", "run_key"]

SCHEDULES = ("linear", "constant", "cosine")
STAGES = (0, 1, 2, 3)
LAYOUTS = ("auto", "packed", "padded")
OBJECTIVES = ("text", "distillation")
MATCHES = ("", "steps", "tokens")
# What a run is computed with decides its rounding only, and what is saved on the way decides nothing.
_ROUNDING = ("stage", "accumulation", "activation_checkpointing", "offload", "layout")
_WITHOUT_EFFECT = ("offload_folder", "checkpoint_every", "keep_last", "keep_every", "resume", "trackers")
_PATHS = ("base", "sources", "matched_to", "out", "tokens")
_RECIPE = "correct the recipe's [train] section"


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters, trained in place of the weights and merged into them at the end.

    `rank` and `alpha` as peft means them (the update is scaled by alpha / rank). `targets` ends the names of the linear
    layers that get one; empty means all of them but the output layer. Producer: `pipeline`. Consumer: `train`.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FinetuneRun:
    """One finetuning: from `base`, on the texts of `sources`, into `out`. Producer: `pipeline`. Consumer: `train`.

    Exactly one of `num_steps`, `num_tokens` (tokens that are learned) and `num_epochs` is above 0: the budget. With
    `match` the budget is that of a run on the texts `matched_to`, and this one takes as many "steps" or "tokens".
    `batch_size` counts texts over all ranks; `batch_tokens`, if above 0, bounds the tokens of a batch instead. `clip`
    bounds the gradient's norm (0: unbounded), `warmup_steps` are part of the steps, `stage` is the ZeRO stage.
    `layout` says how texts share rows. `tokens` is the folder that tokenised texts are shared in ("": one beside
    `out`).

    How it is computed: each rank goes over its rows of a step in `accumulation` parts; `activation_checkpointing`
    computes activations twice rather than keeping them; `offload` ("none", "cpu", "nvme" below `offload_folder`) is
    where the optimizer's state lies; `lora` trains adapters. What survives a crash: the training state after every
    `checkpoint_every` steps (0: none), of which the `keep_last` newest stay until the run is finished, and those of
    each `keep_every` steps (0: none) for good. Without `resume` the run begins at its first step.
    `trackers` get the log beside `metrics.jsonl`: see `train.run.metrics`.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    base: str
    sources: tuple[TextSource, ...]
    out: str
    num_steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 0
    schedule: str = "linear"
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    stage: int = 1
    num_tokens: int = 0
    num_epochs: float = 0.0
    match: str = ""
    matched_to: tuple[TextSource, ...] = ()
    batch_tokens: int = 0
    layout: str = "auto"
    objective: str = "text"
    tokens: str = ""
    accumulation: int = 1
    activation_checkpointing: bool = False
    offload: str = "none"
    offload_folder: str = ""
    lora: Lora | None = None
    checkpoint_every: int = 0
    keep_last: int = 2
    keep_every: int = 0
    resume: bool = True
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        budget = (self.num_steps, self.num_tokens, self.num_epochs)
        checks = {
            f"schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}": self.schedule in SCHEDULES,
            f"stage must be 0, 1, 2 or 3, not {self.stage}": self.stage in STAGES,
            f"num_steps must be at least 1, not {self.num_steps}": self.num_steps >= 1 or any(budget[1:]),
            f"exactly one of steps, tokens and epochs must be above 0, not {budget}": min(budget) >= 0
            and sum(part > 0 for part in budget) == 1,
            f"batch_size must be at least 1, not {self.batch_size}": self.batch_size >= 1,
            f"batch_tokens must not be negative: {self.batch_tokens}": self.batch_tokens >= 0,
            f"learning_rate must be above 0, not {self.learning_rate}": self.learning_rate > 0,
            f"warmup_steps must lie within num_steps, not {self.warmup_steps}": 0
            <= self.warmup_steps
            <= (self.num_steps or math.inf),
            f"layout must be one of {', '.join(LAYOUTS)}, not {self.layout!r}": self.layout in LAYOUTS,
            f"objective must be one of {', '.join(OBJECTIVES)}, not {self.objective!r}": self.objective in OBJECTIVES,
            f"match must be steps or tokens, not {self.match!r}": self.match in MATCHES,
            "match needs the texts that it matches": bool(self.match) == bool(self.matched_to),
        }
        for message, holds in checks.items():
            if not holds:
                raise InputError(message, where=f"run {self.name}", hint=_RECIPE)
        for sources in (self.sources, self.matched_to):
            check_weights([source.weight for source in sources], where=f"run {self.name}")
        _check_engine_settings(self)


def _check_engine_settings(run: FinetuneRun) -> None:
    nvme = run.offload == "nvme"
    checks = {
        f"accumulation must be at least 1, not {run.accumulation}": run.accumulation >= 1,
        f"offload must be one of {', '.join(OFFLOADS)}, not {run.offload!r}": run.offload in OFFLOADS,
        "stage 0 has nothing to offload": run.stage > 0 or run.offload == "none",
        "offload to nvme needs stage 3": run.stage == 3 or not nvme,
        "offload to nvme needs offload_folder": bool(run.offload_folder) or not nvme,
        "checkpoint_every cannot be kept with offload to nvme": not (nvme and run.checkpoint_every),
        f"checkpoint_every must be 0 or more, not {run.checkpoint_every}": run.checkpoint_every >= 0,
        f"keep_last must be at least 1, not {run.keep_last}": run.keep_last >= 1,
        f"keep_every must be 0 or more, not {run.keep_every}": run.keep_every >= 0,
        "a lora rank must be at least 1": run.lora is None or run.lora.rank >= 1,
        "lora dropout must lie within 0 and 1": run.lora is None or 0 <= run.lora.dropout < 1,
    }
    for message, holds in checks.items():
        if not holds:
            raise InputError(message, where=f"run {run.name}", hint=_RECIPE)


def run_key(run: FinetuneRun, base_fingerprint: str, tokenizer_fingerprint: str) -> str:
    """Names the run by what decides its result: settings, base weights, tokenizer, texts and weights, but no path."""
    fields = dataclasses.asdict(run)
    for field in (*_PATHS, *_WITHOUT_EFFECT):
        del fields[field]
    texts = [(content_of(source), source.weight) for source in run.sources]
    reference = [(content_of(source), source.weight) for source in run.matched_to]
    return fingerprint(sorted(fields.items()), base_fingerprint, tokenizer_fingerprint, texts, reference)


def exact_settings(run: FinetuneRun) -> FinetuneRun:
    """The same run with the settings that decide its rounding at their defaults.

    The key of what this returns names a training state: any stage, layout and number of ranks may go on from it.
    Budgets stay as they were given: a number of steps alone does not say what the last batch holds.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(FinetuneRun) if field.name in _ROUNDING}
    return dataclasses.replace(run, **defaults)  # type: ignore[arg-type]


def absolute(run: FinetuneRun) -> FinetuneRun:
    """The same run with absolute paths: workers have a working folder of their own."""
    sources, matched_to = (
        tuple(dataclasses.replace(s, folder=str(Path(s.folder).absolute())) for s in some)
        for some in (run.sources, run.matched_to)
    )
    base, out = str(Path(run.base).absolute()), str(Path(run.out).absolute())
    tokens, offload = (path and str(Path(path).absolute()) for path in (run.tokens, run.offload_folder))
    changes = {"base": base, "sources": sources, "matched_to": matched_to, "out": out}
    return dataclasses.replace(run, **changes, tokens=tokens, offload_folder=offload)  # type: ignore[arg-type]
