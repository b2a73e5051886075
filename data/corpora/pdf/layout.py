"""Words of a page to lines in reading order. Pure.

Words that follow each other closely are a *run*. Runs on one height are a *row*. A *gutter* is an upright white strip
beside which two columns stand; a page is cut along gutters until none is left, and each piece is a *region*: lines that
are read from top to bottom. Rows of a table stay rows, since their cells are short and come one after another in the
file.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from data.corpora.pdf.words import BOLD, MONO, Word

_RUN_GAP = 0.7  # of the font's size: a wider one ends a run
_WORD_GAP = 0.15  # a wider one is a space
_CELL_GAP = 1.5  # a wider one is between two cells of a table
_SAME_HEIGHT = 0.2
_RAISED = 0.55  # how far an index stands above or below its line
_ABOVE, _BELOW = 0.75, 0.2  # what a line reaches above and below its baseline
_ROW_OVERLAP = 0.5
_MIN_GUTTER = 0.6
_MIN_COLUMN_LINES = 2
_MIN_PROSE = 15  # characters in the middle line of a column of prose
_MIN_PROSE_LINES = 1 / 3  # of a column's lines continue in the next one
_MOST_EDGES = 40  # places tried for a gutter
_DEEPEST = 8
_BOLD_SHARE = 0.9
_MOST_COLUMNS = 200  # of a line of code
# Scripts that put no spaces between words.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u30ff\u3100-\u312f\u31a0-\u9fff\uf900-\ufaff\ufe30-\ufe4f"
    r"\uff00-\uffef\U00020000-\U0003ffff"
)
_UNSPACED_END, _UNSPACED_START = re.compile(f"[{_UNSPACED}]$"), re.compile(f"[{_UNSPACED}]")
_RIGHT_TO_LEFT = re.compile(r"[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
CELL = " | "  # between the cells of a row


@dataclass(slots=True)
class Run:
    """Words that follow each other closely on one height. `place` is that of the first word."""

    words: list[Word]
    x0: float
    x1: float
    y: float
    size: float
    place: int

    @property
    def text(self) -> str:
        """The words with their spaces."""
        return joined(self.words)


@dataclass(slots=True)
class Line:
    """A line of a region. `cells` counts what wide gaps separate; `first` is the room that its first word takes."""

    text: str
    x0: float
    x1: float
    y: float
    size: float
    style: int
    cells: int
    first: float


@dataclass(slots=True)
class Region:
    """Lines that are read from top to bottom, and what they reach from left to right."""

    page: int
    lines: list[Line]
    left: float = 0.0
    right: float = 0.0
    bottom: float = field(default=0.0)  # the height of the page: where a region of its foot would be

    def __post_init__(self) -> None:
        self.left = min(line.x0 for line in self.lines)
        self.right = max(line.x1 for line in self.lines)


def is_unspaced(before: str, after: str) -> bool:
    """Whether no space separates two pieces of text, as in Chinese, Japanese, Thai."""
    return not before.isascii() and bool(_UNSPACED_END.search(before) and _UNSPACED_START.match(after))


def joined(words: Sequence[Word]) -> str:
    """Words of one line with a space where there is one in the file, or a gap."""
    parts: list[str] = []
    last: Word | None = None
    for word in words:
        if last is not None and _is_apart(last, word):
            parts.append(" ")
        parts.append(word.text)
        last = word
    return "".join(parts)


def _is_apart(last: Word, word: Word) -> bool:
    unspaced = is_unspaced(last.text, word.text)
    if word.space and not unspaced:
        return True
    gap = word.x0 - last.x1 if word.x1 >= last.x0 else last.x0 - word.x1
    return gap > (0.6 if unspaced else _WORD_GAP) * max(last.size, word.size)


def make_runs(words: Iterable[Word]) -> list[Run]:
    """Runs in the file's own order."""
    runs: list[Run] = []
    for word in words:
        if runs and _continues(runs[-1], word):
            run = runs[-1]
            run.words.append(word)
            run.x0, run.x1 = min(run.x0, word.x0), max(run.x1, word.x1)
            if word.size > run.size:
                run.y, run.size = word.y, word.size
        else:
            runs.append(Run([word], word.x0, word.x1, word.y, word.size, word.place))
    return runs


def _continues(run: Run, word: Word) -> bool:
    size = max(run.size, word.size)
    height = abs(word.y - run.y)
    if height > _SAME_HEIGHT * size and not (height < _RAISED * size and min(run.size, word.size) < 0.85 * size):
        return False
    last = run.words[-1]
    gap = word.x0 - last.x1
    if gap < -size and _RIGHT_TO_LEFT.search(word.text):
        gap = last.x0 - word.x1
    return -0.5 * size < gap < _RUN_GAP * size


def make_rows(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs that overlap in height, from the top; each row from left to right."""
    rows: list[list[Run]] = []
    widest: Run | None = None
    for run in sorted(runs, key=lambda run: run.y):
        if widest is not None and _overlap(widest, run) >= _ROW_OVERLAP:
            rows[-1].append(run)
            if run.size > widest.size:
                widest = run
        else:
            rows.append([run])
            widest = run
    return [sorted(row, key=lambda run: run.x0) for row in rows]


def _overlap(a: Run, b: Run) -> float:
    """The share of the smaller one's height that both have."""
    top = max(a.y - _ABOVE * a.size, b.y - _ABOVE * b.size)
    bottom = min(a.y + _BELOW * a.size, b.y + _BELOW * b.size)
    return (bottom - top) / ((_ABOVE + _BELOW) * min(a.size, b.size))


def regions_of(page: int, runs: Sequence[Run], bottom: float) -> list[Region]:
    """The regions of a page in reading order."""
    return [
        Region(page, lines, bottom=bottom)
        for piece in _pieces(list(runs), _DEEPEST)
        if (lines := [make_line(row) for row in make_rows(piece)]) and not _are_line_numbers(lines)
    ]


def make_line(row: Sequence[Run]) -> Line:
    """The runs of a row as a line."""
    words = [word for run in row for word in run.words]
    if _is_right_to_left(words):
        words.sort(key=lambda word: word.place)
        text, cells, first = joined(words), 1, _first_width(words[0])
    else:
        cells_of_row = _cells(row)
        cells, first = len(cells_of_row), _first_width(words[0])
        is_code = all(word.style & MONO for word in words)
        text = _spaced(words) if is_code else CELL.join(joined(cell) for cell in cells_of_row)
    sizes, bold, mono, total = Counter[float](), 0, 0, 0
    for word in words:
        sizes[word.size] += len(word.text)
        total += len(word.text)
        bold += len(word.text) if word.style & BOLD else 0
        mono += len(word.text) if word.style & MONO else 0
    style = (BOLD if bold >= _BOLD_SHARE * total else 0) | (MONO if mono >= _BOLD_SHARE * total else 0)
    y = max(row, key=lambda run: run.size).y
    return Line(
        text, min(r.x0 for r in row), max(r.x1 for r in row), y, sizes.most_common(1)[0][0], style, cells, first
    )


def _first_width(word: Word) -> float:
    """The room that the beginning of a line needs; in scripts without spaces a line may end at any character."""
    return 2 * word.size if _UNSPACED_START.match(word.text) else word.x1 - word.x0


def _spaced(words: Sequence[Word]) -> str:
    """Words in a typewriter's font with as many spaces between them as there is room for."""
    width = max(
        (words[-1].x1 - words[0].x0) / _MOST_COLUMNS, max(w.x1 - w.x0 for w in words) / max(map(_length, words))
    )
    text = words[0].text
    for before, word in pairwise(words):
        text += " " * max(word.space, round((word.x0 - before.x1) / width)) + word.text
    return text


def _length(word: Word) -> int:
    return len(word.text)


def _cells(row: Sequence[Run]) -> list[list[Word]]:
    cells: list[list[Word]] = [list(row[0].words)]
    for before, run in pairwise(row):
        if run.x0 - before.x1 > _CELL_GAP * max(before.size, run.size):
            cells.append(list(run.words))
        else:
            cells[-1] += run.words
    return cells


def _is_right_to_left(words: Sequence[Word]) -> bool:
    return 2 * sum(not word.text.isascii() and bool(_RIGHT_TO_LEFT.search(word.text)) for word in words) > len(words)


def _are_line_numbers(lines: Sequence[Line]) -> bool:
    """Whether this is the column of numbers beside the lines of a draft."""
    numbers = [int(line.text) for line in lines if line.text.isascii() and line.text.isdigit() and len(line.text) < 6]
    steps = {b - a for a, b in pairwise(numbers)}
    return len(numbers) == len(lines) > 4 and len(steps) == 1 and steps <= {1, 5}


def _pieces(runs: list[Run], depth: int) -> Iterator[list[Run]]:
    """The runs of each region: cut along the best gutter, above, left, right, below, until there is none."""
    gutter = _best_gutter(runs) if depth and len(runs) >= 2 * _MIN_COLUMN_LINES else None
    if gutter is None:
        if runs:
            yield runs
        return
    edge, first, last = gutter
    above = [run for run in runs if run.y < first]
    below = [run for run in runs if run.y > last]
    band = [run for run in runs if first <= run.y <= last]
    yield from _pieces(above, depth - 1)
    yield from _pieces([run for run in band if run.x0 < edge], depth - 1)
    yield from _pieces([run for run in band if run.x0 >= edge], depth - 1)
    yield from _pieces(below, depth - 1)


def _best_gutter(runs: Sequence[Run]) -> tuple[float, float, float] | None:
    """The right edge of the gutter with most lines beside it, with the heights of its first and last line."""
    by_height = sorted(runs, key=lambda run: run.y)
    best: tuple[float, float, float] | None = None
    most = 0
    for edge in _edges(runs):
        for band in _bands(by_height, edge):
            left, right = [run for run in band if run.x0 < edge], [run for run in band if run.x0 >= edge]
            lines = min(_num_lines(left), _num_lines(right))
            if lines > most and lines >= _MIN_COLUMN_LINES and _are_columns(left, right):
                best, most = (edge, band[0].y, band[-1].y), lines
    return best


def _edges(runs: Sequence[Run]) -> list[float]:
    """Where several runs begin: the left edges of columns, the most usual ones first."""
    starts = sorted(run.x0 for run in runs)
    counts = {}
    position = 0
    while position < len(starts):
        after = bisect_left(starts, starts[position] + 2.0)  # points
        counts[starts[position] - 0.01] = after - position
        position = after
    left = starts[0] + 1
    usual = [edge for edge, count in counts.items() if count >= _MIN_COLUMN_LINES and edge > left]
    return sorted(usual, key=lambda edge: (-counts[edge], edge))[:_MOST_EDGES]


def _bands(by_height: Sequence[Run], edge: float) -> Iterator[list[Run]]:
    """Stretches of the page in which no run reaches into the strip before an edge."""
    band: list[Run] = []
    for run in by_height:
        if run.x0 < edge and run.x1 > edge - _MIN_GUTTER * run.size:
            if band:
                yield band
            band = []
        else:
            band.append(run)
    if band:
        yield band


def _num_lines(runs: Sequence[Run]) -> int:
    """The heights at which runs of a sorted list stand."""
    count, last = 0, float("-inf")
    for run in runs:
        if run.y - last > 0.5 * run.size:
            count, last = count + 1, run.y
    return count


def _are_columns(left: Sequence[Run], right: Sequence[Run]) -> bool:
    """Whether both sides are columns of text, not cells of a table: read one after the other in the file, or prose."""
    sides = [side for _, side in sorted([(run.place, 0) for run in left] + [(run.place, 1) for run in right])]
    changes = sum(a != b for a, b in pairwise(sides))
    if changes <= 1:
        return True
    return _is_prose(left) and _is_prose(right)


def _is_prose(runs: Sequence[Run]) -> bool:
    """Whether lines are long, and many of them continue in the next one."""
    texts = [" ".join(run.text for run in row) for row in make_rows(runs)]
    if sorted(map(len, texts))[len(texts) // 2] < _MIN_PROSE:
        return bool(texts) and all(_UNSPACED_START.match(text) and len(text) > 4 for text in texts)
    pairs = list(pairwise(texts))
    going_on = sum(after[0].islower() or before[-1] in "-," or is_unspaced(before, after) for before, after in pairs)
    return going_on >= _MIN_PROSE_LINES * len(pairs)
