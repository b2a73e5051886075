"""Formulas of office documents (OMML, MathML) in a line of text, as one would type them: `x=(-b±√(b^2-4ac))/(2a)`."""

from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element

from data.corpora.markup import at, value_at

_DEFAULTS = {"begChr": "(", "endChr": ")", "sepChr": "|", "chr": "∫"}  # of OMML's properties
_DROPPED = frozenset({"math:annotation", "math:annotation-xml", "math:mphantom"})


def formula_text(node: Element) -> str:
    """The text of an element of OMML or MathML, such as `m:oMath` or `math:math`."""
    if node.tag in _FORMS:
        return _FORMS[node.tag](node)
    inner = "".join(formula_text(child) for child in node if not child.tag.endswith("Pr") and child.tag not in _DROPPED)
    is_text = node.tag == "m:t" or node.tag.startswith("math:")
    return ((node.text or "") if node.tag == "m:t" else (node.text or "").strip()) + inner if is_text else inner


def _bracketed(text: str) -> str:
    """A part of a formula, in brackets if it is not one thing."""
    is_closed = text.startswith("(") and text.endswith(")") and ")" not in text[:-1]
    return text if len(text) <= 1 or text.isdecimal() or text.isalpha() or is_closed else f"({text})"


def _fraction(above: str, below: str) -> str:
    return f"{_bracketed(above)}/{_bracketed(below)}"


def _root(inner: str, degree: str = "") -> str:
    return f"{degree}√{_bracketed(inner)}"


def _scripts(base: str, below: str, above: str) -> str:
    return base + "".join(mark + _bracketed(text) for mark, text in (("_", below), ("^", above)) if text)


def _matrix(rows: Sequence[Sequence[str]]) -> str:
    return "; ".join(", ".join(row) for row in rows)


def _part(node: Element, name: str) -> str:
    """A part of an element of OMML."""
    found = at(node, f"m:{name}")
    return formula_text(found) if found is not None else ""


def _setting(node: Element, name: str) -> str:
    """A property of an element of OMML; one that is there without a value is an empty character."""
    path = f"{node.tag}Pr/m:{name}"
    return value_at(node, path, "m:val") if at(node, path) is not None else _DEFAULTS[name]


def _texts(node: Element, tag: str) -> list[str]:
    return [formula_text(child) for child in node if child.tag == tag]


def _scripted(node: Element) -> str:
    return _scripts(_bracketed(_part(node, "e")), _part(node, "sub"), _part(node, "sup"))


def _delimited(node: Element) -> str:
    inner = _setting(node, "sepChr").join(_texts(node, "m:e"))
    return _setting(node, "begChr") + inner + _setting(node, "endChr")


def _large_operator(node: Element) -> str:
    return _scripts(_setting(node, "chr"), _part(node, "sub"), _part(node, "sup")) + " " + _part(node, "e")


def _children(node: Element, count: int) -> list[str]:
    """The texts of the children of an element of MathML, as many as it should have."""
    texts = [formula_text(child) for child in node]
    return (texts + [""] * count)[:count]


def _positional(write: Callable[..., str], *order: int) -> Callable[[Element], str]:
    """A form of MathML whose children are, in this order, what `write` takes; -1 is nothing."""

    def form(node: Element) -> str:
        texts = [*_children(node, max(order) + 1), ""]
        return write(*(texts[place] for place in order))

    return form


def _script_of(base: str, below: str, above: str) -> str:
    return _scripts(_bracketed(base), below, above)


_FORMS: dict[str, Callable[[Element], str]] = {
    "m:f": lambda node: _fraction(_part(node, "num"), _part(node, "den")),
    "m:rad": lambda node: _root(_part(node, "e"), _part(node, "deg")),
    "m:d": _delimited,
    "m:m": lambda node: _matrix([_texts(row, "m:e") for row in node if row.tag == "m:mr"]),
    "m:eqArr": lambda node: "; ".join(_texts(node, "m:e")),
    "m:func": lambda node: f"{_part(node, 'fName')} {_part(node, 'e')}",
    "m:sSub": _scripted,
    "m:sSup": _scripted,
    "m:sSubSup": _scripted,
    "m:sPre": lambda node: _scripts("", _part(node, "sub"), _part(node, "sup")) + _part(node, "e"),
    "m:nary": _large_operator,
    "m:limLow": lambda node: _scripts(_part(node, "e"), _part(node, "lim"), ""),
    "m:limUpp": lambda node: _scripts(_part(node, "e"), "", _part(node, "lim")),
    "math:mfrac": _positional(_fraction, 0, 1),
    "math:msqrt": lambda node: _root("".join(formula_text(child) for child in node)),
    "math:mroot": _positional(_root, 0, 1),
    "math:msub": _positional(_script_of, 0, 1, -1),
    "math:munder": _positional(_script_of, 0, 1, -1),
    "math:msup": _positional(_script_of, 0, -1, 1),
    "math:mover": _positional(_script_of, 0, -1, 1),
    "math:msubsup": _positional(_script_of, 0, 1, 2),
    "math:munderover": _positional(_script_of, 0, 1, 2),
    "math:mtable": lambda node: _matrix([[formula_text(cell) for cell in row] for row in node]),
}
