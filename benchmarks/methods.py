"""What each method of augmentation teaches, at the same number of trained tokens: a study with an arm for each.

    python -m benchmarks.methods --json methods.json

The embedded model is finetuned on the documents of the five generated sets and on the rows of one method or a family,
by `entail run`; then it answers the sets' questions without documents. All arms train the tokens of the first one,
which has the documents alone. The closure of the oracle contains the tested facts: it is an upper bound, no method.
Inferences are verified as by default; the arm of all inferences is also trained with other verifiers.
Writes the report; with `--folder`, the study is there afterwards, and a run with further worlds or seeds resumes it.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from benchmarks.harness import Bench, run
from benchmarks.side import ROOT, SideError
from evaluate.report.legend import TRAINED

Arms = Mapping[str, tuple[str, ...]]
ALL_INFERENCES = ("local", "global")
ARMS: Arms = {
    "finetuned": (),
    "local": ("local",),
    "global": ("global",),
    "both": ALL_INFERENCES,
    "reverse": ("reverse",),
    "masked": ("masked",),
    "closure": ("closure",),
}
# Other verifiers for the arm of all inferences.
VERIFIERS = {"both-unverified": "none", "both-majority": "agreement=0.6"}
# Sizes of a world: those of the demo.
SETS = {
    "reversals": {"facts": 40},
    "syllogisms": {"syllogisms": 20},
    "reversal-curse": {"people_per_group": 10, "documents_per_fact": 2},
    "semantic": {"categories": 32},
    "process": {"functions": 24},
}
SMOKE_SETS = {"reversals": {"facts": 8}}
CONTROLS = ("pretrained", "icl")


def measure(bench: Bench) -> None:
    """Run the study and tabulate `accuracies`: by condition and set, means over all splits but the trained one."""
    flags = bench.flags
    bench.tell(f"{len(ARMS)} arms, {flags.worlds} worlds of each set, seeds {flags.seeds}")
    report = _study(bench, "auto", ARMS)
    accuracies = tabulate(report, (*CONTROLS, *ARMS))
    for name, verifiers in VERIFIERS.items():
        found = tabulate(_study(bench, verifiers, {"finetuned": (), name: ALL_INFERENCES}), (name,))
        accuracies |= found
    bench.report |= {
        "accuracies": accuracies,
        "splits": report["suites"],
        "differences": report["differences"],
        "training": {name: course["num_tokens"] for name, course in report["training"].items()},
        "rows": {suite: found["methods"] for suite, found in report["audit"].items()},
        "recipe": make_recipe(flags, "auto", ARMS),
    }
    _print(bench, accuracies)


def _study(bench: Bench, verifiers: str, arms: Arms) -> Any:
    """The content of the report; studies share what the model writes, and trained runs of the same texts."""
    name = "study" if verifiers == "auto" else f"study-{verifiers.partition('=')[0]}"
    recipe, out = bench.folder / f"{name}.toml", bench.folder / "study"
    recipe.write_text(make_recipe(bench.flags, verifiers, arms))
    words = [sys.executable, "-m", "pipeline", "run", str(recipe), "--out", str(out)]
    done = subprocess.run(words, cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        raise SideError(f"entail run ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    bench.tell(f"trained with verify = {verifiers}")
    return json.loads((out / "report" / "report.json").read_text())


def tabulate(report: dict[str, Any], conditions: Sequence[str]) -> dict[str, dict[str, float]]:
    """By condition and set: the mean accuracy over all splits but the trained direction."""
    found: dict[str, dict[str, float]] = {}
    for suite, splits in report["suites"].items():
        tests = [cells for split, cells in splits.items() if split != TRAINED]
        for condition in conditions:
            values = [cells[condition]["accuracy"] for cells in tests if condition in cells]
            if values:
                found.setdefault(condition, {})[suite] = sum(values) / len(values)
    return found


def make_recipe(flags: argparse.Namespace, verifiers: str, arms: Arms) -> str:
    """The study as TOML."""
    smoke = flags.smoke
    lines = ['study = "methods"', "seed = 1", f"model = {json.dumps(str(flags.model))}"]
    for name, sizes in (SMOKE_SETS if smoke else SETS).items():
        lines += [f"[data.{name}]", f"worlds = {1 if smoke else flags.worlds}"]
        lines += [f"{key} = {value}" for key, value in sizes.items()]
    methods = sorted({method for some in ARMS.values() for method in some})
    lines += ["[augment]", f"methods = {json.dumps(methods)}", "samples = 2", f"verify = {json.dumps(verifiers)}"]
    lines += ["[engine]", 'kind = "fake"'] if flags.engine == "fake" else []
    lines += ["[train]", f"seeds = {json.dumps([0] if smoke else flags.seeds)}", 'match = "tokens"']
    lines += ["checkpoint_every = 0", "ranks_per_run = 1"] + ["steps = 8"] * smoke
    lines += ["[train.arms]"] + [f"{arm} = {json.dumps(list(some))}" for arm, some in arms.items()]
    return "\n".join([*lines, ""])


def _print(bench: Bench, accuracies: dict[str, dict[str, float]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("accuracy, %")
    suites = list(next(iter(accuracies.values())))
    for name in (*suites, "mean"):
        table.add_column(name, justify="right")
    for condition, by_suite in accuracies.items():
        values = [by_suite[suite] for suite in suites if suite in by_suite]
        cells = [f"{100 * by_suite[suite]:.1f}" if suite in by_suite else "" for suite in suites]
        table.add_row(condition, *cells, f"{100 * sum(values) / len(values):.1f}")
    bench.console.print()
    bench.console.print(table, highlight=False)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--worlds", type=int, default=2, metavar="N", help="worlds of each set (2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="S", help="training seeds (0 1 2)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return run("methods", (__doc__ or "").partition("\n")[0], measure, arguments, _add_flags)


if __name__ == "__main__":
    sys.exit(main())
