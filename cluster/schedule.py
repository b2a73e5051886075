"""Which actor gets which task, and what a failure costs: decisions alone, without Ray or a clock.

A unit that kills its actor twice, or raises an unexpected error, is bisected if it has several rows, down to single
rows. Rows that fail alone are its failing rows; the unit is then finished without them.

Not every failure is the data's fault. A row fails for good only if it failed twice *and the actor of its last failure
has succeeded at something since the row was first retried*. A unit that cannot be divided fails instead: an error
names it when the rest is done. An actor that fails `FAILURES_IN_A_ROW` times (plus log2 of the largest unit's rows,
since that many pieces around one bad row may fail in a row) gets no more work, and when that holds for all actors the
run stops (ResumableError). So a fault of one actor costs that actor, a fault of all stops the run, and neither blames
a row. Finishing a divided unit computes nothing, so it is not a success.

If an actor works on several units when it dies, all of them are blamed; each is then tried again by itself.

An error of a group's weights (a checkpoint that does not fit) fails the units of that affinity alone.
"""

from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from heapq import heapreplace

from data.errors import ResumableError

MIN_IN_FLIGHT = 2  # tasks per actor: one running, one queued, so that no actor waits for the driver
MAX_FAILURES = 2  # of one unit, or of one of its rows
FAILURES_IN_A_ROW = 5  # of one actor; beyond, the fault is not in the data


@dataclass(frozen=True, slots=True)
class Unit:
    """One call of a worker's method that returns a receipt. Producer: the stages. Consumer: `cluster.pool`.

    Units of the same `affinity` (a checkpoint, a context) prefer the same actor; "" prefers none. With `num_rows` > 1
    the method also takes `rows=(start, stop)` (only those rows, kept beside the target) and `failing={row: reason}`
    (all rows but these, without computing kept ones again), so that a failing unit can be divided.
    """

    name: str
    method: str
    args: tuple[object, ...]
    affinity: str
    num_rows: int = 1


@dataclass(frozen=True, slots=True)
class Task:
    """What an actor gets: a whole unit (`rows` None), some of its rows, or the end of a divided one.

    `unit` is an index among the units of the run, `rows` a half-open range.
    """

    unit: int
    rows: tuple[int, int] | None = None
    is_end: bool = False


class Schedule:
    """The work of one run: queues per actor, tasks in flight, retries, failures. Actors are numbered from 0.

    An actor works on up to `width` tasks at a time, and begins them in any order.
    """

    def __init__(self, units: Sequence[Unit], num_actors: int, width: int = 1) -> None:
        """Units of one affinity go to one queue, the largest groups first, each to the queue with the fewest rows."""
        self.units = units
        self.max_in_flight = max(width, MIN_IN_FLIGHT)
        self.failed_units: dict[int, str] = {}  # unit -> reason
        self.num_in_flight = 0  # tasks that are running or queued at an actor
        self._queues = _queues(units, num_actors)
        self._in_flight: list[list[Task]] = [[] for _ in range(num_actors)]
        self._retries: deque[Task] = deque()  # what failed, or is a piece of it; the newest first
        self._unresolved: deque[Task] = deque()  # cannot be divided; wait for a sound actor
        self._just_failed: set[int] = set()  # actors whose last task failed: they get new work next, if any
        self._failures: Counter[Task] = Counter()
        self._last_failure = ""
        self._in_a_row = [0] * num_actors
        self._successes = [0] * num_actors
        self._successes_before: dict[Task, tuple[int, ...]] = {}  # at the first failure of a task or its whole
        self._pieces: Counter[int] = Counter()  # unresolved ones of each divided unit
        self._failing: dict[int, dict[int, str]] = {}  # unit -> row -> reason
        most_rows = max((unit.num_rows for unit in units), default=1)
        self._max_in_a_row = FAILURES_IN_A_ROW + (most_rows - 1).bit_length()

    @property
    def finished(self) -> bool:
        """Whether every unit is done or failed."""
        return not (self.num_in_flight or any(self._queues) or self._retries or self._unresolved)

    def in_flight(self, actor: int) -> list[Task]:
        """The tasks that an actor has, the oldest first."""
        return list(self._in_flight[actor])

    def is_trusted(self, actor: int) -> bool:
        """Whether the actor has failed few enough times in a row to get work."""
        return self._in_a_row[actor] < self._max_in_a_row

    def assign(self, ready: Collection[int]) -> list[tuple[int, Task]]:
        """New tasks of the ready actors, in order: idle ones first, none more than `max_in_flight` in all.

        Raises ResumableError if work is left and no actor is trusted.
        """
        if not (self.finished or self.num_in_flight or any(map(self.is_trusted, range(len(self._queues))))):
            raise ResumableError(
                f"{sum(self._in_a_row)} failures in a row and no success, the last: {self._last_failure}"
            )
        given: list[tuple[int, Task]] = []
        for held in range(self.max_in_flight):
            for actor in filter(self.is_trusted, sorted(ready)):
                task = self._choose(actor) if len(self._in_flight[actor]) <= held else None
                if task is not None:
                    self._in_flight[actor].append(task)
                    self.num_in_flight += 1
                    given.append((actor, task))
        return given

    def extras(self, task: Task) -> dict[str, object]:
        """Keyword arguments of the worker's method beside the unit's own arguments."""
        if task.is_end:
            return {"failing": dict(sorted(self._failing[task.unit].items()))}
        return {"rows": task.rows} if task.rows else {}

    def name_of(self, task: Task) -> str:
        """The unit's name, with the rows if the task is a piece."""
        name = self.units[task.unit].name
        return f"{name}, rows {task.rows[0]} to {task.rows[1] - 1}" if task.rows else name

    def done(self, actor: int, task: Task) -> None:
        """The actor finished a task."""
        self._in_flight[actor].remove(task)
        self.num_in_flight -= 1
        if not task.is_end:
            self._successes[actor] += 1
            self._in_a_row[actor] = 0
        if task.rows:
            self._piece_resolved(task.unit)

    def failed(self, actor: int, reason: str, *, by_death: bool, blamed: Sequence[Task] = ()) -> None:
        """The actor died, or ends for what it raised: the blamed tasks failed, its others are queued again.

        It works on the blamed ones if it died; one of them raised otherwise. None is blamed if the actor died of
        another run's task, while it did nothing, or while it started.
        """
        for task in reversed(self._in_flight[actor]):
            if task in blamed:
                continue
            if task.is_end or task in self._successes_before:
                self._retries.append(task)
            else:
                self._queues[actor].appendleft(task)
        self.num_in_flight -= len(self._in_flight[actor])
        self._in_flight[actor] = []
        self._just_failed.add(actor)
        self._in_a_row[actor] += 1
        names = ", ".join(map(self.name_of, blamed))
        self._last_failure = f"{names}: {reason}" if blamed else reason
        for task in blamed:
            self._handle_failure(actor, task, reason, by_death=by_death)

    def fail_group(self, actor: int, task: Task, reason: str) -> str:
        """The weights of a task's group cannot be used: all its units fail. Returns its affinity."""
        self._in_flight[actor].remove(task)
        self.num_in_flight -= 1
        affinity = self.units[task.unit].affinity
        for tasks in (*self._queues, self._retries, self._unresolved):
            dropped = [waiting for waiting in tasks if self.units[waiting.unit].affinity == affinity]
            for waiting in dropped:
                tasks.remove(waiting)
                self.failed_units[waiting.unit] = reason
        self.failed_units[task.unit] = reason
        return affinity

    def _choose(self, actor: int) -> Task | None:
        queue = self._queues[actor]
        if self._in_flight[actor]:
            # A retry is alone with its actor: then it is known what the actor dies of
            is_retry = any(task.is_end or task in self._successes_before for task in self._in_flight[actor])
            return None if is_retry or not queue else queue.popleft()
        just_failed = actor in self._just_failed
        if not queue and (just_failed or not self._retries):
            self._steal(queue)
        if queue and just_failed:
            self._just_failed.discard(actor)
            return queue.popleft()
        if self._retries:
            return self._retries.pop()
        return self._choose_unresolved(actor) or (queue.popleft() if queue else None)

    def _choose_unresolved(self, actor: int) -> Task | None:
        nothing_else = not (self.num_in_flight or any(self._queues))
        task = next((task for task in self._unresolved if nothing_else or self._actor_is_sound(task, actor)), None)
        if task is not None:
            self._unresolved.remove(task)
        return task

    def _steal(self, queue: deque[Task]) -> None:
        """Move the last affinity group of the longest queue, at most half of that queue."""
        victim = max(self._queues, key=len)
        affinities = [self.units[task.unit].affinity for task in reversed(victim)]
        group = next((n for n, affinity in enumerate(affinities) if affinity != affinities[0]), len(victim))
        queue.extendleft(victim.pop() for _ in range(min(group, (len(victim) + 1) // 2)))

    def _handle_failure(self, actor: int, task: Task, reason: str, *, by_death: bool) -> None:
        """Divide the task, or let it wait for one more try, or fail what cannot be divided."""
        self._failures[task] += 1
        self._successes_before.setdefault(task, tuple(self._successes))
        failed_often = self._failures[task] >= MAX_FAILURES
        start, stop = task.rows or (0, self.units[task.unit].num_rows)
        if not task.is_end and stop - start > 1:
            if task.rows or failed_often or not by_death:
                self._divide(task, start, stop)
            else:
                self._retries.append(task)
        elif failed_often and task.rows and self._actor_is_sound(task, actor):
            self._failing[task.unit][task.rows[0]] = reason
            self._piece_resolved(task.unit)
        elif failed_often and not task.rows:
            self.failed_units[task.unit] = reason
        else:
            self._unresolved.append(task)

    def _actor_is_sound(self, task: Task, actor: int) -> bool:
        return self._successes[actor] > self._successes_before[task][actor]

    def _divide(self, task: Task, start: int, stop: int) -> None:
        middle = (start + stop) // 2
        self._pieces[task.unit] += 1 if task.rows else 2
        self._failing.setdefault(task.unit, {})
        for rows in (middle, stop), (start, middle):
            piece = Task(task.unit, rows)
            self._successes_before[piece] = self._successes_before[task]
            self._retries.append(piece)

    def _piece_resolved(self, unit: int) -> None:
        self._pieces[unit] -= 1
        if self._pieces[unit] == 0:
            self._retries.append(Task(unit, is_end=True))


def _queues(units: Sequence[Unit], num_actors: int) -> list[deque[Task]]:
    groups: dict[str, list[int]] = {}
    for number, unit in enumerate(units):
        groups.setdefault(f"same {unit.affinity}" if unit.affinity else f"own {number}", []).append(number)
    queues: list[deque[Task]] = [deque() for _ in range(num_actors)]
    lightest = [(0, actor) for actor in range(num_actors)]
    rows_of = {name: sum(units[number].num_rows for number in group) for name, group in groups.items()}
    for name in sorted(groups, key=rows_of.__getitem__, reverse=True):
        num_rows, actor = lightest[0]
        queues[actor].extend(Task(number) for number in groups[name])
        heapreplace(lightest, (num_rows + rows_of[name], actor))
    return queues
