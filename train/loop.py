"""The finetuning loop around a DeepSpeed engine: under Ray Train, under torchrun, or alone in one process.

Reads: a base model folder, Arrow folders of texts. Writes: a checkpoint folder with `metrics.jsonl` beside the
weights. The loss of a step is the mean over all label tokens of its global batch, however many ranks share it.
"""

import copy
import gc
import json
import logging
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from data.errors import InputError
from data.records import CheckpointRef
from data.weights import weights_fingerprint
from train.batches import IGNORED, Batch, encode, rank_batches
from train.checkpoint import METRICS, export, find_finished, work_folder
from train.metrics import check_trackers, open_sinks
from train.runs import FinetuneRun, TextSource, read_texts, run_key
from train.zero import zero_config

__all__ = ["FinetuneRun", "TextSource", "finetune", "learning_rate"]

REPORT_EVERY = 20  # steps; the ranks add up their losses only then
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Base:
    """The model that all runs of a study start from, loaded once per process."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str


@dataclass(frozen=True)
class _Task:
    """A run that is ready to start, or the checkpoint that an earlier start left."""

    base: _Base
    texts: list[str]
    rows: list[list[int]]
    key: str
    finished: CheckpointRef | None


def finetune(run: FinetuneRun, report: Callable[[dict[str, Any]], None]) -> CheckpointRef:
    """Train one run to its end and export it; a run that is finished already is only looked up.

    Every rank calls it. `report` is called on rank 0 every few steps with `step`, `loss` (nats per token),
    `learning_rate` and `tokens_per_second`. Raises InputError on every rank if any rank finds the input wrong.
    """
    _join_group()
    task = _agree(lambda: _prepare(run))
    if task.finished is not None:
        return task.finished
    torch.manual_seed(run.seed)
    engine = _start_engine(run, copy.deepcopy(task.base.model))
    try:
        for row in _train(engine, run, task):
            if dist.get_rank() == 0:
                report(row)
        return export(
            engine, name=run.name, base=Path(run.base), out=Path(run.out), num_steps=run.num_steps, key=task.key
        )
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


def _join_group() -> None:
    """Join the process group of Ray Train or torchrun, or make one of a single process; once per process."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        dist.init_process_group(backend, **alone)
    if not deepspeed.comm.is_initialized():
        # An empty list of C++ operators: nothing in training uses them, and building one takes a minute.
        deepspeed.ops.__compatible_ops__ = {}
        deepspeed.init_distributed(dist_backend=backend, verbose=False)


def _agree(prepare: Callable[[], Result]) -> Result:
    """Prepare on every rank; if one refuses its input all do, so that none waits for a rank that gave up."""
    prepared: list[Result] = []
    refusals: list[tuple[str, str, str] | None] = [None] * dist.get_world_size()
    try:
        prepared.append(prepare())
        dist.all_gather_object(refusals, None)
    except InputError as error:
        dist.all_gather_object(refusals, (error.what, error.where, error.mend))
    for refusal in refusals:
        if refusal is not None:
            what, where, mend = refusal
            raise InputError(what, where=where, mend=mend)
    return prepared[0]


def _prepare(run: FinetuneRun) -> _Task:
    check_trackers(run.trackers)
    base, texts = _load_base(run.base), read_texts(run.sources)
    key = run_key(run, base.fingerprint, texts)
    finished = find_finished(Path(run.out), key)
    if run.batch_size < dist.get_world_size():
        raise InputError(
            f"a batch of {run.batch_size} texts cannot be shared by {dist.get_world_size()} workers",
            where=f"run {run.name}",
            mend="raise batch_size, or use fewer workers",
        )
    window = getattr(base.model.config, "max_position_embeddings", 1 << 30)
    rows = encode(texts, base.tokenizer, window=window, where=f"the texts of run {run.name}") if not finished else []
    return _Task(base, texts, rows, key, finished)


@lru_cache(maxsize=1)
def _load_base(folder: str) -> _Base:
    fingerprint = weights_fingerprint(Path(folder))
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return _Base(model, AutoTokenizer.from_pretrained(folder), fingerprint)


def _start_engine(run: FinetuneRun, model: PreTrainedModel) -> Any:
    import deepspeed

    on_gpu = torch.cuda.is_available()
    rows_per_rank = -(-run.batch_size // dist.get_world_size())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=run.learning_rate, weight_decay=run.weight_decay, fused=not on_gpu or None
    )
    config = zero_config(run.stage, rows_per_rank, run.clip, bf16=on_gpu)
    engine, *_ = deepspeed.initialize(model=model.train(), optimizer=optimizer, config=config, dist_init_required=False)
    return engine


def _train(engine: Any, run: FinetuneRun, task: _Task) -> Iterator[dict[str, Any]]:
    """Take all steps; yields the last line of each stretch of `metrics.jsonl`."""
    work = work_folder(Path(run.out))
    if dist.get_rank() == 0:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    sinks = open_sinks(run, engine.module.config.to_dict(), work)
    stretch: list[tuple[Batch, torch.Tensor]] = []
    started = time.perf_counter()
    ranks = {"rank": dist.get_rank(), "world_size": dist.get_world_size()}
    batches = rank_batches(task.rows, batch_size=run.batch_size, num_steps=run.num_steps, seed=run.seed, **ranks)
    for step, batch in enumerate(batches):
        stretch.append((batch, _take_step(engine, batch, learning_rate(run, step))))
        if len(stretch) < REPORT_EVERY and step + 1 < run.num_steps:
            continue
        losses = _add_up(stretch)
        seconds, started = time.perf_counter() - started, time.perf_counter()
        rate = sum(b.global_labels for b, _ in stretch) / seconds
        first = step + 1 - len(stretch)
        rows = [
            {"step": s, "loss": loss, "learning_rate": learning_rate(run, s), "tokens_per_second": round(rate)}
            for s, loss in enumerate(losses, start=first)
        ]
        for row, (failed, _) in zip(rows, stretch, strict=True):
            if not math.isfinite(row["loss"]):
                raise _diverged(run, row, [task.texts[i] for i in failed.indices])
        sinks.write(rows)
        if dist.get_rank() == 0:
            with (work / METRICS).open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        stretch.clear()
        yield rows[-1]
    sinks.close()


def _take_step(engine: Any, batch: Batch, rate: float) -> torch.Tensor:
    """One optimizer step; returns this rank's share of the global mean loss, still on its device.

    The share is not a number if the gradient was not finite: the engine then leaves the weights alone, silently.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    input_ids = torch.from_numpy(batch.input_ids).to(engine.device)
    labels = torch.from_numpy(batch.labels).to(engine.device)
    logits = engine(input_ids=input_ids, use_cache=False).logits
    total = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    share = total / batch.global_labels
    # The engine averages gradients over the ranks; the shares are meant to be summed.
    engine.backward(share * dist.get_world_size())
    engine.step()
    return share.detach() if engine.skipped_steps == 0 else torch.full_like(share, math.nan)


def _add_up(stretch: list[tuple[Batch, torch.Tensor]]) -> list[float]:
    """The global mean losses of a stretch of steps, in nats per token, equal on every rank."""
    shares = torch.stack([share for _, share in stretch])
    dist.all_reduce(shares)
    return shares.tolist()


def _diverged(run: FinetuneRun, row: dict[str, Any], texts: list[str]) -> InputError:
    openings = "; ".join(" ".join(text.split()[:5]) for text in texts[:3])
    loss, step, rate = row["loss"], row["step"], row["learning_rate"]
    return InputError(
        f"the loss or its gradient became {loss} at step {step} (learning rate {rate:.3g})",
        where=f"run {run.name}, the batch that begins: {openings}",
        mend="lower the learning rate, or clip the gradient",
    )
