"""Finetuning: our loop against HF's Trainer, TRL's and bare loops, and two ranks against one.

    python -m benchmarks.training --json training.json

What counts is tokens of text a second, padding not among them, on sentences of 5 to 30 words and documents of 4 to 20
such sentences, with a tiny Llama and one of 25 million parameters. Writes the report, models, texts and logs.
"""

import json
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.corpora import Load, make_model, make_texts, words_of, write_texts
from benchmarks.harness import OURS, Bench, Goal
from benchmarks.peers import peer_python, trainer_requirements
from benchmarks.settings import shared_environment
from benchmarks.side import Side
from train.engine.zero_config import zero_config

BARE, SAME, HF, TRL, TWO = "bare_loop", "same_batches", "hf_trainer", "trl", "two_ranks"
GOALS = {BARE: Goal(1.0), SAME: Goal(0.85), HF: Goal(1.2), TRL: Goal(1.0), TWO: Goal(1.6)}
# Nats, ours and a bare loop on the same batches: in the first steps, and in all of them, for rounding grows with each.
EARLY_STEPS, EARLY_GOAL, LOSS_GOAL = 20, 1e-4, 1e-3
TINY = {"words": 700, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
LOADS = {
    "tiny": (Load("sentences", 32, 120), Load("documents", 8, 30)),
    "25M": (Load("sentences", 32, 20), Load("documents", 8, 10)),
}
SMOKE = {"tiny": (Load("sentences", 8, 4), Load("documents", 4, 3))}
ROW_TOKENS = (64, 256, 1024)  # tried for TRL after a warm-up; the fastest is measured
RATE, WARMUP = 1e-3, 2


@dataclass
class Scene:
    """The sides of one model, and what each round found."""

    bench: Bench
    name: str
    model: Path
    sides: dict[str, Side] = field(default_factory=dict)
    row_tokens: int = ROW_TOKENS[0]
    seen: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # by round and side

    def texts(self, load: Load, number: int) -> Path:
        """The folder of a round's texts, made when it is first asked for."""
        folder = self.bench.folder / "texts" / f"{self.name}-{load.kind}-{number}"
        if not (folder / "texts.json").exists():
            write_texts(make_texts(load, folder.name, words_of(self.model)), folder)
        return folder

    def settings(self, load: Load) -> dict[str, Any]:
        """The optimizer's settings, the same for all sides."""
        sizes = {"num_steps": load.num_steps, "batch_size": load.batch_size, "seed": 0}
        return sizes | {"learning_rate": RATE, "warmup_steps": WARMUP, "weight_decay": 0.0, "max_grad_norm": 1.0}

    def ours(self, load: Load, number: int, names: Sequence[str] = (OURS,)) -> float:
        """A round of our loop, on one rank or several at once."""
        folder = self.texts(load, number)
        out = self.bench.folder / "trained" / f"{folder.name}-{len(names)}-{time.time_ns()}"
        job = self.settings(load) | {"name": folder.name, "base": str(self.model), "out": str(out), "stage": 1}
        with ThreadPoolExecutor(len(names)) as pool:
            calls = [
                pool.submit(self.sides[name].call, "train", documents=str(folder / "documents"), **job)
                for name in names
            ]
            found = [call.result().value for call in calls]
        return self.note(folder.name, names[0], found[0])

    def bare(self, load: Load, number: int, name: str) -> float:
        """A round of a bare loop."""
        folder, settings = self.texts(load, number), self.settings(load)
        words: dict[str, Any] = {"texts": str(folder / "texts.json"), "documents": str(folder / "documents")}
        words |= {"model": str(self.model), "settings": settings}
        found = self.sides[name].call("train", same_batches=name == SAME, **words).value
        seconds = self.note(folder.name, name, found)
        if name == SAME:
            ours = self.seen[folder.name, OURS]
            self.hold_losses(f"{folder.name}: losses of ours and of the bare loop", ours["losses"], found["losses"])
            computed = abs(ours["positions"] - found["positions"])
            self.bench.hold(f"{folder.name}: positions of ours and of the bare loop", computed, 0)
        return seconds

    def trainer(self, load: Load, number: int, name: str, row_tokens: int | None = None) -> float:
        """A round of HF's Trainer or TRL's."""
        folder, settings = self.texts(load, number), self.settings(load)
        words = {"texts": str(folder / "texts.json"), "model": str(self.model), "settings": settings}
        words["out"] = str(self.bench.folder / name)
        if name == TRL:
            found = self.sides[name].call("train_trl", row_tokens=row_tokens or self.row_tokens, **words)
        else:
            config = self.bench.folder / f"deepspeed-{load.batch_size}.json"
            on_gpu = self.bench.on_gpu
            config.write_text(json.dumps(zero_config(1, load.batch_size, 1.0, bf16=on_gpu, on_gpu=on_gpu)))
            found = self.sides[name].call("train_hf", config=str(config), **words)
        return self.note(folder.name, name, found.value)

    def note(self, round_name: str, side: str, found: dict[str, Any]) -> float:
        """Keep what a side's clock saw, and check that it trained on every token."""
        self.seen[round_name, side] = found
        if found["labels"]:
            wanted = self.tokens(round_name)
            self.bench.hold(f"{round_name}: tokens learned, {wanted} and {found['labels']} by {side},",
                            abs(wanted - found["labels"]), 0)  # fmt: skip
        return float(found["seconds"])

    def hold_losses(self, what: str, first: Sequence[float], second: Sequence[float]) -> None:
        """Check that two sides learned alike, and keep the largest difference."""
        early = harness.largest_difference(first[:EARLY_STEPS], second[:EARLY_STEPS])
        difference = harness.largest_difference(first, second)
        for name, value in (("max_early_loss_difference", early), ("max_loss_difference", difference)):
            self.bench.report[name] = max(self.bench.report.get(name, 0.0), value)
        self.bench.hold(f"{what} in the first {EARLY_STEPS} steps", early, EARLY_GOAL)
        self.bench.hold(what, difference, LOSS_GOAL)

    def tokens(self, round_name: str) -> int:
        """Tokens that are learned in a round: of each text all words but the first, and its end."""
        texts = json.loads((self.bench.folder / "texts" / round_name / "texts.json").read_text())
        return sum(len(text.split()) for text in texts)

    def choose_rows(self, load: Load) -> None:
        """TRL's fastest length of rows, each tried warm."""
        longest = max(len(text.split()) + 1 for text in json.loads((self.texts(load, -1) / "texts.json").read_text()))
        fitting = [tokens for tokens in ROW_TOKENS if tokens >= longest] or [ROW_TOKENS[-1]]
        if len(fitting) == 1:
            self.row_tokens = fitting[0]
            return
        tried = {}
        for tokens in fitting:
            self.trainer(load, -1, TRL, tokens)
            tried[tokens] = self.trainer(load, -1, TRL, tokens)
        self.row_tokens = min(tried, key=lambda tokens: tried[tokens])
        self.bench.tell(f"{TRL}: rows of {self.row_tokens} tokens, of {tried}")


def measure(bench: Bench) -> None:
    """Every model and kind of text, then two ranks."""
    environment = shared_environment(on_gpu=bench.on_gpu)
    bench.report |= {"loads": {}, "versions": {}, "start": {}}
    loads = SMOKE if bench.flags.smoke else LOADS
    for name, sizes in (("tiny", TINY), ("25M", {})):
        if name in loads:
            scene = Scene(bench, name, make_model(bench.folder / f"model-{name}", **sizes))
            measure_model(scene, loads[name], environment)
    entries = bench.report["loads"].values()
    found = {
        side: min(entry["sides"][side]["over_ours"] for entry in entries)
        for side in (BARE, SAME, HF, TRL)
        if all(side in entry["sides"] for entry in entries)
    }
    two = {} if bench.flags.smoke else {TWO: measure_ranks(scene, loads[name][-1], environment)}
    print_start(bench)
    harness.print_ratios(bench, found | two, GOALS)
    bench.report["ratios"] = found | two


def measure_model(scene: Scene, loads: Sequence[Load], environment: dict[str, str]) -> None:
    """All sides with one model, on sentences and on documents."""
    bench = scene.bench
    with ExitStack() as stack:
        open_sides(scene, stack, environment)
        for load in loads:
            ways = rounds_of(scene, load)
            if TRL in ways:
                scene.choose_rows(load)
            for name, way in ways.items():  # a round that does not count
                bench.report["start"].setdefault(f"{name}, {scene.name}, first job", {})
                way(-1)
                keep_start(scene, load, name)
            summary = harness.summarise(harness.interleave(ways, bench.flags.rounds, bench.tell))
            rows = [scene.tokens(f"{scene.name}-{load.kind}-{number}") for number in range(bench.flags.rounds)]
            entry = {"sides": summary, "tokens": rows, "texts": load.num_texts, "row_tokens_of_trl": scene.row_tokens}
            entry["positions_over_tokens"] = {
                name: scene.seen[f"{scene.name}-{load.kind}-0", name]["positions"] / rows[0] for name in ways
            }
            bench.report["loads"][f"{scene.name} {load.kind}"] = entry
            tokens = round(statistics.median(rows))
            harness.print_sides(bench, f"{scene.name}, {load.kind}: {load.num_texts} texts", summary, tokens, "tokens")


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
        opened = side.call("open")
        bench.report["versions"][name] = opened.value["versions"]
        if name == OURS:
            bench.report["start"]["imports"] = opened.value["imports"]


def keep_start(scene: Scene, load: Load, name: str) -> None:
    """What a job costs beside its steps; the first one joins the group and loads the model."""
    found = scene.seen[f"{scene.name}-{load.kind}--1", name]
    entry = scene.bench.report["start"][f"{name}, {scene.name}, first job"]
    if not entry:
        entry |= {part: found[part] for part in ("before", "after")}


def measure_ranks(scene: Scene, load: Load, environment: dict[str, str]) -> float:
    """How many times as fast two ranks are as one, a thread each, on the same batches."""
    bench = scene.bench
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return harness.run("training", (__doc__ or "").partition("\n")[0], measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
