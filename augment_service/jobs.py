"""Sharded work: rows -> units -> answers and refusals, the same for augmentation, distillation and scoring.

The driver names ranges of rows and folders; rendering, the engine's work and parsing happen in the actor
(`augment_service.worker`), so the driver's work per unit is constant and its memory does not grow with the rows.
Writes a shard of answers for each range, and in `refused/` beside it the requests that have none.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from augment_service.engines.protocol import Engine
from cluster.pool import Unit
from data.errors import InputError
from data.records import CheckpointRef, Refusal
from data.seeds import fingerprint
from data.store import (
    MANIFEST,
    SHARD_BYTES,
    ShardWriter,
    content_of,
    list_shards,
    read_refusals,
    read_table,
    refusals_path,
    seal,
)

RETRYABLE = frozenset({"endpoint", "crash"})  # kinds of refusals that may pass another time


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """What came of one row: any number of answers, and the requests that have none. Producer: a `Task`."""

    answers: tuple[Any, ...]
    refusals: tuple[Refusal, ...] = ()


class Task(Protocol):
    """Turns rows of the record `asked` into rows of `answered`. It is pickled to the actor that computes it.

    The first field of `asked` is the row's id.
    """

    asked: ClassVar[type]
    answered: ClassVar[type]

    def compute(self, engine: Engine, rows: Sequence[Any]) -> list[RowAnswer]:
        """One answer per row, in the rows' order; a row's answer depends on that row alone."""
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
    for shard in list_shards(folder):
        for start, stop, corpus in _runs(read_table(shard)["corpus"]):
            if corpora is None or corpus in corpora:
                ranges += [
                    RowRange(str(shard), first, min(first + rows_per_unit, stop), corpus)
                    for first in range(start, stop, rows_per_unit)
                ]
    return ranges


def _runs(column: pa.ChunkedArray) -> Iterator[tuple[int, int, str]]:
    """Neighbouring rows with the same value: start, stop, value."""
    start, value, place = 0, None, 0
    for chunk in column.chunks:
        encoded = pc.run_end_encode(chunk)
        begin = 0
        for end, found in zip(encoded.run_ends.to_pylist(), encoded.values.to_pylist(), strict=True):
            if found != value and place > start:
                yield start, place, str(value)
                start = place
            value = found
            place += end - begin
            begin = end
    if place > start:
        yield start, place, str(value)


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
    _contents: dict[Path, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def units(self) -> list[Unit]:
        """The units of work whose target does not exist."""
        return [
            self._unit(number, rows, target)
            for number, (rows, target) in enumerate(zip(self.ranges, self.targets, strict=True), 1)
            if not target.exists()
        ]

    @cached_property
    def targets(self) -> list[Path]:
        """The shard of answers of each range: named by the key and the content of the source."""
        return [self.out / f"{self._target_name(rows)}.arrow" for rows in self.ranges]

    def tables(self) -> Iterator[pa.Table]:
        """The answers, range by range."""
        return map(read_table, self.targets)

    def refusals(self) -> Iterator[Refusal]:
        """The requests without an answer, range by range."""
        return (refusal for target in self.targets for refusal in read_refusals(target))

    def retry(self, kinds: Collection[str] = RETRYABLE) -> None:
        """Remove the shards with refusals of these kinds, so that their units are computed again."""
        for target in self.targets:
            if target.exists() and any(refusal.kind in kinds for refusal in read_refusals(target)):
                target.unlink()
                refusals_path(target).unlink(missing_ok=True)

    def _unit(self, number: int, rows: RowRange, target: Path) -> Unit:
        name = self.name if len(self.ranges) == 1 else f"{self.name} {number}/{len(self.ranges)}"
        args = (self.task, rows, str(target), name, self.ref)
        return Unit(name, "run_unit", args, affinity=self.affinity, num_rows=rows.stop - rows.start)

    def _target_name(self, rows: RowRange) -> str:
        shard = Path(rows.shard)
        if shard.parent not in self._contents:
            self._contents[shard.parent] = content_of(shard.parent)
        return fingerprint(self.key, self._contents[shard.parent], shard.name, rows.start, rows.stop)


def refuse_if_all(jobs: Sequence[ShardedJob], what: str) -> int:
    """The number of refused requests. Raises InputError with the first reason if nothing was answered at all."""
    first: Refusal | None = None
    count = 0
    for job in jobs:
        for refusal in job.refusals():
            first = first or refusal
            count += 1
    if first is not None and not any(table.num_rows for job in jobs for table in job.tables()):
        raise InputError(first.what, where=f"{what} {first.item_id}; all {count} were refused", hint=first.hint)
    return count


@contextmanager
def rewrite_folder(folder: Path, record: type) -> Iterator[ShardWriter]:
    """A writer of a new version of a folder, which is sealed at the end of the block; the old version is removed first.

    Until then the folder has no manifest, so that nothing reads a mixture.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    for leftover in folder.glob("*.arrow"):
        leftover.unlink()
    with ShardWriter(folder, record, shard_bytes=SHARD_BYTES // 2) as writer:
        yield writer
    seal(folder, record)
