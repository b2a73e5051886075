"""Lines in reading order to the text of a document: paragraphs, headings, lists, tables, code. Pure.

A *block* is what becomes one line of the text, or several if it is a table or code. A paragraph that a column or a page
cuts in two is put together again, with the notes and figures between moved behind it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise

from data.corpora.pdf.hyphens import Joiner, ends_in_address
from data.corpora.pdf.layout import Line, Region
from data.corpora.pdf.words import BOLD, MONO
from data.structure import HEADINGS, PROSE, VERBATIM, Outliner

_CLOSED = re.compile(r"[.!?:;…。！？：；।॥؟۔።។][\"'”’»›)\]}」』）】\d*†‡]*$")
_FULL_STOP = re.compile(r"[.!?…。！？।॥؟۔።។][\"'”’»›)\]}」』）】]*$")
_MARKER = re.compile(r"(?:[•‣◦▪▫■□●○◆◇►▶➢➤✓✔❖∗⁃·–—*-]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,5})[.)]|\[\w{1,12}\])\s")
_SYMBOL_MARKER = re.compile("[\uf000-\uf0ff]")  # of the fonts Symbol and Wingdings: nearly always a bullet
_NOTE_MARK = re.compile(r"\[?(?:\d{1,3}|[*†‡§¶∗])[\])]?\s?\S")
_HYPHEN_END = re.compile(r"\w[-\u2010\u00ad]$")
_LEADERS = re.compile(r"(?:\s?\.){3,}\s*(?=[\divxlc]{1,5}$)|(?:\s?\.){6,}\s*")
_NUMBERED = re.compile(r"(?:\d{1,2}|[A-Z])(?:\.\d{1,2})*\.?\s")
_BULLET = re.compile(r"[^\w(\[]")
_MIN_NOTE_STEP = 0.7  # points that a note is smaller than the text
_DEFAULT_LEADING = 1.25  # of the font's size
_FEW_PAIRS = 4
_WIDE = 1.3  # of the leading: a wider gap ends a paragraph
_SAME_SIZE = 0.06
_INDENT = 0.8
_SHORT = 0.6  # of the region's width
_LARGE = 1.12  # of the text's size: a heading
_MAX_HEADING_CHARACTERS, _MAX_HEADING_LINES = 200, 4
_MAX_BOLD_SHARE = 0.3  # of all characters: more, and bold means nothing
_LOOK_AHEAD = 4  # blocks in which a paragraph may continue


def is_closed(text: str) -> bool:
    """Whether a line ends with a mark that may end a paragraph; the dots of an address are none."""
    return bool(_CLOSED.search(text)) and not ends_in_address(text)


class Kind(Enum):
    """What a block is."""

    TEXT = auto()
    ITEM = auto()
    HEADING = auto()
    ROWS = auto()  # of a table, a list of contents
    CODE = auto()
    NOTE = auto()
    ASIDE = auto()  # in another direction than the page's text


@dataclass(slots=True)
class Block:
    """Lines that belong together. `is_apart`: white space precedes it."""

    kind: Kind
    lines: list[Line]
    is_apart: bool
    region: Region


@dataclass(frozen=True)
class Prose:
    """The text of a document, its outline, and its first heading ("" if there is none)."""

    text: str
    outline: tuple[int, ...]
    heading: str


def write_prose(regions: Sequence[Region], turned: Sequence[tuple[int, str]]) -> Prose:
    """The document of these regions. `turned` holds pages and texts that stand in another direction."""
    lines = [line for region in regions for line in region.lines]
    style = _Style(regions)
    flow = _Flow()
    asides = defaultdict[int, list[str]](list)
    for page, text in turned:
        asides[page].append(text)
    for position, region in enumerate(regions):
        flow.add(list(_blocks(region, style)), style)
        if position + 1 == len(regions) or regions[position + 1].page != region.page:
            for text in asides.pop(region.page, ()):
                line = Line(text, 0, 0, 0, style.size, 0, 1, 0)
                flow.blocks.append(Block(Kind.ASIDE, [line], True, region))
    return _written(flow.blocks, style, Joiner(line.text for line in lines))


class _Style:
    """What is usual in a document: the size of its text, the leading of each size, what a heading looks like."""

    def __init__(self, regions: Sequence[Region]) -> None:
        sizes, mono, bold, total = Counter[float](), 0, 0, 0
        steps = defaultdict[float, list[float]](list)
        for region in regions:
            for line in region.lines:
                sizes[_rounded(line.size)] += len(line.text)
                total += len(line.text)
                mono += len(line.text) if line.style & MONO else 0
                bold += len(line.text) if line.style & BOLD else 0
            for a, b in zip(region.lines, region.lines[1:], strict=False):
                if _rounded(a.size) == _rounded(b.size) and b.y > a.y:
                    steps[_rounded(a.size)].append(b.y - a.y)
        self.size = sizes.most_common(1)[0][0] if sizes else 10.0
        self.has_code = 2 * mono < total
        self.has_bold = bold < _MAX_BOLD_SHARE * total
        self._leadings = {size: _leading(size, found) for size, found in steps.items()}

    def leading(self, size: float) -> float:
        """The usual distance of two baselines, in points."""
        return self._leadings.get(_rounded(size), _DEFAULT_LEADING * size)

    def is_code(self, line: Line) -> bool:
        """Whether a line is in a typewriter's font, in a document that is not."""
        return self.has_code and bool(line.style & MONO)

    def rank(self, block: Block) -> tuple[float, bool] | None:
        """How large a heading is, and whether it is bold; None if the block is none."""
        text = "".join(line.text for line in block.lines)
        size, bold = block.lines[0].size, all(line.style & BOLD for line in block.lines)
        letters = sum(map(str.isalpha, text))
        if letters < 2 or len(text) > _MAX_HEADING_CHARACTERS or len(block.lines) > _MAX_HEADING_LINES:
            return None
        if size >= _LARGE * self.size:
            return _rounded(size), True
        if bold and self.has_bold and size > 0.94 * self.size and not (_CLOSED.search(text) and letters > 3):
            return _rounded(self.size), True
        return None


def _rounded(size: float) -> float:
    return round(2 * size) / 2


def _leading(size: float, steps: list[float]) -> float:
    """The usual step; of few steps the smallest, since the others may be between paragraphs."""
    usual = sorted(steps)[len(steps) // 3] if len(steps) >= _FEW_PAIRS else min(min(steps), 1.6 * size)
    return min(max(usual, size), 2.6 * size)


def _blocks(region: Region, style: _Style) -> Iterator[Block]:
    """The blocks of a region; its notes are at its end."""
    block: Block | None = None
    for position, line in enumerate(region.lines):
        before = region.lines[position - 1] if position else None
        kind = _kind(region.lines, position, style)
        if block is None or before is None or _begins(block, before, line, kind, region, style):
            if block is not None:
                yield block
            gap = line.y - before.y if before else float("inf")
            block = Block(
                kind, [line], gap > _WIDE * style.leading(min(line.size, before.size if before else 0)), region
            )
        else:
            block.lines.append(line)
    if block is not None:
        yield block


def _kind(lines: Sequence[Line], position: int, style: _Style) -> Kind:
    line = lines[position]
    if _is_item(line.text):
        return Kind.ITEM
    if style.is_code(line) and not _is_in_sentence(lines, position, style):
        return Kind.CODE
    neighbours = [*lines[max(0, position - 1) : position], *lines[position + 1 : position + 2]]
    if _LEADERS.search(line.text) or (line.cells > 1 and any(near.cells > 1 for near in neighbours)):
        return Kind.ROWS
    return Kind.TEXT


def _is_in_sentence(lines: Sequence[Line], position: int, style: _Style) -> bool:
    """Whether a single line that looks like code continues the line above."""
    around = lines[max(0, position - 1) : position + 2]
    if not position or sum(style.is_code(line) for line in around) > 1:
        return False
    before, line = around[0], lines[position]
    return not is_closed(before.text) and abs(line.x0 - before.x0) < _INDENT * line.size


def _is_item(text: str) -> bool:
    return bool(_MARKER.match(text) or _SYMBOL_MARKER.match(text))


def _begins(block: Block, a: Line, b: Line, kind: Kind, region: Region, style: _Style) -> bool:
    """Whether line b, below line a, begins a new block."""
    in_lines = {Kind.CODE, Kind.ROWS}
    gap = b.y - a.y
    if kind in in_lines or block.kind in in_lines:
        return kind != block.kind or (kind is Kind.ROWS and gap > 2 * _WIDE * style.leading(b.size))
    if abs(a.size - b.size) > _SAME_SIZE * max(a.size, b.size):
        return True
    if a.size >= _LARGE * style.size:  # the lines of a heading
        return gap > 1.6 * b.size or a.style & BOLD != b.style & BOLD or bool(_NUMBERED.match(b.text))
    closed, lower = is_closed(a.text), b.text[:1].islower()
    goes_on = (lower and not closed) or bool(_HYPHEN_END.search(a.text) and b.text[:1].isalpha())
    if gap > _WIDE * style.leading(b.size):
        return not goes_on or a.style & BOLD != b.style & BOLD or gap > 2.2 * style.leading(b.size)
    fits = _fits(a, b, region)
    if kind is Kind.ITEM and (closed or block.kind is Kind.ITEM or (fits and _BULLET.match(b.text))):
        return True
    if goes_on:
        return False
    if a.style & BOLD and b.style & BOLD and _NUMBERED.match(b.text):
        return True
    if a.style & BOLD != b.style & BOLD and fits:
        return True
    return _is_set_apart(block, a, b, region, closed=closed, fits=fits)


def _fits(a: Line, b: Line, region: Region) -> bool:
    """Whether the first word of line b would have had room on line a, whose end is thus meant."""
    return region.right - a.x1 > b.first + 0.6 * b.size


def _is_set_apart(block: Block, a: Line, b: Line, region: Region, *, closed: bool, fits: bool) -> bool:
    """Whether the ends of line a and the beginning of line b show a new paragraph, both in one font."""
    indent, em = b.x0 - a.x0, b.size
    hangs = block.kind is Kind.ITEM or (len(block.lines) > 1 and block.lines[0].x0 < a.x0 - _INDENT * em)
    if closed and (fits or (indent > _INDENT * em and not hangs)):
        return True
    if fits and a.x1 - region.left < _SHORT * (region.right - region.left):
        return True
    return hangs and indent < -_INDENT * em and (closed or fits)


class _Flow:
    """Blocks of one region after another, with paragraphs put together across their ends."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._last: Block | None = None  # the last one of the running text

    def add(self, blocks: list[Block], style: _Style) -> None:
        """The blocks of the next region."""
        _mark_notes(blocks, style)
        if self._last is not None and (at := _continuation(self._last, blocks, style)) is not None:
            self._last.lines += blocks.pop(at).lines
        elif blocks:
            blocks[0].is_apart = True
        self.blocks += blocks
        running = [block for block in blocks if block.kind in {Kind.TEXT, Kind.ITEM}]
        self._last = running[-1] if running else self._last if not blocks or _are_between(blocks) else None


def _are_between(blocks: Iterable[Block]) -> bool:
    """Whether a paragraph may continue after these blocks: notes, tables."""
    return all(block.kind in {Kind.NOTE, Kind.ROWS, Kind.ASIDE} for block in blocks)


def _mark_notes(blocks: Sequence[Block], style: _Style) -> None:
    """The blocks at the end of a region that are notes: in small print, the first with a number or a mark."""
    first = len(blocks)
    while first and _is_small(blocks[first - 1], style):
        first -= 1
    for position in range(first, len(blocks)):
        block = blocks[position]
        if _NOTE_MARK.match(block.lines[0].text) and block.lines[0].y > block.region.bottom / 3:
            for note in blocks[position:]:
                note.kind = Kind.NOTE
            return


def _is_small(block: Block, style: _Style) -> bool:
    return block.kind in {Kind.TEXT, Kind.ITEM} and block.lines[0].size <= style.size - _MIN_NOTE_STEP


def _continuation(last: Block, blocks: Sequence[Block], style: _Style) -> int | None:
    """Which block of the next region continues the last paragraph of this region."""
    a = last.lines[-1]
    if (_FULL_STOP.search(a.text) and not ends_in_address(a.text)) or style.rank(last):
        return None
    near = [
        (position, block.lines[0])
        for position, block in enumerate(blocks[:_LOOK_AHEAD])
        if block.kind is Kind.TEXT and abs(block.lines[0].size - a.size) <= _SAME_SIZE * a.size
    ]
    for position, b in near:
        if b.text[:1].islower() or (_HYPHEN_END.search(a.text) and b.text[:1].isalpha()):
            return position
    for position, b in near[:1]:
        is_full = len(last.lines) > 1 and not _fits(a, b, last.region)
        if is_full and not is_closed(a.text) and style.rank(blocks[position]) is None:
            return position
    return None


def _written(blocks: Sequence[Block], style: _Style, joiner: Joiner) -> Prose:
    ranks = [style.rank(block) if block.kind in {Kind.TEXT, Kind.ITEM} else None for block in blocks]
    levels = {rank: level for level, rank in enumerate(sorted({rank for rank in ranks if rank}, reverse=True), 1)}
    outliner, heading, after_heading = Outliner(), "", False
    for position, (block, rank) in enumerate(zip(blocks, ranks, strict=True)):
        text = _text(block, style, joiner)
        if not text:
            continue
        if position and (rank or block.is_apart or after_heading):
            outliner.add("")
        if rank:
            heading = heading or " ".join(text.split())
        level = min(levels[rank], HEADINGS[-1]) if rank else PROSE
        outliner.add(text, VERBATIM if block.kind in {Kind.ROWS, Kind.CODE} else level)
        after_heading = bool(rank)
    return Prose(outliner.text, outliner.outline, heading)


def _text(block: Block, style: _Style, joiner: Joiner) -> str:
    if block.kind is Kind.CODE:
        return _code(block)
    if block.kind is Kind.ROWS:
        return "\n".join(_LEADERS.sub(" … ", line.text, count=1).strip() for line in block.lines)
    text = ""
    for line in block.lines:
        text = joiner.join(text, line.text)
    return _SYMBOL_MARKER.sub("•", text.replace("\u00ad", ""), count=1).strip()


def _code(block: Block) -> str:
    """The lines with their indentation, in spaces of the font's width, and with empty lines where there are gaps."""
    left = min(line.x0 for line in block.lines)
    step = min((b.y - a.y for a, b in pairwise(block.lines) if b.y - a.y >= a.size), default=0.0)
    written: list[str] = []
    before: Line | None = None
    for line in block.lines:
        width = (line.x1 - line.x0) / max(len(line.text), 1) or 1.0
        if before is not None and line.y - before.y > 1.7 * step:
            written.append("")
        written.append(" " * min(80, round((line.x0 - left) / width)) + line.text)
        before = line
    return "\n".join(written)
