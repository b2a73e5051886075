"""What a training will need, told and checked before it starts: `train --plan`, `--stage auto`, and every run's check.

Reads a model's `config.json` and tokenizer, and the texts that are longest. Writes nothing. Imports nothing heavy, for
the command line takes its flags from here.
"""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.memory import gpu_bytes, host_bytes, rank_bytes
from cluster.placement import Placement
from data.errors import InputError
from train.plan.largest_part import Part, largest_part, part_of_rows
from train.plan.shapes import Shape, read_shape
from train.plan.sizing import (
    GIB,
    STAGES,
    Setup,
    check_fit,
    gib,
    lowest_stage,
    plan,
    sent_bytes,
    smallest_stage,
    trained_parameters,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from train.run.finetune_run import FinetuneRun

AUTO = "auto"
PARTS = ("weights", "gradients", "optimizer", "buffers", "activations", "logits", "step", "base", "process")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where ranks run: how many, on GPUs or not, bytes for each (None: not known)."""

    ranks: int
    on_gpu: bool
    limit: int | None


def add_plan_flags(train: argparse.ArgumentParser) -> None:
    """The flags of `train` that plan instead of training."""
    train.add_argument("--stage", type=_stage, default=1, metavar="{0,1,2,3,auto}", help="ZeRO stage; auto: see --plan")
    train.add_argument("--no-memory-check", action="store_true", help="start even if the plan says that it cannot fit")
    train.add_argument("--trackers", default="", metavar="NAMES", help="beside the log: tensorboard, wandb, mlflow")
    planned = train.add_argument_group("planning", "what each ZeRO stage would need; nothing is trained or written")
    planned.add_argument("--plan", action="store_true", help="print memory a rank by part, and communication; then end")
    planned.add_argument("--ranks", type=int, help="plan for so many ranks (default: as many as this machine carries)")
    planned.add_argument("--gpu-gib", type=float, help="plan for GPUs of that memory (default: this machine's)")
    planned.add_argument("--row-tokens", type=int, help="plan for texts of that length (default: the texts')")


def first_stage(stage: int | str, offload: str) -> int:
    """The stage of a run until it is chosen, where that is "auto"."""
    return max(1, lowest_stage(offload)) if stage == AUTO else int(stage)


def print_plan(flags: argparse.Namespace, run: "FinetuneRun", console: "Console") -> None:
    """`train --plan`: memory a rank by part and stage, bytes sent, and the smallest stage that fits.

    Raises InputError if a stage was named and does not fit.
    """
    shape, machine = read_shape(Path(run.base)), _planned_machine(flags)
    ranks, row_tokens = machine.ranks, flags.row_tokens
    part = part_of_rows(run, ranks, row_tokens) if row_tokens else largest_part(run, ranks, shape)
    setup = dataclasses.replace(setup_of(run, machine, part), stage=lowest_stage(run.offload))
    kind = "GPU, bfloat16" if machine.on_gpu else "CPU, float32"
    adapters = f", adapters of {trained_parameters(shape, setup):,}" if setup.adapter_rank else ""
    console.print(
        f"model     {shape.family}, {shape.parameters:,} parameters{adapters}",
        f"ranks     {machine.ranks} ({kind}), {gib(machine.limit) if machine.limit else 'unknown memory'} each",
        f"batch     {_batch_words(setup)} a rank" + f" in each of {run.accumulation} parts" * (run.accumulation > 1),
        sep="\n",
        highlight=False,
    )
    console.print(_table(shape, setup, machine), highlight=False)
    if machine.limit is None:
        return
    if flags.stage != AUTO:
        wanted = dataclasses.replace(setup, stage=flags.stage)
        check_fit(shape, wanted, machine.limit, f"run {run.name}")
    smallest = smallest_stage(shape, setup, machine.limit)
    if smallest is None:
        check_fit(shape, dataclasses.replace(setup, stage=STAGES[-1]), machine.limit, f"run {run.name}")
    console.print(f"stage {smallest} is the smallest that fits", highlight=False)


def _batch_words(setup: Setup) -> str:
    if setup.packed:
        return f"{setup.rows * setup.row_tokens:,} tokens of packed texts"
    return f"{setup.rows} padded rows of {setup.row_tokens} tokens"


def fit_runs(
    runs: "Sequence[FinetuneRun]",
    placement: Placement,
    address: str | None,
    console: "Console",
    *,
    auto: bool,
    ranks: int = 0,
) -> "list[FinetuneRun]":
    """The runs with their stage: chosen if `auto`, else checked. Nothing has started yet.

    Each run is trained by `ranks` of the ranks (0: by all).

    Raises InputError if a run cannot fit. A model or a memory that is not known is told, and not checked.
    """
    machine = Machine(ranks or placement.ranks, placement.gpus_per_rank > 0, rank_bytes(placement, address))
    shapes: dict[str, Shape | None] = {base: _shape_or_word(base, console) for base in {run.base for run in runs}}
    if machine.limit is None:
        console.print("memory    of the GPUs is not known here: not checked", highlight=False)
    fitted = [_fit(run, shapes[run.base], machine, auto=auto) for run in runs]
    if auto:
        chosen = sorted({run.stage for run in fitted})
        console.print(f"stage     {', '.join(map(str, chosen))}: the smallest that fits", highlight=False)
    return fitted


def setup_of(run: "FinetuneRun", machine: Machine, part: Part) -> Setup:
    """How a run is trained on that machine, where that is the largest part of a batch."""
    return Setup(
        stage=run.stage,
        ranks=machine.ranks,
        rows=part.rows,
        row_tokens=part.row_tokens,
        on_gpu=machine.on_gpu,
        accumulation=run.accumulation,
        adapter_rank=run.lora.rank if run.lora else 0,
        checkpointing=run.activation_checkpointing,
        packed=part.packed,
        offload=run.offload,
    )


def _fit(run: "FinetuneRun", shape: Shape | None, machine: Machine, *, auto: bool) -> "FinetuneRun":
    if shape is None or machine.limit is None:
        return run
    setup = setup_of(run, machine, largest_part(run, machine.ranks, shape))
    stage = smallest_stage(shape, setup, machine.limit) if auto else run.stage
    # No stage fits: the check of the last one says by how much it fails.
    fitted = dataclasses.replace(run, stage=STAGES[-1] if stage is None else stage)
    check_fit(shape, dataclasses.replace(setup, stage=fitted.stage), machine.limit, f"run {run.name}")
    return fitted


def _shape_or_word(base: str, console: "Console") -> Shape | None:
    try:
        return read_shape(Path(base))
    except InputError as error:
        console.print(f"memory    not checked: {error.what}", highlight=False)
        return None


def _planned_machine(flags: argparse.Namespace) -> Machine:
    """What the flags say, else this machine."""
    memory = int(flags.gpu_gib * GIB) if flags.gpu_gib else gpu_bytes()
    if memory is not None:
        return Machine(flags.ranks or 1, on_gpu=True, limit=memory)
    ranks = flags.ranks or len(os.sched_getaffinity(0))
    return Machine(ranks, on_gpu=False, limit=host_bytes() // ranks)


def _table(shape: Shape, setup: Setup, machine: Machine) -> "Table":
    """A row for each part, a column for each stage."""
    from rich.table import Table

    stages = [stage for stage in STAGES if stage >= setup.stage]
    setups = [dataclasses.replace(setup, stage=stage) for stage in stages]
    plans = [plan(shape, changed) for changed in setups]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("a rank")
    for stage in stages:
        table.add_column(f"stage {stage}", justify="right")
    for part in PARTS:
        table.add_row(part, *(gib(found.parts()[part]) for found in plans))
    table.add_row("peak", *(gib(found.total) for found in plans), style="bold")
    if machine.limit is not None:
        table.add_row("fits", *("yes" if found.fits(machine.limit) else "no" for found in plans))
    if machine.on_gpu:
        table.add_row("host", *(gib(found.host) for found in plans))
    table.add_row("sent a step", *(gib(sent_bytes(shape, changed)) for changed in setups))
    return table


def _stage(word: str) -> int | str:
    if word == AUTO:
        return word
    if word not in {str(stage) for stage in STAGES}:
        raise argparse.ArgumentTypeError(f"{word} is none of 0, 1, 2, 3, auto")
    return int(word)
