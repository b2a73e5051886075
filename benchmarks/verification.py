"""What each verifier of inferences is worth, by the oracles of the generated sets. `python -m benchmarks.verification`.

    python -m benchmarks.verification --json verification.json --figure verification.png

The model writes inferences about small worlds of five sets, every verifier measures those that are kept, and the oracle
says which of them are true. Precision and recall are of the true ones, over all thresholds. With `--train SEEDS` the
augmented arm is trained with the default verification and without, on the same number of tokens. Writes the report of
`--json`, the figure, and under `--folder` sets, inferences and studies.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from augment_service.augment import AUGMENTATIONS, UNVERIFIED, plan_augmentation, seal_augmentations
from augment_service.contexts import ALL
from augment_service.engines.protocol import EngineSpec
from augment_service.jobs import ShardedJob
from augment_service.methods import AugmentPlan
from augment_service.verifiers import CONTRADICTED, VERDICTS
from augment_service.verify import (
    AUTO,
    NONE,
    Threshold,
    VerifyPlan,
    parse_verifiers,
    plan_verification,
    seal_verification,
)
from augment_service.worker import EngineWorker
from benchmarks.harness import Bench, run
from benchmarks.side import ROOT
from data.audit import read_oracles
from data.errors import ResumableError
from data.records import Augmentation, Document
from data.rendering import PromptBook, load_book
from data.sets.registry import make_set
from data.store import read_folder
from evaluate.report.evidence import judge_text
from pipeline.data_section import SETS

SIZES: dict[str, dict[str, int]] = {
    "reversals": {"facts": 40},
    "syllogisms": {"syllogisms": 20},
    "reversal-curse": {"people_per_group": 10, "documents_per_fact": 2},
    "semantic": {"categories": 32},
    "process": {"functions": 24},
}
SEED = 5  # of the worlds; the demo has others
FEWEST = 5  # true and untrue inferences, each, of a method that has a curve
Values = np.ndarray[Any, np.dtype[np.float64]]
Truths = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Judged:
    """The verified inferences of one method about one set: is each true, and its number by verifier."""

    true: Truths
    values: Mapping[str, Values]

    @property
    def has_curve(self) -> bool:
        """Whether there are enough of both kinds."""
        return min(self.true.sum(), (~self.true).sum()) >= FEWEST


def area(true: Truths, values: Values) -> float:
    """The share of pairs of a true and an untrue inference in which the true one has more (ROC AUC); ties are half.

    Of what was measured; NaN without any pair.
    """
    known = ~np.isnan(values)
    ours, theirs = values[known & true], values[known & ~true]
    if not len(ours) or not len(theirs):
        return math.nan
    more = (ours[:, None] > theirs[None]).mean() + (ours[:, None] == theirs[None]).mean() / 2
    return float(more)


def curve(true: Truths, values: Values) -> tuple[list[float], list[float]]:
    """Recall and precision of the true ones, at every threshold from the highest down; unmeasured ones are kept."""
    measured = np.where(np.isnan(values), math.inf, values)
    thresholds = np.unique(measured)[::-1]
    kept = [measured >= threshold for threshold in thresholds]
    return [float(true[one].sum() / true.sum()) for one in kept], [float(true[one].mean()) for one in kept]


def passes(values: Mapping[str, Values], thresholds: Mapping[str, Threshold]) -> Any:
    """Which inferences no verifier rejects."""
    rejected = [values[name] < threshold.bound(values[name].tolist()) for name, threshold in thresholds.items()]
    return ~np.any(rejected, axis=0)


def measure(bench: Bench) -> None:
    """All sets, then the table and the figure, then the trainings."""
    worlds = 1 if bench.flags.smoke else bench.flags.worlds
    book, judged = load_book(bench.flags.model), dict[tuple[str, str], Judged]()
    spec = EngineSpec(kind=bench.flags.engine, model=str(bench.flags.model))
    worker = EngineWorker(spec)
    for name, sizes in SIZES.items():
        folder = bench.folder / name
        make_set(name, "tiny", worlds, SETS[name].model_validate(sizes).sizes(), seed=SEED, folder=folder)
        for method, found in _judge_set(bench, folder, book, worker).items():
            judged[name, method] = found
        bench.tell(f"{name}: {sum(len(one.true) for (of, _), one in judged.items() if of == name)} inferences verified")
    bench.report["methods"] = {f"{name} {method}": describe(one) for (name, method), one in judged.items()}
    _print(bench, judged)
    if bench.flags.figure:
        save_curves({place: one for place, one in judged.items() if one.has_curve}, bench.flags.figure)
    if bench.flags.train:
        bench.report["accuracy"] = _train(bench)


def _judge_set(bench: Bench, folder: Path, book: PromptBook, worker: EngineWorker) -> dict[str, Judged]:
    documents = folder / "documents"
    wanted = AugmentPlan(("local", "global"), 1 if bench.flags.smoke else bench.flags.samples, 0.7, SEED)
    jobs = plan_augmentation(documents, folder, book, wanted, model="benchmark", context=ALL)
    _do(worker, jobs)
    seal_augmentations(documents, folder, jobs, UNVERIFIED)
    methods = tuple(template.method for template in book.select(wanted.methods))
    plan = VerifyPlan(dict.fromkeys(VERDICTS, Threshold(-math.inf)), methods)
    jobs = plan_verification(documents, folder, book, plan, model="benchmark", context=ALL, seed=SEED)
    _do(worker, jobs)
    seal_verification(documents, folder, book, plan, jobs, key="benchmark")
    oracles = read_oracles(read_folder(documents, Document))
    rows: dict[str, list[Augmentation]] = {}
    for row in read_folder(folder / AUGMENTATIONS, Augmentation):
        if row.verdict in ("kept", CONTRADICTED):  # nothing else is measured, and no threshold rejects here
            rows.setdefault(row.method, []).append(row)
    return {
        method: Judged(
            np.array([judge_text(oracles[row.corpus], row.text) == "true" for row in found]),
            {name: np.array([getattr(row, name) for row in found]) for name in VERDICTS}
            | {"consistency": np.array([float(row.verdict == "kept") for row in found])},
        )
        for method, found in sorted(rows.items())
    }


def _do(worker: EngineWorker, jobs: Sequence[ShardedJob]) -> None:
    for unit in [unit for job in jobs for unit in job.units()]:
        worker.run_unit(*unit.args)  # type: ignore[arg-type]


def describe(one: Judged) -> dict[str, Any]:
    """Counts, areas, curves, and what the default thresholds do."""
    kept = passes(one.values, parse_verifiers(AUTO, where="default"))
    found = {
        "inferences": len(one.true),
        "true": int(one.true.sum()),
        "default": {
            "kept": int(kept.sum()),
            "precision": float(one.true[kept].mean()) if kept.any() else math.nan,
            "recall": float(kept[one.true].mean()) if one.true.any() else math.nan,
            "rejected_of_untrue": float((~kept)[~one.true].mean()) if not one.true.all() else math.nan,
        },
    }
    areas = {name: area(one.true, values) for name, values in one.values.items()}
    curves = {name: curve(one.true, values) for name, values in one.values.items()} if one.has_curve else {}
    return found | {"auc": areas, "curves": {name: list(map(list, lines)) for name, lines in curves.items()}}


def _print(bench: Bench, judged: Mapping[tuple[str, str], Judged]) -> None:
    names = [*VERDICTS, "consistency"]
    areas = Table(box=None, padding=(0, 2, 0, 0), title="ROC AUC, true against untrue", title_justify="left")
    shares = Table(box=None, padding=(0, 2, 0, 0), title="default thresholds", title_justify="left")
    for column in ("set", "method", "true", "untrue", *names):
        areas.add_column(column)
    for column in ("set", "method", "true of all", "true of kept", "kept of true", "rejected of untrue"):
        shares.add_column(column)
    for (name, method), one in judged.items():
        found = describe(one)
        counts = str(found["true"]), str(found["inferences"] - found["true"])
        shown = ["" if math.isnan(found["auc"][each]) else f"{found['auc'][each]:.3f}" for each in names]
        areas.add_row(name, method, *counts, *(shown if one.has_curve else ()))
        default = found["default"]
        values = (one.true.mean(), default["precision"], default["recall"], default["rejected_of_untrue"])
        shares.add_row(name, method, *("" if math.isnan(value) else f"{value:.3f}" for value in values))
    for table in (areas, shares):
        bench.console.print()
        bench.console.print(table, highlight=False, width=150)


def save_curves(judged: Mapping[tuple[str, str], Judged], path: Path) -> None:
    """Write the figure: a panel for each set and method, a line for each verifier."""
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(3.4 * max(1, len(judged)), 3.2), layout="constrained")
        panels = figure.subplots(1, max(1, len(judged)), sharey=True, squeeze=False)[0]
        for panel, ((name, method), one) in zip(panels, judged.items(), strict=False):
            for number, (verifier, values) in enumerate(one.values.items()):
                if not np.isnan(values).all():
                    style = {"color": f"C{number}", "marker": ".", "markersize": 3, "linewidth": 1}
                    panel.plot(*curve(one.true, values), label=verifier, **style)
            kept = passes(one.values, parse_verifiers(AUTO, where="default"))
            panel.plot(kept[one.true].mean(), one.true[kept].mean(), "k*", markersize=10, label="default")
            panel.set(title=f"{name}, {method}", xlabel="recall of the true inferences", xlim=(0, 1.02))
        panels[0].set_ylabel("precision")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, facecolor="white", metadata={"Software": None})


def _train(bench: Bench) -> dict[str, Any]:
    """The accuracies of the augmented arm by verification, suite and split; all arms take the same tokens."""
    sets = [name for name in SIZES if name in ("syllogisms", "semantic", "process")]
    words = [f"--data.{name}.{key}={value}" for name in sets for key, value in SIZES[name].items()]
    recipe = bench.folder / "recipe.toml"
    recipe.write_text(
        f'study = "verification"\nmodel = "{bench.flags.model}"\n'
        + "".join(f"[data.{name}]\nworlds = {bench.flags.worlds}\n" for name in sets)
        + "[train]\ncheckpoint_every = 0\nranks_per_run = 1\n"
        + '[train.arms]\naugmented = ["local", "global"]\n'
    )
    found: dict[str, Any] = {}
    for verify in (NONE, AUTO):
        out = bench.folder / "study"
        seeds = ",".join(map(str, range(bench.flags.train)))
        command = ["-m", "pipeline", "run", str(recipe), "--out", str(out), f"--augment.verify={verify}"]
        command += [f"--train.seeds={seeds}", *words]
        with (bench.folder / f"study-{verify}.log").open("w") as log:
            if subprocess.run([sys.executable, *command], cwd=ROOT, stdout=log, stderr=log).returncode:
                raise ResumableError(f"the study failed: see {log.name}, then run this again with --folder")
        report = json.loads((out / "report" / "report.json").read_text())
        found[verify] = {
            suite: {split: cells["augmented"] for split, cells in splits.items()}
            for suite, splits in report["suites"].items()
        }
        bench.tell(f"trained with verify = {verify}")
    for suite, splits in found[NONE].items():
        for split, cell in splits.items():
            bench.tell(f"{suite:<12} {split:<20} {cell['accuracy']:.3f} -> {found[AUTO][suite][split]['accuracy']:.3f}")
    return found


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    parser.add_argument("--worlds", type=int, default=4, metavar="N", help="worlds of each set (4)")
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="generations of each target (4)")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="write the curves here")
    parser.add_argument("--train", type=int, default=0, metavar="SEEDS", help="train with and without (0: not at all)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return run("verification", (__doc__ or "").partition("\n")[0], measure, arguments, add_flags)


if __name__ == "__main__":
    sys.exit(main())
