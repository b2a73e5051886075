"""Names, order and colours of conditions and splits: the same in the table, the figures and the page."""

import colorsys
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from data.rendering import CLOSURE


@dataclass(frozen=True, slots=True)
class Style:
    """How a condition is named and coloured; the usual colours differ under colour blindness and in greys, too."""

    label: str
    colour: str


TRAINED = "trained"
MAX_BARS = 12  # conditions that a figure shows; a table shows all
_GREY, _BLUE = "#b4bac2", "#2a62ad"
CONDITIONS: dict[str, Style] = {
    "pretrained": Style("pretrained", _GREY),
    "icl": Style("in context", _BLUE),
    "finetuned": Style("finetuned", "#d1561a"),
    "rephrased": Style("finetuned + rephrasings", "#efb649"),
    "augmented": Style("finetuned + own inferences", "#0f8f72"),
}
_BASE = {"base": Style("base", _GREY), "base+all": Style("base (all documents)", _BLUE)}
_CONTEXT = re.compile(r"(.+)\+(all|required|sample:(\d+)|nearest:(\d+))", re.DOTALL)
_SPARE_COLOURS = tuple(
    "#8b5fbf #c2528b #5d4a3a #6fb7d6 #7a8b1f #d98cb3 #34495e #b0703c #a3333d #93c47d #4b3b8f #e08f62".split()
)
_SPLITS = tuple(
    f"{TRAINED} rephrased reversal reversal-description reversals deduction syllogism syllogisms statement "
    "statement-unnamed contradiction category-holdout instances combinations".split()
)


def order_conditions(names: Iterable[str]) -> list[str]:
    """The base model first, then in context, then the known arms, then others by name (numbers by value)."""
    return sorted(set(names), key=_place)


def order_splits(names: Iterable[str]) -> list[str]:
    """The trained direction first, then from easy to hard, then unknown ones by name."""
    return sorted(set(names), key=lambda name: (_SPLITS.index(name) if name in _SPLITS else len(_SPLITS), name))


def style_conditions(names: Iterable[str], *, first: Collection[str] = ()) -> dict[str, Style]:
    """Label and colour of each condition, in order; unknown ones get their own name and a colour that is still free.

    The conditions in `first` get the most distinct colours.
    """
    known = CONDITIONS | _BASE
    ordered = order_conditions(names)
    others = sorted((name for name in ordered if name not in known), key=lambda name: name not in first)
    spare = {name: Style(label_condition(name), _spare_colour(at)) for at, name in enumerate(others)}
    return {name: known.get(name) or spare[name] for name in ordered}


def style_suites(suites: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> tuple[dict[str, Style], set[str]]:
    """The styles of all conditions of a report, and the conditions that its figures show."""
    shown = {name for splits in suites.values() for name in shown_conditions(splits)}
    names = {name for splits in suites.values() for cells in splits.values() for name in cells}
    return style_conditions(names, first=shown), shown


def rank_conditions(splits: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """The conditions of a suite by their mean accuracy over its splits but the trained direction, best first."""
    tests = [cells for split, cells in splits.items() if split != TRAINED] or list(splits.values())
    found: dict[str, list[float]] = {}
    for cells in tests:
        for name, cell in cells.items():
            found.setdefault(name, []).append(cell["accuracy"])
    return sorted(found, key=lambda name: (-sum(found[name]) / len(found[name]), _place(name)))


def shown_conditions(splits: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """The conditions that a figure shows: all, or of too many the base model's and the best ones, in order."""
    ordered = order_conditions(name for cells in splits.values() for name in cells)
    if len(ordered) <= MAX_BARS:
        return ordered
    base = [name for name in ordered if is_base(name)][: MAX_BARS // 2]
    best = [name for name in rank_conditions(splits) if name not in base]
    return order_conditions(base + best[: MAX_BARS - len(base)])


def is_base(name: str) -> bool:
    """Whether a condition's weights are those of the base model."""
    return name.partition("+")[0] in ("pretrained", "icl", "base")


def upper_bounds(report: Mapping[str, Any]) -> list[str]:
    """The arms of a study that learn the closure of the oracle: they show what can be reached, and are no method."""
    arms = report.get("recipe", {}).get("train", {}).get("arms", {})
    return [name for name, methods in arms.items() if CLOSURE in methods]


def label_condition(name: str) -> str:
    """The name of a condition as readers see it: `icl+sample:8` is "in context (1 document in 8)"."""
    context = _CONTEXT.fullmatch(name)
    if context is None:
        return CONDITIONS[name].label if name in CONDITIONS else name
    documents = f"1 document in {context[3]}" if context[3] else f"{context[2]} documents"
    if context[4]:
        documents = f"{context[4]} nearest documents" if context[4] != "1" else "nearest document"
    return f"{label_condition(context[1])} ({documents})"


def label_split(name: str) -> str:
    """The name of a split as readers see it."""
    return "trained direction" if name == TRAINED else plain(name)


def plain(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ").replace("-", " ")


def _place(name: str) -> tuple[int, list[tuple[int, str]]]:
    order = ("pretrained", "base", "icl", "base+", *list(CONDITIONS)[2:])
    weights, plus, _ = name.partition("+")
    known = "base+" if weights == "base" and plus else weights
    natural = [(int(digits or 0), text) for digits, text in re.findall(r"(\d+)|(\D+)", name)]
    return (order.index(known) if known in order else len(order)), natural


def _spare_colour(at: int) -> str:
    """The palette first, then hues a golden angle apart, light and dark by turns."""
    if at < len(_SPARE_COLOURS):
        return _SPARE_COLOURS[at]
    rgb = colorsys.hls_to_rgb(at * 0.618034 % 1, (0.38, 0.52, 0.66)[at % 3], 0.55)
    return "#" + "".join(f"{round(255 * value):02x}" for value in rgb)
