"""The memory of a finetuning by part, and its communication, for each ZeRO stage, before anything is loaded. Pure.

Memory is that of DeepSpeed as set up in `train.engine.zero_config`: bfloat16 with float32 master weights on a GPU,
float32 on a CPU. Communication is that of the ZeRO paper (Rajbhandari et al. 2020, section 7): in a step every rank
sends as many numbers as there are trained parameters, times 2 at stages 0 to 2 and times 3 at stage 3.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from data.errors import InputError
from train.engine.zero_config import STAGES, stage_of
from train.plan.shapes import BF16, FP32, LOGITS_AT_ONCE, Shape

GIB = 2**30
LOWEST = {"none": 0, "cpu": 1, "nvme": 3}  # stage that supports an offload
# DeepSpeed's defaults, in numbers: what is sent at a time, and what stage 3 keeps gathered.
BUCKET, GATHERED, PREFETCHED = 500_000_000, 1_000_000_000, 50_000_000
PROCESS_BYTES = GIB  # libraries, the CUDA context, the buffers of the communication library
CPU_PROCESS_BYTES = 5 * GIB // 8  # of a process without a GPU: libraries
USABLE = 0.95  # of the memory: the allocator loses some to fragmentation
MOMENTS = 2 * FP32  # AdamW's
WRITTEN = 4 * GIB  # of a checkpoint at a time


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings of a training that decide its memory. Producer: `train.plan.fit`. Consumer: `plan`.

    One rank computes `rows` rows of `row_tokens` tokens at a time, `accumulation` times a step. `adapter_rank` 0 trains
    all weights, else low-rank adapters of that rank. `packed`: each row is a text, and all are end to end. `offload`
    keeps the optimizer's state, and at stage 3 the weights too, in the host's memory ("cpu") or on its disk ("nvme").
    On a CPU the host's memory is the ranks' own. `bf16` is the precision of the weights (None: on a GPU, yes).
    """

    stage: int
    ranks: int
    rows: int
    row_tokens: int
    on_gpu: bool
    accumulation: int = 1
    adapter_rank: int = 0
    checkpointing: bool = False
    packed: bool = True
    offload: str = "none"
    bf16: bool | None = None

    @property
    def size(self) -> int:
        """Bytes of a number of the model."""
        return BF16 if (self.on_gpu if self.bf16 is None else self.bf16) else FP32

    def share(self, numbers: int, *, divided_from: int) -> int:
        """One rank's part of these numbers; all of them below the stage that divides them."""
        divided = stage_of(self.stage, bf16=self.size == BF16) >= divided_from
        return -(-numbers // self.ranks) if divided else numbers


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one rank by part. Producer: `plan`. Consumers: the command line, `smallest_stage`.

    `buffers` are DeepSpeed's for communication, `step` is what the optimizer needs besides its state while it steps,
    when activations and logits are freed. `host` is the memory of the node for a rank on a GPU; it is not part of
    `total`.
    """

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    activations: int
    logits: int
    step: int
    process: int
    host: int

    @property
    def total(self) -> int:
        """The peak, in bytes."""
        resident = self.weights + self.gradients + self.optimizer + self.buffers + self.process
        return resident + max(self.activations + self.logits, self.step)

    @property
    def parts(self) -> dict[str, int]:
        """The parts of `total` by name."""
        return {name: value for name, value in asdict(self).items() if name != "host"}

    def fits(self, limits: "Limits") -> bool:
        """Whether this fits, less a margin."""
        return self.total <= USABLE * limits.device and (limits.host is None or self.host <= USABLE * limits.host)


class Limits(NamedTuple):
    """Bytes that a rank may take of its device, and of its node's memory if the device is a GPU (None: not checked)."""

    device: int
    host: int | None = None


def plan(shape: Shape, setup: Setup) -> Memory:
    """Bytes on one rank, by part. Raises InputError where rows are longer than the model's window."""
    if setup.row_tokens > shape.window:
        raise InputError(
            f"rows of {setup.row_tokens} tokens do not fit the model's window of {shape.window}",
            where="--row-tokens",
            hint=f"use at most {shape.window}",
        )
    size, away = setup.size, setup.offload == "nvme" or (setup.on_gpu and setup.offload == "cpu")
    model, trained = shape.parameters, trained_parameters(shape, setup)
    frozen = model if setup.adapter_rank else 0
    weights = size * setup.share(frozen + trained, divided_from=3)
    # AdamW's moments, and master weights, which plain data parallelism in float32 does not need
    masters = FP32 if size == BF16 or setup.stage else 0
    optimizer = (MOMENTS + masters) * setup.share(trained, divided_from=1)
    tokens = setup.rows * setup.row_tokens
    weights_away = away and setup.stage == 3
    offloaded = (optimizer + weights * weights_away) * (away and setup.offload == "cpu")
    return Memory(
        weights=0 if weights_away else weights,
        gradients=_gradients(setup, trained),
        optimizer=0 if away else optimizer,
        buffers=_buffers(setup, model, trained),
        activations=_activations(shape, setup) * tokens,
        logits=shape.logit_bytes(size) * min(tokens, max(1, LOGITS_AT_ONCE // (FP32 * shape.vocabulary))),
        step=0 if away else _step(setup, trained),
        process=PROCESS_BYTES if setup.on_gpu else CPU_PROCESS_BYTES,
        # Weights are read onto the GPU, and written from there a file at a time.
        host=(offloaded + WRITTEN + PROCESS_BYTES) if setup.on_gpu else 0,
    )


def trained_parameters(shape: Shape, setup: Setup) -> int:
    """The number of parameters with gradients."""
    return shape.adapter_parameters(setup.adapter_rank) if setup.adapter_rank else shape.parameters


def sent_bytes(shape: Shape, setup: Setup) -> int:
    """Bytes that one rank sends in a step, over a ring.

    Stages 0 and 1 reduce gradients once a step, stages 2 and 3 after every backward pass; gradients are in float32.
    Stages 1 and 2 gather the trained weights once, stage 3 all weights, also frozen ones, twice in every pass. Stage 0
    sums gradients on all ranks, which is two numbers for each, and so does stage 1 in bfloat16.
    """
    trained, passes = trained_parameters(shape, setup), setup.accumulation
    bf16, stage = setup.size == BF16, stage_of(setup.stage, bf16=setup.size == BF16)
    gradients = trained * {0: 2, 1: 1 + bf16, 2: passes, 3: passes}[stage]
    weights = trained * (stage > 0)
    if stage == 3:
        weights = 2 * passes * (shape.parameters + (trained if setup.adapter_rank else 0))
    return (FP32 * gradients + setup.size * weights) * (setup.ranks - 1) // setup.ranks


def smallest_stage(shape: Shape, setup: Setup, limits: Limits) -> int | None:
    """The lowest stage at which a rank of the setup fits; None if none does."""
    stages = STAGES[lowest_stage(setup) :]
    return next((stage for stage in stages if plan(shape, replace(setup, stage=stage)).fits(limits)), None)


def lowest_stage(setup: Setup) -> int:
    """The lowest stage that supports the setup's precision and offload."""
    return stage_of(LOWEST[setup.offload], bf16=setup.size == BF16)


def check_fit(shape: Shape, setup: Setup, limits: Limits, where: str) -> Memory:
    """The plan, if it fits. Raises InputError with the numbers, and with settings that would fit, if there are any."""
    found = plan(shape, setup)
    if found.fits(limits):
        return found
    if limits.host is not None and found.host > USABLE * limits.host:
        raise InputError(
            f"stage {setup.stage} on {setup.ranks} ranks needs {gib(found.host)} of its node's memory a rank; "
            f"{USABLE:.0%} of {gib(limits.host)} are available",
            where=where,
            hint="use more nodes, or offload less" if setup.offload == "cpu" else "use fewer ranks on a node",
        )
    largest = sorted(((value, name) for name, value in found.parts.items()), reverse=True)[:3]
    parts = ", ".join(f"{name} {gib(value)}" for value, name in largest)
    raise InputError(
        f"stage {setup.stage} on {setup.ranks} ranks needs {gib(found.total)} a rank ({parts}); "
        f"{USABLE:.0%} of {gib(limits.device)} are available",
        where=where,
        hint=_what_fits(shape, setup, limits),
    )


def gib(value: float) -> str:
    """Bytes as text."""
    if value < GIB / 10:
        return f"{value / 2**20:.1f} MiB" if value else "0"
    return f"{value / GIB:.2f} GiB" if value < 10 * GIB else f"{value / GIB:.0f} GiB"


def _what_fits(shape: Shape, setup: Setup, limits: Limits) -> str:
    """The smallest change that makes it fit, as a hint."""
    changes: Sequence[tuple[str, Setup]] = (
        ("", setup),
        ("recompute activations and ", replace(setup, checkpointing=True)),
        ("compute one row at a time and ", replace(setup, checkpointing=True, rows=1)),
        ("train adapters of rank 16 and ", replace(setup, checkpointing=True, rows=1, adapter_rank=16)),
    )
    for words, changed in changes:
        stage = smallest_stage(shape, changed, limits)
        if stage is not None:
            return f"{words}use stage {stage}"
    return "use more ranks, shorter rows, offload, or a smaller model"


def _buffers(setup: Setup, model: int, trained: int) -> int:
    """Buckets are allocated as a whole; on a CPU, only memory that is written to counts."""
    bucket = BUCKET if setup.on_gpu else min(BUCKET, trained)
    if setup.stage == 0:
        return setup.size * min(bucket, trained) * (setup.ranks > 1)
    if setup.stage < 3:
        return setup.size * bucket
    return setup.size * (bucket + min(model, GATHERED + PREFETCHED))


def _gradients(setup: Setup, trained: int) -> int:
    """Gradients in float32; below stage 2 in bfloat16, too, as the backward pass leaves them."""
    also = BF16 * trained * (setup.size == BF16 and setup.stage < 2)
    return FP32 * setup.share(trained, divided_from=2) + also


def _step(setup: Setup, trained: int) -> int:
    """Gradients once more, in the layout of the master weights."""
    mine = setup.share(trained, divided_from=1)
    if setup.size == BF16:  # they are in this layout already; the optimizer is fused
        return 0
    return FP32 * mine * (setup.stage in (1, 2))


def _activations(shape: Shape, setup: Setup) -> int:
    """Bytes a token."""
    layer = shape.layer_bytes(setup.row_tokens, setup.size, packed=setup.packed, on_gpu=setup.on_gpu)
    if setup.checkpointing:  # the input of every layer, and all of the layer that is being recomputed
        return shape.layers * setup.size * shape.width + layer + shape.outer_bytes(setup.size)
    return shape.layers * layer + shape.outer_bytes(setup.size)
