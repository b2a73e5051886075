"""A service that stays up: its request, its state file, its key, its processes.

All in `$XDG_STATE_HOME/entail/serve/` (default `~/.local/state/...`), a folder of mode 700: NAME.json, NAME.key (mode
600), NAME.lock (held while the service lives), NAME.log, NAME.failed (why it could not start).
"""

import os
import re
import secrets
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter

from augment_service.engines.protocol import EngineSpec
from cluster.locks import home_folder, private_folder
from data.errors import InputError
from data.store import write_json

POLL_SECONDS = 0.1
KILL_SECONDS = 10.0  # for killed processes to disappear
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
        return found is not None and found[0] == self and found[2] != "Z"

    def send(self, what: signal.Signals) -> None:
        """Send it a signal, if it is alive."""
        if self.is_alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, what)


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """What to serve, and where. Producer: `serve up`. Consumer: `pipeline.serve.daemon`. Crosses a process as JSON.

    `model` is the name that clients use, `spec.model` its folder; `engines` is an upper limit. A request over HTTP is
    answered or refused within `request_seconds`.
    """

    name: str
    model: str
    spec: EngineSpec
    address: str | None
    engines: int | None
    port: int
    deadline_seconds: float | None
    start_seconds: float
    request_seconds: float


@dataclass(frozen=True, slots=True)
class ServiceState:
    """A service. Producer: `pipeline.serve.daemon`. Consumers: `serve up|status|down`, the stages.

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
        return path_of(self.name, "key")

    @property
    def root_url(self) -> str:
        """The URL without OpenAI's part."""
        return self.url.removesuffix("/v1")

    def with_processes(self, processes: Iterable[Process]) -> Self:
        """The same service with other processes."""
        return replace(self, processes=tuple(sorted(processes)))

    def save(self) -> None:
        """Write the state file."""
        write_json(path_of(self.name, "json"), asdict(self))


def state_folder() -> Path:
    """The folder of all services of this user, of mode 700; below the temporary folder without a writable home."""
    chosen = os.environ.get("XDG_STATE_HOME")
    home = home_folder()
    return private_folder(Path(chosen) if chosen else home and home / ".local" / "state", "entail", "serve")


def path_of(name: str, suffix: str) -> Path:
    """A file of the service of that name; the suffixes are those above."""
    return state_folder() / f"{name}.{suffix}"


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
        return TypeAdapter(ServiceState).validate_json(path_of(check_name(name), "json").read_bytes())
    except FileNotFoundError:
        return None


def find_service(name: str) -> ServiceState | None:
    """The service of that name, if it is up."""
    state = read_state(name)
    return state if state is not None and state.url and state.daemon.is_alive else None


def all_names() -> list[str]:
    """The names of all state files."""
    return sorted(path.stem for path in state_folder().glob("*.json"))


def forget(state: ServiceState) -> list[Process]:
    """Kill the remaining processes of a service whose daemon is gone, and remove its files; returns those left."""
    end, ours = time.monotonic() + KILL_SECONDS, (state.daemon, *state.processes)
    while (left := [process for process in ours if process.is_alive]) and time.monotonic() < end:
        for process in left:
            process.send(signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    if not left:
        remove_files(state.name)
    return left


def remove_files(name: str) -> None:
    """Remove the state and the key; the log stays."""
    for suffix in ("key", "json"):
        path_of(name, suffix).unlink(missing_ok=True)


def make_key(path: Path) -> str:
    """A new random key in a new file of mode 600."""
    path.unlink(missing_ok=True)
    key = secrets.token_urlsafe(32)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(key + "\n")
    return key


def this_process() -> Process:
    """The calling process."""
    found = _stat(os.getpid())
    assert found is not None
    return found[0]


def descendants(root: int) -> tuple[Process, ...]:
    """All processes below `root`, in the order of their numbers."""
    stats = [found for path in Path("/proc").iterdir() if path.name.isdecimal() and (found := _stat(int(path.name)))]
    family, grown = {root}, True
    while grown:
        members = {process.pid for process, parent, _ in stats if parent in family}
        grown = not members <= family
        family |= members
    return tuple(sorted(process for process, *_ in stats if process.pid in family - {root}))


def _stat(pid: int) -> tuple[Process, int, str] | None:
    """The process of that number, its parent, its state."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the name in brackets may contain anything; after it: state, parent, ..., start time as the 20th
    fields = content.rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    return Process(pid, f"{boot}-{fields[19]}"), int(fields[1]), fields[0]
