"""What a GPU can do at most: products of large bfloat16 matrices and large copies. On a CPU smaller ones."""

import time
from collections.abc import Callable
from typing import Any

from benchmarks.side import serve

WIDTHS = {"cuda": 8192, "cpu": 512}  # of a square matrix
COPIED = {"cuda": 2**30, "cpu": 2**25}  # bytes
REPEATS = {"cuda": 50, "cpu": 4}
TRIALS = 4


class PeakSide:
    """A process that uses the GPU before the engine does, and then ends."""

    def measure_peak(self, device: str) -> dict[str, Any]:
        """Floating-point operations a second, bytes read and written a second, best of a few trials; the name."""
        import torch

        def wait() -> None:
            if device == "cuda":
                torch.cuda.synchronize()

        width, repeats = WIDTHS[device], REPEATS[device]
        left, right = (torch.randn(width, width, device=device).to(torch.bfloat16) for _ in range(2))
        source = torch.zeros(COPIED[device], device=device, dtype=torch.uint8)
        target = torch.empty_like(source)
        multiplying = _seconds(lambda: left @ right, wait, repeats)
        copying = _seconds(lambda: target.copy_(source), wait, repeats)
        return {
            "flops": 2 * width**3 / multiplying,
            "bytes_per_second": 2 * COPIED[device] / copying,
            "name": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        }


def _seconds(work: Callable[[], object], wait: Callable[[], None], repeats: int) -> float:
    """Of one repetition, the best of a few trials after one that is not timed."""
    times = []
    for _ in range(TRIALS + 1):
        wait()
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        wait()
        times.append((time.perf_counter() - started) / repeats)
    return min(times[1:])


if __name__ == "__main__":
    serve(PeakSide())
