"""The state of one run of a pool: pending calls, deadlines, failures. Touches no file.

Deadlines: a call that exceeds its deadline costs its actor a restart. Without an explicit deadline, a unit may take
`DEADLINE_FACTOR` times the time per row of the slowest unit so far, at least `MIN_DEADLINE_SECONDS`; before the first
receipt, `FIRST_DEADLINE_SECONDS`. For single calls (`ActorPool.ask`) it is `cluster.pool.ASK_DEADLINE_SECONDS`.
"""

from collections import deque
from dataclasses import dataclass, field

import ray

from cluster.schedule import Schedule, Task
from data.errors import InputError, ResumableError
from data.records import ShardReceipt

DEADLINE_FACTOR = 20.0
MIN_DEADLINE_SECONDS = 3600.0  # rows differ: one with a long context may cost a hundred short ones
FIRST_DEADLINE_SECONDS = 4 * 3600.0


@dataclass
class Run:
    """One `run` in progress: the schedule, pending calls with their deadlines, since when each actor's oldest runs."""

    schedule: Schedule
    calls: list[deque[tuple[ray.ObjectRef, float]]]
    since: dict[int, float] = field(default_factory=dict)
    receipts: list[ShardReceipt] = field(default_factory=list)
    group_errors: dict[str, InputError | ResumableError] = field(default_factory=dict)
    seconds_per_row: float = 0.0  # of the slowest unit so far
    checked: float = 0.0

    def deadline(self, task: Task, explicit: float | None) -> float:
        """Seconds that a task may take."""
        if explicit is not None:
            return explicit
        if not self.seconds_per_row:
            return FIRST_DEADLINE_SECONDS
        start, stop = task.rows or (0, self.schedule.units[task.unit].num_rows)
        return max(MIN_DEADLINE_SECONDS, DEADLINE_FACTOR * self.seconds_per_row * (stop - start))


def raise_failures(run: Run) -> None:
    """Raise what failed in a finished run: the error of an affinity group, or the names of failed units."""
    errors = list(run.group_errors.values())
    if len(errors) == 1:
        raise errors[0]
    if errors and all(isinstance(error, InputError) for error in errors):
        listed = "; ".join(f"{error.where}: {error.what}" for error in errors if isinstance(error, InputError))
        raise InputError(listed, where=f"{len(errors)} checkpoints", hint="fix or leave out these; the rest is done")
    if errors:
        raise ResumableError("; ".join(str(error) for error in errors))
    failed = [f"{run.schedule.units[unit].name} ({reason})" for unit, reason in run.schedule.failed_units.items()]
    if failed:
        raise ResumableError(f"{len(failed)} units failed, each twice: {'; '.join(failed)}")


def fails_group(error: Exception) -> bool:
    """Whether an error concerns the weights of an affinity group alone."""
    return isinstance(error, InputError) or getattr(error, "fails_group", False)


def fatal_error(error: ray.exceptions.RayError, name: str) -> InputError | ResumableError | None:
    """What ends the run: an error of ours, as the worker raised it, or a fault of a node (a full disk)."""
    cause = getattr(error, "cause", None)
    node = getattr(error, "ip", "") or "a node"
    if isinstance(cause, InputError | ResumableError):
        return cause
    if isinstance(cause, ModuleNotFoundError):
        return InputError(str(cause), where=node, hint="install the same packages on every node")
    if isinstance(cause, FileNotFoundError):
        hint = "keep the study, the documents and the model on a disk that all nodes share"
        return InputError(str(cause), where=f"{name}, on {node}", hint=hint)
    if isinstance(cause, OSError):
        return ResumableError(f"{name}, on {node}: {cause}; fix that, then the same command resumes")
    return None


def describe_failure(error: ray.exceptions.RayError) -> str:
    """What happened to an actor or its call, in one line."""
    if isinstance(error, ray.exceptions.RayActorError):
        return "its actor died"
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}"
