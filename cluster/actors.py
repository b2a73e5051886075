"""The actors of a pool: placed by a placement group or found by name, restarted by Ray, watched, ended.

In the cluster's key-value store, a named pool has a key (the spec of its actors), and each actor one that names the
call that it began last: it tells every driver of a shared pool under whose call the actor died. Touches no file.
"""

import faulthandler
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import ray
from ray import cloudpickle
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.ray_internals import actor_id, actor_row, call_of, kv_delete, kv_get, kv_put, own_call
from data.errors import InputError, ResumableError

STANDARD_ERROR = 2  # a file descriptor: the actor's log
SAFE_ERRORS = (InputError, ResumableError, OSError, ModuleNotFoundError)  # the worker's state is intact


class BegunCall(NamedTuple):
    """The call that an actor began last. Producer: `ActorHost`. Consumer: the pool.

    `began` is seconds since the epoch by the actor's clock; the call may take `seconds`.
    """

    call: str
    began: float
    seconds: float


class ActorHost:
    """The actor: holds one worker, made by a call and not here, so that its errors arrive as errors of a call."""

    def __init__(self, worker_class: type, init_args: tuple[object, ...], start_seconds: float) -> None:
        self._make = (worker_class, init_args)
        self._start_seconds = start_seconds
        self._worker: object | None = None
        self._is_broken = False

    def open(self) -> None:
        """Make the worker if there is none: at the start, and after each restart."""
        if self._is_broken:
            self.end()
        if self._worker is None:
            worker_class, init_args = self._make
            with _deadline(self._start_seconds):
                self._worker = worker_class(*init_args)

    def call(self, method: str, args: tuple[object, ...], extras: dict[str, object], seconds: float) -> object:
        """Call a method of the worker; the process ends itself after `seconds`.

        It also ends, before its next call, after an error that is not one of `SAFE_ERRORS`: the state is then unknown.
        """
        self.open()
        with _deadline(seconds):
            try:
                actor, call = own_call()
                kv_put(_begun_key(actor), json.dumps(BegunCall(call, time.time(), seconds)).encode())
                return getattr(self._worker, method)(*args, **extras)
            except SAFE_ERRORS:
                raise
            except Exception:
                self._is_broken = True
                raise

    def end(self) -> None:
        """End the process, between two calls; Ray starts another."""
        os._exit(1)


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Past the deadline the process writes its stack traces into its log and ends itself."""
    # a C thread: it needs neither the interpreter nor the driver
    faulthandler.dump_traceback_later(seconds, exit=True, file=STANDARD_ERROR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


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

    `deadline_seconds` None derives the deadlines of calls, see `cluster.pool`.
    """

    worker_class: type
    init_args: tuple[object, ...]
    num_actors: int
    num_cpus: float
    num_gpus: float
    start_seconds: float
    deadline_seconds: float | None
    place_seconds: float


@dataclass
class ActorGroup:
    """The actors of a pool, by number. `ready` are those whose worker is made, `starting` the calls that make one.

    `placement` is None if the actors belong to another process.
    """

    spec: PoolSpec
    name: str | None
    handles: list[ActorHandle]
    placement: PlacementGroup | None
    ready: set[int] = field(default_factory=set)
    starting: dict[int, ray.ObjectRef] = field(default_factory=dict)
    _restarts_seen: dict[int, int] = field(default_factory=dict)  # an actor is opened once after each restart
    _unplaced_since: float | None = None

    @classmethod
    def start(cls, spec: PoolSpec, name: str | None) -> Self:
        """New actors, one per bundle of a new placement group. Raises ResumableError if the cluster has no room."""
        bundle = {"CPU": spec.num_cpus, "GPU": spec.num_gpus}
        wanted = {resource: count for resource, count in bundle.items() if count}
        placement = placement_group([wanted] * spec.num_actors, strategy="SPREAD")
        group = cls(spec, name, [], placement)
        with ExitStack() as undo:
            undo.callback(group.close)
            if not placement.wait(spec.place_seconds):
                raise ResumableError(f"the cluster has no room for {spec.num_actors} actors with {wanted} each")
            group.handles += [group._make(number) for number in range(spec.num_actors)]
            undo.pop_all()
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
        return cls(spec, name, handles, None)

    def send(self, number: int, *call: object) -> ray.ObjectRef:
        """Queue one `ActorHost.call` at an actor."""
        return self.handles[number].call.remote(*call)

    def begun(self, number: int) -> BegunCall | None:
        """The call that an actor, or its process before, began last; None if it never began one."""
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
        if len(states) < len(wanted) or any(state.alive for state in states.values()):
            self._unplaced_since = None
            return
        if wanted and all(state.gone for state in states.values()):
            raise ResumableError("all actors of the pool were ended by another process")
        now = time.monotonic()
        self._unplaced_since = self._unplaced_since or now
        if now - self._unplaced_since > self.spec.place_seconds:
            raise ResumableError(
                f"all actors were lost, and for {self.spec.place_seconds:g} s the cluster has had no room for any of "
                f"them ({self.spec.num_cpus:g} CPUs, {self.spec.num_gpus:g} GPUs each)"
            )

    def started(self, number: int) -> None:
        """The worker of this actor is made."""
        del self.starting[number]
        self.ready.add(number)

    def lose(self, number: int, *, is_dead: bool) -> None:
        """The actor failed: end its process, unless Ray has already replaced it.

        One that is not dead ends between two calls: the next one may be another driver's.
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
        if self.placement is None:
            return
        for handle in self.handles:
            ray.kill(handle)
            kv_delete(_begun_key(actor_id(handle)))
        remove_placement_group(self.placement)
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
            scheduling_strategy=PlacementGroupSchedulingStrategy(self.placement, placement_group_bundle_index=number),
        )
        try:
            return actor.remote(spec.worker_class, spec.init_args, spec.start_seconds)
        except ValueError as error:
            raise InputError(
                str(error), where=f"pool {self.name}", hint="attach to it, end it, or choose another name"
            ) from error


def _actor_name(pool: str, number: int) -> str:
    return f"{pool}/{number}"


def _key(name: str) -> bytes:
    return f"entail pool {name}".encode()


def died_under(ref: ray.ObjectRef) -> bool:
    """Whether the actor of a call that ended by its death was working on this very call."""
    actor, call = call_of(ref)
    begun = _begun(actor)
    return begun is not None and begun.call == call


def _begun_key(actor: str) -> bytes:
    return f"entail begun {actor}".encode()


def _begun(actor: str) -> BegunCall | None:
    stored = kv_get(_begun_key(actor))
    return None if stored is None else BegunCall(*json.loads(stored))


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
