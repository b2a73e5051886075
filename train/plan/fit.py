"""Whether runs fit into memory, and the smallest ZeRO stage that does: checked before anything starts, and printed.

Reads a model's `config.json` and tokenizer, and the longest of the texts. Writes nothing.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from cluster.memory import gpu_bytes, host_bytes, host_rank_bytes, rank_bytes
from cluster.placement import Placement
from data.errors import InputError
from train.engine.zero_config import STAGES
from train.plan import sizing
from train.plan.largest_part import Part, largest_part, part_of_rows
from train.plan.shapes import BF16, Shape, read_shape
from train.plan.sizing import Limits
from train.run.finetune_run import FinetuneRun

Stage = int | Literal["auto"]


@dataclass(frozen=True, slots=True)
class Machine:
    """The ranks of a run: how many, on GPUs or not, bytes for each (None: unknown)."""

    ranks: int
    on_gpu: bool
    limits: Limits | None


def machine_of(placement: Placement, address: str | None, ranks: int = 0) -> Machine:
    """The machine of a run on `ranks` ranks of a session (0: all). `address` is that of an attached cluster."""
    on_gpu, ranks = placement.gpus_per_rank > 0, ranks or placement.ranks
    device, host = rank_bytes(placement, address), host_rank_bytes(placement, address) if on_gpu else None
    return Machine(ranks, on_gpu, None if device is None else Limits(device, host))


def planned_machine(ranks: int | None = None, gpu_gib: float | None = None, *, whole_node: bool = False) -> Machine:
    """A machine to plan for; by default one rank for this machine's GPU or one for each of its CPUs.

    With `whole_node`, one rank has all CPUs.
    """
    memory = int(gpu_gib * sizing.GIB) if gpu_gib else gpu_bytes()
    if memory is not None:
        return Machine(ranks or 1, on_gpu=True, limits=Limits(memory))
    ranks = ranks or (1 if whole_node else len(os.sched_getaffinity(0)))
    return Machine(ranks, on_gpu=False, limits=Limits(host_bytes() // ranks))


def first_stage(stage: Stage, offload: str) -> int:
    """The stage of a run before `fit_runs` chooses it."""
    return max(1, sizing.LOWEST[offload]) if stage == "auto" else stage


def fit_runs(
    runs: Sequence[FinetuneRun],
    machine: Machine,
    *,
    auto: bool,
    check: bool,
    say: Callable[[str], None],
    skip_missing: bool = False,
) -> list[FinetuneRun]:
    """The runs with their stage, chosen if `auto`. Nothing is started.

    With `check`, raises InputError if a run cannot fit. `skip_missing` leaves out texts that are not written yet. `say`
    gets lines for the user. Unknown models and an unknown memory are reported and not checked.
    """
    shapes: dict[str, Shape] = {}
    for base in {run.base for run in runs}:
        try:
            shapes[base] = read_shape(Path(base))
        except InputError as error:
            say(f"memory    not checked: {error.what}")
    if machine.limits is None:
        say("memory    of the GPUs is unknown: not checked")
    fitted = [
        _fit(run, shapes.get(run.base), machine, auto=auto, check=check, skip_missing=skip_missing) for run in runs
    ]
    if auto:
        say(f"stage     {', '.join(map(str, sorted({run.stage for run in fitted})))}: the smallest that fits")
    return fitted


def print_plan(run: FinetuneRun, machine: Machine, console: Console, *, stage: Stage, row_tokens: int = 0) -> None:
    """Print memory a rank by part and stage, bytes sent, and the smallest stage that fits.

    `row_tokens` is the length of the texts (0: that of the run's longest one). Raises InputError if `stage` is a number
    and does not fit, or if no stage fits.
    """
    shape = read_shape(Path(run.base))
    part = part_of_rows(run, machine.ranks, row_tokens) if row_tokens else largest_part(run, machine.ranks, shape)
    setup = setup_of(run, machine, part)
    setup = replace(setup, stage=sizing.lowest_stage(setup))
    adapters = f", adapters of {sizing.trained_parameters(shape, setup):,}" if setup.adapter_rank else ""
    precision = "bfloat16" if setup.size == BF16 else "float32"
    batch = f"{setup.rows} padded rows of {setup.row_tokens} tokens"
    if setup.packed:
        batch = f"{setup.rows * setup.row_tokens:,} tokens of packed texts"
    console.print(
        f"model     {shape.family}, {shape.parameters:,} parameters{adapters}",
        f"ranks     {machine.ranks} ({'GPU' if machine.on_gpu else 'CPU'}, {precision}), "
        f"{sizing.gib(machine.limits.device) if machine.limits else 'unknown memory'} each",
        f"batch     {batch} a rank" + f" in each of {run.accumulation} micro-batches" * (run.accumulation > 1),
        sep="\n",
        highlight=False,
    )
    console.print(_table(shape, setup, machine), highlight=False)
    if machine.limits is None:
        return
    if stage != "auto":
        sizing.check_fit(shape, replace(setup, stage=stage), machine.limits, f"run {run.name}")
    smallest = sizing.smallest_stage(shape, setup, machine.limits)
    if smallest is None:
        sizing.check_fit(shape, replace(setup, stage=STAGES[-1]), machine.limits, f"run {run.name}")
    console.print(f"stage {smallest} is the smallest that fits", highlight=False)


def setup_of(run: FinetuneRun, machine: Machine, part: Part) -> sizing.Setup:
    """The settings of a run that decide its memory, for its largest micro-batch."""
    return sizing.Setup(
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
        bf16={"auto": None, "float32": False, "bfloat16": True}[run.precision],
    )


def _fit(
    run: FinetuneRun, shape: Shape | None, machine: Machine, *, auto: bool, check: bool, skip_missing: bool
) -> FinetuneRun:
    if shape is None or machine.limits is None:
        return run
    setup = setup_of(run, machine, largest_part(run, machine.ranks, shape, skip_missing=skip_missing))
    stage = sizing.smallest_stage(shape, setup, machine.limits) if auto else run.stage
    # If no stage fits, the check of the last one says by how much it fails.
    fitted = replace(run, stage=STAGES[-1] if stage is None else stage)
    if check:
        sizing.check_fit(shape, replace(setup, stage=fitted.stage), machine.limits, f"run {run.name}")
    return fitted


def _table(shape: Shape, setup: sizing.Setup, machine: Machine) -> Table:
    """A row for each part, a column for each stage."""
    setups = [replace(setup, stage=stage) for stage in STAGES[setup.stage :]]
    plans = [sizing.plan(shape, changed) for changed in setups]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("a rank")
    for changed in setups:
        table.add_column(f"stage {changed.stage}", justify="right")
    for part in plans[0].parts:
        table.add_row(part, *(sizing.gib(found.parts[part]) for found in plans))
    table.add_row("peak", *(sizing.gib(found.total) for found in plans), style="bold")
    if machine.limits is not None:
        table.add_row("fits", *("yes" if found.fits(machine.limits) else "no" for found in plans))
    if machine.on_gpu:
        table.add_row("host", *(sizing.gib(found.host) for found in plans))
    table.add_row("sent a step", *(sizing.gib(sizing.sent_bytes(shape, changed)) for changed in setups))
    return table
