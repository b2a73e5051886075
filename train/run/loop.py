"""The finetuning loop around a DeepSpeed engine: under Ray Train, under torchrun, or alone in one process.

Reads: a base model folder, Arrow folders of texts, the training state that an earlier start left. Writes: tokens and
training states beside the checkpoint, and the checkpoint folder with `metrics.jsonl` and `course.json` beside the
weights. The loss of a step is the mean over all label tokens of its global batch, however many ranks share it.
"""

import copy
import gc
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from data.errors import InputError
from data.records import CheckpointRef
from data.seeds import derive_seed
from data.store import write_json
from train.engine import state
from train.engine.checkpoint import METRICS, work_folder
from train.engine.export import Made, export
from train.engine.state import Start, State
from train.engine.zero_engine import (
    agree,
    check_offload,
    join_group,
    precision,
    restore,
    start_engine,
    take_step,
)
from train.model import lora, packed_attention
from train.model.objective import model_inputs, summed_loss
from train.run.course import COURSE, forget_tokens, write_course
from train.run.finetune_run import FinetuneRun, TextSource
from train.run.heartbeat import PHASE, Phases, Pulse
from train.run.metrics import check_trackers, open_sinks
from train.run.task import Task, look_up, prepare
from train.texts.batches import Batch

__all__ = ["FinetuneRun", "TextSource", "finetune", "learning_rate"]

REPORT_EVERY = 20  # steps; the ranks add up their losses only then
_NO_PULSE = Pulse(Path(), 0, None)


def finetune(run: FinetuneRun, report: Callable[[dict[str, Any]], None], pulse: Pulse = _NO_PULSE) -> CheckpointRef:
    """Train one run to its end and export it; a run that is finished already is only looked up.

    Every rank calls it. It goes on from the last training state, if there is one. `report` is called on rank 0 every
    few steps with the step's line of `metrics.jsonl` and `num_steps`; `pulse` beats with every step and phase. Raises
    InputError on every rank if any rank finds the input wrong, ResumableError if one cannot write.
    """
    phases = Phases(pulse)
    try:
        return _finetune(run, report, pulse, phases)
    finally:
        pulse.rest()


def _finetune(
    run: FinetuneRun, report: Callable[[dict[str, Any]], None], pulse: Pulse, phases: Phases
) -> CheckpointRef:
    phases.enter("joining the group")
    join_group()
    agree(lambda: check_trackers(run.trackers))
    agree(lambda: check_offload(run))
    phases.enter("loading the model")
    known = agree(lambda: look_up(run))
    if known.finished is not None:
        _clear(run)
        return known.finished
    phases.enter("reading the texts")
    agree(lambda: write_course(run) if dist.get_rank() == 0 else None)
    task = agree(lambda: prepare(run, known))
    found = _find_state(task)
    phases.enter("starting the engine")
    engine = _start(task, found)
    phases.enter("training")
    try:
        starts = (*(found.starts if found else ()), _this_start(run, found, phases.seconds()))
        for row in _train(engine, task, found, starts, pulse):
            if dist.get_rank() == 0:
                report({**row, "num_steps": task.run.num_steps})
        phases.enter("writing the checkpoint")
        ref = export(engine, Made(task.run, known.key, task.base.model, starts, len(task.course.rows)))
        _clear(run)
        return ref
    finally:
        engine.destroy()
        del engine
        gc.collect()  # engines hold themselves in reference cycles; left alone, dozens of runs pile up


def learning_rate(run: FinetuneRun, step: int) -> float:
    """The rate of a step, counted from 0: a linear warm-up to the peak, then the run's schedule down to 0."""
    if step < run.warmup_steps:
        return run.learning_rate * (step + 1) / run.warmup_steps
    done = (step - run.warmup_steps) / max(1, run.num_steps - run.warmup_steps)
    factors = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return run.learning_rate * factors[run.schedule]


def _find_state(task: Task) -> State | None:
    """The state to go on from, the same one on every rank."""
    out = Path(task.run.out)
    found: list[State | None] = [None]
    if not task.run.resume and dist.get_rank() == 0:
        shutil.rmtree(state.states_folder(out), ignore_errors=True)
    if task.run.resume:
        found = [agree(lambda: state.find_state(out, task.known.state_key) if dist.get_rank() == 0 else None)]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def _start(task: Task, found: State | None) -> Any:
    """An engine at the run's beginning, or where a state was."""
    torch.manual_seed(task.run.seed)
    model = copy.deepcopy(task.base.model)
    if task.course.layout.name == "packed":
        model.set_attn_implementation(packed_attention.NAME)
    if task.run.lora is not None:
        adapters, name = task.run.lora, task.run.name
        model = agree(lambda: lora.wrap(model, adapters, where=f"run {name}"))
    if found is None:
        return start_engine(task.run, model)
    read = state.open_state(found)
    state.load_weights(model, read)
    engine = start_engine(task.run, model)
    restore(engine, found.optimizer_steps, read)
    return engine


def _this_start(run: FinetuneRun, found: State | None, seconds: dict[str, float]) -> Start:
    return Start(found.step if found else 0, dist.get_world_size(), run.stage, precision(), seconds)


def _train(
    engine: Any, task: Task, found: State | None, starts: tuple[Start, ...], pulse: Pulse
) -> Iterator[dict[str, Any]]:
    """Take all steps that are left; yields the last line of each stretch of `metrics.jsonl`."""
    run, begun, rank = task.run, found.step if found else 0, dist.get_rank()
    metrics = _open_work(task, found)
    with closing(open_sinks(run, task.base.model.config.to_dict(), metrics.parent, goes_on=found is not None)) as sinks:
        stretch: list[tuple[Batch, torch.Tensor]] = []
        started = time.perf_counter()
        for step, batch in enumerate(task.course.batches(rank, dist.get_world_size(), start=begun), start=begun):
            pulse.beat(f"step {step}")
            # Dropout follows from seed, step and rank: so there is no random state to save, and none to lose.
            torch.manual_seed(derive_seed(run.seed, "dropout", step, rank))
            stretch.append((batch, take_step(engine, batch, learning_rate(run, step), _share_of_loss)))
            done = step + 1
            save = done < run.num_steps and run.checkpoint_every > 0 and done % run.checkpoint_every == 0
            if not (save or done % REPORT_EVERY == 0 or done == run.num_steps):
                continue
            rows = _lines(task, stretch, first=done - len(stretch), seconds=time.perf_counter() - started)
            sinks.write(rows)
            if rank == 0:
                with metrics.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
            stretch.clear()
            yield rows[-1]
            if save:
                pulse.beat(f"writing the state after step {step}", PHASE)
                _save(engine, task, done, starts, metrics)
            started = time.perf_counter()


def _open_work(task: Task, found: State | None) -> Path:
    """The work folder with what is known before the first step; returns where the log lies in it."""
    metrics = work_folder(Path(task.run.out)) / METRICS
    if dist.get_rank() == 0:
        shutil.rmtree(metrics.parent, ignore_errors=True)
        metrics.parent.mkdir(parents=True)
        write_json(metrics.parent / COURSE, task.course.summary())
        if found:
            shutil.copyfile(Path(found.folder) / METRICS, metrics)
    return metrics


def _share_of_loss(engine: Any, batch: Batch) -> torch.Tensor:
    """What these rows add to the mean loss of the global batch, in nats per token."""
    logits = engine(**model_inputs(batch, engine.device)).logits
    return summed_loss(logits, batch) / batch.global_labels


def _lines(
    task: Task, stretch: list[tuple[Batch, torch.Tensor]], *, first: int, seconds: float
) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` of a stretch of steps, equal on every rank but for the speed.

    `loss` is in nats per token; `tokens` are those learned in the step, `total_tokens` those up to its end.
    """
    shares = torch.stack([share for _, share in stretch])
    dist.all_reduce(shares)
    rate = round(sum(batch.global_labels for batch, _ in stretch) / seconds)
    rows = []
    for step, (batch, _), loss in zip(range(first, first + len(stretch)), stretch, shares.tolist(), strict=True):
        row = {"step": step, "loss": loss, "learning_rate": learning_rate(task.run, step)}
        if not math.isfinite(loss):
            raise _diverged(task, row, batch)
        counts = {"tokens": batch.global_labels, "total_tokens": batch.tokens, "tokens_per_second": rate}
        rows.append(row | counts)
    return rows


def _save(engine: Any, task: Task, step: int, starts: tuple[Start, ...], metrics: Path) -> None:
    run = task.run
    state.save(engine, Path(run.out), step=step, key=task.known.state_key, starts=starts, metrics=metrics)
    if dist.get_rank() == 0:
        state.prune(Path(run.out), keep_last=run.keep_last, keep_every=run.keep_every)


def _clear(run: FinetuneRun) -> None:
    """A finished run needs no tokens of its own, and no states but those that are to stay for good."""
    if dist.get_rank() == 0:
        forget_tokens(run)
        state.prune(Path(run.out), keep_last=0, keep_every=run.keep_every)


def _diverged(task: Task, row: dict[str, Any], batch: Batch) -> InputError:
    loss, step, rate = row["loss"], row["step"], row["learning_rate"]
    return InputError(
        f"the loss or its gradient became {loss} at step {step} (learning rate {rate:.3g})",
        where=f"run {task.run.name}, the batch of {task.course.name_rows(batch.indices.tolist())}",
        hint="lower the learning rate, or clip the gradient",
    )
