"""The pool over real Ray actors: deaths lose nothing, failing rows are found, affinity holds, errors arrive intact."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import ray
from pool_workers import CountingWorker, FileWorker, PickyWorker, RowWorker, StuckWorker, units_of, wait_for, wait_until

from cluster.meter import Meter
from cluster.pool import ActorPool, Unit
from cluster.schedule import FAILURES_IN_A_ROW
from cluster.session import Session, connect
from data.errors import InputError, ResumableError
from data.records import ShardReceipt

DEADLINE_SECONDS = 2.0


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the actors find their worker
        with connect(address=None, log_dir=tmp_path_factory.mktemp("logs"), num_cpus=6) as session:
            yield session


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("desk")


@pytest.fixture(scope="module")
def pool(session: Session, folder: Path) -> Iterator[ActorPool]:
    with ActorPool(FileWorker, (str(folder),), num_actors=2, num_cpus=1) as pool:
        yield pool


def ignore(receipt: ShardReceipt) -> None:
    """A receipt that no test looks at."""


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Something that happens while the pool works."""
    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_the_session_is_on_loopback_and_its_logs_are_found(session: Session) -> None:
    assert session.address.startswith("127.0.0.1:")
    assert (session.cpus, session.nodes) == (6, ((6, 0),))
    assert list(session.logs.glob("*raylet*"))


def test_every_unit_is_done_once_and_reported(pool: ActorPool) -> None:
    seen: list[str] = []
    names = [f"plain{i}" for i in range(12)]
    receipts = pool.run(units_of(names), lambda receipt: seen.append(receipt.unit))
    assert sorted(seen) == sorted(names)
    assert [receipt.unit for receipt in receipts] == seen
    assert pool.run([], ignore) == []


def test_a_killed_actor_loses_nothing(pool: ActorPool, folder: Path) -> None:
    victims: list[int] = []

    def kill() -> None:
        victims.append(int(wait_for(folder / "slow0.pid")))
        os.kill(victims[0], signal.SIGKILL)
        (folder / "release").touch()

    restarts = pool.restarts
    units = [*units_of(["slow0", "slow1"], "wait"), *units_of([f"after{i}" for i in range(6)])]
    with meanwhile(kill):
        receipts = pool.run(units, ignore)
    assert sorted(receipt.unit for receipt in receipts) == sorted(unit.name for unit in units)
    assert str(victims[0]) not in {receipt.node for receipt in receipts if receipt.unit == "slow0"}
    assert pool.restarts == restarts + 1


def test_units_past_their_deadline_cost_their_actors_and_are_tried_again(session: Session, tmp_path: Path) -> None:
    units = [*units_of(["a"], "hang"), *units_of(["b"], "stop"), *units_of(["c", "d", "e", "f"])]
    with ActorPool(FileWorker, (str(tmp_path),), num_actors=2, num_cpus=1, deadline_seconds=DEADLINE_SECONDS) as pool:
        assert len(pool.run(units, ignore)) == 6
        assert pool.restarts == 2
    assert ((tmp_path / "a.hangs").read_text(), (tmp_path / "b.stops").read_text()) == ("xx", "xx")
    logs = [path.read_text(errors="replace") for path in session.logs.glob("worker-*.err")]
    assert any("in hang" in log for log in logs), "its stack trace is not in its log"


def test_a_worker_that_hangs_as_it_is_made_ends_the_start(session: Session) -> None:
    with pytest.raises(ResumableError, match="not ready after 1 s"):
        ActorPool(StuckWorker, (), num_actors=1, num_cpus=1, start_seconds=1.0)
    logs = [path.read_text(errors="replace") for path in session.logs.glob("worker-*.err")]
    assert any("in oversleep" in log for log in logs), "its stack trace is not in its log"


def test_a_unit_that_kills_its_actor_twice_fails_and_the_rest_is_done(pool: ActorPool, folder: Path) -> None:
    seen: list[str] = []
    rest = [f"rest{i}" for i in range(8)]
    units = [*units_of(["crash"], "die"), *units_of(rest)]
    with pytest.raises(ResumableError, match=r"crash \(its actor died\)") as raised:
        pool.run(units, lambda receipt: seen.append(receipt.unit))
    assert "rest" not in str(raised.value)
    assert sorted(seen) == rest
    assert len((folder / "crash.deaths").read_text()) >= 2


def test_failing_rows_are_found_and_the_rest_of_their_shard_completes(session: Session, tmp_path: Path) -> None:
    bad = {"b": {3: "death"}, "d": {0: "exception"}}
    units = [Unit(name, "copy", (name, 4), "", num_rows=4) for name in "abcdef"]
    with ActorPool(RowWorker, (str(tmp_path), bad), num_actors=2, num_cpus=1) as pool:
        pool.meter = Meter(24)
        receipts = pool.run(units, ignore)
        seen = pool.meter.snapshot()
    assert sorted(receipt.unit for receipt in receipts) == list("abcdef")
    for name in "abcdef":
        rows = [int(line) for line in (tmp_path / f"{name}.out").read_text().split()]
        assert rows == [row for row in range(4) if row not in bad.get(name, {})]
    assert (tmp_path / "b.failing").read_text() == "3 its actor died\n"
    assert (tmp_path / "d.failing").read_text() == "0 ValueError: row 0 is bad\n"
    assert (seen.items, seen.refused, seen.restarts) == (24, 2, pool.restarts)
    assert seen.restarts >= 5 + 4  # a death alone divides nothing, an exception does


def test_where_everything_fails_the_run_stops_and_blames_no_row(session: Session, tmp_path: Path) -> None:
    bad = {name: dict.fromkeys(range(2), "exception") for name in "abcdefgh"}
    units = [Unit(name, "copy", (name, 2), "", num_rows=2) for name in "abcdefgh"]
    with (
        ActorPool(RowWorker, (str(tmp_path), bad), num_actors=1, num_cpus=1) as pool,
        pytest.raises(ResumableError, match=r"failures in a row and no success, the last: .*ValueError: row"),
    ):
        pool.run(units, ignore)
    assert pool.restarts == FAILURES_IN_A_ROW + 1
    assert not list(tmp_path.glob("*.out"))


def test_a_full_disk_stops_the_run_and_blames_no_row(pool: ActorPool) -> None:
    restarts = pool.restarts
    with pytest.raises(ResumableError, match=r"unit full.*No space left on device"):
        pool.run([Unit("full", "fill", ("full",), "", num_rows=1)], ignore)
    assert pool.restarts == restarts


def test_an_unexpected_error_is_reported_with_the_unit(pool: ActorPool) -> None:
    with pytest.raises(ResumableError, match=r"1 units .*odd \(RuntimeError: broken at odd\)"):
        pool.run([*units_of(["odd"], "break_"), *units_of(["even"])], ignore)


def test_units_of_one_affinity_stay_with_one_actor(pool: ActorPool, folder: Path) -> None:
    # each actor holds one long unit at first, so that neither has cause to steal from the other
    gates = [Unit(f"gate{side}", "wait", (f"gate{side}",), side) for side in "ab"]
    (folder / "release").unlink(missing_ok=True)

    def open_gates() -> None:
        for side in "ab":
            wait_for(folder / f"gate{side}.pid")
        (folder / "release").touch()

    mixed = [unit for i in range(3) for side in "ab" for unit in units_of([f"{side}{i}"], affinity=side)]
    with meanwhile(open_gates):
        receipts = pool.run([*gates, *mixed], ignore)
    homes = {side: {r.node for r in receipts if r.unit in (f"{side}0", f"gate{side}")} for side in "ab"}
    assert len(homes["a"]) == len(homes["b"]) == 1
    assert homes["a"] != homes["b"]


def test_an_idle_actor_takes_work_from_a_long_queue(pool: ActorPool, folder: Path) -> None:
    (folder / "release").unlink(missing_ok=True)
    units = [*units_of(["hold"], "wait", "one"), *units_of([f"steal{i}" for i in range(6)], affinity="one")]
    seen: list[str] = []

    def on_receipt(receipt: ShardReceipt) -> None:
        seen.append(receipt.unit)
        if len(seen) == 5:  # all but the held unit and the one queued behind it, so the other actor did them
            (folder / "release").touch()

    pool.run(units, on_receipt)
    assert len(seen) == 7
    assert "hold" not in seen[:5]


class Ticket:
    """An argument that counts how often one of its kind was sent to an actor."""

    sent = 0

    def __reduce__(self) -> tuple[type, tuple[()]]:
        Ticket.sent += 1
        return str, ()


def test_a_slow_store_holds_the_driver_back(pool: ActorPool, folder: Path) -> None:
    (folder / "release").unlink(missing_ok=True)
    done: list[int] = []
    pool.meter = meter = Meter(9)

    def look() -> None:
        try:  # which of its two units an actor begins first is Ray's choice
            wait_until(lambda: len(list(folder.glob("late*.pid"))) == 2, "each actor works on a unit")
            wait_until(lambda: Ticket.sent >= 4, "each actor has one unit queued")
            time.sleep(1.0)
            done.extend([Ticket.sent, meter.snapshot().in_flight])
        finally:
            (folder / "release").touch()

    units = [Unit(f"late{i}", "late", (f"late{i}", Ticket()), "") for i in range(9)]
    with meanwhile(look):
        pool.run(units, ignore)
    pool.meter = None
    assert done == [4, 4]
    assert Ticket.sent == 9


def test_an_error_of_the_input_arrives_as_it_was_raised(pool: ActorPool) -> None:
    with pytest.raises(InputError) as raised:
        pool.run(units_of(["row 7"], "refuse"), ignore)
    assert (raised.value.what, raised.value.where, raised.value.hint) == ("bad row", "row 7", "fix it")


def test_an_error_of_one_group_ends_that_group_alone(pool: ActorPool, folder: Path) -> None:
    """A checkpoint that does not fit: its units fail, those of other checkpoints are done, the error is raised last."""
    sound = units_of([f"sound{i}" for i in range(4)], affinity="good")
    bad = [*units_of(["bad0", "bad1"], "refuse", affinity="bad"), *units_of(["never"], affinity="bad")]
    seen: list[str] = []
    with pytest.raises(InputError, match="bad row"):
        pool.run([*bad, *sound], lambda receipt: seen.append(receipt.unit))
    assert set(seen) >= {unit.name for unit in sound}
    worse = units_of(["worse"], "refuse", affinity="worse")
    with pytest.raises(InputError) as raised:
        pool.run([*bad[:2], *worse], ignore)
    assert "worse" in raised.value.what and raised.value.what.count("bad row") == 2


def test_what_fails_a_group_is_reported_by_its_affinity(pool: ActorPool) -> None:
    failing = [*units_of(["bad"], "refuse", affinity="bad"), *units_of(["broken"], "break_", affinity="worse")]
    errors: dict[str, InputError | ResumableError] = {}
    done = pool.run([*failing, *units_of(["fine"], affinity="good")], ignore, errors)
    assert [receipt.unit for receipt in done] == ["fine"]
    assert {name: type(error) for name, error in errors.items()} == {"bad": InputError, "worse": ResumableError}


@pytest.mark.parametrize("kind", ["hangs", "fails"])
def test_an_actor_works_as_soon_as_it_is_ready_whatever_the_others_do(
    session: Session, tmp_path: Path, kind: str
) -> None:
    with ActorPool(PickyWorker, (str(tmp_path), kind), num_actors=3, num_cpus=1) as pool:
        receipts = pool.run(units_of([f"u{at}" for at in range(8)], "doze", args=(0.5,)), ignore)
        assert len(receipts) == 8 and len({receipt.node for receipt in receipts}) == 1
        assert any("no room here" in problem for problem in pool.problems) == (kind == "fails")


def test_an_actor_that_has_no_place_does_not_hold_the_others(session: Session, tmp_path: Path) -> None:
    with ActorPool(FileWorker, (str(tmp_path),), num_actors=40, num_cpus=1, place_seconds=60) as pool:
        assert len(pool.run(units_of([f"u{at}" for at in range(40)]), ignore)) == 40


def test_units_of_a_wide_pool_run_at_once_and_calls_beside_them(session: Session, tmp_path: Path) -> None:
    with ActorPool(FileWorker, (str(tmp_path),), num_actors=1, num_cpus=1, width=3) as pool:
        asked: list[str] = []

        def look() -> None:
            for at in range(3):
                wait_for(tmp_path / f"u{at}.pid")
            asked.append(ray.get(pool.ask("write", ("note",))).unit)
            (tmp_path / "release").touch()

        with meanwhile(look):
            receipts = pool.run([*units_of([f"u{at}" for at in range(3)], "wait"), *units_of(["last"])], ignore)
        assert asked == ["note"] and len(receipts) == 4


def test_rows_are_counted_while_their_unit_is_not_finished(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.pool.PROGRESS_SECONDS", 0.1)
    with ActorPool(CountingWorker, (str(tmp_path),), num_actors=1, num_cpus=1, width=2) as pool:
        pool.meter = meter = Meter(1)
        seen: list[int] = []

        def look() -> None:
            seen.append(meter.snapshot().answered)
            (tmp_path / "release").touch()

        meter.on_change = look
        pool.run(units_of(["slow"], "wait"), ignore)
    assert seen[0] == max(seen) == 3 and meter.snapshot().answered == 1  # no row of the finished unit counts twice


def test_a_death_under_several_units_costs_each_another_try(session: Session, tmp_path: Path) -> None:
    with ActorPool(FileWorker, (str(tmp_path),), num_actors=1, num_cpus=1, width=3) as pool:
        units = [*units_of(["a", "b"], "wait"), *units_of(["crash"], "die"), *units_of(["c"])]
        threading.Timer(1.0, (tmp_path / "release").touch).start()
        with pytest.raises(ResumableError, match=r"1 units failed, each twice: crash"):
            pool.run(units, ignore)
        assert all((tmp_path / name).exists() for name in "abc")


def test_a_stream_yields_as_it_comes_and_ends_with_who_reads_it(session: Session, tmp_path: Path) -> None:
    with ActorPool(FileWorker, (str(tmp_path),), num_actors=1, num_cpus=1, width=2) as pool:
        assert [ray.get(ref) for ref in pool.ask_stream("count", ("whole", 5))] == [0, 1, 2, 3, 4]
        items = pool.ask_stream("count", ("cut", 1000))
        assert ray.get(next(items)) == 0
        ray.cancel(items)
        assert wait_for(tmp_path / "cut.ended") == "CancelledCallError"
        with pytest.raises(InputError, match="bad row"):
            list(map(ray.get, pool.ask_stream("refuse", ("row",))))


def test_an_error_of_the_constructor_arrives_as_it_was_raised(session: Session) -> None:
    with pytest.raises(InputError, match="no such folder"):
        ActorPool(FileWorker, ("/no/such/folder",), num_actors=1, num_cpus=1)


def test_a_pool_that_has_no_place_says_so(session: Session, folder: Path) -> None:
    with pytest.raises(ResumableError, match=r"no room for any of 2 actors \(7 CPUs, 0 GPUs each.*; free are \d CPUs"):
        ActorPool(FileWorker, (str(folder),), num_actors=2, num_cpus=7, place_seconds=1)


def test_a_closed_pool_leaves_no_process_behind(session: Session, folder: Path) -> None:
    free = ray.available_resources()["CPU"]
    with ActorPool(FileWorker, (str(folder),), num_actors=2, num_cpus=1) as pool:
        processes = [psutil.Process(actor.pid) for actor in pool.states()]
        assert all(process.is_running() for process in processes)
        with pytest.raises(InputError):  # closed in mid-work, one unit running and another queued
            pool.run([*units_of(["row 8"], "refuse"), *units_of(["a", "b", "c"], "doze", args=(1000,))], ignore)
    wait_until(lambda: not any(map(is_alive, processes)), "an actor lives on")
    wait_until(lambda: ray.available_resources().get("CPU", 0) == free, "places are not given back")


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_an_address_where_nobody_listens_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cluster.session import connect\n"
        "from data.errors import InputError\n"
        "try:\n"
        "    with connect(address='127.0.0.1:9', log_dir=Path(sys.argv[1])): pass\n"
        "except InputError as error: print(error.where)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "address 127.0.0.1:9"
