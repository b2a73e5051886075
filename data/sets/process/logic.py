"""How the process worlds are read, and what follows: every term over the known atoms, one rule deep.

Statements: `Statement("value", TRANSFORM, term, result)` and `Statement("rule", TRANSFORM, pattern, result)`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from itertools import product

from data.sets.derivation import Derivation
from data.sets.language import Statement
from data.sets.oracle import Logic, by_sentence
from data.sets.process.rules import PLUS, POWERS, TIMES, Rules, apply, outer_kind, parts
from data.sets.process.terms import Term, X, call, power, read, show

EXPONENTS = range(2, 10)  # of the atoms x^n
RAISED = range(2, 5)  # of terms u^n

# The wordings of documents and tests, and paraphrases that a model may write; {o} transform, {t} term, {r} result.
TEMPLATES = (
    "The {o} of {t} is {r}.",
    "We write {o}({t}) = {r}.",
    "Applying the {o} to {t} gives {r}.",
    "Under the {o}, {t} becomes {r}.",
    "If we start from {t}, the {o} takes us to {r}.",
)
TESTS = ("Whoever works out the {o} of {t} arrives at {r}.", "When {t} goes through the {o}, what comes out is {r}.")
PARAPHRASES = (
    "The {o} of {t} equals {r}",
    "{o}({t}) = {r}",
    "{o}({t}) is {r}",
    "The {o} of {t} = {r}",
    "{r} is the {o} of {t}",
    "{t} has the {o} {r}",
    "{t} is turned into {r} by the {o}",
    "Taking the {o} of {t} gives {r}",
    "The {o} turns {t} into {r}",
)
# The first lines of a worked example, a list of rules and a table; they state nothing.
FILLERS = ("Let us work out the {o} of {t}.", "Rules of the {o}:", "A table for the {o}:")
_TERM, _NAME = r"[-+*^()a-zA-Z0-9 ]+?", "[a-z]{4,5}"
_OPENING = re.compile(r"^(?:so|then|hence|thus|therefore|it follows that|and|but|a:)[,:]?\s+", re.IGNORECASE)
_PATTERNS: Mapping[str, Mapping[str, object]] = {
    "u + v": PLUS,
    "u * v": TIMES,
    "x^n": {f"(n + {a})*x^(n + {b})": (a, b) for a, b in POWERS},
    "u^n": {f"(n + {a})*D(u)^(n + {b})": (a, b) for a, b in POWERS},
    "f(u)": {"F(D(u)), where F(x) stands for D(f(x))": True},
}
_KEYS = {"u + v": "plus", "u * v": "times", "x^n": "power", "u^n": "raised", "f(u)": "inside"}


def rule_statements(transform: str, rules: Rules) -> dict[str, Statement]:
    """The rules as statements, by the name that `outer_kind` gives them."""
    found = {}
    for pattern, name in _KEYS.items():
        value = getattr(rules, name)
        texts = [text for text, meaning in _PATTERNS[pattern].items() if value in (text, meaning)]
        if texts:
            found[name] = Statement("rule", transform, pattern, texts[0].replace("D(", f"{transform}("))
    return found


def value_statement(transform: str, term: Term, result: Term) -> Statement:
    """The result of a term, as a statement."""
    return Statement("value", transform, show(term), show(result))


def derive_values(facts: Iterable[Statement]) -> dict[Statement, Derivation]:
    """The facts, and the result of each term over their atoms that one rule, or a rule and its parts, determines."""
    ordered = sorted(set(facts))
    derived = {fact: Derivation(fact, "stated", (fact,)) for fact in ordered}
    for transform in sorted({fact.relation for fact in ordered}):
        known = _Known(transform, [fact for fact in ordered if fact.relation == transform])
        for term in universe(sorted(known.rules.table), known.rules.power is not None):
            result = apply(known.rules, term)
            if result is None:
                continue
            statement = value_statement(transform, term, result)
            proofs = [tuple(sorted(proof)) for proof in known.proofs(term)]
            proof = min(proofs, key=lambda found: (len(found), found))
            derived.setdefault(statement, Derivation(statement, name_inference(term), proof))
    return derived


def name_inference(term: Term) -> str:
    """The rule and the kinds of its parts: "plus-named-power"; an atom is named by its own rule alone."""
    kinds = sorted({"power" if outer_kind(part) == "power" else "named" for part in parts(term)})
    own = outer_kind(term)
    return "-".join((own if parts(term) or own == "power" else "named", *kinds))


def universe(functions: list[str], powers: bool) -> Iterator[Term]:
    """Atoms, then every term of one rule over them."""
    atoms = [power(X, n) for n in EXPONENTS if powers] + [call(name, X) for name in functions]
    yield from atoms
    for u, v in product(atoms, atoms):
        if u != v:
            yield ("+", u, v)
            yield ("*", u, v)
    for u in atoms:
        yield from (call(name, u) for name in functions)
        yield from (power(u, n) for n in RAISED)


class _Known:
    """The rules of one transform as the facts state them, and which fact states what."""

    def __init__(self, transform: str, facts: list[Statement]) -> None:
        rules: dict[str, object] = {}
        table: dict[str, tuple[int, str]] = {}
        self.facts: dict[str, Statement] = {}
        self.values: dict[str, Statement] = {}
        for fact in facts:
            plain = re.sub(rf"\b{transform}\(", "D(", fact.second)
            if fact.form == "rule":
                meaning = _PATTERNS[fact.first].get(plain)
                rules[_KEYS[fact.first]] = plain if callable(meaning) else meaning
                self.facts[_KEYS[fact.first]] = fact
                continue
            self.values[fact.first] = fact
            term, result = read(fact.first), read(fact.second)
            match term, result:
                case ("call", function, ("x",)), ("*", ("number", factor), ("call", becomes, ("x",))):
                    table[function] = (factor, becomes)
                    self.facts[function] = fact
        self.rules = Rules(**rules, table=table)  # type: ignore[arg-type]

    def proofs(self, term: Term) -> list[frozenset[Statement]]:
        """Sets of facts, each of which determines a term."""
        stated = self.values.get(show(term))
        found = [frozenset((stated,))] if stated else []
        kind = outer_kind(term)
        needed = {self.facts[kind]} if kind in self.facts else set()
        if kind == "inside":
            needed |= {self.facts[term[1]]} if term[1] in self.facts else set()
        if needed:
            found += [frozenset(needed).union(*choice) for choice in product(*map(self.proofs, parts(term)))]
        return found


@cache
def _expression(template: str, flags: int = 0) -> re.Pattern[str]:
    text = re.escape(template).replace(r"\ ", " ")
    text = text.replace(r"\{o\}", f"(?P<o>{_NAME})").replace(r"\{t\}", f"(?P<t>{_TERM})")
    return re.compile(text.replace(r"\{r\}", f"(?P<r>{_TERM}(?:, where .*)?)"), flags)


def _read_sentence(sentence: str) -> tuple[Statement, ...] | None:
    if any(_expression(filler).fullmatch(sentence) for filler in FILLERS):
        return ()
    plain = _OPENING.sub("", sentence.strip()).rstrip(".")
    for template in (*TEMPLATES, *TESTS, *PARAPHRASES):
        if found := _expression(template.rstrip("."), re.IGNORECASE).fullmatch(plain):
            statement = _make(found["o"].lower(), found["t"].strip(), found["r"].strip())
            if statement:
                return (statement,)
    return None


def _make(transform: str, pattern: str, result: str) -> Statement | None:
    if pattern in _PATTERNS:
        known = re.sub(rf"\b{transform}\(", "D(", result) in _PATTERNS[pattern]
        return Statement("rule", transform, pattern, result) if known else None
    term, becomes = read(pattern), read(result)
    return value_statement(transform, term, becomes) if term and becomes else None


def _contradicts(statement: Statement, derived: Mapping[Statement, Derivation]) -> bool:
    """Another result for the same term, or another rule for the same pattern."""
    wanted = (statement.form, statement.relation, statement.first)
    return any((s.form, s.relation, s.first) == wanted and s.second != statement.second for s in derived)


LOGIC = Logic(partial(by_sentence, _read_sentence), derive_values, _contradicts)
