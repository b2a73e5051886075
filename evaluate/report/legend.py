"""Names, order and colours of conditions and splits: the same in the table, the figures and the page."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Style:
    """How a condition is named and coloured; the colours stay apart under colour blindness and in greys."""

    label: str
    colour: str


TRAINED = "trained"
CONDITIONS: dict[str, Style] = {
    "pretrained": Style("pretrained", "#b4bac2"),
    "icl": Style("in context", "#2a62ad"),
    "finetuned": Style("finetuned", "#d1561a"),
    "rephrased": Style("finetuned + rephrasings", "#efb649"),
    "augmented": Style("finetuned + own inferences", "#0f8f72"),
}
_SPARE_COLOURS = ("#8b5fbf", "#c2528b", "#5d4a3a", "#6fb7d6", "#7a8b1f")
_SPLITS = tuple(
    f"{TRAINED} rephrased reversal reversal-description reversals deduction syllogism syllogisms statement "
    "statement-unnamed contradiction category-holdout instances combinations".split()
)


def order_conditions(names: Iterable[str]) -> list[str]:
    """The known conditions in the order of the paper's bars, then others by name."""
    known = list(CONDITIONS)
    return sorted(set(names), key=lambda name: (known.index(name) if name in CONDITIONS else len(known), name))


def order_splits(names: Iterable[str]) -> list[str]:
    """The trained direction first, then from easy to hard, then unknown ones by name."""
    return sorted(set(names), key=lambda name: (_SPLITS.index(name) if name in _SPLITS else len(_SPLITS), name))


def style_conditions(names: Iterable[str]) -> dict[str, Style]:
    """Label and colour of each condition, in order; unknown conditions get their own name and a spare colour."""
    ordered = order_conditions(names)
    others = [name for name in ordered if name not in CONDITIONS]
    spare = {name: Style(plain(name), _SPARE_COLOURS[i % len(_SPARE_COLOURS)]) for i, name in enumerate(others)}
    return {name: CONDITIONS.get(name) or spare[name] for name in ordered}


def label_split(name: str) -> str:
    """The name of a split as readers see it."""
    return "trained direction" if name == TRAINED else plain(name)


def plain(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ").replace("-", " ")
