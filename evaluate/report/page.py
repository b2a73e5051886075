"""The report as one self-contained web page. Reads the content of `report.json` and the losses, returns HTML.

Everything is inline (styles, figures), nothing is requested, and all text from models and documents is escaped.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluate.report import legend
from evaluate.report.claims import percent, points, state_claim
from evaluate.report.evidence import REJECTING
from evaluate.report.figures import Losses, embed_losses, embed_panel, embedded_inches

TEMPLATE = "page.html.j2"
FILTERS = ("plain", "label_split", "label_condition", "order_splits", "order_conditions")  # of the legend
MAX_COLUMNS = 8  # conditions; more are rows, best first


def render_page(report: Mapping[str, Any], losses: Losses) -> str:
    """The page's HTML. Raises jinja2.UndefinedError where the report lacks a field that the page shows."""
    suites, by_corpus = report["suites"], report["by_corpus"]
    styles, shown = legend.style_suites(suites)
    names = {
        suite: legend.order_conditions({name for cells in suites[suite].values() for name in cells}) for suite in suites
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": points, "duration": format_duration}
    environment.filters |= {name: getattr(legend, name) for name in FILTERS}
    return environment.get_template(TEMPLATE).render(
        report=report,
        trained=legend.TRAINED,
        rejecting=REJECTING,
        claims={suite: state_claim(report, suite) for suite in suites},
        styles=styles,
        bounds=legend.upper_bounds(report),
        shown=shown,
        rankings={suite: legend.rank_conditions(suites[suite]) for suite in suites if len(names[suite]) > MAX_COLUMNS},
        names_of=names,
        pairs={suite: name_pairs(splits) for suite, splits in report["differences"].items()},
        panels={
            suite: Markup(embed_panel(suite, splits, by_corpus[suite], styles)) for suite, splits in suites.items()
        },
        inches={suite: embedded_inches(splits) for suite, splits in suites.items()},
        means=average_runs(by_corpus),
        levels={cell["level"] for splits in suites.values() for cells in splits.values() for cell in cells.values()},
        losses=Markup(embed_losses(losses)) if losses else "",
        settings=list(flatten(report["recipe"])),
    )


def name_pairs(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A label for each pair of conditions that some split compares."""
    pairs = {key: (found["first"], found["second"]) for cells in splits.values() for key, found in cells.items()}
    return {key: " − ".join(map(legend.label_condition, names)) for key, names in pairs.items()}


def average_runs(by_corpus: Mapping[str, Any]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """By suite, split and corpus, where there are several corpora: the accuracy of each condition over its runs."""
    means: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for suite, splits in by_corpus.items():
        for split, conditions in splits.items():
            for name, corpora in conditions.items():
                for corpus, runs in corpora.items() if len(corpora) > 1 else ():
                    of_corpus = means.setdefault(suite, {}).setdefault(split, {}).setdefault(corpus, {})
                    of_corpus[name] = sum(runs.values()) / len(runs)
    return means


def format_duration(seconds: float) -> str:
    """Seconds in the usual units: `8.4 s`, `2 min 05 s`, `1 h 03 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted key, value), in their order."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
