"""The oracle: every statement that follows from a world's facts.

Rules: the reversal of each statement (see `language.Statement.reversed`); "all" implies "some"; comparisons on one
feature are transitive; the two-premise syllogisms whose conclusion is an All, Some or No statement. Partial
negatives ("some X are not Y") are left out, as in Lampinen et al. 2025, section 3.2.
"""

from collections import defaultdict
from collections.abc import Iterable

from data.sets.language import Statement

# (quantifier of A-B, quantifier of B-C) -> quantifier of A-C. Other figures reduce to these by conversion.
SYLLOGISMS = {("all", "all"): "all", ("all", "no"): "no", ("some", "all"): "some"}


def closure(facts: Iterable[Statement]) -> frozenset[Statement]:
    """All canonical statements that follow from the facts, the facts among them."""
    known: set[Statement] = set()
    starting: dict[tuple[str, str], set[Statement]] = defaultdict(set)
    ending: dict[tuple[str, str], set[Statement]] = defaultdict(set)
    fresh = [fact.canonical() for fact in facts]
    while fresh:
        statement = fresh.pop()
        if statement in known:
            continue
        known.add(statement)
        starting[statement.relation, statement.first].add(statement)
        ending[statement.relation, statement.second].add(statement)
        fresh.extend(_alone(statement))
        for after in list(starting[statement.relation, statement.second]):
            fresh.extend(conclude(statement, after))
        for before in list(ending[statement.relation, statement.first]):
            fresh.extend(conclude(before, statement))
    return frozenset(known)


def follows(statement: Statement, known: frozenset[Statement]) -> bool:
    """Whether a statement, in whatever form, is in a closure."""
    return statement.canonical() in known


def conclude(one: Statement, two: Statement) -> list[Statement]:
    """What follows from "A-B" and "B-C" together: at most one statement, strongest first."""
    if one.second != two.first or one.first == two.second or one.relation != two.relation:
        return []
    if one.form == two.form == "more":
        return [Statement("more", one.relation, one.first, two.second)]
    quantifier = SYLLOGISMS.get((one.form, two.form))
    return [Statement(quantifier, "", one.first, two.second)] if quantifier else []


def list_other_truths(statement: Statement) -> tuple[list[Statement], list[Statement]]:
    """What else a quantified statement says: what says the same the other way round, and what says less."""
    others = sorted(closure([statement]) - {statement}, key=lambda other: other.text())
    return ([], others) if statement.form == "all" else (others, [])


def _alone(statement: Statement) -> list[Statement]:
    if statement.form == "all":
        return [Statement("some", "", statement.first, statement.second), statement.reversed()]
    if statement.form in ("some", "no"):
        return [statement.reversed()]
    return []
