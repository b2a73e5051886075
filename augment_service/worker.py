"""The actor that hosts one engine. Reads shards of requests, writes shards of answers, returns receipts.

A plain class: `cluster.pool` makes an actor of it. A target that already rests on disk is not computed again. Writes
the target; before it, the rows that have no answer (`refused/` beside it); and, where a shard is done in parts, each
part under `parts/`, until all of them are one.
"""

import errno
import os
import platform
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from augment_service.engines.protocol import DistillationEngine, EchoEngine, Engine, EngineSpec
from augment_service.engines.start import start_engine
from data.errors import InputError, ResumableError
from data.records import (
    CheckpointRef,
    DistillationExample,
    Distribution,
    Echo,
    Generation,
    Prompt,
    Refusal,
    Score,
    ScoreItem,
    ShardReceipt,
)
from data.store import read_refusals, read_shard, read_table, refusals_path, write_shard

PARTS = "parts"
POISON = "failing"
_FULL = (errno.ENOSPC, errno.EDQUOT)
Rows = tuple[int, int]  # from, to (exclusive)


@dataclass(frozen=True, slots=True)
class _Task:
    """One kind of work: rows of `asked` become rows of `answered`; `key` is the field that both have their name in."""

    asked: type
    answered: type
    key: str
    ref: CheckpointRef | None
    compute: Callable[[Sequence[Any]], Sequence[Any]]


class EngineWorker:
    """One engine and the weights that are resident in it."""

    def __init__(self, spec: EngineSpec) -> None:
        self._engine: Engine = start_engine(spec)
        self._base = CheckpointRef(name="base", path=spec.model, fingerprint="", base="", num_steps=0)
        self._resident: CheckpointRef | None = self._base

    def generate_shard(
        self, source: str, target: str, unit: str, *, rows: Rows | None = None, failing: Mapping[int, str] | None = None
    ) -> ShardReceipt:
        """Prompts of the shard `source` -> generations in the shard `target`, by the base model.

        With `rows`, only those, into a part of their own. Without, all but those of `failing`, which are refused with
        the reasons given; what finished parts hold is not computed again. Raises ResumableError for a full disk.
        """
        task = _Task(Prompt, Generation, "prompt_id", None, self._engine.generate)
        return self._produce(task, Path(source), Path(target), unit, rows, failing or {})

    def score_shard(
        self,
        source: str,
        target: str,
        unit: str,
        ref: CheckpointRef | None,
        *,
        rows: Rows | None = None,
        failing: Mapping[int, str] | None = None,
    ) -> ShardReceipt:
        """Score items of the shard `source` -> scores in the shard `target`, by a checkpoint or the base model.

        `rows` and `failing` as in `generate_shard`.
        """
        task = _Task(ScoreItem, Score, "item_id", ref, self._engine.score)
        return self._produce(task, Path(source), Path(target), unit, rows, failing or {})

    def teach_shard(
        self, source: str, target: str, unit: str, *, rows: Rows | None = None, failing: Mapping[int, str] | None = None
    ) -> ShardReceipt:
        """Lessons of the shard `source` -> distributions in the shard `target`, by the base model.

        `rows` and `failing` as in `generate_shard`.
        """
        if not isinstance(self._engine, DistillationEngine):
            raise InputError("this engine is no teacher", where="lessons", hint="use an engine of vLLM")
        task = _Task(DistillationExample, Distribution, "text_id", None, self._engine.distill)
        return self._produce(task, Path(source), Path(target), unit, rows, failing or {})

    def answer(self, prompts: Sequence[Prompt]) -> list[Generation | Refusal]:
        """What the base model writes, one row per prompt."""
        self._make_resident(self._base)
        return self._engine.generate(prompts)

    def judge(self, items: Sequence[ScoreItem]) -> list[Score | Refusal]:
        """The base model's scores, one row per item."""
        self._make_resident(self._base)
        return self._engine.score(items)

    def echo(self, rows: Sequence[Sequence[int]]) -> list[Echo | Refusal]:
        """What the base model thinks of every token, one `Echo` per row of token ids."""
        if not isinstance(self._engine, EchoEngine):
            raise InputError("this engine tells nothing of single tokens", where="echo", hint="use an engine of vLLM")
        self._make_resident(self._base)
        return self._engine.echo(rows)

    def window(self) -> int | None:
        """The engine's window in tokens."""
        return self._engine.window

    def stats(self) -> dict[str, float]:
        """The engine's counts since its start."""
        return self._engine.stats()

    def _produce(
        self, task: _Task, source: Path, target: Path, unit: str, rows: Rows | None, failing: Mapping[int, str]
    ) -> ShardReceipt:
        started, before = time.perf_counter(), self._engine.stats()
        path = target if rows is None or target.exists() else part_path(target, rows)
        with _disk(target):
            if not path.exists():
                requests: list[Any] = read_shard(source, task.asked)
                self._fill(task, requests, path, range(*rows) if rows else range(len(requests)), failing, target)
            num_rows, num_refused = read_table(path).num_rows, len(read_refusals(path))
            if path == target:
                shutil.rmtree(_parts_folder(target), ignore_errors=True)
        spent = {name: int(value - before[name]) for name, value in self._engine.stats().items() if name in before}
        return ShardReceipt(
            unit=unit,
            path=str(path),
            num_rows=num_rows,
            wall_seconds=time.perf_counter() - started,
            node=f"{platform.node()}:{os.getpid()}",
            num_refused=num_refused,
            prompt_tokens=spent["prompt_tokens"],
            cached_tokens=spent["cached_tokens"],
            answer_tokens=spent["generated_tokens"] + spent["scored_tokens"],
        )

    def _fill(
        self,
        task: _Task,
        requests: Sequence[Any],
        path: Path,
        wanted: Collection[int],
        failing: Mapping[int, str],
        target: Path,
    ) -> None:
        """Write the rows `wanted` to `path`, and before them those that were refused."""
        name_of = partial(_name, key=task.key)
        found = {row: answer for row, answer in _finished(task, requests, target) if row in wanted}
        for row in set(failing).intersection(wanted):
            hint = "look at the row; the engine's log of this run may tell what it does"
            found[row] = Refusal(name_of(requests[row]), POISON, failing[row], hint)
        missing = [row for row in wanted if row not in found]
        if missing:
            self._make_resident(task.ref or self._base)
            found |= zip(missing, task.compute([requests[row] for row in missing]), strict=True)
        answers = [found[row] for row in wanted]
        refused = [answer for answer in answers if isinstance(answer, Refusal)]
        if refused:
            write_shard(refusals_path(path), Refusal, refused)
        write_shard(path, task.answered, [answer for answer in answers if not isinstance(answer, Refusal)])

    def _make_resident(self, ref: CheckpointRef) -> None:
        if ref == self._resident:
            return
        # until the new weights have passed the probe, nobody knows what is loaded; but a misfit is never loaded
        before, self._resident = self._resident, None
        try:
            self._engine.load_weights(ref)
        except InputError:
            self._resident = before
            raise
        self._resident = ref


def part_path(target: Path, rows: Rows) -> Path:
    """Where the answers to some rows of a shard rest, until the shard is whole."""
    return _parts_folder(target) / f"{rows[0]:08d}-{rows[1]:08d}.arrow"


def _parts_folder(target: Path) -> Path:
    return target.parent / PARTS / target.stem


def _finished(task: _Task, requests: Sequence[Any], target: Path) -> Iterator[tuple[int, Any]]:
    """The rows that finished parts hold: an answer or a refusal each."""
    for part in sorted(_parts_folder(target).glob("*.arrow")):
        start, stop = map(int, part.stem.split("-"))
        refused = {refusal.item_id: refusal for refusal in read_refusals(part)}
        rows: list[Any] = read_shard(part, task.answered)
        answered = {_name(answer, key=task.key): answer for answer in rows}
        for row in range(start, stop):
            name = _name(requests[row], key=task.key)
            yield row, refused[name] if name in refused else answered[name]


def _name(row: Any, *, key: str) -> str:
    name: str = getattr(row, key)
    return name


@contextmanager
def _disk(target: Path) -> Iterator[None]:
    """A disk that fails is nobody's failing: the work goes on when it is mended."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise ResumableError(f"{error}; when this is mended, the same command goes on") from error
        folder = next(folder for folder in target.parents if folder.exists())
        raise ResumableError(
            f"no space left to write {target} ({shutil.disk_usage(folder).free / 2**20:.0f} MiB are free there): "
            f"free some on the disk of {folder}, and the same command goes on"
        ) from error
