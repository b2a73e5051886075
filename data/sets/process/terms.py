"""Terms over one variable x: powers, named functions, sums, products; printing and reading them.

A term is a tuple: ("x",), ("number", n), ("name", word), ("call", name, term), ("power", term, exponent),
("+" | "-" | "*", term, term). Each term has one text, and reading it gives the term back.
"""

import ast
import re
from typing import Any

Term = tuple[Any, ...]
X: Term = ("x",)
_CHARACTERS = re.compile(r"[-+*^()a-zA-Z0-9 ]+")
_FOREIGN = re.compile(r"\*\s*\*|\d[a-zA-Z]")  # what only Python reads: x**2, 0x1f
_OPERATORS: dict[type, str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
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
        return f"{term[1]}({show(term[2])})"
    if kind == "power":
        text = show(term[1])
        return f"{text if term[1][0] in ('x', 'call') else f'({text})'}^{term[2]}"
    glue = "*" if kind == "*" and term[1][0] == "number" else f" {kind} "
    return f"{_enclose(term[1], kind, is_right=False)}{glue}{_enclose(term[2], kind, is_right=True)}"


def read(text: str) -> Term | None:
    """The term of a text, however it is spaced; None if it is not a term."""
    if not _CHARACTERS.fullmatch(text) or _FOREIGN.search(text):
        return None
    try:
        return _convert(ast.parse(text.strip().replace("^", "**"), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _enclose(term: Term, kind: str, *, is_right: bool) -> str:
    tightness = _TIGHT.get(term[0], 3)
    # Operators are left-associative, so an equal one on the right needs brackets.
    loose = tightness < _TIGHT[kind] or (is_right and tightness == _TIGHT[kind])
    return f"({show(term)})" if loose else show(term)


def _convert(node: ast.expr) -> Term:
    """The term of a Python expression; ValueError if it is not one."""
    match node:
        case ast.Name(id=name):
            return X if name == "x" else ("name", name)
        case ast.Constant(value=int(value)):
            return number(value)
        case ast.Call(func=ast.Name(id=name), args=[inside], keywords=[]):
            return call(name, _convert(inside))
        case ast.BinOp(left=base, op=ast.Pow(), right=ast.Constant(value=int(exponent))):
            return power(_convert(base), exponent)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() as operator, right=right):
            return (_OPERATORS[type(operator)], _convert(left), _convert(right))
    raise ValueError(ast.dump(node))
