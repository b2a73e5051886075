"""Detection of ranks that hang: their stacks are written to a file and their processes ended.

Each rank writes what it is doing into `rank-*.heartbeat`. If it makes no progress for too long, it writes the stacks of
its threads into `rank-*.stacks` and exits; the group is then restarted from the last training state. A rank that cannot
even exit (stopped, or stuck in the kernel) is found by the driver from its heartbeat.
"""

import faulthandler
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_HEARTBEAT, _STACKS = "rank-*.heartbeat", "rank-{}.stacks"
_DRIVER_PATIENCE = 1.5  # the driver waits longer than a rank: one that ends by itself leaves its stacks
PHASE = 4.0  # times as long as a step: phases before, between and after the steps read and write whole models


@dataclass(frozen=True, slots=True)
class RankStatus:
    """A rank's last heartbeat. Producer: `Heartbeat`. Consumer: `StallDetector`.

    `doing` is a phrase for messages, `seconds` the time that it may take. `node` is Ray's id of its node, if any.
    """

    rank: int
    doing: str
    seconds: float
    pid: int
    node: str


class Heartbeat:
    """Writes one rank's heartbeat. Without `stall_seconds` it does nothing.

    SIGUSR1 makes the process write its stacks without ending it.
    """

    def __init__(self, folder: Path, rank: int, stall_seconds: float | None, node: str = "") -> None:
        self._stall_seconds, self._armed, self._allowed = stall_seconds, -float("inf"), 0.0
        if stall_seconds is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._tail = f"|{os.getpid()}|{node or '-'}"
        path = folder / _HEARTBEAT.replace("*", str(rank))
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._stacks = (folder / _STACKS.format(rank)).open("a")
        faulthandler.register(signal.SIGUSR1, file=self._stacks, all_threads=True)

    def beat(self, doing: str, patience: float = 1.0) -> None:
        """Report what begins now; it may take `patience` times the time of a step."""
        if self._stall_seconds is None:
            return
        allowed = self._stall_seconds * patience
        # Lines of one length: a shorter one would leave the end of a longer one behind it.
        os.pwrite(self._file, f"{doing:40.40}|{allowed:12.2f}{self._tail}\n".encode(), 0)
        now = time.monotonic()
        # Arming starts a thread, which would slow down fast steps.
        if now - self._armed > allowed / 4 or allowed != self._allowed:
            self._armed, self._allowed = now, allowed
            # A C thread: it runs even while Python is blocked in a call that never returns.
            faulthandler.dump_traceback_later(allowed, exit=True, file=self._stacks)

    def pause(self) -> None:
        """Nothing is in progress: there is no limit until the next beat."""
        if self._stall_seconds is not None:
            faulthandler.cancel_dump_traceback_later()
            self._armed = -float("inf")
            os.ftruncate(self._file, 0)


class Phases:
    """Times the phases of a run besides its steps, and reports each to the heartbeat."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat, self._name, self._since = heartbeat, "", time.perf_counter()
        self._seconds: dict[str, float] = {}

    def enter(self, name: str) -> None:
        """End the current phase and begin this one."""
        now = time.perf_counter()
        if self._name:
            self._seconds[self._name] = self._seconds.get(self._name, 0.0) + now - self._since
        self._name, self._since = name, now
        self._heartbeat.beat(name, PHASE)

    def seconds(self) -> dict[str, float]:
        """Seconds of the phases that have ended, by name."""
        return {name: round(seconds, 3) for name, seconds in self._seconds.items()}


class StallDetector:
    """Finds ranks whose heartbeat does not change, by the driver's clock alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._since: dict[RankStatus, float] = {}

    def stalled(self, now: float) -> list[RankStatus]:
        """The ranks that have exceeded their time at the time `now`, in seconds; each is reported once."""
        self._since = {status: self._since.get(status, now) for status in read_statuses(self._folder)}
        found = [status for status, since in self._since.items() if now - since > status.seconds * _DRIVER_PATIENCE]
        self._since |= dict.fromkeys(found, float("inf"))
        return found


def read_statuses(folder: Path) -> list[RankStatus]:
    """The last heartbeats of all ranks that are working."""
    found = []
    for path in sorted(folder.glob(_HEARTBEAT)):
        fields = [field.strip() for field in path.read_text().split("|")]
        if len(fields) == 4:
            rank = int(path.stem.partition("-")[2])
            found.append(RankStatus(rank, fields[0], float(fields[1]), int(fields[2]), fields[3]))
    return found


def stacks_written(folder: Path) -> list[Path]:
    """The files with stacks of ranks that hung."""
    return sorted(path for path in folder.glob(_STACKS.format("*")) if path.stat().st_size)


def kill_worker(pid: int) -> bool:
    """Kill a Ray worker on this node that hangs; False if the process is no Ray worker or is gone."""
    try:
        if not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
            return False
        os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True
