"""The finetuning loop around a DeepSpeed engine: under Ray Train, under torchrun, or alone in one process.

Reads: a base model folder, Arrow folders of texts, the training state that an earlier start left. Writes: training
states, and a checkpoint folder with `metrics.jsonl` beside the weights. The loss of a step is the mean over all label
tokens of its global batch, however many ranks share it.
"""

import copy
import gc
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from data.errors import InputError
from data.records import CheckpointRef
from data.seeds import derive_seed
from data.weights import weights_fingerprint
from train import lora, state
from train.batches import IGNORED, Batch, encode, rank_batches
from train.checkpoint import METRICS, find_finished, work_folder
from train.engine import agree, join_group, precision, restore, start_engine, take_step
from train.export import Made, export
from train.pulse import Pulse
from train.runs import FinetuneRun, TextSource, exact_settings, read_texts, run_key
from train.state import Start, State

__all__ = ["FinetuneRun", "TextSource", "finetune", "learning_rate"]

REPORT_EVERY = 20  # steps; the ranks add up their losses only then
_NO_PULSE = Pulse(Path(), 0, None)


@dataclass(frozen=True)
class _Base:
    """The model that all runs of a study start from, loaded once per process."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str


@dataclass(frozen=True)
class _Task:
    """A run that is ready to start, or the checkpoint that an earlier start left."""

    run: FinetuneRun
    base: _Base
    texts: list[str]
    rows: list[list[int]]
    key: str
    state_key: str
    finished: CheckpointRef | None


def finetune(run: FinetuneRun, report: Callable[[dict[str, Any]], None], pulse: Pulse = _NO_PULSE) -> CheckpointRef:
    """Train one run to its end and export it; a run that is finished already is only looked up.

    Every rank calls it. It goes on from the last training state, if there is one. `report` is called on rank 0 every
    few steps with `step`, `loss` (nats per token), `learning_rate` and `tokens_per_second`; `pulse` beats with every
    step. Raises InputError on every rank if any rank finds the input wrong, ResumableError if one cannot write.
    """
    join_group()
    task = agree(lambda: _prepare(run))
    if task.finished is not None:
        _drop_states(run)
        return task.finished
    found = _find_state(task)
    engine = _start(task, found)
    try:
        starts = (*(found.starts if found else ()), _this_start(run, found))
        for row in _train(engine, task, found, starts, pulse):
            if dist.get_rank() == 0:
                report(row)
        pulse.rest()
        made = Made(run, task.key, task.base.model, starts, len(task.texts))
        ref = export(engine, made)
        _drop_states(run)
        return ref
    finally:
        pulse.rest()
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


def _prepare(run: FinetuneRun) -> _Task:
    base, texts = _load_base(run.base), read_texts(run.sources)
    key, state_key = (run_key(which, base.fingerprint, texts) for which in (run, exact_settings(run)))
    finished = find_finished(Path(run.out), key)
    shares = dist.get_world_size() * run.accumulation
    if run.batch_size < shares:
        by = f"{dist.get_world_size()} workers" + f" in {run.accumulation} parts each" * (run.accumulation > 1)
        raise InputError(
            f"a batch of {run.batch_size} texts cannot be shared by {by}",
            where=f"run {run.name}",
            mend="raise batch_size, or use fewer workers or parts",
        )
    window = getattr(base.model.config, "max_position_embeddings", 1 << 30)
    rows = encode(texts, base.tokenizer, window=window, where=f"the texts of run {run.name}") if not finished else []
    return _Task(run, base, texts, rows, key, state_key, finished)


@lru_cache(maxsize=1)
def _load_base(folder: str) -> _Base:
    fingerprint = weights_fingerprint(Path(folder))
    dtype = torch.bfloat16 if precision() == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return _Base(model, AutoTokenizer.from_pretrained(folder), fingerprint)


def _find_state(task: _Task) -> State | None:
    """The state to go on from, the same one on every rank."""
    out = Path(task.run.out)
    found: list[State | None] = [None]
    if not task.run.resume and dist.get_rank() == 0:
        shutil.rmtree(state.states_folder(out), ignore_errors=True)
    if task.run.resume:
        found = [agree(lambda: state.find_state(out, task.state_key) if dist.get_rank() == 0 else None)]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def _start(task: _Task, found: State | None) -> Any:
    """An engine at the run's beginning, or where a state was."""
    torch.manual_seed(task.run.seed)
    model = copy.deepcopy(task.base.model)
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


def _this_start(run: FinetuneRun, found: State | None) -> Start:
    return Start(found.step if found else 0, dist.get_world_size(), run.stage, precision())


def _train(
    engine: Any, task: _Task, found: State | None, starts: tuple[Start, ...], pulse: Pulse
) -> Iterator[dict[str, Any]]:
    """Take all steps that are left; yields the last line of each stretch of `metrics.jsonl`."""
    run, begun = task.run, found.step if found else 0
    metrics, rank = work_folder(Path(run.out)) / METRICS, dist.get_rank()
    if rank == 0:
        shutil.rmtree(metrics.parent, ignore_errors=True)
        metrics.parent.mkdir(parents=True)
        if found:
            shutil.copyfile(Path(found.folder) / METRICS, metrics)
    stretch: list[tuple[Batch, torch.Tensor]] = []
    started = time.perf_counter()
    ranks = {"rank": rank, "world_size": dist.get_world_size()}
    batches = rank_batches(task.rows, batch_size=run.batch_size, num_steps=run.num_steps, seed=run.seed, **ranks)
    for step, batch in enumerate(islice(batches, begun, None), start=begun):
        pulse.beat(step)
        # Dropout follows from seed, step and rank: so there is no random state to save, and none to lose.
        torch.manual_seed(derive_seed(run.seed, "dropout", step, rank))
        stretch.append((batch, take_step(engine, batch, learning_rate(run, step), _share_of_loss)))
        done = step + 1
        save = done < run.num_steps and run.checkpoint_every > 0 and done % run.checkpoint_every == 0
        if not (save or done % REPORT_EVERY == 0 or done == run.num_steps):
            continue
        rows = _lines(task, stretch, first=done - len(stretch), seconds=time.perf_counter() - started)
        if rank == 0:
            with metrics.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        stretch.clear()
        yield rows[-1]
        if save:
            pulse.beat(done)
            _save(engine, task, done, starts, metrics)
        started = time.perf_counter()


def _share_of_loss(engine: Any, batch: Batch) -> torch.Tensor:
    """What these rows add to the mean loss of the global batch, in nats per token."""
    input_ids = torch.from_numpy(batch.input_ids).to(engine.device)
    labels = torch.from_numpy(batch.labels).to(engine.device)
    logits = engine(input_ids=input_ids, use_cache=False).logits
    total = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / batch.global_labels


def _lines(
    task: _Task, stretch: list[tuple[Batch, torch.Tensor]], *, first: int, seconds: float
) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` of a stretch of steps, equal on every rank but for the speed."""
    shares = torch.stack([share for _, share in stretch])
    dist.all_reduce(shares)
    rate = round(sum(batch.global_labels for batch, _ in stretch) / seconds)
    rows = []
    for step, (batch, _), loss in zip(range(first, first + len(stretch)), stretch, shares.tolist(), strict=True):
        row = {"step": step, "loss": loss, "learning_rate": learning_rate(task.run, step)}
        rows.append(row | {"tokens": batch.global_labels, "tokens_per_second": rate})
        if not math.isfinite(loss):
            raise _diverged(task.run, row, [task.texts[i] for i in batch.indices])
    return rows


def _save(engine: Any, task: _Task, step: int, starts: tuple[Start, ...], metrics: Path) -> None:
    run = task.run
    state.save(engine, Path(run.out), step=step, key=task.state_key, starts=starts, metrics=metrics)
    if dist.get_rank() == 0:
        state.prune(Path(run.out), keep_last=run.keep_last, keep_every=run.keep_every)


def _drop_states(run: FinetuneRun) -> None:
    """A finished run needs no states but those that are to stay for good."""
    if dist.get_rank() == 0:
        state.prune(Path(run.out), keep_last=0, keep_every=run.keep_every)


def _diverged(run: FinetuneRun, row: dict[str, Any], texts: list[str]) -> InputError:
    openings = "; ".join(" ".join(text.split()[:5]) for text in texts[:3])
    loss, step, rate = row["loss"], row["step"], row["learning_rate"]
    return InputError(
        f"the loss or its gradient became {loss} at step {step} (learning rate {rate:.3g})",
        where=f"run {run.name}, the batch that begins: {openings}",
        mend="lower the learning rate, or clip the gradient",
    )
