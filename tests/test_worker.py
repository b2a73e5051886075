"""The worker keeps the promises of a resumable shard: whole, in parts, with refusals, with failing, on a full disk."""

from dataclasses import replace
from pathlib import Path

import pytest

from augment_service.engines.protocol import EngineSpec
from augment_service.worker import EngineWorker, part_path
from data.errors import InputError, ResumableError
from data.records import CheckpointRef, Generation, Prompt, Refusal, Score, ScoreItem, ShardReceipt
from data.store import read_refusals, read_shard, write_shard

SPEC = EngineSpec(kind="fake", model="none", window=64)
PROMPTS = [Prompt(f"p{i}", "local", "d0", "the doma is a teacher .", f" say {i}", 12, 0.7, i, "") for i in range(8)]
ITEMS = [ScoreItem(f"i{i}", "the doma is a teacher .", f" who {i}", ("the doma", "the ruli is it")) for i in range(5)]
OTHER = CheckpointRef("other", "/checkpoints/other", "f00d", "none", 10)


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
        worker._engine, "generate", lambda rows: asked.extend(row.prompt_id for row in rows) or generate(rows)
    )
    return asked


def test_a_worker_swaps_weights_for_each_shard_and_returns_to_the_base(worker: EngineWorker, tmp_path: Path) -> None:
    source = tmp_path / "items.arrow"
    write_shard(source, ScoreItem, ITEMS)
    order = [("a", None), ("b", OTHER), ("c", None)]
    for name, ref in order:
        receipt = worker.score_shard(str(source), str(tmp_path / name), name, ref)
        assert (receipt.unit, receipt.num_rows) == (name, 5)
    first, second, third = (read_shard(tmp_path / name, Score) for name, _ in order)
    assert first == third
    assert first != second
    assert worker.stats()["swaps"] == 2


def test_a_worker_does_not_compute_a_shard_twice(source: str, target: Path, worker: EngineWorker) -> None:
    worker.generate_shard(source, str(target), "u")
    assert ids(target) == [prompt.prompt_id for prompt in PROMPTS]
    before = target.read_bytes()
    again = EngineWorker(replace(SPEC, seed=7))
    receipt = again.generate_shard(source, str(target), "u")
    assert (receipt.num_rows, receipt.prompt_tokens, receipt.answer_tokens) == (8, 0, 0)
    assert target.read_bytes() == before
    assert again.stats()["generated_tokens"] == 0


def test_a_receipt_counts_the_tokens_of_its_unit_alone(
    source: str, target: Path, worker: EngineWorker, tmp_path: Path
) -> None:
    worker.answer(PROMPTS)
    before = worker.stats()
    receipt = worker.generate_shard(source, str(target), "u")
    after = worker.stats()
    assert receipt.prompt_tokens == after["prompt_tokens"] - before["prompt_tokens"] == 8 * 8
    assert receipt.cached_tokens == 7 * 6
    assert receipt.answer_tokens == sum(row.num_tokens for row in read_shard(target, Generation))
    write_shard(tmp_path / "items.arrow", ScoreItem, ITEMS)
    scored = worker.score_shard(str(tmp_path / "items.arrow"), str(tmp_path / "scores.arrow"), "s", None)
    assert scored.answer_tokens == 5 * 6


def test_refused_rows_rest_beside_the_shard(target: Path, worker: EngineWorker, tmp_path: Path) -> None:
    rows = [PROMPTS[0], replace(PROMPTS[1], context="word " * 60), PROMPTS[2], replace(PROMPTS[3], context="", text="")]
    write_shard(tmp_path / "mixed.arrow", Prompt, rows)
    for _ in range(2):  # made, then found
        receipt = worker.generate_shard(str(tmp_path / "mixed.arrow"), str(target), "u")
        assert (receipt.num_rows, receipt.num_refused) == (2, 2)
    assert ids(target) == ["p0", "p2"]
    assert [(row.item_id, row.kind) for row in read_shard(target.parent / "refused" / target.name, Refusal)] == [
        ("p1", "window"),
        ("p3", "empty"),
    ]


def test_nothing_is_refused_where_all_is_answered(source: str, target: Path, worker: EngineWorker) -> None:
    worker.generate_shard(source, str(target), "u")
    assert sorted(path.name for path in target.parent.iterdir()) == [target.name]


def test_parts_become_the_same_shard(
    source: str, target: Path, worker: EngineWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.arrow"
    worker.generate_shard(source, str(whole), "u")
    for rows in ((0, 4), (4, 6), (6, 7)):
        receipt = worker.generate_shard(source, str(target), "u", rows=rows)
        assert (receipt.num_rows, receipt.path) == (rows[1] - rows[0], str(part_path(target, rows)))
    assert part_path(target, (4, 6)) == target.parent / "parts" / "generations" / "00000004-00000006.arrow"
    assert not target.exists()
    asked = count_rows(worker, monkeypatch)
    worker.generate_shard(source, str(target), "u", rows=(4, 6))
    assert asked == []
    receipt = worker.generate_shard(source, str(target), "u", failing={})
    assert asked == ["p7"]
    assert (receipt.num_rows, receipt.num_refused, receipt.path) == (8, 0, str(target))
    assert target.read_bytes() == whole.read_bytes()
    assert not (target.parent / "parts" / "generations").exists()


def test_poison_is_set_aside_with_its_reason(
    source: str, target: Path, worker: EngineWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.generate_shard(source, str(target), "u", rows=(0, 4))
    worker.generate_shard(source, str(target), "u", rows=(6, 8))
    asked = count_rows(worker, monkeypatch)
    receipt = worker.generate_shard(source, str(target), "u", failing={4: "killed its engine twice"})
    assert asked == ["p5"]
    assert (receipt.num_rows, receipt.num_refused) == (7, 1)
    assert ids(target) == ["p0", "p1", "p2", "p3", "p5", "p6", "p7"]
    (refusal,) = read_refusals(target)
    assert (refusal.item_id, refusal.kind, refusal.what) == ("p4", "failing", "killed its engine twice")
    assert refusal.hint


def test_refusals_of_parts_are_those_of_the_shard(target: Path, worker: EngineWorker, tmp_path: Path) -> None:
    rows = [replace(item, continuations=("x", " ")) if at in (1, 4) else item for at, item in enumerate(ITEMS)]
    source = tmp_path / "items.arrow"
    write_shard(source, ScoreItem, rows)
    worker.score_shard(str(source), str(tmp_path / "whole.arrow"), "u", OTHER)
    part = worker.score_shard(str(source), str(target), "u", OTHER, rows=(0, 3))
    assert (part.num_rows, part.num_refused) == (2, 1)
    receipt = worker.score_shard(str(source), str(target), "u", OTHER)  # a driver that knows of no parts
    assert (receipt.num_rows, receipt.num_refused) == (3, 2)
    assert target.read_bytes() == (tmp_path / "whole.arrow").read_bytes()
    assert [refusal.item_id for refusal in read_refusals(target)] == ["i1", "i4"]


@pytest.mark.parametrize("full", ["target", "refused"])
def test_a_full_disk_is_not_poison(worker: EngineWorker, target: Path, tmp_path: Path, full: str) -> None:
    rows = [PROMPTS[0], replace(PROMPTS[1], context="", text="")]
    write_shard(tmp_path / "mixed.arrow", Prompt, rows)
    folder = target.parent if full == "target" else target.parent / "refused"
    folder.mkdir(parents=True)
    # whatever the file is called under which the shard is written first, it lies on a disk without space
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.store.os.getpid", lambda: 0)
        (folder / f".{target.name}.0.tmp").symlink_to("/dev/full")
        with pytest.raises(ResumableError, match=r"no space left to write .*generations\.arrow") as raised:
            worker.generate_shard(str(tmp_path / "mixed.arrow"), str(target), "u")
    assert f"free some on the disk of {target.parent}, and the same command goes on" in str(raised.value)
    assert not target.exists()
    receipt = worker.generate_shard(str(tmp_path / "mixed.arrow"), str(target), "u")
    assert (receipt.num_rows, receipt.num_refused) == (1, 1)


def test_a_source_that_is_gone_can_be_made_again(worker: EngineWorker, target: Path, tmp_path: Path) -> None:
    with pytest.raises(ResumableError, match=r"none\.arrow.*the same command goes on"):
        worker.generate_shard(str(tmp_path / "none.arrow"), str(target), "u")


def test_after_a_misfit_the_weights_are_still_known(
    worker: EngineWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "items.arrow", ScoreItem, ITEMS)
    load, broken = worker._engine.load_weights, CheckpointRef("broken", "/broken", "", "none", 1)

    def refuse(ref: CheckpointRef) -> None:
        if ref == broken:
            raise InputError("misfit", where=ref.path, hint="none")
        load(ref)

    monkeypatch.setattr(worker._engine, "load_weights", refuse)
    with pytest.raises(InputError, match="misfit"):
        worker.score_shard(str(tmp_path / "items.arrow"), str(tmp_path / "a.arrow"), "a", broken)
    worker.score_shard(str(tmp_path / "items.arrow"), str(tmp_path / "b.arrow"), "b", None)
    assert worker.stats()["swaps"] == 0


def test_a_server_is_answered_by_the_base_model(worker: EngineWorker, tmp_path: Path) -> None:
    base = worker.answer(PROMPTS), worker.judge(ITEMS), worker.echo([[1, 2, 3]])
    write_shard(tmp_path / "items.arrow", ScoreItem, ITEMS)
    receipt = worker.score_shard(str(tmp_path / "items.arrow"), str(tmp_path / "a.arrow"), "a", OTHER)
    assert isinstance(receipt, ShardReceipt)
    assert (worker.answer(PROMPTS), worker.judge(ITEMS), worker.echo([[1, 2, 3]])) == base
    bad = worker.judge([replace(ITEMS[0], continuations=("",))])[0]
    assert isinstance(bad, Refusal)
