"""The finetuning loop around a DeepSpeed engine: under Ray Train, under torchrun, or alone in one process.

Reads: a base model folder, Arrow folders of texts, the training state of an earlier start. Writes: tokens and training
states beside the checkpoint, and the checkpoint folder with `metrics.jsonl` and `plan.json` beside the weights. The
loss of a step is the mean over all label tokens of its global batch, whatever the number of ranks.
"""

import dataclasses
import gc
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from data.errors import InputError
from data.records import CheckpointRef
from data.seeds import derive_seed, fingerprint
from data.store import write_json
from train.engine import state
from train.engine.checkpoint import METRICS, find_finished, steps_folder, work_folder
from train.engine.export import check_twin, export
from train.engine.load import load_sharded, load_whole, read_config
from train.engine.state import Start, State
from train.engine.zero_engine import (
    WEIGHT,
    ReadState,
    agree,
    check_offload,
    config_of,
    dtype_of,
    join_group,
    restore,
    start_engine,
    take_step,
    write_together,
)
from train.model import lora, packed_attention
from train.model.objective import attach_loss
from train.model.traits import Traits, arithmetic_of, traits_of
from train.run.finetune_run import FinetuneRun
from train.run.heartbeat import PHASE, Heartbeat, Phases
from train.run.keys import ROUNDING, key_of
from train.run.stopping import Agreement, StateClock, StoppedError
from train.run.trackers import check_trackers, open_trackers
from train.run.training_plan import PLAN, TrainingPlan, check_ranks, delete_tokens, open_plan, write_texts
from train.texts.batches import Batch

REPORT_EVERY = 20  # steps; the ranks add up their losses only then
# What torch says of a host's memory, of pinned memory, and of a GPU's that a library of CUDA wants.
_NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_NO_HEARTBEAT = Heartbeat(Path(), 0, None)
Result = TypeVar("Result")


class OutOfMemoryError(InputError):
    """Memory ran out on this rank, which a restart would repeat; other ranks do not know of it."""


@dataclass(frozen=True)
class _Task:
    """A run that is ready to start; `plan.run` has its budget in steps."""

    key: str
    config: Any
    traits: Traits
    plan: TrainingPlan
    found: State | None

    @property
    def first_step(self) -> int:
        return self.found.step if self.found else 0


def finetune(
    run: FinetuneRun,
    report: Callable[[dict[str, Any]], None],
    heartbeat: Heartbeat = _NO_HEARTBEAT,
    is_stopped: Callable[[], bool] = lambda: False,
) -> CheckpointRef:
    """Train one run to its end and export it; returns at once if the run is finished already.

    Every rank calls it. It resumes from the last training state, if there is one. `report` is called on rank 0 every
    few steps with the step's line of `metrics.jsonl` and `num_steps`; `heartbeat` beats with every step and phase.
    When `is_stopped` on rank 0, all write their state and raise StoppedError.
    Raises InputError on every rank if any rank finds the input wrong, ResumableError if one cannot write, and
    OutOfMemoryError on the ranks alone that it happens to: their processes must end, for the others wait for them.
    """
    try:
        return _finetune(run, report, heartbeat, Phases(heartbeat), is_stopped)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in _NO_MEMORY):
            raise
        lines = str(error).splitlines()
        wanted = next((line for line in lines if "allocate" in line), "".join(lines[:1]))
        raise OutOfMemoryError(
            f"a rank ran out of memory: {wanted.strip()[:240]}",
            where=f"run {run.name}",
            hint="raise train.accumulation or train.stage, set train.activation_checkpointing, or lower the batch; "
            "`entail train --plan` shows what needs how much",
        ) from error
    finally:
        heartbeat.pause()


def _finetune(
    run: FinetuneRun,
    report: Callable[[dict[str, Any]], None],
    heartbeat: Heartbeat,
    phases: Phases,
    is_stopped: Callable[[], bool],
) -> CheckpointRef:
    phases.enter("joining the group")
    join_group()
    agree(lambda: check_trackers(run.trackers))
    agree(lambda: check_offload(run))
    phases.enter("looking for earlier work")
    key = _on_rank_0(lambda: key_of(run))
    finished = _on_rank_0(lambda: find_finished(Path(run.out), key))
    if finished is not None:
        _clear(run)
        return finished
    agree(lambda: check_ranks(run, dist.get_world_size()))
    agree(lambda: check_twin(run))
    phases.enter("reading the texts")
    config = agree(lambda: read_config(Path(run.base)))
    traits = _on_rank_0(lambda: traits_of(config))
    _on_rank_0(lambda: write_texts(run))
    plan = agree(
        lambda: open_plan(run, traits.packing_refusal, arithmetic_of(config), world_size=dist.get_world_size())
    )
    task = _Task(key, config, traits, plan, _on_rank_0(lambda: _find_state(run, key)))
    phases.enter("loading the model")
    read = state.open_state(task.found) if task.found else None
    model = _load(task, read)
    phases.enter("starting the engine")
    engine = start_engine(task.plan.run, model)
    if task.found and read:
        restore(engine, task.found.optimizer_steps, read)
    phases.enter("training")
    try:
        precision = "bf16" if dtype_of(run) == torch.bfloat16 else "fp32"
        start = Start(task.first_step, dist.get_world_size(), run.stage, precision, phases.seconds())
        starts = (*(task.found.starts if task.found else ()), start)
        for row in _train(engine, task, starts, heartbeat, is_stopped):
            if dist.get_rank() == 0:
                report({**row, "num_steps": task.plan.run.num_steps})
        phases.enter("writing the checkpoint")
        record: dict[str, Any] = {"key": key, "starts": [dataclasses.asdict(start) for start in starts]}
        record["run"] = dataclasses.asdict(run)
        record["computed_with"] = {name: getattr(run, name) for name in ROUNDING}
        ref = export(engine, plan.run, Path(run.out), plan.run.num_steps, len(plan.rows), record)
        _clear(run)
        return ref
    finally:
        engine.destroy()
        del engine
        gc.collect()  # engines are in reference cycles; without this, those of dozens of runs pile up


def learning_rate(run: FinetuneRun, step: int) -> float:
    """The rate of a step, counted from 0: a linear warm-up to the peak, then the run's schedule down to 0."""
    if step < run.warmup_steps:
        return run.learning_rate * (step + 1) / run.warmup_steps
    done = (step - run.warmup_steps) / max(1, run.num_steps - run.warmup_steps)
    factors = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return run.learning_rate * factors[run.schedule]


def _on_rank_0(act: Callable[[], Result]) -> Result:
    """What rank 0 finds, on every rank."""
    found = [agree(lambda: act() if dist.get_rank() == 0 else None)]
    dist.broadcast_object_list(found, src=0)
    return cast(Result, found[0])


def _find_state(run: FinetuneRun, key: str) -> State | None:
    """The state to resume from."""
    if not run.resume:
        shutil.rmtree(state.states_folder(Path(run.out)), ignore_errors=True)
    return state.find_state(Path(run.out), key)


def _load(task: _Task, read: ReadState | None) -> Any:
    """The model at the run's beginning, or with the weights of the state that `read` reads."""
    run = task.plan.run
    torch.manual_seed(run.seed)
    model = agree(lambda: _load_base(task, read))
    if task.plan.layout.name == "packed":
        model.set_attn_implementation(packed_attention.NAME)
    if run.lora is not None:
        model = agree(partial(lora.wrap, model, run.lora, where=f"run {run.name}"))
    attach_loss(model, chunked=task.traits.chunked)
    if read:
        state.load_weights(model, read)
    return model


def _load_base(task: _Task, read: ReadState | None) -> Any:
    """The base model; at stage 3 its shards, with the weights of the state if all are trained."""
    run, attention = task.plan.run, task.traits.attention
    folder, dtype = Path(run.base), dtype_of(run)
    if run.stage < 3 or run.offload == "nvme":
        return load_whole(folder, dtype, attention)

    def from_state(name: str, start: int, stop: int) -> torch.Tensor | None:
        return read(name, WEIGHT, start, stop) if read and run.lora is None else None

    return load_sharded(folder, dtype, attention, config_of(run), from_state)


def _train(
    engine: Any, task: _Task, starts: tuple[Start, ...], heartbeat: Heartbeat, is_stopped: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """Take all remaining steps; yields the last line of each stretch of `metrics.jsonl`."""
    run, first, rank = task.plan.run, task.first_step, dist.get_rank()
    clock = StateClock(run.checkpoint_minutes if run.checkpoint_every else 0.0)
    agreement = Agreement(is_stopped, clock.is_due, engine.device)
    metrics = _open_work(task)
    with closing(open_trackers(run, task.config.to_dict(), metrics.parent, resumed=task.found is not None)) as trackers:
        stretch: list[tuple[Batch, torch.Tensor]] = []
        started = time.perf_counter()
        for step, batch in enumerate(task.plan.batches(rank, dist.get_world_size(), start=first), start=first):
            heartbeat.beat(f"step {step}")
            # Dropout is derived from seed, step and rank, so that there is no random state to save.
            torch.manual_seed(derive_seed(run.seed, "dropout", step, rank))
            stretch.append((batch, take_step(engine, batch, learning_rate(run, step), run.max_grad_norm)))
            done = step + 1
            wanted, ended = agreement.after_step(), done == run.num_steps
            stop = wanted.stop and not ended
            regular = run.checkpoint_every > 0 and done % run.checkpoint_every == 0
            save = stop or (not ended and (regular or wanted.save))
            show = not ended and run.export_every > 0 and done % run.export_every == 0
            if not (save or show or ended or done % REPORT_EVERY == 0):
                continue
            rows = _lines(task, stretch, first=done - len(stretch), seconds=time.perf_counter() - started)
            trackers.write(rows)
            if rank == 0:
                with metrics.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
            stretch.clear()
            yield rows[-1]
            if show:
                heartbeat.beat(f"writing the checkpoint of step {done}", PHASE)
                _export_step(engine, task, done, metrics)
            if save:
                heartbeat.beat(f"writing the state after step {step}", PHASE)
                clock.wrote(_save(engine, task, done, starts, metrics))
            if stop:
                raise StoppedError(f"run {run.name} stopped after step {done}, its state is written")
            started = time.perf_counter()


def _save(engine: Any, task: _Task, done: int, starts: tuple[Start, ...], metrics: Path) -> float:
    """Write the state after `done` steps and delete those that expire; returns the seconds it took."""
    run, began = task.plan.run, time.perf_counter()
    state.save(engine, Path(run.out), step=done, key=task.key, starts=starts, metrics=metrics)
    if dist.get_rank() == 0:
        state.prune(Path(run.out), keep_last=run.keep_last, keep_every=run.keep_every)
    return time.perf_counter() - began


def _export_step(engine: Any, task: _Task, done: int, metrics: Path) -> None:
    """Write the checkpoint after `done` steps, unless an earlier start has."""
    run = task.plan.run
    out = steps_folder(Path(run.out)) / f"step-{done:08d}"
    key = fingerprint(task.key, done)
    if _on_rank_0(lambda: find_finished(out, key)) is not None:
        return

    def begin() -> None:
        if dist.get_rank() == 0:
            shutil.rmtree(work_folder(out), ignore_errors=True)
            work_folder(out).mkdir(parents=True)
            shutil.copyfile(metrics, work_folder(out) / METRICS)

    write_together(begin)
    export(
        engine, dataclasses.replace(run, name=f"{run.name} step {done}"), out, done, len(task.plan.rows), {"key": key}
    )


def _open_work(task: _Task) -> Path:
    """Create the work folder with the plan and the earlier log; returns the path of the log."""
    metrics = work_folder(Path(task.plan.run.out)) / METRICS
    if dist.get_rank() == 0:
        shutil.rmtree(metrics.parent, ignore_errors=True)
        write_json(metrics.parent / PLAN, task.plan.summary())
        if task.found:
            shutil.copyfile(Path(task.found.folder) / METRICS, metrics)
    return metrics


def _lines(
    task: _Task, stretch: list[tuple[Batch, torch.Tensor]], *, first: int, seconds: float
) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` for a stretch of steps, equal on every rank but for the speed.

    `loss` is in nats per token, `grad_norm` before clipping; `tokens` are those learned in the step, `total_tokens`
    those up to its end.
    """
    run, numbers = task.plan.run, torch.stack([found for _, found in stretch])
    shares = numbers[:, 0].contiguous()
    dist.all_reduce(shares)
    speed = round(sum(batch.global_labels for batch, _ in stretch) / seconds)
    rows = []
    found = zip(range(first, first + len(stretch)), stretch, shares.tolist(), numbers[:, 1].tolist(), strict=True)
    for step, (batch, _), loss, norm in found:
        rate = learning_rate(run, step)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what, value = ("norm of the gradient", norm) if math.isfinite(loss) else ("loss", loss)
            raise InputError(
                f"the {what} became {value} at step {step} (learning rate {rate:.3g})",
                where=f"run {run.name}, the batch of {task.plan.name_texts(batch.indices.tolist())}",
                hint="lower train.learning_rate, or clip gradients (train.max_grad_norm)",
            )
        row = {"step": step, "loss": loss, "grad_norm": norm, "learning_rate": rate, "tokens": batch.global_labels}
        rows.append(row | {"total_tokens": batch.tokens, "tokens_per_second": speed})
    return rows


def _clear(run: FinetuneRun) -> None:
    """Delete the tokens of a finished run, and the states that are not kept for good."""
    if dist.get_rank() == 0:
        delete_tokens(run)
        state.prune(Path(run.out), keep_last=0, keep_every=run.keep_every)
