"""Text that is wrapped at a fixed width: which of its line ends are mere spaces.

Pure. A paragraph is wrapped if most of its lines are full: the first word of the next line had no room. Poems, lists,
addresses and code are not, because their lines end where their author wants.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from data.structure import Mark

_NARROWEST, _WIDEST = 40, 120  # columns
_FULL_SHARE = 0.7  # of a paragraph's line ends, so that it counts as wrapped
_LONG = 60  # columns: a line end in mid-sentence after so many needs no other evidence
_SLACK = 4  # columns that rules of line breaking may leave free where words have no spaces
_LINE = re.compile(r"[^\n]*\n?")
_WORD = re.compile(r"\S+")
_WIDE = re.compile(
    r"[\u1100-\u115f\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\U0001f300-\U0001faff]"
)
_MARKS_ONLY = re.compile(r"[\W_]*\Z")
_QUOTE = re.compile(r"[ \t]*(?:>[ \t]?)+")
_MARKER = re.compile(r"\s*(?:[-*+•–—▪◦|]|\(?(?:\d{1,3}|[a-zA-Z])[.)])\s")
_ENDS_SENTENCE = re.compile(r"[.!?…:;。！？：。।॥؟۔։።។៕][\"'”’»›)\]」』]*\Z")


@dataclass(frozen=True, slots=True)
class _Line:
    start: int
    end: int  # behind its line end
    text: str  # without spaces at its ends and marks of quotations
    width: int  # columns, with the spaces and marks at its beginning
    depth: int  # of quotations
    indent: int  # spaces at its beginning

    @property
    def begins_block(self) -> bool:
        """Whether it is an item of a list."""
        return bool(_MARKER.match(self.text + " "))


def soft_line_ends(text: str, marks: Sequence[Mark] = ()) -> frozenset[int]:
    """Offsets of the line ends that are spaces, outside the marks of the outline."""
    if text.count("\n") < 1:
        return frozenset()
    soft = set[int]()
    undecided = list[list[_Line]]()
    widest = 0
    for block in _blocks(text, marks):
        width = max((line.width for line in block if " " in line.text or _WIDE.search(line.text)), default=0)
        found = _full_ends(block, width)
        if len(found) >= 2 and len(found) >= _FULL_SHARE * (len(block) - 1) and _goes_on(block, found):
            soft |= found
            widest = max(widest, width)
        else:
            undecided.append(block)
    for block in undecided:
        if widest and all(line.width <= widest for line in block):
            soft |= _full_ends(block, widest)
        elif len(block) == 2 and _is_one_sentence(*block):
            soft.add(block[0].end - 1)
    return frozenset(soft)


def unwrap(text: str) -> str:
    """A sentence on one line: line ends are spaces, and nothing between characters of scripts without spaces."""
    lines = [line.strip() for line in text.splitlines()]
    joined = lines[0] if lines else ""
    for before, after in pairwise(lines):
        joined += _joiner(before, after) + after
    return joined


def _joiner(before: str, after: str) -> str:
    if not before or not after:
        return "" if not after else " "
    no_space = (_WIDE.match(before[-1]) and _WIDE.match(after[0])) or _is_hyphenated(before, after)
    return "" if no_space and not _is_hangul(before[-1]) else " "


def _is_hangul(character: str) -> bool:
    return "\uac00" <= character <= "\ud7a3"


def _is_hyphenated(before: str, after: str) -> bool:
    """Whether a compound is divided after its hyphen; "Vor-" before "und" is no compound."""
    word = after.split()[0]
    return (
        before[-2:-1].isalpha()
        and before[-1] == "-"
        and after[0].islower()
        and word not in {"und", "oder", "and", "or"}
    )


def _blocks(text: str, marks: Sequence[Mark]) -> Iterator[list[_Line]]:
    """Runs of lines between empty lines, marks and the beginnings of list items."""
    block: list[_Line] = []
    coming = iter(marks)
    mark = next(coming, None)
    for match in _LINE.finditer(text):
        start, end = match.span()
        while mark and mark[2] <= start:
            mark = next(coming, None)
        quote = _QUOTE.match(text, start, end)
        stripped = text[quote.end() if quote else start : end].strip()
        is_outside = mark is None or mark[1] >= end
        if not stripped or not is_outside or _MARKS_ONLY.match(stripped):
            yield from _of_many(block)
            block = []
            continue
        depth = quote.group().count(">") if quote else 0
        indent = len(match.group()) - len(match.group().lstrip())
        line = _Line(start, end, stripped, _columns(match.group().rstrip()), depth, indent)
        is_other = depth != block[-1].depth or (len(block) > 1 and indent != block[-1].indent) if block else False
        if block and (line.begins_block or is_other):
            yield from _of_many(block)
            block = []
        block.append(line)
    yield from _of_many(block)


def _of_many(block: list[_Line]) -> Iterator[list[_Line]]:
    if len(block) > 1:
        yield block


def _columns(text: str) -> int:
    return len(text) if text.isascii() else len(text) + len(_WIDE.findall(text))


def _full_ends(block: Sequence[_Line], width: int) -> set[int]:
    """The ends of the lines that have no room for what the next one begins with."""
    if not _NARROWEST <= width <= _WIDEST:
        return set()
    return {line.end - 1 for line, following in pairwise(block) if line.width + _needed(line, following) > width}


def _needed(line: _Line, following: _Line) -> int:
    """Columns that the next line's first word needs at the end of this one."""
    if _WIDE.match(line.text[-1]) and not _is_hangul(line.text[-1]):
        return 2 + _SLACK
    word = _WORD.match(following.text)
    return 1 + _columns(word.group()) if word else 1


def _goes_on(block: Sequence[_Line], ends: set[int]) -> bool:
    """Whether a sentence continues across one of these line ends: no mark before it, no capital after it."""
    return any(
        line.end - 1 in ends and not _ENDS_SENTENCE.search(line.text) and not _is_capital(following.text)
        for line, following in pairwise(block)
    )


def _is_capital(text: str) -> bool:
    first = text.lstrip("\"'“„«»‹›‘(")[:1]
    return first.isupper() or not first.isalnum()


def _is_one_sentence(first: _Line, second: _Line) -> bool:
    return (
        _LONG <= first.width <= _WIDEST
        and second.width <= first.width
        and second.text[0].islower()
        and not _ENDS_SENTENCE.search(first.text)
        and bool(_ENDS_SENTENCE.search(second.text))
    )
