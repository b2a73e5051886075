"""Several nodes: the pool over a test cluster, and a training over machines with networks of their own."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from pool_workers import FileWorker, units_of
from ray.cluster_utils import Cluster
from training_runs import make_world

from benchmarks.machines import Machines, why_not
from cluster.inspection import Inspection, find_problems, look
from cluster.logs import collect
from cluster.places import Wait, await_room, living_nodes
from cluster.pool import ActorPool
from cluster.session import Session, connect
from data.errors import ResumableError
from data.records import ShardReceipt

# so that a lost node is noticed within seconds
QUICK_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        for key, value in QUICK_HEALTH_CHECKS.items():
            patch.setenv(key, value)
        paths = (str(Path(__file__).parent), str(Path(__file__).parent.parent))
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))  # where the actors find their worker
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        cluster.add_node(num_cpus=2)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def session(nodes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with connect(address=nodes.address, log_dir=tmp_path_factory.mktemp("logs")) as session:
        yield session


def test_two_engines_lie_on_two_nodes_and_share_the_work(session: Session, tmp_path: Path) -> None:
    assert session.nodes == ((2, 0), (2, 0))
    with ActorPool(FileWorker, (str(tmp_path),), num_actors=2, num_cpus=1) as pool:
        actors = pool.states()
        assert len({actor.node for actor in actors}) == 2
        units = units_of([f"even{i}" for i in range(40)], "doze", affinity="one", args=(0.2,))
        receipts = pool.run(units, lambda receipt: None)
    shares = Counter(receipt.node for receipt in receipts)
    assert set(shares) == {str(actor.pid) for actor in actors}
    assert max(shares.values()) <= 0.6 * 40


def test_room_is_there_at_once_or_what_fits_after_the_wait(session: Session) -> None:
    assert await_room(4, 1, 0, Wait("4 ranks", 30, pytest.fail)) == 4
    assert await_room(3, 2, 0, Wait("3 ranks", 1, pytest.fail)) == 2


def test_logs_of_all_nodes_are_in_one_place(session: Session, tmp_path: Path) -> None:
    with ActorPool(FileWorker, (str(tmp_path),), num_actors=2, num_cpus=1) as pool:
        assert len({actor.node for actor in pool.states()}) == 2
        pool.run(units_of(["said"], "say", args=("a line for the log",)), lambda receipt: None)
        found = collect(tmp_path / "logs")
        assert len(found) == 2 and all(name.startswith(session.address.rpartition(":")[0]) for name in found)
        texts = {path.name: path.read_bytes() for path in (tmp_path / "logs").rglob("*.*") if path.is_file()}
        assert any(b"a line for the log" in text for text in texts.values())
        job = ray.get_runtime_context().get_job_id()
        others = collect(tmp_path / "others", job=job, here=False)
    assert len(others) == 1
    names = [path.name for path in (tmp_path / "others").rglob("worker-*")]
    assert names and all(f"-{job}-" in name for name in names)


def test_nodes_of_one_environment_have_no_problems(session: Session, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with Inspection([tmp_path / "study"], [model]) as inspection:
        assert len(inspection.nodes) == 2
        assert find_problems(inspection.look(), look()) == []
        (model / "config.json").write_text("{ }")
        problems = find_problems(inspection.look(), look())
    assert {problem.what for problem in problems} == {f"{model}: it is another folder there"}
    assert list((tmp_path / "study").iterdir()) == []


def test_a_lost_node_costs_what_it_was_at_and_gets_its_engine_back(
    nodes: Cluster, session: Session, tmp_path: Path
) -> None:
    seen: list[ShardReceipt] = []

    def on_receipt(receipt: ShardReceipt) -> None:
        seen.append(receipt)
        if len(seen) == 6:
            nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
            assert len(living_nodes()) == 1  # whatever Ray thinks by now

    names = [f"unit{i}" for i in range(40)]
    with ActorPool(FileWorker, (str(tmp_path),), num_actors=2, num_cpus=2) as pool:
        while not all(actor.alive for actor in pool.states()):
            time.sleep(0.1)
        before = {actor.pid for actor in pool.states()}
        pool.run(units_of(names, "doze", args=(0.2,)), on_receipt)
        assert sorted(receipt.unit for receipt in seen) == sorted(names)
        assert {int(receipt.node) for receipt in seen} <= before  # nobody had a place for the lost engine
        assert pool.restarts == 1

        def add_node(receipt: ShardReceipt) -> None:
            seen.append(receipt)
            if len(nodes.worker_nodes) == 0:
                nodes.add_node(num_cpus=2)

        del seen[:]
        pool.run(units_of([f"again{i}" for i in range(100)], "doze", args=(0.2,)), add_node)
        assert len(seen) == 100
        assert {int(receipt.node) for receipt in seen} - before, "the engine did not come back with the node"


def test_when_no_engine_fits_any_more_the_run_stops(nodes: Cluster, session: Session, tmp_path: Path) -> None:
    large = nodes.add_node(num_cpus=3)

    def lose(receipt: ShardReceipt) -> None:
        if large in nodes.worker_nodes:
            nodes.remove_node(large, allow_graceful=False)

    with (
        ActorPool(FileWorker, (str(tmp_path),), num_actors=1, num_cpus=3, place_seconds=5) as pool,
        pytest.raises(ResumableError, match="no room for any of"),
    ):
        pool.run(units_of([f"late{i}" for i in range(20)], "doze", args=(0.2,)), lose)


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "none")
def test_machines_that_find_their_names_at_a_loopback_address_train_together(tmp_path: Path) -> None:
    """As Debian sets up /etc/hosts; the head has no CPUs, and each machine several interfaces."""
    world, out = make_world(tmp_path / "world"), tmp_path / "out"
    with Machines(3, tmp_path / "machines", set_number=78) as machines:
        address = machines.ray_head(cpus=0)
        for number in (1, 2):
            machines.run(number, "ip", "link", "add", "aa0", "type", "dummy")
            machines.run(number, "ip", "addr", "add", f"172.30.{number}.1/24", "dev", "aa0")
            machines.run(number, "ip", "link", "set", "aa0", "up")
            machines.ray_node(number)
        words = ["train", "--model", str(world / "base"), "--documents", str(world / "documents"), "--out", str(out)]
        words += ["--steps", "4", "--batch-size", "4", "--replay", "none", "--ranks", "2", "--address", address]
        done = machines.run(0, sys.executable, "-m", "pipeline", *words, timeout=240)
    assert done.returncode == 0, done.stdout
    starts = json.loads((out / "checkpoint.json").read_text())["starts"]
    assert [start["ranks"] for start in starts] == [2]
