"""Trackers of a run's log besides `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow; and the MFU on known GPUs.

Each library is imported only if a run uses it. Writes: TensorBoard's events into the checkpoint's folder; the others
write where their own settings say. Reads the `metrics.jsonl` of a run that resumes.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from data.errors import InputError
from data.seeds import fingerprint
from train.engine.checkpoint import METRICS
from train.plan.flops import utilisation
from train.run.finetune_run import FinetuneRun

PROJECT = "entail"
EVENTS = "tensorboard"  # the folder of TensorBoard's events, beside metrics.jsonl


class Tracker(Protocol):
    """A destination of log rows: `step`, and numbers by name. Producer: the loop, on rank 0.

    `needs_history`: when a run resumes, the tracker starts with an empty log and gets the earlier rows first.
    """

    needs_history: bool

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows in the order of their steps; others can see them when this returns."""

    def close(self) -> None:
        """End the log: the run is finished."""


class TensorBoard:
    """Scalars under `train/`, in a folder that is written from the first step in each start."""

    needs_history = True

    def __init__(self, run: FinetuneRun, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._open = partial(SummaryWriter, log_dir=str(folder / EVENTS))
        self._writer: Any = None

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write and flush."""
        if self._writer is None:
            self._writer = self._open(purge_step=rows[0]["step"])
        for row in rows:
            for name, value in _numbers(row).items():
                self._writer.add_scalar(f"train/{name}", value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """A run of the project "entail", resumed by its name and output folder."""

    needs_history = False

    def __init__(self, run: FinetuneRun, folder: Path) -> None:
        import wandb

        identity = fingerprint(run.name, run.out, run.base)
        self._run = wandb.init(
            project=PROJECT, name=run.name, id=identity, resume="allow", dir=str(folder), config=_settings(run)
        )

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log; the library sends in the background."""
        for row in rows:
            self._run.log(_numbers(row), step=row["step"])

    def close(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()


class MLflow:
    """A run of the experiment "entail"; a resumed run is a new one there, with all its rows."""

    needs_history = True

    def __init__(self, run: FinetuneRun, folder: Path) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.set_experiment(PROJECT)
        mlflow.start_run(run_name=run.name)
        mlflow.log_params(_settings(run))

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log row by row."""
        for row in rows:
            self._mlflow.log_metrics(_numbers(row), step=row["step"])

    def close(self) -> None:
        """Mark the run as finished."""
        self._mlflow.end_run()


# By the name in recipes: the library, and the tracker's class.
TRACKERS: Mapping[str, tuple[str, Callable[[FinetuneRun, Path], Tracker]]] = {
    "tensorboard": ("tensorboard", TensorBoard),
    "wandb": ("wandb", WeightsAndBiases),
    "mlflow": ("mlflow", MLflow),
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
    to_fill = [tracker for tracker in trackers if tracker.needs_history and resumed]
    if to_fill:
        rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
        for tracker in to_fill:
            tracker.write(rows)
    return Trackers(trackers, config)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "step" and isinstance(value, int | float)}


def _settings(run: FinetuneRun) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(run).items() if isinstance(value, int | float | str)}
