"""What is to be trained: the record of one finetuning run and of the texts it learns from.

Reads: Arrow folders of texts. Writes: nothing. Imports no torch, so that a driver can plan runs cheaply.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data.errors import InputError
from data.seeds import fingerprint
from data.store import is_sealed, read_table

SCHEDULES = ("linear", "constant", "cosine")
STAGES = (0, 1, 2, 3)


@dataclass(frozen=True, slots=True)
class TextSource:
    """Rows of a sealed Arrow folder that has a `text` column. Producer: `pipeline`. Consumer: `train`.

    `world` and `methods` keep the rows of that world and those methods; empty keeps all. `verdict_kept_only`
    drops the augmentations that were set aside.
    """

    folder: str
    world: str = ""
    verdict_kept_only: bool = False
    methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FinetuneRun:
    """One finetuning: from `base`, on the texts of `sources`, into `out`. Producer: `pipeline`. Consumer: `train`.

    `batch_size` counts texts over all ranks, `clip` bounds the gradient's norm (0: unbounded), `warmup_steps` are
    part of `num_steps`, `stage` is the ZeRO stage.
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
    trackers: tuple[str, ...] = ()  # who gets the log beside metrics.jsonl: see `train.metrics`

    def __post_init__(self) -> None:
        checks = {
            f"schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}": self.schedule in SCHEDULES,
            f"stage must be 0, 1, 2 or 3, not {self.stage}": self.stage in STAGES,
            f"num_steps must be at least 1, not {self.num_steps}": self.num_steps >= 1,
            f"batch_size must be at least 1, not {self.batch_size}": self.batch_size >= 1,
            f"learning_rate must be above 0, not {self.learning_rate}": self.learning_rate > 0,
            f"warmup_steps must lie within num_steps, not {self.warmup_steps}": 0
            <= self.warmup_steps
            <= self.num_steps,
        }
        for message, holds in checks.items():
            if not holds:
                raise InputError(message, where=f"run {self.name}", mend="correct the recipe's [train] section")


def read_texts(sources: Sequence[TextSource]) -> list[str]:
    """The texts of all sources, in the order of sources, shards and rows. Raises InputError if there are none."""
    texts = [text for source in sources for shard in _shards(source) for text in _select(read_table(shard), source)]
    if not texts:
        raise InputError(
            "no texts to train on",
            where="; ".join(map(str, sources)) or "an empty list of sources",
            mend="check the folders, the world's name, and whether any augmentation was kept",
        )
    return texts


def run_key(run: FinetuneRun, base_fingerprint: str, texts: Sequence[str]) -> str:
    """Names the run by what decides its result: settings, base weights and texts, but no path and no tracker."""
    fields = dataclasses.asdict(run)
    for name in ("base", "sources", "out", "trackers"):
        del fields[name]
    return fingerprint(sorted(fields.items()), base_fingerprint, *texts)


def absolute(run: FinetuneRun) -> FinetuneRun:
    """The same run with absolute paths: workers have a working folder of their own."""
    sources = tuple(dataclasses.replace(s, folder=str(Path(s.folder).absolute())) for s in run.sources)
    base, out = str(Path(run.base).absolute()), str(Path(run.out).absolute())
    return dataclasses.replace(run, base=base, sources=sources, out=out)


def _shards(source: TextSource) -> list[Path]:
    folder = Path(source.folder)
    if not is_sealed(folder):
        raise InputError(
            "no finished Arrow folder here (its manifest.json is missing)",
            where=str(folder),
            mend="give the command that makes this folder again; it goes on where it stopped",
        )
    return sorted(folder.glob("*.arrow"))


def _select(table: pa.Table, source: TextSource) -> list[str]:
    wanted = {"world": [source.world] * bool(source.world), "method": list(source.methods)}
    wanted["verdict"] = ["kept"] * source.verdict_kept_only
    missing = {"text", *(column for column, values in wanted.items() if values)} - set(table.column_names)
    if missing:
        raise InputError(
            f"no column {', '.join(sorted(missing))}; there are {', '.join(table.column_names)}",
            where=source.folder,
            mend="name a folder of documents or augmentations",
        )
    for column, values in wanted.items():
        if values:
            table = table.filter(pc.is_in(table[column], value_set=pa.array(values)))
    return table["text"].to_pylist()
