"""JSON lines: one object per line, of which the column of texts or messages and the id column are read."""

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from data.corpora.lines import lines_of
from data.corpora.reading import (
    ImportContext,
    ImportSettings,
    Source,
    is_unicode,
    make_conversations,
    make_rows,
    not_utf8,
)

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
Decoder = Any  # of objects with `value` and, where there is an id column, `id`


def read_json_lines(blocks: Iterable[tuple[int, bytes]], source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The rows in blocks of lines; a line that is not an object with the wanted columns is rejected."""
    decoder = row_decoder(context.settings)
    for first, block in blocks:
        rows = _decode_at_once(decoder, block, context.settings.max_bytes)
        if rows is None:
            numbers, rows = _decode_one_by_one(decoder, block, first, source, context)
        else:
            numbers = list(range(first, first + len(rows)))
        if rows:
            yield make_table(source, rows, numbers, context)


def make_table(source: Source, rows: Sequence[Any], numbers: Sequence[int], context: ImportContext) -> pa.Table:
    """The decoded rows as a table, with the number of each."""
    ids = [str(row.id) for row in rows] if context.settings.id_column else []
    values = [row.value for row in rows]
    if context.settings.messages_column:
        return make_conversations(source, values, numbers, ids, context)
    return make_rows(source, values, numbers, ids)


@functools.cache  # a class is made for it, which costs more than a small file
def row_decoder(settings: ImportSettings) -> Decoder:
    """Reads the wanted columns and skips all others."""
    fields: list[tuple[str, Any]] = [("value", Any if settings.messages_column else str)]
    names = {"value": settings.column}
    if settings.id_column:
        fields.append(("id", str | int))
        names["id"] = settings.id_column
    # Rows hold no cycles: the garbage collector can skip them.
    return msgspec.json.Decoder(msgspec.defstruct("Row", fields, rename=names, gc=False))


def decode_row(decoder: Decoder, content: bytes) -> Any:
    """One object. Raises one of `DECODE_ERRORS`; numbers that Python writes and JSON lacks (NaN) are passed over."""
    try:
        return decoder.decode(content)
    except DECODE_ERRORS:
        if b"NaN" not in content and b"Infinity" not in content:
            raise
        try:
            row = msgspec.convert(json.loads(content), decoder.type)
        except (ValueError, RecursionError):
            row = None
        if row is None or not (isinstance(row.value, str) and is_unicode(row.value)):
            raise
        return row


def explain(error: Exception, content: bytes) -> tuple[str, str]:
    """Reason and detail."""
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8", not_utf8(error)
    if not isinstance(error, msgspec.ValidationError):
        return "broken JSON", str(error)
    if "missing required field" not in str(error):
        return "wrong type", str(error)
    try:
        names = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except DECODE_ERRORS as fault:  # behind the object
        return "broken JSON", str(fault)
    return "missing column", f"{error}; there are: {', '.join(names)}"


def _decode_at_once(decoder: Decoder, block: bytes, limit: int) -> list[Any] | None:
    """The rows of a block in which every line is one valid object; None if that is not certain."""
    count = block.count(b"\n{") + 1
    if len(block) > limit or count != block.count(b"\n") + 1:
        return None
    try:
        rows: list[Any] = decoder.decode_lines(block)
    except DECODE_ERRORS:
        return None
    return rows if len(rows) == count else None


def _decode_one_by_one(
    decoder: Decoder, block: bytes, first: int, source: Source, context: ImportContext
) -> tuple[list[int], list[Any]]:
    """The valid rows of a block and the numbers of their lines; the other lines are rejected."""
    rows, numbers = [], []
    for number, line in enumerate(lines_of(block, first, source, context), first):
        try:
            row = decode_row(decoder, line)
        except DECODE_ERRORS as error:
            if line.strip():
                context.reject(source, number, *explain(error, line), line)
        else:
            rows.append(row)
            numbers.append(number)
    return numbers, rows
