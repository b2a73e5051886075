"""Training under Ray on two nodes of a test cluster: workers that refuse, that die, that stand still."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from training_runs import ROOT, losses, make_run, make_world, starts, train_all, train_alone

from cluster.session import connect
from data.errors import InputError
from data.records import CheckpointRef, Document
from data.store import write_folder
from train.engine.checkpoint import read_ref
from train.engine.state import states_folder
from train.run.finetune_run import FinetuneRun, TextSource
from train.run.heartbeat import RankStatus, StallDetector, kill_worker, read_statuses, stacks_written
from train.run.launch import Progress


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two nodes of one core each: a group of two ranks must lie on both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # where the workers find our packages
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        try:
            with connect(address=cluster.address, log_dir=tmp_path_factory.mktemp("logs")):
                yield
        finally:
            cluster.shutdown()


def long_runs(world: Path, folder: Path, **changes: int) -> list[FinetuneRun]:
    return [make_run(world, folder / f"long{seed}", num_steps=120, seed=seed, **changes) for seed in range(3)]


@dataclasses.dataclass
class Study:
    """What one group of two ranks did: a short run and three long ones; one with an unknown word was refused."""

    checkpoints: dict[str, CheckpointRef]
    seen: list[Progress]
    nodes: set[str]
    refusal: InputError


@pytest.fixture(scope="module")
def study(world: Path, nodes: None, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    write_folder(folder / "english", Document, [Document("d0", "w1 whale w2", "w0")])
    runs = [make_run(world, folder / "short", stage=3), *long_runs(world, folder)]
    unknown = make_run(world, folder / "unknown", sources=(TextSource(str(folder / "english")),))
    with pytest.raises(InputError) as refusal:
        train_all([*runs, unknown], 2, folder / "storage", [])
    assert not any(Path(run.out).exists() for run in runs)  # it is told before anything starts
    found: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            found.update(beat.node for beat in read_statuses(folder / "storage" / "heartbeats"))

    looking = threading.Thread(target=look)
    looking.start()
    seen: list[Progress] = []
    try:
        train_all(runs, 2, folder / "storage", seen)
    finally:
        ended.set()
        looking.join()
    return Study({run.name: read_ref(Path(run.out)) for run in runs}, seen, found, refusal.value)


def test_two_ranks_on_two_nodes_train_what_one_process_does(world: Path, study: Study, tmp_path: Path) -> None:
    assert len(study.nodes) == 2
    alone = train_alone(make_run(world, tmp_path / "short"))
    assert losses(study.checkpoints["short"]) == pytest.approx(losses(alone), abs=1e-5)


def test_progress_names_the_run_and_its_place(study: Study) -> None:
    last = study.seen[-1]
    assert (last.run, last.step, last.num_steps, last.done) == ("long2", 120, 120, 4)


def test_unknown_words_are_refused_before_the_workers_start(study: Study) -> None:
    assert study.refusal.what.endswith("vocabulary: whale")
    assert study.refusal.where == "the texts of run unknown"


@pytest.mark.timeout(600)  # the group starts four times
def test_killed_and_frozen_ranks_cost_no_more_than_the_steps_since_the_last_state(
    world: Path, study: Study, tmp_path: Path
) -> None:
    """SIGKILL to each rank and a rank that stops, one in each of three runs: the weights are those of calm runs."""
    done: list[tuple[int, int]] = []
    storage = tmp_path / "storage"

    def strike(name: str, rank: int, number: int) -> None:
        while not (states_folder(tmp_path / name) / "latest.json").exists():
            time.sleep(0.01)
        time.sleep(random.random() * 0.2)
        pid = next(beat.pid for beat in read_statuses(storage / "heartbeats") if beat.rank == rank)
        os.kill(pid, number)
        done.append((rank, number))

    def strike_all() -> None:
        strike("long0", 0, signal.SIGKILL)
        strike("long1", 1, signal.SIGKILL)
        strike("long2", 1, signal.SIGSTOP)

    thread = threading.Thread(target=strike_all, daemon=True)
    thread.start()
    runs = long_runs(world, tmp_path, checkpoint_every=10)
    refs = train_all(runs, 2, storage, [], stall_seconds=10.0)
    thread.join(timeout=1)
    assert done == [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)]
    for ref in refs:
        first, second = starts(ref)
        assert first == (0, 2)
        assert second[0] >= 10
        assert ref.fingerprint == study.checkpoints[ref.name].fingerprint
        assert losses(ref) == losses(study.checkpoints[ref.name])
    (stacks,) = stacks_written(storage / "heartbeats")
    assert stacks.name == "rank-0.stacks"
    assert "in take_step" in stacks.read_text()


def test_a_rank_that_hangs_writes_its_stack_and_ends(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from train.run.heartbeat import Heartbeat
heartbeat = Heartbeat(Path({str(tmp_path)!r}), 3, 1.0)
def hang(): time.sleep(60)
for step in range(8):
    heartbeat.beat(f"step {{step}}")
    time.sleep(0.2)
heartbeat.pause()
time.sleep(1.5)
heartbeat.beat("step 8")
hang()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30)
    assert done.returncode == 1
    assert "hang" in (tmp_path / "rank-3.stacks").read_text()
    (beat,) = read_statuses(tmp_path)
    assert (beat.rank, beat.doing, beat.seconds) == (3, "step 8", 1.0)


def test_a_phase_may_take_longer_than_a_step_and_not_for_ever(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from train.run.heartbeat import Heartbeat, Phases
phases = Phases(Heartbeat(Path({str(tmp_path)!r}), 0, 0.5))
phases.enter("joining the group")
time.sleep(1.0)
phases.enter("loading the model")
print(phases.seconds(), flush=True)
time.sleep(60)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30, capture_output=True, text=True)
    assert done.returncode == 1 and time.monotonic() - began > 3.0
    assert done.stdout.startswith("{'joining the group': 1.0")
    (beat,) = read_statuses(tmp_path)
    assert (beat.doing, beat.seconds) == ("loading the model", 2.0)
    assert stacks_written(tmp_path)


def test_the_driver_reports_each_rank_that_hangs_once(tmp_path: Path) -> None:
    def beat(rank: int, step: int) -> None:
        (tmp_path / f"rank-{rank}.heartbeat").write_text(f"step {step}   |  10.00|7|node\n")

    detector = StallDetector(tmp_path)
    beat(0, 1)
    beat(1, 1)
    assert detector.stalled(0.0) == []
    beat(0, 2)
    assert detector.stalled(14.0) == []
    assert detector.stalled(16.0) == [RankStatus(1, "step 1", 10.0, 7, "node")]
    assert detector.stalled(17.0) == []
    beat(1, 2)
    assert detector.stalled(30.0) == [RankStatus(0, "step 2", 10.0, 7, "node")]
    assert detector.stalled(46.0) == [RankStatus(1, "step 2", 10.0, 7, "node")]


def test_only_workers_of_ray_are_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not kill_worker(child.pid)
        assert child.poll() is None
    finally:
        child.communicate(b"\n")
    assert child.returncode == 0
    assert not kill_worker(child.pid)
