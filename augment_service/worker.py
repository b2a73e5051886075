"""The actor that hosts one engine. Reads ranges of rows, writes shards of answers, returns receipts.

A plain class: `cluster.pool` makes an actor of it, and calls it from several threads at once. A target that exists is
not computed again. Writes the target; before it, the refused requests (`refused/` beside it); and rows that are
answered while others of their unit are not, every few seconds, as pieces under `pieces/`, until all of them are one.
"""

import dataclasses
import errno
import os
import platform
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from augment_service.engines.protocol import Engine, EngineSpec, TokenEngine
from augment_service.engines.start import start_engine
from augment_service.jobs import RowAnswer, RowRange, Task
from cluster.cancellation import check_cancelled
from data.errors import InputError, ResumableError
from data.records import CheckpointRef, Echo, Generation, Prompt, Refusal, Score, ScoreItem, ShardReceipt
from data.store import read_records, read_refusals, read_shard, read_table, refusals_path, write_shard

PIECES = "pieces"
CRASH = "crash"
UNITS_AT_ONCE = 3  # of one engine: while the last rows of one are written, the others keep the engine busy
WRITE_SECONDS = 2.0  # between two pieces of the rows that are answered; what a kill may cost beside the rows in flight
_FULL = (errno.ENOSPC, errno.EDQUOT)
Rows = tuple[int, int]  # from, to (exclusive), counted from the start of the range


class EngineWorker:
    """One engine and the weights that are resident in it."""

    def __init__(self, spec: EngineSpec) -> None:
        self._engine: Engine = start_engine(spec)
        base = CheckpointRef(name="base", path=spec.model, fingerprint="", base="", num_steps=0)
        self._base = base
        self._weights = _ResidentWeights(self._engine, base)
        self._spending = _Spending(self._engine)
        self._unfinished: dict[int, dict[int, RowAnswer]] = {}  # the answers of units that are being worked on

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
        started = time.perf_counter()
        whole = Path(target)
        wanted = rows or (0, source.stop - source.start)
        num_rows = wanted[1] - wanted[0]
        path = whole if rows is None or whole.exists() else piece_path(whole, rows)
        with _disk(whole), self._spending.counted() as spent:
            if not path.exists():
                self._fill(task, source, path, whole, wanted, failing or {}, ref)
            # In rows of the source, as the unit's size: one row may have many answers, and many refusals.
            num_refused = min(len(read_refusals(path)), num_rows)
            if path == whole:
                shutil.rmtree(_pieces_folder(whole), ignore_errors=True)
        return ShardReceipt(
            unit=unit,
            path=str(path),
            num_rows=num_rows - num_refused,
            wall_seconds=time.perf_counter() - started,
            node=f"{platform.node()}:{os.getpid()}",
            num_refused=num_refused,
            prompt_tokens=int(spent.get("prompt_tokens", 0)),
            cached_tokens=int(spent.get("cached_tokens", 0)),
            answer_tokens=int(spent.get("generated_tokens", 0) + spent.get("scored_tokens", 0)),
            engine_seconds=spent.get("seconds", 0.0),
        )

    def answer(self, prompts: Sequence[Prompt]) -> list[Generation | Refusal]:
        """What the base model writes, one row per prompt."""
        with self._weights.held(self._base):
            return self._engine.generate(prompts)

    def stream(self, prompt: Prompt) -> Iterator[str | Generation | Refusal]:
        """The text that the base model writes, in parts, then the whole."""
        with self._weights.held(self._base):
            yield from self._engine.stream(prompt)

    def judge(self, items: Sequence[ScoreItem]) -> list[Score | Refusal]:
        """The base model's scores, one row per item."""
        with self._weights.held(self._base):
            return self._engine.score(items)

    def echo(self, rows: Sequence[Sequence[int]]) -> list[Echo | Refusal]:
        """The base model's log-probabilities of every token, one `Echo` per row of token ids."""
        if not isinstance(self._engine, TokenEngine):
            raise InputError("this engine does not score single tokens", where="echo", hint="use a vllm engine")
        with self._weights.held(self._base):
            return self._engine.echo(rows)

    def stats(self) -> dict[str, float]:
        """The engine's counts since its start."""
        return self._engine.stats()

    def progress(self) -> int:
        """How many rows are answered in units that are not finished."""
        return sum(map(len, list(self._unfinished.values())))

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
            self._unfinished[id(answers)] = answers
            try:
                with self._weights.held(ref or self._base), _Pieces(whole, task.answered, answers) as pieces:
                    asked = [requests[row] for row in missing]
                    task.compute(self._engine, asked, lambda at, answer: pieces.add(missing[at], answer))
            finally:
                del self._unfinished[id(answers)]
        _write(path, task.answered, [answers[row] for row in range(*wanted)])


class _ResidentWeights:
    """Which weights the engine holds, and how many calls use them; others are loaded when none does, first come first.

    Until weights reproduce their reference it is unknown what is loaded, so an error leaves none resident.
    """

    def __init__(self, engine: Engine, base: CheckpointRef) -> None:
        self._engine = engine
        self._resident: CheckpointRef | None = base
        self._num_users = 0
        self._waiting: deque[object] = deque()
        self._turn = threading.Condition()

    @contextmanager
    def held(self, ref: CheckpointRef) -> Iterator[None]:
        """A block in which these weights are the engine's."""
        own = object()
        with self._turn:
            self._waiting.append(own)
            try:
                self._turn.wait_for(lambda: self._waiting[0] is own and (self._resident == ref or not self._num_users))
                check_cancelled()  # nobody waits for it any more: do not load weights for it
                if self._resident != ref:
                    self._resident = None
                    self._engine.load_weights(ref)
                    self._resident = ref
                self._num_users += 1
            finally:
                self._waiting.remove(own)
                self._turn.notify_all()
        try:
            yield
        finally:
            with self._turn:
                self._num_users -= 1
                self._turn.notify_all()


class _Spending:
    """What the engine has spent since a unit began; units that overlap share it, and together have all of it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._counted: dict[str, float] = {}
        self._num_units = 0
        self._lock = threading.Lock()

    @contextmanager
    def counted(self) -> Iterator[dict[str, float]]:
        """A block around a unit; afterwards the dictionary holds what is counted as its own."""
        spent: dict[str, float] = {}
        with self._lock:
            if not self._num_units:
                self._counted = self._engine.stats()
            self._num_units += 1
        try:
            yield spent
        finally:
            with self._lock:
                now = self._engine.stats()
                spent |= {name: value - self._counted.get(name, 0.0) for name, value in now.items()}
                self._counted = now
                self._num_units -= 1


class _Pieces:
    """Collects the answers of a unit, and writes those that are there every few seconds, in a thread of its own."""

    def __init__(self, target: Path, record: type, answers: dict[int, RowAnswer]) -> None:
        self._target, self._record, self._answers = target, record, answers
        self._unwritten: list[int] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def add(self, row: int, answer: RowAnswer) -> None:
        """A row is answered."""
        with self._lock:
            self._answers[row] = answer
            self._unwritten.append(row)
            if self._timer is None:
                self._timer = threading.Timer(WRITE_SECONDS, self._write)
                self._timer.daemon = True
                self._timer.start()

    def __enter__(self) -> "_Pieces":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:  # a piece that is being written is finished first
            if self._timer is not None:
                self._timer.cancel()
        if kind is not None:
            self._write()

    def _write(self) -> None:
        """Write each run of neighbouring rows; a full disk is reported when the unit is written."""
        with self._lock, suppress(OSError):
            self._timer = None
            for _, run in groupby(enumerate(sorted(self._unwritten)), lambda entry: entry[1] - entry[0]):
                rows = [row for _, row in run]
                path = piece_path(self._target, (rows[0], rows[-1] + 1))
                _write(path, self._record, [self._answers[row] for row in rows])
            self._unwritten.clear()


def _write(path: Path, record: type, rows: Sequence[RowAnswer]) -> None:
    """Write the answers of some rows, and before them their refusals."""
    # Always, also when there are none: those of an earlier attempt must not remain.
    write_shard(refusals_path(path), Refusal, [refusal for row in rows for refusal in row.refusals])
    write_shard(path, record, [answer for row in rows for answer in row.answers])


def piece_path(target: Path, rows: Rows) -> Path:
    """Where the answers to some rows of a unit are kept until the unit is whole."""
    return _pieces_folder(target) / f"{rows[0]:08d}-{rows[1]:08d}.arrow"


def answered_rows(target: Path, num_rows: int) -> set[int]:
    """Which rows of a unit are answered in its shard, or in pieces of it."""
    if target.exists():
        return set(range(num_rows))
    return {row for rows, _ in _finished(target, (0, num_rows)) for row in range(*rows)}


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
