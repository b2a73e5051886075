"""Writing augmentations: our pool against a bare `vllm.LLM`, warm; and against `ray.data.llm`, from start to end.

    python -m benchmarks.generation --json generation.json

Every round has a fresh world and its prompts. Our side writes first; the peers are then told how many tokens each row
had, so that all write the same number. The first round is greedy and not timed: there the texts are compared. Then the
same with skewed lengths: one row in ten is ten times as long as the others.
Reads a model folder; writes the report, shards and logs.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import OURS, Bench, Goal, forget, interleave, print_ratios, print_sides, run, summarise
from benchmarks.settings import shared_environment, vllm_settings
from benchmarks.side import Side
from benchmarks.worlds import make_prompts
from data.records import Generation, Prompt
from data.rendering import load_book
from data.store import ROWS_PER_SHARD, read_refusals, read_shard, write_shard

BARE, RAY_DATA, SKEWED = "bare_vllm", "ray_data_llm", "skewed_lengths"
GOALS = {BARE: Goal(0.95), RAY_DATA: Goal(1.0), SKEWED: Goal(0.95)}
SHORT, LONG, LONG_EVERY = 12, 120, 10  # tokens, and which rows are long
NUM_FACTS, SAMPLES, TEMPERATURE = 64, 16, 0.7  # 3,072 prompts of three methods
LEAST_EQUAL = 0.99  # of greedy texts: batches of another shape round logits otherwise, and near ties fall otherwise


@dataclass
class Scene:
    """The sides of one run, and the prompts and our texts of each round."""

    bench: Bench
    environment: dict[str, str]
    warm: dict[str, Side] = field(default_factory=dict)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by round: text, num_tokens, temperature

    def write_prompts(self, name: str, temperature: float, *, skewed: bool = False) -> list[dict[str, Any]]:
        """The prompts of a round in shards; returns the units of work. Skewed ones write on to their length."""
        flags, folder = self.bench.flags, self.bench.folder / name
        facts, samples = (6, 1) if flags.smoke else (NUM_FACTS, SAMPLES)
        book = load_book(flags.model)
        prompts = make_prompts(name, book, num_facts=facts, samples=samples, temperature=temperature)
        if skewed:
            lengths = (SHORT if at % LONG_EVERY else LONG for at in range(len(prompts)))
            prompts = [replace(row, max_tokens=length, stop="") for row, length in zip(prompts, lengths, strict=True)]
        units = []
        for number, start in enumerate(range(0, len(prompts), ROWS_PER_SHARD)):
            shard = prompts[start : start + ROWS_PER_SHARD]
            source, target = folder / f"p{number}.arrow", folder / f"g{number}.arrow"
            write_shard(source, Prompt, shard)
            forget(target)
            unit = {"task": "generate", "source": str(source), "target": str(target), "num_rows": len(shard)}
            units.append(unit)
        return units

    def note(self, name: str, units: Sequence[dict[str, Any]]) -> None:
        """Keep what our side wrote: the peers are told the numbers of tokens."""
        rows: list[dict[str, Any]] = []
        for unit in units:
            written = {row.prompt_id: row for row in read_shard(Path(unit["target"]), Generation)}
            refusals = read_refusals(Path(unit["target"]))
            if refusals:
                self.bench.different.append(f"{name}: {len(refusals)} prompts were refused: {refusals[0].what}")
            for prompt in read_shard(Path(unit["source"]), Prompt):
                if prompt.prompt_id in written:
                    row = written[prompt.prompt_id]
                    rows.append(
                        {
                            "number": len(rows),
                            "text": prompt.context + prompt.text,
                            "num_tokens": row.num_tokens,
                            "temperature": prompt.temperature,
                            "written": row.text,
                        }
                    )
        self.rows[name] = rows

    def ours(self, number: int, temperature: float = TEMPERATURE) -> float:
        """A round on the warm pool."""
        units = self.write_prompts(f"warm-{number}", temperature)
        seconds = self.warm[OURS].call("run", units=units).seconds
        self.note(f"warm-{number}", units)
        return seconds

    def ours_skewed(self, number: int) -> float:
        """A round of skewed lengths on the warm pool."""
        units = self.write_prompts(f"skewed-{number}", TEMPERATURE, skewed=True)
        seconds = self.warm[OURS].call("run", units=units).seconds
        self.note(f"skewed-{number}", units)
        return seconds

    def bare(self, number: int) -> float:
        """A round on the warm `vllm.LLM`."""
        return self.ask_bare(f"warm-{number}")[0]

    def bare_skewed(self, number: int) -> float:
        """A round of skewed lengths on the warm `vllm.LLM`, all prompts at once."""
        return self.ask_bare(f"skewed-{number}")[0]

    def ask_bare(self, name: str) -> tuple[float, list[str]]:
        """Seconds and texts of a round on the warm `vllm.LLM`."""
        path = self.bench.folder / f"{name}.json"
        path.write_text(json.dumps(self.rows[name]))
        side = self.warm[BARE]
        side.call("prepare", prompts=str(path))
        answer = side.call("round")
        self.hold_tokens(name, BARE, answer.value["num_tokens"])
        return answer.seconds, answer.value["texts"]

    def ours_whole(self, number: int) -> float:
        """From a process's start to its end: Ray, the engine, all prompts."""
        name = f"whole-{number}"
        units = self.write_prompts(name, TEMPERATURE)
        started = time.perf_counter()
        with self.open_side(OURS, "pool", f"{name}-{OURS}") as side:
            side.call("open", folder=str(self.bench.folder / OURS / name), **self.bench.opening)
            side.call("run", units=units)
        seconds = time.perf_counter() - started
        self.note(name, units)
        return seconds

    def ray_data_whole(self, number: int) -> float:
        """The same with `ray.data.llm`."""
        name = f"whole-{number}"
        source, target = self.bench.folder / f"{name}.parquet", self.bench.folder / f"{name}-texts"
        pq.write_table(pa.Table.from_pylist(self.rows[name]).drop_columns(["written"]), source)
        started = time.perf_counter()
        with self.open_side(RAY_DATA, "ray_data_llm", f"{name}-{RAY_DATA}") as side:
            ended = side.call(
                "run",
                model=str(self.bench.flags.model),
                settings=vllm_settings(on_gpu=self.bench.on_gpu),
                source=str(source),
                target=str(target),
                num_gpus=int(self.bench.on_gpu),
            )
        seconds = time.perf_counter() - started
        self.bench.report["versions"][RAY_DATA] = ended.value["versions"]
        self.hold_tokens(name, RAY_DATA, sum(pq.read_table(target)["num_tokens"].to_pylist()))
        return seconds

    def hold_tokens(self, name: str, peer: str, found: int) -> None:
        """Note it if a peer wrote another number of tokens."""
        wanted = sum(row["num_tokens"] for row in self.rows[name])
        self.bench.hold(f"{name}: numbers of tokens, ours {wanted} and of {peer} {found},", abs(wanted - found), 0)

    def open_side(self, name: str, module: str, log: str) -> Side:
        """A process; a peer runs in a folder of its own as we do."""
        folder = self.bench.folder / name
        return Side(log, f"benchmarks.sides.{module}", folder=folder, environment=self.environment)


def measure(bench: Bench) -> None:
    """Warm rounds against bare vLLM, then whole runs against `ray.data.llm`."""
    scene = Scene(bench, shared_environment(on_gpu=bench.on_gpu))
    warm, skewed = measure_warm(scene)
    sides: dict[str, Callable[[int], float]] = {OURS: scene.ours_whole}
    if not bench.flags.ours_only:
        sides[RAY_DATA] = scene.ray_data_whole
    bench.tell("from start to end: a process, its engine, all prompts")
    whole = summarise(interleave(sides, bench.flags.rounds, bench.tell))
    rows = scene.rows["warm-0"]
    tokens = sum(row["num_tokens"] for row in rows)
    print_sides(bench, f"warm: {len(rows)} prompts, {tokens} tokens", warm, tokens, "tokens")
    lengths = sorted(row["num_tokens"] for row in scene.rows["skewed-0"])
    print_sides(
        bench,
        f"skewed: up to {lengths[-1]} tokens, half of them {lengths[len(lengths) // 2]}",
        skewed,
        sum(lengths),
        "tokens",
    )
    print_sides(bench, "from start to end", whole, sum(row["num_tokens"] for row in scene.rows["whole-0"]), "tokens")
    measured = {BARE: warm[BARE], RAY_DATA: whole[RAY_DATA], SKEWED: skewed[BARE]} if RAY_DATA in whole else {}
    ratios: dict[str, float] = {name: side["over_ours"] for name, side in measured.items()}
    print_ratios(bench, ratios, GOALS)
    bench.report |= {
        "ratios": ratios,
        "warm": warm,
        "skewed": skewed,
        "skewed_tokens": lengths,
        "whole": whole,
        "prompts": len(rows),
        "tokens": tokens,
        "settings": vllm_settings(on_gpu=bench.on_gpu),
    }


def measure_warm(scene: Scene) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Both sides warm, in turn, with equal and with skewed lengths; before that a greedy round to compare texts."""
    bench = scene.bench
    with ExitStack() as stack:
        scene.warm[OURS] = stack.enter_context(scene.open_side(OURS, "pool", OURS))
        opened = scene.warm[OURS].call("open", folder=str(bench.folder / OURS / "warm"), **bench.opening)
        bench.tell(f"{OURS} started in {opened.seconds:.1f} s")
        bench.report["start_seconds"] = {OURS: opened.seconds}
        bench.report["versions"] = {OURS: opened.value["versions"]}
        sides: dict[str, Callable[[int], float]] = {OURS: scene.ours}
        skewed: dict[str, Callable[[int], float]] = {OURS: scene.ours_skewed}
        scene.ours(-1, temperature=0.0)
        if not bench.flags.ours_only:
            scene.warm[BARE] = stack.enter_context(scene.open_side(BARE, "bare_vllm", BARE))
            opened = scene.warm[BARE].call(
                "open", model=str(bench.flags.model), settings=vllm_settings(on_gpu=bench.on_gpu)
            )
            bench.tell(f"{BARE} started in {opened.seconds:.1f} s")
            bench.report["start_seconds"][BARE] = opened.seconds
            bench.report["versions"][BARE] = opened.value["versions"]
            sides[BARE] = scene.bare
            compare_texts(scene, scene.ask_bare("warm--1")[1])
            skewed[BARE] = scene.bare_skewed
        warm = summarise(interleave(sides, bench.flags.rounds, bench.tell))
        bench.tell("skewed lengths: one row in ten is ten times as long")
        return warm, summarise(interleave(skewed, bench.flags.rounds, bench.tell))


def compare_texts(scene: Scene, theirs: Sequence[str]) -> None:
    """How many greedy texts of bare vLLM are ours, but for the line end at which ours stop."""
    rows = scene.rows["warm--1"]
    equal = [text.strip() == row["written"].strip() for row, text in zip(rows, theirs, strict=True)]
    share = sum(equal) / len(equal)
    scene.bench.report["equal_greedy_texts"] = share
    scene.bench.hold("greedy texts of ours and of bare vLLM", 1 - share, 1 - LEAST_EQUAL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return run("generation", (__doc__ or "").partition("\n")[0], measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
