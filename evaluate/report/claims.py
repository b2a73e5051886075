"""What the numbers of one suite say, in words: the closing sentence of its table and the claim of the page. Pure."""

from collections.abc import Mapping
from typing import Any

from evaluate.report import legend

LEARNED = 0.95  # below this on the trained direction, finetuning is a weak baseline
_MAX_NAMED = 5
_RECALL = {legend.TRAINED, "rephrased"}  # splits that ask for a trained fact itself, not for what follows from it
_SPOKEN = {"icl": "in context", "finetuned": "finetuned", "augmented": "finetuned on documents + own inferences"}


def state_claim(report: Mapping[str, Any], suite: str) -> str:
    """One to three sentences on the suite's first split that asks for an inference, each number read from the report.

    Conditions or splits that were not run are left out; an effect is claimed only where its interval excludes zero.
    """
    splits, title = report["suites"][suite], legend.plain(suite).capitalize()
    tested = [name for name in legend.order_splits(splits) if name not in _RECALL]
    if not tested:
        return f"{title}: no inference was asked for."
    cells = splits[tested[0]]
    spoken = {name: text for name, text in _SPOKEN.items() if name in cells}
    spoken = spoken or {name: legend.label_condition(name) for name in _named(cells)}
    numbers = ", ".join(f"{text} {percent(cells[name]['accuracy'])}" for name, text in spoken.items())
    chance = max(cell["chance"] for cell in cells.values())
    claim = [f"{title}, {legend.label_split(tested[0])}: {numbers} (chance {percent(chance)})."]
    compared = {name: cell for name, cell in cells.items() if name not in legend.upper_bounds(report)}
    gain = _gain(report["differences"].get(suite, {}).get(tested[0], {}), compared)
    if gain:
        claim.append(_state_gain(gain))
    learned = splits.get(legend.TRAINED, {}).get("finetuned")
    if learned:
        claim.append(_state_learning(learned["accuracy"]))
    return " ".join(claim)


def percent(share: float) -> str:
    """A share as a percentage; only certainty is called 0% or 100%."""
    digits = 1 if 0 < share < 0.005 or 0.995 <= share < 1 else 0
    return f"{min(100 * share, 99.9) if share < 1 else 100:.{digits}f}%"


def points(value: float) -> str:
    """A difference in percentage points, with its sign."""
    rounded = round(value, 1)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else ''}{abs(rounded):.1f}"


def _named(cells: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The conditions whose accuracies a sentence gives: all, or of many the base model's and the best ones."""
    base = [name for name in legend.order_conditions(cells) if legend.is_base(name)][:2]
    best = [name for name in legend.rank_conditions({"": cells}) if name not in base]
    return legend.order_conditions(base + best[: _MAX_NAMED - len(base)])


def _gain(pairs: Mapping[str, Mapping[str, Any]], cells: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The difference that the suite is about: own inferences against documents alone, else the best against base."""
    if "augmented-finetuned" in pairs:
        return pairs["augmented-finetuned"]
    trained = [name for name in legend.rank_conditions({"": cells}) if not legend.is_base(name)]
    base = next((name for name in legend.order_conditions(cells) if legend.is_base(name)), "")
    return pairs.get(f"{trained[0]}-{base}") if trained else None


def _state_gain(gain: Mapping[str, Any]) -> str:
    interval = f"[{points(gain['low'])}, {points(gain['high'])}]"
    if (gain["first"], gain["second"]) == ("augmented", "finetuned"):
        sign = "add" if gain["difference"] > 0 else "cost"
        effect = f"Its own inferences {sign} {abs(gain['difference']):.0f} points compared with finetuning {interval}"
        none = f"Its own inferences make no measurable difference to finetuning {interval}"
    else:
        first, second = (f'"{legend.label_condition(gain[name])}"' for name in ("first", "second"))
        sign = "above" if gain["difference"] > 0 else "below"
        effect = f"{first} is {abs(gain['difference']):.0f} points {sign} {second} {interval}"
        none = f"{first} and {second} do not differ measurably {interval}"
    claim = effect if gain["low"] > 0 or gain["high"] < 0 else none
    return f"{claim} (one training run: interval over facts only)." if gain["level"] == "facts" else f"{claim}."


def _state_learning(accuracy: float) -> str:
    if accuracy >= LEARNED:
        return f"Finetuning did learn the trained direction ({percent(accuracy)})."
    return f"Finetuning reached only {percent(accuracy)} on the trained direction: it is a weak baseline here."
