"""The schedule without Ray: whatever dies, every unit ends once or fails with its cause, and only failing rows do."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cluster.meter import Meter
from cluster.pool import DEADLINE_FACTOR, FIRST_DEADLINE_SECONDS, MIN_DEADLINE_SECONDS, Run
from cluster.schedule import Schedule, Task, Unit
from data.errors import ResumableError


@dataclass
class World:
    """Simulated actors: which rows fail, and what happens next, drawn from a list of choices."""

    schedule: Schedule
    num_actors: int
    failing: set[tuple[int, int]]  # (unit, row)
    choices: list[int]
    raises: bool = False
    width: int = 1
    broken: set[int] = field(default_factory=set)  # actors under which everything fails
    computed: Counter[tuple[int, int]] = field(default_factory=Counter)  # rows that were computed with success
    ended: Counter[int] = field(default_factory=Counter)
    failed_rows: dict[int, set[int]] = field(default_factory=dict)
    num_failures: int = 0

    def choose(self, bound: int) -> int:
        return self.choices.pop() % bound if self.choices else 0

    def rows_of(self, task: Task) -> range:
        unit = self.schedule.units[task.unit]
        return range(*(task.rows or (0, unit.num_rows)))

    def run(self, *, accidents: int = 0) -> None:
        """Until all is done. `accidents` actors die for no fault of their task's."""
        away: set[int] = set()
        while not self.schedule.finished:
            self.schedule.assign(set(range(self.num_actors)) - away)
            assert all(self.held(actor) <= self.schedule.max_in_flight for actor in range(self.num_actors))
            busy = [actor for actor in range(self.num_actors) if self.schedule.in_flight(actor)]
            if away and (not busy or self.choose(3) == 0):
                away.discard(min(away))
                continue
            actor = busy[self.choose(len(busy))]
            if accidents and self.choose(4) == 1:
                accidents -= 1
                self.fail(actor, away, "accident")
            else:
                self.work(actor, away)

    def held(self, actor: int) -> int:
        return len(self.schedule.in_flight(actor))

    def work(self, actor: int, away: set[int]) -> None:
        begun = self.schedule.in_flight(actor)[: self.width]
        task = begun[self.choose(len(begun))]
        rows = [(task.unit, row) for row in self.rows_of(task)]
        if task.is_end:  # even a broken actor may put together what others computed
            self.failed_rows[task.unit] = set(self.schedule.extras(task)["failing"])
        elif actor in self.broken or self.failing & set(rows):
            return self.fail(actor, away, "failing", task)
        else:
            self.computed.update(rows)
        if task.rows is None:
            self.ended[task.unit] += 1
        self.schedule.done(actor, task)

    def fail(self, actor: int, away: set[int], reason: str, task: Task | None = None) -> None:
        """By an exception the task alone is blamed, by a death all on which the actor works."""
        self.num_failures += 1
        by_death = reason == "accident" or not self.raises
        blamed = self.schedule.in_flight(actor)[: self.width] if by_death or task is None else [task]
        self.schedule.failed(actor, reason, by_death=by_death, blamed=blamed)
        away.add(actor)


def units_of(sizes: list[int], affinities: str = "") -> list[Unit]:
    names = affinities or " " * len(sizes)
    return [Unit(f"u{i}", "m", (), names[i].strip(), num_rows=size) for i, size in enumerate(sizes)]


def world_of(
    sizes: list[int], num_actors: int, failing: set[tuple[int, int]], choices: list[int], width: int = 1
) -> World:
    return World(Schedule(units_of(sizes), num_actors, width), num_actors, failing, choices, width=width)


def finish(schedule: Schedule, actor: int) -> Task:
    """The actor finishes its oldest task."""
    task = schedule.in_flight(actor)[0]
    schedule.done(actor, task)
    return task


def fail(schedule: Schedule, actor: int, place: int | None = 0, *, by_death: bool = False) -> None:
    """The actor fails, and its task at a place is blamed."""
    blamed = [] if place is None else [schedule.in_flight(actor)[place]]
    schedule.failed(actor, "failing", by_death=by_death, blamed=blamed)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    num_actors=st.integers(1, 4),
    choices=st.lists(st.integers(0, 10**6), max_size=300),
    accidents=st.integers(0, 4),
    width=st.integers(1, 4),
)
@settings(max_examples=300)
def test_accidents_lose_nothing_and_blame_no_row(
    sizes: list[int], num_actors: int, choices: list[int], accidents: int, width: int
) -> None:
    world = world_of(sizes, num_actors, set(), choices, width)
    world.run(accidents=accidents)
    aside = world.schedule.failed_units
    assert all(sizes[unit] == 1 and cause == "accident" for unit, cause in aside.items())
    assert world.ended == Counter(set(range(len(sizes))) - set(aside))
    assert not any(world.failed_rows.values())


@given(
    sizes=st.lists(st.integers(1, 40), min_size=4, max_size=12),
    num_actors=st.integers(1, 4),
    choices=st.lists(st.integers(0, 10**6), max_size=300),
    seeds=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 39)), max_size=2),
    raises=st.booleans(),
    width=st.integers(1, 4),
)
@settings(max_examples=300)
def test_exactly_the_failing_rows_fail_and_all_else_is_done(
    sizes: list[int], num_actors: int, choices: list[int], seeds: set[tuple[int, int]], raises: bool, width: int
) -> None:
    sizes = [2, 2, *sizes]  # two sound units are there in any case
    failing = {(unit + 2, row % sizes[unit + 2]) for unit, row in seeds}
    # a last unit whose rows all fail leaves no success to blame them by: the run stops, see the tests below
    assume(not any(size > 1 and {(unit, row) for row in range(size)} <= failing for unit, size in enumerate(sizes)))
    world = world_of(sizes, num_actors, failing, choices, width)
    world.raises = raises
    world.run()
    lonely = {unit for unit, _ in failing if sizes[unit] == 1}
    assert world.schedule.failed_units == dict.fromkeys(lonely, "failing")
    assert world.ended == Counter(set(range(len(sizes))) - lonely)
    assert {(unit, row) for unit, rows in world.failed_rows.items() for row in rows} == {
        (unit, row) for unit, row in failing if unit not in lonely
    }
    sound = {(unit, row) for unit, size in enumerate(sizes) for row in range(size)} - failing
    assert set(world.computed) == sound


@given(
    sizes=st.lists(st.integers(1, 40), min_size=4, max_size=12),
    choices=st.lists(st.integers(0, 10**6), max_size=300),
    row=st.integers(0, 39),
    raises=st.booleans(),
)
@settings(max_examples=300)
def test_a_broken_actor_fails_no_row_but_the_failing_ones(
    sizes: list[int], choices: list[int], row: int, raises: bool
) -> None:
    sizes = [40, *sizes]
    world = world_of(sizes, 3, {(0, row)}, choices)
    world.broken, world.raises = {1}, raises
    world.run()
    assert {unit: rows for unit, rows in world.failed_rows.items() if rows} == {0: {row}}
    assert world.schedule.failed_units == {}
    assert world.ended == Counter(range(len(sizes)))


@pytest.mark.parametrize(("sizes", "num_actors"), [([1] * 100, 2), ([8] * 50, 2), ([1000], 1), ([2], 1), ([1], 3)])
@pytest.mark.parametrize("raises", [False, True])
def test_where_nothing_succeeds_the_run_stops_and_no_row_fails(sizes: list[int], num_actors: int, raises: bool) -> None:
    failing = {(unit, row) for unit, size in enumerate(sizes) for row in range(size)}
    world = world_of(sizes, num_actors, failing, [])
    world.raises = raises
    if sizes == [1]:  # too little to find out
        world.run()
        assert world.schedule.failed_units == {0: "failing"}
        return
    with pytest.raises(ResumableError, match="failures in a row"):
        world.run()
    assert world.num_failures <= num_actors * (5 + max(sizes).bit_length() + 2)
    assert world.failed_rows == {}


def test_a_unit_of_failing_rows_only_needs_the_success_of_others() -> None:
    world = world_of([4, *[2] * 20], 2, {(0, row) for row in range(4)}, [])
    world.run()
    assert world.failed_rows[0] == {0, 1, 2, 3}
    assert world.ended == Counter(range(21))


def test_a_fault_that_begins_during_the_run_fails_no_row() -> None:
    world = world_of([4] * 30, 2, set(), [])
    while len(world.ended) < 10:
        world.schedule.assign({0, 1})
        world.work(min(a for a in (0, 1) if world.schedule.in_flight(a)), set())
    world.failing = {(unit, row) for unit in range(30) for row in range(4)}
    with pytest.raises(ResumableError, match="failing"):
        world.run()
    assert world.failed_rows == {}
    assert len(world.ended) == 10


@pytest.mark.parametrize("row", [0, 777, 999])
def test_one_failing_row_of_a_thousand_costs_a_dozen_deaths(row: int) -> None:
    world = world_of([1000], 1, {(0, row)}, [])
    world.run()
    assert world.failed_rows == {0: {row}}
    assert world.num_failures <= 2 + 10 + 1


@pytest.mark.parametrize(("raises", "num_failures"), [(True, 1 + 2), (False, 2 + 2)])
def test_a_death_may_be_an_accident_and_an_exception_is_none(raises: bool, num_failures: int) -> None:
    world = world_of([2, 1, 1], 1, {(0, 0)}, [])
    world.raises = raises
    world.run()
    assert (world.failed_rows, world.num_failures) == ({0: {0}}, num_failures)


def test_after_a_failure_comes_new_work_and_a_retry_is_alone_with_its_actor() -> None:
    schedule = Schedule(units_of([2, 1, 1, 1, 1]), 1)
    assert schedule.assign({0}) == [(0, Task(0)), (0, Task(1))]
    fail(schedule, 0)
    assert schedule.assign({0}) == [(0, Task(1)), (0, Task(2))]
    finish(schedule, 0)
    finish(schedule, 0)
    assert schedule.assign({0}) == [(0, Task(0, (0, 1)))]


def hand_out_all(schedule: Schedule, num_actors: int) -> list[list[int]]:
    """Which units each of equally fast actors does."""
    did: list[list[int]] = [[] for _ in range(num_actors)]
    while not schedule.finished:
        schedule.assign(range(num_actors))
        for actor in range(num_actors):
            if schedule.in_flight(actor):
                did[actor].append(finish(schedule, actor).unit)
    return did


@given(affinities=st.text("abc ", min_size=5, max_size=60))
def test_two_actors_share_equal_units_sixty_to_forty_at_most(affinities: str) -> None:
    did = hand_out_all(Schedule(units_of([1] * len(affinities), affinities), 2), 2)
    assert sorted(did[0] + did[1]) == list(range(len(affinities)))
    assert max(map(len, did)) <= 0.6 * len(affinities) + 1e-9


def test_groups_of_one_affinity_stay_together_and_a_stolen_one_moves_as_a_whole() -> None:
    units = units_of([1] * 12, "aaabbbcccddd")
    schedule = Schedule(units, 2)
    schedule.assign({1})  # actor 0 is not ready: all it had is stolen by and by
    homes = []
    while not schedule.finished:
        homes.append(units[finish(schedule, 1).unit].affinity)
        schedule.assign({1})
    assert sum(left != right for left, right in pairwise(homes)) == 3


def test_the_end_of_a_divided_unit_proves_nothing() -> None:
    schedule = Schedule(units_of([2, 1]), 1)
    schedule.assign({0})
    fail(schedule, 0)
    successes = []
    while not schedule.finished:
        schedule.assign({0})
        successes.append((finish(schedule, 0).is_end, schedule._successes[0]))
    assert successes == [(False, 1), (False, 2), (False, 3), (True, 3)]


def test_each_group_has_a_home_of_its_own() -> None:
    schedule = Schedule(units_of([1] * 6, "ababab"), 2)
    given = schedule.assign({0, 1})
    assert {(actor, schedule.units[task.unit].affinity) for actor, task in given} == {(0, "a"), (1, "b")}
    assert len(given) == 4


def test_a_thief_takes_one_group_in_its_order_and_half_of_it_at_most() -> None:
    schedule = Schedule(units_of([1] * 12, "aaaaabbbbccc"), 2)  # b and c are at home with actor 1
    schedule.assign({0})
    for _ in range(5):
        finish(schedule, 0)
        schedule.assign({0})
    assert [task.unit for task in (*schedule._in_flight[0], *schedule._queues[0])] == [9, 10, 11]
    schedule = Schedule(units_of([1] * 10, "a" * 10), 2)
    assert len(schedule.assign({0, 1})) == 4
    assert [len(queue) for queue in schedule._queues] == [3, 3]


def test_an_actor_that_is_not_ready_gets_nothing() -> None:
    schedule = Schedule(units_of([1] * 6), 3)
    assert {actor for actor, _ in schedule.assign({2})} == {2}
    assert schedule.num_in_flight == schedule.max_in_flight


def test_an_error_of_one_group_fails_its_units_alone() -> None:
    units = [Unit(f"u{at}", "m", (), "ab"[at % 2], num_rows=2) for at in range(6)]
    schedule = Schedule(units, 2)
    done: set[int] = set()
    while not schedule.finished:
        schedule.assign({0, 1})
        actor = next(actor for actor in (0, 1) if schedule.in_flight(actor))
        task = schedule.in_flight(actor)[0]
        if task.unit % 2:
            assert schedule.fail_group(actor, task, "misfit") == "b"
        else:
            done.add(finish(schedule, actor).unit)
    assert (done, schedule.failed_units) == ({0, 2, 4}, dict.fromkeys((1, 3, 5), "misfit"))


def test_a_deadline_is_derived_from_the_slowest_unit_so_far() -> None:
    run = Run(Schedule([Unit("u", "m", (), "", num_rows=500)], 1), [{}], Meter(500))
    whole, piece = Task(0), Task(0, (0, 50))
    assert run.deadline(whole, None) == FIRST_DEADLINE_SECONDS
    run.seconds_per_row = 1.0
    assert run.deadline(whole, None) == DEADLINE_FACTOR * 500
    assert run.deadline(piece, None) == MIN_DEADLINE_SECONDS
    assert run.deadline(whole, 7.0) == 7.0


def test_a_death_that_was_not_ours_blames_no_task() -> None:
    """An actor may die of another run's task; or of our second one, if the answer to the first is lost."""
    schedule = Schedule(units_of([1, 1, 1]), 1)
    for _ in range(2):
        assert len(schedule.assign([0])) == 2
        fail(schedule, 0, None, by_death=True)
    (_, first), (_, second) = schedule.assign([0])
    fail(schedule, 0, 1, by_death=True)
    given = [task for _, task in schedule.assign([0])]
    assert first in given and second not in given  # a suspect is tried alone
    assert schedule.failed_units == {}


def test_all_units_of_an_actor_that_dies_are_tried_again_one_by_one() -> None:
    schedule = Schedule(units_of([2, 2, 2, 2]), 1, width=3)
    given = [task for _, task in schedule.assign([0])]
    assert len(given) == 3
    schedule.failed(0, "its actor died", by_death=True, blamed=given)
    assert [task for _, task in schedule.assign([0])] == [Task(3)]
    finish(schedule, 0)
    tried = []
    while not schedule.finished:
        assert len(schedule.assign([0])) == 1
        tried.append(finish(schedule, 0))
    assert sorted(tried, key=lambda task: task.unit) == given
