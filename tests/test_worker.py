"""The worker of a resumable unit: whole, in pieces, with refusals and failing rows, on a full disk."""

import contextvars
import errno
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pool_workers import wait_until

from augment_service.engines.protocol import EngineSpec, ParityError
from augment_service.jobs import OnRow, RowAnswer, RowRange
from augment_service.worker import EngineWorker, piece_path
from cluster import cancellation
from cluster.cancellation import CancelledCallError, check_cancelled
from data.errors import InputError, ResumableError
from data.records import CheckpointRef, Generation, Prompt, Refusal, Score, ScoreItem, ShardReceipt
from data.store import read_refusals, read_shard, refusals_path, write_shard

SPEC = EngineSpec(kind="fake", model="none", window=64)
PROMPTS = [Prompt(f"p{i}", "local", "d0", "the doma is a teacher .", f" say {i}", 12, 0.7, i, "") for i in range(8)]
ITEMS = [ScoreItem(f"i{i}", "the doma is a teacher .", f" who {i}", ("the doma", "the ruli is it")) for i in range(5)]
OTHER = CheckpointRef("other", "/checkpoints/other", "f00d", "none", 10)


@dataclass(frozen=True)
class Writing:
    """Prompts to generations."""

    asked: ClassVar[type] = Prompt
    answered: ClassVar[type] = Generation

    def compute(self, engine: Any, rows: Sequence[Any], on_row: OnRow) -> None:
        engine.generate(rows, lambda at, answer: on_row(at, RowAnswer.of(answer)))


@dataclass(frozen=True)
class Scoring(Writing):
    """Score items to scores."""

    asked: ClassVar[type] = ScoreItem
    answered: ClassVar[type] = Score

    def compute(self, engine: Any, rows: Sequence[Any], on_row: OnRow) -> None:
        engine.score(rows, lambda at, answer: on_row(at, RowAnswer.of(answer)))


def generate(
    worker: EngineWorker, source: Path | str, target: Path, name: str = "u", size: int = 8, **more: Any
) -> ShardReceipt:
    return worker.run_unit(Writing(), RowRange(str(source), 0, size), str(target), name, None, **more)


def score(
    worker: EngineWorker, source: Path | str, target: Path, name: str, ref: CheckpointRef | None, **more: Any
) -> ShardReceipt:
    return worker.run_unit(Scoring(), RowRange(str(source), 0, 5), str(target), name, ref, **more)


@pytest.fixture
def worker() -> EngineWorker:
    return EngineWorker(SPEC)


@pytest.fixture
def source(tmp_path: Path) -> str:
    write_shard(tmp_path / "prompts.arrow", Prompt, PROMPTS)
    return str(tmp_path / "prompts.arrow")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out" / "generations.arrow"


def ids(path: Path) -> list[str]:
    return [row.prompt_id for row in read_shard(path, Generation)]


def count_rows(worker: EngineWorker, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the prompts that the engine is given from now on."""
    asked: list[str] = []
    generate = worker._engine.generate
    monkeypatch.setattr(
        worker._engine, "generate", lambda rows, on: asked.extend(row.prompt_id for row in rows) or generate(rows, on)
    )
    return asked


def test_a_worker_swaps_weights_for_each_shard_and_returns_to_the_base(worker: EngineWorker, tmp_path: Path) -> None:
    source = tmp_path / "items.arrow"
    write_shard(source, ScoreItem, ITEMS)
    order = [("a", None), ("b", OTHER), ("c", None)]
    for name, ref in order:
        receipt = score(worker, source, tmp_path / name, name, ref)
        assert (receipt.unit, receipt.num_rows) == (name, 5)
    first, second, third = (read_shard(tmp_path / name, Score) for name, _ in order)
    assert first == third
    assert first != second
    assert worker.stats()["swaps"] == 2


def test_a_worker_does_not_compute_a_shard_twice(source: str, target: Path, worker: EngineWorker) -> None:
    generate(worker, source, target, "u")
    assert ids(target) == [prompt.prompt_id for prompt in PROMPTS]
    before = target.read_bytes()
    again = EngineWorker(replace(SPEC, seed=7))
    receipt = generate(again, source, target)
    assert (receipt.num_rows, receipt.prompt_tokens, receipt.answer_tokens) == (8, 0, 0)
    assert target.read_bytes() == before
    assert again.stats()["generated_tokens"] == 0


def test_a_receipt_counts_the_tokens_of_its_unit_alone(
    source: str, target: Path, worker: EngineWorker, tmp_path: Path
) -> None:
    worker.answer(PROMPTS)
    before = worker.stats()
    receipt = generate(worker, source, target, "u")
    after = worker.stats()
    assert receipt.prompt_tokens == after["prompt_tokens"] - before["prompt_tokens"] == 8 * 8
    assert receipt.cached_tokens == 8 * 6  # the context is known from before
    assert receipt.answer_tokens == sum(row.num_tokens for row in read_shard(target, Generation))
    write_shard(tmp_path / "items.arrow", ScoreItem, ITEMS)
    scored = score(worker, tmp_path / "items.arrow", tmp_path / "scores.arrow", "s", None)
    assert scored.answer_tokens == 5 * 6


def test_refused_rows_are_stored_beside_the_shard(target: Path, worker: EngineWorker, tmp_path: Path) -> None:
    rows = [PROMPTS[0], replace(PROMPTS[1], context="word " * 60), PROMPTS[2], replace(PROMPTS[3], context="", text="")]
    write_shard(tmp_path / "mixed.arrow", Prompt, rows)
    for _ in range(2):  # made, then found
        receipt = generate(worker, tmp_path / "mixed.arrow", target, size=len(rows))
        assert (receipt.num_rows, receipt.num_refused) == (2, 2)
    assert ids(target) == ["p0", "p2"]
    assert [(row.item_id, row.kind) for row in read_shard(target.parent / "refused" / target.name, Refusal)] == [
        ("p1", "window"),
        ("p3", "empty"),
    ]


def test_nothing_is_refused_where_all_is_answered(source: str, target: Path, worker: EngineWorker) -> None:
    generate(worker, source, target, "u")
    assert (read_refusals(target), refusals_path(target).exists()) == ([], True)


def test_pieces_become_the_same_shard(
    source: str, target: Path, worker: EngineWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.arrow"
    generate(worker, source, whole, "u")
    for rows in ((0, 4), (4, 6), (6, 7)):
        receipt = generate(worker, source, target, "u", rows=rows)
        assert (receipt.num_rows, receipt.path) == (rows[1] - rows[0], str(piece_path(target, rows)))
    assert piece_path(target, (4, 6)) == target.parent / "pieces" / "generations" / "00000004-00000006.arrow"
    assert not target.exists()
    asked = count_rows(worker, monkeypatch)
    generate(worker, source, target, "u", rows=(4, 6))
    assert asked == []
    receipt = generate(worker, source, target, "u", failing={})
    assert asked == ["p7"]
    assert (receipt.num_rows, receipt.num_refused, receipt.path) == (8, 0, str(target))
    assert target.read_bytes() == whole.read_bytes()
    assert not (target.parent / "pieces" / "generations").exists()


def test_a_failing_row_is_refused_with_its_reason(
    source: str, target: Path, worker: EngineWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(worker, source, target, "u", rows=(0, 4))
    generate(worker, source, target, "u", rows=(6, 8))
    asked = count_rows(worker, monkeypatch)
    receipt = generate(worker, source, target, "u", failing={4: "killed its engine twice"})
    assert asked == ["p5"]
    assert (receipt.num_rows, receipt.num_refused) == (7, 1)
    assert ids(target) == ["p0", "p1", "p2", "p3", "p5", "p6", "p7"]
    (refusal,) = read_refusals(target)
    assert (refusal.item_id, refusal.kind, refusal.what) == ("p4", "crash", "killed its engine twice")
    assert refusal.hint


def test_refusals_of_pieces_are_those_of_the_unit(target: Path, worker: EngineWorker, tmp_path: Path) -> None:
    rows = [replace(item, continuations=("x", " ")) if at in (1, 4) else item for at, item in enumerate(ITEMS)]
    source = tmp_path / "items.arrow"
    write_shard(source, ScoreItem, rows)
    score(worker, source, tmp_path / "whole.arrow", "u", OTHER)
    part = score(worker, source, target, "u", OTHER, rows=(0, 3))
    assert (part.num_rows, part.num_refused) == (2, 1)
    receipt = score(worker, source, target, "u", OTHER)  # a driver that does not know of the piece
    assert (receipt.num_rows, receipt.num_refused) == (3, 2)
    assert target.read_bytes() == (tmp_path / "whole.arrow").read_bytes()
    assert [refusal.item_id for refusal in read_refusals(target)] == ["i1", "i4"]


@pytest.mark.parametrize("full", ["target", "refused"])
def test_a_full_disk_is_no_fault_of_a_row(worker: EngineWorker, target: Path, tmp_path: Path, full: str) -> None:
    rows = [PROMPTS[0], replace(PROMPTS[1], context="", text="")]
    write_shard(tmp_path / "mixed.arrow", Prompt, rows)
    path = target if full == "target" else refusals_path(target)

    def write(where: Path, *args: Any) -> int:
        if where == path:
            raise OSError(errno.ENOSPC, "No space left on device", str(where))
        return write_shard(where, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("augment_service.worker.write_shard", write)
        with pytest.raises(ResumableError, match="no space left") as raised:
            generate(worker, tmp_path / "mixed.arrow", target, size=2)
    assert str(target) in str(raised.value)
    assert not target.exists()
    receipt = generate(worker, tmp_path / "mixed.arrow", target, size=2)
    assert (receipt.num_rows, receipt.num_refused) == (1, 1)


def test_a_source_that_is_missing_is_the_users_to_make_again(
    worker: EngineWorker, target: Path, tmp_path: Path
) -> None:
    with pytest.raises((InputError, ResumableError), match=r"none\.arrow"):
        generate(worker, tmp_path / "none.arrow", target)


def test_weights_that_fail_leave_no_other_weights_behind(
    worker: EngineWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine may hold the weights that it refused: those before them are loaded again."""
    write_shard(tmp_path / "items.arrow", ScoreItem, ITEMS)
    score(worker, tmp_path / "items.arrow", tmp_path / "a.arrow", "a", OTHER)
    load, broken = worker._engine.load_weights, CheckpointRef("broken", "/broken", "bad", "none", 1)

    def refuse(ref: CheckpointRef) -> None:
        load(ref)
        if ref == broken:
            raise ParityError("not reproduced", where=ref.path, hint="none")

    monkeypatch.setattr(worker._engine, "load_weights", refuse)
    with pytest.raises(InputError):
        score(worker, tmp_path / "items.arrow", tmp_path / "b.arrow", "b", broken)
    score(worker, tmp_path / "items.arrow", tmp_path / "c.arrow", "c", OTHER)
    assert read_shard(tmp_path / "c.arrow", Score) == read_shard(tmp_path / "a.arrow", Score)


def test_a_server_is_answered_by_the_base_model(worker: EngineWorker, tmp_path: Path) -> None:
    base = worker.answer(PROMPTS), worker.judge(ITEMS), worker.echo([[1, 2, 3]])
    write_shard(tmp_path / "items.arrow", ScoreItem, ITEMS)
    receipt = score(worker, tmp_path / "items.arrow", tmp_path / "a.arrow", "a", OTHER)
    assert isinstance(receipt, ShardReceipt)
    assert (worker.answer(PROMPTS), worker.judge(ITEMS), worker.echo([[1, 2, 3]])) == base
    bad = worker.judge([replace(ITEMS[0], continuations=("",))])[0]
    assert isinstance(bad, Refusal)


@dataclass(frozen=True)
class Held(Writing):
    """As `Writing`; the row `p5` is answered last, when a file is there."""

    gate: str = ""

    def compute(self, engine: Any, rows: Sequence[Any], on_row: OnRow) -> None:
        answers = engine.generate(rows, None)
        late = [at for at, row in enumerate(rows) if row.prompt_id == "p5"]
        for at in range(len(rows)):
            if at not in late:
                on_row(at, RowAnswer.of(answers[at]))
        while late and not Path(self.gate).exists():
            time.sleep(0.01)
            check_cancelled()
        for at in late:
            on_row(at, RowAnswer.of(answers[at]))


def test_rows_that_are_answered_are_written_while_others_are_not(
    source: str, target: Path, worker: EngineWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves is not computed again, and the shard is the same."""
    monkeypatch.setattr("augment_service.worker.WRITE_SECONDS", 0.05)
    task, rows = Held(str(tmp_path / "gate")), RowRange(source, 0, 8)
    whole = tmp_path / "whole.arrow"
    generate(worker, source, whole, "u")
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(worker.run_unit, task, rows, str(target), "u", None)
        pieces = [piece_path(target, (0, 5)), piece_path(target, (6, 8))]
        wait_until(lambda: all(piece.exists() for piece in pieces), "the rows are not written")
        assert not target.exists() and not running.done()
        other = EngineWorker(SPEC)  # as after a kill
        asked = count_rows(other, monkeypatch)
        generate(other, source, target, "u")
        assert asked == ["p5"]
        (tmp_path / "gate").touch()
        running.result()
    assert target.read_bytes() == whole.read_bytes()


def test_a_unit_that_is_cancelled_keeps_what_it_has(
    source: str, target: Path, worker: EngineWorker, tmp_path: Path
) -> None:
    context, event = contextvars.copy_context(), threading.Event()
    context.run(cancellation._CANCELLED.set, event)
    with ThreadPoolExecutor(1) as threads:
        unit = (Held(str(tmp_path / "gate")), RowRange(source, 0, 8), str(target), "u", None)
        running = threads.submit(context.run, worker.run_unit, *unit)
        wait_until(lambda: worker.progress() == 7, "the other rows are not answered")
        event.set()
        with pytest.raises(CancelledCallError):
            running.result()
    assert piece_path(target, (0, 5)).exists() and not target.exists()


def test_no_weights_are_loaded_for_a_call_that_was_cancelled(worker: EngineWorker) -> None:
    context, event = contextvars.copy_context(), threading.Event()
    context.run(cancellation._CANCELLED.set, event)
    event.set()

    def use() -> None:
        with worker._weights.held(OTHER):
            pass

    with pytest.raises(CancelledCallError):
        context.run(use)
    assert worker.stats()["swaps"] == 0
    assert not worker._weights._waiting


def test_weights_are_replaced_when_nobody_uses_them_first_come_first(worker: EngineWorker) -> None:
    held, order = worker._weights, list[str]()
    base, other = worker._base, OTHER

    def use(name: str, ref: CheckpointRef) -> None:
        with held.held(ref):
            order.append(name)

    with ThreadPoolExecutor(3) as threads:
        with held.held(base), held.held(base):  # shared by two
            swap = threads.submit(use, "other", other)
            wait_until(lambda: len(held._waiting) == 1, "the swap does not wait")
            late = threads.submit(use, "base", base)  # it could go on, but the swap would wait for ever
            wait_until(lambda: len(held._waiting) == 2, "a call overtakes the swap")
            assert order == []
        swap.result(), late.result()
    assert order == ["other", "base"] and worker.stats()["swaps"] == 2
