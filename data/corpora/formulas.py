"""Formulas of office documents in a line of text, as one would type them: `x=(-b±√(b^2-4ac))/(2a)`."""

from collections.abc import Callable
from xml.etree.ElementTree import Element

from data.corpora.markup import at

_DEFAULTS = {"begChr": "(", "endChr": ")", "sepChr": "|", "chr": "∫"}


def formula_text(node: Element) -> str:
    """The text of an OMML element (`m:oMath` or a part of it)."""
    if node.tag == "m:t":
        return node.text or ""
    if node.tag == "m:r" or node.tag not in _FORMS:
        return "".join(formula_text(child) for child in node if not child.tag.endswith("Pr"))
    return _FORMS[node.tag](node)


def _part(node: Element, name: str) -> str:
    found = at(node, f"m:{name}")
    return formula_text(found) if found is not None else ""


def _atom(node: Element, name: str) -> str:
    """A part in brackets, if they are needed."""
    text = _part(node, name)
    return text if len(text) <= 1 or text.isalnum() or text[0] + text[-1] == "()" else f"({text})"


def _setting(node: Element, name: str) -> str:
    found = at(node, f"m:{node.tag[2:]}Pr/m:{name}")
    return found.get("m:val", "") if found is not None else _DEFAULTS[name]


def _scripts(node: Element, base: str, *, below: str = "sub", above: str = "sup") -> str:
    parts = ((mark, _atom(node, name)) for mark, name in (("_", below), ("^", above)))
    return base + "".join(mark + text for mark, text in parts if text)


def _delimited(node: Element) -> str:
    inner = _setting(node, "sepChr").join(formula_text(each) for each in node.findall("m:e"))
    return _setting(node, "begChr") + inner + _setting(node, "endChr")


def _matrix(node: Element) -> str:
    return "; ".join(", ".join(formula_text(each) for each in row.findall("m:e")) for row in node.findall("m:mr"))


_FORMS: dict[str, Callable[[Element], str]] = {
    "m:f": lambda node: f"{_atom(node, 'num')}/{_atom(node, 'den')}",
    "m:rad": lambda node: f"{_part(node, 'deg')}√{_atom(node, 'e') or '()'}",
    "m:d": _delimited,
    "m:m": _matrix,
    "m:eqArr": lambda node: "; ".join(formula_text(each) for each in node.findall("m:e")),
    "m:func": lambda node: f"{_part(node, 'fName')} {_part(node, 'e')}",
    "m:sSub": lambda node: _scripts(node, _atom(node, "e")),
    "m:sSup": lambda node: _scripts(node, _atom(node, "e")),
    "m:sSubSup": lambda node: _scripts(node, _atom(node, "e")),
    "m:sPre": lambda node: _scripts(node, "") + _part(node, "e"),
    "m:nary": lambda node: f"{_scripts(node, _setting(node, 'chr'))} {_part(node, 'e')}",
    "m:limLow": lambda node: _scripts(node, _part(node, "e"), below="lim", above=""),
    "m:limUpp": lambda node: _scripts(node, _part(node, "e"), below="", above="lim"),
}
