"""A list of finetuning runs on one Ray Train worker group that starts once.

The group may be split into lanes of a few workers each, which train runs side by side.

Reads: the runs' inputs. Writes: their checkpoints, through the workers; in the storage folder the progress or the error
of each lane, the heartbeats of the ranks, and the runs' tokens and schedules, for later ones. The storage folder must
be shared by all nodes.
"""

import dataclasses
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.ray_internals import kv_delete, kv_get, kv_put
from cluster.termination import graceful, requested
from data.errors import InputError, ResumableError
from data.records import CheckpointRef
from data.store import write_json
from train.engine.checkpoint import find_finished, read_ref
from train.run.finetune_run import FinetuneRun, absolute
from train.run.heartbeat import Heartbeat, StallDetector, kill_worker, read_statuses, stacks_written
from train.run.keys import key_of
from train.run.network import NodeTorchConfig
from train.run.trackers import check_trackers
from train.run.training_plan import check_ranks, write_texts

RunError = InputError | ResumableError
MAX_RESTARTS = 3
GRACE_SECONDS = 20.0
STALL_SECONDS = 1800.0
_POLL_SECONDS = 0.5
_ROOM_SECONDS = "30"  # in which Ray Train waits for room by itself: a rank that has died gives its own back
_LANES, _HEARTBEATS, TOKENS = "lanes", "heartbeats", "tokens"
_PROGRESS, _ERROR = "progress-{}.json", "error-{}.json"


class LostPlacesError(ResumableError):
    """The cluster has no room for all ranks, any more or yet. The last training states are whole."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a list of runs. Producer: each lane's first rank. Consumer: the progress bar of `pipeline`.

    `done` counts finished runs and the finished parts of running ones; `loss` is in nats per token, `mfu` the share of
    the GPUs' arithmetic that is used, where known.
    """

    run: str
    step: int
    num_steps: int
    loss: float
    tokens_per_second: int
    done: float
    mfu: float | None = None


def ranks_for(runs: Sequence[FinetuneRun], most: int) -> int:
    """The number of ranks, at most `most`, that all have work in every step of every run."""
    return min([most, *(max(1, (run.batch_tokens or run.batch_size) // run.accumulation) for run in runs)])


def finetune_all(
    runs: Sequence[FinetuneRun],
    *,
    num_workers: int,
    cpus_per_worker: int,
    use_gpu: bool,
    storage: Path,
    on_progress: Callable[[Progress], None],
    on_error: Callable[[RunError], None] = lambda error: None,
    threads_per_worker: int | None = None,
    stall_seconds: float = STALL_SECONDS,
    ranks_per_run: int = 0,
    exact_ranks: bool = False,
    grace_seconds: float = GRACE_SECONDS,
) -> list[CheckpointRef]:
    """Train all runs in order; finished ones are skipped, equal ones share an output. Ray must be initialised.

    Each run is trained by `ranks_per_run` of the workers (0: by all of them), other runs at the same time by the
    others. With `exact_ranks` a batch that is too small for the ranks is refused; otherwise there are fewer workers.
    A worker reserves `cpus_per_worker` CPUs and computes with `threads_per_worker` threads (default: as many).

    When a worker dies, the group restarts from the last training states, at most three times. So it does when a worker
    makes no progress within a step for `stall_seconds` (four times as long between steps); its stacks are then in
    `storage`. A command that is told to end (see `cluster.termination`) has `grace_seconds` to write the states; then
    ResumableError is raised. `on_error` is called when a lane gives up a run; the error is raised when the other lanes
    are finished.
    Raises InputError for wrong input, before anything starts where possible; ResumableError if the workers keep
    failing, or cannot write; LostPlacesError where some of them have no node (see `pipeline.stages.train`).
    """
    storage = storage.absolute()
    # All runs share one folder of tokens: what several of them learn from is tokenized once.
    runs = [absolute(dataclasses.replace(run, tokens=run.tokens or str(storage / TOKENS))) for run in runs]
    check_trackers(name for run in runs for name in run.trackers)
    todo = _unfinished(runs)
    if not (exact_ranks or ranks_per_run):
        num_workers = ranks_for(todo, num_workers)
    ranks = ranks_per_run or num_workers
    if num_workers % ranks:
        raise InputError(
            f"{num_workers} ranks cannot be split into groups of {ranks}",
            where="train.ranks_per_run",
            hint="use a divisor of the number of ranks",
        )
    for run in todo:
        check_ranks(run, ranks, flag="train.ranks_per_run" if ranks_per_run else "--ranks")
        write_texts(run)
    if todo:
        config = {"runs": todo, "num_threads": threads_per_worker or cpus_per_worker, "storage": str(storage)}
        config |= {"stall_seconds": stall_seconds, "ranks_per_run": ranks}
        for name in (_HEARTBEATS, _LANES):
            shutil.rmtree(storage / name, ignore_errors=True)
        kv_delete(_stop_key(str(storage)))
        with graceful(grace_seconds), _watch(storage, len(runs) - len(todo), on_progress, on_error):
            _fit(config, num_workers, cpus_per_worker, use_gpu, storage)
        for path in sorted((storage / _LANES).glob(_ERROR.format("*"))):
            error = _read_error(path)
            raise ResumableError(f"{requested()}: {error}") if requested() else error
    return [dataclasses.replace(read_ref(Path(run.out)), name=run.name) for run in runs]


def _unfinished(runs: Sequence[FinetuneRun]) -> list[FinetuneRun]:
    """The runs still to be trained, each output once; refuses outputs that belong to other runs."""
    keys: dict[str, str] = {}
    todo = []
    for run in runs:
        key = key_of(run)
        if keys.setdefault(run.out, key) != key:
            hint = "give each run a folder of its own"
            raise InputError("two runs have the same output folder", where=run.out, hint=hint)
        if not find_finished(Path(run.out), key):
            todo.append(run)
    return list({run.out: run for run in todo}.values())


def _fit(config: dict[str, Any], num_workers: int, cpus: int, use_gpu: bool, storage: Path) -> None:
    """Start the worker group and wait for it."""
    trainer = TorchTrainer(
        _train_all,
        train_loop_config=config,
        torch_config=NodeTorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": cpus, "GPU": int(use_gpu)}
        ),
        # A new name each time: with an old one Ray Train would restore that group's state.
        run_config=RunConfig(
            name=f"finetune-{time.time_ns()}",
            storage_path=str(storage / "ray_train"),
            failure_config=FailureConfig(max_failures=MAX_RESTARTS, controller_failure_limit=0),
        ),
    )
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _ROOM_SECONDS)
    try:
        trainer.fit()
    except ControllerError as error:
        reason = str(error.controller_failure).strip().partition("\n")[0]
        raise LostPlacesError(f"{num_workers} training ranks could not be placed: {reason}") from error
    except TrainingFailedError as error:
        last_line = str(error).strip().splitlines()[-1]
        stacks = "".join(f"\n  a rank hung, its stacks: {path}" for path in stacks_written(storage / _HEARTBEATS))
        statuses = read_statuses(storage / _HEARTBEATS)
        doing = f" (rank {statuses[0].rank}: {statuses[0].doing})" if statuses else ""
        what = f"the training workers failed {MAX_RESTARTS + 1} times; last{doing}: {last_line}{stacks}"
        raise ResumableError(what) from error


def _train_all(config: dict[str, Any]) -> None:
    """Train all runs of a lane in order, on each worker. Errors go into a file, since a restart would repeat them."""
    from train.engine.zero_engine import split_group
    from train.run.loop import OutOfMemoryError, finetune

    torch.set_num_threads(config["num_threads"])
    storage, context, ranks = Path(config["storage"]), ray.get_runtime_context(), config["ranks_per_run"]
    train_context = ray.train.get_context()
    rank, num_lanes = train_context.get_world_rank(), train_context.get_world_size() // ranks
    heartbeat = Heartbeat(storage / _HEARTBEATS, rank, config["stall_seconds"], node=context.get_node_id())
    lane = split_group(ranks, ray.util.get_node_ip_address())
    lanes = storage / _LANES
    if (lanes / _ERROR.format(lane)).exists():
        return  # it gave up before the group was restarted
    for position, run in enumerate(config["runs"][lane::num_lanes]):

        def report(row: dict[str, Any], position: int = position, run: FinetuneRun = run) -> None:
            step, num_steps = row["step"] + 1, row["num_steps"]
            progress = Progress(
                run=run.name,
                step=step,
                num_steps=num_steps,
                loss=row["loss"],
                tokens_per_second=row["tokens_per_second"],
                done=position + step / num_steps,
                mfu=row.get("mfu"),
            )
            write_json(lanes / _PROGRESS.format(lane), dataclasses.asdict(progress))

        try:
            finetune(run, report, heartbeat, partial(_is_stopped, config["storage"]))
        except OutOfMemoryError as error:
            _write_error(error, lanes / _ERROR.format(lane))
            raise  # ends the group, whose other ranks wait for this one
        except (InputError, ResumableError) as error:
            if rank % ranks == 0:
                _write_error(error, lanes / _ERROR.format(lane))
            return


def _stop_key(storage: str) -> bytes:
    return f"entail stop {storage}".encode()


def _is_stopped(storage: str) -> bool:
    """In a rank: whether the driver was told to end."""
    return kv_get(_stop_key(storage)) is not None


def _write_error(error: RunError, path: Path) -> None:
    parts = [error.what, error.where, error.hint] if isinstance(error, InputError) else [str(error)]
    write_json(path, {"parts": parts})


def _read_error(path: Path) -> RunError:
    parts = json.loads(path.read_text())["parts"]
    return InputError(parts[0], where=parts[1], hint=parts[2]) if len(parts) == 3 else ResumableError(*parts)


@contextmanager
def _watch(
    storage: Path, num_finished: int, on_progress: Callable[[Progress], None], on_error: Callable[[RunError], None]
) -> Iterator[None]:
    """While the block runs, report each change of the lanes' files, and kill workers that hang."""
    detector, ended = StallDetector(storage / _HEARTBEATS), threading.Event()
    seen: dict[Path, Progress] = {}
    reported: set[Path] = set()

    def poll() -> None:
        is_told = False
        while True:
            is_last = ended.wait(_POLL_SECONDS)
            for path in sorted((storage / _LANES).glob(_PROGRESS.format("*"))):
                progress = Progress(**json.loads(path.read_text()))
                if progress != seen.get(path):
                    seen[path] = progress
                    done = num_finished + sum(lane.done for lane in seen.values())
                    on_progress(dataclasses.replace(progress, done=done))
            for path in sorted(set((storage / _LANES).glob(_ERROR.format("*"))) - reported):
                reported.add(path)
                if not is_told:
                    on_error(_read_error(path))
            if is_last:
                return
            if requested() and not is_told:
                is_told = True
                kv_put(_stop_key(str(storage)), b"1")
            for status in detector.stalled(time.monotonic()):
                # A task on the worker's node, which is not waited for.
                on_its_node = NodeAffinitySchedulingStrategy(status.node, soft=False)
                ray.remote(num_cpus=0)(kill_worker).options(scheduling_strategy=on_its_node).remote(status.pid)

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
