"""What is to be trained: the record of one finetuning run, and what it is known by.

Reads: the texts of its sources, for the key. Writes: nothing. Imports no torch, so that a driver can plan runs cheaply.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError
from data.seeds import fingerprint
from train.sources import TextSource, check_weights, content_of, read_texts

__all__ = ["FinetuneRun", "TextSource", "absolute", "read_texts", "run_key"]

SCHEDULES = ("linear", "constant", "cosine")
STAGES = (0, 1, 2, 3)
LAYOUTS = ("auto", "packed", "padded")
OBJECTIVES = ("text", "distillation")
MATCHES = ("", "steps", "tokens")
_RECIPE = "correct the recipe's [train] section"


@dataclass(frozen=True, slots=True)
class FinetuneRun:
    """One finetuning: from `base`, on the texts of `sources`, into `out`. Producer: `pipeline`. Consumer: `train`.

    Exactly one of `num_steps`, `num_tokens` (tokens that are learned) and `num_epochs` is above 0: the budget. With
    `match` the budget is that of a run on the texts `matched_to`, and this one takes as many "steps" or "tokens".
    `batch_size` counts texts over all ranks; `batch_tokens`, if above 0, bounds the tokens of a batch instead. `clip`
    bounds the gradient's norm (0: unbounded), `warmup_steps` are part of the steps, `stage` is the ZeRO stage.
    `layout` says how texts share rows, in packed rows of `row_tokens` (0: chosen by the texts' lengths). `tokens` is
    the folder that tokenised texts are shared in ("": one beside `out`).
    """

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
    row_tokens: int = 0
    objective: str = "text"
    tokens: str = ""

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
            f"row_tokens must not be negative: {self.row_tokens}": self.row_tokens >= 0,
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
                raise InputError(message, where=f"run {self.name}", mend=_RECIPE)
        for sources in (self.sources, self.matched_to):
            check_weights([source.weight for source in sources], where=f"run {self.name}")


def run_key(run: FinetuneRun, base_fingerprint: str, tokenizer_fingerprint: str) -> str:
    """Names the run by what decides its result: settings, base weights, tokenizer, texts and weights, but no path."""
    fields = dataclasses.asdict(run)
    for path in ("base", "sources", "matched_to", "out", "tokens"):
        del fields[path]
    texts = [(content_of(source), source.weight) for source in run.sources]
    reference = [(content_of(source), source.weight) for source in run.matched_to]
    return fingerprint(sorted(fields.items()), base_fingerprint, tokenizer_fingerprint, texts, reference)


def absolute(run: FinetuneRun) -> FinetuneRun:
    """The same run with absolute paths: workers have a working folder of their own."""
    sources, matched_to = (
        tuple(dataclasses.replace(s, folder=str(Path(s.folder).absolute())) for s in some)
        for some in (run.sources, run.matched_to)
    )
    base, out = str(Path(run.base).absolute()), str(Path(run.out).absolute())
    tokens = run.tokens and str(Path(run.tokens).absolute())
    return dataclasses.replace(run, base=base, sources=sources, matched_to=matched_to, out=out, tokens=tokens)
