"""Finetuning: our loop against HF's Trainer, TRL's and bare loops, and two ranks against one.

    python -m benchmarks.training --json training.json

What counts is tokens of text a second, padding not among them. A tiny Llama and one of 25 million parameters learn
sentences of 5 to 30 random words and documents of 4 to 20 such sentences, with one thread; SmolLM2-135M learns English
with all cores, and its share of their matmul peak is measured. Writes the report, models, texts and logs.
"""

import argparse
import socket
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks import harness
from benchmarks.corpora import Load
from benchmarks.harness import OURS, Bench, Goal
from benchmarks.peers import peer_python, trainer_requirements
from benchmarks.settings import shared_environment
from benchmarks.side import Side
from benchmarks.training_scene import BARE, HF, SAME, SPECS, TRL, Scene
from train.plan.flops import flops_per_token
from train.plan.shapes import read_shape

TWO, PEAK_SHARE = "two_ranks", "share_of_matmul_peak"
REAL, RANKS_OF = "smollm2", "25M"  # the scene of a pretrained model, and that of two ranks
SMOKE = ("tiny",)  # what a smoke run measures if no scene is named
GOALS = {
    BARE: Goal(1.0), SAME: Goal(0.85), HF: Goal(1.2), TRL: Goal(1.0), TWO: Goal(1.6),
    f"{REAL}_{BARE}": Goal(1.0), f"{REAL}_{SAME}": Goal(0.85), f"{REAL}_{HF}": Goal(1.0), f"{REAL}_{TRL}": Goal(1.0),
    PEAK_SHARE: Goal(0.6),
}  # fmt: skip
PEAK_TOKENS, PEAK_WIDTHS = 4096, (1024, 2048, 4096)  # of the products of a peak: rows, and square matrices


def measure(bench: Bench) -> None:
    """The scenes that the flags name, then two ranks."""
    names = bench.flags.scene or (SMOKE if bench.flags.smoke else tuple(SPECS))
    bench.report |= {"loads": {}, "versions": {}, "start": {}, "threads": {}}
    ratios = {}
    for name, spec in SPECS.items():
        if name in names:
            scene = Scene(bench, name, spec.make_model(bench.folder / f"model-{name}"), spec)
            bench.report["threads"][name] = spec.num_threads
            measure_model(scene)
            if name == RANKS_OF and not bench.flags.smoke:
                ratios[TWO] = measure_ranks(scene)
    print_start(bench)
    ratios |= ratios_of(bench)
    harness.print_ratios(bench, ratios, GOALS)
    bench.report["ratios"] = ratios


def ratios_of(bench: Bench) -> dict[str, float]:
    """The worst ratio of each side over loads and models; those of SmolLM2 have names of their own."""
    found: dict[str, float] = {}
    for entry in bench.report["loads"].values():
        prefix = f"{REAL}_" if entry["scene"] == REAL else ""
        values = {f"{prefix}{side}": of["over_ours"] for side, of in entry["sides"].items() if side != OURS}
        values |= {PEAK_SHARE: entry[PEAK_SHARE]} if PEAK_SHARE in entry else {}
        found |= {name: min(value, found.get(name, value)) for name, value in values.items()}
    return found


def measure_model(scene: Scene) -> None:
    """All sides with one model, on sentences and on documents."""
    bench = scene.bench
    environment = shared_environment(on_gpu=bench.on_gpu, threads=scene.spec.num_threads)
    with ExitStack() as stack:
        open_sides(scene, stack, environment)
        for load in scene.spec.smoke if bench.flags.smoke else scene.spec.loads:
            ways = rounds_of(scene, load)
            if TRL in ways:
                scene.choose_rows(load)
            for name, way in ways.items():  # a round that does not count
                bench.report["start"].setdefault(f"{name}, {scene.name}, first job", {})
                bench.tell(f"{scene.name}, {load.kind}: {name:<16} warm-up {way(-1):.3f} s")
                keep_start(scene, load, name)
            summary = harness.summarise(harness.interleave(ways, bench.flags.rounds, bench.tell))
            entry = describe_load(scene, load, summary)
            bench.report["loads"][f"{scene.name} {load.kind}"] = entry
            tokens = round(statistics.median(entry["tokens"]))
            harness.print_sides(bench, f"{scene.name}, {load.kind}: {load.num_texts} texts", summary, tokens, "tokens")
    if scene.name == REAL:
        compare_with_peak(scene, environment)


def describe_load(scene: Scene, load: Load, summary: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the report has of a load: each side's rounds, tokens learned by round, positions computed over tokens."""
    names = [f"{scene.name}-{load.kind}-{number}" for number in range(scene.bench.flags.rounds)]
    tokens = [scene.tokens(name) for name in names]
    return {
        "scene": scene.name,
        "kind": load.kind,
        "sides": summary,
        "tokens": tokens,
        "texts": load.num_texts,
        "row_tokens_of_trl": scene.row_tokens,
        "positions_over_tokens": {name: scene.seen[names[0], name]["positions"] / tokens[0] for name in summary},
    }


def compare_with_peak(scene: Scene, environment: dict[str, str]) -> None:
    """The share of the cores' matmul peak that ours reaches on each load, by the FLOPs of a token.

    The peak is that of the fastest float32 product: of the model's own shapes, and of large squares.
    """
    bench, shape = scene.bench, read_shape(scene.model)
    shapes = [(PEAK_TOKENS, shape.width, shape.inner), (PEAK_TOKENS, shape.inner, shape.width)]
    shapes += [(width, width, width) for width in PEAK_WIDTHS]
    with Side("peak", "benchmarks.sides.peak", folder=bench.folder / "sides", environment=environment) as side:
        peak = side.call("measure_peak", device="cpu", dtype="float32", shapes=shapes).value
    bench.report["peak"] = peak | {"shapes": shapes}
    for name, entry in bench.report["loads"].items():
        if entry["scene"] == scene.name:
            rounds = range(bench.flags.rounds)
            lengths = [length for at in rounds for length in scene.lengths(f"{scene.name}-{entry['kind']}-{at}")]
            row_tokens = sum(length**2 for length in lengths) / sum(lengths)  # of a token's text, on average
            rate = statistics.median(entry["tokens"]) / entry["sides"][OURS]["median"]
            entry[PEAK_SHARE] = rate * flops_per_token(shape, row_tokens) / peak["flops"]
            bench.tell(f"{name}: {entry[PEAK_SHARE]:.2f} of the matmul peak of {peak['flops'] / 1e9:.0f} GFLOP/s")


def rounds_of(scene: Scene, load: Load) -> dict[str, Callable[[int], float]]:
    """What each open side does in a round."""
    ways: dict[str, Callable[[int], float]] = {
        OURS: lambda number: scene.ours(load, number),
        SAME: lambda number: scene.bare(load, number, SAME),
        BARE: lambda number: scene.bare(load, number, BARE),
        HF: lambda number: scene.trainer(load, number, HF),
        TRL: lambda number: scene.trainer(load, number, TRL),
    }
    return {name: way for name, way in ways.items() if name in scene.sides}


def open_sides(scene: Scene, stack: ExitStack, environment: dict[str, str]) -> None:
    """A process for each side; the peers' run in their own environment."""
    bench = scene.bench
    modules = {OURS: "finetune", SAME: "bare_loop", BARE: "bare_loop"}
    options: dict[str, Any] = {}
    if not bench.flags.ours_only:
        modules |= {HF: "trainers", TRL: "trainers"}
        requirements = trainer_requirements(on_gpu=bench.on_gpu)
        python = peer_python("trainers", requirements, on_gpu=bench.on_gpu, tell=bench.tell)
        options = {name: {"python": str(python)} for name in (HF, TRL)}
    for name, module in modules.items():
        folder = bench.folder / "sides" / f"{scene.name}-{name}"
        side = Side(name, f"benchmarks.sides.{module}", folder=folder, environment=environment, **options.get(name, {}))
        scene.sides[name] = stack.enter_context(side)
        opened = side.call("open", threads=scene.spec.num_threads)
        bench.report["versions"][name] = opened.value["versions"]
        if name == OURS:
            bench.report["start"]["imports"] = opened.value["imports"]


def keep_start(scene: Scene, load: Load, name: str) -> None:
    """What a job costs beside its steps; the first one joins the group and loads the model."""
    found = scene.seen[f"{scene.name}-{load.kind}--1", name]
    entry = scene.bench.report["start"][f"{name}, {scene.name}, first job"]
    if not entry:
        entry |= {part: found[part] for part in ("before", "after")}


def measure_ranks(scene: Scene) -> float:
    """How many times as fast two ranks are as one, a thread each, on the same batches."""
    bench, load = scene.bench, scene.spec.loads[-1]
    environment = shared_environment(on_gpu=bench.on_gpu)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    joined = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    joined |= {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    with ExitStack() as stack:
        ranks = {OURS: environment} | {
            f"rank {rank}": environment | joined | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)
        }
        for name, settings in ranks.items():
            folder = bench.folder / "sides" / f"ranks-{name}"
            side = Side(name, "benchmarks.sides.finetune", folder=folder, environment=settings)
            scene.sides[name] = stack.enter_context(side)
            side.call("open")
        ways: dict[str, Callable[[int], float]] = {
            TWO: lambda number: scene.ours(load, number, ("rank 0", "rank 1")),
            OURS: lambda number: scene.ours(load, number),
        }
        for way in ways.values():
            way(-1)
        seconds = harness.interleave(ways, bench.flags.rounds, bench.tell)
    first = f"{scene.name}-{load.kind}-0"
    losses = (scene.seen[first, name]["losses"] for name in (OURS, "rank 0"))
    scene.hold_losses("losses of one rank and of two", *losses)
    bench.report["ranks"] = {"load": f"{scene.name} {load.kind}", "seconds": seconds}
    return statistics.median(seconds[OURS]) / statistics.median(seconds[TWO])


def print_start(bench: Bench) -> None:
    """What a job costs beside its steps."""
    start = bench.report["start"]
    bench.console.print(f"\nour start: imports {start['imports']:.1f} s", highlight=False)
    for name, entry in start.items():
        if name != "imports":
            before, after = entry["before"], entry["after"]
            words = f"{name}: {before:.2f} s before the first step, {after:.2f} s after the last one"
            bench.console.print(words, highlight=False)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    parser.add_argument("--scene", action="append", choices=list(SPECS), help="only this model (repeatable)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return harness.run("training", (__doc__ or "").partition("\n")[0], measure, arguments, add_flags)


if __name__ == "__main__":
    sys.exit(main())
