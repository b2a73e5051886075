"""The pool over real Ray actors: deaths lose nothing, poison is set aside, affinity holds, errors arrive as raised."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.pool import ActorPool, Unit
from cluster.session import Session, connect
from data.errors import InputError, ResumableError
from data.records import ShardReceipt

WAIT_SECONDS = 60.0


class Clerk:
    """A worker that writes one line per unit, and dies or refuses when it is told to."""

    def __init__(self, folder: str) -> None:
        if not Path(folder).is_dir():
            raise InputError("no such folder", where=folder, mend="make it")
        self._folder = Path(folder)

    def write(self, name: str) -> ShardReceipt:
        """A unit that ends well."""
        (self._folder / name).write_text(str(os.getpid()))
        return ShardReceipt(name, str(self._folder / name), 1, 0.0, str(os.getpid()))

    def wait(self, name: str) -> ShardReceipt:
        """A unit that runs until the file `release` is there; tells its process id first."""
        (self._folder / f"{name}.pid").write_text(str(os.getpid()))
        while not (self._folder / "release").exists():
            time.sleep(0.05)
        return self.write(name)

    def die(self, name: str) -> ShardReceipt:
        """A unit that kills its process, every time."""
        with (self._folder / f"{name}.deaths").open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def refuse(self, name: str) -> ShardReceipt:
        """A unit whose input is wrong."""
        raise InputError("bad row", where=name, mend="mend it")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the actors find `Clerk`
        with connect(address=None, log_dir=tmp_path_factory.mktemp("logs"), num_cpus=4) as session:
            yield session


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("desk")


@pytest.fixture(scope="module")
def pool(session: Session, folder: Path) -> Iterator[ActorPool]:
    with ActorPool(Clerk, (str(folder),), num_actors=2, num_cpus=1) as pool:
        yield pool


def units_of(names: list[str], method: str = "write", affinity: str = "") -> list[Unit]:
    return [Unit(name, method, (name,), affinity) for name in names]


def wait_for(path: Path) -> str:
    end = time.monotonic() + WAIT_SECONDS
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.05)
    return path.read_text()


def test_the_session_is_on_loopback_and_its_logs_are_found(session: Session) -> None:
    assert session.address.startswith("127.0.0.1:")
    assert session.cpus == 4
    assert list(session.logs.glob("*raylet*"))


def test_every_unit_is_done_once_and_reported(pool: ActorPool) -> None:
    seen: list[str] = []
    names = [f"plain{i}" for i in range(12)]
    receipts = pool.run(units_of(names), lambda receipt: seen.append(receipt.unit))
    assert sorted(seen) == sorted(names)
    assert [receipt.unit for receipt in receipts] == seen
    assert pool.run([], lambda receipt: None) == []


def test_a_killed_actor_loses_nothing(pool: ActorPool, folder: Path) -> None:
    victims: list[int] = []

    def kill() -> None:
        victims.append(int(wait_for(folder / "slow0.pid")))
        os.kill(victims[0], signal.SIGKILL)
        (folder / "release").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    units = [*units_of(["slow0", "slow1"], "wait"), *units_of([f"after{i}" for i in range(6)])]
    receipts = pool.run(units, lambda receipt: None)
    killer.join()
    assert sorted(receipt.unit for receipt in receipts) == sorted(unit.name for unit in units)
    assert str(victims[0]) not in {receipt.node for receipt in receipts if receipt.unit == "slow0"}


def test_poison_is_set_aside_after_two_deaths_and_the_rest_is_done(pool: ActorPool, folder: Path) -> None:
    seen: list[str] = []
    rest = [f"rest{i}" for i in range(8)]
    units = [*units_of(["poison"], "die"), *units_of(rest)]
    with pytest.raises(ResumableError, match="poison") as raised:
        pool.run(units, lambda receipt: seen.append(receipt.unit))
    assert "rest" not in str(raised.value)
    assert sorted(seen) == rest
    assert (folder / "poison.deaths").read_text() == "xx"


def test_units_of_one_affinity_stay_with_one_actor(pool: ActorPool, folder: Path) -> None:
    # each actor holds one long unit at first, so that neither has cause to steal from the other
    gates = [Unit(f"gate{side}", "wait", (f"gate{side}",), side) for side in "ab"]
    (folder / "release").unlink(missing_ok=True)

    def open_gates() -> None:
        for side in "ab":
            wait_for(folder / f"gate{side}.pid")
        release(folder)

    opener = threading.Thread(target=open_gates)
    opener.start()
    mixed = [unit for i in range(3) for side in "ab" for unit in units_of([f"{side}{i}"], affinity=side)]
    receipts = pool.run([*gates, *mixed], lambda receipt: None)
    opener.join()
    homes = {side: {r.node for r in receipts if r.unit in (f"{side}0", f"gate{side}")} for side in "ab"}
    assert len(homes["a"]) == len(homes["b"]) == 1
    assert homes["a"] != homes["b"]


def release(folder: Path) -> None:
    (folder / "release").touch()


def test_an_idle_actor_takes_work_from_a_long_queue(pool: ActorPool, folder: Path) -> None:
    (folder / "release").unlink(missing_ok=True)
    units = [*units_of(["hold"], "wait", "one"), *units_of([f"steal{i}" for i in range(6)], affinity="one")]
    seen: list[str] = []

    def on_receipt(receipt: ShardReceipt) -> None:
        seen.append(receipt.unit)
        if len(seen) == 5:  # all but the held unit and the one queued behind it, so the other actor did them
            release(folder)

    pool.run(units, on_receipt)
    assert len(seen) == 7
    assert "hold" not in seen[:5]


def test_an_error_of_the_input_arrives_as_it_was_raised(pool: ActorPool) -> None:
    with pytest.raises(InputError) as raised:
        pool.run(units_of(["row 7"], "refuse"), lambda receipt: None)
    assert (raised.value.what, raised.value.where, raised.value.mend) == ("bad row", "row 7", "mend it")


def test_an_error_of_the_constructor_arrives_as_it_was_raised(session: Session) -> None:
    with pytest.raises(InputError, match="no such folder"):
        ActorPool(Clerk, ("/no/such/folder",), num_actors=1, num_cpus=1)


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
