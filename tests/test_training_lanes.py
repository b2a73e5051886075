"""Runs that are trained side by side: a worker group in parts, each with runs of its own."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_runs import ROOT, losses, make_run, make_world, needs_too_much, starts, train_all, train_alone

from cluster.session import connect
from data.errors import InputError
from train.run.launch import Progress


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with connect(address=None, log_dir=tmp_path_factory.mktemp("ray")):
        yield


def test_two_lanes_train_what_one_process_trains(world: Path, ray_session: None, tmp_path: Path) -> None:
    """Three runs, the third behind the first; bit for bit as trained alone, and all of them are counted."""
    runs = [make_run(world, tmp_path / name, seed=seed) for seed, name in enumerate("abc")]
    seen: list[Progress] = []
    refs = train_all(runs, 2, tmp_path / "storage", seen, ranks_per_run=1)
    for ref, run in zip(refs, runs, strict=True):
        alone = train_alone(make_run(world, tmp_path / "alone" / run.name, seed=run.seed))
        assert ref.fingerprint == alone.fingerprint and losses(ref) == losses(alone)
        assert starts(ref) == [(0, 1)]
    assert max(progress.done for progress in seen) == 3
    content = json.loads((Path(refs[0].path) / "checkpoint.json").read_text())
    phases = content["starts"][0]["seconds"]
    assert {"joining the group", "loading the model", "reading the texts", "starting the engine"} < set(phases)


def test_a_lane_that_gives_up_leaves_the_other_one_alone(world: Path, ray_session: None, tmp_path: Path) -> None:
    good, bad = (
        make_run(world, tmp_path / "good"),
        make_run(world, tmp_path / "bad", learning_rate=1e30, max_grad_norm=0.0),
    )
    errors: list[Exception] = []
    with pytest.raises(InputError, match="became") as refusal:
        train_all([good, bad], 2, tmp_path / "storage", [], ranks_per_run=1, on_error=errors.append)
    assert [str(error) for error in errors] == [str(refusal.value)]
    assert refusal.value.where.startswith("run bad") and "learning_rate" in refusal.value.hint
    assert (tmp_path / "good" / "checkpoint.json").exists() and not (tmp_path / "bad").exists()


def test_a_rank_without_memory_is_reported_and_its_group_started_once_more_at_most(
    ray_session: None, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="ran out of memory"):
        train_all([needs_too_much(tmp_path)], 1, tmp_path / "storage", [])


def test_more_workers_than_texts_in_a_batch_are_not_started_unless_they_were_asked_for(
    world: Path, ray_session: None, tmp_path: Path
) -> None:
    """Two equal runs are trained once, by one rank, though there are two."""
    first = make_run(world, tmp_path / "run", batch_size=1, num_steps=2)
    runs = [first, dataclasses.replace(first, name="twin")]
    with pytest.raises(InputError) as refusal:
        train_all(runs, 2, tmp_path / "storage", [], exact_ranks=True)
    assert refusal.value.where.startswith("--ranks of run")
    refs = train_all(runs, 2, tmp_path / "storage", [], threads_per_worker=2)
    assert [ref.name for ref in refs] == ["run", "twin"] and refs[0].path == refs[1].path
    assert starts(refs[0]) == [(0, 1)]
    with pytest.raises(InputError, match="same output folder"):
        train_all([*runs, dataclasses.replace(first, seed=1)], 2, tmp_path / "storage", [])


def test_a_group_that_cannot_be_split_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="groups of 2"):
        train_all([make_run(world, tmp_path / "run")], 3, tmp_path / "storage", [], ranks_per_run=2)


def test_parts_of_a_group_add_up_by_themselves(tmp_path: Path) -> None:
    """Four ranks in two parts: each part is a whole group to whoever asks."""
    script = tmp_path / "part.py"
    script.write_text(
        """
import torch, torch.distributed as dist
from train.engine.zero_engine import split_group
dist.init_process_group("gloo")
rank = dist.get_rank()
part = split_group(2, "127.0.0.1")
total = torch.tensor([rank])
dist.all_reduce(total)
place = f"place {dist.get_rank()} of {dist.get_world_size()}"
print(f"{rank}: part {part}, {place}, sum {int(total)}\\n", end="", flush=True)  # one write: lines of ranks do not mix
dist.destroy_process_group()
"""
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", str(script)]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    assert sorted(done.stdout.split("\n"))[-4:] == [
        "0: part 0, place 0 of 2, sum 1",
        "1: part 0, place 1 of 2, sum 1",
        "2: part 1, place 0 of 2, sum 5",
        "3: part 1, place 1 of 2, sum 5",
    ]
