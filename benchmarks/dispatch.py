"""What one driver does for 1,000 engines: units handed out, receipts taken. `python -m benchmarks.dispatch --json OUT`.

The decisions and counts of `cluster.schedule` and `cluster.meter` alone, without Ray and without engines: simulated
actors answer in an order of chance, and some die. Ratios are 1 at 2,000 receipts a second and at 1 KB of the driver's
memory for each unit.
"""

import sys
import time
import tracemalloc
from collections.abc import Sequence

from benchmarks.harness import Bench, Goal, print_ratios, run
from cluster.meter import Meter
from cluster.schedule import Schedule, Unit
from data.seeds import stream

GOALS = {"receipts_per_second": Goal(1.0), "bytes_per_unit": Goal(1.0)}
RECEIPTS_PER_SECOND, BYTES_PER_UNIT = 2000.0, 1024.0
NUM_ACTORS, NUM_UNITS, WIDTH, ROWS = 1000, 100_000, 3, 128
DEATHS = 0.01  # of a thousand receipts, ten are deaths


def measure(bench: Bench) -> None:
    """Time the rounds, then weigh one more."""
    num_actors, num_units = (20, 500) if bench.flags.smoke else (NUM_ACTORS, NUM_UNITS)
    seconds = []
    for number in range(bench.flags.rounds):
        started = time.perf_counter()
        num_done = _dispatch(num_actors, num_units, number)
        seconds.append(time.perf_counter() - started)
        bench.hold("units and receipts", abs(num_done - num_units), 0)
        bench.tell(f"round {number + 1}/{bench.flags.rounds}  {num_done / seconds[-1]:,.0f} receipts/s")
    tracemalloc.start()
    _dispatch(num_actors, num_units, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    per_second = num_units / sorted(seconds)[len(seconds) // 2]
    ratios = {
        "receipts_per_second": per_second / RECEIPTS_PER_SECOND,
        "bytes_per_unit": BYTES_PER_UNIT / (peak / num_units),
    }
    bench.report = {
        "num_actors": num_actors,
        "num_units": num_units,
        "seconds": seconds,
        "receipts_per_second": per_second,
        "peak_mb": peak / 1e6,
        "ratios": ratios,
    }
    bench.tell(f"{per_second:,.0f} receipts/s from {num_actors} engines, {peak / num_units:.0f} bytes for each unit")
    print_ratios(bench, ratios, GOALS)


def _dispatch(num_actors: int, num_units: int, seed: int) -> int:
    """Let all units be done; returns how many were."""
    draw = stream(seed, "benchmarks", "dispatch")
    units = [Unit(f"unit {number}", "run_unit", (number,), "", ROWS) for number in range(num_units)]
    schedule, meter = Schedule(units, num_actors, WIDTH), Meter(ROWS * num_units)
    ready, done = set(range(num_actors)), 0
    schedule.assign(ready)
    while not schedule.finished:
        actor = draw.randrange(num_actors)
        held = schedule.in_flight(actor)
        if held and draw.random() < DEATHS / WIDTH:
            schedule.failed(actor, "killed", by_death=True)
        elif held:
            task = held[draw.randrange(len(held))]
            schedule.done(actor, task)
            done += not task.rows
            meter.set_in_flight(schedule.num_in_flight)
        schedule.assign((actor,))
    return done


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulation; returns the exit code."""
    return run("dispatch", "What one driver does for 1,000 engines.", measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
