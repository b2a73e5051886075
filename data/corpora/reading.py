"""What all readers share: the settings, the rows that they yield, the rows that they reject, progress in bytes.

Writes `rejected/rows.jsonl`: one object for each rejected row, with file, line, reason, detail and excerpt.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from data.conversations import read_messages, write_messages
from data.corpora.arrays import int_array, list_array, string_array
from data.errors import InputError
from data.records import Conversation, Document
from data.unicode import clean, without_surrogates

ROWS = pa.schema(
    [
        ("text", pa.string()),
        ("id", pa.string()),
        ("source", pa.int32()),
        ("line", pa.int64()),
        ("heading", pa.string()),
        ("outline", pa.list_(pa.int64())),
    ]
)
DEFAULT_CORPUS = "corpus"
BLOCK_BYTES = 1 << 20  # read, and turned into rows, at a time
REJECTED, ROWS_FILE = "rejected", "rows.jsonl"
MOST_ROWS = 8192  # in one table
NO_CONVERSATION = "no conversation"
PAGES = ("main", "full")
SPLITS = ("none", "independent", "cumulative")
_EXCERPT_CHARACTERS = 160
_DETAIL_CHARACTERS = 300
_MIN_CHUNK_TOKENS = 8
_MAX_BYTES = 1 << 30  # Arrow's offsets are 31 bits wide


@dataclass(frozen=True)
class ImportSettings:
    """How files become documents. `id_column` "" derives ids from content; `chunk_tokens` 0 means no chunking.

    `similarity` is the Jaccard threshold for near-duplicates; 0 disables the search. `tokenizer` is a `tokenizer.json`
    or a folder with one; "" counts words. `max_bytes` bounds a line and a document. With a `messages_column` the
    documents are conversations, whole and one for each row; there is no text column then. `html` is "main" for the main
    content of pages or "full" for all that is visible; with `code`, source files are texts.
    """

    text_column: str = "text"
    messages_column: str = ""
    id_column: str = ""
    corpus: str = DEFAULT_CORPUS
    similarity: float = 0.0
    chunk_tokens: int = 0
    tokenizer: str = ""
    split: str = "none"
    html: str = "main"
    code: bool = False
    drop_repeated_lines: bool = False
    max_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        wrong = [
            (self.column == self.id_column, "--id-column", "the text cannot be its own id", "name another column"),
            (not self.text_column, "--text-column", "the text column has no name", "name it, or omit the flag"),
            (not 0 <= self.similarity <= 1, "--similarity", f"{self.similarity} is not between 0 and 1", "try 0.8"),
            (0 < self.chunk_tokens < _MIN_CHUNK_TOKENS or self.chunk_tokens < 0, "--chunk-tokens",
             f"a chunk of {self.chunk_tokens} tokens is too short for a sentence", f"give {_MIN_CHUNK_TOKENS} or more"),
            (self.split not in SPLITS, "--split-sentences", f'unknown way to split: "{self.split}"',
             f"choose among {', '.join(SPLITS)}"),
            (self.html not in PAGES, "--html", f'no such part of a page: "{self.html}"',
             f"choose among {', '.join(PAGES)}"),
            (not 0 < self.max_bytes <= _MAX_BYTES, "--max-mib",
             f"{self.max_bytes >> 20} MiB is not a valid limit", "give 1 to 1024"),
            *((bool(self.messages_column and given), flag, f"{flag} has no effect on conversations",
               "leave it out, or --messages-column") for flag, given in self._of_texts().items()),
        ]  # fmt: skip
        for is_wrong, where, what, hint in wrong:
            if is_wrong:
                raise InputError(what, where=where, hint=hint)

    @property
    def column(self) -> str:
        """The column that becomes the text of documents."""
        return self.messages_column or self.text_column

    @property
    def cuts(self) -> bool:
        """Whether documents are cut into parts, whose ids are those of their documents, a slash and a number."""
        return bool(self.chunk_tokens) or self.split != "none"

    @property
    def record(self) -> type[Document]:
        """What is written."""
        return Conversation if self.messages_column else Document

    def _of_texts(self) -> dict[str, object]:
        """By flag, the settings that conversations do not have."""
        return {
            "--text-column": self.text_column != "text",
            "--dedup": self.similarity,
            "--chunk-tokens": self.chunk_tokens,
            "--model": self.tokenizer,
            "--split-sentences": self.split != "none",
            "--drop-repeated-lines": self.drop_repeated_lines,
        }


@dataclass(frozen=True)
class Source:
    """A file to read: `kind` names its reader, `size` is in bytes."""

    index: int
    path: Path
    kind: str
    size: int
    changed_ns: int


class GrowingFile:
    """A file that is appended to; it is truncated to `length` bytes first, the length that the bookmark recorded."""

    def __init__(self, path: Path, length: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, length)
        self.path = path
        self._file = path.open("r+b")
        self._file.seek(length)

    def append(self, content: bytes) -> None:
        """Append, buffered."""
        self._file.write(content)

    def flush(self) -> int:
        """Write the buffer; returns the length in bytes."""
        self._file.flush()
        return self._file.tell()

    def read(self, start: int, size: int) -> bytes:
        """Bytes that were flushed before."""
        return os.pread(self._file.fileno(), size, start)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Rejections:
    """The rejected rows: counted by reason, written as JSON lines under a temporary name until closed.

    `counts` and `length` (bytes) are those of an interrupted import.
    """

    def __init__(self, folder: Path, counts: Mapping[str, int], length: int) -> None:
        self.counts = Counter(counts)
        self._path = folder / ROWS_FILE
        self.rows = GrowingFile(folder / f".{ROWS_FILE}.tmp", length)

    def add(self, file: object, line: int, reason: str, detail: str = "", excerpt: str | bytes = "") -> None:
        """Record a row. `line` counts from 1 (the row of a table, the page of a PDF); 0 is the file as a whole."""
        self.counts[reason] += 1
        shown = excerpt[: 4 * _EXCERPT_CHARACTERS]
        row = {
            "file": without_surrogates(str(file)),
            "line": line,
            "reason": reason,
            "detail": without_surrogates(detail[:_DETAIL_CHARACTERS]),
            "excerpt": without_surrogates(
                (shown if isinstance(shown, str) else shown.decode(errors="replace"))[:_EXCERPT_CHARACTERS]
            ),
        }
        self.rows.append((json.dumps(row) + "\n").encode())

    def __enter__(self) -> "Rejections":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.rows.close()
        if kind is None:
            os.replace(self.rows.path, self._path)


@dataclass
class ImportContext:
    """What a reader needs to know about the import, and where it reports rows that it rejects.

    `num_rejected` counts the rejected rows of the current source; an interrupted import has written the first
    `num_written` of them already.
    """

    settings: ImportSettings
    rejections: Rejections
    on_bytes: Callable[[int], None]
    num_rejected: int = 0
    num_written: int = 0

    def reject(self, source: Source, line: int, reason: str, detail: str = "", excerpt: str | bytes = "") -> None:
        """Reject a row of the current source."""
        self.num_rejected += 1
        if self.num_rejected > self.num_written:
            self.rejections.add(source.path, line, reason, detail, excerpt)


Reader = Callable[[Source, ImportContext], Iterator[pa.Table]]
Row = TypeVar("Row")


def in_blocks(rows: Iterable[Row], size: Callable[[Row], int]) -> Iterator[list[Row]]:
    """The rows in lists, each of at most `MOST_ROWS` rows and about `BLOCK_BYTES` bytes.

    An OSError of `rows` is raised after the rows before it.
    """
    block: list[Row] = []
    num_bytes, fault = 0, None
    try:
        for row in rows:
            block.append(row)
            num_bytes += size(row)
            if num_bytes >= BLOCK_BYTES or len(block) >= MOST_ROWS:
                yield block
                block, num_bytes = [], 0
    except OSError as error:
        fault = error
    if block:
        yield block
    if fault:
        raise fault


def make_rows(
    source: Source,
    texts: Sequence[str],
    lines: Sequence[int],
    ids: Sequence[str] = (),
    *,
    headings: Sequence[str] = (),
    outlines: Sequence[Sequence[int]] = (),
) -> pa.Table:
    """Rows of one source as a table with the schema `ROWS`; without ids, they are derived from the content later.

    A reader that knows the structure of its documents gives their `headings` and `outlines`, as in `Document`.
    """
    given = string_array(ids) if ids else pa.nulls(len(texts), pa.string())
    return rows_of(source, string_array(texts), given, lines, headings=headings, outlines=outlines)


def rows_of(
    source: Source,
    texts: pa.StringArray,
    ids: pa.StringArray,
    lines: Sequence[int],
    *,
    headings: Sequence[str] = (),
    outlines: Sequence[Sequence[int]] = (),
) -> pa.Table:
    """`make_rows` of texts and ids that are Arrow arrays; an id that is null is derived from the content later."""
    count = len(texts)
    columns = [
        texts,
        ids,
        int_array(np.full(count, source.index), pa.int32()),
        int_array(lines, pa.int64()),
        string_array(headings or [""] * count),
        list_array(outlines or [()] * count),
    ]
    return pa.Table.from_arrays(columns, schema=ROWS)


def make_conversations(
    source: Source, values: Sequence[object], lines: Sequence[int], ids: Sequence[str], context: ImportContext
) -> pa.Table:
    """As `make_rows`, of values that are lists of messages; the others are rejected."""
    kept, texts = list[int](), list[str]()
    for row, value in enumerate(values):
        try:
            messages = read_messages(value)
        except ValueError as error:
            excerpt = json.dumps(value, ensure_ascii=False, default=str)
            context.reject(source, lines[row], NO_CONVERSATION, str(error), excerpt)
            continue
        text = write_messages([message | {"content": clean(message["content"])} for message in messages])
        if len(text) > context.settings.max_bytes:
            detail = f"a conversation of more than {context.settings.max_bytes >> 20} MiB"
            context.reject(source, lines[row], "too long", detail, text)
            continue
        kept.append(row)
        texts.append(text)
    return make_rows(source, texts, [lines[row] for row in kept], [ids[row] for row in kept] if ids else ())


def not_utf8(what: object) -> str:
    """The detail of a rejection: `what` is wrong, and what to do. Encodings are not guessed."""
    return f"{what}; convert the file, for example: iconv -f windows-1252 -t utf-8 FILE"


def is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates, which UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
