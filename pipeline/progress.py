"""Progress of long work: a bar on a terminal, a line every some seconds in a log file."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cluster.meter import Meter, Snapshot, export, format_seconds
from cluster.pool import ActorPool, Unit

if TYPE_CHECKING:
    from evaluate.fanout import Refused
    from train.run.launch import Progress as TrainingProgress

SECONDS_BETWEEN_LINES = 15.0


class Bar:
    """Counts up to `total`; `advance` and `update` may carry a note, e.g. the present loss."""

    def __init__(self, console: Console, label: str, total: int, *, eta: bool = False) -> None:
        self._console, self._label, self._total, self._eta = console, label, total, eta
        self._done, self._started = 0, time.monotonic()
        self._printed = self._started
        self._progress: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._progress = Progress(
                *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console
            )
            self._progress.start()
            self._task = self._progress.add_task(label, total=total, note="")

    def advance(self, note: str = "") -> None:
        """Count one more."""
        self.update(self._done + 1, note)

    def update(self, done: int, note: str = "") -> None:
        """The number that is done."""
        self._done = done
        if self._progress is not None:
            self._progress.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._printed > SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            line = f"  {self._label}: {done}/{self._total} {note}".rstrip()
            if self._eta and done:
                seconds = (self._printed - self._started) * (self._total - done) / done
                line += f"  ETA {format_seconds(seconds)}"
            self._console.print(line, highlight=False)

    def close(self) -> None:
        """Stop the bar; it stays on the screen."""
        if self._progress is not None:
            self._progress.stop()


@contextmanager
def bar(console: Console, label: str, total: int, *, eta: bool = False) -> Iterator[Bar]:
    """A bar for the length of a block; `eta` adds the time left to lines whose notes do not have it."""
    shown = Bar(console, label, total, eta=eta)
    try:
        yield shown
    finally:
        shown.close()


def training_note(progress: "TrainingProgress") -> str:
    """Loss (nats per token), speed and, on a GPU that is known, the share of its arithmetic that is used."""
    note = f"loss {progress.loss:.3f}  {progress.tokens_per_second} tokens/s"
    return note if progress.mfu is None else f"{note}  MFU {progress.mfu:.0%}"


def run_units(
    pool: ActorPool, units: Sequence[Unit], console: Console, label: str, *, metrics_port: int | None = None
) -> Snapshot:
    """Run units on a pool, with a bar that counts rows and a summary at the end; returns the last counts.

    With `metrics_port` the same counts are served to Prometheus on loopback meanwhile (0: any free port).
    """
    pool.meter = meter = Meter(sum(unit.num_rows for unit in units))
    try:
        with ExitStack() as stack:
            if metrics_port is not None:
                port = stack.enter_context(export(meter.snapshot, metrics_port))
                console.print(f"metrics   http://127.0.0.1:{port}/metrics", highlight=False)
            shown = stack.enter_context(bar(console, label, meter.snapshot().total))
            pool.run(units, lambda _: shown.update(meter.snapshot().items, meter.snapshot().rates()))
    finally:
        pool.meter = None
    done = meter.snapshot()
    if units:
        rates = done.rates()
        console.print(f"{label}: {done.items} rows in {format_seconds(done.seconds)}, {rates}", highlight=False)
    return done


def report_refusals(refusals: "Sequence[Refused]", folder: Path, console: Console) -> None:
    """How many questions have no answer, by suite, condition and reason; such questions are in no accuracy."""
    counts = Counter((one.suite, one.condition, one.refusal.what) for one in refusals)
    for (suite, condition, what), count in counts.most_common():
        console.print(f"          {count} questions of {suite} refused under {condition}: {what}", highlight=False)
    if counts:
        console.print(f"          they are in no accuracy; see {folder}", highlight=False)


def report_refused(count: int, what: str, folder: Path, console: Console) -> None:
    """How many requests of a job have no answer."""
    if count:
        console.print(f"          {count:,} {what} refused, see {folder}", highlight=False)
