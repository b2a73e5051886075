"""`serve up|status|down`: start a service that outlives the command, show it, end it.

Reads and writes the service's files (see `pipeline.serve.state`); talks to it over its own HTTP interface.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from augment_service.engines.protocol import EngineSpec
from cluster.pool import START_SECONDS
from cluster.session import REPOSITORY
from data.errors import InputError, ResumableError
from pipeline.serve.state import (
    POLL_SECONDS,
    ServiceRequest,
    ServiceState,
    all_names,
    check_name,
    failure_path,
    forget,
    log_path,
    read_state,
)

CONSOLE = Console()
ANSWER_SECONDS = 10.0
DOWN_SECONDS = 60.0  # for a clean end; then the remaining processes are killed
NODE_DIGITS = 8


def up(
    name: str,
    model: str,
    spec: EngineSpec,
    *,
    address: str | None = None,
    engines: int | None = None,
    port: int = 0,
    foreground: bool = False,
    deadline_seconds: float | None = None,
    start_seconds: float = START_SECONDS,
) -> None:
    """Start a service, unless it is up; returns when it answers. Raises the error that prevented the start.

    `model` is the name that clients use, `spec.model` its folder. `engines` is an upper limit, `port` 0 any free one.
    """
    request = ServiceRequest(check_name(name), model, spec, address, engines, port, deadline_seconds, start_seconds)
    if spec.kind == "endpoint":
        raise InputError(
            "an endpoint is served already", where="engine setting kind", hint="use the endpoint's own URL"
        )
    if foreground:
        from pipeline.serve.daemon import run_service

        run_service(request)
        return
    state = read_state(name)
    is_new = state is None or not state.daemon.is_alive
    if state is None or is_new:
        with CONSOLE.status(f"starting {name}"):
            state = _wait(name, _launch(request))
    elif (state.model, state.kind) != (spec.model, spec.kind):
        raise InputError(
            f"it is up with another model, {state.model_name} ({state.kind})",
            where=f"--name {name}",
            hint=f"end it first (entail serve down --name {name}), or choose another name",
        )
    else:
        state = _wait(name, None)
    lines = {"model": state.model_name, "URL": state.url, "key": state.key_path, "log": log_path(name)}
    CONSOLE.print(f"{name} is up{'' if is_new else ' already'}", highlight=False)
    for label, value in {**lines, "end": f"entail serve down --name {name}"}.items():
        CONSOLE.print(f"  {label:6}{value}", highlight=False, soft_wrap=True)


def down(name: str) -> None:
    """End a service and all its processes; none is left when this returns. Raises ResumableError."""
    state = read_state(name)
    if state is None:
        CONSOLE.print(f"{name} is not up")
        return
    had_died = not state.daemon.is_alive
    with CONSOLE.status(f"ending {name}"):
        left = _end(state)
    if left:
        raise ResumableError(f"these processes of {name} do not end: {', '.join(map(str, left))}")
    CONSOLE.print(f"{name} {'had died' if had_died else 'is down'}; no process of it is left")


def status(name: str | None = None) -> None:
    """Show this user's services, or one of them; remove what a dead one left."""
    states = [state for state in map(read_state, [name] if name else all_names()) if state is not None]
    for state in states:
        if not state.daemon.is_alive:
            forget(state)
            CONSOLE.print(f"{state.name} had died and was cleaned up, its log is {log_path(state.name)}")
        elif state.url:
            _show(state)
        else:
            CONSOLE.print(f"{state.name} is starting, its log is {log_path(state.name)}")
    if not states:
        CONSOLE.print(f"{name} is not up" if name else "no service is up")


def _launch(request: ServiceRequest) -> "subprocess.Popen[bytes]":
    """The daemon, in a session of its own, without a terminal."""
    failure_path(request.name).unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    log = os.open(log_path(request.name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(log) as sink:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.serve.daemon", request.to_json()],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )


def _wait(name: str, child: "subprocess.Popen[bytes] | None") -> ServiceState:
    """The state of a service once it answers. Raises the error that prevents it."""
    try:
        while True:
            state = read_state(name)
            if state is not None and state.url and state.daemon.is_alive and _is_healthy(state):
                return state
            has_ended = child.poll() is not None if child is not None else state is None or not state.daemon.is_alive
            if has_ended:
                if state is not None and not state.daemon.is_alive:
                    forget(state)  # it was killed, and could not clean up
                raise _failure(name)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        if child is not None:
            child.terminate()
            child.wait()
        raise


def _is_healthy(state: ServiceState) -> bool:
    try:
        return httpx.get(state.root_url + "/health", timeout=ANSWER_SECONDS, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _failure(name: str) -> Exception:
    """The daemon's own error."""
    try:
        reason: dict[str, str] = json.loads(failure_path(name).read_text())
    except FileNotFoundError:
        return InputError("the service ended while starting", where=str(log_path(name)), hint="read its log")
    return InputError(**reason) if "hint" in reason else ResumableError(reason["what"])


def _end(state: ServiceState) -> list[int]:
    """Let the daemon end everything, then kill what is left; returns the processes that remain even so."""
    known = set(state.processes)
    state.daemon.end_softly()
    end = time.monotonic() + DOWN_SECONDS
    while time.monotonic() < end:
        now = read_state(state.name)  # None after a clean end
        known |= set(now.processes) if now is not None and now.daemon == state.daemon else set()
        if not state.daemon.is_alive:
            break
        time.sleep(POLL_SECONDS)
    return [process.pid for process in forget(state.with_processes(known))]


def _show(state: ServiceState) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.since))
    CONSOLE.print(f"{state.name}  {state.model_name}  {state.url}  up since {since}", highlight=False, soft_wrap=True)
    engines = _engines(state)
    if engines is None:
        CONSOLE.print(f"  it does not answer, its log is {log_path(state.name)}", highlight=False)
        return
    table = Table("engine", "node", "pid", "state", "restarts", "tokens read", "cached", "written")
    for engine in engines:
        stats = engine["stats"]
        read, cached = stats.get("prompt_tokens", 0), stats.get("cached_tokens", 0)
        numbers = (read, cached / read if read else 0, stats.get("generated_tokens", 0))
        table.add_row(
            engine["name"],
            engine["node"][:NODE_DIGITS],
            str(engine["pid"]),
            "ready" if engine["ready"] else "loading" if engine["alive"] else "down",
            str(engine["restarts"]),
            *(f"{numbers[0]:.0f}", f"{numbers[1]:.0%}", f"{numbers[2]:.0f}"),
        )
    CONSOLE.print(table)


def _engines(state: ServiceState) -> list[dict[str, Any]] | None:
    try:
        headers = {"Authorization": f"Bearer {state.key_path.read_text().strip()}"}
        answer = httpx.get(state.root_url + "/status", headers=headers, timeout=ANSWER_SECONDS, trust_env=False)
        found: list[dict[str, Any]] = answer.raise_for_status().json()["engines"]
    except (httpx.HTTPError, OSError):
        return None
    return found
