"""Tables in text: commas, semicolons, tabs or bars between fields, names in the first row."""

import csv
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from data.corpora.lines import read_lines
from data.corpora.reading import BLOCK_BYTES, ImportContext, Source, in_blocks, is_unicode, make_rows

if TYPE_CHECKING:
    from _csv import Reader

_DELIMITERS = ",;\t|"
_UNDECODABLE = b"\xff"  # in place of a line over the limit: it invalidates the row that the line belongs to


def read_csv(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The rows of a file; one that is broken or has another number of fields than the header is rejected."""
    # An unclosed quote consumes lines until a field is as long as this.
    csv.field_size_limit(max(csv.field_size_limit(), context.settings.max_bytes))
    lines = _decoded(source, context)
    first = next(lines, "")
    delimiter = max(_DELIMITERS, key=first.count)
    rows = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    header = next(rows, [])
    wanted = [name for name in (context.settings.text_column, context.settings.id_column) if name]
    missing = [name for name in wanted if name not in header]
    if missing:
        has = ", ".join(header[:20]) or "none"
        context.reject(source, 1, "missing column", f'no column "{missing[0]}"; there are: {has}', first)
        return
    places = [header.index(name) for name in wanted]
    for block in in_blocks(_valid_rows(rows, header, places, source, context), lambda row: len(row[1][0])):
        fields = [row for _, row in block]
        numbers, ids = [line for line, _ in block], [row[1] for row in fields if row[1:]]
        yield make_rows(source, [row[0] for row in fields], numbers, ids)


def _valid_rows(
    rows: "Reader", header: list[str], places: list[int], source: Source, context: ImportContext
) -> Iterator[tuple[int, list[str]]]:
    """The wanted fields of each valid row, with the number of its first line."""
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            context.reject(source, line, "broken CSV", f"{error} (lines {line} to {rows.line_num})")
            continue
        if row is None:
            return
        if len(row) != len(header):  # an unquoted delimiter or line end: the text would be cut off
            if row:
                detail = f"{len(row)} fields, the header has {len(header)}"
                context.reject(source, line, "broken CSV", detail, ",".join(row)[:BLOCK_BYTES])
            continue
        fields = [row[place] for place in places]
        if not all(map(is_unicode, fields)):
            context.reject(source, line, "not UTF-8", "bytes that are not characters", fields[0])
        else:
            yield line, fields


def _decoded(source: Source, context: ImportContext) -> Iterator[str]:
    """Lines as text, with their ends; bytes that are not UTF-8 become lone surrogates."""
    for _, lines in read_lines(source, context, stand_in=_UNDECODABLE):
        for line in lines:
            yield line.decode(errors="surrogateescape") + "\n"
