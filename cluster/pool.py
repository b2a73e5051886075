"""Units of work over actors: the driver sends names of shards, the actors read and write the shards.

Any plain class can be a worker. `cluster.schedule` decides which actor gets what and what a failure costs,
`cluster.actors` starts and ends actors. Touches no file.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import ray

from cluster.actors import ActorGroup, ActorState, PoolSpec
from cluster.meter import Meter
from cluster.run import Run, describe_failure, fails_group, fatal_error, raise_failures
from cluster.schedule import Schedule, Unit
from data.errors import ResumableError
from data.records import ShardReceipt

__all__ = ["ActorPool", "Description", "Unit"]

PROCESS_SECONDS = 120.0  # until a process runs that can keep a deadline of its own
POLL_SECONDS = 0.5  # between two checks of actors that are not ready
PLACE_SECONDS = 600.0  # an autoscaling cluster takes minutes
START_SECONDS = 1800.0  # a large model loads from a slow disk in many minutes
STATES_SECONDS = 0.5  # for which `ask` reuses the states of the actors
ASK_DEADLINE_SECONDS = 3600.0
# An actor ends itself at the deadline. The driver ends it if that fails: the process is stopped, or unreachable. Not
# sooner, because in a shared pool one and a half units of another driver may run before ours.
DEADLINES_BEFORE_KILL = 3


@dataclass(frozen=True, slots=True)
class Description:
    """A pool as it is now. Producer: `ActorPool.describe`. Consumers: `serve status`, checks before attaching."""

    init_args: tuple[object, ...]
    actors: tuple[ActorState, ...]


class ActorPool:
    """`num_actors` actors that each hold a `worker_class(*init_args)`; a context manager that ends them.

    `restarts` counts lost actors. An assigned `meter` is fed by `run`.
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

        ResumableError if one is not made within `start_seconds`; its log then holds its stack traces.
        Each actor has a bundle of `num_cpus` and `num_gpus` in one placement group of that `strategy`; ResumableError
        if the cluster has no room for `place_seconds`, now or after a loss. A call that exceeds `deadline_seconds`
        (None: derived, see `cluster.run`) costs its actor. With a `name`, other processes of the cluster can `attach`.
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

    def _set_up(self, group: ActorGroup) -> None:
        self._group = group
        self._asked: list[list[ray.ObjectRef]] = [[] for _ in group.handles]
        self._states: tuple[float, list[ActorState]] = (0.0, [])
        self._lock = threading.Lock()
        self._run: Run | None = None
        self.restarts = 0
        self.meter: Meter | None = None

    def _await_all(self, start_seconds: float | None) -> None:
        """Wait until all workers are made. The driver's own limit is for processes that are stopped or unreachable."""
        started = time.monotonic()
        limit = None if start_seconds is None else PROCESS_SECONDS + DEADLINES_BEFORE_KILL * start_seconds
        try:
            ray.get(list(self._group.starting.values()), timeout=limit)
        except ray.exceptions.RayError as error:
            self.close()
            is_late = start_seconds is not None and time.monotonic() - started > start_seconds
            reason = f"it was not ready after {start_seconds:g} s, see its log" if is_late else describe_failure(error)
            raise fatal_error(error, "start") or ResumableError(f"an actor failed to start: {reason}") from error
        for actor in list(self._group.starting):
            self._group.started(actor)

    @property
    def in_flight(self) -> int:
        """Units that are running or queued at an actor."""
        return self._run.schedule.num_in_flight if self._run else 0

    def run(self, units: Sequence[Unit], on_receipt: Callable[[ShardReceipt], None]) -> list[ShardReceipt]:
        """Do all units; receipts in the order of completion, each passed to `on_receipt` as it comes.

        Raises an InputError or ResumableError of a unit's method at once, an OSError (a full disk) as ResumableError;
        but an error of an affinity group's weights (`data.errors` of a unit with an affinity, if it is an InputError
        or its class sets `fails_group`) at the end, when the other groups are done. ResumableError, too, if all
        actors fail whatever they do, if the cluster has no room for any of them, and at the end if units failed.
        """
        run = self._run = Run(Schedule(units, len(self._group.handles)), [deque() for _ in self._group.handles])
        try:
            while not run.schedule.finished:
                self._assign(run)
                self._check_health(run)
                self._await(run, on_receipt)
        finally:
            self._run = None
            for ref, _ in (call for calls in run.calls for call in calls):
                ray.cancel(ref)  # only what has not begun
        raise_failures(run)
        return run.receipts

    def ask(self, method: str, args: tuple[object, ...], *, actors: Collection[int] | None = None) -> ray.ObjectRef:
        """One call of a worker's method, at the least busy live actor, or the least busy of `actors`; from any thread.

        `ray.get` of the result raises what the method raises, and a RayActorError if the actor dies. Raises
        ResumableError if no such actor is up.
        """
        with self._lock:
            states = self._recent_states()
            for number, refs in enumerate(self._asked):
                if refs:
                    self._asked[number] = ray.wait(refs, num_returns=len(refs), timeout=0)[1]
            alive = [at for at, state in enumerate(states) if state.alive and (actors is None or at in actors)]
            if not alive:
                raise ResumableError("no actor of the pool is up; those that died restart by themselves")
            number = min(alive, key=self._load)
            deadline = self._group.spec.deadline_seconds or ASK_DEADLINE_SECONDS
            ref = self._group.send(number, method, args, {}, deadline)
            self._asked[number].append(ref)
        return ref

    def describe(self) -> Description:
        """What the actors were made of, and the present state of each."""
        return Description(self._group.spec.init_args, tuple(self._group.states()))

    def close(self) -> None:
        """End all actors at once and release their resources; an attached pool is left as it is."""
        self._group.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recent_states(self) -> list[ActorState]:
        """The states of the actors, asked of the cluster at most once in `STATES_SECONDS`."""
        now = time.monotonic()
        if now - self._states[0] > STATES_SECONDS or not self._states[1]:
            self._states = (now, self._group.states())
        return self._states[1]

    def _load(self, actor: int) -> int:
        return len(self._asked[actor]) + (len(self._run.calls[actor]) if self._run else 0)

    def _assign(self, run: Run) -> None:
        for actor, task in run.schedule.assign(self._group.ready):
            unit = run.schedule.units[task.unit]
            if not run.calls[actor]:
                run.since[actor] = time.monotonic()
            deadline = run.deadline(task, self._group.spec.deadline_seconds)
            ref = self._group.send(actor, unit.method, unit.args, run.schedule.extras(task), deadline)
            run.calls[actor].append((ref, deadline))
        if self.meter is not None:
            self.meter.set_in_flight(run.schedule.num_in_flight)

    def _check_health(self, run: Run) -> None:
        """Periodically: end actors that hang, let restarted ones make their workers."""
        now = time.monotonic()
        if now - run.checked < POLL_SECONDS:
            return
        run.checked = now
        for actor, calls in enumerate(run.calls):
            if calls and now - run.since[actor] > DEADLINES_BEFORE_KILL * calls[0][1]:
                run.since[actor] = now
                self._group.kill(actor)  # and its calls will fail
        self._group.reopen([actor for actor in range(len(run.calls)) if run.schedule.is_trusted(actor)])

    def _await(self, run: Run, on_receipt: Callable[[ShardReceipt], None]) -> None:
        """Wait a while for the next results, of tasks or of actors that make their workers."""
        starting = {ref: actor for actor, ref in self._group.starting.items()}
        oldest = {calls[0][0]: actor for actor, calls in enumerate(run.calls) if calls}
        if not (starting or oldest):
            time.sleep(POLL_SECONDS)
            return
        awaited = [*oldest, *starting]
        finished, _ = ray.wait(awaited, num_returns=1, timeout=POLL_SECONDS)
        if finished:  # take all, or the first actors would always be served first
            finished, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0)
        for ref in finished:
            actor = (starting | oldest)[ref]
            try:
                result = ray.get(ref)
            except ray.exceptions.RayError as error:
                self._fail(run, actor, error)
            else:
                if ref in starting:
                    self._group.started(actor)
                else:
                    self._finish(run, actor, result, on_receipt)

    def _finish(self, run: Run, actor: int, receipt: ShardReceipt, on_receipt: Callable[[ShardReceipt], None]) -> None:
        run.calls[actor].popleft()
        run.since[actor] = time.monotonic()
        num_rows = max(receipt.num_rows + receipt.num_refused, 1)
        run.seconds_per_row = max(run.seconds_per_row, receipt.wall_seconds / num_rows)
        if run.schedule.done(actor).rows:
            if self.meter is not None:
                self.meter.piece(receipt)
            return
        if self.meter is not None:
            self.meter.receipt(receipt)
        run.receipts.append(receipt)
        on_receipt(receipt)

    def _fail(self, run: Run, actor: int, error: ray.exceptions.RayError) -> None:
        """The actor died, or raised an unexpected error: then its state is unknown, so it is ended, too."""
        task = run.schedule.running(actor)
        name = f"unit {run.schedule.name_of(task)}" if task else "the start of an actor"
        fatal = fatal_error(error, name)
        if fatal is not None and task is not None and fails_group(fatal) and run.schedule.units[task.unit].affinity:
            run.calls[actor].popleft()
            run.since[actor] = time.monotonic()
            run.group_errors.setdefault(run.schedule.fail_group(actor, str(fatal)), fatal)
            return
        if fatal is not None:
            raise fatal from error
        by_death = not isinstance(error, ray.exceptions.RayTaskError)
        deadline = run.calls[actor][0][1] if run.calls[actor] else None
        if task and by_death and deadline is not None and time.monotonic() - run.since[actor] > deadline:
            reason = f"it exceeded its deadline of {deadline:g} s"
        else:
            reason = describe_failure(error)
        run.calls[actor].clear()
        self._group.lose(actor)
        self.restarts += 1
        if self.meter is not None:
            self.meter.restart()
        run.schedule.failed(actor, reason, by_death=by_death)
