"""Our own finetuning loop, as `train` runs it on one rank, alone or as one of several."""

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.clock import Clock
from benchmarks.side import serve


class FinetuneSide:
    """A rank that stays up: what it has imported and loaded once is there in the next round."""

    def __init__(self) -> None:
        self._clock: Any = None

    def open(self, threads: int = 1) -> dict[str, Any]:
        """Import everything; returns the seconds, and versions."""
        started = time.perf_counter()
        import deepspeed  # noqa: F401
        import torch

        import train.run.loop  # noqa: F401

        torch.set_num_threads(threads)
        self._clock = Clock()
        names = ("torch", "transformers", "deepspeed")
        return {"imports": time.perf_counter() - started, "versions": {name: version(name) for name in names}}

    def train(self, documents: str, **settings: Any) -> dict[str, Any]:
        """One finetuning; returns what the clock saw, and the losses of all steps (nats per token)."""
        from train.run.finetune_run import FinetuneRun, TextSource
        from train.run.loop import finetune

        self._clock.reset()
        ref = finetune(FinetuneRun(sources=(TextSource(documents),), **settings), lambda row: None)
        seen: dict[str, Any] = self._clock.read()
        rows = [json.loads(line) for line in (Path(ref.path) / "metrics.jsonl").read_text().splitlines()]
        return seen | {"losses": [row["loss"] for row in rows]}


if __name__ == "__main__":
    serve(FinetuneSide())
