"""Trackers of a run's log besides `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow; and the MFU on known GPUs.

Each library is imported only if a run uses it. Writes: TensorBoard's events into the checkpoint's folder; the others
write where their own settings say. Reads the `metrics.jsonl` of a run that resumes.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from data.errors import InputError
from data.seeds import fingerprint
from train.engine.checkpoint import read_metrics
from train.plan.flops import utilisation
from train.run.finetune_run import FinetuneRun

PROJECT = "entail"
EVENTS = "tensorboard"  # the folder of TensorBoard's events, beside metrics.jsonl


@dataclass(frozen=True)
class Tracker:
    """A destination of log rows. Producer: `open_trackers`, on rank 0. Consumer: `Trackers`.

    `log` adds the numbers of a step, by name, in the order of steps; others can see them after `flush`. `close` ends
    the log. `needs_history`: when a run resumes, the tracker starts with an empty log and gets the earlier rows first.
    """

    log: Callable[..., Any]
    close: Callable[[], Any]
    flush: Callable[[], Any] = lambda: None
    needs_history: bool = True

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows of `metrics.jsonl`."""
        for row in rows:
            numbers = {name: value for name, value in row.items() if name != "step" and isinstance(value, int | float)}
            self.log(numbers, step=row["step"])
        self.flush()


def _tensorboard(run: FinetuneRun, folder: Path) -> Tracker:
    """Scalars under `train/`, in a folder that is written from the first step in each start."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(log_dir=str(folder / EVENTS), purge_step=0)

    def log(numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(f"train/{name}", value, step)

    return Tracker(log, writer.close, writer.flush)


def _wandb(run: FinetuneRun, folder: Path) -> Tracker:
    """A run of the project "entail", resumed by its name and output folder; it is sent in the background."""
    import wandb

    identity = fingerprint(run.name, run.out, run.base)
    opened = wandb.init(
        project=PROJECT, name=run.name, id=identity, resume="allow", dir=str(folder), config=_settings(run)
    )
    return Tracker(opened.log, opened.finish, needs_history=False)


def _mlflow(run: FinetuneRun, folder: Path) -> Tracker:
    """A run of the experiment "entail"; a resumed run is a new one there, with all its rows."""
    import mlflow

    mlflow.set_experiment(PROJECT)
    mlflow.start_run(run_name=run.name)
    mlflow.log_params(_settings(run))
    return Tracker(mlflow.log_metrics, mlflow.end_run)


# By the name in recipes: the library, and how its tracker is opened.
TRACKERS: Mapping[str, tuple[str, Callable[[FinetuneRun, Path], Tracker]]] = {
    "tensorboard": ("tensorboard", _tensorboard),
    "wandb": ("wandb", _wandb),
    "mlflow": ("mlflow", _mlflow),
}


class Trackers:
    """All trackers of a run on rank 0, none on other ranks. Adds the `mfu` to rows where it is known."""

    def __init__(self, trackers: Sequence[Tracker], config: Mapping[str, Any]) -> None:
        self._trackers, self._config = trackers, config
        self._device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""

    def write(self, rows: Sequence[MutableMapping[str, Any]]) -> None:
        """Add the MFU to each row, and pass the rows to all trackers."""
        for row in rows:
            used = utilisation(self._config, self._device, dist.get_world_size(), row["tokens_per_second"])
            if used is not None:
                row["mfu"] = round(used, 4)
        for tracker in self._trackers:
            tracker.write(rows)

    def close(self) -> None:
        """Close all trackers."""
        for tracker in self._trackers:
            tracker.close()


def check_trackers(names: Iterable[str]) -> None:
    """Raises InputError for an unknown tracker, or one whose library is not installed."""
    for name in dict.fromkeys(names):
        if name not in TRACKERS:
            problem, hint = f'unknown tracker "{name}"', f"choose from {', '.join(TRACKERS)}"
        elif find_spec(TRACKERS[name][0]) is None:
            problem = f'the tracker "{name}" needs the package {TRACKERS[name][0]}, which is not installed'
            hint = f"pip install 'entail[{name}]', or leave the tracker out"
        else:
            continue
        raise InputError(problem, where="train.trackers", hint=hint)


def open_trackers(run: FinetuneRun, config: Mapping[str, Any], folder: Path, *, resumed: bool = False) -> Trackers:
    """The trackers of a run; every rank calls it, rank 0 writes. `config` is the model's.

    A `resumed` run has rows in the `metrics.jsonl` of the folder, for the trackers that need its history.
    """
    names = run.trackers if dist.get_rank() == 0 else ()
    trackers = [TRACKERS[name][1](run, folder) for name in names]
    if resumed and trackers:
        rows = read_metrics(folder)
        for tracker in trackers:
            if tracker.needs_history:
                tracker.write(rows)
    return Trackers(trackers, config)


def _settings(run: FinetuneRun) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(run).items() if isinstance(value, int | float | str)}
