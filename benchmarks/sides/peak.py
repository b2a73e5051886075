"""What the GPU can do at most: products of large bfloat16 matrices, the bound that the engine is held against."""

import time
from typing import Any

from benchmarks.side import serve

SIZE, REPEATS = 8192, 50


class PeakSide:
    """A process that uses the GPU before the engine does, and then ends."""

    def multiply(self) -> dict[str, Any]:
        """Floating-point operations a second, best of a few trials, and the GPU's name."""
        import torch

        left, right = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        best = 0.0
        for _ in range(4):
            torch.cuda.synchronize()
            started = time.perf_counter()
            for _ in range(REPEATS):
                left @ right
            torch.cuda.synchronize()
            best = max(best, 2 * SIZE**3 * REPEATS / (time.perf_counter() - started))
        return {"flops": best, "gpu": torch.cuda.get_device_name()}


if __name__ == "__main__":
    serve(PeakSide())
