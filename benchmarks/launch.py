"""Where the start of a finetuning goes: the driver, Ray, the group of workers, what they do before the first step.

    python -m benchmarks.launch --json launch.json

Every round is a fresh process that trains two runs of one step in one group of two ranks: so it is seen what a further
run costs. Then the time for the texts of a large corpus: in the run that tokenizes them, and in a further one, in a
process of its own. Writes the report, texts and checkpoints.
"""

import statistics
import sys
import time
from collections.abc import Sequence

from rich.table import Table

from benchmarks.corpora import Load, make_model, make_passages, make_texts, words_of, write_texts
from benchmarks.harness import Bench, Goal, print_ratios, run
from benchmarks.real_models import SMOLLM2, real_model
from benchmarks.settings import shared_environment
from benchmarks.side import Side

RANKS = 2
TINY = {"words": 700, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
PYTHON, SESSION, GROUP = "python, and the driver's imports", "a Ray session", "Ray Train's group of processes"
IMPORTS = "  of which imports, as a process alone needs them"
STEP, END, FURTHER = "the step, the checkpoint", "the group's end", "a further run in the same group"
ASIDE = (IMPORTS, FURTHER)  # no parts of their own
TEXTS_AGAIN = "further_run_texts_seconds"
GOALS = {"further_run_seconds": Goal(5, at_most=True), TEXTS_AGAIN: Goal(1, at_most=True)}
CORPUS = Load("corpus", 1, 200_000)


def measure(bench: Bench) -> None:
    """Rounds of a start, with a model whose own size costs nothing, and with one of 25 million parameters."""
    models = {"tiny": TINY} if bench.flags.smoke else {"tiny": TINY, "25M": {}}
    bench.report |= {"models": {}, "ranks": RANKS}
    further = []
    for name, sizes in models.items():
        model = make_model(bench.folder / f"model-{name}", **sizes)
        write_texts(make_texts(Load("sentences", 8, 8), "launch", words_of(model)), bench.folder / name)
        rounds = []
        for number in range(bench.flags.rounds):
            rounds.append(start_once(bench, name, number))
            whole = sum(seconds for part, seconds in rounds[-1].items() if part not in ASIDE)
            bench.tell(f"{name}, round {number + 1}/{bench.flags.rounds}: {whole:.1f} s")
        medians = {part: statistics.median(entry[part] for entry in rounds) for part in rounds[0]}
        bench.report["models"][name] = {"medians": medians, "rounds": rounds}
        further.append(medians[FURTHER])
    print_parts(bench)
    ratios = {"further_run_seconds": max(further), TEXTS_AGAIN: sum(measure_corpus(bench)["further"].values())}
    print_ratios(bench, ratios, GOALS)
    bench.report["ratios"] = ratios


def start_once(bench: Bench, name: str, number: int) -> dict[str, float]:
    """The parts of a start in seconds, and the seconds of a further run."""
    started = time.perf_counter()
    folder = bench.folder / f"{name}-{number}"
    with Side("launch", "benchmarks.sides.launch", folder=folder, environment=shared_environment(on_gpu=False)) as side:
        bench.report["versions"] = side.call("imports").value["versions"]
        imported = time.perf_counter() - started
        where = {"model": str(bench.folder / f"model-{name}"), "documents": str(bench.folder / name / "documents")}
        found = side.call("train", folder=str(folder), num_workers=RANKS, **where).value
        importing = side.call("worker_imports").value
    first, second = found["phases"]
    # What a run costs beside its phases (the step, the checkpoint) is seen in the second one.
    step = found["further_run"] - sum(second.values())
    group = found["first_run"] - sum(first.values()) - step
    start = {PYTHON: imported, SESSION: found["session"], GROUP: group, IMPORTS: importing, **first, STEP: step}
    return start | {END: found["end"], FURTHER: found["further_run"]}


def measure_corpus(bench: Bench) -> dict[str, dict[str, float]]:
    """Seconds that the first run and a further one spend on the texts of a corpus."""
    folder, load = bench.folder / "corpus", Load("sentences", 1, 200) if bench.flags.smoke else CORPUS
    model = bench.folder / "model-tiny" if bench.flags.smoke else real_model(SMOLLM2)
    texts = make_texts(load, "launch", words_of(model)) if bench.flags.smoke else make_passages(load, "launch")
    write_texts(texts, folder)
    bench.tell(f"a corpus of {len(texts):,} texts: tokenized once, which takes minutes")
    where = {"model": str(model), "documents": str(folder / "documents"), "folder": str(folder)}
    environment, found = shared_environment(on_gpu=False), {}
    for name in ("first", "further"):
        with Side(name, "benchmarks.sides.launch", folder=folder, environment=environment) as side:
            found[name] = side.call("read_texts", name=name, **where).value
        parts = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in found[name].items())
        bench.tell(f"a corpus of {len(texts):,} texts, {name} run: {parts}")
    bench.report["corpus"] = {"texts": len(texts), **found}
    return found


def print_parts(bench: Bench) -> None:
    """The table: seconds of each part, a column for each model."""
    models = bench.report["models"]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("part")
    for name in models:
        table.add_column(f"{name}, s", justify="right")
    for part in next(iter(models.values()))["medians"]:
        if part == FURTHER:
            table.add_section()
        table.add_row(part, *(f"{entry['medians'][part]:.2f}" for entry in models.values()))
    bench.console.print()
    bench.console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return run("launch", (__doc__ or "").partition("\n")[0], measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
