"""Many checkpoints, one engine: weights swapped in place against a cold engine for each checkpoint.

    python -m benchmarks.swap --json swap.json

The checkpoints are the model with small seeded changes to its weights. Both sides score the same items; the
log-likelihoods are compared. Reads a model folder; writes checkpoints and shards under the work folder, and the report.
"""

import shutil
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import OURS, Bench, Goal
from benchmarks.settings import shared_environment
from benchmarks.side import Side
from benchmarks.worlds import make_items
from data.records import CheckpointRef, Score, ScoreItem
from data.rendering import load_book
from data.seeds import derive_seed
from data.store import read_shard, write_shard
from data.weights import weights_fingerprint

COLD = "cold_engines"
GOALS = {COLD: Goal(10), "max_abs_diff": Goal(1e-5, at_most=True)}
CHANGE = 0.05  # of a tensor's own standard deviation: the scores move by whole nats, the model stays a model
CONTEXT_WORDS, NUM_QUESTIONS = 1500, 60


@dataclass
class Scene:
    """The warm side, the checkpoints, the shard of items that all of them answer."""

    bench: Bench
    warm: Side
    refs: list[CheckpointRef]
    source: Path
    environment: dict[str, str]

    def target(self, side: str, ref: CheckpointRef) -> Path:
        """Where a side writes the scores of a checkpoint."""
        return self.bench.folder / side / f"{ref.name}.arrow"

    def swap(self, number: int) -> float:
        """All checkpoints, one after the other, on the warm engine."""
        targets = [self.target(OURS, ref) for ref in self.refs]
        for target in targets:
            harness.forget(target)
        rows = len(read_shard(self.source, ScoreItem))
        units = [
            {
                "task": "score",
                "source": str(self.source),
                "target": str(target),
                "checkpoint": asdict(ref),
                "num_rows": rows,
            }
            for ref, target in zip(self.refs, targets, strict=True)
        ]
        return self.warm.call("run", units=units).seconds

    def start_cold(self, number: int) -> float:
        """A process for each checkpoint, from its start to its end."""
        started = time.perf_counter()
        for ref in self.refs:
            target = self.target(COLD, ref)
            with self.side(f"cold-{ref.name}") as side:
                side.call(
                    "score",
                    model=ref.path,
                    source=str(self.source),
                    target=str(target),
                    kind=self.bench.flags.engine,
                )
        return time.perf_counter() - started

    def side(self, name: str) -> Side:
        """A process for one cold engine."""
        return Side(name, "benchmarks.sides.engine", folder=self.bench.folder / COLD, environment=self.environment)

    def compare(self) -> tuple[float, float]:
        """The largest difference between warm and cold, and the largest between any checkpoint and the first."""
        warm, cold = ([_values(self.target(name, ref)) for ref in self.refs] for name in (OURS, COLD))
        by_checkpoint = [harness.largest_difference(mine, theirs) for mine, theirs in zip(warm, cold, strict=True)]
        spread = max((harness.largest_difference(warm[0], other) for other in warm[1:]), default=0.0)
        return harness.largest_difference(by_checkpoint, [0.0] * len(by_checkpoint)), spread


def make_checkpoints(model: Path, folder: Path, count: int) -> list[CheckpointRef]:
    """Copies of a model, each with its own small noise on every float tensor of two or more dimensions."""
    import torch
    from safetensors.torch import load_file, save_file

    refs = []
    for number in range(count):
        target = folder / f"c{number}"
        shutil.copytree(model, target, ignore=shutil.ignore_patterns("*.safetensors", "*.jsonl"), dirs_exist_ok=True)
        generator = torch.Generator().manual_seed(derive_seed(0, "benchmarks", "checkpoint", number))
        for path in sorted(model.glob("*.safetensors")):
            tensors = load_file(path)
            for name, tensor in tensors.items():
                if tensor.is_floating_point() and tensor.dim() > 1:
                    noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
                    tensors[name] = tensor + CHANGE * tensor.std() * noise
            save_file(tensors, target / path.name, metadata={"format": "pt"})
        refs.append(CheckpointRef(target.name, str(target), weights_fingerprint(target), str(model), 0))
    return refs


def measure(bench: Bench) -> None:
    """Rounds of all checkpoints, warm and cold."""
    flags = bench.flags
    count = 2 if flags.smoke else flags.checkpoints
    words, questions = (150, 4) if flags.smoke else (CONTEXT_WORDS, NUM_QUESTIONS)
    refs = make_checkpoints(flags.model, bench.folder / "checkpoints", count)
    bench.tell(f"made {count} checkpoints")
    source = bench.folder / "items.arrow"
    items = make_items("swap", load_book(flags.model), context_words=words, num_questions=questions)
    write_shard(source, ScoreItem, items)
    environment = shared_environment(on_gpu=bench.on_gpu)
    with ExitStack() as stack:
        warm = stack.enter_context(
            Side(OURS, "benchmarks.sides.pool", folder=bench.folder / OURS, environment=environment)
        )
        opened = warm.call("open", folder=str(bench.folder / OURS / "ray"), **bench.opening)
        bench.tell(f"the warm engine started in {opened.seconds:.1f} s")
        scene = Scene(bench, warm, refs, source, environment)
        scene.swap(-1)
        sides = {OURS: scene.swap} if flags.ours_only else {OURS: scene.swap, COLD: scene.start_cold}
        summary = harness.summarise(harness.interleave(sides, flags.rounds, bench.tell))
    ratios = {}
    bench.report |= {"sides": summary, "checkpoints": count, "options": sum(len(i.continuations) for i in items)}
    bench.report |= {"warm_start_seconds": opened.seconds, **opened.value}
    if not flags.ours_only:
        difference, spread = scene.compare()
        bench.hold("scores of the warm engine and of the cold ones", difference, GOALS["max_abs_diff"].bound)
        ratios = {COLD: summary[COLD]["over_ours"], "max_abs_diff": difference}
        with_start = summary[COLD]["median"] / (summary[OURS]["median"] + opened.seconds)
        bench.report |= {"cold_over_warm_with_its_start": with_start, "difference_between_checkpoints": spread}
    bench.report["ratios"] = ratios
    harness.print_sides(bench, f"{count} checkpoints", summary, count, "checkpoints")
    harness.print_ratios(bench, ratios, GOALS)


def _values(path: Path) -> list[float]:
    return [value for score in read_shard(path, Score) for value in score.log_likelihoods]


def _add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--checkpoints", type=int, default=10, metavar="N", help="how many (10)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return harness.run("swap", (__doc__ or "").partition("\n")[0], measure, arguments, _add_flags)


if __name__ == "__main__":
    sys.exit(main())
