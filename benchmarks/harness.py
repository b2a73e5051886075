"""What all comparisons share: interleaved rounds, medians, the command line, the table and the JSON report.

Writes the file of `--json`, and under `--folder` the shards and logs of the sides.
"""

import argparse
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.side import ROOT, SideError
from cluster.install import has_gpu
from cluster.probe import describe_machine
from data.errors import InputError, ResumableError
from data.store import refusals_path, write_json

OURS = "ours"
EXIT_DIFFERENT = 1
EXIT_CODES: dict[type[Exception], int] = {SideError: EXIT_DIFFERENT, InputError: 2, ResumableError: 3}


@dataclass(frozen=True)
class Goal:
    """What a figure shall be: at least `bound`, or at most if `at_most`."""

    bound: float
    at_most: bool = False

    def is_met(self, value: float) -> bool:
        """Whether the figure is as wanted; NaN never is."""
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.bound:g}"


@dataclass
class Bench:
    """One run of a benchmark: its flags, where it may write, when it began, and what it has found."""

    name: str
    flags: argparse.Namespace
    folder: Path
    console: Console
    on_gpu: bool
    command: str
    report: dict[str, Any] = field(default_factory=dict)
    different: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    @property
    def opening(self) -> dict[str, Any]:
        """What our side is opened with, but for the folder of its logs."""
        return {"model": str(self.flags.model), "kind": self.flags.engine, "num_gpus": int(self.on_gpu)}

    def tell(self, text: str) -> None:
        """A line of progress."""
        self.console.print(f"{time.monotonic() - self.started:6.0f} s  {text}", highlight=False, soft_wrap=True)

    def hold(self, what: str, difference: float, most: float) -> None:
        """Note that two sides computed the same, or that they did not: then the run ends with exit code 1."""
        if not difference <= most:  # NaN is a difference
            self.different.append(f"{what} differ by {difference:.3g}, at most {most:g} is allowed")


def build_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The flags that all benchmarks have."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result here")
    parser.add_argument("--rounds", type=_positive, default=3, metavar="N", help="of each side, in turn (3)")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "tiny", help="folder of a model (models/tiny)")
    parser.add_argument("--folder", type=Path, help="keep shards and logs here (else they are deleted at the end)")
    parser.add_argument("--smoke", action="store_true", help="small sizes, one round: does it work at all?")
    parser.add_argument("--ours-only", action="store_true", help="leave the peers out")
    parser.add_argument(
        "--engine", choices=("vllm", "fake"), default="vllm", help="of our side; fake has no model: for tests of this"
    )
    return parser


def run(
    name: str,
    description: str,
    measure: Callable[[Bench], None],
    arguments: Sequence[str] | None,
    add_flags: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> int:
    """Parse the flags, measure, print the table, write the report; returns the exit code.

    0; 1 if the sides computed different things or one of them died; 2 if the input is wrong; 3 if a peer's environment
    could not be built.
    """
    parser = build_parser(name, description)
    add_flags(parser)
    words = list(sys.argv[1:] if arguments is None else arguments)
    flags = parser.parse_args(words)
    flags.model = flags.model.resolve()
    flags.rounds = 1 if flags.smoke else flags.rounds
    command = shlex.join(["python", "-m", f"benchmarks.{name}", *words])
    try:
        _check(flags)
        with _folder(flags.folder) as folder:
            bench = Bench(name, flags, folder, Console(), has_gpu(), command)
            measure(bench)
    except (InputError, ResumableError, SideError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_CODES[type(error)]
    if flags.json:
        write_json(flags.json, bench.report | {"run": describe_run(bench)})
    for line in bench.different:
        print(f"{name}: {line}", file=sys.stderr)
    return EXIT_DIFFERENT if bench.different else 0


def interleave(
    sides: Mapping[str, Callable[[int], float]], rounds: int, tell: Callable[[str], None]
) -> dict[str, list[float]]:
    """Seconds of each side's rounds, measured in turn: first, second, ..., first, second, ...

    So a machine that slows down in between slows all sides. Each callable gets the number of the round, from 0.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, measure in sides.items():
            seconds[name].append(measure(number))
            tell(f"{name:<16} round {number + 1}/{rounds}  {seconds[name][-1]:.3f} s")
    return seconds


def summarise(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Per side: its rounds, their median, and how many times as long as ours it took (medians, and round by round)."""
    ours = seconds[OURS]
    return {
        name: {
            "seconds": list(rounds),
            "median": statistics.median(rounds),
            "over_ours": statistics.median(rounds) / statistics.median(ours),
            "over_ours_by_round": [theirs / mine for theirs, mine in zip(rounds, ours, strict=True)],
        }
        for name, rounds in seconds.items()
    }


def largest_difference(first: Sequence[float], second: Sequence[float]) -> float:
    """The largest absolute difference of two lists of the same length, NaN if any value is."""
    differences = [abs(left - right) for left, right in zip(first, second, strict=True)]
    return float("nan") if any(value != value for value in differences) else max(differences, default=0.0)


def forget(shard: Path) -> None:
    """Remove a shard of answers, so that it is computed anew: a worker does not do again what is there."""
    shard.unlink(missing_ok=True)
    refusals_path(shard).unlink(missing_ok=True)


def print_sides(bench: Bench, title: str, summary: Mapping[str, Mapping[str, Any]], num_rows: int, unit: str) -> None:
    """One line a side: median, all rounds, rows a second, times ours."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, title=title, title_justify="left", title_style="bold")
    for column, justify in (("side", "left"), ("median s", "right"), (f"{unit}/s", "right"), ("times ours", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("rounds, s")
    for name, entry in summary.items():
        rounds = "  ".join(f"{seconds:.3f}" for seconds in entry["seconds"])
        median = entry["median"]
        table.add_row(name, f"{median:.3f}", f"{num_rows / median:.1f}", f"{entry['over_ours']:.2f}", rounds)
    bench.console.print()
    bench.console.print(table, highlight=False)


def print_ratios(bench: Bench, ratios: Mapping[str, float], goals: Mapping[str, Goal]) -> None:
    """The figures that count, beside what they shall be."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("figure", "measured", "goal", ""):
        table.add_column(column, justify="right" if column == "measured" else "left")
    for name, value in ratios.items():
        goal = goals.get(name)
        met = "" if goal is None else "met" if goal.is_met(value) else "missed"
        table.add_row(name, f"{value:.3g}", str(goal or ""), met)
    bench.console.print()
    bench.console.print(table, highlight=False)


def describe_run(bench: Bench) -> dict[str, Any]:
    """The command and the machine that the figures hold for."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "command": bench.command,
        "machine": describe_machine(),
        "cpu": cpu_model(),
        "cores": cpus,
        "python": platform.python_version(),
        "threads": bench.report.get("threads", 1),
        "rounds": bench.flags.rounds,
        "load_before": bench.load_before,  # processes that wanted a core in the minute before: not idle if above 0.5
        "wall_seconds": time.monotonic() - bench.started,
    }


def cpu_model() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


@contextmanager
def _folder(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="entail-benchmark-") as folder:
        yield Path(folder)


def _check(flags: argparse.Namespace) -> None:
    if not (flags.model / "config.json").is_file():
        raise InputError("no model here", where=str(flags.model), hint="name a folder with config.json, --model")


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few, give 1 or more")
    return number
