"""The actor that hosts one engine. Reads ranges of rows, writes shards of answers, returns receipts.

A plain class: `cluster.pool` makes an actor of it. A target that exists is not computed again. Writes the target;
before it, the refused requests (`refused/` beside it); and, where a unit is done in pieces, each under `pieces/` until
all of them are one.
"""

import dataclasses
import errno
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from augment_service.engines.protocol import Engine, EngineSpec, TokenEngine
from augment_service.engines.start import start_engine
from augment_service.jobs import RowAnswer, RowRange, Task
from data.errors import InputError, ResumableError
from data.records import CheckpointRef, Echo, Generation, Prompt, Refusal, Score, ScoreItem, ShardReceipt
from data.store import read_records, read_refusals, read_shard, read_table, refusals_path, write_shard

PIECES = "pieces"
CRASH = "crash"
_FULL = (errno.ENOSPC, errno.EDQUOT)
Rows = tuple[int, int]  # from, to (exclusive), counted from the start of the range


class EngineWorker:
    """One engine and the weights that are resident in it."""

    def __init__(self, spec: EngineSpec) -> None:
        self._engine: Engine = start_engine(spec)
        self._base = CheckpointRef(name="base", path=spec.model, fingerprint="", base="", num_steps=0)
        self._resident: CheckpointRef | None = self._base

    def run_unit(
        self,
        task: Task,
        source: RowRange,
        target: str,
        unit: str,
        ref: CheckpointRef | None,
        *,
        rows: Rows | None = None,
        failing: Mapping[int, str] | None = None,
    ) -> ShardReceipt:
        """The task's answers to a range of rows, by a checkpoint or the base model, into the shard `target`.

        With `rows`, only those, into a piece of their own. Without, all but those of `failing`, which are refused with
        the reasons given; rows of finished pieces are not computed again. Raises ResumableError for a full disk.
        """
        started, before = time.perf_counter(), self._engine.stats()
        whole = Path(target)
        wanted = rows or (0, source.stop - source.start)
        num_rows = wanted[1] - wanted[0]
        path = whole if rows is None or whole.exists() else piece_path(whole, rows)
        with _disk(whole):
            if not path.exists():
                self._fill(task, source, path, whole, wanted, failing or {}, ref)
            # In rows of the source, as the unit's size: one row may have many answers, and many refusals.
            num_refused = min(len(read_refusals(path)), num_rows)
            if path == whole:
                shutil.rmtree(_pieces_folder(whole), ignore_errors=True)
        after = self._engine.stats()
        spent = {name: int(value - before.get(name, 0.0)) for name, value in after.items()}
        return ShardReceipt(
            unit=unit,
            path=str(path),
            num_rows=num_rows - num_refused,
            wall_seconds=time.perf_counter() - started,
            node=f"{platform.node()}:{os.getpid()}",
            num_refused=num_refused,
            prompt_tokens=spent.get("prompt_tokens", 0),
            cached_tokens=spent.get("cached_tokens", 0),
            answer_tokens=spent.get("generated_tokens", 0) + spent.get("scored_tokens", 0),
        )

    def answer(self, prompts: Sequence[Prompt]) -> list[Generation | Refusal]:
        """What the base model writes, one row per prompt."""
        self._make_resident(self._base)
        return self._engine.generate(prompts)

    def judge(self, items: Sequence[ScoreItem]) -> list[Score | Refusal]:
        """The base model's scores, one row per item."""
        self._make_resident(self._base)
        return self._engine.score(items)

    def echo(self, rows: Sequence[Sequence[int]]) -> list[Echo | Refusal]:
        """The base model's log-probabilities of every token, one `Echo` per row of token ids."""
        if not isinstance(self._engine, TokenEngine):
            raise InputError("this engine does not score single tokens", where="echo", hint="use a vllm engine")
        self._make_resident(self._base)
        return self._engine.echo(rows)

    def stats(self) -> dict[str, float]:
        """The engine's counts since its start."""
        return self._engine.stats()

    def window(self) -> int | None:
        """Tokens of prompt and answer together; None where no bound is known."""
        return self._engine.window

    def _fill(
        self,
        task: Task,
        source: RowRange,
        path: Path,
        whole: Path,
        wanted: Rows,
        failing: Mapping[int, str],
        ref: CheckpointRef | None,
    ) -> None:
        """Write the answers to the rows `wanted` to `path`, and before them the refusals."""
        table = read_table(Path(source.shard)).slice(source.start, source.stop - source.start)
        requests: list[Any] = read_records(table, task.asked)
        answers: dict[int, RowAnswer] = {}
        for (start, stop), piece in _finished(whole, wanted):
            answers[start] = RowAnswer(tuple(read_shard(piece, task.answered)), tuple(read_refusals(piece)))
            answers |= {row: RowAnswer(()) for row in range(start + 1, stop)}  # all of them are at the first row
        for row, reason in failing.items():
            if wanted[0] <= row < wanted[1] and row not in answers:
                hint = "look at the row; the engine's log may show what it does; --retry-refused tries again"
                answers[row] = RowAnswer((), (Refusal(_id(requests[row]), CRASH, reason, hint),))
        missing = [row for row in range(*wanted) if row not in answers]
        if missing:
            self._make_resident(ref or self._base)
            answers |= zip(missing, task.compute(self._engine, [requests[row] for row in missing]), strict=True)
        ordered = [answers[row] for row in range(*wanted)]
        refusals = [refusal for row in ordered for refusal in row.refusals]
        # Always, also when there are none: those of an earlier attempt must not remain.
        write_shard(refusals_path(path), Refusal, refusals)
        write_shard(path, task.answered, [answer for row in ordered for answer in row.answers])

    def _make_resident(self, ref: CheckpointRef) -> None:
        if ref == self._resident:
            return
        self._resident = None  # until they reproduce their reference, it is unknown what is loaded
        self._engine.load_weights(ref)
        self._resident = ref


def piece_path(target: Path, rows: Rows) -> Path:
    """Where the answers to some rows of a unit are kept until the unit is whole."""
    return _pieces_folder(target) / f"{rows[0]:08d}-{rows[1]:08d}.arrow"


def _pieces_folder(target: Path) -> Path:
    return target.parent / PIECES / target.stem


def _finished(target: Path, wanted: Rows) -> Iterator[tuple[Rows, Path]]:
    """The finished pieces that lie within the rows `wanted`, none of them overlapping: the largest first."""
    found = []
    for piece in _pieces_folder(target).glob("*.arrow"):
        start, stop = map(int, piece.stem.split("-"))
        if wanted[0] <= start and stop <= wanted[1]:
            found.append(((start, stop), piece))
    taken: set[int] = set()
    for (start, stop), piece in sorted(found, key=lambda entry: entry[0][0] - entry[0][1]):
        if taken.isdisjoint(range(start, stop)):
            taken.update(range(start, stop))
            yield (start, stop), piece


def _id(row: Any) -> str:
    """A row's id: the first field of its record."""
    return str(getattr(row, dataclasses.fields(row)[0].name))


@contextmanager
def _disk(target: Path) -> Iterator[None]:
    """A failing disk is not the row's fault: the work resumes when it is repaired."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise ResumableError(f"{error}; fix this, then re-run the command") from error
        folder = next(folder for folder in target.parents if folder.exists())
        raise ResumableError(
            f"no space left to write {target} ({shutil.disk_usage(folder).free / 2**20:.0f} MiB are free): "
            f"free some on the disk of {folder}, then re-run the command"
        ) from error
