"""Checks of finetuning on this machine, and its speed and memory. One process: it joins one process group.

A check raises AssertionError with what is wrong, or returns its figures. Differences are nats per token of a step's
loss; the model is that of `--model`, and every step learns all texts, so that their order does not matter.
"""

import dataclasses
import json
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM

from benchmarks.attempts import Figures, SkippedError, attempt_all
from benchmarks.corpora import make_model, words_of, write_texts
from benchmarks.finetunings import batch_of, loss_and_gradients, needs_too_much, plain_losses, token_rows, torchrun
from benchmarks.harness import largest_difference
from benchmarks.side import serve
from data.records import CheckpointRef, Document, ScoreItem
from data.seeds import stream
from data.store import read_shard, write_folder
from train.engine.checkpoint import RECORD, read_metrics, read_ref
from train.engine.zero_engine import dtype_of, join_group, start_engine
from train.model import objective, packed_attention
from train.model.objective import attach_loss
from train.plan import sizing
from train.plan.fit import Machine, setup_of
from train.plan.largest_part import largest_part
from train.plan.shapes import FP32, read_shape
from train.run.finetune_run import FinetuneRun, TextSource
from train.run.loop import REPORT_EVERY, OutOfMemoryError, finetune

Precision = Literal["float32", "bfloat16"]
STEPS, SAVED_EVERY, STOPPED_AT = 6, 2, 4
WORDS = (64, 9, 30, 17, 5, 41)  # of the texts, in turn
LIMITS = {"float32": 1e-4, "bfloat16": 5e-2}  # of losses that other kernels compute
RESUMED_LIMITS = LIMITS | {"float32": 1e-5}  # the same kernels; in 16 bits their order of sums may differ on a GPU
GRADIENT_LIMITS = {"float32": 1e-4, "bfloat16": 2e-2}  # of a gradient's norm
LEARNING_RATE = 2e-4  # at 1e-3 later steps amplify rounding: equal runs in bfloat16 differed by 0.08
LEAST_LEARNED = 0.2  # nats, in all steps; less, and a step that does nothing would not be noticed
LABELS_AT_ONCE = 64
NUM_RANKS = 2
MOST_TIMES_OFF = 2.0  # of a gradient in 16 bits: the distance from fp32, over that of padded calls
# Heads, heads of keys, channels of a head, window.
ATTENTIONS = ((8, 8, 64, None), (8, 2, 128, None), (8, 2, 64, 16))


class StoppedError(Exception):
    """A check ends a run from within, as a signal would."""


@dataclass(frozen=True)
class Subject:
    """Finetuning in one precision, what it learns, and the losses (nats per token) that it must reproduce."""

    run: FinetuneRun
    texts: list[str]
    plain: list[float]

    @property
    def device(self) -> torch.device:
        """Where the finetuning computes."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights that compute."""
        return dtype_of(self.run)

    def named(self, name: str, **settings: Any) -> FinetuneRun:
        """The run with other settings, in a folder of that name."""
        out = str(Path(self.run.out).with_name(name))
        return dataclasses.replace(self.run, name=name, out=out, **settings)

    def losses(self, name: str = "stage-1", **settings: Any) -> list[float]:
        """The losses of the run, at stage 1 and packed, or with other settings; what is finished is not repeated."""
        return _losses(finetune(self.named(name, **settings), lambda row: None))

    def model(self) -> Any:
        """The base model, where and as it is trained."""
        return AutoModelForCausalLM.from_pretrained(self.run.base, dtype=self.dtype).to(self.device).train()

    def compare(self, found: Sequence[float], wanted: Sequence[float], limit: float | None = None) -> Figures:
        """The largest difference of two lists of losses, which must be within `limit` (None: that of other kernels)."""
        limit = LIMITS[self.run.precision] if limit is None else limit
        difference = largest_difference(found, wanted)
        assert difference <= limit, f"losses {_show(found)} instead of {_show(wanted)}; the limit is {limit:g}"
        return {"max": difference, "limit": limit}


def check_stage(subject: Subject, *, stage: int) -> Figures:
    """The losses at a ZeRO stage are those of a plain loop with fp32 weights."""
    return subject.compare(subject.losses(f"stage-{stage}", stage=stage), subject.plain)


def check_packed(subject: Subject) -> Figures:
    """Packed and padded rows have the same losses."""
    return subject.compare(subject.losses(), subject.losses("padded", layout="padded"))


def check_recomputed(subject: Subject) -> Figures:
    """Activations that are recomputed have the losses of those that are kept."""
    return subject.compare(subject.losses("recomputed", activation_checkpointing=True), subject.losses())


def check_chunked(subject: Subject) -> Figures:
    """Logits in chunks have the loss and the gradient of all logits at once."""
    model, batch = subject.model(), batch_of(token_rows(subject.run.base, subject.texts), "padded")
    attach_loss(model, chunked=False)
    whole = loss_and_gradients(model, batch)
    attach_loss(model)
    size = LABELS_AT_ONCE * FP32 * model.config.get_text_config().vocab_size
    with mock.patch.object(objective, "LOGITS_AT_ONCE", size):
        chunked = loss_and_gradients(model, batch)
    loss = subject.compare([chunked[0] / batch.global_labels], [whole[0] / batch.global_labels])
    gradient, limit = relative(chunked[1], whole[1]), GRADIENT_LIMITS[subject.run.precision]
    assert gradient <= limit, f"the gradient is off by {gradient:.3g} of its norm; the limit is {limit:g}"
    return {**loss, "gradient": gradient}


def check_resume(subject: Subject) -> Figures:
    """A run that was stopped resumes from its state, with the losses of one that was not."""

    def stop(row: dict[str, Any]) -> None:
        if row["step"] + 1 >= STOPPED_AT:
            raise StoppedError

    run = subject.named("stopped", checkpoint_every=SAVED_EVERY)
    with suppress(StoppedError):
        finetune(run, stop)
    found = _losses(finetune(run, lambda row: None))
    starts = [start["step"] for start in json.loads((Path(run.out) / RECORD).read_text())["starts"]]
    assert starts == [0, SAVED_EVERY], f"it started at the steps {starts}"
    return subject.compare(found, subject.losses(), RESUMED_LIMITS[subject.run.precision])


def check_ranks(subject: Subject) -> Figures:
    """Two ranks have the losses of one at every stage."""
    if torch.cuda.device_count() < NUM_RANKS:
        raise SkippedError(f"{NUM_RANKS} GPUs are needed, {torch.cuda.device_count()} are here")
    return compare_ranks(subject)


def compare_ranks(subject: Subject) -> Figures:
    """Two ranks have the losses of one at stages 1 to 3."""
    runs = [subject.named(f"ranks-{stage}", stage=stage) for stage in (1, 2, 3)]
    torchrun(runs, Path(subject.run.out).with_name("torchrun"), num_ranks=NUM_RANKS)
    found = [loss for run in runs for loss in _losses(read_ref(Path(run.out)))]
    return subject.compare(found, subject.losses() * len(runs))


def check_settings(subject: Subject) -> Figures:
    """AdamW is fused and on the device of the weights; on a GPU communication overlaps with the backward pass."""
    join_group()
    model, on_gpu = subject.model(), subject.device.type == "cuda"
    attach_loss(model)
    engine = start_engine(subject.named("settings", stage=2), model)
    try:
        overlaps, optimizer = engine.optimizer.overlap_comm, engine.optimizer.optimizer
        devices = {parameter.device.type for group in optimizer.param_groups for parameter in group["params"]}
        assert overlaps == on_gpu, f"overlap_comm is {overlaps}"
        assert optimizer.defaults["fused"], "AdamW is not fused"
        assert devices == {subject.device.type}, f"the weights that are trained are on {devices}"
    finally:
        engine.destroy()
    return {}


def check_attention(subject: Subject) -> Figures:
    """One call of variable-length attention for all texts is as near to fp32 as 16 bits allow."""
    if subject.device.type != "cuda":
        raise SkippedError("variable-length attention needs CUDA")
    return compare_attentions(subject)


def compare_attentions(subject: Subject) -> Figures:
    """How far one call for all texts is from padded calls: outputs and gradients of attention, and those of the model.

    The first are held against fp32; of the model the gradient, against the distance that padded calls have from fp32.
    """
    batch = batch_of(token_rows(subject.run.base, subject.texts), "packed")
    assert batch.position_ids is not None
    slots = packed_attention.text_slots(batch.position_ids, subject.device)
    limit, figures = GRADIENT_LIMITS[subject.run.precision], {}
    for heads, key_heads, channels, window in ATTENTIONS:
        torch.manual_seed(0)
        shapes = [(1, count, batch.input_ids.size, channels) for count in (heads, key_heads, key_heads)]
        tokens = [torch.randn(shape, device=subject.device, dtype=subject.dtype) for shape in shapes]
        exact = attend([part.float() for part in tokens], slots, window)
        name = f"{heads}_heads_{key_heads}_of_keys_{channels}_channels" + f"_window_{window}" * bool(window)
        figures[name] = relative(attend(tokens, slots, window), exact)
        assert figures[name] <= limit, f"{name} is off fp32 by {figures[name]:.3g}; the limit is {limit:g}"
    model = subject.model()
    model.set_attn_implementation(packed_attention.NAME)
    attach_loss(model)
    in_one_call = loss_and_gradients(model, batch)
    with padded_calls():
        padded, exact = loss_and_gradients(model, batch), loss_and_gradients(model.float(), batch)[1]
    times_off = relative(in_one_call[1], exact) / relative(padded[1], exact)
    assert times_off <= MOST_TIMES_OFF, f"the gradient is {times_off:.3g} times as far from fp32 as by padded calls"
    loss = subject.compare([in_one_call[0] / batch.global_labels], [padded[0] / batch.global_labels])
    return {**loss, **figures, "gradient_over_padded": times_off}


def attend(tokens: Sequence[torch.Tensor], slots: packed_attention.TextSlots, window: int | None) -> torch.Tensor:
    """The output of packed attention and the gradients of queries, keys and values, in one fp32 tensor [numbers]."""
    given = [part.detach().requires_grad_() for part in tokens]
    query, key, value = given
    module: Any = torch.nn.Module()
    module.num_key_value_groups = query.shape[1] // key.shape[1]
    output, _ = packed_attention.packed_attention(module, query, key, value, None, slots=slots, sliding_window=window)
    output.float().square().sum().backward()
    return torch.cat([part.flatten().float() for part in (output.detach(), *(part.grad for part in given))])


def check_out_of_memory(subject: Subject) -> Figures:
    """Memory that runs out is one message that says what to do, and the process can train on."""
    try:
        finetune(needs_too_much(subject.run, subject.texts[0].split()[0], Path(subject.run.out).parent / "much"), print)
    except OutOfMemoryError as error:
        assert "ran out of memory" in error.what and "train.accumulation" in error.hint, str(error)
    else:
        raise AssertionError("a run that needs hundreds of gigabytes was trained")
    return subject.compare(subject.losses("afterwards"), subject.losses())


CHECKS: dict[str, Callable[[Subject], Figures]] = {
    **{f"stage_{stage}": partial(check_stage, stage=stage) for stage in range(4)},
    "packed": check_packed,
    "recomputed": check_recomputed,
    "chunked": check_chunked,
    "resume": check_resume,
    "settings": check_settings,
    "attention": check_attention,
    "ranks": check_ranks,
    "out_of_memory": check_out_of_memory,
}


class TrainChecksSide:
    """A process in which finetuning is checked, or timed."""

    def check(
        self, settings: dict[str, Any], checks: list[str], model: str, items: str, folder: str
    ) -> dict[str, list[dict[str, Any]]]:
        """The results of `start` and of each check, with the precision in `settings`. Runs go to `folder`."""
        (first, *_) = read_shard(Path(items), ScoreItem)
        texts = make_texts(first.context)

        def start() -> tuple[Subject, Figures]:
            subject = start_subject(settings["precision"], texts, model, Path(folder))
            return subject, {"learned": subject.plain[0] - subject.plain[-1]}

        return {"checks": attempt_all(checks, start, CHECKS)}

    def measure(self, model: str, folder: str, sizes: dict[str, int], rows: int, row_tokens: int, rounds: int) -> Any:
        """Tokens learned per second in each round, and the peak of the memory with what was planned, in bytes.

        One finetuning on rows of `row_tokens`, `rows` in a step. Its log has the speed of every `REPORT_EVERY` steps,
        of which the first are the warm-up. The model is made if it is not there. Empties the folder.
        """
        shutil.rmtree(folder, ignore_errors=True)
        if not (Path(model) / "config.json").exists():
            make_model(Path(model), "bfloat16", **sizes)
        words, rng, num_steps = words_of(Path(model)), stream(0, "benchmarks", "mfu"), (1 + rounds) * REPORT_EVERY
        # The end token is one more.
        texts = [" ".join(rng.choices(words, k=row_tokens - 1)) for _ in range(rows * num_steps)]
        write_texts(texts, Path(folder) / "texts")
        sources = (TextSource(str(Path(folder) / "texts" / "documents")),)
        out = str(Path(folder) / "out")
        run = FinetuneRun("mfu", model, sources, out, num_steps, batch_size=rows, learning_rate=1e-5, stage=1)
        lines = read_metrics(Path(finetune(run, lambda row: None).path))
        measured, shape = peak_bytes(), read_shape(Path(model))
        setup = setup_of(run, Machine(1, torch.cuda.is_available(), None), largest_part(run, 1, shape))
        return {
            "tokens_per_second": [line["tokens_per_second"] for line in lines[REPORT_EVERY::REPORT_EVERY]],
            "measured_bytes": measured,
            "planned_bytes": sizing.plan(shape, setup).total,
        }


def start_subject(precision: Precision, texts: Sequence[str], model: str, folder: Path) -> Subject:
    """What is trained, and the losses of a plain loop in the same precision, which must fall. Empties the folder."""
    shutil.rmtree(folder, ignore_errors=True)  # a run that is finished would not be repeated
    write_folder(folder / "documents", Document, [Document(f"d{at}", text, "w") for at, text in enumerate(texts)])
    run = FinetuneRun(
        name="run",
        base=model,
        sources=(TextSource(str(folder / "documents")),),
        out=str(folder / "run"),
        num_steps=STEPS,
        batch_size=len(texts),
        learning_rate=LEARNING_RATE,
        warmup_steps=2,
        weight_decay=0.1,
        precision=precision,
        layout="packed",
    )
    plain = plain_losses(run, texts, dtype_of(run))
    learned = plain[0] - plain[-1]
    assert learned >= LEAST_LEARNED, f"the plain loop has the losses {_show(plain)}: that is no test"
    return Subject(run, list(texts), plain)


def make_texts(context: str) -> list[str]:
    """The words of a context in texts of the lengths `WORDS`; an incomplete one is left out."""
    words, start = context.split(), 0
    texts: list[str] = []
    for length in cycle(WORDS):
        if start + length > len(words):
            return texts
        texts.append(" ".join(words[start : start + length]))
        start += length
    raise AssertionError("a context has an end")


def peak_bytes() -> int:
    """The most memory that this process has used so far: the GPU's, with what libraries take, or else the host's.

    On a GPU it includes what other processes use at this moment.
    """
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return torch.cuda.max_memory_allocated() + total - free - torch.cuda.memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The norm of a difference as a share of the norm of what is wanted."""
    return float((found - wanted).norm() / wanted.norm())


@contextmanager
def padded_calls() -> Iterator[None]:
    """Packed attention by padded calls, also on a GPU: without FlashAttention there is no call for all texts."""
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield


def _losses(ref: CheckpointRef) -> list[float]:
    return [row["loss"] for row in read_metrics(Path(ref.path))]


def _show(losses: Sequence[float]) -> str:
    return ", ".join(f"{loss:.5f}" for loss in losses)


if __name__ == "__main__":
    serve(TrainChecksSide())
