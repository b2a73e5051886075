"""Progress of long work: a bar on a terminal, a line every some seconds in a log file."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich import progress as rich
from rich.console import Console

from cluster.meter import format_seconds

if TYPE_CHECKING:
    from evaluate.fanout import Refused
    from train.run.launch import Progress as TrainingProgress

SECONDS_BETWEEN_LINES = 15.0


class Bar:
    """Counts up to `total`; `update` may carry a note, e.g. the present loss."""

    def __init__(self, progress: rich.Progress, label: str, total: int, *, eta: bool, is_bytes: bool) -> None:
        self._progress, self._label, self._total, self._eta, self._is_bytes = progress, label, total, eta, is_bytes
        self._printed = self._started = time.monotonic()
        self._task = progress.add_task(label, total=total, note="")

    def total(self, total: int) -> None:
        """The number that there are in all, where it was not known before."""
        if total != self._total:
            self._total = total
            self._progress.update(self._task, total=total)

    def update(self, done: int, note: str = "") -> None:
        """The number that is done."""
        self._progress.update(self._task, completed=done, note=note)
        console = self._progress.console
        if console.is_terminal or time.monotonic() - self._printed <= SECONDS_BETWEEN_LINES:
            return
        self._printed = time.monotonic()
        counts = f"{done / 1e6:,.0f} of {self._total / 1e6:,.0f} MB" if self._is_bytes else f"{done}/{self._total}"
        line = f"  {self._label}: {counts} {note}".rstrip()
        if self._eta and done:
            seconds = (self._printed - self._started) * (self._total - done) / done
            line += f"  ETA {format_seconds(seconds)}"
        console.print(line, highlight=False)


@contextmanager
def bar(console: Console, label: str, total: int, *, eta: bool = False, is_bytes: bool = False) -> Iterator[Bar]:
    """A bar for the length of a block; `eta` adds the time left to lines whose notes do not have it."""
    counts: tuple[rich.ProgressColumn, ...] = (rich.MofNCompleteColumn(), rich.TimeElapsedColumn())
    if is_bytes:
        counts = (rich.DownloadColumn(), rich.TransferSpeedColumn())
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), *counts, rich.TimeRemainingColumn())
    note = rich.TextColumn("{task.fields[note]}")
    with rich.Progress(*columns, note, console=console, disable=not console.is_terminal) as progress:
        yield Bar(progress, label, total, eta=eta, is_bytes=is_bytes)


@contextmanager
def waiting(console: Console, label: str) -> Iterator[None]:
    """Shows that work of unknown length goes on, with its time: a spinner, or in a log file a line now and then."""
    if console.is_terminal:
        with console.status(label):
            yield
        return
    ended, started = threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(SECONDS_BETWEEN_LINES):
            seconds = format_seconds(time.monotonic() - started)
            console.print(f"  {label}: {seconds}", highlight=False, markup=False)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def training_note(progress: "TrainingProgress") -> str:
    """Loss (nats per token), speed and, on a GPU that is known, the share of its arithmetic that is used."""
    note = f"loss {progress.loss:.3f}  {progress.tokens_per_second} tokens/s"
    return note if progress.mfu is None else f"{note}  MFU {progress.mfu:.0%}"


def report_refusals(refusals: "Sequence[Refused]", folder: Path, console: Console) -> None:
    """How many questions have no answer, by suite, condition and reason; such questions are in no accuracy."""
    counts = Counter((one.suite, one.condition, one.refusal.what) for one in refusals)
    for (suite, condition, what), count in counts.most_common():
        console.print(f"          {count} questions of {suite} refused under {condition}: {what}", highlight=False)
    if counts:
        console.print(f"          they are in no accuracy; see {folder}", highlight=False)
