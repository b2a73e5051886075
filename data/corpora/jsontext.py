"""JSON files: an array of objects, an object that holds such arrays, or objects one after another; each is a row.

The objects are decoded one by one, so that a broken one costs its neighbours nothing.
"""

import itertools
import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from data.corpora.brackets import (
    BETWEEN,
    DEEP,
    DEEPEST,
    IN_FILE,
    IN_OBJECT,
    LONG,
    OBJECT,
    OPEN,
    ROW,
    UNCLOSED,
    Splitter,
    split_lines,
)
from data.corpora.jsonl import DECODE_ERRORS, decode_row, explain, make_table, read_json_lines, row_decoder
from data.corpora.lines import read_blocks, read_chunks
from data.corpora.reading import BLOCK_BYTES, ImportContext, Source, in_blocks

_HEAD_BYTES = 1 << 16
_NUM_LOOKED_AT = 10  # lines
_Rows = Iterator[tuple[int, Any, int]]  # number, row, bytes


def read_json(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The rows of a file; an element that is not an object with the wanted columns is rejected by its number."""
    if _has_objects_in_lines(source):
        yield from read_json_lines(read_blocks(source, context), source, context)
    else:
        yield from _read_objects(source, context)


def read_jsonl(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The rows of a file of JSON lines; it may be one array or have objects over several lines all the same."""
    blocks = read_blocks(source, context)
    first = next(blocks, (1, b""))
    lines = [line for line in first[1].split(b"\n", 2 * _NUM_LOOKED_AT) if line.strip()]
    is_array = first[1].lstrip().startswith(b"[")
    if is_array or (lines and lines[0].strip() == b"{" and not _are_objects(lines)):
        yield from _read_objects(source, context)
    else:
        yield from read_json_lines(itertools.chain([first], blocks), source, context)


def _read_objects(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    for block in in_blocks(_JsonFile(source, context).rows(), lambda row: row[2]):
        yield make_table(source, [row for _, row, _ in block], [number for number, _, _ in block], context)


class _JsonFile:
    """The rows of one file; `_number` is that of the last one."""

    def __init__(self, source: Source, context: ImportContext) -> None:
        self._source, self._context = source, context
        self._limit = context.settings.max_bytes
        self._decoder = row_decoder(context.settings)
        self._number = 0

    def rows(self) -> _Rows:
        """The valid rows."""
        splitter = Splitter(read_chunks(self._source, self._context.on_bytes), IN_FILE, self._limit)
        for kind, content in splitter.events():
            if kind == LONG and not self._number:  # rows are read as a stream from within an object over the limit
                if not (yield from self._rows_inside(read_chunks(self._source))):
                    yield from self._rows_of(kind, content, None)
                return
            if kind == OBJECT:
                yield from self._rows_of_object(content, splitter.indent)
            else:
                yield from self._rows_of(kind, content, splitter.indent)

    def _rows_of_object(self, content: bytes, indent: bytes | None) -> _Rows:
        """An object that is in no array: a row, or an object that holds rows."""
        try:
            row = decode_row(self._decoder, content)
        except DECODE_ERRORS as error:
            missing = f"required field `{self._context.settings.column}`"
            may_hold_rows = not isinstance(error, msgspec.ValidationError) or missing in str(error)
            if not (may_hold_rows and (yield from self._rows_inside([content]))):
                yield from self._rows_of(ROW, content, indent)
        else:
            yield self._count(row, content)

    def _rows_inside(self, chunks: Iterable[bytes]) -> Generator[tuple[int, Any, int], None, int]:
        """The rows of those arrays in an object whose first element has the wanted column; returns how many."""
        column, before = self._context.settings.column, self._number
        names = [json.dumps(column).encode(), json.dumps(column, ensure_ascii=False).encode()]
        splitter, holds_rows = Splitter(chunks, IN_OBJECT, self._limit), False
        is_first = True
        for kind, content in splitter.events():
            if kind == OPEN:
                is_first, holds_rows = True, False
            elif is_first and kind in (ROW, LONG):
                is_first, holds_rows = False, any(name in content for name in names)
            if holds_rows or (kind in (UNCLOSED, DEEP) and self._number > before):
                yield from self._rows_of(kind, content, splitter.indent)
        return self._number - before

    def _rows_of(self, kind: str, content: bytes, indent: bytes | None) -> _Rows:
        """The rows in a part of the file; whatever else is there is rejected."""
        if kind in (ROW, OBJECT):
            yield from self._decoded(content, indent)
        elif kind == BETWEEN:
            self._reject_values(content)
        elif kind == LONG:
            self._reject("too long", f"an object of more than {self._limit >> 20} MiB", content)
        elif kind == DEEP:
            self._reject(
                "broken JSON", f"more than {DEEPEST} brackets within each other; the rest is not read", content
            )
        elif kind == UNCLOSED:
            self._reject("broken JSON", "the file ends before its last bracket is closed", content)

    def _decoded(self, content: bytes, indent: bytes | None) -> _Rows:
        """The row; if it is broken and other rows follow within it, because it is not closed, these too."""
        try:
            row = decode_row(self._decoder, content)
        except DECODE_ERRORS as error:
            pieces = [] if isinstance(error, msgspec.ValidationError) else split_lines(content, indent)
            if len(pieces) < 2:
                self._reject(*explain(error, content), content)
            for piece in pieces if len(pieces) > 1 else ():
                yield from self._decoded(piece, None)
        else:
            yield self._count(row, content)

    def _count(self, row: Any, content: bytes) -> tuple[int, Any, int]:
        self._number += 1
        return self._number, row, len(content)

    def _reject(self, reason: str, detail: str, content: bytes) -> None:
        self._number += 1
        self._context.reject(self._source, self._number, reason, detail, content)

    def _reject_values(self, content: bytes) -> None:
        """What is in the place of objects: numbers and texts, or no JSON at all."""
        try:
            values: list[object] = msgspec.json.decode(b"[%s]" % content)
        except DECODE_ERRORS as error:
            self._reject(*explain(error, content), content)
            return
        self._reject("wrong type", f"expected an object, got {len(values)} other value(s)", content)
        self._number += len(values) - 1


def _has_objects_in_lines(source: Source) -> bool:
    """Whether a file has JSON lines: several lines, most of which are objects."""
    head, lines = b"", list[bytes]()
    for chunk in read_chunks(source):
        head += chunk
        lines = [line for line in head.split(b"\n") if line.strip()]
        if len(head) >= _HEAD_BYTES and (len(lines) > _NUM_LOOKED_AT or len(head) >= BLOCK_BYTES):
            lines = lines[:-1] or lines  # the last one may be cut
            break
    return len(lines) > 1 and _are_objects(lines)


def _are_objects(lines: Sequence[bytes]) -> bool:
    """Whether most of the first lines are objects."""
    looked_at = lines[:_NUM_LOOKED_AT]
    return 2 * sum(map(_is_object, looked_at)) > len(looked_at)


def _is_object(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except DECODE_ERRORS:
        return False
    return True
