"""JSON lines: one object per line, of which the column of texts or messages and the id column are read."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa

from data.corpora.lines import lines_of, read_blocks
from data.corpora.reading import ImportContext, ImportSettings, Source, make_conversations, make_rows

_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_Decoder = Any  # of objects with `value` and, where there is an id column, `id`


def read_jsonl(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The rows of a file; a line that is not an object with the wanted columns is rejected."""
    decoder = _decoder(context.settings)
    for first, block in read_blocks(source, context):
        rows = _decode_at_once(decoder, block, context.settings.max_bytes)
        if rows is None:
            numbers, rows = _decode_one_by_one(decoder, block, first, source, context)
        else:
            numbers = list(range(first, first + len(rows)))
        if rows:
            ids = [str(row.id) for row in rows] if context.settings.id_column else []
            values = [row.value for row in rows]
            if context.settings.messages_column:
                yield make_conversations(source, values, numbers, ids, context)
            else:
                yield make_rows(source, values, numbers, ids)


def _decoder(settings: ImportSettings) -> _Decoder:
    """Reads the wanted columns and skips all others."""
    fields: list[tuple[str, Any]] = [("value", Any if settings.messages_column else str)]
    names = {"value": settings.column}
    if settings.id_column:
        fields.append(("id", str | int))
        names["id"] = settings.id_column
    # Rows hold no cycles: the garbage collector can skip them.
    return msgspec.json.Decoder(msgspec.defstruct("Row", fields, rename=names, gc=False))


def _decode_at_once(decoder: _Decoder, block: bytes, limit: int) -> list[Any] | None:
    """The rows of a block in which every line is one valid object; None if that is not certain."""
    count = block.count(b"\n{") + 1
    if len(block) > limit or count != block.count(b"\n") + 1:
        return None
    try:
        rows: list[Any] = decoder.decode_lines(block)
    except _ERRORS:
        return None
    return rows if len(rows) == count else None


def _decode_one_by_one(
    decoder: _Decoder, block: bytes, first: int, source: Source, context: ImportContext
) -> tuple[list[int], list[Any]]:
    """The valid rows of a block and the numbers of their lines; the other lines are rejected."""
    rows, numbers = [], []
    for number, line in enumerate(lines_of(block, first, source, context), first):
        try:
            row = decoder.decode(line)
        except _ERRORS as error:
            if line.strip():
                context.reject(source, number, *_explain(error, line), line)
        else:
            rows.append(row)
            numbers.append(number)
    return numbers, rows


def _explain(error: Exception, line: bytes) -> tuple[str, str]:
    """Reason and detail."""
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8", str(error)
    if isinstance(error, msgspec.ValidationError):
        if "missing required field" in str(error):
            return "missing column", f"{error}; there are: {', '.join(msgspec.json.decode(line))}"
        return "wrong type", str(error)
    return "broken JSON", str(error)
