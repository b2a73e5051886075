"""The process of a service: one Ray session, one named pool of engines, one HTTP port, until SIGTERM.

Writes the service's files (see `pipeline.serve.state`), and what kept it from starting beside them.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import uvicorn
from pydantic import ValidationError
from starlette.types import ASGIApp

from augment_service.engines.protocol import model_window
from augment_service.http.app import build_app
from augment_service.http.router import PoolRouter
from augment_service.http.service import Service
from augment_service.http.tokenization import ModelTokenizer
from cluster.session import connect
from data.errors import InputError, ResumableError
from data.store import write_json
from data.weights import weights_fingerprint
from pipeline.recipe import Cluster, local_model
from pipeline.residency import engine_spec, place, start_pool
from pipeline.serve.state import (
    ServiceState,
    descendants,
    failure_path,
    forget,
    hold,
    make_key,
    read_state,
    remove_files,
    state_folder,
    this_process,
)

SIZES = ("address", "engines", "tensor_parallel", "pipeline_parallel", "kv_cache_gib")
HOST = "127.0.0.1"
NOTE_SECONDS = 1.0  # between two looks at which processes are ours
GRACE_SECONDS = 5  # for requests that are being answered when the end comes


def run_service(flags: Namespace) -> None:
    """Be the service `flags.name` until SIGTERM or Ctrl-C. Raises InputError, ResumableError; leaves the reason."""
    reason = failure_path(flags.name)
    reason.unlink(missing_ok=True)
    try:
        _run(flags)
    except InputError as error:
        write_json(reason, {"what": error.what, "where": error.where, "hint": error.hint})
        raise
    except ResumableError as error:
        write_json(reason, {"what": str(error)})
        raise


def _run(flags: Namespace) -> None:
    model = local_model(flags.model)
    wanted = _wanted_cluster(flags)
    spec = engine_spec(flags.engine, model, wanted)
    window, weights = model_window(spec), weights_fingerprint(Path(model))
    with ExitStack() as stack:
        stack.enter_context(hold(flags.name))
        if (fallen := read_state(flags.name)) is not None:
            forget(fallen)  # the hold is ours, so its daemon is dead
        stack.callback(remove_files, flags.name)
        _end_on_sigterm()
        door = stack.enter_context(_listen(flags.port))
        state = ServiceState(flags.name, this_process(), model, flags.model, weights, flags.engine, time.time())
        key = make_key(state.key_path)
        note = stack.enter_context(_noted(state))
        session = stack.enter_context(connect(address=flags.address, log_dir=state_folder() / f"{flags.name}.logs"))
        _end_on_sigterm()  # Ray has set a handler of its own
        pool = stack.enter_context(start_pool(spec, wanted, place(session, wanted), flags.name))
        router = PoolRouter(pool)
        port = Service(router, ModelTokenizer(Path(model)), model=flags.model, weights=weights, window=window)
        url = f"http://{HOST}:{door.getsockname()[1]}/v1"

        def ready() -> None:
            note(replace(state, address=session.address, url=url))
            print(f"{flags.name} answers at {url}, the key is in {state.key_path}", flush=True)

        asyncio.run(_answer(build_app(port, router, key=key), router, door, ready))


def _wanted_cluster(flags: Namespace) -> Cluster:
    """The sizes that were asked for on the command line, the recipe's defaults for the others."""
    asked = {key: value for key in SIZES if (value := getattr(flags, key)) is not None}
    try:
        return Cluster.model_validate(asked)
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        raise InputError(
            f"{first['msg']} (got {first['input']!r})", where=flag, hint="give a value that fits"
        ) from error


class _Server(uvicorn.Server):
    """A server that says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As the base class, then the word."""
        await super().startup(sockets)
        self._ready()


async def _answer(app: ASGIApp, router: PoolRouter, door: socket.socket, ready: Callable[[], None]) -> None:
    config = uvicorn.Config(
        app, lifespan="off", log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS
    )
    watch = asyncio.create_task(router.watch())
    try:
        await _Server(config, ready).serve(sockets=[door])
    finally:
        watch.cancel()


@contextmanager
def _listen(port: int) -> Iterator[socket.socket]:
    """A socket on the loopback interface, taken before anything slow begins."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"this port cannot be had: {error}", where=f"--port {port}", hint="name a free port, or leave it out"
            ) from error
        yield door


@contextmanager
def _noted(state: ServiceState) -> Iterator[Callable[[ServiceState], None]]:
    """Keep the state file true for the length of a block: new processes are written down as they come."""
    lock, over = threading.Lock(), threading.Event()
    known = [state]

    def note(new: ServiceState | None = None) -> None:
        with lock:
            ours = {*descendants(os.getpid()), *filter(lambda process: process.is_alive, known[0].processes)}
            found = (new or known[0]).with_processes(ours)  # the old ones may have lost their parent
            if found != known[0]:
                found.save()
                known[0] = found

    def keep() -> None:
        while not over.wait(NOTE_SECONDS):
            note()

    state.save()
    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield note
    finally:
        over.set()
        keeper.join()


def _end_on_sigterm() -> None:
    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the way out is taken once
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
