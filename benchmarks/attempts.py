"""The outcome of each check of a side, whatever it raises. Needs the standard library; reads and writes nothing."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
Figures = dict[str, float]


class SkippedError(Exception):
    """Raised by a check that this machine cannot run; the message says why."""


def attempt_all(
    names: Sequence[str],
    start: Callable[[], tuple[Any, Figures]],
    checks: Mapping[str, Callable[[Any], Figures]],
) -> list[dict[str, Any]]:
    """The result of `start`, which makes what is checked and is the first of `names`, and those of the others."""
    subjects: list[Any] = []

    def first(_: None) -> Figures:
        subject, figures = start()
        subjects.append(subject)
        return figures

    results = [attempt(names[0], first, None)]
    for name in names[1:]:
        idle = result(name, SKIPPED, "the start failed")
        results.append(attempt(name, checks[name], subjects[0]) if subjects else idle)
    return results


def attempt(name: str, check: Callable[[Any], Figures], subject: Any) -> dict[str, Any]:
    """The result of a check. It raises AssertionError with what is wrong, or SkippedError, or returns its figures."""
    started = time.perf_counter()
    try:
        figures = check(subject)
    except SkippedError as why:
        return result(name, SKIPPED, str(why), time.perf_counter() - started)
    except Exception as error:  # noqa: BLE001  counted as a failed check
        reason = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return result(name, FAILED, reason, time.perf_counter() - started)
    return result(name, PASSED, "", time.perf_counter() - started, figures)


def result(name: str, state: str, reason: str, seconds: float = 0.0, figures: Figures | None = None) -> dict[str, Any]:
    """A check as the report has it."""
    return {"name": name, "state": state, "reason": reason, "seconds": seconds, "figures": figures or {}}
