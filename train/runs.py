"""What is to be trained: the record of one finetuning run and of the texts it learns from.

Reads: Arrow folders of texts. Writes: nothing. Imports no torch, so that a driver can plan runs cheaply.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from data.errors import InputError
from data.seeds import fingerprint
from data.store import is_sealed, read_table
from train.zero import OFFLOADS

SCHEDULES = ("linear", "constant", "cosine")
STAGES = (0, 1, 2, 3)
# What a run is computed with decides its rounding only, and what is saved on the way decides nothing.
_ROUNDING = ("stage", "accumulation", "activation_checkpointing", "offload")
_WITHOUT_EFFECT = ("offload_folder", "checkpoint_every", "keep_last", "keep_every", "resume")


@dataclass(frozen=True, slots=True)
class TextSource:
    """Rows of a sealed Arrow folder that has a `text` column. Producer: `pipeline`. Consumer: `train`.

    `world` and `methods` keep the rows of that world and those methods; empty keeps all. `verdict_kept_only`
    drops the augmentations that were set aside.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    folder: str
    world: str = ""
    verdict_kept_only: bool = False
    methods: tuple[str, ...] = ()


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

    `batch_size` counts texts over all ranks, `clip` bounds the gradient's norm (0: unbounded), `warmup_steps` are
    part of `num_steps`, `stage` is the ZeRO stage.

    How it is computed: each rank goes over its texts of a step in `accumulation` parts; `activation_checkpointing`
    computes activations twice rather than keeping them; `offload` ("none", "cpu", "nvme" below `offload_folder`) is
    where the optimizer's state lies; `lora` trains adapters. What survives a crash: the training state after every
    `checkpoint_every` steps (0: none), of which the `keep_last` newest stay until the run is finished, and those of
    each `keep_every` steps (0: none) for good. Without `resume` the run begins at its first step.
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
    accumulation: int = 1
    activation_checkpointing: bool = False
    offload: str = "none"
    offload_folder: str = ""
    lora: Lora | None = None
    checkpoint_every: int = 0
    keep_last: int = 2
    keep_every: int = 0
    resume: bool = True

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
            raise InputError(message, where=f"run {run.name}", mend="correct the recipe's [train] section")


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
    """Names the run by what decides its result: settings, base weights and texts, but no path."""
    fields = dataclasses.asdict(run)
    for field in ("base", "sources", "out", *_WITHOUT_EFFECT):
        del fields[field]
    return fingerprint(sorted(fields.items()), base_fingerprint, *texts)


def exact_settings(run: FinetuneRun) -> FinetuneRun:
    """The same run with the settings that decide its rounding at their defaults.

    The key of what this returns names a training state: any stage and any number of ranks may go on from it.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(FinetuneRun) if field.name in _ROUNDING}
    return dataclasses.replace(run, **defaults)  # type: ignore[arg-type]


def absolute(run: FinetuneRun) -> FinetuneRun:
    """The same run with absolute paths: workers have a working folder of their own."""
    sources = tuple(dataclasses.replace(s, folder=str(Path(s.folder).absolute())) for s in run.sources)
    base, out = str(Path(run.base).absolute()), str(Path(run.out).absolute())
    offload = str(Path(run.offload_folder).absolute()) if run.offload_folder else ""
    return dataclasses.replace(run, base=base, sources=sources, out=out, offload_folder=offload)


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
