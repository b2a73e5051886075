"""What a statement could have said instead: alternatives made by rules, pure. English words; numbers of any language.

Found: a word of a small list in place of its counterpart (more/less, all/no/some, before/after), "not" put after the
first auxiliary verb or taken away, and a number in place of another one. Not found: contradictions that need other
words ("is empty" against "is full"), a change of who does what, "isn't" and the like, negation in other languages, and
what contradicts only together with a third statement.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from augment_service.answers.folding import fold

MAX_ALTERNATIVES = 8
VERSION = 1  # raise it when the same statement would have other alternatives
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*(?![\w])")
AUXILIARIES = frozenset("is are was were has have had can could will would must may should does do did".split())
_OPPOSITES = (
    "more less, more fewer, before after, above below, older younger, larger smaller, bigger smaller, higher lower, "
    "longer shorter, taller shorter, heavier lighter, faster slower, earlier later, always never, all no, every no, "
    "some no"
)
_COMPATIBLE = "all some, every some"  # either may be meant, and both can hold


def _tabulate(pairs: str) -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {}
    for first, second in map(str.split, pairs.split(", ")):
        table[first] = (*table.get(first, ()), second)
        table[second] = (*table.get(second, ()), first)
    return table


_CONTRADICTING, _OTHER = _tabulate(_OPPOSITES), _tabulate(_COMPATIBLE)


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another statement; `contradicts` says whether both cannot hold."""

    text: str
    contradicts: bool


def alternatives(statement: str, numbers: Sequence[str] = ()) -> list[Alternative]:
    """The first `MAX_ALTERNATIVES` distinct alternatives of a statement; `numbers` may replace those in it."""
    found = dict[str, Alternative]()
    for one in (*_swapped(statement), *_negated(statement), *_renumbered(statement, numbers)):
        found.setdefault(fold(one.text), one)
    found.pop(fold(statement), None)
    return list(found.values())[:MAX_ALTERNATIVES]


def numbers_in(text: str) -> list[str]:
    """The distinct numbers of a text, in their order."""
    return list(dict.fromkeys(_NUMBER.findall(text)))


def contradictions(statement: str) -> tuple[set[str], tuple[str, str] | None]:
    """How contradictions are found among many statements.

    The folded texts that contradict the statement, and, if it has numbers, its text without them and the numbers: those
    with the same text and other numbers contradict it.
    """
    opposed = {fold(one.text) for one in alternatives(statement) if one.contradicts}
    numbers = _NUMBER.findall(statement)
    return opposed, (fold(_NUMBER.sub("\x1f", statement)), " ".join(numbers)) if numbers else None


def _swapped(statement: str) -> Iterator[Alternative]:
    for table, contradicts in ((_CONTRADICTING, True), (_OTHER, False)):
        for word in _WORD.finditer(statement):
            for other in table.get(word[0].lower(), ()):
                yield Alternative(_replace(statement, word.span(), other), contradicts)


def _negated(statement: str) -> Iterator[Alternative]:
    words = list(_WORD.finditer(statement))
    negations = [word for word in words if word[0].lower() == "not"]
    if negations:
        start, end = negations[0].span()
        yield Alternative(f"{statement[:start].rstrip()} {statement[end:].lstrip()}".strip(), True)
        return
    if any(word[0].lower() in ("no", "never") for word in words):
        return  # "no birds are not green" is another matter
    auxiliary = next((word for word in words if word[0].lower() in AUXILIARIES), None)
    if auxiliary is not None:
        yield Alternative(f"{statement[: auxiliary.end()]} not{statement[auxiliary.end() :]}", True)


def _renumbered(statement: str, numbers: Sequence[str]) -> Iterator[Alternative]:
    for found in _NUMBER.finditer(statement):
        for other in numbers:
            if other != found[0]:
                yield Alternative(statement[: found.start()] + other + statement[found.end() :], True)


def _replace(text: str, span: tuple[int, int], word: str) -> str:
    start, end = span
    cased = word.capitalize() if text[start].isupper() else word
    return text[:start] + cased + text[end:]
