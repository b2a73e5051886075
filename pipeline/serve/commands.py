"""`serve up|status|down`: start a service that outlives the command, show it, end it.

Reads and writes the service's files (see `pipeline.serve.state`); talks to it over its own HTTP interface.
"""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import asdict
from typing import Any

import httpx
from rich.table import Table

from data.errors import InputError, ResumableError
from pipeline.commands import CONSOLE, engine_and_cluster
from pipeline.models import ROOT, engine_spec, served_folder
from pipeline.serve import state as files
from pipeline.serve.state import POLL_SECONDS, ServiceRequest, ServiceState, path_of, read_state

ANSWER_SECONDS = 10.0
DOWN_SECONDS = 60.0  # for a clean end; then the remaining processes are killed
NODE_DIGITS = 8


def up(flags: Namespace) -> None:
    """`serve up`: start a service, unless it is up; returns when it answers. Raises the error that prevented it."""
    engine, cluster = engine_and_cluster(flags, "serve up")
    name = files.check_name(flags.name)
    if engine.kind == "endpoint":
        raise InputError(
            "an endpoint is served already", where="engine setting kind", hint="use the endpoint's own URL"
        )
    if not 0 < flags.request_seconds < float("inf"):
        raise InputError("this is no time", where="--request-seconds", hint="give seconds above 0")
    path = served_folder(flags.model, engine, cluster.address)
    spec = engine_spec(engine, path, seed=0)
    seconds = engine.deadline_seconds, engine.start_seconds, flags.request_seconds
    request = ServiceRequest(name, flags.model, spec, cluster.address, engine.engines, flags.port, *seconds)
    if flags.foreground:
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
    lines = {"model": state.model_name, "URL": state.url, "key": state.key_path, "log": path_of(name, "log")}
    CONSOLE.print(f"{name} is up{'' if is_new else ' already'}", highlight=False)
    for label, value in {**lines, "end": f"entail serve down --name {name}"}.items():
        CONSOLE.print(f"  {label:6}{value}", highlight=False, soft_wrap=True)


def down(flags: Namespace) -> None:
    """`serve down`: end a service and all its processes; none is left when this returns. Raises ResumableError."""
    name: str = flags.name
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


def status(flags: Namespace) -> None:
    """`serve status`: show this user's services, or one of them; remove what a dead one left."""
    names = [flags.name] if flags.name else files.all_names()
    states = [state for state in map(read_state, names) if state is not None]
    for state in states:
        if not state.daemon.is_alive:
            files.forget(state)
            CONSOLE.print(f"{state.name} had died and was cleaned up, its log is {path_of(state.name, 'log')}")
        elif state.url:
            _show(state)
        else:
            CONSOLE.print(f"{state.name} is starting, its log is {path_of(state.name, 'log')}")
    if not states:
        CONSOLE.print(f"{flags.name} is not up" if flags.name else "no service is up")


def _launch(request: ServiceRequest) -> "subprocess.Popen[bytes]":
    """The daemon, in a session of its own, without a terminal."""
    path_of(request.name, "failed").unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    log = path_of(request.name, "log")
    log.touch(mode=0o600)
    with log.open("w") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.serve.daemon", json.dumps(asdict(request))],
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
                    files.forget(state)  # it was killed, and could not clean up
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
        reason: dict[str, str] = json.loads(path_of(name, "failed").read_text())
    except FileNotFoundError:
        return InputError("the service ended while starting", where=str(path_of(name, "log")), hint="read its log")
    return InputError(**reason) if "hint" in reason else ResumableError(reason["what"])


def _end(state: ServiceState) -> list[int]:
    """Let the daemon end everything, then kill what is left; returns the processes that remain even so."""
    known = set(state.processes)
    state.daemon.send(signal.SIGTERM)
    end = time.monotonic() + DOWN_SECONDS
    while time.monotonic() < end:
        now = read_state(state.name)  # None after a clean end
        known |= set(now.processes) if now is not None and now.daemon == state.daemon else set()
        if not state.daemon.is_alive:
            break
        time.sleep(POLL_SECONDS)
    return [process.pid for process in files.forget(state.with_processes(known))]


def _show(state: ServiceState) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.since))
    CONSOLE.print(f"{state.name}  {state.model_name}  {state.url}  up since {since}", highlight=False, soft_wrap=True)
    engines = _engines(state)
    if engines is None:
        CONSOLE.print(f"  it does not answer, its log is {path_of(state.name, 'log')}", highlight=False)
        return
    table = Table("engine", "node", "pid", "state", "restarts", "tokens read", "cached", "written")
    for engine in engines:
        stats = engine["stats"]
        read, cached = stats.get("prompt_tokens", 0), stats.get("cached_tokens", 0)
        table.add_row(
            engine["name"],
            engine["node"][:NODE_DIGITS],
            str(engine["pid"]),
            "ready" if engine["ready"] else "loading" if engine["alive"] else "down",
            str(engine["restarts"]),
            f"{read:.0f}",
            f"{cached / read if read else 0:.0%}",
            f"{stats.get('generated_tokens', 0):.0f}",
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
