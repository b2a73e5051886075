"""The actors of a pool: placed by a placement group or found by name, restarted by Ray when they die, watched, ended.

Writes one key of the cluster's own key-value store for a named pool (what its actors were made of); touches no file.
"""

import faulthandler
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Self

import ray
from ray import cloudpickle
from ray._private import state as cluster_state
from ray.actor import ActorHandle
from ray.experimental import internal_kv
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from data.errors import InputError, ResumableError

STANDARD_ERROR = 2  # a file descriptor: the actor's log


class ActorHost:
    """The actor: holds one worker, made by a call and not here, so that its errors arrive as errors of a call."""

    def __init__(
        self,
        worker_class: type,
        init_args: tuple[object, ...],
        start_seconds: float | None,
        deadline_seconds: float | None,
    ) -> None:
        self._make = (worker_class, init_args)
        self._start_seconds = start_seconds
        self._deadline_seconds = deadline_seconds
        self._worker: object | None = None

    def open(self) -> None:
        """Make the worker if it is not there yet: at the start, and after each restart."""
        if self._worker is None:
            worker_class, init_args = self._make
            with _deadline(self._start_seconds):
                self._worker = worker_class(*init_args)

    def call(self, method: str, args: tuple[object, ...], extras: dict[str, object]) -> object:
        """One unit of work."""
        self.open()
        with _deadline(self._deadline_seconds):
            return getattr(self._worker, method)(*args, **extras)


@contextmanager
def _deadline(seconds: float | None) -> Iterator[None]:
    """Past the deadline the process writes where it hangs into its log and ends itself."""
    if seconds is not None:  # a thread of C: it needs neither the interpreter nor the driver
        faulthandler.dump_traceback_later(seconds, exit=True, file=STANDARD_ERROR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@dataclass(frozen=True, slots=True)
class ActorState:
    """One actor as the cluster sees it. Producer: `ActorGroup`. Consumers: the pool, whoever shows its state.

    `node` is Ray's node id. `alive` is false while the actor waits for a place or starts again; `gone` is for good.
    """

    node: str
    pid: int
    alive: bool
    gone: bool
    num_restarts: int


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What the actors of a pool are made of. Producer: whoever starts the pool. Consumer: whoever attaches to it."""

    worker_class: type
    init_args: tuple[object, ...]
    num_actors: int
    num_cpus: float
    num_gpus: float
    start_seconds: float | None
    deadline_seconds: float | None
    strategy: str
    place_seconds: float


@dataclass
class ActorGroup:
    """The actors of a pool, by number. `ready` are those whose worker is made, `starting` the calls that make one.

    `group` is None where the actors belong to another process.
    """

    spec: PoolSpec
    name: str | None
    actors: list[ActorHandle]
    group: PlacementGroup | None
    ready: set[int] = field(default_factory=set)
    starting: dict[int, ray.ObjectRef] = field(default_factory=dict)
    _restarts_seen: dict[int, int] = field(default_factory=dict)  # an actor is opened once after each restart
    _placeless_since: float | None = None

    @classmethod
    def start(cls, spec: PoolSpec, name: str | None) -> Self:
        """New actors, one per bundle of a new group. Raises ResumableError if the cluster has no place for them."""
        bundle = {"CPU": spec.num_cpus, "GPU": spec.num_gpus}
        wanted = {resource: count for resource, count in bundle.items() if count}
        group = placement_group([wanted] * spec.num_actors, strategy=spec.strategy)
        actors = cls(spec, name, [], group)
        with ExitStack() as undo:
            undo.callback(actors.close)
            if not group.wait(spec.place_seconds):
                raise ResumableError(f"the cluster has no place for {spec.num_actors} actors with {wanted} each")
            actors.actors += [actors._make(number) for number in range(spec.num_actors)]
            undo.pop_all()
        if name is not None:
            internal_kv._internal_kv_put(_card(name), cloudpickle.dumps(spec))
        actors.starting = {number: actor.open.remote() for number, actor in enumerate(actors.actors)}
        return actors

    @classmethod
    def find(cls, name: str) -> Self:
        """The actors of a named pool that another process of this cluster started. Raises InputError if none is up."""
        card = internal_kv._internal_kv_get(_card(name))
        try:
            if card is None:
                raise ValueError("nothing bears this name")
            spec: PoolSpec = cloudpickle.loads(card)
            actors = [ray.get_actor(_actor_name(name, number)) for number in range(spec.num_actors)]
        except ValueError as error:
            raise InputError(
                f"no pool is up: {error}", where=f"pool {name}", hint="start it, or name another"
            ) from error
        return cls(spec, name, actors, None)

    def send(self, number: int, method: str, args: tuple[object, ...], extras: dict[str, object]) -> ray.ObjectRef:
        """Queue one call at an actor."""
        return self.actors[number].call.remote(method, args, extras)

    def states(self) -> list[ActorState]:
        """All actors as the cluster sees them now; a dead one may seem alive for some seconds."""
        return [_state(actor) for actor in self.actors]

    def look(self, wanted: Sequence[int]) -> None:
        """Let those of the wanted actors that came up (again) since they were opened last make their workers.

        Raises ResumableError if all of them are gone for good, or none has had a place for `place_seconds`.
        """
        states = {number: _state(self.actors[number]) for number in wanted if number not in self.ready}
        for number, state in states.items():
            is_new = state.num_restarts > self._restarts_seen.get(number, -1)
            if state.alive and is_new and number not in self.starting:
                self._restarts_seen[number] = state.num_restarts
                self.starting[number] = self.actors[number].open.remote()
        if len(states) < len(wanted) or any(state.alive for state in states.values()):
            self._placeless_since = None
            return
        if wanted and all(state.gone for state in states.values()):
            raise ResumableError("all actors of the pool were ended from elsewhere")
        now = time.monotonic()
        self._placeless_since = self._placeless_since or now
        if now - self._placeless_since > self.spec.place_seconds:
            raise ResumableError(
                f"all actors were lost, and for {self.spec.place_seconds:g} s the cluster has had no place for "
                f"any of them ({self.spec.num_cpus:g} CPUs, {self.spec.num_gpus:g} GPUs each)"
            )

    def started(self, number: int) -> None:
        """The worker of this actor is made."""
        del self.starting[number]
        self.ready.add(number)

    def lose(self, number: int) -> None:
        """The actor failed: it gets a new process, if Ray has not given it one already."""
        self.starting.pop(number, None)
        self.ready.discard(number)
        state = _state(self.actors[number])
        if state.alive and state.num_restarts <= self._restarts_seen.setdefault(number, 0):
            self.kill(number)  # out of reach rather than dead, or alive but spoiled

    def kill(self, number: int) -> None:
        """End the actor's process, whatever it does; Ray starts another."""
        ray.kill(self.actors[number], no_restart=False)

    def close(self) -> None:
        """End the actors, whatever they do, and give their places back. Actors of another process are left alone."""
        if self.group is None:
            return
        for actor in self.actors:
            ray.kill(actor)
        remove_placement_group(self.group)
        if self.name is not None and self.actors:
            internal_kv._internal_kv_del(_card(self.name))
        self.actors = []

    def _make(self, number: int) -> ActorHandle:
        options = {
            "num_cpus": self.spec.num_cpus,
            "num_gpus": self.spec.num_gpus,
            "max_restarts": -1,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=number),
        }
        if self.name is not None:
            options["name"] = _actor_name(self.name, number)
        spec = self.spec
        deadlines = (spec.start_seconds, spec.deadline_seconds)
        try:
            return ray.remote(ActorHost).options(**options).remote(spec.worker_class, spec.init_args, *deadlines)
        except ValueError as error:
            raise InputError(
                str(error), where=f"pool {self.name}", hint="attach to it, end it, or choose a name"
            ) from error


def _actor_name(pool: str, number: int) -> str:
    return f"{pool}/{number}"


def _card(name: str) -> bytes:
    return f"entail pool {name}".encode()


def _state(actor: ActorHandle) -> ActorState:
    row = cluster_state.actors(actor._ray_actor_id.hex())
    if not row:  # ended so long ago that the cluster has forgotten it
        return ActorState(node="", pid=0, alive=False, gone=True, num_restarts=0)
    return ActorState(
        node=row["Address"]["NodeID"],
        pid=row["Pid"],
        alive=row["State"] == "ALIVE",
        gone=row["State"] == "DEAD",
        num_restarts=row["NumRestarts"],
    )
