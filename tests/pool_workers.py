"""Workers for the pool's tests: plain classes that write text files, and fail in the ways in which workers fail."""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.cancellation import check_cancelled
from cluster.schedule import Unit
from data.errors import InputError
from data.records import ShardReceipt

WAIT_SECONDS = 60.0


class FileWorker:
    """A worker that writes one file per unit, and dies, hangs or refuses on request."""

    def __init__(self, folder: str) -> None:
        if not Path(folder).is_dir():
            raise InputError("no such folder", where=folder, hint="make it")
        self._folder = Path(folder)

    def write(self, name: str) -> ShardReceipt:
        """A unit that ends well."""
        (self._folder / name).write_text(str(os.getpid()))
        return ShardReceipt(name, str(self._folder / name), 1, 0.0, str(os.getpid()))

    def wait(self, name: str) -> ShardReceipt:
        """A unit that runs until the file `release` is there; writes its process id first."""
        (self._folder / f"{name}.pid").write_text(str(os.getpid()))
        while not (self._folder / "release").exists():
            time.sleep(0.05)
        return self.write(name)

    def late(self, name: str, ticket: str) -> ShardReceipt:
        """As `wait`; `ticket` is what the driver counts by."""
        return self.wait(f"{name}{ticket}")

    def count(self, name: str, number: int) -> Iterator[int]:
        """Numbers, one by one; between two, it looks whether anybody waits for them."""
        try:
            for at in range(number):
                yield at
                time.sleep(0.05)
                check_cancelled()
        except BaseException as error:
            (self._folder / f"{name}.ended").write_text(type(error).__name__)
            raise

    def say(self, name: str, line: str) -> ShardReceipt:
        """A unit that prints."""
        print(line, flush=True)
        return self.write(name)

    def doze(self, name: str, seconds: float) -> ShardReceipt:
        """A unit that takes some time."""
        time.sleep(seconds)
        return self.write(name)

    def die(self, name: str) -> ShardReceipt:
        """A unit that kills its process, every time."""
        self._note(f"{name}.deaths")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def hang(self, name: str) -> ShardReceipt:
        """A unit that hangs the first time."""
        if self._note(f"{name}.hangs") == 1:
            time.sleep(1000)
        return self.write(name)

    def stop(self, name: str) -> ShardReceipt:
        """A unit whose process is stopped the first time, so that it can do nothing at all."""
        if self._note(f"{name}.stops") == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return self.write(name)

    def refuse(self, name: str) -> ShardReceipt:
        """A unit whose input is wrong."""
        raise InputError("bad row", where=name, hint="fix it")

    def fill(self, name: str) -> ShardReceipt:
        """A unit that finds the disk full."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    def break_(self, name: str) -> ShardReceipt:
        """A unit that raises an unexpected error."""
        raise RuntimeError(f"broken at {name}")

    def once(self, name: str) -> ShardReceipt:
        """A unit that is not done again where its target exists; each real computation leaves a mark."""
        if not (self._folder / name).exists():
            self._note(f"{name}.computed")
            time.sleep(0.1)
            self.write(name)
        return ShardReceipt(name, str(self._folder / name), 1, 0.0, str(os.getpid()))

    def _note(self, name: str) -> int:
        with (self._folder / name).open("a") as file:
            file.write("x")
        return (self._folder / name).stat().st_size


class CountingWorker(FileWorker):
    """A worker that reports how many rows of its unfinished units are answered."""

    def progress(self) -> int:
        """Always the same number."""
        return 3


class PickyWorker(FileWorker):
    """A worker that is made where nobody else was yet; the other ones hang, or fail."""

    def __init__(self, folder: str, kind: str) -> None:
        super().__init__(folder)
        if self._note("made") > 1:
            if kind == "hangs":
                time.sleep(3600)
            raise RuntimeError("no room here")


class StuckWorker:
    """A worker that is never made."""

    def __init__(self) -> None:
        self.oversleep()

    def oversleep(self) -> None:
        """Far longer than any test."""
        time.sleep(3600)


class RowWorker:
    """A worker whose units can be divided: copies rows, and fails at bad ones by death or by an exception."""

    def __init__(self, folder: str, bad: dict[str, dict[int, str]]) -> None:
        self._folder, self._bad = Path(folder), bad

    def copy(
        self,
        name: str,
        num_rows: int,
        rows: tuple[int, int] | None = None,
        failing: dict[int, str] | None = None,
    ) -> ShardReceipt:
        """Rows 0 to `num_rows` of the shard `name`, one line for each; the contract of `cluster.schedule.Unit`."""
        parts = self._folder / "parts" / name
        if rows is not None:
            parts.mkdir(parents=True, exist_ok=True)
            text = "".join(self._row(name, row) for row in range(*rows))
            (parts / f"{rows[0]:08d}-{rows[1]:08d}").write_text(text)
            return self._receipt(name, rows[1] - rows[0])
        done = "".join(path.read_text() for path in sorted(parts.glob("*"))).splitlines()
        left = set(range(num_rows)) - set(failing or {}) - set(map(int, done))
        lines = [f"{row}\n" for row in map(int, done)] + [self._row(name, row) for row in sorted(left)]
        (self._folder / f"{name}.out").write_text("".join(sorted(lines, key=int)))
        (self._folder / f"{name}.failing").write_text("".join(f"{row} {why}\n" for row, why in (failing or {}).items()))
        return self._receipt(name, num_rows - len(failing or {}), len(failing or {}))

    def _row(self, name: str, row: int) -> str:
        how = self._bad.get(name, {}).get(row)
        if how == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exception":
            raise ValueError(f"row {row} is bad")
        return f"{row}\n"

    def _receipt(self, name: str, num_rows: int, num_refused: int = 0) -> ShardReceipt:
        return ShardReceipt(name, name, num_rows, 0.0, str(os.getpid()), num_refused, prompt_tokens=num_rows)


def units_of(names: list[str], method: str = "write", affinity: str = "", args: tuple[object, ...] = ()) -> list[Unit]:
    """One unit for each name."""
    return [Unit(name, method, (name, *args), affinity) for name in names]


def wait_for(path: Path) -> str:
    """The content of a file that another process will write."""
    wait_until(lambda: path.exists() and path.read_text() != "", f"{path} never came")
    return path.read_text()


def wait_until(is_so: Callable[[], bool], complaint: str) -> None:
    """Wait for something that another process will do."""
    end = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < end, complaint
        time.sleep(0.05)
