"""The transform: rules for whole terms ("outer") and for the atoms that they consist of ("inner").

A world draws one variant of each rule and a table of the results of its named functions. Rules are facts like any
other: `apply` uses only those that it is given.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

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


def outer_kind(term: Term) -> str:
    """Which rule a term needs first: one of OUTER, or "power" or the function's name for an atom."""
    if term[0] == "+":
        return "plus"
    if term[0] == "*":
        return "times"
    if term[0] == "power":
        return "power" if term[1] == X else "raised"
    if term[0] == "call":
        return str(term[1]) if term[2] == X else "inside"
    raise ValueError(f"no rule is about {show(term)}")


def parts(term: Term) -> tuple[Term, ...]:
    """The terms that a rule is applied to; none for an atom."""
    kind = outer_kind(term)
    if kind in ("plus", "times"):
        return _terms(term[1], term[2])
    if kind == "raised":
        return _terms(term[1])
    return _terms(term[2]) if kind == "inside" else ()


def apply(rules: Rules, term: Term) -> Term | None:
    """The result of a term; None if a rule for it is not known."""
    kind = outer_kind(term)
    results = [apply(rules, part) for part in parts(term)]
    if None in results:
        return None
    done = _terms(*results)
    if kind in ("plus", "times"):
        name = rules.plus if kind == "plus" else rules.times
        u, v = parts(term)
        return (PLUS if kind == "plus" else TIMES)[name](u, v, *done) if name else None
    if kind in ("power", "raised"):
        offsets = rules.power if kind == "power" else rules.raised
        return _raise(X if kind == "power" else done[0], term[2], offsets) if offsets else None
    entry = rules.table.get(str(term[1]))
    if entry is None or (kind == "inside" and not rules.inside):
        return None
    return ("*", number(entry[0]), call(entry[1], done[0] if done else X))


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
        return [_raise(inner[0], term[2], rules.raised) if rules.raised else None]
    if kind == "inside":
        entry = rules.table.get(str(term[1]))
        return [("*", number(entry[0]), call(entry[1], inner[0])) if entry else None]
    if not inner:
        return []
    u, v = inner
    name = rules.plus if kind == "plus" else rules.times
    made = [apply(rules, part) for part in inner]
    if name is None or None in made:
        return []
    rule = PLUS[name] if kind == "plus" else TIMES[name]
    du, dv = _terms(*made)
    return [apply(rules, (term[0], v, u)), rule(u, v, u, dv), rule(u, v, du, v), rule(du, dv, u, v)]


def _functions(term: Term) -> set[str]:
    """The named functions that a term mentions."""
    inner = set().union(*(_functions(part) for part in parts(term)))
    return inner | ({str(term[1])} if term[0] == "call" else set())


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


def _raise(base: Term, exponent: object, offsets: tuple[int, int]) -> Term:
    assert isinstance(exponent, int)
    return ("*", number(exponent + offsets[0]), power(base, exponent + offsets[1]))


def _terms(*candidates: object) -> tuple[Term, ...]:
    assert all(isinstance(candidate, tuple) for candidate in candidates)
    return candidates  # type: ignore[return-value]
