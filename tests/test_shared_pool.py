"""Pools that stay up: found by name from another process, asked one call at a time; and a driver that is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import ray
from pool_workers import FileWorker, units_of, wait_for, wait_until

from cluster import ray_internals
from cluster.pool import ActorPool
from cluster.session import Session, connect
from data.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
PATHS = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
ATTACHED = """
import os, signal, sys
from pathlib import Path
import ray
from pool_workers import units_of, wait_for
from cluster.pool import ActorPool
from cluster.session import connect
folder = Path(sys.argv[2])
with connect(address=sys.argv[1], log_dir=folder / "logs2"):
    with ActorPool.attach("shared") as pool:
        print(*(actor.pid for actor in pool.states()), flush=True)
        # long enough that the second actor is reached before the first has done all of them
        receipts = pool.run(units_of([f"far{i}" for i in range(10)], "doze", args=(0.3,)), lambda receipt: None)
        print(*sorted({receipt.node for receipt in receipts}))
        print(ray.get(pool.ask("write", ("asked",))).node)
"""
DRIVER = """
import sys
from pathlib import Path
from pool_workers import FileWorker, units_of
from cluster.pool import ActorPool
from cluster.session import connect
folder = Path(sys.argv[1])
with connect(address=None, log_dir=folder / "logs", num_cpus=2):
    with ActorPool(FileWorker, (str(folder),), num_actors=2, num_cpus=1) as pool:
        (folder / "pids").write_text(" ".join(str(actor.pid) for actor in pool.states()))
        receipts = pool.run(units_of([f"unit{i}" for i in range(40)], "once"), lambda receipt: None)
        print(len(receipts))
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        with connect(address=None, log_dir=tmp_path_factory.mktemp("logs"), num_cpus=4) as session:
            yield session


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def pool(session: Session, folder: Path) -> Iterator[ActorPool]:
    with ActorPool(FileWorker, (str(folder),), num_actors=2, num_cpus=1, name="shared") as pool:
        yield pool


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Another driver, in a process and a session of its own."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": PATHS}, stdout=subprocess.PIPE, text=True)


def pids(pool: ActorPool) -> list[int]:
    return [actor.pid for actor in pool.states()]


def test_another_process_works_on_the_same_actors_and_leaves_them_up(
    session: Session, pool: ActorPool, folder: Path
) -> None:
    before = pids(pool)
    other = start(ATTACHED, session.address, str(folder))
    described, homes, asked = other.communicate(timeout=120)[0].splitlines()
    assert other.returncode == 0
    assert described == f"{before[0]} {before[1]}"
    assert homes.split() == sorted(map(str, before))
    assert int(asked) in before
    assert pids(pool) == before
    assert all(actor.alive for actor in pool.states())
    assert len(pool.run(units_of(["near0", "near1"]), lambda receipt: None)) == 2


def test_calls_go_to_the_actor_with_the_least_to_do(pool: ActorPool, folder: Path) -> None:
    held = [pool.ask("wait", (f"held{i}",)) for i in range(2)]
    homes = {wait_for(folder / f"held{i}.pid") for i in range(2)}
    assert homes == set(map(str, pids(pool)))
    (folder / "release").touch()
    ray.get(held)
    assert [ray.get(pool.ask("write", ("note",), actors=(number,))).node for number in (1, 0)] == [
        str(pid) for pid in reversed(pids(pool))
    ]
    with pytest.raises(InputError, match="bad row"):
        ray.get(pool.ask("refuse", ("row",)))


def test_a_death_under_a_call_is_reported_and_the_actor_comes_back(pool: ActorPool) -> None:
    before = set(pids(pool))
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(pool.ask("die", ("bell",)))

    def both_are_up() -> bool:
        actors = pool.states()
        return all(actor.alive for actor in actors) and {actor.pid for actor in actors} != before

    wait_until(both_are_up, "the dead actor did not come back")
    with ActorPool.attach("shared") as same:
        units = units_of([f"back{i}" for i in range(8)], "doze", args=(0.3,))
        receipts = same.run(units, lambda receipt: None)
    assert {int(receipt.node) for receipt in receipts} == set(pids(pool))


def test_a_death_under_another_jobs_work_is_not_blamed(pool: ActorPool, folder: Path) -> None:
    """Jobs of two drivers on one actor: what one does to it costs the rows of the other nothing."""
    for method, error in (("die", ray.exceptions.RayActorError), ("break_", RuntimeError)):
        (folder / "release").unlink(missing_ok=True)
        held = [pool.ask("wait", (f"{method}{at}",), actors=(at,)) for at in range(2)]
        for at in range(2):
            wait_for(folder / f"{method}{at}.pid")
        theirs = [pool.ask(method, (f"{method} bell",), actors=(at % 2,)) for at in range(4)]
        with ActorPool.attach("shared") as same, ThreadPoolExecutor(1) as thread:
            # one that cannot be divided and is tried once more: two deaths that were blamed on it would fail it
            units = units_of([f"{method}{at} mine" for at in range(6)])
            running = thread.submit(same.run, units, lambda receipt: None)
            time.sleep(1.0)
            (folder / "release").touch()
            assert len(running.result(timeout=60)) == 6
        ray.wait(held, num_returns=2, timeout=60)  # the death may come before their answers are sent
        for ref in theirs:
            with pytest.raises((error, ray.exceptions.RayActorError)):
                ray.get(ref)
        wait_until(lambda: all(actor.alive for actor in pool.states()), "an actor did not come back")


def test_a_death_is_known_by_the_call_that_began(pool: ActorPool, folder: Path) -> None:
    (folder / "release").unlink(missing_ok=True)
    victim = pool.ask("wait", ("victim",), actors=(0,))
    queued = pool.ask("write", ("queued",), actors=(0,))
    os.kill(int(wait_for(folder / "victim.pid")), signal.SIGKILL)
    for ref in (victim, queued):
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(ref)
    assert [pool.died_under(ref) for ref in (victim, queued)] == [True, False]
    wait_until(lambda: all(actor.alive for actor in pool.states()), "the actor did not come back")


def test_a_worker_of_unknown_state_does_no_other_job(pool: ActorPool, folder: Path) -> None:
    before = pids(pool)[0]
    with pytest.raises(RuntimeError, match="broken"):
        ray.get(pool.ask("break_", ("cup",), actors=(0,)))
    with pytest.raises(ray.exceptions.RayActorError):  # nobody ended it: it ends before it begins the next call
        ray.get(pool.ask("write", ("after the cup",), actors=(0,)))
    assert not (folder / "after the cup").exists()
    wait_until(lambda: pids(pool)[0] != before and pool.states()[0].alive, "the actor did not come back")


def test_a_name_is_taken_once_and_a_wrong_one_is_refused(pool: ActorPool, folder: Path) -> None:
    free = ray.available_resources()["CPU"]
    with pytest.raises(InputError, match="shared"):
        ActorPool(FileWorker, (str(folder),), num_actors=1, num_cpus=1, name="shared")
    wait_until(lambda: ray.available_resources()["CPU"] == free, "the refused pool keeps its resources")
    with pytest.raises(InputError, match="no pool is up"):
        ActorPool.attach("chair")


def test_a_pool_that_was_closed_is_not_found(session: Session, folder: Path) -> None:
    with ActorPool(FileWorker, (str(folder),), num_actors=1, num_cpus=1, name="brief"):
        ActorPool.attach("brief").close()
        assert ActorPool.attach("brief").states()[0].alive
    with pytest.raises(InputError, match="no pool is up"):
        ActorPool.attach("brief")


def test_a_killed_driver_resumes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    first = start(DRIVER, str(tmp_path))
    processes = [psutil.Process(int(pid)) for pid in wait_for(tmp_path / "pids").split()]
    wait_for(tmp_path / "unit6.computed")
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = {path.name for path in tmp_path.glob("unit*") if "." not in path.name}
    assert 1 <= len(done) < 40
    wait_until(lambda: not any(process.is_running() for process in processes), "an actor outlives its driver")
    output, _ = start(DRIVER, str(tmp_path)).communicate(timeout=120)
    assert output.strip() == "40"
    for i in range(40):
        marks = (tmp_path / f"unit{i}.computed").read_text()
        assert marks == "x" or f"unit{i}" not in done  # what was in flight may be begun twice, what was done is not


def test_this_machine_is_a_node_of_the_cluster(session: Session) -> None:
    assert [(node.is_here, node.alive) for node in ray_internals.list_nodes(session.address)] == [(True, True)]
