"""Units of work over actors: the driver moves names of shards, the actors read and write the shards.

Any plain class will do as a worker. What an actor gets and what a failure costs is decided in `cluster.schedule`; how
actors live and die in `cluster.actors`. Touches no file.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import ray

from cluster.actors import ActorGroup, ActorState, PoolSpec
from cluster.meter import Meter
from cluster.schedule import Schedule, Unit
from data.errors import InputError, ResumableError
from data.records import ShardReceipt

__all__ = ["ActorPool", "Description", "Unit"]

PROCESS_SECONDS = 120.0  # until a process is there that can keep a deadline of its own
POLL_SECONDS = 0.5  # between two looks at actors that are not ready
PLACE_SECONDS = 600.0  # a cluster that grows by itself takes minutes
START_SECONDS = 1800.0  # a large model is read from a slow disk in many minutes, but not for ever
# An actor ends itself at the deadline. The driver does it if that is not seen: the process is stopped, or out of reach.
# Not sooner, as a pool that is shared may have a unit and a half of somebody else's before ours.
DEADLINES_BEFORE_KILL = 3


@dataclass(frozen=True, slots=True)
class Description:
    """A pool as it is now. Producer: `ActorPool.describe`. Consumer: whoever shows it, or checks what it would use."""

    init_args: tuple[object, ...]
    actors: tuple[ActorState, ...]


@dataclass
class _Run:
    """One `run` under way: the schedule, the answers that are awaited, since when each actor's oldest one is."""

    schedule: Schedule
    refs: list[deque[ray.ObjectRef]]
    since: dict[int, float] = field(default_factory=dict)
    receipts: list[ShardReceipt] = field(default_factory=list)
    looked: float = 0.0


class ActorPool:
    """`num_actors` actors that each hold a `worker_class(*init_args)`; a context manager that ends them.

    `restarts` counts the actors that were lost. A `meter` that is put here is fed by `run`.
    """

    def __init__(
        self,
        worker_class: type,
        init_args: tuple[object, ...],
        *,
        num_actors: int,
        num_cpus: float,
        num_gpus: float = 0,
        deadline_seconds: float | None = None,
        start_seconds: float | None = START_SECONDS,
        name: str | None = None,
        strategy: str = "SPREAD",
        place_seconds: float = PLACE_SECONDS,
    ) -> None:
        """Returns when all workers are made. Raises what their constructor raises.

        ResumableError if one is not made within `start_seconds`: where it hung is in its log.
        Each actor has a bundle of `num_cpus` and `num_gpus` in one placement group of that `strategy`; ResumableError
        if the cluster has no such place for `place_seconds`, now or after a loss. A call that takes longer than
        `deadline_seconds` costs its actor. With a `name`, other processes of the cluster can `attach`.
        """
        spec = PoolSpec(
            worker_class,
            init_args,
            num_actors,
            num_cpus,
            num_gpus,
            start_seconds,
            deadline_seconds,
            strategy,
            place_seconds,
        )
        self._set_up(ActorGroup.start(spec, name))
        self._await_all(start_seconds)

    @classmethod
    def attach(cls, name: str) -> Self:
        """The named pool of another process of this cluster; closing it leaves the actors alive.

        Raises InputError if no such pool is up.
        """
        pool = cls.__new__(cls)
        pool._set_up(ActorGroup.find(name))
        return pool

    def _set_up(self, actors: ActorGroup) -> None:
        self._actors = actors
        self._asked: list[list[ray.ObjectRef]] = [[] for _ in actors.actors]
        self._lock = threading.Lock()
        self._run: _Run | None = None
        self.restarts = 0
        self.meter: Meter | None = None

    def _await_all(self, start_seconds: float | None) -> None:
        """Wait until all workers are made. The driver's own limit is for processes that are stopped, out of reach."""
        started = time.monotonic()
        limit = None if start_seconds is None else PROCESS_SECONDS + DEADLINES_BEFORE_KILL * start_seconds
        try:
            ray.get(list(self._actors.starting.values()), timeout=limit)
        except ray.exceptions.RayError as error:
            self.close()
            is_late = start_seconds is not None and time.monotonic() - started > start_seconds
            reason = (
                f"it was not ready after {start_seconds:g} s, its log tells where it was" if is_late else _reason(error)
            )
            raise _fatal(error, "start") or ResumableError(f"an actor failed as it started: {reason}") from error
        for actor in list(self._actors.starting):
            self._actors.started(actor)

    @property
    def in_flight(self) -> int:
        """Units that are running or queued at an actor."""
        return self._run.schedule.num_in_flight if self._run else 0

    def run(self, units: Sequence[Unit], on_receipt: Callable[[ShardReceipt], None]) -> list[ShardReceipt]:
        """Do all units; receipts in the order of completion, each handed to `on_receipt` as it comes.

        Raises an InputError or ResumableError of a unit's method at once, an OSError (a full disk) as ResumableError.
        ResumableError, too, if all actors fail whatever they do, if the cluster has no place for any of them, and at
        the end if units were set aside.
        """
        run = self._run = _Run(Schedule(units, len(self._actors.actors)), [deque() for _ in self._actors.actors])
        try:
            while not run.schedule.finished:
                self._assign(run)
                self._check_health(run)
                self._await(run, on_receipt)
        finally:
            self._run = None
            for ref in (ref for refs in run.refs for ref in refs):
                ray.cancel(ref)  # only what has not begun
        aside = [f"{units[unit].name} ({reason})" for unit, reason in run.schedule.failed_units.items()]
        if aside:
            raise ResumableError(f"{len(aside)} units were set aside, each failed twice: {'; '.join(aside)}")
        return run.receipts

    def ask(self, method: str, args: tuple[object, ...], *, actor: int | None = None) -> ray.ObjectRef:
        """One call of a worker's method, at the live actor that has the least to do, or at that one; from any thread.

        `ray.get` of it raises what the method raises, and a RayActorError if the actor dies. Raises ResumableError if
        no actor is up.
        """
        states = self._actors.states()
        with self._lock:
            for number, refs in enumerate(self._asked):
                if refs:
                    self._asked[number] = ray.wait(refs, num_returns=len(refs), timeout=0)[1]
            alive = [number for number, state in enumerate(states) if state.alive and actor in (None, number)]
            if not alive:
                raise ResumableError("no actor of the pool is up; those that died start again by themselves")
            number = min(alive, key=self._load)
            ref = self._actors.send(number, method, args, {})
            self._asked[number].append(ref)
        return ref

    def describe(self) -> Description:
        """What the actors were made of, and each of them as it is now."""
        return Description(self._actors.spec.init_args, tuple(self._actors.states()))

    def close(self) -> None:
        """End all actors, whatever they do, and give back their places; an attached pool is left as it is."""
        self._actors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, actor: int) -> int:
        return len(self._asked[actor]) + (len(self._run.refs[actor]) if self._run else 0)

    def _assign(self, run: _Run) -> None:
        for actor, task in run.schedule.assign(self._actors.ready):
            unit = run.schedule.units[task.unit]
            if not run.refs[actor]:
                run.since[actor] = time.monotonic()
            run.refs[actor].append(self._actors.send(actor, unit.method, unit.args, run.schedule.extras(task)))
        if self.meter is not None:
            self.meter.fly(run.schedule.num_in_flight)

    def _check_health(self, run: _Run) -> None:
        """Now and then: end actors that hang, let those that are back make their workers."""
        now = time.monotonic()
        if now - run.looked < POLL_SECONDS:
            return
        run.looked = now
        deadline = self._actors.spec.deadline_seconds
        for actor, refs in enumerate(run.refs):
            if refs and deadline is not None and now - run.since[actor] > DEADLINES_BEFORE_KILL * deadline:
                run.since[actor] = now
                self._actors.kill(actor)  # and its calls will fail
        self._actors.look([actor for actor in range(len(run.refs)) if run.schedule.is_trusted(actor)])

    def _await(self, run: _Run, on_receipt: Callable[[ShardReceipt], None]) -> None:
        """Wait a while for the next answers, of tasks or of actors that make their workers."""
        starting = {ref: actor for actor, ref in self._actors.starting.items()}
        oldest = {refs[0]: actor for actor, refs in enumerate(run.refs) if refs}
        if not (starting or oldest):
            time.sleep(POLL_SECONDS)
            return
        awaited = [*oldest, *starting]
        answered, _ = ray.wait(awaited, num_returns=1, timeout=POLL_SECONDS)
        if answered:  # all of them, or the first actors would be served first for ever
            answered, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0)
        for ref in answered:
            actor = (starting | oldest)[ref]
            try:
                answer = ray.get(ref)
            except ray.exceptions.RayError as error:
                self._fail(run, actor, error)
            else:
                if ref in starting:
                    self._actors.started(actor)
                else:
                    self._finish(run, actor, answer, on_receipt)

    def _finish(self, run: _Run, actor: int, receipt: ShardReceipt, on_receipt: Callable[[ShardReceipt], None]) -> None:
        run.refs[actor].popleft()
        run.since[actor] = time.monotonic()
        if run.schedule.done(actor).rows:
            if self.meter is not None:
                self.meter.piece(receipt)
            return
        if self.meter is not None:
            self.meter.receipt(receipt)
        run.receipts.append(receipt)
        on_receipt(receipt)

    def _fail(self, run: _Run, actor: int, error: ray.exceptions.RayError) -> None:
        """The actor died, or raised what no worker should: then nobody knows its state, so it is ended, too."""
        task = run.schedule.running(actor)
        name = f"unit {run.schedule.name_of(task)}" if task else "the start of an actor"
        fatal = _fatal(error, name)
        if fatal is not None:
            raise fatal from error
        by_death = not isinstance(error, ray.exceptions.RayTaskError)
        deadline = self._actors.spec.deadline_seconds
        if task and by_death and deadline is not None and time.monotonic() - run.since[actor] > deadline:
            reason = f"it ran past its deadline of {deadline:g} s"
        else:
            reason = _reason(error)
        run.refs[actor].clear()
        self._actors.lose(actor)
        self.restarts += 1
        if self.meter is not None:
            self.meter.restart()
        run.schedule.failed(actor, reason, by_death=by_death)


def _fatal(error: ray.exceptions.RayError, name: str) -> Exception | None:
    """What ends the run: an error that is ours, as the worker raised it, or a trouble of the machine (a full disk)."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, InputError | ResumableError):
        return cause
    if isinstance(cause, OSError):
        return ResumableError(f"{name}: {cause}; when that is mended, the same command goes on")
    return None


def _reason(error: ray.exceptions.RayError) -> str:
    if isinstance(error, ray.exceptions.RayActorError):
        return "its actor died"
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}"
