"""`serve up|status|down`: start a service that outlives the command, show what it does, end it.

Reads and writes the service's files (see `pipeline.serve.state`); talks to it over its own HTTP port.
"""

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from data.errors import InputError, ResumableError
from pipeline.recipe import ROOT, local_model
from pipeline.serve.state import (
    POLL_SECONDS,
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
DOWN_SECONDS = 60.0  # for a clean end; then what is left is killed
NODE_DIGITS = 8


def up(flags: Namespace) -> None:
    """Start a service, unless it is up; returns when it answers. Raises the error that kept it from that."""
    check_name(flags.name)
    if flags.foreground:
        from pipeline.serve.daemon import run_service

        run_service(flags)
        return
    model = local_model(flags.model)
    state = read_state(flags.name)
    if state is None or not state.daemon.is_alive:
        with CONSOLE.status(f"starting {flags.name}"):
            state = _wait(flags.name, _launch(flags))
        word = "is up"
    else:
        if (state.model, state.kind) != (model, flags.engine):
            raise InputError(
                f"it is up with another model, {state.model_name} ({state.kind})",
                where=f"--name {flags.name}",
                hint=f"end it first (entail serve down --name {flags.name}), or choose another name",
            )
        state = _wait(flags.name, None)
        word = "is up already"
    lines = {"model": state.model_name, "URL": state.url, "key": state.key_path, "log": log_path(state.name)}
    CONSOLE.print(f"{state.name} {word}", highlight=False)
    for label, value in {**lines, "end": f"entail serve down --name {state.name}"}.items():
        CONSOLE.print(f"  {label:6}{value}", highlight=False, soft_wrap=True)


def down(flags: Namespace) -> None:
    """End a service and everything that it started; none of it is left when this returns. Raises ResumableError."""
    state = read_state(flags.name)
    if state is None:
        CONSOLE.print(f"{flags.name} is not up")
        return
    had_died = not state.daemon.is_alive
    with CONSOLE.status(f"ending {flags.name}"):
        left = _end(state)
    if left:
        raise ResumableError(f"these processes of {flags.name} do not end: {', '.join(map(str, left))}")
    CONSOLE.print(f"{flags.name} {'had died' if had_died else 'is down'}; no process of it is left")


def status(flags: Namespace) -> None:
    """Show the services of this user, or one of them; what a dead one left behind is cleared away."""
    names = [flags.name] if flags.name else all_names()
    states = [state for state in map(read_state, names) if state is not None]
    for state in states:
        if not state.daemon.is_alive:
            forget(state)
            CONSOLE.print(f"{state.name} had died; what it left was cleared away, its log is {log_path(state.name)}")
        elif state.url:
            _show(state)
        else:
            CONSOLE.print(f"{state.name} is starting, its log is {log_path(state.name)}")
    if not states:
        CONSOLE.print(f"{flags.name or 'no service'} is {'not ' if flags.name else ''}up")


def _launch(flags: Namespace) -> "subprocess.Popen[bytes]":
    """The daemon: this command again, in a session of its own, without a terminal."""
    failure_path(flags.name).unlink(missing_ok=True)
    words = [sys.executable, "-m", "pipeline", "serve", "up", "--foreground", "--name", flags.name]
    for key in (
        "model",
        "engine",
        "engines",
        "address",
        "port",
        "tensor_parallel",
        "pipeline_parallel",
        "kv_cache_gib",
    ):
        value = getattr(flags, key)
        words += [f"--{key.replace('_', '-')}", str(value)] if value is not None else []
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    log = os.open(log_path(flags.name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(log) as sink:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )


def _wait(name: str, child: "subprocess.Popen[bytes] | None") -> ServiceState:
    """The state of a service once it answers; what keeps it from that is raised."""
    try:
        while True:
            state = read_state(name)
            if state is not None and state.url and state.daemon.is_alive and _is_well(state):
                return state
            fell = child.poll() is not None if child is not None else state is None or not state.daemon.is_alive
            if fell:
                if state is not None and not state.daemon.is_alive:
                    forget(state)  # it was killed, and could not clear up
                raise _failure(name)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        if child is not None:
            child.terminate()
            child.wait()
        raise


def _is_well(state: ServiceState) -> bool:
    try:
        return httpx.get(state.root_url + "/health", timeout=ANSWER_SECONDS, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _failure(name: str) -> Exception:
    """What the daemon said of its own end."""
    try:
        reason: dict[str, str] = json.loads(failure_path(name).read_text())
    except FileNotFoundError:
        return InputError("the service ended as it started", where=str(log_path(name)), hint="read its log")
    return InputError(**reason) if "hint" in reason else ResumableError(reason["what"])


def _end(state: ServiceState) -> list[int]:
    """Let the daemon end everything, kill what is left after a while; the numbers of what is left even then."""
    known = set(state.processes)
    state.daemon.end_softly()
    end = time.monotonic() + DOWN_SECONDS
    while time.monotonic() < end:
        now = read_state(state.name)  # gone when the daemon has ended well
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
    table = Table("engine", "node", "pid", "alive", "restarts", "tokens read", "cached", "written")
    for engine in engines:
        stats = engine["stats"]
        read, cached = stats.get("prompt_tokens", 0), stats.get("cached_tokens", 0)
        numbers = (read, cached / read if read else 0, stats.get("generated_tokens", 0))
        table.add_row(
            engine["name"],
            engine["node"][:NODE_DIGITS],
            str(engine["pid"]),
            "yes" if engine["alive"] else "no",
            str(engine["restarts"]),
            *(f"{numbers[0]:.0f}", f"{numbers[1]:.0%}", f"{numbers[2]:.0f}"),
        )
    CONSOLE.print(table)


def _engines(state: ServiceState) -> list[dict[str, Any]] | None:
    headers = {"Authorization": f"Bearer {state.key_path.read_text().strip()}"}
    try:
        answer = httpx.get(state.root_url + "/status", headers=headers, timeout=ANSWER_SECONDS, trust_env=False)
        found: list[dict[str, Any]] = answer.raise_for_status().json()["engines"]
    except httpx.HTTPError:
        return None
    return found
