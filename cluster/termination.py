"""The end of a command by SIGTERM, or because its cluster is lost: our message and exit code, and time to save.

Batch systems send SIGTERM some seconds before SIGKILL. It raises `TerminatedError` in the main thread, at once or,
within `graceful`, after some seconds, in which the work may end by itself. If the main thread is stuck (in Ray's C++
part, say), the process ends all the same. Writes to the terminal.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HARD_SECONDS = 20.0  # after the error was raised: for the clean-up
EXIT_CODE = 3
HINT = "re-run the same command to resume"


class TerminatedError(BaseException):
    """The command was told to end; what it has finished stays. No handler of ordinary errors may keep it."""


class _State:
    """Of this process: the handler is one, too."""

    reason = ""
    is_installed = False
    grace_seconds = 0.0
    hard_end: threading.Timer | None = None


def requested() -> str:
    """Why the command is to end; "" if it is not. For loops that can end by themselves, in any thread."""
    return _State.reason


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """A block in the main thread that SIGTERM ends by `TerminatedError`.

    A handler may raise while Ray's C part is at work, which makes a SystemError of it; then its error is raised again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.reason, _State.is_installed = "", True
    before = signal.signal(signal.SIGTERM, _handle)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    old_pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_guard, args=(reading,), name="sigterm", daemon=True).start()
    try:
        yield
    except SystemError as error:
        interruption = _within(error)
        if interruption is None:
            raise
        raise interruption from None
    finally:
        _State.is_installed = False
        if _State.reason:
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.set_wakeup_fd(old_pipe)
        os.close(writing)  # ends the guard
        signal.signal(signal.SIGTERM, before)
        if _State.hard_end is not None:
            _State.hard_end.cancel()


def _within(error: BaseException) -> BaseException | None:
    """The end or the interruption that an error was raised from, if there is one."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, TerminatedError | KeyboardInterrupt):
        found = found.__cause__ or found.__context__
    return found


def take_sigterm_back() -> None:
    """Be the handler of SIGTERM again: Ray's C++ part has taken it, to print a stack trace."""
    if _State.is_installed:
        signal.signal(signal.SIGTERM, _handle)


@contextmanager
def graceful(seconds: float) -> Iterator[None]:
    """A block that looks at `requested` itself; what has not ended `seconds` later is interrupted."""
    _State.grace_seconds = seconds
    try:
        yield
    finally:
        _State.grace_seconds = 0.0


def end(reason: str) -> None:
    """End the command from another thread, without grace; does nothing outside of `ended_by_sigterm`."""
    if _State.is_installed and not _State.reason:
        _State.reason, _State.grace_seconds = reason, 0.0
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _handle(*_: object) -> None:
    if _State.reason and _State.grace_seconds:
        return  # a second signal
    _State.reason = _State.reason or "ended by SIGTERM"
    if _State.grace_seconds:
        signal.signal(signal.SIGALRM, _raise)
        signal.setitimer(signal.ITIMER_REAL, _State.grace_seconds)
    else:
        _raise()


def _raise(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: the clean-up is not to be interrupted
    raise TerminatedError(_State.reason)


def _guard(reading: int) -> None:
    """End the process some time after SIGTERM, whatever the main thread does."""
    with open(reading, "rb", buffering=0) as pipe:
        while numbers := pipe.read(1):
            if numbers[0] == signal.SIGTERM and _State.hard_end is None:
                _State.hard_end = threading.Timer(_State.grace_seconds + HARD_SECONDS, _end_hard)
                _State.hard_end.daemon = True
                _State.hard_end.start()


def _end_hard() -> None:
    print(f"\nentail: {_State.reason or 'ended by SIGTERM'}\n  {HINT}", file=sys.stderr, flush=True)
    os._exit(EXIT_CODE)
