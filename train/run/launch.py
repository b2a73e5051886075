"""A list of finetuning runs on one Ray Train worker group that starts once.

The group may be parted into lanes of a few workers each, which train runs side by side.

Reads: the runs' inputs. Writes: their checkpoints, through the workers, and in the storage folder a file for each lane,
by which the driver sees how far it is or why it gave up, the pulses of the ranks, and until all runs are finished their
tokens. The storage folder must be shared by all nodes.
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
from train.engine.checkpoint import find_finished, read_ref
from train.run.course import check_ranks, write_course
from train.run.finetune_run import FinetuneRun, absolute, run_key
from train.run.heartbeat import Beat, Pulse, Watch, end_worker, read_beats, stacks_written
from train.run.metrics import check_trackers
from train.texts.encode import load_reader

Refusal = InputError | ResumableError
MAX_RESTARTS = 3
STALL_SECONDS = 1800.0
_POLL_SECONDS = 0.5
_LANES, _PULSES, _TOKENS = "lanes", "pulses", "tokens"
_PROGRESS, _REFUSAL = "progress-{}.json", "refusal-{}.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a list of runs is. Producer: each lane's first rank. Consumer: the progress bar of `pipeline`.

    `done` counts the runs of the list that are done, and the part of those under way; `loss` is in nats per token,
    `mfu` the share of the GPUs' arithmetic that is used, where known.
    """

    run: str
    step: int
    num_steps: int
    loss: float
    tokens_per_second: int
    done: float
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
    ranks_per_run: int = 0,
) -> list[CheckpointRef]:
    """Train all runs in order; finished ones are skipped. Ray must be initialised.

    Each run is trained by `ranks_per_run` of the workers (0: by all of them), others at the same time by the others.

    A dead worker costs what its run did since the last training state: the group restarts, at most three times. So does
    a worker that makes no progress within a step for `stall_seconds` (elsewhere four times as long), after its stack
    was written to `storage`.
    Raises InputError for input that is wrong, before anything starts where that can be known; ResumableError if the
    workers keep failing, or cannot write.
    """
    storage = storage.absolute()
    # All runs share one folder of tokens: what several of them learn from is tokenised once.
    runs = [absolute(dataclasses.replace(run, tokens=run.tokens or str(storage / _TOKENS))) for run in runs]
    check_trackers(name for run in runs for name in run.trackers)
    todo, ranks = _unfinished(runs), ranks_per_run or num_workers
    if num_workers % ranks:
        raise InputError(
            f"{num_workers} workers cannot be parted into groups of {ranks}",
            where="the training's settings",
            hint="let ranks_per_run divide the number of workers",
        )
    for run in todo:
        check_ranks(run, ranks)
        write_course(run)
    if todo:
        config = {"runs": todo, "num_threads": cpus_per_worker, "storage": str(storage)}
        config |= {"stall_seconds": stall_seconds, "ranks_per_run": ranks}
        for name in (_PULSES, _LANES):
            shutil.rmtree(storage / name, ignore_errors=True)
        with _watch(storage, on_progress, len(runs) - len(todo)):
            _fit(config, num_workers, cpus_per_worker, use_gpu, storage)
        for path in sorted((storage / _LANES).glob(_REFUSAL.format("*"))):
            raise _read_refusal(path)
    shutil.rmtree(storage / _TOKENS, ignore_errors=True)
    return [read_ref(Path(run.out)) for run in runs]


def _unfinished(runs: Sequence[FinetuneRun]) -> list[FinetuneRun]:
    """The runs still to be trained; refuses outputs that belong to other runs."""
    outs = [run.out for run in runs]
    if len(set(outs)) < len(outs):
        twice = next(out for out in outs if outs.count(out) > 1)
        raise InputError("two runs have the same output folder", where=twice, hint="give each run a folder of its own")
    bases = {base: weights_fingerprint(Path(base)) for base in {run.base for run in runs}}
    keys = [run_key(run, bases[run.base], load_reader(run.base).fingerprint) for run in runs]
    return [run for run, key in zip(runs, keys, strict=True) if not find_finished(Path(run.out), key)]


def _fit(config: dict[str, Any], num_workers: int, cpus: int, use_gpu: bool, storage: Path) -> None:
    """Start the worker group and wait for it."""
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
        trainer.fit()
    except TrainingFailedError as error:
        last_line = str(error).strip().splitlines()[-1]
        stacks = "".join(f"\n  a rank stood still, its stack: {path}" for path in stacks_written(storage / _PULSES))
        beats = read_beats(storage / _PULSES)
        doing = f" (rank {beats[0].rank}: {beats[0].doing})" if beats else ""
        what = f"the training workers failed {MAX_RESTARTS + 1} times; at last{doing}: {last_line}{stacks}"
        raise ResumableError(what) from error


def _train_all(config: dict[str, Any]) -> None:
    """What each worker does: all runs of its lane in order. Refusals are written down: a restart would repeat them."""
    from train.engine.zero_engine import part_group
    from train.run.loop import finetune

    torch.set_num_threads(config["num_threads"])
    storage, context, ranks = Path(config["storage"]), ray.get_runtime_context(), config["ranks_per_run"]
    train_context = ray.train.get_context()
    rank, num_lanes = train_context.get_world_rank(), train_context.get_world_size() // ranks
    pulse = Pulse(storage / _PULSES, rank, config["stall_seconds"], node=context.get_node_id())
    lane = part_group(ranks, ray.util.get_node_ip_address())
    lanes = storage / _LANES
    lanes.mkdir(parents=True, exist_ok=True)
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
            finetune(run, report, pulse)
        except (InputError, ResumableError) as refusal:
            if rank % ranks == 0:
                _write_refusal(refusal, lanes / _REFUSAL.format(lane))
            return


def _write_refusal(refusal: Refusal, path: Path) -> None:
    parts = [refusal.what, refusal.where, refusal.hint] if isinstance(refusal, InputError) else [str(refusal)]
    write_json(path, {"parts": parts})


def _read_refusal(path: Path) -> Refusal:
    parts = json.loads(path.read_text())["parts"]
    return InputError(parts[0], where=parts[1], hint=parts[2]) if len(parts) == 3 else ResumableError(*parts)


@contextmanager
def _watch(storage: Path, on_progress: Callable[[Progress], None], num_finished: int) -> Iterator[None]:
    """While the block runs, hand on each new state of the lanes' files, and end workers that only sit there."""
    watch, ended = Watch(storage / _PULSES), threading.Event()
    seen: dict[Path, Progress] = {}

    def poll() -> None:
        while True:
            last_look = ended.wait(_POLL_SECONDS)
            for path in sorted((storage / _LANES).glob(_PROGRESS.format("*"))):
                progress = Progress(**json.loads(path.read_text()))
                if progress != seen.get(path):
                    seen[path] = progress
                    done = num_finished + sum(lane.done for lane in seen.values())
                    on_progress(dataclasses.replace(progress, done=done))
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
