"""What a device can do at most: products of large matrices and large copies. On a CPU smaller ones."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.side import serve

WIDTHS = {"cuda": 8192, "cpu": 512}  # of a square matrix
COPIED = {"cuda": 2**30, "cpu": 2**25}  # bytes
REPEATS = {"cuda": 50, "cpu": 4}
TRIALS = 4


class PeakSide:
    """A process that uses the GPU before the engine does, and then ends."""

    def measure_peak(
        self, device: str, dtype: str = "bfloat16", shapes: Sequence[tuple[int, int, int]] = ()
    ) -> dict[str, Any]:
        """Floating-point operations a second, bytes read and written a second, best of a few trials; the name.

        Of products [m, k] x [k, n] for every (m, k, n) of `shapes` (none: one large square), the fastest counts.
        """
        import torch

        def wait() -> None:
            if device == "cuda":
                torch.cuda.synchronize()

        def multiply(m: int, k: int, n: int) -> float:
            left, right = (torch.randn(*size, device=device).to(getattr(torch, dtype)) for size in ((m, k), (k, n)))
            return 2 * m * k * n / _seconds(lambda: left @ right, wait, repeats)

        repeats = REPEATS[device]
        products = [multiply(*shape) for shape in shapes or [(WIDTHS[device],) * 3]]
        source = torch.zeros(COPIED[device], device=device, dtype=torch.uint8)
        target = torch.empty_like(source)
        copying = _seconds(lambda: target.copy_(source), wait, repeats)
        return {
            "flops": max(products),
            "flops_by_shape": products,
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
