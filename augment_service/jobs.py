"""Sharded work: rows -> units -> answers and refusals, the same for augmentation, distillation and scoring.

The driver names ranges of rows and folders; rendering, the engine's work and parsing happen in the actor
(`augment_service.worker`), so the driver's work per unit is constant and its memory does not grow with the rows.
Writes a shard of answers for each range, and in `refused/` beside it the requests that have none.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import pyarrow as pa
import pyarrow.compute as pc

from augment_service.engines.protocol import Engine
from cluster.pool import Unit
from data import store
from data.errors import InputError
from data.records import CheckpointRef, Refusal
from data.seeds import fingerprint

_NUMBER = re.compile(r" \d+/\d+$")
RETRYABLE = ("endpoint", "crash")  # kinds of refusals that may pass another time


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """What came of one row: any number of answers, and the requests that have none. Producer: a `Task`."""

    answers: tuple[Any, ...]
    refusals: tuple[Refusal, ...] = ()

    @classmethod
    def of(cls, answer: Any) -> Self:
        """What an engine says to a row of one request."""
        return cls((), (answer,)) if isinstance(answer, Refusal) else cls((answer,))


OnRow = Callable[[int, RowAnswer], None]  # with the row's index


class Task(Protocol):
    """Turns rows of the record `asked` into rows of `answered`. It is pickled to the actor that computes it.

    The first field of `asked` is the row's id.
    """

    asked: ClassVar[type]
    answered: ClassVar[type]

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """Call `on_row` once for each row, as soon as it is answered; the answer depends on that row alone."""
        ...


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows `start` to `stop` (exclusive) of one shard, all of one corpus. Producer: `row_ranges`."""

    shard: str
    start: int
    stop: int
    corpus: str = ""


def row_ranges(folder: Path, *, rows_per_unit: int, corpora: Sequence[str] | None = None) -> list[RowRange]:
    """The rows of a sealed folder in ranges of at most `rows_per_unit`, or those of some corpora.

    Reads the column `corpus` alone.
    """
    ranges = []
    for shard in store.list_shards(folder):
        runs = pc.run_end_encode(store.read_table(shard)["corpus"].combine_chunks())
        start = 0
        for stop, corpus in zip(runs.run_ends.to_pylist(), runs.values.to_pylist(), strict=True):
            if corpora is None or corpus in corpora:
                ranges += [
                    RowRange(str(shard), first, min(first + rows_per_unit, stop), corpus)
                    for first in range(start, stop, rows_per_unit)
                ]
            start = stop
    return ranges


@dataclass(frozen=True)
class ShardedJob:
    """One task over ranges of rows. `key` names everything else that decides the answers; `ref` None is the base model.

    Units of one `affinity` prefer one engine, which then has their context, or their weights, at hand.
    """

    name: str
    task: Task
    ranges: tuple[RowRange, ...]
    out: Path
    key: str
    ref: CheckpointRef | None = None
    affinity: str = ""

    def units(self) -> list[Unit]:
        """The units of work whose target does not exist."""
        units = []
        for number, (rows, target) in enumerate(zip(self.ranges, self.targets, strict=True), 1):
            name = self.name if len(self.ranges) == 1 else f"{self.name} {number}/{len(self.ranges)}"  # see `job_of`
            args = (self.task, rows, str(target), name, self.ref)
            if not target.exists():
                units.append(Unit(name, "run_unit", args, affinity=self.affinity, num_rows=rows.stop - rows.start))
        return units

    @cached_property
    def targets(self) -> list[Path]:
        """The shard of answers of each range: named by the key and the content of the source."""
        shards = [Path(rows.shard) for rows in self.ranges]
        contents = {folder: store.content_of(folder) for folder in {shard.parent for shard in shards}}
        names = (
            fingerprint(self.key, contents[shard.parent], shard.name, rows.start, rows.stop)
            for shard, rows in zip(shards, self.ranges, strict=True)
        )
        return [self.out / f"{name}.arrow" for name in names]

    def tables(self) -> Iterator[pa.Table]:
        """The answers, range by range."""
        return map(store.read_table, self.targets)

    def refusals(self) -> Iterator[Refusal]:
        """The requests without an answer, range by range."""
        return (refusal for target in self.targets for refusal in store.read_refusals(target))

    def retry(self) -> None:
        """Remove the shards with refusals that may pass another time, so that their units are computed again."""
        for target in self.targets:
            if target.exists() and any(refusal.kind in RETRYABLE for refusal in store.read_refusals(target)):
                target.unlink()
                store.refusals_path(target).unlink(missing_ok=True)


def job_of(unit: str) -> str:
    """The name of the job that a unit of that name belongs to."""
    return _NUMBER.sub("", unit)


def refuse_if_all(jobs: Sequence[ShardedJob], what: str) -> int:
    """The number of refused requests. Raises InputError with the first reason if nothing was answered at all."""
    refusals = chain.from_iterable(job.refusals() for job in jobs)
    first = next(refusals, None)
    if first is None:
        return 0
    count = 1 + sum(1 for _ in refusals)
    if not any(table.num_rows for job in jobs for table in job.tables()):
        raise InputError(first.what, where=f"{what} {first.item_id}; all {count} were refused", hint=first.hint)
    return count


@contextmanager
def rewrite_folder(folder: Path, record: type, *, key: str = "") -> Iterator[store.ShardWriter]:
    """A writer of a new version of a folder, which is sealed at the end of the block; the old version is removed first.

    The manifest has the `key` of what it was made for.

    Until then the folder has no manifest, so that nothing reads a mixture.
    """
    (folder / store.MANIFEST).unlink(missing_ok=True)
    for leftover in folder.glob("*.arrow"):
        leftover.unlink()
    with store.ShardWriter(folder, record, shard_bytes=store.SHARD_BYTES // 2) as writer:
        yield writer
    store.seal(folder, record, key=key)
