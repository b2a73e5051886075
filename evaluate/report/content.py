"""Assembles the report: from outcomes to `report.json`, `report.html` and the figures.

Reads a `ReportInput`, collected by the pipeline. Writes, `report.json` last: accuracy.png, accuracy.svg, losses.png,
report.html, report.json. All of the JSON but `wall_seconds`, `stages` and `versions` follows from the outcomes, the
audit and the runs, so a study that was interrupted and resumed gives the same report.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.seeds import derive_seed
from data.store import write_json
from evaluate.fanout import Refused, count_refusals
from evaluate.report.figures import save_accuracies, save_losses
from evaluate.report.legend import is_base, order_conditions
from evaluate.report.page import render_page
from evaluate.report.table import print_report
from evaluate.statistics import (
    Answers,
    Cell,
    Estimate,
    Outcome,
    as_lenient,
    estimate,
    estimate_accuracies,
    group_answers,
    paired_difference,
)

__all__ = ["ReportInput", "build_report", "print_report", "write_report"]

# Pairs that keep this direction; of any other pair, the condition that comes first in a report is subtracted.
PAIRS = {("icl", "finetuned"), ("augmented", "finetuned"), ("augmented", "icl"), ("augmented", "rephrased")}
MAX_CONDITIONS = 8  # of these all pairs are compared; of more, each with the first base condition and with the best


@dataclass(frozen=True, slots=True)
class ReportInput:
    """All that a report contains. Producer: the pipeline's last stage. Consumer: `write_report`.

    `losses` maps a run, "suite/.../condition", to its (step, nats per token). `command` repeats the study: its argv.
    `courses` has for each run its num_steps, its num_tokens (trained), its sources' shares and how texts shared rows.
    `conditions` describes each condition: {"weights", "fingerprint", "context"}; `left_out` maps suite and condition to
    the reason why it was not evaluated. `audit` is by suite what `evaluate.report.evidence.audit_suite` returns.
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
    conditions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    refusals: Sequence[Refused] = ()


def write_report(content: ReportInput, folder: Path) -> dict[str, Any]:
    """Write the report's files into the folder and return the content of `report.json`.

    Raises InputError where nothing was scored. Without losses (nothing was trained) there is no `losses.png`.
    """
    report = build_report(content)
    folder.mkdir(parents=True, exist_ok=True)
    save_accuracies(report["suites"], report["by_corpus"], folder)
    if content.losses:
        save_losses(content.losses, folder)
    (folder / "report.html").write_text(render_page(report, content.losses), encoding="utf-8")
    write_json(folder / "report.json", report)
    return report


def build_report(content: ReportInput) -> dict[str, Any]:
    """The content of `report.json`. Accuracies are shares with 6 digits, differences are points with 4.

    "inferences" are accuracies by the kind of step, of splits that have several. "lenient" counts options that follow
    but say less than the right one; it has the splits in which there are any. "by_corpus" has the accuracy of each
    corpus and run.
    """
    if not content.outcomes:
        raise InputError(
            "no question was scored, so there is nothing to report",
            where=f"study {content.study}",
            hint="evaluate at least one suite under one condition",
        )
    answers = group_answers(content.outcomes)
    estimates = {cell: estimate(cell, found) for cell, found in answers.items()}
    return {
        "study": content.study,
        "model": content.model,
        "fingerprint": content.fingerprint,
        "conditions": {name: dict(content.conditions[name]) for name in order_conditions(content.conditions)},
        "wall_seconds": round(content.wall_seconds, 3),
        "stages": {stage: round(seconds, 3) for stage, seconds in content.stage_seconds.items()},
        "suites": _nest({cell: _round_estimate(found) for cell, found in estimates.items()}),
        "by_corpus": _nest({cell: _round_groups(found) for cell, found in estimates.items()}),
        "differences": _tabulate_differences(answers, estimates),
        "inferences": _tabulate_inferences(content.outcomes),
        "lenient": _tabulate_accuracies(as_lenient(content.outcomes)),
        "left_out": {suite: dict(reasons) for suite, reasons in sorted(content.left_out.items())},
        "refused": count_refusals(content.refusals),
        "audit": {suite: dict(found) for suite, found in sorted(content.audit.items())},
        "training": {run: dict(course) for run, course in sorted(content.courses.items())},
        "recipe": dict(content.recipe),
        "versions": dict(content.versions),
        "command": content.command,
    }


def _nest(cells: Mapping[Cell, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    suites: dict[str, dict[str, dict[str, Any]]] = {}
    for (suite, split, condition), found in cells.items():
        suites.setdefault(suite, {}).setdefault(split, {})[condition] = found
    return suites


def _tabulate_accuracies(outcomes: Sequence[Outcome]) -> dict[str, dict[str, dict[str, Any]]]:
    return _nest({cell: _round_estimate(found) for cell, found in estimate_accuracies(outcomes).items()})


def _tabulate_inferences(outcomes: Sequence[Outcome]) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Accuracies by suite, split, inference type and condition; splits with one type only are left out."""
    kinds: dict[tuple[str, str], dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for row in outcomes:
        kinds[row.suite, row.split][row.inference].append(row)
    suites: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for (suite, split), inferences in sorted(kinds.items()):
        for inference, rows in sorted(inferences.items()) if len(inferences) > 1 else ():
            cells = _tabulate_accuracies(rows)[suite][split]
            suites.setdefault(suite, {}).setdefault(split, {})[inference] = cells
    return suites


def _round_estimate(found: Estimate) -> dict[str, Any]:
    shares = {name: round(getattr(found, name), 6) for name in ("accuracy", "low", "high", "chance")}
    return {**shares, "n": found.n, "level": found.level}


def _round_groups(found: Estimate) -> dict[str, dict[str, float]]:
    return {corpus: {run: round(value, 6) for run, value in runs.items()} for corpus, runs in found.groups.items()}


def _tabulate_differences(
    answers: Mapping[Cell, Answers], estimates: Mapping[Cell, Estimate]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Paired differences by suite, split and pair of conditions; pairs that share no question are left out."""
    suites: dict[str, dict[str, dict[str, Any]]] = {}
    for (suite, split), accuracies in _by_split(estimates).items():
        pairs = suites.setdefault(suite, {}).setdefault(split, {})
        for first, second in _pairs(accuracies):
            found = paired_difference(
                answers[Cell(suite, split, first)],
                answers[Cell(suite, split, second)],
                seed=derive_seed(0, suite, split),
            )
            if found:
                rounded = {name: round(100 * getattr(found, name), 4) for name in ("difference", "low", "high")}
                names = {"first": first, "second": second}
                pairs[f"{first}-{second}"] = {**rounded, "n": found.n, "level": found.level, **names}
    return suites


def _by_split(estimates: Mapping[Cell, Estimate]) -> dict[tuple[str, str], dict[str, float]]:
    splits: dict[tuple[str, str], dict[str, float]] = {}
    for (suite, split, condition), found in estimates.items():
        splits.setdefault((suite, split), {})[condition] = found.accuracy
    return splits


def _pairs(accuracies: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """The pairs of a split's conditions that are compared, each in its direction."""
    ordered = order_conditions(accuracies)
    chosen = list(combinations(ordered, 2))
    if len(ordered) > MAX_CONDITIONS:
        base = next((name for name in ordered if is_base(name)), ordered[0])
        best = max(ordered, key=lambda name: accuracies[name])
        chosen = [pair for pair in chosen if base in pair or best in pair]
    return ((earlier, later) if (earlier, later) in PAIRS else (later, earlier) for earlier, later in chosen)
