"""A request to end a training early: the ranks agree on the step after which they write their state. No files."""

import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from data.errors import ResumableError

CHECK_SECONDS = 2.0  # about so often; ranks that ask in every step of a small model would slow it down
MOST_STEPS = 20


class StoppedError(ResumableError):
    """The training ended early, on request; its state is written."""


class StopRequest:
    """The ranks' common view of a request that only rank 0 looks for."""

    def __init__(self, is_wanted: Callable[[], bool], device: torch.device) -> None:
        self._is_wanted, self._device = is_wanted, device
        self._every, self._left, self._since = 1, 1, time.perf_counter()

    def agreed(self) -> bool:
        """Whether all ranks are to stop after this step. Every rank asks once in each step."""
        self._left -= 1
        if self._left:
            return False
        seconds = time.perf_counter() - self._since
        is_wanted = dist.get_rank() == 0 and self._is_wanted()
        shared = torch.tensor([float(is_wanted), seconds / self._every], dtype=torch.float64, device=self._device)
        dist.all_reduce(shared)
        wanted, total = shared.tolist()
        # From a number that all ranks have, for they must ask each other after the same steps.
        per_step = max(total / dist.get_world_size(), 1e-6)
        self._every = self._left = max(1, min(MOST_STEPS, int(CHECK_SECONDS / per_step)))
        self._since = time.perf_counter()
        return wanted > 0
