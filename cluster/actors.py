"""The actors of a pool: placed one by one or found by name, restarted by Ray, watched, ended.

In the cluster's key-value store, a named pool has a key (the spec of its actors), and each actor one that names the
calls on which it works: it tells every driver of a shared pool under whose calls the actor died. Touches no file.
"""

import asyncio
import contextvars
import faulthandler
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Self

import ray
from ray import cloudpickle
from ray.actor import ActorHandle

from cluster.cancellation import CancelledCallError, cancellable
from cluster.places import Say, Wait, describe_nodes, living_nodes, total_room
from cluster.ray_internals import actor_id, actor_row, call_of, kv_delete, kv_get, kv_put, own_call
from data.errors import InputError, ResumableError

STANDARD_ERROR = 2  # a file descriptor: the actor's log
SAFE_ERRORS = (InputError, ResumableError, OSError, ModuleNotFoundError)  # the worker's state is intact
PROCESS_SECONDS = 120.0  # until a process runs that can keep a deadline of its own
MAX_SINGLE_CALLS = 256  # at once; more wait
ANSWER_SECONDS = 2.0  # for an answer to reach its driver
END = object()  # of a stream


class BegunCall(NamedTuple):
    """When an actor began a call, in seconds since the epoch by its clock, and the seconds that the call may take.

    Producer: `ActorHost`. Consumer: the pool.
    """

    began: float
    seconds: float


class ActorHost:
    """The actor: holds one worker, made by a call and not here, so that its errors arrive as errors of a call.

    Calls run in threads: one at a time if `width` is 1, else up to `MAX_SINGLE_CALLS` single calls beside that many
    units. The thread of a call learns through `cluster.cancellation` that the call was cancelled.
    """

    def __init__(self, worker_class: type, init_args: tuple[object, ...], start_seconds: float, width: int) -> None:
        self._make = (worker_class, init_args)
        self._start_seconds = start_seconds
        threads = 1 if width == 1 else width + MAX_SINGLE_CALLS
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="call")
        self._lock = threading.Lock()
        self._begun: dict[str, BegunCall] = {}
        self._deadlines = _Deadlines()
        self._worker: Any = None
        self._is_broken = False

    async def open(self) -> None:
        """Make the worker if there is none: at the start, and after each restart."""
        await self._in_thread(self._open)

    async def call(self, method: str, args: tuple[object, ...], extras: dict[str, object], seconds: float) -> object:
        """Call a method of the worker; the process ends itself after `seconds`.

        It also ends, before its next call, after an error that is not one of `SAFE_ERRORS`: the state is then unknown.
        """
        return await self._in_thread(partial(self._call, own_call(), seconds, method, args, extras))

    async def stream(self, method: str, args: tuple[object, ...], seconds: float) -> AsyncIterator[object]:
        """What an iterator that the method returns yields, as it comes; else as `call`."""
        items: asyncio.Queue[object] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def forward(worker_method: str, *arguments: object) -> None:
            for item in getattr(self._worker, worker_method)(*arguments):
                loop.call_soon_threadsafe(items.put_nowait, item)

        work = asyncio.create_task(self._in_thread(partial(self._call, own_call(), seconds, method, args, {}, forward)))
        work.add_done_callback(lambda _: items.put_nowait(END))
        try:
            while (item := await items.get()) is not END:
                yield item
            await work
        finally:
            work.cancel()

    def end(self) -> None:
        """End the process; Ray starts another."""
        os._exit(1)

    async def _in_thread(self, work: Callable[[], object]) -> object:
        context = contextvars.copy_context()
        with cancellable(context):
            return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, work)

    def _open(self) -> None:
        with self._lock:
            if self._is_broken:
                time.sleep(ANSWER_SECONDS)  # a process that ends at once may lose the error that it has just raised
                self.end()
            if self._worker is None:
                worker_class, init_args = self._make
                with self._deadlines.within(self._start_seconds):
                    try:
                        self._worker = worker_class(*init_args)
                    except SAFE_ERRORS:
                        raise
                    except Exception:
                        self._is_broken = True
                        raise

    def _call(
        self,
        own: tuple[str, str],
        seconds: float,
        method: str,
        args: tuple[object, ...],
        extras: dict[str, object],
        act: Callable[..., object] | None = None,
    ) -> object:
        """The method's result, or that of `act(method, *args)`."""
        self._open()
        actor, call = own
        with self._deadlines.within(seconds):
            try:
                with self._lock:
                    self._begun[call] = BegunCall(time.time(), seconds)
                    kv_put(_begun_key(actor), json.dumps(self._begun).encode())
                return act(method, *args) if act else getattr(self._worker, method)(*args, **extras)
            except (*SAFE_ERRORS, CancelledCallError):
                raise
            except Exception:
                self._is_broken = True
                raise
            finally:
                with self._lock:
                    del self._begun[call]


class _Deadlines:
    """Past the earliest deadline the process writes its stack traces into its log and ends itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[object, float] = {}

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """A block with a deadline."""
        own = object()
        self._set(own, time.monotonic() + seconds)
        try:
            yield
        finally:
            self._set(own, None)

    def _set(self, own: object, end: float | None) -> None:
        with self._lock:
            if end is None:
                del self._ends[own]
            else:
                self._ends[own] = end
            if not self._ends:
                faulthandler.cancel_dump_traceback_later()
                return
            # a C thread: it needs neither the interpreter nor the driver
            left = max(min(self._ends.values()) - time.monotonic(), 1e-3)
            faulthandler.dump_traceback_later(left, exit=True, file=STANDARD_ERROR)


@dataclass(frozen=True, slots=True)
class ActorState:
    """One actor as the cluster sees it. Producer: `ActorGroup`. Consumers: the pool, `serve status`.

    `node` is Ray's node id. `alive` is false while the actor waits for a place or restarts; `gone` is permanent.
    """

    node: str
    pid: int
    alive: bool
    gone: bool
    num_restarts: int


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What a pool's actors are made of. Producer: whoever starts the pool. Consumer: whoever attaches to it.

    `deadline_seconds` None derives the deadlines of calls, see `cluster.pool`. An actor works on `width` units at once.
    """

    worker_class: type
    init_args: tuple[object, ...]
    num_actors: int
    num_cpus: float
    num_gpus: float
    start_seconds: float
    deadline_seconds: float | None
    place_seconds: float
    width: int


@dataclass
class ActorGroup:
    """The actors of a pool, by number. `ready` are those whose worker is made, `starting` the calls that make one.

    `is_own` is false if the actors belong to another process.
    """

    spec: PoolSpec
    name: str | None
    handles: list[ActorHandle]
    is_own: bool
    ready: set[int] = field(default_factory=set)
    starting: dict[int, ray.ObjectRef] = field(default_factory=dict)
    _restarts_seen: dict[int, int] = field(default_factory=dict)  # an actor is opened once after each restart
    say: Say = lambda line: None
    _wait: Wait | None = None

    @classmethod
    def start(cls, spec: PoolSpec, name: str | None, say: Say) -> Self:
        """New actors, spread over the nodes; each waits for its own place. `say` gets lines for the user."""
        group = cls(spec, name, [], is_own=True, say=say)
        try:
            for number in range(spec.num_actors):
                group.handles.append(group._make(number))
        except ValueError as error:
            group.close()
            raise InputError(
                str(error), where=f"pool {name}", hint="attach to it, end it, or choose another name"
            ) from error
        if name is not None:
            kv_put(_key(name), cloudpickle.dumps(spec))
        group.starting = {number: handle.open.remote() for number, handle in enumerate(group.handles)}
        return group

    @classmethod
    def find(cls, name: str) -> Self:
        """The actors of a named pool that another process of this cluster started. Raises InputError if none is up."""
        stored = kv_get(_key(name))
        try:
            if stored is None:
                raise ValueError("none has this name")
            spec: PoolSpec = cloudpickle.loads(stored)
            handles = [ray.get_actor(_actor_name(name, number)) for number in range(spec.num_actors)]
        except ValueError as error:
            raise InputError(
                f"no pool is up: {error}", where=f"pool {name}", hint="start it, or name another"
            ) from error
        return cls(spec, name, handles, is_own=False)

    def send(self, number: int, *call: object) -> ray.ObjectRef:
        """Queue one `ActorHost.call` at an actor."""
        return self.handles[number].call.remote(*call)

    def stream(self, number: int, *call: object) -> ray.ObjectRefGenerator:
        """Queue one `ActorHost.stream` at an actor."""
        return self.handles[number].stream.options(num_returns="streaming").remote(*call)

    def begun(self, number: int) -> dict[str, BegunCall]:
        """The calls on which an actor, or its process before, works; some that have ended may be among them."""
        return _begun(actor_id(self.handles[number]))

    def states(self) -> list[ActorState]:
        """All actors as the cluster sees them now; a dead one may seem alive for some seconds."""
        return [_state(handle) for handle in self.handles]

    def reopen(self, wanted: Sequence[int]) -> None:
        """Make the workers of those of the wanted actors that have restarted.

        Raises ResumableError if all of them are gone for good, or none has had a place for `place_seconds`.
        """
        states = {number: _state(self.handles[number]) for number in wanted if number not in self.ready}
        for number, state in states.items():
            is_new = state.num_restarts > self._restarts_seen.get(number, -1)
            if state.alive and is_new and number not in self.starting:
                self._restarts_seen[number] = state.num_restarts
                self.starting[number] = self.handles[number].open.remote()
        if wanted and all(state.gone for state in states.values()) and len(states) == len(wanted):
            raise ResumableError("all actors of the pool were ended by another process")
        self.check_places(len(states) < len(wanted) or any(state.alive for state in states.values()))

    def check_places(self, has_any: bool) -> None:
        """Raise ResumableError if no actor has had a place for `place_seconds`; `say` gets a line while it waits."""
        spec = self.spec
        if has_any:
            self._wait = None
            return
        wanted = f"room for {len(self.handles)} actors ({spec.num_cpus:g} CPUs, {spec.num_gpus:g} GPUs each, on a node)"
        self._wait = self._wait or Wait(wanted, spec.place_seconds, self.say)
        # A process that is being started has a place, but Ray does not say so.
        allowance = PROCESS_SECONDS if total_room(spec.num_cpus, spec.num_gpus) else 0.0
        if not self._wait.goes_on(allowance):
            free = ray.available_resources()
            raise ResumableError(
                f"for {spec.place_seconds:g} s the cluster has had no room for any of {len(self.handles)} actors "
                f"({spec.num_cpus:g} CPUs, {spec.num_gpus:g} GPUs each, on one node); there are "
                f"{describe_nodes(living_nodes())}; free are "
                f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs"
            )

    def started(self, number: int) -> None:
        """The worker of this actor is made."""
        del self.starting[number]
        self.ready.add(number)

    def lose(self, number: int, *, is_dead: bool) -> None:
        """The actor failed: end its process, unless Ray has already replaced it.

        Calls of other drivers on which it works fail with it.
        """
        self.starting.pop(number, None)
        self.ready.discard(number)
        state = _state(self.handles[number])
        if state.alive and state.num_restarts <= self._restarts_seen.setdefault(number, 0):
            if is_dead:
                self.kill(number)  # unreachable rather than dead
            else:
                self.handles[number].end.remote()

    def kill(self, number: int) -> None:
        """End the actor's process at once; Ray starts another."""
        ray.kill(self.handles[number], no_restart=False)

    def close(self) -> None:
        """End the actors at once and release their resources. Actors of another process are left alone."""
        if not self.is_own:
            return
        for handle in self.handles:
            ray.kill(handle)
            kv_delete(_begun_key(actor_id(handle)))
        if self.name is not None and self.handles:
            kv_delete(_key(self.name))
        self.handles = []

    def _make(self, number: int) -> ActorHandle:
        spec = self.spec
        actor = ray.remote(ActorHost).options(
            name=None if self.name is None else _actor_name(self.name, number),
            num_cpus=spec.num_cpus,
            num_gpus=spec.num_gpus,
            max_restarts=-1,
            scheduling_strategy="SPREAD",
        )
        return actor.remote(spec.worker_class, spec.init_args, spec.start_seconds, spec.width)


def _actor_name(pool: str, number: int) -> str:
    return f"{pool}/{number}"


def _key(name: str) -> bytes:
    return f"entail pool {name}".encode()


def call_id(ref: ray.ObjectRef) -> str:
    """The name of a call in `ActorGroup.begun`."""
    return call_of(ref)[1]


def died_under(ref: ray.ObjectRef) -> bool:
    """Whether the actor of a call that ended by its death was working on this very call."""
    actor, call = call_of(ref)
    return call in _begun(actor)


def _begun_key(actor: str) -> bytes:
    return f"entail begun {actor}".encode()


def _begun(actor: str) -> dict[str, BegunCall]:
    stored = kv_get(_begun_key(actor))
    return {} if stored is None else {call: BegunCall(*begun) for call, begun in json.loads(stored).items()}


def _state(actor: ActorHandle) -> ActorState:
    row = actor_row(actor)
    if row is None:
        return ActorState(node="", pid=0, alive=False, gone=True, num_restarts=0)
    return ActorState(
        node=row["Address"]["NodeID"],
        pid=row["Pid"],
        alive=row["State"] == "ALIVE",
        gone=row["State"] == "DEAD",
        num_restarts=row["NumRestarts"],
    )
