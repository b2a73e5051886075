"""Units of work over actors: the driver moves names of shards, the actors read and write the shards.

Any plain class will do. Each actor has at most one unit running and one queued. A unit whose actor dies is tried once
more on a fresh actor; if that dies too, the unit is set aside and reported when the others are done. Touches no file.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

import ray
from ray.actor import ActorHandle

from data.errors import InputError, ResumableError
from data.records import ShardReceipt

MOST_IN_FLIGHT = 2  # per actor: one running and one queued, so that no actor waits for the driver
MOST_DEATHS = 2  # of actors under one unit
DEATHS_PER_ACTOR = 5  # in a row without a receipt: then the fault is not a unit's


@dataclass(frozen=True, slots=True)
class Unit:
    """One call of an actor's method that returns a receipt. Producer: the stages. Consumer: `ActorPool`.

    Units of the same `affinity` (a checkpoint, a context) prefer the same actor; "" prefers none.
    """

    name: str
    method: str
    args: tuple[object, ...]
    affinity: str


class _Host:
    """The actor: holds one worker, made by a call and not here, so that its errors arrive as errors of a call."""

    def __init__(self, worker_class: type, init_args: tuple[object, ...]) -> None:
        self._make = (worker_class, init_args)
        self._worker: object | None = None

    def open(self) -> None:
        """Make the worker if it is not there yet."""
        if self._worker is None:
            worker_class, init_args = self._make
            self._worker = worker_class(*init_args)

    def call(self, method: str, args: tuple[object, ...]) -> ShardReceipt:
        """One unit of work."""
        self.open()
        receipt: ShardReceipt = getattr(self._worker, method)(*args)
        return receipt


@dataclass
class _Run:
    """What one `run` knows: the units that wait for each actor, those in flight, the deaths under each unit."""

    queues: list[deque[Unit]]
    flights: list[deque[tuple[ray.ObjectRef, Unit]]]
    receipts: list[ShardReceipt] = field(default_factory=list)
    deaths: Counter[int] = field(default_factory=Counter)  # by id(unit): names need not be unique
    set_aside: list[str] = field(default_factory=list)
    deaths_in_a_row: int = 0


class ActorPool:
    """`num_actors` actors that each hold a `worker_class(*init_args)`; a context manager that ends them."""

    def __init__(
        self,
        worker_class: type,
        init_args: tuple[object, ...],
        *,
        num_actors: int,
        num_cpus: float,
        num_gpus: float = 0,
    ) -> None:
        """Returns when all workers are made. Raises what their constructor raises."""
        host = ray.remote(_Host).options(num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0)
        self._start: Callable[[], ActorHandle] = partial(host.remote, worker_class, init_args)
        self._actors = [self._start() for _ in range(num_actors)]
        try:
            ray.get([actor.open.remote() for actor in self._actors])
        except ray.exceptions.RayError as error:
            self.close()
            raise _unwrapped(error, "an actor died while it started") from error

    def run(self, units: Sequence[Unit], on_receipt: Callable[[ShardReceipt], None]) -> list[ShardReceipt]:
        """Do all units; receipts in the order of completion, each handed to `on_receipt` as it comes.

        Raises what a unit's method raises, at once; ResumableError at the end if units were set aside.
        """
        run = _Run(_queues(units, len(self._actors)), [deque() for _ in self._actors])
        while self._hand_out(run):
            actor = _first_ready(run)
            ref, unit = run.flights[actor][0]
            try:
                receipt = ray.get(ref)
            except ray.exceptions.RayActorError:
                self._replace(run, actor)
                continue
            except ray.exceptions.RayError as error:
                raise _unwrapped(error, f"unit {unit.name} failed") from error
            run.flights[actor].popleft()
            run.deaths_in_a_row = 0
            run.receipts.append(receipt)
            on_receipt(receipt)
        if run.set_aside:
            names = ", ".join(run.set_aside)
            raise ResumableError(f"{len(run.set_aside)} units were set aside, each killed its actor twice: {names}")
        return run.receipts

    def close(self) -> None:
        """End all actors, whatever they do."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hand_out(self, run: _Run) -> bool:
        """Give every actor what it may hold, the idle ones first; whether anything is in flight."""
        for held in range(MOST_IN_FLIGHT):
            for actor, (flights, queue) in enumerate(zip(run.flights, run.queues, strict=True)):
                if len(flights) > held:
                    continue
                if not queue and held == 0:  # only an idle actor steals, from the far end of the longest queue
                    longest = max(run.queues, key=len)
                    queue.extend([longest.pop()] if longest else [])
                if queue:
                    unit = queue.popleft()
                    flights.append((self._actors[actor].call.remote(unit.method, unit.args), unit))
        return any(run.flights)

    def _replace(self, run: _Run, actor: int) -> None:
        """A fresh actor for a dead one. The oldest unit of the dead one was running: it alone bears the blame."""
        ray.kill(self._actors[actor])  # it may be out of reach rather than dead
        self._actors[actor] = self._start()
        (_, blamed), *waiting = run.flights[actor]
        run.flights[actor].clear()
        run.queues[actor].extendleft(unit for _, unit in reversed(waiting))
        run.deaths_in_a_row += 1
        if run.deaths_in_a_row > DEATHS_PER_ACTOR * len(self._actors):
            raise ResumableError(f"the actors die one after the other, the last one under unit {blamed.name}")
        run.deaths[id(blamed)] += 1
        if run.deaths[id(blamed)] < MOST_DEATHS:
            run.queues[actor].append(blamed)
        else:
            run.set_aside.append(blamed.name)


def _queues(units: Sequence[Unit], num_actors: int) -> list[deque[Unit]]:
    """One queue per actor: units of one affinity together, the largest groups first, each to the shortest queue."""
    groups: dict[str, list[Unit]] = {}
    for number, unit in enumerate(units):
        groups.setdefault(f"same {unit.affinity}" if unit.affinity else f"own {number}", []).append(unit)
    queues: list[deque[Unit]] = [deque() for _ in range(num_actors)]
    for group in sorted(groups.values(), key=len, reverse=True):
        min(queues, key=len).extend(group)
    return queues


def _first_ready(run: _Run) -> int:
    """The actor whose oldest unit ends next, by success or by failure. Actors work in order, so its oldest is it."""
    oldest = {flights[0][0]: actor for actor, flights in enumerate(run.flights) if flights}
    ready, _ = ray.wait(list(oldest), num_returns=1)
    return oldest[ready[0]]


def _unwrapped(error: ray.exceptions.RayError, what: str) -> Exception:
    """What the worker itself raised, if it is ours; a death is resumable; all else keeps its remote traceback."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, InputError | ResumableError):
        return cause
    return ResumableError(f"{what}: {error}") if isinstance(error, ray.exceptions.RayActorError) else error
