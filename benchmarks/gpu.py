"""Whether engines and finetuning work on this machine's GPUs, and how fast: checks, then speeds against the hardware's.

    python -m benchmarks.gpu --json gpu.json

Each check compares with something slower that needs no trust: an engine with fp32 in transformers, another strategy, a
cold start; a finetuning with a plain loop, or with itself computed in another way. `tests/gpu` runs the same checks.
Without a GPU all of it runs on the CPU with small sizes, which tests this code and measures nothing. Reads a model
folder; writes checkpoints, models and logs under the work folder, and the report.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.attempts import FAILED, PASSED, SKIPPED
from benchmarks.harness import Bench, print_ratios, run
from benchmarks.roofline import BILLION, measure_peak, scoring_seconds, writing_seconds
from benchmarks.settings import shared_environment
from benchmarks.side import Side, SideError
from benchmarks.worlds import make_items
from data.records import Score, ScoreItem
from data.rendering import load_book
from data.store import read_refusals, read_shard, write_shard
from train.plan.flops import flops_per_token
from train.plan.shapes import Shape, read_shape

ALL = ("start", "parity", "strategies", "stream", "cancellation", "swap")
# Engines by name: their settings, and what is checked with each, `start` first.
ENGINES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "bfloat16": ({"dtype": "bfloat16"}, ALL),
    "float32": ({"dtype": "float32"}, (*ALL, "cold_start")),
    "replay": ({"dtype": "bfloat16", "scoring": "replay"}, ALL),
    "tensor_parallel": ({"dtype": "bfloat16", "tensor_parallel": 2}, ALL),
}
STAGES = ("stage_1", "stage_2", "stage_3")  # 0 is computed as 1 in bfloat16
WAYS = ("packed", "recomputed", "chunked", "resume", "settings", "ranks")
# Finetunings by name, likewise. Running out of memory comes last: what was allocated may be kept.
TRAININGS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "training_bfloat16": ({"precision": "bfloat16"}, ("start", *STAGES, *WAYS, "attention")),
    "training_float32": ({"precision": "float32"}, ("start", "stage_0", *STAGES, *WAYS, "out_of_memory")),
}
ACTOR, SPEED, ENGINE, TRAINING = "actor", "speed", "engine", "training"
SIDES = {ENGINE: "benchmarks.sides.checks", TRAINING: "benchmarks.sides.train_checks"}
GROUPS: dict[str, tuple[str, ...]] = {
    **{name: checks for name, (_, checks) in (ENGINES | TRAININGS).items()},
    ACTOR: ("scores",),
    SPEED: (ENGINE, TRAINING),
}


@dataclass(frozen=True)
class Sizes:
    """What is checked and timed: words and questions of a context, then the shape and the work of the large model."""

    context_words: int = 600
    questions: int = 16
    model: dict[str, int] = field(default_factory=lambda: BILLION)
    score: dict[str, int] = field(default_factory=lambda: {"context_tokens": 16_000, "num_questions": 60})
    write: dict[str, int] = field(default_factory=lambda: {"num_rows": 512, "prompt_tokens": 32, "max_tokens": 256})
    train: dict[str, int] = field(default_factory=lambda: {"rows": 4, "row_tokens": 4096})


SMALL = Sizes(
    context_words=150,
    questions=4,
    model={
        "words": 500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 1024,
    },
    score={"context_tokens": 500, "num_questions": 4},
    write={"num_rows": 8, "prompt_tokens": 16, "max_tokens": 16},
    train={"rows": 2, "row_tokens": 128},
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """The outcome of one check: its state, why if it is not `passed`, seconds, and what was measured."""

    group: str
    name: str
    state: str
    reason: str
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Group and name."""
        return f"{self.group}.{self.name}"


@dataclass
class Scene:
    """One run: its sizes, the items that are scored, and on a CPU the processes that all engines or trainings share."""

    bench: Bench
    sizes: Sizes
    environment: dict[str, str]
    items: Path
    shared: dict[str, Side]  # by kind, ENGINE or TRAINING

    @cached_property
    def peak(self) -> dict[str, Any]:
        """What the machine can do at most, measured in a process that has ended."""
        with self.side(ENGINE, "peak") as side:
            return measure_peak(self.bench, side)

    def check_side(self, group: str) -> list[Check]:
        """The checks of one engine or one finetuning. If its process dies, they have failed."""
        kind = ENGINE if group in ENGINES else TRAINING
        settings, checks = (ENGINES | TRAININGS)[group]
        files = {"items": str(self.items), "folder": str(self.bench.folder / "checkpoints" / group)}
        try:
            with self.side(kind, group) as side:
                answer = side.call(
                    "check", settings=settings, checks=checks, model=str(self.bench.flags.model), **files
                )
        except SideError as error:
            return [Check(group, name, FAILED, str(error)) for name in checks]
        self.bench.tell(f"checked {group} in {answer.seconds:.1f} s")
        return [Check(group, **row) for row in answer.value["checks"]]

    def check_actor(self) -> list[Check]:
        """Whether an engine in a Ray actor, which Ray gives a GPU if there is one, scores a shard."""
        if self.bench.flags.smoke:
            return [Check(ACTOR, "scores", SKIPPED, "left out of --smoke: the other benchmarks use such an engine")]
        folder, target = self.bench.folder / ACTOR, self.bench.folder / "scores.arrow"
        rows = len(read_shard(self.items, ScoreItem))
        unit = {"task": "score", "source": str(self.items), "target": str(target), "num_rows": rows}
        try:
            with Side(ACTOR, "benchmarks.sides.pool", folder=folder, environment=self.environment) as side:
                side.call("open", folder=str(folder / "ray"), **self.bench.opening)
                seconds = side.call("run", units=[unit]).seconds
        except SideError as error:
            return [Check(ACTOR, "scores", FAILED, str(error))]
        refused, scored = len(read_refusals(target)), len(read_shard(target, Score))
        self.bench.tell(f"checked {ACTOR}")
        if refused or scored != rows:
            return [Check(ACTOR, "scores", FAILED, f"{scored} of {rows} items were scored, {refused} refused")]
        return [Check(ACTOR, "scores", PASSED, "", seconds, {"scores": scored})]

    @contextmanager
    def side(self, kind: str, name: str) -> Iterator[Side]:
        """A process for one engine or finetuning, which frees its memory; vLLM reads some settings once a process.

        On a CPU the one that all of a kind share, because most of the time of small checks is imports.
        """
        if kind in self.shared:
            yield self.shared[kind]
            return
        with open_side(self.bench, kind, name, self.environment) as side:
            yield side


def open_side(bench: Bench, kind: str, name: str, environment: dict[str, str]) -> Side:
    """A process for engines or for finetunings."""
    return Side(name, SIDES[kind], folder=bench.folder / "checks", environment=environment)


@contextmanager
def open_scene(bench: Bench) -> Iterator[Scene]:
    """Write the items, and start the shared processes if there is no GPU."""
    sizes = SMALL if bench.flags.smoke or not bench.on_gpu else Sizes()
    book, items = load_book(bench.flags.model), bench.folder / "items.arrow"
    asked = make_items("gpu", book, context_words=sizes.context_words, num_questions=sizes.questions)
    write_shard(items, ScoreItem, asked)
    environment = shared_environment(on_gpu=bench.on_gpu)
    environment.pop("OMP_NUM_THREADS")  # references are computed on the CPU, also for an engine on a GPU
    environment.pop("VLLM_USE_V2_MODEL_RUNNER")  # each engine chooses
    with ExitStack() as stack:
        kinds = () if bench.on_gpu else SIDES
        shared = {kind: stack.enter_context(open_side(bench, kind, f"shared_{kind}", environment)) for kind in kinds}
        yield Scene(bench, sizes, environment, items, shared)


def run_group(scene: Scene, group: str) -> list[Check]:
    """The checks of a group of `GROUPS` but `SPEED`."""
    return scene.check_actor() if group == ACTOR else scene.check_side(group)


def measure_engine(scene: Scene) -> dict[str, Any]:
    """Tokens per second with a model of random weights, and the share of what the machine can do at most."""
    bench, sizes, peak = scene.bench, scene.sizes, scene.peak
    model = bench.folder / "model"
    rounds: dict[str, list[dict[str, float]]] = {"score": [], "write": []}
    with scene.side(ENGINE, SPEED) as side:
        opened = side.call("open", model=str(model), sizes=sizes.model)
        shape = read_shape(model)
        bench.tell(f"started with {shape.parameters / 1e9:.3g} billion parameters in {opened.seconds:.1f} s")
        for number in range(-1, bench.flags.rounds):  # the first one warms up
            for method, work in (("score", sizes.score), ("write", sizes.write)):
                rounds[method].append(side.call(method, number=number, num_words=sizes.model["words"], **work).value)
                bench.tell(f"{method} round {number + 1}: {rounds[method][-1]['seconds']:.3f} s")
    ratios = rate_scoring(shape, peak, sizes.score, rounds["score"][1:])
    ratios |= rate_generation(shape, peak, sizes.write, rounds["write"][1:])
    return {"ratios": ratios, "rounds": rounds, "parameters": shape.parameters}


def measure_training(scene: Scene) -> dict[str, Any]:
    """Tokens learned per second with the same model on full rows, the MFU, and the planned over the measured memory."""
    bench, peak = scene.bench, scene.peak
    model, folder = bench.folder / "model", bench.folder / TRAINING
    with scene.side(TRAINING, f"{SPEED}_{TRAINING}") as side:
        work = {"sizes": scene.sizes.model, "rounds": bench.flags.rounds, **scene.sizes.train}
        answer = side.call("measure", model=str(model), folder=str(folder), **work)
    bench.tell(f"measured {TRAINING} in {answer.seconds:.1f} s")
    ratios = rate_training(read_shape(model), peak, scene.sizes.train["row_tokens"], answer.value)
    return {"ratios": ratios, TRAINING: answer.value}


SPEEDS: dict[str, Callable[[Scene], dict[str, Any]]] = {ENGINE: measure_engine, TRAINING: measure_training}


def rate_training(shape: Shape, peak: Mapping[str, Any], row_tokens: int, found: Mapping[str, Any]) -> dict[str, float]:
    """The median of the rounds, the model FLOPs utilisation (MFU) of it, and how far the plan of the memory is off."""
    speed = statistics.median(found["tokens_per_second"])
    return {
        "training_tokens_per_second": speed,
        "training_mfu": speed * flops_per_token(shape, row_tokens) / peak["flops"],
        "planned_over_measured_memory": found["planned_bytes"] / found["measured_bytes"],
    }


def rate_scoring(
    shape: Shape, peak: Mapping[str, Any], work: Mapping[str, int], rounds: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Tokens computed per second, and the share of the bound; medians."""
    shares = [
        scoring_seconds(
            shape,
            peak,
            context=work["context_tokens"],
            computed=int(row["computed_tokens"]),
            scored=int(row["scored_tokens"]),
        )
        / row["seconds"]
        for row in rounds
    ]
    return {
        "scoring_tokens_per_second": statistics.median(row["computed_tokens"] / row["seconds"] for row in rounds),
        "scoring_share_of_roofline": statistics.median(shares),
    }


def rate_generation(
    shape: Shape, peak: Mapping[str, Any], work: Mapping[str, int], rounds: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Tokens written per second, and the share of the bound; medians. A row that ends early counts as far as it got."""
    rows, written = work["num_rows"], work["max_tokens"]
    least = writing_seconds(shape, peak, rows=rows, prompt=work["prompt_tokens"], written=written)
    rates = [row["generated_tokens"] / row["seconds"] for row in rounds]
    return {
        "generation_tokens_per_second": statistics.median(rates),
        "generation_share_of_roofline": statistics.median(rates) * least / (rows * written),
    }


def print_checks(bench: Bench, checks: Sequence[Check]) -> None:
    """One line for each check."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("check", "", "s", "measured, or why not"):
        table.add_column(column, justify="right" if column == "s" else "left")
    for check in checks:
        figures = "  ".join(f"{name} {value:.3g}" for name, value in check.figures.items())
        table.add_row(check.title, check.state, f"{check.seconds:.1f}", check.reason.partition("\n")[0] or figures)
    bench.console.print()
    bench.console.print(table, highlight=False, markup=False)


def measure(bench: Bench) -> None:
    """All checks, then the speeds; the run ends with exit code 1 if a check failed."""
    if not bench.on_gpu:
        bench.tell("no GPU: small sizes on the CPU, whose figures say nothing about a GPU")
    speeds: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    with open_scene(bench) as scene:
        checks = [check for group in GROUPS if group != SPEED for check in run_group(scene, group)]
        for name, measure_speed in SPEEDS.items():
            started, state, reason = time.monotonic(), PASSED, ""
            try:
                found = measure_speed(scene)
                ratios |= found.pop("ratios")
                speeds |= found | {"peak": scene.peak}
            except SideError as error:
                state, reason = FAILED, str(error)
            checks.append(Check(SPEED, name, state, reason, time.monotonic() - started))
    print_checks(bench, checks)
    print_ratios(bench, ratios, {})
    bench.different += [f"{check.title} failed: {check.reason}" for check in checks if check.state == FAILED]
    bench.report |= {"device": "cuda" if bench.on_gpu else "cpu", "sizes": asdict(scene.sizes), "ratios": ratios}
    bench.report |= {**speeds, "checks": [asdict(check) for check in checks]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return run("gpu", (__doc__ or "").partition("\n")[0], measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
