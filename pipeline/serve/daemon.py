"""The process of a service: one Ray session, one named pool of engines, one HTTP server, until SIGTERM.

Started as `python -m pipeline.serve.daemon REQUEST` (a `ServiceRequest` as JSON), or by `serve up --foreground`. Writes
the service's files (see `pipeline.serve.state`), and next to them the error that prevented its start.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import ray
import uvicorn
from pydantic import TypeAdapter
from starlette.types import ASGIApp

from augment_service.engines.window import fit_window
from augment_service.http.app import build_app
from augment_service.http.router import PoolRouter
from augment_service.http.server import server_config
from augment_service.http.service import Service
from augment_service.http.tokenization import ModelTokenizer
from cluster.locks import hold_lock
from cluster.session import connect
from data.errors import InputError, ResumableError
from data.store import write_json
from data.weights import model_fingerprint
from pipeline.serve import state as files
from pipeline.serve.state import ServiceRequest, ServiceState, path_of
from pipeline.stages.resources import place, start_pool

HOST = "127.0.0.1"
AGAIN_SECONDS = 1.0  # until an ignored end is tried again
SAVE_SECONDS = 1.0  # between two updates of the list of our processes


def run_service(request: ServiceRequest) -> None:
    """Be the service until SIGTERM or Ctrl-C. Raises InputError, ResumableError; also writes them to a file."""
    reason = path_of(request.name, "failed")
    reason.unlink(missing_ok=True)
    try:
        _run(request)
    except (InputError, ResumableError) as error:
        write_json(reason, vars(error) if isinstance(error, InputError) else {"what": str(error)})
        raise


def _run(request: ServiceRequest) -> None:
    name, spec, folder = request.name, request.spec, Path(request.spec.model)
    fit_window(spec)
    weights = model_fingerprint(folder)
    with ExitStack() as stack:
        message = "a service of this name is up or starting"
        hint = f"see `entail serve status`, or end it: entail serve down --name {name}"
        stack.enter_context(hold_lock(path_of(name, "lock"), message, where=f"--name {name}", hint=hint))
        if (dead := files.read_state(name)) is not None:
            files.forget(dead)  # we hold the lock, so its daemon is dead
        stack.callback(files.remove_files, name)
        with _ended_by_sigterm():  # left first, so that nothing interrupts what ends the rest
            listener = stack.enter_context(_listen(request.port))
            state = ServiceState(name, files.this_process(), spec.model, request.model, weights, spec.kind, time.time())
            key = files.make_key(state.key_path)
            save = stack.enter_context(_saved(state))
            session = stack.enter_context(connect(address=request.address, log_dir=path_of(name, "logs")))
            placement = place(session, spec, engines=request.engines)
            pool = start_pool(spec, placement, request.deadline_seconds, request.start_seconds, name)
            stack.enter_context(pool)
            window = ray.get(pool.ask("window", ()))
            router = PoolRouter(pool)
            service = Service(router, ModelTokenizer(folder), model=request.model, weights=weights, window=window)
            url = f"http://{HOST}:{listener.getsockname()[1]}/v1"

            def ready() -> None:
                save(replace(state, address=session.address, url=url))
                print(f"{name} answers at {url}, the key is in {state.key_path}", flush=True)

            app = build_app(service, router, key=key, deadline_seconds=request.request_seconds)
            asyncio.run(_answer(app, router, listener, ready))


class _Server(uvicorn.Server):
    """A server that calls back when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As the base class, then the call."""
        await super().startup(sockets)
        self._ready()


async def _answer(app: ASGIApp, router: PoolRouter, listener: socket.socket, ready: Callable[[], None]) -> None:
    watch = asyncio.create_task(router.watch())
    try:
        await _Server(server_config(app), ready).serve(sockets=[listener])
    finally:
        watch.cancel()


def _listen(port: int) -> socket.socket:
    """A socket on the loopback interface, bound before anything slow begins."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        hint = "name a free port, or leave it out"
        raise InputError(f"this port is not available: {error}", where=f"--port {port}", hint=hint) from error
    return listener


@contextmanager
def _saved(state: ServiceState) -> Iterator[Callable[[ServiceState], None]]:
    """Keep the state file up to date for the length of a block: new processes are added as they appear."""
    lock, over = threading.Lock(), threading.Event()
    known = [state]

    def save(new: ServiceState | None = None) -> None:
        with lock:
            ours = {*files.descendants(os.getpid()), *filter(lambda process: process.is_alive, known[0].processes)}
            found = (new or known[0]).with_processes(ours)  # old ones may have lost their parent
            if found != known[0]:
                found.save()
                known[0] = found

    def keep() -> None:
        while not over.wait(SAVE_SECONDS):
            try:
                save()
            except OSError as error:  # a full disk, for example: the next time may succeed
                print(f"cannot save the state: {error}", file=sys.stderr, flush=True)

    state.save()
    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield save
    finally:
        over.set()
        keeper.join()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """A block that SIGTERM ends by SystemExit, which is raised again until the block is left.

    Where a signal arrives may be a place that ignores exceptions, as Python does while it forks.
    """

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # shut down only once
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS, AGAIN_SECONDS)
        sys.exit(0)

    signal.signal(signal.SIGALRM, end)
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    try:
        run_service(TypeAdapter(ServiceRequest).validate_json(sys.argv[1]))
    except (InputError, ResumableError) as error:
        sys.exit(str(error))
