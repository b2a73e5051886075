"""Assembles the report: from outcomes to `report.json`, `report.html` and the figures.

Reads a `ReportInput`, collected by the pipeline. Writes, `report.json` last: accuracy.png, accuracy.svg, losses.png,
report.html, report.json. All of the JSON but `wall_seconds`, `stages` and `versions` follows from the outcomes, the
audit and the runs, so a study that was interrupted and resumed gives the same report.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.seeds import derive_seed
from data.store import write_json
from evaluate import statistics
from evaluate.fanout import Refused
from evaluate.report.figures import save_accuracies, save_losses
from evaluate.report.legend import is_base, order_conditions
from evaluate.report.page import render_page
from evaluate.statistics import Answers, Cell, Estimate, Outcome

# Pairs that keep this direction; of any other pair, the condition that comes first in a report is subtracted.
PAIRS = {("icl", "finetuned"), ("augmented", "finetuned"), ("augmented", "icl"), ("augmented", "rephrased")}
MAX_CONDITIONS = 8  # of these all pairs are compared; of more, each with the first base condition and with the best


@dataclass(frozen=True, slots=True)
class ReportInput:
    """All that a report contains. Producer: the pipeline's last stage. Consumer: `write_report`.

    `losses` maps a run, "suite/.../condition", to its (step, nats per token). `command` repeats the study: its argv.
    `courses` has for each run its num_steps, its num_tokens (trained), its sources' shares and how texts shared rows.
    `conditions` describes each condition: {"weights", "fingerprint", "context"}; `left_out` maps suite and condition to
    the reason why it was not evaluated. `audit` is by suite what `evaluate.report.evidence.audit_suite` returns,
    `written` are the outcomes of written answers, `exponent` is that of fitted lengths, `mistakes` by suite what
    `evaluate.report.mistakes.find_mistakes` does, `general` what `evaluate.general.measure`.
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
    written: Sequence[Outcome] = ()
    exponent: float | None = None
    conditions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    refusals: Sequence[Refused] = ()
    general: Mapping[str, Any] = field(default_factory=dict)
    mistakes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


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

    "written" are those of written answers. "inferences" are accuracies by the kind of step, of splits that have
    several. "lenient" counts options that follow but say less than the right one; it has the splits in which there are
    any. "close" counts the answers that are decided by less than the engine's distance from fp32. "by_corpus" has the
    accuracy of each corpus and run.
    """
    if not content.outcomes:
        raise InputError(
            "no question was scored, so there is nothing to report",
            where=f"study {content.study}",
            hint="evaluate at least one suite under one condition",
        )
    answers = statistics.group_answers(content.outcomes)
    estimates = {cell: statistics.estimate(cell, found) for cell, found in answers.items()}
    close = Counter((row.suite, row.split, row.condition) for row in content.outcomes if row.is_close)
    refused = Counter((one.suite, one.condition, one.refusal.kind) for one in content.refusals)
    return {
        **{name: getattr(content, name) for name in ("study", "model", "fingerprint", "command")},
        "conditions": {name: dict(content.conditions[name]) for name in order_conditions(content.conditions)},
        "wall_seconds": round(content.wall_seconds, 3),
        "stages": {stage: round(seconds, 3) for stage, seconds in content.stage_seconds.items()},
        "suites": _nest({cell: _round_estimate(found) for cell, found in estimates.items()}),
        "by_corpus": _nest({cell: _round_groups(found) for cell, found in estimates.items()}),
        "differences": _tabulate_differences(answers, estimates),
        "written": _nest(_round_accuracies(content.written)),
        "inferences": _tabulate_inferences(content.outcomes),
        "lenient": _nest(_round_accuracies(statistics.as_lenient(content.outcomes))),
        "left_out": {suite: dict(reasons) for suite, reasons in sorted(content.left_out.items())},
        "close": _nest(dict(sorted(close.items()))),
        "refused": _nest(dict(sorted(refused.items()))),
        "exponent": content.exponent,
        "general": dict(content.general),
        "mistakes": {suite: dict(found) for suite, found in sorted(content.mistakes.items())},
        "audit": {suite: dict(found) for suite, found in sorted(content.audit.items())},
        "training": {run: dict(course) for run, course in sorted(content.courses.items())},
        "recipe": dict(content.recipe),
        "versions": dict(content.versions),
    }


def _nest(cells: Mapping[Any, Any]) -> dict[str, Any]:
    """Values that are named by tuples, as tables within tables."""
    root: dict[str, Any] = {}
    for (*outer, last), value in cells.items():
        table = root
        for name in outer:
            table = table.setdefault(name, {})
        table[last] = value
    return root


def _round_accuracies(outcomes: Sequence[Outcome]) -> dict[Cell, dict[str, Any]]:
    return {cell: _round_estimate(found) for cell, found in statistics.estimate_accuracies(outcomes).items()}


def _tabulate_inferences(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Accuracies by suite, split, inference type and condition; splits with one type only are left out."""
    kinds: dict[tuple[str, str], dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for row in outcomes:
        kinds[row.suite, row.split][row.inference].append(row)
    return _nest(
        {
            (*place, inference, cell.condition): found
            for place, inferences in sorted(kinds.items())
            for inference, rows in sorted(inferences.items())
            if len(inferences) > 1
            for cell, found in _round_accuracies(rows).items()
        }
    )


def _round_estimate(found: Estimate) -> dict[str, Any]:
    shares = {name: round(getattr(found, name), 6) for name in ("accuracy", "low", "high", "chance")}
    return {**shares, "n": found.n, "level": found.level}


def _round_groups(found: Estimate) -> dict[str, dict[str, float]]:
    return {corpus: {run: round(value, 6) for run, value in runs.items()} for corpus, runs in found.groups.items()}


def _tabulate_differences(answers: Mapping[Cell, Answers], estimates: Mapping[Cell, Estimate]) -> dict[str, Any]:
    """Paired differences by suite, split and pair of conditions; pairs that share no question are left out."""
    accuracies: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for cell, estimate in estimates.items():
        accuracies[cell.suite, cell.split][cell.condition] = estimate.accuracy
    tables: dict[tuple[str, str], dict[str, Any]] = {place: {} for place in accuracies}
    for place, pairs in tables.items():
        for first, second in _pairs(accuracies[place]):
            both = answers[Cell(*place, first)], answers[Cell(*place, second)]
            found = statistics.paired_difference(*both, seed=derive_seed(0, *place))
            if found:
                rounded = {name: round(100 * getattr(found, name), 4) for name in ("difference", "low", "high")}
                names = {"first": first, "second": second}
                pairs[f"{first}-{second}"] = {**rounded, "n": found.n, "level": found.level, **names}
    return _nest(tables)


def _pairs(accuracies: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """The pairs of a split's conditions that are compared, each in its direction."""
    ordered = order_conditions(accuracies)
    chosen = list(combinations(ordered, 2))
    if len(ordered) > MAX_CONDITIONS:
        base = next((name for name in ordered if is_base(name)), ordered[0])
        best = max(ordered, key=lambda name: accuracies[name])
        chosen = [pair for pair in chosen if base in pair or best in pair]
    return ((earlier, later) if (earlier, later) in PAIRS else (later, earlier) for earlier, later in chosen)
