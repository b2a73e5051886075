"""Units of work over actors: the driver sends names of shards, the actors read and write the shards.

Any plain class can be a worker. `cluster.schedule` decides which actor gets what and what a failure costs,
`cluster.actors` starts and ends actors. Touches no file.

Deadlines: a call that exceeds its deadline costs its actor a restart. Without an explicit deadline, a unit may take
`DEADLINE_FACTOR` times the time per row of the slowest unit so far, at least `MIN_DEADLINE_SECONDS`; before the first
receipt, `FIRST_DEADLINE_SECONDS`. For single calls (`ActorPool.ask`) it is `ASK_DEADLINE_SECONDS`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Self

import ray

from cluster.actors import ActorGroup, ActorState, PoolSpec, died_under
from cluster.meter import Meter
from cluster.schedule import Schedule, Task, Unit
from data.errors import InputError, ResumableError
from data.records import ShardReceipt

__all__ = ["ActorPool", "Unit"]

PROCESS_SECONDS = 120.0  # until a process runs that can keep a deadline of its own
POLL_SECONDS = 0.5  # between two checks of actors that are not ready
PLACE_SECONDS = 600.0  # an autoscaling cluster takes minutes
START_SECONDS = 1800.0  # a large model loads from a slow disk in many minutes
ASK_DEADLINE_SECONDS = 3600.0
# An actor ends itself at the deadline. The driver ends it if that fails: the process is stopped, or unreachable. The
# deadline is that of the call which the actor began last; in a shared pool it may be another driver's.
DEADLINES_BEFORE_KILL = 2
DEADLINE_FACTOR = 20.0
MIN_DEADLINE_SECONDS = 3600.0  # rows differ: one with a long context may cost a hundred short ones
FIRST_DEADLINE_SECONDS = 4 * 3600.0
Calls = deque[tuple[ray.ObjectRef, float]]  # with their deadlines, the oldest first


@dataclass
class Run:
    """One `run` in progress: the schedule, pending calls of each actor, since when each actor's oldest runs."""

    schedule: Schedule
    calls: list[Calls]
    meter: Meter
    since: dict[int, float] = field(default_factory=dict)
    receipts: list[ShardReceipt] = field(default_factory=list)
    group_errors: dict[str, InputError] = field(default_factory=dict)
    seconds_per_row: float = 0.0  # of the slowest unit so far
    checked: float = 0.0

    def deadline(self, task: Task, explicit: float | None) -> float:
        """Seconds that a task may take."""
        if explicit is not None:
            return explicit
        if not self.seconds_per_row:
            return FIRST_DEADLINE_SECONDS
        start, stop = task.rows or (0, self.schedule.units[task.unit].num_rows)
        return max(MIN_DEADLINE_SECONDS, DEADLINE_FACTOR * self.seconds_per_row * (stop - start))


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
        start_seconds: float = START_SECONDS,
        name: str | None = None,
        place_seconds: float = PLACE_SECONDS,
    ) -> None:
        """Returns when all workers are made. Raises what their constructor raises.

        ResumableError if one is not made within `start_seconds`; its log then holds its stack traces.
        Each actor has a bundle of `num_cpus` and `num_gpus` in one placement group, spread over the nodes;
        ResumableError if the cluster has no room for `place_seconds`, now or after a loss. A call that exceeds
        `deadline_seconds` (None: derived, see the module) costs its actor. With a `name`, other processes of the
        cluster can `attach`.
        """
        resources = num_actors, num_cpus, num_gpus
        spec = PoolSpec(worker_class, init_args, *resources, start_seconds, deadline_seconds, place_seconds)
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
        self._lock = threading.Lock()
        self._run: Run | None = None
        self.restarts = 0
        self.meter: Meter | None = None

    def _await_all(self, start_seconds: float) -> None:
        """Wait until all workers are made. The driver's own limit is for processes that are stopped or unreachable."""
        started = time.monotonic()
        limit = PROCESS_SECONDS + DEADLINES_BEFORE_KILL * start_seconds
        try:
            ray.get(list(self._group.starting.values()), timeout=limit)
        except ray.exceptions.RayError as error:
            self.close()
            is_late = time.monotonic() - started > start_seconds
            reason = f"it was not ready after {start_seconds:g} s, see its log" if is_late else _describe_failure(error)
            raise _fatal_error(error, "start") or ResumableError(f"an actor failed to start: {reason}") from error
        for actor in list(self._group.starting):
            self._group.started(actor)

    def run(
        self,
        units: Sequence[Unit],
        on_receipt: Callable[[ShardReceipt], None],
        group_errors: dict[str, InputError | ResumableError] | None = None,
    ) -> list[ShardReceipt]:
        """Do all units; receipts in the order of completion, each passed to `on_receipt` as it comes.

        Raises an InputError or ResumableError of a unit's method at once, an OSError (a full disk) as ResumableError;
        but an InputError of a unit with an affinity, which is that group's alone, at the end, when the other groups
        are done. ResumableError, too, if all actors fail whatever they do, if the cluster has no room for any of them,
        and at the end if units failed. With `group_errors`, errors raised at the end are stored there by affinity.
        """
        calls: list[Calls] = [deque() for _ in self._group.handles]
        run = self._run = Run(Schedule(units, len(calls)), calls, self.meter or Meter(0))
        try:
            while not run.schedule.finished:
                self._assign(run)
                self._check_health(run)
                self._await(run, on_receipt)
        finally:
            self._run = None
            for ref, _ in (call for calls in run.calls for call in calls):
                ray.cancel(ref)  # only what has not begun
        if group_errors is None:
            _raise_failures(run)
        else:
            group_errors |= run.group_errors
            for number, reason in run.schedule.failed_units.items():
                unit = units[number]
                group_errors.setdefault(unit.affinity, ResumableError(f"{unit.name} failed twice ({reason})"))
        return run.receipts

    def ask(self, method: str, args: tuple[object, ...], *, actors: Collection[int] | None = None) -> ray.ObjectRef:
        """One call of a worker's method, at the least busy live actor, or the least busy of `actors`; from any thread.

        Whoever names `actors` knows that they are up: then the cluster is not asked. `ray.get` of the result raises
        what the method raises, and a RayActorError if the actor dies. Raises ResumableError if no actor is up.
        """
        if actors is None:
            actors = [number for number, state in enumerate(self.states()) if state.alive]
        if not actors:
            raise ResumableError("no actor of the pool is up; those that died restart by themselves")
        with self._lock:
            for number, refs in enumerate(self._asked):
                if refs:
                    self._asked[number] = ray.wait(refs, num_returns=len(refs), timeout=0)[1]
            number = min(actors, key=self._load)
            deadline = self._group.spec.deadline_seconds or ASK_DEADLINE_SECONDS
            ref = self._group.send(number, method, args, {}, deadline)
            self._asked[number].append(ref)
        return ref

    def died_under(self, ref: ray.ObjectRef) -> bool:
        """Whether an actor whose death ended this call was working on it, and not on another or on nothing."""
        return died_under(ref)

    def states(self) -> list[ActorState]:
        """The present state of each actor."""
        return self._group.states()

    def close(self) -> None:
        """End all actors at once and release their resources; an attached pool is left as it is."""
        self._group.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        run.meter.set_in_flight(run.schedule.num_in_flight)

    def _check_health(self, run: Run) -> None:
        """Periodically: end actors that hang, let restarted ones make their workers."""
        now = time.monotonic()
        if now - run.checked < POLL_SECONDS:
            return
        run.checked = now
        for actor, calls in enumerate(run.calls):
            if calls and now - run.since[actor] > calls[0][1] and self._is_stuck(actor):
                run.since[actor] = now
                self._group.kill(actor)  # and its calls will fail
        self._group.reopen([actor for actor in range(len(run.calls)) if run.schedule.is_trusted(actor)])

    def _is_stuck(self, actor: int) -> bool:
        """Whether an actor has exceeded the deadline of the call that it began last, and did not end itself."""
        begun = self._group.begun(actor)
        return begun is None or time.time() - begun.began > DEADLINES_BEFORE_KILL * begun.seconds

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
            run.meter.piece(receipt)
            return
        run.meter.receipt(receipt)
        run.receipts.append(receipt)
        on_receipt(receipt)

    def _fail(self, run: Run, actor: int, error: ray.exceptions.RayError) -> None:
        """The actor died, or raised an unexpected error: then its state is unknown, so it is ended, too."""
        task = run.schedule.running(actor)
        name = f"unit {run.schedule.name_of(task)}" if task else "the start of an actor"
        fatal = _fatal_error(error, name)
        if isinstance(fatal, InputError) and task is not None and run.schedule.units[task.unit].affinity:
            run.calls[actor].popleft()
            run.since[actor] = time.monotonic()
            run.group_errors.setdefault(run.schedule.fail_group(actor, str(fatal)), fatal)
            return
        if fatal is not None:
            raise fatal from error
        by_death = not isinstance(error, ray.exceptions.RayTaskError)
        place = next((at for at, (ref, _) in enumerate(run.calls[actor]) if died_under(ref)), None) if by_death else 0
        deadline = run.calls[actor][place][1] if run.calls[actor] and place is not None else None
        if by_death and deadline is not None and time.monotonic() - run.since[actor] > deadline:
            reason = f"it exceeded its deadline of {deadline:g} s"
        else:
            reason = _describe_failure(error)
        run.calls[actor].clear()
        self._group.lose(actor, is_dead=by_death)
        self.restarts += 1
        run.meter.restart()
        run.schedule.failed(actor, reason, by_death=by_death, place=place)


def _raise_failures(run: Run) -> None:
    """Raise what failed in a finished run: the error of an affinity group, or the names of failed units."""
    errors = list(run.group_errors.values())
    if len(errors) == 1:
        raise errors[0]
    if errors:
        listed = "; ".join(f"{error.where}: {error.what}" for error in errors)
        raise InputError(listed, where=f"{len(errors)} checkpoints", hint="fix or leave out these; the rest is done")
    failed = [f"{run.schedule.units[unit].name} ({reason})" for unit, reason in run.schedule.failed_units.items()]
    if failed:
        raise ResumableError(f"{len(failed)} units failed, each twice: {'; '.join(failed)}")


def _fatal_error(error: ray.exceptions.RayError, name: str) -> InputError | ResumableError | None:
    """What ends the run: an error of ours, as the worker raised it, or a fault of a node (a full disk)."""
    cause = getattr(error, "cause", None)
    node = getattr(error, "ip", "") or "a node"
    if isinstance(cause, InputError | ResumableError):
        return cause
    if isinstance(cause, ModuleNotFoundError):
        return InputError(str(cause), where=node, hint="install the same packages on every node")
    if isinstance(cause, FileNotFoundError):
        hint = "keep the study, the documents and the model on a disk that all nodes share"
        return InputError(str(cause), where=f"{name}, on {node}", hint=hint)
    if isinstance(cause, OSError):
        return ResumableError(f"{name}, on {node}: {cause}; fix that, then the same command resumes")
    return None


def _describe_failure(error: ray.exceptions.RayError) -> str:
    """What happened to an actor or its call, in one line."""
    if isinstance(error, ray.exceptions.RayActorError):
        return "its actor died"
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}"
