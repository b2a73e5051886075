"""The report as one self-contained web page. Reads the content of `report.json` and the losses, returns HTML.

Everything is inline (styles, figures), nothing is requested, and all text from models and documents is escaped.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluate.report.claims import percent, points, state_claim
from evaluate.report.figures import Losses, embed_losses, embed_panel, embedded_inches
from evaluate.report.legend import TRAINED, label_split, order_conditions, order_splits, plain, style_conditions

TEMPLATE = "page.html.j2"


def render_page(report: Mapping[str, Any], losses: Losses) -> str:
    """The page's HTML. Raises jinja2.UndefinedError where the report lacks a field that the page shows."""
    suites = report["suites"]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "plain": plain,
        "label_split": label_split,
        "order_splits": order_splits,
        "order_conditions": order_conditions,
        "duration": format_duration,
    }
    return environment.get_template(TEMPLATE).render(
        report=report,
        trained=TRAINED,
        claims={suite: state_claim(report, suite) for suite in suites},
        styles=style_conditions(name for splits in suites.values() for cells in splits.values() for name in cells),
        panels={suite: Markup(embed_panel(suite, splits)) for suite, splits in suites.items()},
        inches={suite: embedded_inches(splits) for suite, splits in suites.items()},
        losses=Markup(embed_losses(losses)) if losses else "",
        settings=list(flatten(report["recipe"])),
    )


def format_duration(seconds: float) -> str:
    """Seconds as people say them: `8.4 s`, `2 min 05 s`, `1 h 03 min`."""
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
