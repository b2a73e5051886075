"""Ranks that stop making progress: noticed, their stacks written down, their processes ended.

Each rank writes its newest step into `rank-*.pulse` and, when it has made none for too long, the stacks of its threads
into `rank-*.stacks`, and exits: whoever started the group starts it again, from the last training state. A rank that is
too stuck even for that (stopped, or deep in the kernel) is told from its pulse by the driver.
"""

import faulthandler
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_PULSE, _STACKS = "rank-*.pulse", "rank-{}.stacks"
_PATIENCE = 1.5  # the driver waits longer than a rank does: who can end by itself has written its stacks


@dataclass(frozen=True, slots=True)
class Beat:
    """A rank's last sign of life. Producer: `Pulse`. Consumer: `Watch`. `node` is Ray's id of its node, if any."""

    rank: int
    step: int
    pid: int
    node: str


class Pulse:
    """One rank's pulse. Without `stall_seconds` it does nothing.

    Sending the process SIGUSR1 writes its stacks, too, and ends nothing.
    """

    def __init__(self, folder: Path, rank: int, stall_seconds: float | None, node: str = "") -> None:
        self._stall_seconds, self._armed = stall_seconds, -float("inf")
        if stall_seconds is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._tail = f"{os.getpid()} {node or '-'}"
        self._pulse = os.open(folder / _PULSE.replace("*", str(rank)), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._stacks = (folder / _STACKS.format(rank)).open("a")
        faulthandler.register(signal.SIGUSR1, file=self._stacks, all_threads=True)

    def beat(self, step: int) -> None:
        """The step begins: from now on there is time for it."""
        if self._stall_seconds is None:
            return
        os.pwrite(self._pulse, f"{step:12d} {self._tail}\n".encode(), 0)
        now = time.monotonic()
        if now - self._armed > self._stall_seconds / 4:  # arming starts a thread, which fast steps would feel
            self._armed = now
            # A thread of C: it runs even while Python is held up in a call that never returns.
            faulthandler.dump_traceback_later(self._stall_seconds, exit=True, file=self._stacks)

    def rest(self) -> None:
        """No step is under way: what comes now may take as long as it likes."""
        if self._stall_seconds is not None:
            faulthandler.cancel_dump_traceback_later()
            self._armed = -float("inf")
            os.ftruncate(self._pulse, 0)


class Watch:
    """The driver's look at the pulses in a folder. It compares them with its own clock only."""

    def __init__(self, folder: Path, stall_seconds: float | None) -> None:
        self._folder, self._stall_seconds = folder, stall_seconds
        self._since: dict[Beat, float] = {}

    def look(self, now: float) -> list[Beat]:
        """The beats that have stood still for too long at the time `now`, in seconds; each is told once."""
        if self._stall_seconds is None:
            return []
        beats = read_beats(self._folder)
        self._since = {beat: self._since.get(beat, now) for beat in beats}
        stuck = [beat for beat, since in self._since.items() if now - since > self._stall_seconds * _PATIENCE]
        self._since |= dict.fromkeys(stuck, float("inf"))
        return stuck


def read_beats(folder: Path) -> list[Beat]:
    """The last beats of all ranks that are at work on a step."""
    beats = []
    for path in sorted(folder.glob(_PULSE)):
        words = path.read_text().split()
        if len(words) == 3:
            beats.append(Beat(int(path.stem.partition("-")[2]), int(words[0]), int(words[1]), words[2]))
    return beats


def stacks_written(folder: Path) -> list[Path]:
    """The files in which ranks that stood still left their stacks."""
    return sorted(path for path in folder.glob(_STACKS.format("*")) if path.stat().st_size)


def end_worker(pid: int) -> bool:
    """End a Ray worker on this node that no longer answers; False if no such process is a worker any more."""
    try:
        if not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
            return False
        os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True
