"""Puts the report together: from outcomes to `report.json`, `report.html` and the figures.

Reads a `ReportInput`, collected by the pipeline. Writes, `report.json` last: accuracy.png, accuracy.svg, losses.png,
report.html, report.json. All of the JSON but `wall_seconds`, `stages` and `versions` follows from the outcomes, the
audit and the courses of the runs, so that a study that was interrupted and resumed tells the same.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.seeds import derive_seed
from data.store import write_json
from evaluate.report.figures import save_accuracies, save_losses
from evaluate.report.page import render_page
from evaluate.report.table import print_report
from evaluate.statistics import Estimate, Outcome, as_lenient, estimate_accuracies, paired_difference

__all__ = ["ReportInput", "build_report", "print_report", "write_report"]

PAIRS = (("icl", "finetuned"), ("augmented", "finetuned"), ("augmented", "icl"), ("augmented", "rephrased"))


@dataclass(frozen=True, slots=True)
class ReportInput:
    """All that a report tells. Producer: the pipeline's last stage. Consumer: `write_report`.

    `losses` maps a run, "suite/.../condition", to its (step, nats per token). `command` makes the study again.
    `courses` tells of each run its num_steps, its num_tokens (trained), its sources' shares and how texts shared rows.
    `audit` has per suite the counts num_documents, num_questions, num_tests (questions that ask for an inference),
    verbatim_in_documents and verbatim_in_augmentations (of these), missing_requirements (questions whose documents are
    not all there); `methods`: per method the lines generated, how many are distinct, kept, and of the kept ones true
    by the world's closure; `examples` ({document, method, text, true}) and `question_examples` ({prompt, options,
    right: indices of options, chosen: {condition: index of an option}}).
    """

    study: str
    model: str
    fingerprint: str
    outcomes: Sequence[Outcome]
    stage_seconds: Mapping[str, float]
    wall_seconds: float
    audit: Mapping[str, Mapping[str, Any]]
    recipe: Mapping[str, Any]
    versions: Mapping[str, str]
    losses: Mapping[str, Sequence[tuple[int, float]]]
    command: str
    courses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def write_report(content: ReportInput, folder: Path) -> dict[str, Any]:
    """Write the report's files into the folder and return the content of `report.json`.

    Raises InputError where nothing was scored. Without losses (nothing was trained) there is no `losses.png`.
    """
    report = build_report(content)
    folder.mkdir(parents=True, exist_ok=True)
    save_accuracies(report["suites"], folder)
    if content.losses:
        save_losses(content.losses, folder)
    (folder / "report.html").write_text(render_page(report, content.losses), encoding="utf-8")
    write_json(folder / "report.json", report)
    return report


def build_report(content: ReportInput) -> dict[str, Any]:
    """The content of `report.json`. Accuracies are shares with 6 digits, differences are points with 4.

    "inferences" are accuracies by the kind of step, of splits that have several. "lenient" counts options that follow
    but say less than the right one; it has the splits in which there are any.
    """
    if not content.outcomes:
        raise InputError(
            "no question was scored, so there is nothing to report",
            where=f"study {content.study}",
            hint="evaluate at least one suite under one condition first",
        )
    return {
        "study": content.study,
        "model": content.model,
        "fingerprint": content.fingerprint,
        "wall_seconds": round(content.wall_seconds, 3),
        "stages": {stage: round(seconds, 3) for stage, seconds in content.stage_seconds.items()},
        "suites": _tabulate_accuracies(content.outcomes),
        "differences": _tabulate_differences(content.outcomes),
        "inferences": _tabulate_inferences(content.outcomes),
        "lenient": _tabulate_accuracies(as_lenient(content.outcomes)),
        "audit": {suite: dict(found) for suite, found in sorted(content.audit.items())},
        "training": {run: dict(course) for run, course in sorted(content.courses.items())},
        "recipe": dict(content.recipe),
        "versions": dict(content.versions),
        "command": content.command,
    }


def _tabulate_accuracies(outcomes: Sequence[Outcome]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    suites: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for (suite, split, condition), found in estimate_accuracies(outcomes).items():
        suites.setdefault(suite, {}).setdefault(split, {})[condition] = _round_estimate(found)
    return suites


def _tabulate_inferences(outcomes: Sequence[Outcome]) -> dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]:
    """Accuracies by suite, split, inference type and condition; splits with one type only are left out."""
    kinds: dict[tuple[str, str], dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for row in outcomes:
        kinds[row.suite, row.split][row.inference].append(row)
    suites: dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]] = {}
    for (suite, split), inferences in sorted(kinds.items()):
        for inference, rows in sorted(inferences.items()) if len(inferences) > 1 else ():
            cells = suites.setdefault(suite, {}).setdefault(split, {}).setdefault(inference, {})
            for (_, _, condition), found in estimate_accuracies(rows).items():
                cells[condition] = _round_estimate(found)
    return suites


def _round_estimate(found: Estimate) -> dict[str, float]:
    return {
        "accuracy": round(found.accuracy, 6),
        "low": round(found.low, 6),
        "high": round(found.high, 6),
        "n": found.n,
        "chance": round(found.chance, 6),
    }


def _tabulate_differences(outcomes: Sequence[Outcome]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Paired differences by suite, split and pair of conditions; pairs that share no question are left out."""
    cells: dict[tuple[str, str], dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for row in outcomes:
        cells[row.suite, row.split][row.condition].append(row)
    suites: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for (suite, split), conditions in sorted(cells.items()):
        pairs = suites.setdefault(suite, {}).setdefault(split, {})
        for first, second in PAIRS:
            seed = derive_seed(0, suite, split, first, second)
            found = paired_difference(conditions[first], conditions[second], seed=seed)
            if found:
                pairs[f"{first}-{second}"] = {
                    "difference": round(100 * found.difference, 4),
                    "low": round(100 * found.low, 4),
                    "high": round(100 * found.high, 4),
                    "n": found.n,
                }
    return suites
