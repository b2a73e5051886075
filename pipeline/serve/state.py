"""A service that stays up: its request, its state file, its key, its processes.

All in `$XDG_STATE_HOME/entail/serve/` (default `~/.local/state/...`), a folder of mode 700: NAME.json, NAME.key (mode
600), NAME.lock (held while the service lives), NAME.log, NAME.failed (why it could not start).
"""

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

from augment_service.engines.protocol import EngineSpec
from cluster.locks import hold_lock, home_folder, private_folder
from data.errors import InputError
from data.store import write_json

POLL_SECONDS = 0.1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """One process, distinguished from a later one of the same number by its start (clock ticks since the boot)."""

    pid: int
    began: str

    @property
    def is_alive(self) -> bool:
        """Whether this very process runs; a zombie does not."""
        found = _stat(self.pid)
        return found is not None and found.process == self and found.state != "Z"

    def end_softly(self) -> None:
        """Ask it to end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._send(signal.SIGKILL)

    def _send(self, what: signal.Signals) -> None:
        if self.is_alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, what)


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """What to serve, and where. Producer: `serve up`. Consumer: `pipeline.serve.daemon`. Crosses a process as JSON.

    `model` is the name that clients use, `spec.model` its folder; `engines` is an upper limit.
    """

    name: str
    model: str
    spec: EngineSpec
    address: str | None
    engines: int | None
    port: int
    deadline_seconds: float | None
    start_seconds: float

    def to_json(self) -> str:
        """One line of text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        content: dict[str, Any] = json.loads(text)
        return cls(**{**content, "spec": EngineSpec(**content["spec"])})


@dataclass(frozen=True, slots=True)
class _Stat:
    process: Process
    parent: int
    state: str


@dataclass(frozen=True, slots=True)
class ServiceState:
    """A service. Producer: `pipeline.serve.daemon`. Consumers: `serve up|status|down`, `pipeline.residency`.

    `url` is "" until it answers. `address` is that of its Ray session, `weights` the base model's fingerprint.
    `processes` are all that it started on this machine, including engines and Ray's own.
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
        """The file of its key."""
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
    """The folder of all services of this user, of mode 700; below the temporary folder without a writable home."""
    chosen = os.environ.get("XDG_STATE_HOME")
    home = home_folder()
    return private_folder(Path(chosen) if chosen else home and home / ".local" / "state", "entail", "serve")


def log_path(name: str) -> Path:
    """The log of a service of that name."""
    return state_folder() / f"{name}.log"


def failure_path(name: str) -> Path:
    """Why a service of that name could not start."""
    return state_folder() / f"{name}.failed"


def check_name(name: str) -> str:
    """The name, if it is fit for a file name. Raises InputError."""
    if not NAME.fullmatch(name):
        raise InputError(
            f'"{name}" is not a valid name for a service',
            where="--name",
            hint="use up to 40 letters, digits, dots and dashes",
        )
    return name


def read_state(name: str) -> ServiceState | None:
    """The content of the state file, which may be outdated; None without one."""
    try:
        content: dict[str, Any] = json.loads(_path(check_name(name)).read_text())
    except FileNotFoundError:
        return None
    daemon = Process(**content.pop("daemon"))
    processes = tuple(Process(**process) for process in content.pop("processes"))
    return ServiceState(**content, daemon=daemon, processes=processes)


def find_service(name: str) -> ServiceState | None:
    """The service of that name, if it is up."""
    state = read_state(name)
    return state if state is not None and state.url and state.daemon.is_alive else None


def all_names() -> list[str]:
    """The names of all state files."""
    return sorted(path.stem for path in state_folder().glob("*.json"))


def forget(state: ServiceState, patience_seconds: float = 10.0) -> list[Process]:
    """Kill the remaining processes of a service whose daemon is gone, and remove its files; returns those left."""
    end = time.monotonic() + patience_seconds
    while (left := state.remaining()) and time.monotonic() < end:
        for process in left:
            process.kill()
        time.sleep(POLL_SECONDS)
    if not left:
        remove_files(state.name)
    return left


def remove_files(name: str) -> None:
    """Remove the state and the key; the log stays."""
    for suffix in ("key", "json"):
        (state_folder() / f"{name}.{suffix}").unlink(missing_ok=True)


@contextmanager
def hold(name: str) -> Iterator[None]:
    """Be the only service of that name for the length of a block. Raises InputError if there is another."""
    hint = f"see `entail serve status`, or end it: entail serve down --name {name}"
    message, where = "a service of this name is up or starting", f"--name {name}"
    with hold_lock(state_folder() / f"{name}.lock", message, where=where, hint=hint):
        yield


def make_key(path: Path) -> str:
    """A new random key in a new file of mode 600."""
    path.unlink(missing_ok=True)
    key = secrets.token_urlsafe(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key + "\n")
    return key


def this_process() -> Process:
    """The calling process."""
    found = _stat(os.getpid())
    assert found is not None
    return found.process


def descendants(root: int) -> tuple[Process, ...]:
    """All processes below `root`, in the order of their numbers."""
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
    # the name in brackets may contain anything; after it: state, parent, ..., start time as the 20th
    fields = content.rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    return _Stat(Process(pid, f"{boot}-{fields[19]}"), parent=int(fields[1]), state=fields[0])
