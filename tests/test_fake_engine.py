"""The fake engine keeps the promises of the protocol, and the worker those of a resumable shard."""

from dataclasses import replace
from pathlib import Path

import pytest

from augment_service.engine import EngineSpec, start_engine
from augment_service.worker import EngineWorker
from data.errors import InputError
from data.records import CheckpointRef, Generation, Prompt, Score, ScoreItem
from data.store import read_shard, write_shard

SPEC = EngineSpec(kind="fake", model="none", max_model_len=64)
PROMPTS = [Prompt(f"p{i}", "local", "d0", "the doma is a teacher .", f" say {i}", 12, 0.7, i, "") for i in range(20)]
ITEMS = [ScoreItem(f"i{i}", "the doma is a teacher .", f" who {i}", ("the doma", "the ruli is it")) for i in range(5)]
OTHER = CheckpointRef("other", "/checkpoints/other", "f00d", "none", 10)


def test_a_row_depends_on_its_prompt_alone() -> None:
    together = start_engine(SPEC).generate(PROMPTS)
    assert together == [start_engine(SPEC).generate([prompt])[0] for prompt in PROMPTS]
    assert len({row.text for row in together}) > 10
    assert {row.finish_reason for row in together} == {"stop", "length"}
    reseeded = start_engine(SPEC).generate([replace(prompt, seed=99) for prompt in PROMPTS])
    assert [row.text for row in reseeded] != [row.text for row in together]
    greedy = [replace(PROMPTS[0], temperature=0.0, seed=seed) for seed in (1, 2)]
    assert len({row.text for row in start_engine(SPEC).generate(greedy)}) == 1


def test_text_ends_before_the_stop() -> None:
    rows = start_engine(SPEC).generate([replace(prompt, stop="doma") for prompt in PROMPTS])
    assert not any("doma" in row.text for row in rows)


def test_scores_belong_to_the_weights() -> None:
    engine = start_engine(SPEC)
    base = engine.score(ITEMS)
    assert [score.num_tokens for score in base] == [(2, 4)] * 5
    assert all(value < 0 for score in base for value in score.log_likelihoods)
    engine.load_weights(OTHER)
    assert engine.score(ITEMS) != base


def test_what_a_real_engine_refuses_is_refused() -> None:
    engine = start_engine(SPEC)
    with pytest.raises(InputError, match=r"needed.*64"):
        engine.generate([replace(PROMPTS[0], context="word " * 60)])
    with pytest.raises(InputError, match="empty continuation"):
        engine.score([replace(ITEMS[0], continuations=("yes", " "))])


def test_a_worker_swaps_weights_for_each_shard_and_returns_to_the_base(tmp_path: Path) -> None:
    worker = EngineWorker(SPEC)
    source = tmp_path / "items.arrow"
    write_shard(source, ScoreItem, ITEMS)
    order = [("a", None), ("b", OTHER), ("c", None)]
    for name, ref in order:
        receipt = worker.score_shard(str(source), str(tmp_path / name), name, ref)
        assert (receipt.unit, receipt.num_rows) == (name, 5)
    first, second, third = (read_shard(tmp_path / name, Score) for name, _ in order)
    assert first == third
    assert first != second


def test_a_worker_does_not_compute_a_shard_twice(tmp_path: Path) -> None:
    source, target = tmp_path / "prompts.arrow", tmp_path / "out" / "generations.arrow"
    write_shard(source, Prompt, PROMPTS)
    worker = EngineWorker(SPEC)
    worker.generate_shard(str(source), str(target), "u")
    assert [row.prompt_id for row in read_shard(target, Generation)] == [prompt.prompt_id for prompt in PROMPTS]
    before, written = target.read_bytes(), worker.stats()["generated_tokens"]
    receipt = EngineWorker(replace(SPEC, seed=7)).generate_shard(str(source), str(target), "u")
    assert receipt.num_rows == 20
    assert target.read_bytes() == before
    assert written > 0
