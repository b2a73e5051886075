"""Where the start of one engine goes: imports, vLLM, tokenizer, reference, and what Ray adds to them.

    python -m benchmarks.start --json start.json

Every round is a fresh process, and then a fresh Ray session with one actor. Reads a model folder; writes the report.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from benchmarks.harness import OURS, Bench, Goal, print_ratios, run
from benchmarks.settings import shared_environment
from benchmarks.side import Side

GOALS = {"engine_start_seconds": Goal(20, at_most=True)}
PROCESS, SESSION, ACTOR = "python itself", "a Ray session", "an actor with its engine"
INSIDE = "of which"  # rows that are parts of the row before them


def measure(bench: Bench) -> None:
    """Rounds of a bare start and of a start in a pool."""
    environment = shared_environment(on_gpu=bench.on_gpu)
    rounds: list[dict[str, list[float]]] = []
    for number in range(bench.flags.rounds):
        rounds.append(start_bare(bench, environment))
        bench.tell(f"round {number + 1}/{bench.flags.rounds}: bare {total(rounds[-1]):.1f} s")
        rounds[-1] |= start_pooled(bench, environment, number)
        bench.tell(f"round {number + 1}/{bench.flags.rounds}: pooled {rounds[-1][ACTOR][0]:.1f} s")
    medians = {
        step: [statistics.median(column) for column in zip(*(entry[step] for entry in rounds), strict=True)]
        for step in rounds[0]
    }
    bare = [step for step in medians if step not in (SESSION, ACTOR)]
    print_steps(bench, medians)
    imports = sum(medians[step][0] for step in bare if step.startswith("import"))
    started = statistics.median(map(total, rounds))
    ratios = {"engine_start_seconds": started, "share_of_imports": imports / started}
    print_ratios(bench, ratios, GOALS)
    bench.report |= {"ratios": ratios, "medians": medians, "rounds": rounds, "columns": ["wall", "cpu"]}


def start_bare(bench: Bench, environment: dict[str, str]) -> dict[str, list[float]]:
    """Steps of a start in a process of its own: [seconds, seconds of the processor]."""
    started = time.perf_counter()
    with Side("start", "benchmarks.sides.start", folder=bench.folder / "start", environment=environment) as side:
        imports = side.call("imports")
        begun = time.perf_counter() - started - imports.seconds
        steps: dict[str, Any] = {PROCESS: [begun], **imports.value}
        steps |= side.call("engine", model=str(bench.flags.model)).value
    return {step: list(seconds) for step, seconds in steps.items()}


def start_pooled(bench: Bench, environment: dict[str, str], number: int) -> dict[str, list[float]]:
    """The same engine in an actor: the session, and the actor from nothing to ready."""
    with Side(OURS, "benchmarks.sides.pool", folder=bench.folder / OURS, environment=environment) as side:
        opened = side.call("open", folder=str(bench.folder / OURS / f"ray-{number}"), **bench.opening).value
    return {SESSION: [opened["session_seconds"]], ACTOR: [opened["engine_seconds"]]}


def total(steps: dict[str, list[float]]) -> float:
    """Seconds of a bare start, without the rows that only detail the one before them."""
    return sum(row[0] for step, row in steps.items() if step not in (SESSION, ACTOR) and not step.startswith(INSIDE))


def print_steps(bench: Bench, medians: dict[str, list[float]]) -> None:
    """The table: wall and processor seconds of each step."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("step", "wall s", "cpu s"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for step, seconds in medians.items():
        if step == SESSION:
            table.add_section()
            table.add_row("one engine, bare", f"{total(medians):.2f}", "")
        table.add_row(f"  {step}" if step.startswith(INSIDE) else step, *(f"{value:.2f}" for value in seconds))
    bench.console.print()
    bench.console.print(table, highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return run("start", (__doc__ or "").partition("\n")[0], measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
