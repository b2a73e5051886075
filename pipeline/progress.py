"""Progress of long work: a bar on a terminal, a line now and then in a log file."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data.records import ShardReceipt

SECONDS_BETWEEN_LINES = 15.0


class Bar:
    """Counts up to `total`; `advance` and `update` may carry a note, e.g. the present loss."""

    def __init__(self, console: Console, label: str, total: int) -> None:
        self._console, self._label, self._total = console, label, total
        self._done, self._printed = 0, time.monotonic()
        self._progress: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._progress = Progress(
                *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console
            )
            self._progress.start()
            self._task = self._progress.add_task(label, total=total, note="")

    def advance(self, note: str = "") -> None:
        """One more is done."""
        self.update(self._done + 1, note)

    def update(self, done: int, note: str = "") -> None:
        """So many are done."""
        self._done = done
        if self._progress is not None:
            self._progress.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._printed > SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            self._console.print(f"  {self._label}: {done}/{self._total} {note}".rstrip(), highlight=False)

    def receipt(self, receipt: ShardReceipt) -> None:
        """One more unit of a pool is done."""
        self.advance(receipt.unit)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._progress is not None:
            self._progress.stop()


@contextmanager
def bar(console: Console, label: str, total: int) -> Iterator[Bar]:
    """A bar for the length of a block."""
    shown = Bar(console, label, total)
    try:
        yield shown
    finally:
        shown.close()
