"""The memory of one training rank: what `entail train --plan` predicts against what the process really uses.

    python -m benchmarks.memory --json memory.json

Each case is a process of its own that finetunes a pretrained model on a CPU, in float32, on 8 texts of about 512 tokens
a step with activation checkpointing. Measured is the peak of its resident memory while it trains, and what is resident
before the model is loaded. Writes the report, texts and logs.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.corpora import Load, make_model, make_passages, make_texts, words_of, write_texts
from benchmarks.harness import Bench, Goal, print_ratios, run
from benchmarks.real_models import GEMMA3, SMOLLM2, real_model
from benchmarks.settings import shared_environment
from benchmarks.side import Side
from benchmarks.training_scene import TINY
from cluster.memory import host_bytes
from train.plan.fit import Machine, setup_of
from train.plan.largest_part import largest_part
from train.plan.shapes import read_shape
from train.plan.sizing import Limits, Memory, gib, plan
from train.run.finetune_run import FinetuneRun, TextSource

GOALS = {"plan_error": Goal(0.25, at_most=True), "over_states": Goal(1.15, at_most=True)}
LOAD = Load("documents", 8, 2)  # in the second step, all of the optimizer's state exists
STAGES = (0, 1)
LOADING, TRAINING = "loading the model", "training"  # phases of a run
MODELS: dict[str, Callable[[Path], Path]] = {
    "smollm2": lambda folder: real_model(SMOLLM2),
    "gemma3": lambda folder: real_model(GEMMA3),
}
SMOKE: dict[str, Callable[[Path], Path]] = {"tiny": lambda folder: make_model(folder, **TINY)}


def measure(bench: Bench) -> None:
    """Every model at every stage: `plan_error` is the largest share by which a plan is wrong.

    `over_states` is the largest growth of a process over weights, gradients, optimizer and activations as planned, at
    the stage that `auto` chooses; DeepSpeed's stages above it copy gradients into buckets and shards.
    """
    bench.report["threads"] = len(os.sched_getaffinity(0))
    cases = []
    for name, make in (SMOKE if bench.flags.smoke else MODELS).items():
        model = make(bench.folder / f"model-{name}")
        texts = make_texts(LOAD, name, words_of(model)) if bench.flags.smoke else make_passages(LOAD, name)
        write_texts(texts, bench.folder / name)
        for stage in STAGES:
            cases.append(measure_case(bench, name, model, stage))
            bench.tell(f"{name}, stage {stage}: {gib(cases[-1]['measured'])}, planned {gib(cases[-1]['planned'])}")
    ratios = {
        "plan_error": max(abs(case["planned_over_measured"] - 1) for case in cases),
        "over_states": max(case["growth_over_states"] for case in cases if case["stage"] == STAGES[0]),
    }
    bench.report |= {"cases": cases, "ratios": ratios}
    print_cases(bench, cases)
    print_ratios(bench, ratios, GOALS)


def measure_case(bench: Bench, name: str, model: Path, stage: int) -> dict[str, Any]:
    """One run: bytes planned, measured, resident before the model was loaded, and of the model's states as planned."""
    folder = bench.folder / f"{name}-{stage}"
    settings: dict[str, Any] = {
        "name": folder.name, "base": str(model), "out": str(folder / "out"), "num_steps": LOAD.num_steps,
        "batch_size": LOAD.batch_size, "learning_rate": 1e-5, "stage": stage, "precision": "float32",
        "activation_checkpointing": True,
    }  # fmt: skip
    documents = str(bench.folder / name / "documents")
    environment = shared_environment(on_gpu=False, threads=bench.report["threads"]) | {"CUDA_VISIBLE_DEVICES": ""}
    with Side("memory", "benchmarks.sides.memory", folder=folder, environment=environment) as side:
        phases = side.call("train", documents=documents, **settings).value
    planned = plan_of(FinetuneRun(sources=(TextSource(documents),), **settings))
    measured, before = phases[TRAINING]["peak"], phases[LOADING]["resident"]
    states = planned.weights + planned.gradients + planned.optimizer + planned.activations
    return {
        "model": name,
        "stage": stage,
        "planned": planned.total,
        "measured": measured,
        "planned_over_measured": planned.total / measured,
        "before": before,
        "growth": measured - before,
        "states": states,
        "growth_over_states": (measured - before) / states,
        "parts": planned.parts,
        "phases": phases,
    }


def plan_of(run: FinetuneRun) -> Memory:
    """What `entail train --plan` says of a run on one rank that has this machine's memory."""
    shape, machine = read_shape(Path(run.base)), Machine(ranks=1, on_gpu=False, limits=Limits(host_bytes()))
    return plan(shape, setup_of(run, machine, largest_part(run, machine.ranks, shape)))


def print_cases(bench: Bench, cases: Sequence[dict[str, Any]]) -> None:
    """The table: a row for each case."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("model, stage")
    for column in ("planned", "measured", "ratio", "before the model", "growth", "states, activations", "ratio"):
        table.add_column(column, justify="right")
    for case in cases:
        of_plan, of_states = (f"{case[name]:.2f}" for name in ("planned_over_measured", "growth_over_states"))
        sizes = [gib(case[name]) for name in ("planned", "measured", "before", "growth", "states")]
        table.add_row(f"{case['model']}, {case['stage']}", *sizes[:2], of_plan, *sizes[2:], of_states)
    bench.console.print()
    bench.console.print(table, highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return run("memory", (__doc__ or "").partition("\n")[0], measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
