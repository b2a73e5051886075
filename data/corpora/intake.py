"""What all readers share: the settings, the rows that they yield, the rows that they set aside, progress in bytes.

Writes `rejected/rows.jsonl`: one object for each row that was set aside, with file, line, reason, detail, excerpt.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType

import numpy as np
import pyarrow as pa

from data.corpora.arrays import int_array, string_array
from data.corpora.bookmark import GrowingFile
from data.errors import InputError

ROWS = pa.schema([("text", pa.string()), ("id", pa.string()), ("source", pa.int32()), ("line", pa.int64())])
DEFAULT_CORPUS = "corpus"
BLOCK_BYTES = 1 << 20  # what is read, and made into rows, at a time
REJECTED, ROWS_FILE = "rejected", "rows.jsonl"
MOST_ROWS = 8192  # in one table
SPLITS = ("none", "independent", "cumulative")
_EXCERPT_CHARACTERS = 160
_DETAIL_CHARACTERS = 300
_LEAST_CHUNK_TOKENS = 8
_MOST_BYTES = 1 << 30  # Arrow's offsets are 31 bits wide


@dataclass(frozen=True)
class ImportSettings:
    """How files become documents. `id_column` "" makes ids from content; `chunk_tokens` 0 cuts nothing.

    `similarity` is the Jaccard similarity from which a document counts as a near-duplicate; 0 looks for none.
    `tokenizer` is a `tokenizer.json`; "" counts words. `max_bytes` bounds a line and a document.
    """

    text_column: str = "text"
    id_column: str = ""
    corpus: str = DEFAULT_CORPUS
    similarity: float = 0.0
    chunk_tokens: int = 0
    tokenizer: str = ""
    split: str = "none"
    max_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        wrong = [
            (self.text_column == self.id_column, "--id-column", "the text cannot be its own id", "name another column"),
            (not self.text_column, "--text-column", "the text column has no name", "name it, or leave the flag out"),
            (not 0 <= self.similarity <= 1, "--similarity", "a similarity lies between 0 and 1", "try 0.8"),
            (0 < self.chunk_tokens < _LEAST_CHUNK_TOKENS or self.chunk_tokens < 0, "--chunk-tokens",
             f"a chunk of {self.chunk_tokens} tokens holds no sentence", f"give {_LEAST_CHUNK_TOKENS} or more"),
            (self.split not in SPLITS, "--split-sentences", f'no way to split "{self.split}"',
             f"choose among {', '.join(SPLITS)}"),
            (not 0 < self.max_bytes <= _MOST_BYTES, "--max-mb", "no limit for a document", "give 1 to 1024"),
        ]  # fmt: skip
        for is_wrong, where, what, hint in wrong:
            if is_wrong:
                raise InputError(what, where=where, hint=hint)


@dataclass(frozen=True)
class Source:
    """A file to be read: how it is shown, the kind of its reader, its size in bytes."""

    index: int
    path: Path
    kind: str
    size: int
    changed_ns: int


class Rejections:
    """The rows that are set aside: counted by reason, written as JSON lines under a temporary name until closed.

    `counts` and `length` (bytes) are those that an import had which was killed.
    """

    def __init__(self, folder: Path, counts: Mapping[str, int] = MappingProxyType({}), length: int = 0) -> None:
        self.counts = Counter(counts)
        self._path = folder / ROWS_FILE
        self.rows = GrowingFile(folder / f".{ROWS_FILE}.tmp", length)

    def add(self, file: object, line: int, reason: str, detail: str = "", excerpt: str | bytes = "") -> None:
        """Set a row aside. `line` counts from 1 (the row of a table, the page of a PDF); 0 is the file as a whole."""
        self.counts[reason] += 1
        shown = excerpt[: 4 * _EXCERPT_CHARACTERS]
        row = {
            "file": str(file),
            "line": line,
            "reason": reason,
            "detail": detail[:_DETAIL_CHARACTERS],
            "excerpt": (shown if isinstance(shown, str) else shown.decode(errors="replace"))[:_EXCERPT_CHARACTERS],
        }
        # File names and texts may hold halves of surrogate pairs: ASCII escapes carry them.
        self.rows.append((json.dumps(row) + "\n").encode())

    def __enter__(self) -> "Rejections":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rows.close()
        if kind is None:
            os.replace(self.rows.path, self._path)


@dataclass
class Intake:
    """One import under way: what a reader needs to know, and whom it tells about rows it cannot take.

    `told` counts the rows of the source under way that were; the first `known` of them stand written already.
    """

    settings: ImportSettings
    rejections: Rejections
    on_bytes: Callable[[int], None]
    told: int = 0
    known: int = 0

    def begin(self, known: int = 0) -> None:
        """Another source comes."""
        self.told, self.known = 0, known

    def reject(self, source: Source, line: int, reason: str, detail: str = "", excerpt: str | bytes = "") -> None:
        """Set a row of the source under way aside."""
        self.told += 1
        if self.told > self.known:
            self.rejections.add(source.path, line, reason, detail, excerpt)


Reader = Callable[[Source, Intake], Iterator[pa.Table]]


def make_rows(source: Source, texts: Sequence[str], lines: Sequence[int], ids: Sequence[str] = ()) -> pa.Table:
    """Rows of one source as a table with the schema `ROWS`; without ids, they are made from the content later."""
    count = len(texts)
    columns = [
        string_array(texts),
        string_array(ids) if ids else pa.nulls(count, pa.string()),
        int_array(np.full(count, source.index), pa.int32()),
        int_array(lines, pa.int64()),
    ]
    return pa.Table.from_arrays(columns, schema=ROWS)
