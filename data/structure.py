"""The outline of a text: which of its lines are headings, and which parts are no prose (code, tables, rules).

Pure. An outline is a flat list of marks, three integers each: kind, start, end. `kind` is 1 to 6 for a heading of that
level, or `VERBATIM`; start and end are offsets in characters. Marks are ordered, whole lines, and do not overlap. Flat
lists are what a record and an Arrow column can hold.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from data.unicode import clean

Mark = tuple[int, int, int]  # kind, start, end
PROSE, VERBATIM = 0, 7
HEADINGS = range(1, VERBATIM)
BETWEEN = " > "  # between the headings above a part


def marks_of(outline: Sequence[int]) -> list[Mark]:
    """The marks of an outline."""
    return list(zip(outline[::3], outline[1::3], outline[2::3], strict=True))


def outline_with(marks: Iterable[Mark]) -> tuple[int, ...]:
    """The outline that has these marks."""
    return tuple(chain.from_iterable(marks))


def part_of(outline: Sequence[int], start: int, end: int) -> tuple[int, ...]:
    """The outline of the part of a text from `start` to `end`, whose offsets begin at the part."""
    return outline_with(
        (kind, max(first, start) - start, min(last, end) - start)
        for kind, first, last in marks_of(outline)
        if first < end and last > start
    )


@dataclass
class Outliner:
    """Joins lines and blocks to a text, and notes its outline. Used by readers that know the structure of a file."""

    _blocks: list[str] = field(default_factory=list)
    _marks: list[Mark] = field(default_factory=list)
    _size: int = 0

    def add(self, block: str, kind: int = PROSE) -> None:
        """Append a block, cleaned, on a line, or on lines, of its own; an empty one is an empty line."""
        block, start = clean(block), self._size
        self._blocks.append(block)
        self._size += len(block) + 1
        if kind != PROSE and block:
            self._marks.append((kind, start, start + len(block)))

    @property
    def text(self) -> str:
        """All blocks."""
        return "\n".join(self._blocks)

    @property
    def outline(self) -> tuple[int, ...]:
        """The outline of `text`."""
        return outline_with(self._marks)
