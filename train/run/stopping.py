"""What the ranks of a training agree on after a step: to end early, or to write a state by the clock. No files."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from data.errors import ResumableError

CHECK_SECONDS = 2.0  # about so often; ranks that ask in every step of a small model would slow it down
MOST_STEPS = 20
MOST_OF_THE_TIME = 0.05  # that states by the clock may take


class StoppedError(ResumableError):
    """The training ended early, on request; its state is written."""


@dataclass(frozen=True)
class Wanted:
    """What all ranks do after a step."""

    stop: bool = False
    save: bool = False


class StateClock:
    """When a state is due: `minutes` after the last one (0: never), or later, where states take long to write."""

    def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._now = minutes * 60.0, now
        self._since, self._took = now(), 0.0

    def is_due(self) -> bool:
        """Whether a state should be written now."""
        wait = max(self._seconds, self._took / MOST_OF_THE_TIME)
        return self._seconds > 0 and self._now() - self._since >= wait

    def wrote(self, seconds: float) -> None:
        """Record that a state was written just now, which took `seconds`."""
        self._since, self._took = self._now(), seconds


class Agreement:
    """The ranks' common view of what only rank 0 looks for: a request to stop, and a state that is due."""

    def __init__(self, is_stopped: Callable[[], bool], is_due: Callable[[], bool], device: torch.device) -> None:
        self._is_stopped, self._is_due, self._device = is_stopped, is_due, device
        self._every, self._left, self._since = 1, 1, time.perf_counter()

    def after_step(self) -> Wanted:
        """What is wanted now. Every rank asks once in each step."""
        self._left -= 1
        if self._left:
            return Wanted()
        seconds = time.perf_counter() - self._since
        found = [float(dist.get_rank() == 0 and look()) for look in (self._is_stopped, self._is_due)]
        shared = torch.tensor([*found, seconds / self._every], dtype=torch.float64, device=self._device)
        dist.all_reduce(shared)
        stop, save, total = shared.tolist()
        # From a number that all ranks have, for they must ask each other after the same steps.
        per_step = max(total / dist.get_world_size(), 1e-6)
        self._every = self._left = max(1, min(MOST_STEPS, int(CHECK_SECONDS / per_step)))
        self._since = time.perf_counter()
        return Wanted(stop > 0, save > 0)
