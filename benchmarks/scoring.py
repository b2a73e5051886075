"""Scoring short options after a long shared context: our pool against lm-evaluation-harness, vLLM and HF backends.

    python -m benchmarks.scoring --json scoring.json

Every side scores the same strings of the same fresh world in each round; the sums of log-likelihoods and the numbers of
tokens are compared. Then how the sides grow: 4 times the questions, and a quarter of the context. Reads a model folder;
writes the report and the sides' logs.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks import harness
from benchmarks.harness import OURS, Bench, Goal
from benchmarks.peers import lm_eval_requirements, peer_python
from benchmarks.settings import shared_environment, vllm_settings
from benchmarks.side import Side
from benchmarks.worlds import NUM_OPTIONS, make_items
from data.records import Score, ScoreItem
from data.rendering import load_book
from data.store import read_refusals, read_shard, write_shard

PEERS = {"lm_eval_vllm": "vllm", "lm_eval_hf": "hf"}
BATCH_SIZES: dict[str, tuple[int | str, ...]] = {"lm_eval_vllm": ("auto", 32), "lm_eval_hf": (1, 4, 16, 64)}
GOALS = {
    "lm_eval_vllm": Goal(22),
    "lm_eval_hf": Goal(15),
    "tokens_over_ideal": Goal(1.3, at_most=True),
    "max_abs_diff": Goal(1e-4, at_most=True),
}
SMALL_WIDTH = 512
MOST_BY_ROUNDING = 1e-3  # nats; sums of float32 stay far below, and sides that score other tokens are far above


@dataclass(frozen=True)
class Load:
    """How much is scored in a round: words of context, questions of 4 options."""

    name: str
    context_words: int
    num_questions: int

    @property
    def num_options(self) -> int:
        """Continuations in a round."""
        return self.num_questions * NUM_OPTIONS


BASE = Load("base", 1500, 60)
LOADS = (BASE, Load("4x questions", 1500, 240), Load("a quarter of the context", 375, 60))
SMOKE_LOADS = (Load("base", 150, 4), Load("4x questions", 150, 16))


@dataclass
class Scene:
    """The sides of one run, warm, and what their rounds have brought to light."""

    bench: Bench
    sides: dict[str, Side]
    tokenizer: Tokenizer
    tokens: dict[str, list[dict[str, float]]] = field(default_factory=dict)  # by load, of our rounds: computed, ideal
    differences: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # by load and peer, of all options
    scores: dict[str, list[Score]] = field(default_factory=dict)  # by round, ours
    sums: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # by round and side

    def items(self, load: Load, number: int) -> tuple[str, list[ScoreItem]]:
        """The world of a round, the same for all sides; round -1 warms up."""
        name = f"{load.name} {number}".replace(" ", "-")
        book = load_book(self.bench.flags.model)
        return name, make_items(name, book, context_words=load.context_words, num_questions=load.num_questions)

    def ours(self, load: Load, number: int) -> float:
        """One round of our pool: a shard of items to a shard of scores."""
        name, items = self.items(load, number)
        source, target = (self.bench.folder / f"{name}.{kind}.arrow" for kind in ("items", "scores"))
        write_shard(source, ScoreItem, items)
        unit = {"task": "score", "source": str(source), "target": str(target), "num_rows": len(items)}
        harness.forget(target)
        before = self.sides[OURS].call("stats").value
        answer = self.sides[OURS].call("run", units=[unit])
        after = self.sides[OURS].call("stats").value
        refusals = read_refusals(target)
        if refusals:
            self.bench.different.append(f"{name}: {len(refusals)} items were refused, the first: {refusals[0].what}")
        self.scores[name] = read_shard(target, Score)
        if "computed_tokens" in after:
            computed = after["computed_tokens"] - before["computed_tokens"]
            entry = {"computed": computed, "ideal": ideal_tokens(self.tokenizer, items)}
            self.tokens.setdefault(load.name, []).append(entry)
        return answer.seconds

    def peer(self, peer: str, load: Load, number: int) -> float:
        """One round of the harness on the strings of our round, whose scores are then compared."""
        name, items = self.items(load, number)
        seen = self.sides[peer].call("prepare", pairs=str(self.pairs(name, items))).value["num_tokens"]
        answer = self.sides[peer].call("round")
        ours = self.scores[name]
        wanted = [value for score in ours for value in score.log_likelihoods]
        counts = [count for score in ours for count in score.num_tokens]
        if [count for _, count in seen] != counts:
            self.bench.different.append(f"{name}: {peer} splits the options into other tokens than we do")
        theirs = answer.value["log_likelihoods"]
        self.bench.hold(
            f"{name}: our scores and {peer}'s", harness.largest_difference(wanted, theirs), MOST_BY_ROUNDING
        )
        differences = [abs(mine - other) for mine, other in zip(wanted, theirs, strict=True)]
        if number >= 0:  # of rounds that count
            self.differences.setdefault(load.name, {}).setdefault(peer, []).extend(differences)
        self.sums.setdefault(name, {OURS: wanted})[peer] = theirs
        return answer.seconds

    def pairs(self, name: str, items: Sequence[ScoreItem]) -> Path:
        """A file of [context, continuation] pairs, in the order of our log-likelihoods."""
        path = self.bench.folder / f"{name}.pairs.json"
        path.write_text(json.dumps([(i.context + i.prompt, f" {option}") for i in items for option in i.continuations]))
        return path

    def errors(self, load: Load, number: int) -> dict[str, float]:
        """How far (nats) the sides are at most from float64 in one round: which of them rounds how much."""
        name, items = self.items(load, number)
        environment = shared_environment(on_gpu=self.bench.on_gpu)
        with Side(
            "exact", "benchmarks.sides.exact", folder=self.bench.folder / "exact", environment=environment
        ) as exact:
            exact.call("open", model=str(self.bench.flags.model))
            truth: Any = exact.call("score", pairs=str(self.pairs(name, items))).value
        return {side: harness.largest_difference(sums, truth) for side, sums in self.sums[name].items()}


def ideal_tokens(tokenizer: Tokenizer, items: Sequence[ScoreItem]) -> int:
    """The least that a scorer without shared suffixes computes: each context once, and each prompt with its option."""
    contexts = {item.context: len(tokenizer.encode(item.context).ids) for item in items}
    texts = [(i.context, f"{i.context}{i.prompt} {option}") for i in items for option in i.continuations]
    suffixes = sum(len(tokenizer.encode(text).ids) - contexts[context] for context, text in texts)
    return sum(contexts.values()) + suffixes


def measure(bench: Bench) -> None:
    """All loads on all sides."""
    loads = SMOKE_LOADS if bench.flags.smoke else LOADS
    with ExitStack() as stack:
        scene = Scene(bench, {}, Tokenizer.from_file(str(bench.flags.model / "tokenizer.json")))
        opened = open_sides(scene, stack)
        bench.report |= {"sides": opened}
        measured: dict[str, Any] = {}
        for load in loads:
            rounds: dict[str, Callable[[int], float]] = {OURS: partial(scene.ours, load)}
            rounds |= {name: partial(scene.peer, name, load) for name in scene.sides if name != OURS}
            bench.tell(f"{load.name}: {load.context_words} words of context, {load.num_options} options")
            seconds = harness.interleave(rounds, bench.flags.rounds, bench.tell)
            measured[load.name] = {
                "context_words": load.context_words,
                "options": load.num_options,
                "sides": harness.summarise(seconds),
            }
        if not bench.flags.ours_only and is_small_llama(bench.flags.model):
            bench.report["errors"] = scene.errors(loads[0], 0)
    for load in loads:
        harness.print_sides(bench, load.name, measured[load.name]["sides"], load.num_options, "options")
    report(scene, measured)


def is_small_llama(model: Path) -> bool:
    """Whether float64 on CPU can judge this model, and in seconds."""
    config = json.loads((model / "config.json").read_text())
    return config["architectures"] == ["LlamaForCausalLM"] and config["hidden_size"] <= SMALL_WIDTH


def open_sides(scene: Scene, stack: ExitStack) -> dict[str, Any]:
    """Start every side and warm it on a world of its own; the harness's batch size is the fastest of a few."""
    bench = scene.bench
    environment = shared_environment(on_gpu=bench.on_gpu)
    scene.sides[OURS] = stack.enter_context(
        Side(OURS, "benchmarks.sides.pool", folder=bench.folder / OURS, environment=environment)
    )
    opened = scene.sides[OURS].call("open", folder=str(bench.folder / OURS / "ray"), **bench.opening)
    found = {OURS: {"start_seconds": opened.seconds, **opened.value}}
    bench.tell(f"{OURS} started in {opened.seconds:.1f} s")
    load = SMOKE_LOADS[0] if bench.flags.smoke else BASE
    scene.ours(load, -1)
    scene.tokens.clear()  # of rounds that count
    if bench.flags.ours_only:
        return found
    python = peer_python("lm-eval", lm_eval_requirements(on_gpu=bench.on_gpu), on_gpu=bench.on_gpu, tell=bench.tell)
    for name, backend in PEERS.items():
        side = Side(
            name, "benchmarks.sides.lm_eval", folder=bench.folder / name, environment=environment, python=str(python)
        )
        scene.sides[name] = stack.enter_context(side)
        settings = peer_settings(backend, on_gpu=bench.on_gpu)
        opened = side.call("open", backend=backend, model=str(bench.flags.model), settings=settings)
        bench.tell(f"{name} started in {opened.seconds:.1f} s")
        tried = try_batch_sizes(scene, name, load)
        best = min(tried, key=lambda size: tried[size])
        side.call("set_batch_size", size=best)
        sizes = {str(size): seconds for size, seconds in tried.items()}
        found[name] = {"start_seconds": opened.seconds, "settings": settings, "batch_size": best, "tried": sizes}
        found[name] |= opened.value
    return found


def peer_settings(backend: str, *, on_gpu: bool) -> dict[str, Any]:
    """What the harness is given beside the model: all that makes it fast on this machine and keeps it exact."""
    if backend == "vllm":
        return vllm_settings(on_gpu=on_gpu)
    return {"device": "cuda", "dtype": "bfloat16"} if on_gpu else {"device": "cpu", "dtype": "float32"}


def try_batch_sizes(scene: Scene, name: str, load: Load) -> dict[int | str, float]:
    """Seconds of the warm-up world at each batch size."""
    tried: dict[int | str, float] = {}
    scene.peer(name, load, -1)  # the first call of a process pays for what the others find ready
    for size in BATCH_SIZES[name]:
        scene.sides[name].call("set_batch_size", size=size)
        tried[size] = scene.peer(name, load, -1)
        scene.bench.tell(f"{name:<16} batch size {size}: {tried[size]:.2f} s")
    return tried


def report(scene: Scene, measured: dict[str, Any]) -> None:
    """The ratios, and how each side grows with the questions and the context."""
    base, *others = measured
    sides = measured[base]["sides"]
    ratios = {name: sides[name]["over_ours"] for name in PEERS if name in sides}
    if base in scene.tokens:
        ratios["tokens_over_ideal"] = tokens_over_ideal(scene.tokens[base])
    if base in scene.differences:
        ratios["max_abs_diff"] = max(max(values) for values in scene.differences[base].values())
    growth = {
        load: {name: measured[load]["sides"][name]["median"] / sides[name]["median"] for name in sides}
        for load in others
    }
    harness.print_ratios(scene.bench, ratios, GOALS)
    for load, factors in growth.items():
        words = ", ".join(f"{name} {factor:.2f}x" for name, factor in factors.items())
        scene.bench.console.print(f"{load}: {words} the seconds of the base", highlight=False, soft_wrap=True)
    for side, error in scene.bench.report.get("errors", {}).items():
        scene.bench.console.print(f"{side}: at most {error:.2g} nats from float64", highlight=False)
    scene.bench.report |= {
        "ratios": ratios,
        "loads": measured,
        "growth": growth,
        "tokens": scene.tokens,
        "differences": {
            load: {name: describe_differences(values) for name, values in of_load.items()}
            for load, of_load in scene.differences.items()
        },
    }


def tokens_over_ideal(rounds: Sequence[dict[str, float]]) -> float:
    """All tokens computed over the least possible, of all rounds together.

    Of one world alone it says where the context happens to end: blocks of the cache hold 32 tokens, so every request
    reads again what stands after the last full block, nothing or up to 31 tokens.
    """
    return sum(entry["computed"] for entry in rounds) / sum(entry["ideal"] for entry in rounds)


def describe_differences(values: Sequence[float]) -> dict[str, float]:
    """How far a peer's log-likelihoods (nats) are from ours, and how many options were compared."""
    bound = GOALS["max_abs_diff"].bound
    return {
        "compared": len(values),
        "median": statistics.median(values),
        "max": max(values),
        "above_goal": sum(not value <= bound for value in values),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return harness.run("scoring", (__doc__ or "").partition("\n")[0], measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
