"""Ranks that stop making progress: noticed, their stacks written down, their processes ended.

Each rank writes what it is doing into `rank-*.pulse` and, when it has made none for too long, the stacks of its threads
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
PHASE = 4.0  # times as long as a step: what comes before, between and after the steps reads and writes whole models


@dataclass(frozen=True, slots=True)
class Beat:
    """A rank's last sign of life. Producer: `Pulse`. Consumer: `Watch`.

    `doing` is a word for people, `seconds` the time that it may take. `node` is Ray's id of its node, if any.
    """

    rank: int
    doing: str
    seconds: float
    pid: int
    node: str


class Pulse:
    """One rank's pulse. Without `stall_seconds` it does nothing.

    Sending the process SIGUSR1 writes its stacks, too, and ends nothing.
    """

    def __init__(self, folder: Path, rank: int, stall_seconds: float | None, node: str = "") -> None:
        self._stall_seconds, self._armed, self._allowed = stall_seconds, -float("inf"), 0.0
        if stall_seconds is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._tail = f"|{os.getpid()}|{node or '-'}"
        self._pulse = os.open(folder / _PULSE.replace("*", str(rank)), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._stacks = (folder / _STACKS.format(rank)).open("a")
        faulthandler.register(signal.SIGUSR1, file=self._stacks, all_threads=True)

    def beat(self, doing: str, patience: float = 1.0) -> None:
        """Something begins: from now on there is time for it, `patience` times as much as for a step."""
        if self._stall_seconds is None:
            return
        allowed = self._stall_seconds * patience
        # As long as the line before it, or longer lines would show behind shorter ones.
        os.pwrite(self._pulse, f"{doing:40.40}|{allowed:12.2f}{self._tail}\n".encode(), 0)
        now = time.monotonic()
        # Arming starts a thread, which fast steps would feel.
        if now - self._armed > allowed / 4 or allowed != self._allowed:
            self._armed, self._allowed = now, allowed
            # A thread of C: it runs even while Python is held up in a call that never returns.
            faulthandler.dump_traceback_later(allowed, exit=True, file=self._stacks)

    def rest(self) -> None:
        """Nothing is under way: what comes now may take as long as it likes."""
        if self._stall_seconds is not None:
            faulthandler.cancel_dump_traceback_later()
            self._armed = -float("inf")
            os.ftruncate(self._pulse, 0)


class Phases:
    """What a run does before, between and after its steps, one after another, and how long each took."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse, self._name, self._since = pulse, "", time.perf_counter()
        self._seconds: dict[str, float] = {}

    def enter(self, name: str) -> None:
        """The phase before is over, this one begins."""
        now = time.perf_counter()
        if self._name:
            self._seconds[self._name] = self._seconds.get(self._name, 0.0) + now - self._since
        self._name, self._since = name, now
        self._pulse.beat(name, PHASE)

    def seconds(self) -> dict[str, float]:
        """Seconds of the phases that are over, by name."""
        return {name: round(seconds, 3) for name, seconds in self._seconds.items()}


class Watch:
    """The driver's look at the pulses in a folder. It compares them with its own clock only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._since: dict[Beat, float] = {}

    def look(self, now: float) -> list[Beat]:
        """The beats that have stood still for too long at the time `now`, in seconds; each is told once."""
        self._since = {beat: self._since.get(beat, now) for beat in read_beats(self._folder)}
        stuck = [beat for beat, since in self._since.items() if now - since > beat.seconds * _PATIENCE]
        self._since |= dict.fromkeys(stuck, float("inf"))
        return stuck


def read_beats(folder: Path) -> list[Beat]:
    """The last beats of all ranks that are at work on something."""
    beats = []
    for path in sorted(folder.glob(_PULSE)):
        words = [word.strip() for word in path.read_text().split("|")]
        if len(words) == 4:
            rank = int(path.stem.partition("-")[2])
            beats.append(Beat(rank, words[0], float(words[1]), int(words[2]), words[3]))
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
