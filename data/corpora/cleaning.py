"""Cleans the texts of a table of rows, as `data.unicode` says.

Pure. Rows of plain ASCII cost a scan of their bytes, rows of most scripts a search by RE2. Outlines follow their texts.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.corpora.arrays import buffer_of, int_array, list_array, string_array
from data.structure import marks_of, outline_with
from data.unicode import DOUBTFUL_RE2, clean, clean_part

_SPACE, _PRINTABLE = 0x20, 95  # printable ASCII: 95 characters from the space on
_SLICE_BYTES = 1 << 18  # scanned at a time, so that the arrays stay in the CPU cache
_TAB, _LINE_END = 0x09, 0x0A


def clean_rows(rows: pa.Table) -> pa.Table:
    """The rows with clean texts and headings, and outlines that fit; the same table if there is nothing to do."""
    if not rows.num_rows:
        return rows
    texts, outlines = rows["text"].chunk(0), rows["outline"].chunk(0)
    changed = {row: text for row, before, text in _cleaned(texts) if text != before}
    if changed:
        marked = {row: outlines[row].as_py() for row in changed}
        moved = {row: clean_with_outline(str(texts[row]), outline) for row, outline in marked.items() if outline}
        changed |= {row: text for row, (text, _) in moved.items()}
        rows = rows.set_column(rows.column_names.index("text"), "text", _replaced(texts, changed))
        if moved:
            lists = outlines.to_pylist()
            for row, (_, outline) in moved.items():
                lists[row] = outline
            rows = rows.set_column(rows.column_names.index("outline"), "outline", list_array(lists))
    headings = rows["heading"].chunk(0)
    titles = {row: title for row, before, text in _cleaned(headings) if (title := " ".join(text.split())) != before}
    if titles:
        rows = rows.set_column(rows.column_names.index("heading"), "heading", _replaced(headings, titles))
    return rows


def clean_with_outline(text: str, outline: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """A clean text and its outline: what is marked, and what is between, is cleaned piece by piece."""
    marks = marks_of(outline)
    bounds = [0, *(place for _, start, end in marks for place in (start, end)), len(text)]
    pieces = [clean_part(text[start:end]) for start, end in pairwise(bounds)]
    places = np.cumsum([0, *map(len, pieces)]).tolist()
    moved = [
        (kind, places[2 * number + 1], places[2 * number + 2])
        for number, (kind, _, _) in enumerate(marks)
        if pieces[2 * number + 1]
    ]
    return "".join(pieces), outline_with(moved)


def _cleaned(texts: pa.StringArray) -> list[tuple[int, str, str]]:
    """Row, text and clean text of the rows that may have to be cleaned."""
    rows = not_plain(texts)
    if not len(rows):
        return []
    taken = texts.take(int_array(rows, pa.int64()))
    is_doubtful = pc.match_substring_regex(taken, DOUBTFUL_RE2)
    rows, found = rows[np.array(is_doubtful.to_pylist(), bool)], taken.filter(is_doubtful).to_pylist()
    return [(row, text, clean(text)) for row, text in zip(rows.tolist(), found, strict=True)]


def not_plain(texts: pa.StringArray) -> npt.NDArray[np.int64]:
    """The rows with anything but printable ASCII, tabs and line ends."""
    offsets, content = buffer_of(texts)
    moved, is_odd = np.empty(_SLICE_BYTES, np.uint8), np.empty(_SLICE_BYTES, bool)
    counts = np.zeros(len(texts), np.int64)
    for start in range(0, len(content), _SLICE_BYTES):
        piece = content[start : start + _SLICE_BYTES]
        # Unsigned: what is below the space wraps around.
        np.subtract(piece, np.uint8(_SPACE), out=moved[: len(piece)])
        np.greater_equal(moved[: len(piece)], _PRINTABLE, out=is_odd[: len(piece)])
        places = np.flatnonzero(is_odd[: len(piece)])
        if len(places):
            values = piece[places]
            places = places[(values != _TAB) & (values != _LINE_END)] + start
            counts += np.diff(np.searchsorted(places, offsets))
    return np.flatnonzero(counts)


def _replaced(texts: pa.StringArray, changed: dict[int, str]) -> pa.StringArray:
    """The texts, of which some are replaced."""
    members = texts.to_pylist()
    for row, text in changed.items():
        members[row] = text
    return string_array(members)
