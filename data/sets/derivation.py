"""Everything that follows from facts, each statement with its shortest proof.

The rules of a set are a `Theory`: what follows from one statement alone, and from two that share an entity. The
cheapest statement is settled first (Knuth's form of Dijkstra's search), so each statement is visited once.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from data.sets.language import Statement

# (quantifier of A-B, quantifier of B-C) -> quantifier of A-C. Other figures reduce to these by conversion.
SYLLOGISMS = {("all", "all"): "all", ("all", "no"): "no", ("some", "all"): "some"}

Rule = Callable[[Statement], list[Statement]]
Join = Callable[[Statement, Statement], list[Statement]]


@dataclass(frozen=True, slots=True)
class Derivation:
    """A statement that follows, and the fewest facts that it follows from. Producer: `derive`. Consumer: the oracle.

    `inference` is "stated" or the kind of step with the number of facts that it takes, e.g. "trait-3".
    """

    statement: Statement
    inference: str
    proof: tuple[Statement, ...]


@dataclass(frozen=True)
class Theory:
    """The rules of a kind of set, over canonical statements.

    `alone(s)` follows from s; `join(s, t)` follows from both, where s ends in the entity that t begins with.
    `name(statement, proof)` is the inference type. `opposite(s)` are the statements that exclude s.
    """

    alone: Rule
    join: Join
    name: Callable[[Statement, tuple[Statement, ...]], str]
    opposite: Rule


def derive(facts: Iterable[Statement], theory: Theory) -> dict[Statement, Derivation]:
    """All canonical statements that follow from the facts, the facts among them, each with a shortest proof.

    A proof's size is counted in facts; of equal ones the first in the order of the facts' text is kept, so that the
    result depends on the set of facts alone.
    """
    derived: dict[Statement, Derivation] = {}
    starting: dict[str, list[Statement]] = defaultdict(list)
    ending: dict[str, list[Statement]] = defaultdict(list)
    waiting: list[tuple[int, tuple[Statement, ...], Statement]] = []  # size of a proof, proof, what it proves

    def offer(statement: Statement, proof: Iterable[Statement]) -> None:
        if statement not in derived:
            ordered = tuple(dict.fromkeys(proof))
            heapq.heappush(waiting, (len(ordered), ordered, statement))

    for fact in facts:
        offer(fact.canonical(), (fact.canonical(),))
    while waiting:
        _, proof, statement = heapq.heappop(waiting)
        if statement in derived:
            continue
        name = "stated" if proof == (statement,) else theory.name(statement, proof)
        derived[statement] = Derivation(statement, name, proof)
        starting[statement.first].append(statement)
        ending[statement.second].append(statement)
        for new in theory.alone(statement):
            offer(new, proof)
        for other in starting[statement.second]:
            for new in theory.join(statement, other):
                offer(new, (*proof, *derived[other].proof))
        for other in ending[statement.first]:
            for new in theory.join(other, statement):
                offer(new, (*derived[other].proof, *proof))
    return derived


def contradicts(statement: Statement, derived: Mapping[Statement, Derivation], theory: Theory) -> bool:
    """Whether something that excludes the statement follows."""
    return any(opposite in derived for opposite in theory.opposite(statement.canonical()))


def list_other_truths(statement: Statement) -> tuple[list[Statement], list[Statement]]:
    """What else a quantified statement says: its equivalents in the other direction, and what is weaker."""
    others = sorted(derive([statement], PLAIN).keys() - {statement}, key=Statement.text)
    return ([], others) if statement.form == "all" else (others, [])


def conclude(one: Statement, two: Statement) -> list[Statement]:
    """What follows from "A-B" and "B-C" together: at most one statement, the strongest."""
    if one.second != two.first or one.first == two.second or one.relation != two.relation:
        return []
    if one.form == two.form == "more":
        return [Statement("more", one.relation, one.first, two.second)]
    quantifier = SYLLOGISMS.get((one.form, two.form))
    return [Statement(quantifier, "", one.first, two.second)] if quantifier else []


def _alone_plain(statement: Statement) -> list[Statement]:
    if statement.form == "all":
        return [replace(statement, form="some"), statement.reversed()]
    return [statement.reversed()] if statement.form in ("some", "no") else []


def _name_plain(statement: Statement, proof: tuple[Statement, ...]) -> str:
    return f"{statement.form}-{len(proof)}"


def _opposite_plain(statement: Statement) -> list[Statement]:
    if statement.form == "more":
        return [replace(statement, first=statement.second, second=statement.first)]
    if statement.form == "no":
        return [replace(statement, form="some")]
    return [replace(statement, form="no")] if statement.form in ("all", "some") else []


def _join_inherited(one: Statement, two: Statement) -> list[Statement]:
    # What holds for a kind holds for all its members; being a kind of something is inherited like the rest.
    if one.form == "kind" and not two.form.startswith("not-") and one.first != two.second:
        return [replace(two, first=one.first)]
    return []


def _opposite_semantic(statement: Statement) -> list[Statement]:
    if statement.form.startswith("not-"):
        return [replace(statement, form=statement.form.removeprefix("not-"))]
    if statement.form == "kind":
        return [replace(statement, first=statement.second, second=statement.first)]
    return []


def _join_properties(one: Statement, two: Statement) -> list[Statement]:
    if one.form == "all" and two.form == "more" and one.first != two.second:
        return [replace(two, first=one.first)]
    return conclude(one, two)


def _join_steps(one: Statement, two: Statement) -> list[Statement]:
    # "r is the ruler of m", "m is the maker of u": two steps at most, so that the closure is finite.
    if one.form == two.form == "is" and " " not in one.relation + two.relation and one.first != two.second:
        return [Statement("is", f"{one.relation} of the {two.relation}", one.first, two.second)]
    return []


# Statements convert, "all" implies "some", comparisons on one feature are transitive, and syllogisms conclude. Partial
# negatives ("some X are not Y") are left out, as in Lampinen et al. 2025, section 3.2.
PLAIN = Theory(_alone_plain, conclude, _name_plain, _opposite_plain)
# Categories: kinds are transitive, and everything else is inherited from the kinds above.
SEMANTIC = Theory(lambda _: [], _join_inherited, _name_plain, _opposite_semantic)
# PLAIN, and comparisons are properties: what is said of a category holds for its members. No rule covers what is
# compared *with* a category, because no document of the small worlds makes such a comparison.
PROPERTIES = Theory(_alone_plain, _join_properties, _name_plain, _opposite_plain)
# The output of one step is the input of the next.
STEPS = Theory(lambda _: [], _join_steps, lambda _, proof: f"steps-{len(proof)}", lambda _: [])
