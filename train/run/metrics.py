"""Where a run's log goes beside `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow; and the MFU, on a known GPU.

Each library is imported only if a run asks for it. Writes: TensorBoard's events into the checkpoint's folder; the
others write where their own settings say. Reads `metrics.jsonl` of a run that goes on.
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
from train.engine.checkpoint import METRICS
from train.plan.flops import utilisation
from train.run.finetune_run import FinetuneRun

PROJECT = "entail"
EVENTS = "tensorboard"  # the folder of TensorBoard's events, beside metrics.jsonl


class Sink(Protocol):
    """Somewhere that rows of a log go: `step`, and numbers by name. Producer: the loop, on rank 0.

    `begins_anew` says that a run that goes on starts with an empty log there.
    """

    begins_anew: bool

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take more rows, in the order of their steps; they are there for others to see when it returns."""

    def close(self) -> None:
        """No more rows will come: the run is finished."""


class TensorBoard:
    """Scalars under `train/`, in a folder that is made anew with the checkpoint's."""

    begins_anew = True

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
        """Close the file of events."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """A run of the project "entail", taken up again by its name and output folder."""

    begins_anew = False

    def __init__(self, run: FinetuneRun, folder: Path) -> None:
        import wandb

        self._run = wandb.init(
            project=PROJECT, name=run.name, id=_identity(run), resume="allow", dir=str(folder), config=_settings(run)
        )

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Hand over; the library sends by itself."""
        for row in rows:
            self._run.log(_numbers(row), step=row["step"])

    def close(self) -> None:
        """Wait until all is sent."""
        self._run.finish()


class MLflow:
    """A run of the experiment "entail"; one that goes on is another run there, with all its rows."""

    begins_anew = True

    def __init__(self, run: FinetuneRun, folder: Path) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.set_experiment(PROJECT)
        mlflow.start_run(run_name=run.name)
        mlflow.log_params(_settings(run))

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Hand over row by row."""
        for row in rows:
            self._mlflow.log_metrics(_numbers(row), step=row["step"])

    def close(self) -> None:
        """Mark the run as finished."""
        self._mlflow.end_run()


# By the name that recipes use: the library that it needs, and what opens it.
TRACKERS: Mapping[str, tuple[str, Callable[[FinetuneRun, Path], Sink]]] = {
    "tensorboard": ("tensorboard", TensorBoard),
    "wandb": ("wandb", WeightsAndBiases),
    "mlflow": ("mlflow", MLflow),
}


class Sinks:
    """All sinks of a run, on rank 0; on other ranks, none. It also adds the `mfu` to rows, where it is known."""

    def __init__(self, sinks: Sequence[Sink], config: Mapping[str, Any]) -> None:
        self._sinks, self._config = sinks, config
        self._device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""

    def write(self, rows: Sequence[MutableMapping[str, Any]]) -> None:
        """Add the share of the GPUs' arithmetic that is used to each row, and hand the rows on."""
        for row in rows:
            used = utilisation(self._config, self._device, dist.get_world_size(), row["tokens_per_second"])
            if used is not None:
                row["mfu"] = round(used, 4)
        for sink in self._sinks:
            sink.write(rows)

    def close(self) -> None:
        """Close all sinks."""
        for sink in self._sinks:
            sink.close()


def check_trackers(names: Iterable[str]) -> None:
    """Raises InputError for a tracker that is not known, or whose library is not installed."""
    for name in dict.fromkeys(names):
        if name not in TRACKERS:
            raise InputError(
                f'unknown tracker "{name}"',
                where="recipe key train.trackers, --trackers",
                hint=f"choose among {', '.join(TRACKERS)}",
            )
        library, _ = TRACKERS[name]
        if find_spec(library) is None:
            raise InputError(
                f'the tracker "{name}" needs the package {library}, which is not installed',
                where="recipe key train.trackers, --trackers",
                hint=f"pip install 'entail[{name}]', or leave the tracker out",
            )


def open_sinks(run: FinetuneRun, config: Mapping[str, Any], folder: Path, *, goes_on: bool = False) -> Sinks:
    """The trackers that a run asks for; every rank calls it, rank 0 writes. `config` is the model's.

    A run that `goes_on` has rows in the `metrics.jsonl` of the folder: who begins anew gets them first.
    """
    wanted = run.trackers if dist.get_rank() == 0 else ()
    sinks = [TRACKERS[name][1](run, folder) for name in wanted]
    anew = [sink for sink in sinks if sink.begins_anew and goes_on]
    if anew:
        rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
        for sink in anew:
            sink.write(rows)
    return Sinks(sinks, config)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "step" and isinstance(value, int | float)}


def _settings(run: FinetuneRun) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(run).items() if isinstance(value, int | float | str)}


def _identity(run: FinetuneRun) -> str:
    from data.seeds import fingerprint

    return fingerprint(run.name, run.out, run.base)
