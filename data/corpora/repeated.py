"""Lines that repeat over many documents: headers, licences, cookie notices. Found in a sample; counted and removed.

A line is repeated if `is_many` documents have it, spaces apart. Numbers count: "Weight: 300 g" is what a document says,
and not what its template repeats. Lines that are short, of one word, indented, mostly signs, headings or no prose
(code, tables) are never counted: many documents share them with reason. A sentence inside a paragraph is no line.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.corpora.arrays import Mask, list_array, string_array
from data.corpora.words import Hashes
from data.store import list_shards, sample_rows
from data.structure import marks_of, outline_with, part_of

SAMPLED = 500  # documents
_RUN = 10  # neighbours: a sample in single rows would map most pages of a large corpus into memory
_END_CHARACTERS = 20_000  # of a sampled document, where boilerplate is
_LEAST_DOCUMENTS, _LEAST_SHARE = 3, 0.05
_LEAST_BYTES = 12  # of UTF-8: 12 Latin letters, 4 ideographs
_SIGN = re.compile(r"[^\w\s]|_")
_SHOWN_CHARACTERS = 100
_MOST_SHOWN = 1000  # lines whose documents are counted for the report
_WIDTH, _DEPTH = 1 << 21, 2  # of the sketch: 16 MiB

Line = tuple[int, str]  # its number in the text, from 0, and what it is counted as


def is_many(documents: npt.NDArray[np.int64], out_of: int) -> Mask:
    """Whether so many documents make a line a repeated one: 3, and one in twenty."""
    return (documents >= _LEAST_DOCUMENTS) & (documents >= _LEAST_SHARE * out_of)


def counted_lines(text: str, outline: Sequence[int]) -> Iterator[Line]:
    """The lines of a text that may be boilerplate, with single spaces."""
    marks, next_mark, start = marks_of(outline), 0, 0
    for number, line in enumerate(text.split("\n")):
        while next_mark < len(marks) and marks[next_mark][2] < start:
            next_mark += 1
        is_marked = next_mark < len(marks) and marks[next_mark][1] <= start
        start += len(line) + 1
        if not is_marked and line[:1] not in ("\t", " ", "") and len(line.encode()) >= _LEAST_BYTES:
            words = " ".join(line.split())
            if 2 * len(_SIGN.findall(words)) < len(words) and (" " in words or not words.isascii()):
                yield number, words


def without_lines(text: str, outline: Sequence[int], dropped: Iterable[int]) -> tuple[str, tuple[int, ...]]:
    """A text without some of its lines, none of which is marked, and without the empty lines that this joins."""
    gone, kept = set(dropped), list[str]()
    moved, start, shift, is_cut = dict[int, int](), 0, 0, False
    for number, line in enumerate(text.split("\n")):
        moved[start] = shift  # how far a mark that begins here moves
        start += len(line) + 1
        is_joined = is_cut and not line.strip() and not (kept and kept[-1].strip())
        is_cut = number in gone or is_joined
        if is_cut:
            shift += len(line) + 1
        else:
            kept.append(line)
    joined = "\n".join(kept)
    if is_cut:
        joined = joined.rstrip("\n")
    marks = (
        (kind, first - moved[first], min(last - moved[first], len(joined))) for kind, first, last in marks_of(outline)
    )
    return joined, outline_with(mark for mark in marks if mark[1] < mark[2])


class LineCounts:
    """How many documents have a line, for any number of lines in 16 MiB: a count-min sketch.

    A count may be too high, never too low. A line that is rare is taken for a repeated one only if two hashes of it
    meet two of the repeated lines: one line in four million with a thousand of these.
    """

    def __init__(self) -> None:
        self._table = np.zeros((_DEPTH, _WIDTH), np.uint32)
        self.num_documents = 0

    def add(self, texts: Sequence[str], outlines: Sequence[Sequence[int]]) -> None:
        """Count the lines of some documents, each once for a document."""
        hashes = [
            number
            for text, outline in zip(texts, outlines, strict=True)
            for number in {_hash(line) for _, line in counted_lines(text, outline)}
        ]
        self.num_documents += len(texts)
        for row, places in zip(self._table, _places(np.array(hashes, np.uint64)), strict=True):
            cells, counts = np.unique(places, return_counts=True)
            row[cells] += counts.astype(np.uint32)

    def are_repeated(self, lines: Sequence[str]) -> Mask:
        """Which lines are in many documents."""
        places = _places(np.array([_hash(line) for line in lines], np.uint64))
        counts = np.minimum(*(row[at] for row, at in zip(self._table, places, strict=True))).astype(np.int64)
        return is_many(counts, self.num_documents)

    def save(self, path: Path) -> None:
        """Write the counts, at once."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as file:
            np.savez(file, table=self._table, num_documents=self.num_documents)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> "LineCounts":
        """Counts that `save` wrote."""
        counts = cls()
        with np.load(path, allow_pickle=False) as file:
            counts._table, counts.num_documents = file["table"], int(file["num_documents"])
        return counts


class RepeatedLines:
    """Removes the repeated lines; `documents` counts those that had each line, for the report, of at most 1000 lines.

    `documents` and `num_dropped` (lines) are those of an interrupted import.
    """

    def __init__(self, counts: LineCounts, documents: dict[str, int], num_dropped: int) -> None:
        self._counts, self.documents, self.num_dropped = counts, Counter(documents), num_dropped

    @property
    def num_counted(self) -> int:
        """The documents whose lines were counted."""
        return self._counts.num_documents

    def drop(self, rows: pa.Table) -> pa.Table:
        """The rows without repeated lines; their outlines follow."""
        texts, outlines = rows["text"].to_pylist(), rows["outline"].to_pylist()
        found = [list(counted_lines(text, outline)) for text, outline in zip(texts, outlines, strict=True)]
        is_repeated = iter(self._counts.are_repeated([line for lines in found for _, line in lines]).tolist())
        is_changed = False
        for row, lines in enumerate(found):
            dropped = [line for line in lines if next(is_repeated)]
            if dropped:
                texts[row], outlines[row] = without_lines(texts[row], outlines[row], [number for number, _ in dropped])
                self._note({line for _, line in dropped}, len(dropped))
                is_changed = True
        if not is_changed:
            return rows
        rows = rows.set_column(rows.column_names.index("text"), "text", string_array(texts))
        return rows.set_column(rows.column_names.index("outline"), "outline", list_array(outlines))

    def _note(self, lines: set[str], count: int) -> None:
        self.num_dropped += count
        for line in sorted(lines):
            shown = line[:_SHOWN_CHARACTERS]
            if shown in self.documents or len(self.documents) < _MOST_SHOWN:
                self.documents[shown] += 1


def find_repeated_lines(folder: Path, *, are_parts: bool) -> tuple[dict[str, int], int]:
    """Repeated lines in a sample of a folder of documents, the commonest first, and the size of the sample.

    By line, the documents in the sample that have it. Ids of parts end with the number of the part.
    """
    holders = dict[str, set[str]]()
    sampled, columns = set[str](), ["doc_id", "text", "outline"]
    for row in sample_rows(list_shards(folder), SAMPLED, seed=0, columns=columns, run=_RUN):
        doc_id = row["doc_id"].rpartition("/")[0] if are_parts else row["doc_id"]
        sampled.add(doc_id)
        for text, outline in _ends(row["text"], row["outline"]):
            for _, line in counted_lines(text, outline):
                holders.setdefault(line, set()).add(doc_id)
    counts = Counter({line: len(ids) for line, ids in holders.items()}).most_common()
    many = is_many(np.array([count for _, count in counts], np.int64), len(sampled))
    found = [(line[:_SHOWN_CHARACTERS], count) for (line, count), kept in zip(counts, many, strict=True) if kept]
    return dict(found[:_MOST_SHOWN]), len(sampled)


def _ends(text: str, outline: Sequence[int]) -> Iterator[tuple[str, Sequence[int]]]:
    """The text, or beginning and end of a long one."""
    if len(text) <= 2 * _END_CHARACTERS:
        yield text, outline
        return
    for start, end in ((0, _END_CHARACTERS), (len(text) - _END_CHARACTERS, len(text))):
        yield text[start:end], part_of(outline, start, end)


def _hash(line: str) -> int:
    return int.from_bytes(blake2b(line.encode(), digest_size=8).digest(), "little")


def _places(hashes: Hashes) -> tuple[Hashes, Hashes]:
    """The cells of each line: its hash modulo the width, and the upper half of its hash modulo the width."""
    width = np.uint64(_WIDTH - 1)
    return hashes & width, (hashes >> np.uint64(32)) & width
