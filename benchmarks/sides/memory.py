"""The memory of a process that finetunes, by the phases of the run: what is resident at its start, and its peak.

Needs Linux: the kernel keeps the peak, and resets it on request.
"""

from pathlib import Path
from typing import Any

from benchmarks.side import serve

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # what the kernel wants to read


class MemorySide:
    """A rank that trains once: what it has allocated would be found again by a second run."""

    def train(self, documents: str, **settings: Any) -> dict[str, Any]:
        """One finetuning; returns the bytes `resident` at the start and at the `peak` of each phase."""
        from train.run.finetune_run import FinetuneRun, TextSource
        from train.run.heartbeat import PHASE, Heartbeat
        from train.run.loop import finetune

        phases: dict[str, dict[str, int]] = {}

        class PhaseMemory(Heartbeat):
            """Is called at the beginning of every phase."""

            def beat(self, doing: str, patience: float = 1.0) -> None:
                if patience != PHASE:
                    return
                if phases:
                    phases[next(reversed(phases))]["peak"] = read_bytes("VmHWM")
                RESET.write_text(RESET_PEAK)
                phases[doing] = {"resident": read_bytes("VmRSS")}

        run = FinetuneRun(sources=(TextSource(documents),), **settings)
        finetune(run, lambda row: None, PhaseMemory(Path(), 0, None))
        phases[next(reversed(phases))]["peak"] = read_bytes("VmHWM")
        return phases


def read_bytes(name: str) -> int:
    """A field of this process's status: VmRSS (resident memory) or VmHWM (its peak)."""
    # Not ru_maxrss: a process inherits that of the one that started it.
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    serve(MemorySide())
