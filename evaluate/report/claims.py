"""What the numbers of one suite say, in words: the closing sentence of its table and the claim of the page. Pure."""

from collections.abc import Mapping
from typing import Any

from evaluate.report.legend import TRAINED, label_split, order_splits, plain

LEARNED = 0.95  # below this on the trained direction, finetuning is no baseline to speak of
_RECALL = {TRAINED, "rephrased"}  # splits that ask for a trained fact itself, not for what follows from it
_SPOKEN = {
    "icl": "in context",
    "finetuned": "finetuned",
    "augmented": "finetuned on documents + own inferences",
}


def state_claim(report: Mapping[str, Any], suite: str) -> str:
    """One to three sentences on the suite's first split that asks for an inference, each number read from the report.

    Conditions or splits that were not run are left out; an effect is claimed only where its interval excludes zero.
    """
    splits = report["suites"][suite]
    tested = [name for name in order_splits(splits) if name not in _RECALL]
    if not tested:
        return f"{plain(suite).capitalize()}: no inference was asked for."
    cells = splits[tested[0]]
    numbers = [f"{words} {percent(cells[name]['accuracy'])}" for name, words in _SPOKEN.items() if name in cells]
    numbers = numbers or [f"{plain(name)} {percent(cell['accuracy'])}" for name, cell in sorted(cells.items())]
    chance = max(cell["chance"] for cell in cells.values())
    told = [f"{plain(suite).capitalize()}, {label_split(tested[0])}: {', '.join(numbers)} (chance {percent(chance)})."]
    gain = report["differences"].get(suite, {}).get(tested[0], {}).get("augmented-finetuned")
    if gain:
        told.append(_state_gain(gain))
    learned = splits.get(TRAINED, {}).get("finetuned")
    if learned:
        told.append(_state_learning(learned["accuracy"]))
    return " ".join(told)


def percent(share: float) -> str:
    """A share as a percentage; only certainty is called 0% or 100%."""
    digits = 1 if 0 < share < 0.005 or 0.995 <= share < 1 else 0
    return f"{min(100 * share, 99.9) if share < 1 else 100:.{digits}f}%"


def points(value: float) -> str:
    """A difference in percentage points, with its sign."""
    rounded = round(value, 1)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else ''}{abs(rounded):.1f}"


def _state_gain(gain: Mapping[str, float]) -> str:
    interval = f"[{points(gain['low'])}, {points(gain['high'])}]"
    if gain["low"] > 0:
        return f"Its own inferences add {gain['difference']:.0f} points to finetuning {interval}."
    if gain["high"] < 0:
        return f"Its own inferences cost {-gain['difference']:.0f} points of finetuning {interval}."
    return f"Its own inferences make no difference to finetuning that can be told from none {interval}."


def _state_learning(accuracy: float) -> str:
    if accuracy >= LEARNED:
        return f"Finetuning did learn the trained direction ({percent(accuracy)})."
    return f"Finetuning reached only {percent(accuracy)} on the trained direction: it is a weak baseline here."
