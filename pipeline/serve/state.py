"""What is known of a service that stays up: its state file, its key, its processes.

All in `$XDG_STATE_HOME/entail/serve/` (default `~/.local/state/...`), a folder for its owner alone: NAME.json,
NAME.key (mode 600), NAME.lock (held while the service lives), NAME.log, NAME.failed (why it could not start).
"""

import fcntl
import json
import os
import re
import secrets
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from data.errors import InputError
from data.store import write_json

POLL_SECONDS = 0.1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """One process, told apart from a later one of the same number by when it began (clock ticks since the boot)."""

    pid: int
    began: str

    @property
    def is_alive(self) -> bool:
        """Whether this very process runs; one that has ended and was not collected yet does not."""
        found = _stat(self.pid)
        return found is not None and found.process == self and found.state != "Z"

    def end_softly(self) -> None:
        """Ask it to end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it, whatever it does."""
        self._send(signal.SIGKILL)

    def _send(self, what: signal.Signals) -> None:
        if self.is_alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, what)


@dataclass(frozen=True, slots=True)
class _Stat:
    process: Process
    parent: int
    state: str


@dataclass(frozen=True, slots=True)
class ServiceState:
    """A service. Producer: `pipeline.serve.daemon`. Consumers: `serve up|status|down`, `pipeline.residency`.

    `url` is "" until it answers. `address` is that of its Ray session, `weights` the base model's fingerprint.
    `processes` are all those that it started on this machine, engines and Ray's among them.
    """

    name: str
    daemon: Process
    model: str
    model_name: str
    weights: str
    kind: str
    since: float
    address: str = ""
    url: str = ""
    processes: tuple[Process, ...] = ()

    @property
    def key_path(self) -> Path:
        """Where its key lies."""
        return state_folder() / f"{self.name}.key"

    @property
    def root_url(self) -> str:
        """The URL without OpenAI's part."""
        return self.url.removesuffix("/v1")

    def with_processes(self, processes: Iterable[Process]) -> Self:
        """The same service with other processes."""
        return replace(self, processes=tuple(sorted(processes)))

    def save(self) -> None:
        """Write the state file."""
        write_json(_path(self.name), asdict(self))

    def remaining(self) -> list[Process]:
        """Those of its processes that are alive, the daemon first."""
        return [process for process in (self.daemon, *self.processes) if process.is_alive]


def state_folder() -> Path:
    """The folder of all services of this user, made for its owner alone."""
    home = os.environ.get("XDG_STATE_HOME")
    folder = (Path(home) if home else Path.home() / ".local" / "state") / "entail" / "serve"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    return folder


def log_path(name: str) -> Path:
    """What a service of that name says."""
    return state_folder() / f"{name}.log"


def failure_path(name: str) -> Path:
    """Why a service of that name could not start."""
    return state_folder() / f"{name}.failed"


def check_name(name: str) -> str:
    """The name, if a file may bear it."""
    if not NAME.fullmatch(name):
        raise InputError(
            f'"{name}" is no name for a service', where="--name", hint="use up to 40 letters, digits, dots and dashes"
        )
    return name


def read_state(name: str) -> ServiceState | None:
    """What the state file says, whether it is still true or not."""
    try:
        content: dict[str, Any] = json.loads(_path(check_name(name)).read_text())
    except FileNotFoundError:
        return None
    daemon = Process(**content.pop("daemon"))
    processes = tuple(Process(**process) for process in content.pop("processes"))
    return ServiceState(**content, daemon=daemon, processes=processes)


def find_service(name: str) -> ServiceState | None:
    """The service of that name, if it is up and answers."""
    state = read_state(name)
    return state if state is not None and state.url and state.daemon.is_alive else None


def all_names() -> list[str]:
    """The names of which there are state files."""
    return sorted(path.stem for path in state_folder().glob("*.json"))


def forget(state: ServiceState, patience_seconds: float = 10.0) -> list[Process]:
    """End what is left of a service whose daemon is gone, and its files; returns the processes that would not go."""
    end = time.monotonic() + patience_seconds
    while (left := state.remaining()) and time.monotonic() < end:
        for process in left:
            process.kill()
        time.sleep(POLL_SECONDS)
    if not left:
        remove_files(state.name)
    return left


def remove_files(name: str) -> None:
    """Remove the state and the key; the log stays for its reader."""
    for suffix in ("key", "json"):
        (state_folder() / f"{name}.{suffix}").unlink(missing_ok=True)


@contextmanager
def hold(name: str) -> Iterator[None]:
    """Be the service of that name for the length of a block; the hold ends with the process in any case."""
    with (state_folder() / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            hint = f"see `entail serve status`, or end it: entail serve down --name {name}"
            raise InputError("a service of this name is up, or starting", where=f"--name {name}", hint=hint) from error
        yield


def make_key(path: Path) -> str:
    """A new random key in a new file that its owner alone can read."""
    path.unlink(missing_ok=True)
    key = secrets.token_urlsafe(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key + "\n")
    return key


def this_process() -> Process:
    """The process that asks."""
    found = _stat(os.getpid())
    assert found is not None
    return found.process


def descendants(root: int) -> tuple[Process, ...]:
    """All processes that `root` started, those that they started, and so on, in the order of their numbers."""
    stats = [found for path in Path("/proc").iterdir() if path.name.isdecimal() and (found := _stat(int(path.name)))]
    family, grown = {root}, True
    while grown:
        members = {found.process.pid for found in stats if found.parent in family}
        grown = not members <= family
        family |= members
    return tuple(sorted(found.process for found in stats if found.process.pid in family - {root}))


def _path(name: str) -> Path:
    return state_folder() / f"{name}.json"


def _stat(pid: int) -> _Stat | None:
    try:
        content = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the name in the brackets may hold anything; after it: state, parent, ..., start time as the 20th
    fields = content.rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    return _Stat(Process(pid, f"{boot}-{fields[19]}"), parent=int(fields[1]), state=fields[0])
