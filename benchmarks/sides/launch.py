"""Our finetuning as `entail train` starts it: a Ray session, a Ray Train group, runs in it."""

import json
import subprocess
import sys
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
        import train.run.launch  # noqa: F401

        names = ("ray", "torch", "transformers", "deepspeed")
        return {"seconds": time.perf_counter() - started, "versions": {name: version(name) for name in names}}

    def train(self, model: str, documents: str, folder: str, num_workers: int) -> dict[str, Any]:
        """Two runs of one step in one group; returns the seconds of the session, of the job's parts, and the phases."""
        from cluster.session import connect
        from train.run.finetune_run import FinetuneRun, TextSource
        from train.run.launch import finetune_all

        out = Path(folder)
        settings: dict[str, Any] = {"num_steps": 1, "batch_size": 2 * num_workers, "learning_rate": 1e-3}
        runs = [FinetuneRun(name, model, (TextSource(documents),), str(out / name), **settings) for name in "ab"]
        began = time.perf_counter()
        with connect(address=None, log_dir=out / "ray"):
            session, called = time.perf_counter() - began, time.time()
            refs = finetune_all(
                runs,
                num_workers=num_workers,
                cpus_per_worker=1,
                use_gpu=False,
                storage=out,
                on_progress=lambda progress: None,
            )
            returned = time.time()
        files = [Path(ref.path) / "checkpoint.json" for ref in refs]  # what a run writes last
        first, second = (file.stat().st_mtime for file in files)
        phases = [json.loads(file.read_text())["starts"][-1]["seconds"] for file in files]
        job = {"first_run": first - called, "further_run": second - first, "end": returned - second}
        return {"session": session, "phases": phases, **job}

    def read_texts(self, model: str, documents: str, folder: str, name: str) -> dict[str, float]:
        """A run of one step in this process; returns the seconds that it spends on texts before the step.

        `planning` checks that the run fits into memory, `reading` is that phase of the run. Runs share the tokens below
        `folder`.
        """
        from train.plan.fit import fit_runs, planned_machine
        from train.run.finetune_run import FinetuneRun, TextSource
        from train.run.loop import finetune

        out = Path(folder)
        settings: dict[str, Any] = {"num_steps": 1, "batch_size": 1, "learning_rate": 1e-5}
        run = FinetuneRun(
            name, model, (TextSource(documents),), str(out / name), tokens=str(out / "tokens"), **settings
        )
        began = time.perf_counter()
        (run,) = fit_runs([run], planned_machine(1), auto=True, check=True, say=lambda line: None)
        planning = time.perf_counter() - began
        ref = finetune(run, lambda row: None)
        record = json.loads((Path(ref.path) / "checkpoint.json").read_text())
        return {"planning": planning, "reading": record["starts"][-1]["seconds"]["reading the texts"]}

    def worker_imports(self) -> float:
        """Seconds that a fresh process needs for all that a worker imports, alone on the machine."""
        code = "import time; began = time.perf_counter(); import train.run.launch, train.run.loop, deepspeed; "
        code += "print(time.perf_counter() - began)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])


if __name__ == "__main__":
    serve(LaunchSide())
