"""Our finetuning as `entail train` starts it: a Ray session, a Ray Train group, runs in it."""

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.side import serve


class LaunchSide:
    """A driver, from nothing to trained checkpoints."""

    def imports(self) -> dict[str, Any]:
        """Import what the driver needs; returns the seconds, and versions."""
        started = time.perf_counter()
        import train.launch  # noqa: F401

        names = ("ray", "torch", "transformers", "deepspeed")
        return {"seconds": time.perf_counter() - started, "versions": {name: version(name) for name in names}}

    def train(self, model: str, documents: str, folder: str, num_workers: int) -> dict[str, Any]:
        """One run of one step, then two in one group; returns seconds: session, jobs, phases of the first start."""
        from cluster.session import connect

        started = time.perf_counter()
        with connect(address=None, log_dir=Path(folder) / "ray"):
            session = time.perf_counter() - started
            one, refs = _timed(model, documents, Path(folder) / "one", num_workers, 1)
            two, _ = _timed(model, documents, Path(folder) / "two", num_workers, 2)
        phases = json.loads((Path(refs[0].path) / "checkpoint.json").read_text())["starts"][-1]["seconds"]
        return {"session": session, "one": one, "two": two, "phases": phases}


def _timed(model: str, documents: str, folder: Path, num_workers: int, num_runs: int) -> tuple[float, list[Any]]:
    from train.launch import finetune_all
    from train.runs import FinetuneRun, TextSource

    settings: dict[str, Any] = {"num_steps": 1, "batch_size": 2 * num_workers, "learning_rate": 1e-3}
    runs = [
        FinetuneRun(str(number), model, (TextSource(documents),), str(folder / str(number)), **settings)
        for number in range(num_runs)
    ]
    started = time.perf_counter()
    refs = finetune_all(
        runs,
        num_workers=num_workers,
        cpus_per_worker=1,
        use_gpu=False,
        storage=folder,
        on_progress=lambda progress: None,
    )
    return time.perf_counter() - started, refs


if __name__ == "__main__":
    serve(LaunchSide())
