"""The traditional forms of the syllogism whose strongest conclusion is an All, Some or No statement.

S and P are the subject and the predicate of the conclusion, M the term that both premises share.
"""

from collections.abc import Mapping

from data.sets.language import Statement

# Name -> quantifier and terms of the major and the minor premise, quantifier of the conclusion from S to P.
FORMS: dict[str, tuple[str, str, str]] = {
    "barbara": ("all MP", "all SM", "all"),
    "celarent": ("no MP", "all SM", "no"),
    "cesare": ("no PM", "all SM", "no"),
    "camestres": ("all PM", "no SM", "no"),
    "camenes": ("all PM", "no MS", "no"),
    "darii": ("all MP", "some SM", "some"),
    "datisi": ("all MP", "some MS", "some"),
    "disamis": ("some MP", "all MS", "some"),
    "dimaris": ("some PM", "all MS", "some"),
    "darapti": ("all MP", "all MS", "some"),
}


def make_premise(text: str, terms: Mapping[str, str]) -> Statement:
    """A premise, e.g. "all SM", about the entities that stand for its letters."""
    quantifier, order = text.split()
    return Statement(quantifier, "", terms[order[0]], terms[order[1]])
