"""The transform: rules for whole terms ("outer") and for the atoms that they consist of ("inner").

A world draws one variant of each rule and a table of the results of its named functions. Rules are facts like any
other: `apply` uses only those that it is given.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from data.sets.process.terms import Term, X, call, number, power, show

Binary = Callable[[Term, Term, Term, Term], Term]

# The result of a rule for (u, v, D(u), D(v)); the key is how the rule is written.
PLUS: dict[str, Binary] = {
    "D(v) - D(u)": lambda u, v, du, dv: ("-", dv, du),
    "D(u) - v": lambda u, v, du, dv: ("-", du, v),
    "D(u) * D(v)": lambda u, v, du, dv: ("*", du, dv),
    "u + D(v)": lambda u, v, du, dv: ("+", u, dv),
}
TIMES: dict[str, Binary] = {
    "u * D(v)": lambda u, v, du, dv: ("*", u, dv),
    "D(v) + D(u)": lambda u, v, du, dv: ("+", dv, du),
    "D(v) - u": lambda u, v, du, dv: ("-", dv, u),
    "D(v) * D(u)": lambda u, v, du, dv: ("*", dv, du),
}
# (added to the exponent in front, added to the exponent above): D(x^n) = (n+1)*x^(n+2) is (1, 2).
POWERS = ((1, 2), (2, 1), (3, 2), (1, 3))
OUTER = ("plus", "times", "inside", "raised")


@dataclass(frozen=True)
class Rules:
    """The known part of a transform; an absent rule is None, an absent function is not in `table`.

    `table` maps a function f to (k, g): D(f(x)) = k*g(x). `inside`: D(f(u)) = k*g(D(u)). `power` is for x^n, `raised`
    for u^n: D(u^n) = (n+a)*D(u)^(n+b).
    """

    plus: str | None = None
    times: str | None = None
    inside: bool = False
    raised: tuple[int, int] | None = None
    power: tuple[int, int] | None = None
    table: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def binary(self, kind: str) -> Binary | None:
        """The rule for sums ("plus") or products ("times")."""
        return PLUS.get(self.plus or "") if kind == "plus" else TIMES.get(self.times or "")


def outer_kind(term: Term) -> str:
    """Which rule a term needs first: one of OUTER, or "power" or the function's name for an atom."""
    if term[0] == "+":
        return "plus"
    if term[0] == "*":
        return "times"
    if term[0] == "power":
        return "power" if term[1] == X else "raised"
    if term[0] == "call":
        return term[1] if term[2] == X else "inside"
    raise ValueError(f"no rule is about {show(term)}")


def parts(term: Term) -> tuple[Term, ...]:
    """The terms that a rule is applied to; none for an atom."""
    kind = outer_kind(term)
    if kind in ("plus", "times"):
        return term[1:]
    if kind == "raised":
        return term[1:2]
    return term[2:] if kind == "inside" else ()


def apply(rules: Rules, term: Term) -> Term | None:
    """The result of a term; None if a rule for it is not known."""
    kind, inner = outer_kind(term), parts(term)
    done: list[Any] = [apply(rules, part) for part in inner]
    if None in done:
        return None
    if kind in ("plus", "times"):
        rule = rules.binary(kind)
        return rule(*inner, *done) if rule else None
    if kind == "power":
        return _raise(X, term[2], rules.power)
    if kind == "raised":
        return _raise(done[0], term[2], rules.raised)
    if kind == "inside" and not rules.inside:
        return None
    return _look_up(rules, term[1], done[0] if done else X)


def wrong_answers(rules: Rules, term: Term) -> list[Term]:
    """The results of wrong inner or outer rules for a term; distinct, and never the right one."""
    found = []
    for known in (rules, *_mistaken(rules, _functions(term))):
        found.append(apply(known, term))
        found += _misapplied(known, term)
    right = apply(rules, term)
    return list(dict.fromkeys(answer for answer in found if answer is not None and answer != right))


def _misapplied(rules: Rules, term: Term) -> list[Term | None]:
    """The parts in the wrong order, or untransformed."""
    kind, inner = outer_kind(term), parts(term)
    if kind == "raised":
        return [_raise(inner[0], term[2], rules.raised)]
    if kind == "inside":
        return [_look_up(rules, term[1], inner[0])]
    rule = rules.binary(kind)
    made: list[Any] = [apply(rules, part) for part in inner]
    if not inner or rule is None or None in made:
        return []
    (u, v), (du, dv) = inner, made
    return [apply(rules, (term[0], v, u)), rule(u, v, u, dv), rule(u, v, du, v), rule(du, dv, u, v)]


def _functions(term: Term) -> set[str]:
    """The named functions that a term mentions."""
    inner = set().union(*(_functions(part) for part in parts(term)))
    return inner | ({term[1]} if term[0] == "call" else set())


def _mistaken(rules: Rules, functions: Collection[str]) -> list[Rules]:
    """The rules with one of them replaced by a similar one; of the table only entries of `functions`."""
    wrong = [replace(rules, plus=name) for name in PLUS if name != rules.plus]
    wrong += [replace(rules, times=name) for name in TIMES if name != rules.times]
    wrong += [replace(rules, power=offsets) for offsets in (*POWERS, (0, -1), (1, 1)) if offsets != rules.power]
    wrong += [replace(rules, raised=offsets) for offsets in (*POWERS, (0, -1), (1, 1)) if offsets != rules.raised]
    for name, (factor, becomes) in rules.table.items():
        if name not in functions:
            continue
        entries = [(factor + 1, becomes), (factor, name), *(e for other, e in rules.table.items() if other != name)]
        wrong += [replace(rules, table={**rules.table, name: entry}) for entry in entries]
    return wrong


def _raise(base: Term, exponent: int, offsets: tuple[int, int] | None) -> Term | None:
    return ("*", number(exponent + offsets[0]), power(base, exponent + offsets[1])) if offsets else None


def _look_up(rules: Rules, function: str, inside: Term) -> Term | None:
    entry = rules.table.get(function)
    return ("*", number(entry[0]), call(entry[1], inside)) if entry else None
