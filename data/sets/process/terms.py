"""Terms over one variable x: powers, named functions, sums, products; printing and reading them.

A term is a tuple: ("x",), ("number", n), ("name", word), ("call", name, term), ("power", term, exponent),
("+" | "-" | "*", term, term). Each term has one text, and reading it gives the term back.
"""

import re

Term = tuple[object, ...]
X: Term = ("x",)
_TOKEN = re.compile(r"\s*(\d+|[a-zA-Z]+|[-+*^()])")
_TIGHT = {"+": 1, "-": 1, "*": 2}


def number(value: int) -> Term:
    """A whole number as a term."""
    return ("number", value)


def call(name: str, inside: Term) -> Term:
    """A named function of a term."""
    return ("call", name, inside)


def power(base: Term, exponent: int) -> Term:
    """A term to a whole power."""
    return ("power", base, exponent)


def show(term: Term) -> str:
    """The text of a term: 3*blim(x^2), (x^2 + trof(x))^3."""
    kind = term[0]
    if kind == "x":
        return "x"
    if kind in ("number", "name"):
        return str(term[1])
    if kind == "call":
        return f"{term[1]}({show(_inner(term[2]))})"
    if kind == "power":
        base = _inner(term[1])
        text = show(base)
        return f"{text if base[0] in ('x', 'call') else f'({text})'}^{term[2]}"
    left, right = _inner(term[1]), _inner(term[2])
    glue = "*" if kind == "*" and left[0] == "number" else f" {kind} "
    return f"{_enclose(left, str(kind), is_right=False)}{glue}{_enclose(right, str(kind), is_right=True)}"


def read(text: str) -> Term | None:
    """The term of a text, however it is spaced; None if it is not a term."""
    tokens, rest = [], text.strip()
    while rest:
        found = _TOKEN.match(rest)
        if not found:
            return None
        tokens.append(found.group(1))
        rest = rest[found.end() :].strip()
    reader = _Reader(tokens)
    try:
        term = reader.sum()
    except (IndexError, ValueError):
        return None
    return term if reader.at == len(tokens) else None


def _inner(part: object) -> Term:
    assert isinstance(part, tuple)
    return part


def _enclose(term: Term, kind: str, *, is_right: bool) -> str:
    tightness = _TIGHT.get(str(term[0]), 3)
    # Operators are left-associative, so an equal one on the right needs brackets.
    loose = tightness < _TIGHT[kind] or (is_right and tightness == _TIGHT[kind])
    return f"({show(term)})" if loose else show(term)


class _Reader:
    """Recursive descent over the tokens; ValueError or IndexError if they are not a term."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def sum(self) -> Term:
        term = self.product()
        while self.at < len(self.tokens) and self.tokens[self.at] in "+-":
            operator = self.take()
            term = (operator, term, self.product())
        return term

    def product(self) -> Term:
        term = self.factor()
        while self.at < len(self.tokens) and self.tokens[self.at] == "*":
            self.take()
            term = ("*", term, self.factor())
        return term

    def factor(self) -> Term:
        base = self.base()
        if self.at < len(self.tokens) and self.tokens[self.at] == "^":
            self.take()
            return power(base, int(self.take()))
        return base

    def base(self) -> Term:
        token = self.take()
        if token == "(":
            inside = self.sum()
            self.expect(")")
            return inside
        if token.isdigit():
            return number(int(token))
        if not token.isalpha():
            raise ValueError(token)
        if self.at < len(self.tokens) and self.tokens[self.at] == "(":
            self.take()
            inside = self.sum()
            self.expect(")")
            return call(token, inside)
        return X if token == "x" else ("name", token)

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise ValueError(token)
