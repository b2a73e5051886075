"""Units of work over actors: the driver sends names of shards, the actors read and write the shards.

Any plain class can be a worker. `cluster.schedule` decides which actor gets what and what a failure costs,
`cluster.actors` starts and ends actors. Touches no file.

Deadlines: a call that exceeds its deadline costs its actor a restart. Without an explicit deadline, a unit may take
`DEADLINE_FACTOR` times the time per row of the slowest unit so far, at least `MIN_DEADLINE_SECONDS`; before the first
receipt, `FIRST_DEADLINE_SECONDS`. For single calls (`ActorPool.ask`) it is `ASK_DEADLINE_SECONDS`.
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import ray

from cluster.actors import PROCESS_SECONDS, ActorGroup, ActorState, BegunCall, PoolSpec, call_id, died_under
from cluster.meter import Meter
from cluster.places import Say
from cluster.schedule import Schedule, Task, Unit
from data.errors import InputError, ResumableError
from data.records import ShardReceipt

__all__ = ["ActorPool", "Unit"]

POLL_SECONDS = 0.5  # between two checks of actors that are not ready
PROGRESS_SECONDS = 5.0  # between two questions how many rows of its units an actor has
PLACE_SECONDS = 600.0  # an autoscaling cluster takes minutes
START_SECONDS = 1800.0  # a large model loads from a slow disk in many minutes
ASK_DEADLINE_SECONDS = 3600.0
# An actor ends itself at the deadline. The driver ends it if that fails: the process is stopped, or unreachable. The
# deadline is that of the call which the actor began last; in a shared pool it may be another driver's.
DEADLINES_BEFORE_KILL = 2
DEADLINE_FACTOR = 20.0
MIN_DEADLINE_SECONDS = 3600.0  # rows differ: one with a long context may cost a hundred short ones
FIRST_DEADLINE_SECONDS = 4 * 3600.0


class Call(NamedTuple):
    """A task at an actor: when it was sent there (monotonic seconds), and its deadline in seconds."""

    task: Task
    sent: float
    deadline: float


@dataclass
class Run:
    """One `run` in progress: the schedule, and the pending calls of each actor."""

    schedule: Schedule
    calls: list[dict[ray.ObjectRef, Call]]
    meter: Meter
    receipts: list[ShardReceipt] = field(default_factory=list)
    group_errors: dict[str, InputError] = field(default_factory=dict)
    seconds_per_row: float = 0.0  # of the slowest unit so far
    checked: float = 0.0
    looked: float = 0.0
    looks: dict[int, ray.ObjectRef] = field(default_factory=dict)  # by actor
    partial: dict[int, int] = field(default_factory=dict)  # by actor, answered rows of units that are not finished

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

    `restarts` counts lost actors, `problems` describes those that failed to start. An assigned `meter` is fed by `run`.
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
        width: int = 1,
        say: Say = lambda line: None,
    ) -> None:
        """Returns when the first worker is made; each of the others gets work as soon as it is made, too.

        Raises what their constructor raises if all of them fail; ResumableError if none is made within
        `start_seconds`, its log then holds its stack traces. Each actor takes `num_cpus` and `num_gpus` of one node;
        ResumableError if the cluster has no room for any of them for `place_seconds`, now or after a loss; `say` gets
        lines meanwhile. A call that
        exceeds `deadline_seconds` (None: derived, see the module) costs its actor. With a `name`, other processes of
        the cluster can `attach`. A worker gets up to `width` units at once, each in a thread; single calls beside them
        only if that is more than one.
        """
        resources = num_actors, num_cpus, num_gpus
        spec = PoolSpec(worker_class, init_args, *resources, start_seconds, deadline_seconds, place_seconds, width)
        self._set_up(ActorGroup.start(spec, name, say))
        try:
            self._await_first(start_seconds)
        except BaseException:
            self.close()
            raise

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
        self.problems: list[str] = []
        self.meter: Meter | None = None

    def _await_first(self, start_seconds: float) -> None:
        """Wait until one worker is made. The driver's own limit is for processes that are stopped or unreachable."""
        began, group = time.monotonic(), self._group
        limit: float | None = None
        while not group.ready:
            has_place = any(state.alive for state in group.states())
            group.check_places(has_place)
            if limit is None and has_place:
                limit = time.monotonic() + PROCESS_SECONDS + DEADLINES_BEFORE_KILL * start_seconds
            starting = {ref: actor for actor, ref in group.starting.items()}
            finished, _ = ray.wait(list(starting), num_returns=1, timeout=POLL_SECONDS)
            for ref in finished:
                try:
                    ray.get(ref)
                    group.started(starting[ref])
                except ray.exceptions.RayError as error:
                    is_late = time.monotonic() - began > start_seconds
                    late = f"it was not ready after {start_seconds:g} s, see its log"
                    self._note_failed_start(starting[ref], error, late if is_late else _describe_failure(error))
                    if not group.starting:
                        reason = self.problems[-1]
                        raise _fatal_error(error, "start") or ResumableError(f"no actor started: {reason}") from error
            if limit is not None and time.monotonic() > limit:
                raise ResumableError(f"no actor was ready after {start_seconds:g} s, and none answers")

    def _note_failed_start(self, actor: int, error: ray.exceptions.RayError, reason: str) -> None:
        """A failed start is a failure of that actor alone: its process ends, and Ray starts another."""
        node = self._group.states()[actor].node
        self.problems.append(f"actor {actor} (node {node[:8]}) failed to start: {reason}")
        self._group.lose(actor, is_dead=not isinstance(error, ray.exceptions.RayTaskError))

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
        calls: list[dict[ray.ObjectRef, Call]] = [{} for _ in self._group.handles]
        run = self._run = Run(Schedule(units, len(calls), self._group.spec.width), calls, self.meter or Meter(0))
        try:
            while not run.schedule.finished:
                self._assign(run)
                self._check_health(run)
                self._await(run, on_receipt)
        finally:
            self._run = None
            run.meter.set_partial(0)
            for ref in (ref for calls in run.calls for ref in calls):
                ray.cancel(ref)
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
        what the method raises, and a RayActorError if the actor dies. `ray.cancel` of it ends the call. Raises
        ResumableError if no actor is up.
        """
        with self._lock:
            number = self._least_busy(actors)
            ref = self._group.send(number, method, args, {}, self._ask_deadline)
            self._asked[number].append(ref)
        return ref

    def ask_stream(
        self, method: str, args: tuple[object, ...], *, actors: Collection[int] | None = None
    ) -> ray.ObjectRefGenerator:
        """As `ask`, of a method that returns an iterator: its items, as they come."""
        with self._lock:
            number = self._least_busy(actors)
            items = self._group.stream(number, method, args, self._ask_deadline)
            self._asked[number].append(items.completed())
        return items

    @property
    def _ask_deadline(self) -> float:
        return self._group.spec.deadline_seconds or ASK_DEADLINE_SECONDS

    def _least_busy(self, actors: Collection[int] | None) -> int:
        if actors is None:
            actors = [number for number, state in enumerate(self.states()) if state.alive]
        if not actors:
            raise ResumableError("no actor of the pool is up; those that died restart by themselves")
        for number, refs in enumerate(self._asked):
            if refs:
                self._asked[number] = ray.wait(refs, num_returns=len(refs), timeout=0)[1]
        return min(actors, key=self._load)

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
            deadline = run.deadline(task, self._group.spec.deadline_seconds)
            ref = self._group.send(actor, unit.method, unit.args, run.schedule.extras(task), deadline)
            run.calls[actor][ref] = Call(task, time.monotonic(), deadline)
        run.meter.set_in_flight(run.schedule.num_in_flight)

    def _check_health(self, run: Run) -> None:
        """Periodically: end actors that hang, let restarted ones make their workers."""
        now = time.monotonic()
        if now - run.checked < POLL_SECONDS:
            return
        run.checked = now
        for actor, calls in enumerate(run.calls):
            if any(now - call.sent > call.deadline for call in calls.values()) and self._is_stuck(actor):
                self._group.kill(actor)  # and its calls will fail
        self._group.reopen([actor for actor in range(len(run.calls)) if run.schedule.is_trusted(actor)])
        if self._group.spec.width > 1 and hasattr(self._group.spec.worker_class, "progress"):
            self._look(run, now)

    def _look(self, run: Run, now: float) -> None:
        """Ask actors how many rows of their unfinished units are answered; the answers are taken at a later check."""
        for actor, ref in list(run.looks.items()):
            if ray.wait([ref], timeout=0)[0]:
                del run.looks[actor]
                try:
                    run.partial[actor] = ray.get(ref)
                except ray.exceptions.RayError:  # its calls fail, too
                    run.partial.pop(actor, None)
        run.meter.set_partial(sum(run.partial.values()))
        if now - run.looked > PROGRESS_SECONDS:
            run.looked = now
            for actor, calls in enumerate(run.calls):
                if calls and actor not in run.looks:
                    run.looks[actor] = self._group.send(actor, "progress", (), {}, ASK_DEADLINE_SECONDS)

    def _is_stuck(self, actor: int) -> bool:
        """Whether an actor has exceeded the deadline of a call on which it works, and did not end itself."""
        begun = self._group.begun(actor).values()
        return not begun or any(time.time() - call.began > DEADLINES_BEFORE_KILL * call.seconds for call in begun)

    def _await(self, run: Run, on_receipt: Callable[[ShardReceipt], None]) -> None:
        """Wait a while for the next results, of tasks or of actors that make their workers."""
        starting = {ref: actor for actor, ref in self._group.starting.items()}
        pending = {ref: actor for actor, calls in enumerate(run.calls) for ref in calls}
        if not (starting or pending):
            time.sleep(POLL_SECONDS)
            return
        awaited = [*pending, *starting]
        finished, _ = ray.wait(awaited, num_returns=1, timeout=POLL_SECONDS)
        if finished:  # take all, or the first actors would always be served first
            finished, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0)
        for ref in finished:
            actor = (starting | pending)[ref]
            if ref in pending and ref not in run.calls[actor]:
                continue  # it was lost with its actor, a moment ago
            try:
                result = ray.get(ref)
            except ray.exceptions.RayError as error:
                self._fail(run, actor, ref, error)
            else:
                if ref in starting:
                    self._group.started(actor)
                else:
                    self._finish(run, actor, run.calls[actor].pop(ref).task, result, on_receipt)

    def _finish(
        self, run: Run, actor: int, task: Task, receipt: ShardReceipt, on_receipt: Callable[[ShardReceipt], None]
    ) -> None:
        num_rows = max(receipt.num_rows + receipt.num_refused, 1)
        run.seconds_per_row = max(run.seconds_per_row, receipt.wall_seconds / num_rows)
        run.schedule.done(actor, task)
        run.partial[actor] = max(run.partial.get(actor, 0) - num_rows, 0)
        run.looks.pop(actor, None)  # asked before this unit ended, it may count the unit's rows a second time
        if task.rows:
            run.meter.piece(receipt)
            return
        run.meter.receipt(receipt, sum(run.partial.values()))
        run.receipts.append(receipt)
        on_receipt(receipt)

    def _fail(self, run: Run, actor: int, ref: ray.ObjectRef, error: ray.exceptions.RayError) -> None:
        """The actor died, or raised an unexpected error: then its state is unknown, so it is ended, too."""
        calls = run.calls[actor]
        call = calls.get(ref)
        fatal = _fatal_error(error, f"unit {run.schedule.name_of(call.task)}" if call else "the start of an actor")
        if isinstance(fatal, InputError) and call is not None and run.schedule.units[call.task.unit].affinity:
            del calls[ref]
            run.group_errors.setdefault(run.schedule.fail_group(actor, call.task, str(fatal)), fatal)
            return
        is_alone = call is not None or not (self._group.ready or len(self._group.starting) > 1)
        if fatal is not None and is_alone:
            raise fatal from error
        by_death = not isinstance(error, ray.exceptions.RayTaskError)
        begun = self._group.begun(actor) if by_death else {}
        blamed = [calls[lost].task for lost in calls if (call_id(lost) in begun if by_death else lost == ref)]
        late = [begun[call_id(lost)].seconds for lost in calls if _is_late(begun.get(call_id(lost)))]
        reason = f"it exceeded its deadline of {late[0]:g} s" if late else _describe_failure(error)
        calls.clear()
        run.partial.pop(actor, None)
        if call is None:
            self._note_failed_start(actor, error, str(fatal or reason))
        else:
            self._group.lose(actor, is_dead=by_death)
        self.restarts += 1
        run.meter.restart()
        run.schedule.failed(actor, reason, by_death=by_death, blamed=blamed)


def _is_late(begun: BegunCall | None) -> bool:
    return begun is not None and time.time() - begun.began > begun.seconds


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
