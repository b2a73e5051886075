"""How a thread learns that nobody waits for its result any more. No files."""

import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_CANCELLED: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("cancelled", default=None)


class CancelledCallError(Exception):
    """The call in whose thread this is raised was cancelled."""


@contextmanager
def cancellable(context: contextvars.Context) -> Iterator[None]:
    """A block around work that runs in `context`: if the block ends early, `check_cancelled` raises in that work."""
    event = threading.Event()
    context.run(_CANCELLED.set, event)
    try:
        yield
    finally:
        event.set()


def check_cancelled() -> None:
    """Raise CancelledCallError if nobody waits for the result of this thread's work; for loops that take long."""
    event = _CANCELLED.get()
    if event is not None and event.is_set():
        raise CancelledCallError
