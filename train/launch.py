"""A list of finetuning runs on one Ray Train worker group that starts once.

Reads: the runs' inputs. Writes: their checkpoints, through the workers, and in the storage folder `progress.json`, by
which the driver sees how far they are, the pulses of the ranks, and until all runs are finished their tokens. The
storage folder must be shared by all nodes.
"""

import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data.errors import InputError, ResumableError
from data.records import CheckpointRef
from data.store import write_json
from data.weights import weights_fingerprint
from train.checkpoint import find_finished, read_ref
from train.course import check_ranks, write_course
from train.encode import load_reader
from train.metrics import check_trackers
from train.pulse import Beat, Pulse, Watch, end_worker, read_beats, stacks_written
from train.runs import FinetuneRun, absolute, run_key

Refusal = InputError | ResumableError
MAX_RESTARTS = 3
STALL_SECONDS = 1800.0
_POLL_SECONDS = 0.5
_PROGRESS, _PULSES, _TOKENS = "progress.json", "pulses", "tokens"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a list of runs is. Producer: rank 0. Consumer: the progress bar of `pipeline`.

    `index` counts the run from 0 within all `num_runs`; `loss` is in nats per token, `mfu` the
    share of the GPUs' arithmetic that is used, where known.
    """

    run: str
    index: int
    num_runs: int
    step: int
    num_steps: int
    loss: float
    tokens_per_second: int
    mfu: float | None = None


def finetune_all(
    runs: Sequence[FinetuneRun],
    *,
    num_workers: int,
    cpus_per_worker: int,
    use_gpu: bool,
    storage: Path,
    on_progress: Callable[[Progress], None],
    stall_seconds: float = STALL_SECONDS,
) -> list[CheckpointRef]:
    """Train all runs in order, each over all workers; finished ones are skipped. Ray must be initialised.

    A dead worker costs what its run did since the last training state: the group restarts, at most three times. So does
    a worker that makes no progress within a step for `stall_seconds`, after its stack was written to `storage`.
    Raises InputError for input that is wrong, before anything starts where that can be known; ResumableError if the
    workers keep failing, or cannot write.
    """
    storage = storage.absolute()
    # All runs share one folder of tokens: what several of them learn from is tokenised once.
    runs = [absolute(dataclasses.replace(run, tokens=run.tokens or str(storage / _TOKENS))) for run in runs]
    check_trackers(name for run in runs for name in run.trackers)
    todo = _unfinished(runs)
    for _, run in todo:
        check_ranks(run, num_workers)
        write_course(run)
    if todo:
        config = {"runs": todo, "num_runs": len(runs), "num_threads": cpus_per_worker, "storage": str(storage)}
        config["stall_seconds"] = stall_seconds
        shutil.rmtree(storage / _PULSES, ignore_errors=True)
        with _watch(storage, on_progress, stall_seconds):
            refusal = _fit(config, num_workers, cpus_per_worker, use_gpu, storage)
        if refusal is not None:
            raise refusal
    shutil.rmtree(storage / _TOKENS, ignore_errors=True)
    return [read_ref(Path(run.out)) for run in runs]


def _unfinished(runs: Sequence[FinetuneRun]) -> list[tuple[int, FinetuneRun]]:
    """The runs still to be trained, with their places in the list; refuses outputs that belong to other runs."""
    outs = [run.out for run in runs]
    if len(set(outs)) < len(outs):
        twice = next(out for out in outs if outs.count(out) > 1)
        raise InputError("two runs have the same output folder", where=twice, mend="give each run a folder of its own")
    bases = {base: weights_fingerprint(Path(base)) for base in {run.base for run in runs}}
    keys = [run_key(run, bases[run.base], load_reader(run.base).fingerprint) for run in runs]
    return [
        (index, run)
        for index, (run, key) in enumerate(zip(runs, keys, strict=True))
        if not find_finished(Path(run.out), key)
    ]


def _fit(config: dict[str, Any], num_workers: int, cpus: int, use_gpu: bool, storage: Path) -> Refusal | None:
    """Start the worker group and wait for it; returns why the workers gave up, if they did."""
    trainer = TorchTrainer(
        _train_all,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": cpus, "GPU": int(use_gpu)}
        ),
        # A name of its own: under an old name Ray Train would take up that group's state.
        run_config=RunConfig(
            name=f"finetune-{time.time_ns()}",
            storage_path=str(storage / "ray_train"),
            failure_config=FailureConfig(max_failures=MAX_RESTARTS),
        ),
    )
    try:
        return trainer.fit().return_value
    except TrainingFailedError as error:
        last_line = str(error).strip().splitlines()[-1]
        stacks = "".join(f"\n  a rank stood still, its stack: {path}" for path in stacks_written(storage / _PULSES))
        beats = read_beats(storage / _PULSES)
        steps = f" in step {max(beat.step for beat in beats)}" if beats else ""
        what = f"the training workers failed {MAX_RESTARTS + 1} times; at last{steps}: {last_line}{stacks}"
        raise ResumableError(what) from error


def _train_all(config: dict[str, Any]) -> Refusal | None:
    """What each worker does: all runs in order. A refusal is returned, since restarts could not mend it."""
    from train.loop import finetune

    torch.set_num_threads(config["num_threads"])
    storage, context = Path(config["storage"]), ray.get_runtime_context()
    rank = ray.train.get_context().get_world_rank()
    pulse = Pulse(storage / _PULSES, rank, config["stall_seconds"], node=context.get_node_id())
    for index, run in config["runs"]:

        def report(row: dict[str, Any], run: FinetuneRun = run, index: int = index) -> None:
            progress = Progress(
                run=run.name,
                index=index,
                num_runs=config["num_runs"],
                step=row["step"] + 1,
                num_steps=row["num_steps"],
                loss=row["loss"],
                tokens_per_second=row["tokens_per_second"],
                mfu=row.get("mfu"),
            )
            write_json(storage / _PROGRESS, dataclasses.asdict(progress))

        try:
            finetune(run, report, pulse)
        except (InputError, ResumableError) as refusal:
            return refusal
    return None


@contextmanager
def _watch(storage: Path, on_progress: Callable[[Progress], None], stall_seconds: float) -> Iterator[None]:
    """While the block runs, hand on each new state of the progress file, and end workers that only sit there."""
    path, watch = storage / _PROGRESS, Watch(storage / _PULSES, stall_seconds)
    path.unlink(missing_ok=True)
    ended = threading.Event()

    def poll() -> None:
        seen = ""
        while True:
            last_look = ended.wait(_POLL_SECONDS)
            if path.exists() and (text := path.read_text()) != seen:
                seen = text
                on_progress(Progress(**json.loads(text)))
            if last_look:
                return
            for beat in watch.look(time.monotonic()):
                _end(beat)

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _end(beat: Beat) -> None:
    """End the process behind a beat, by a task on its node; nobody waits for it."""
    there = NodeAffinitySchedulingStrategy(beat.node, soft=False)
    ray.remote(num_cpus=0)(end_worker).options(scheduling_strategy=there).remote(beat.pid)
