"""The pool over two nodes of a test cluster: the work is shared, and the loss of a node loses nothing of it."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pool_workers import FileWorker, units_of
from ray.cluster_utils import Cluster

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


def test_a_lost_node_costs_what_it_was_at_and_gets_its_engine_back(
    nodes: Cluster, session: Session, tmp_path: Path
) -> None:
    seen: list[ShardReceipt] = []

    def on_receipt(receipt: ShardReceipt) -> None:
        seen.append(receipt)
        if len(seen) == 6:
            nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)

    names = [f"unit{i}" for i in range(40)]
    with ActorPool(FileWorker, (str(tmp_path),), num_actors=2, num_cpus=2) as pool:
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
