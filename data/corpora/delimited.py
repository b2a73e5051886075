r"""Tables in text: commas, semicolons, tabs or bars between fields, names in the first row.

Fields are quoted as in RFC 4180. A row that this does not fit is read without quoting if tabs separate its fields, or
with `\"` as a quoted mark.
"""

import csv
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from data.corpora.dialects import ColumnError, Header, RowLines, find_columns, read_header, split_literally
from data.corpora.lines import read_lines
from data.corpora.reading import ImportContext, Source, in_blocks, is_unicode, make_rows, not_utf8

if TYPE_CHECKING:
    from _csv import Reader

_UNDECODABLE = b"\xff"  # in place of a line over the limit: it invalidates the row that the line belongs to
_SKIPPED = "\udcff\n"  # such a line, decoded
_NUM_LOOKED_AT = 100


def read_csv(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The rows of a file; one that is broken or has another number of fields than the header is rejected."""
    limit = context.settings.max_bytes
    csv.field_size_limit(max(csv.field_size_limit(), 2 * limit))  # the lines bound the fields
    lines = RowLines(_decoded(source, context), limit)
    wanted = [name for name in (context.settings.text_column, context.settings.id_column) if name]
    header = read_header(lines, wanted, prefers_tabs=".tsv" in source.path.name.lower())
    places = _places(header, wanted, lines, source, context)
    if header is None or places is None:
        return
    for block in in_blocks(_valid_rows(lines, header, places, source, context), lambda row: len(row[1][0])):
        fields = [row for _, row in block]
        numbers, ids = [line for line, _ in block], [row[1] for row in fields if row[1:]]
        yield make_rows(source, [row[0] for row in fields], numbers, ids)


def _places(
    header: Header | None, wanted: Sequence[str], lines: RowLines, source: Source, context: ImportContext
) -> list[int] | None:
    """Where the wanted columns are; None, and the file rejected, if one is missing or not the only one of its name."""
    first = "".join(lines.taken[:1])
    if header is None:
        if first:
            context.reject(source, lines.number, "broken CSV", "the first row, of the names, cannot be read", first)
        return None
    try:
        return find_columns(header.names, wanted)
    except ColumnError as error:
        context.reject(source, lines.number, error.reason, error.detail, first)
        return None


def _valid_rows(
    lines: RowLines, header: Header, places: list[int], source: Source, context: ImportContext
) -> Iterator[tuple[int, list[str]]]:
    """The wanted fields of each valid row, with the number of its first line."""
    rows = csv.reader(lines, delimiter=header.delimiter, strict=True)
    while True:
        lines.begin()
        number, complaint = lines.number + 1, ""
        try:
            row: list[str] | None = next(rows, None)
            if row is None:
                return
        except csv.Error as error:
            row, complaint = None, str(error)
        if row == [] or lines.taken == [_SKIPPED]:
            continue
        if row is None or not header.fits(row) or _swallows_rows(lines.taken, header):
            complaint = complaint or f"{len(row or ())} fields, the header has {len(header.names)}"
            row = _read_otherwise(lines, rows, header)
        if row is None:
            if len(lines.taken) > 1:
                complaint += f" (lines {number} to {lines.number})"
            context.reject(source, number, "broken CSV", complaint, "".join(lines.taken[:1]))
            continue
        fields = [row[place] for place in places]
        if all(map(is_unicode, fields)):
            yield number, fields
        else:
            context.reject(
                source, number, "not UTF-8", not_utf8("bytes that are not characters"), "".join(lines.taken[:1])
            )


def _read_otherwise(lines: RowLines, rows: "Reader", header: Header) -> list[str] | None:
    """The current row by other rules for quotation marks; None if it remains broken.

    A mark that is never closed takes the following rows into its field: if these lines read as rows by themselves,
    they are taken back.
    """
    if header.delimiter == "\t":
        row = split_literally(lines.taken[0], header.delimiter)
        if header.fits(row):
            lines.take_back(1)
            return row
    num_taken = len(lines.taken)
    if any('\\"' in line for line in lines.taken):
        lines.take_back(0)
        lines.unescape = True
        try:
            row = next(rows, [])
        except csv.Error:
            row = []
        lines.unescape = False
        if header.fits(row):
            return row
        lines.take_back(min(num_taken, len(lines.taken)))
        while len(lines.taken) < num_taken:
            next(lines)
    sample = lines.taken[1 : 1 + _NUM_LOOKED_AT]
    if 2 * sum(_reads_as_row(line, header) for line in sample) >= len(sample):
        lines.take_back(1)
    return None


def _swallows_rows(taken: Sequence[str], header: Header) -> bool:
    """Whether a row of several lines holds another one. Texts hold commas and line ends, but seldom tabs."""
    if len(taken) == 1 or header.delimiter != "\t" or header.least == 1:
        return False
    num_tabs = len(header.names) - 1
    return taken[0].count("\t") == num_tabs and any(line.count("\t") == num_tabs for line in taken[1:])


def _reads_as_row(line: str, header: Header) -> bool:
    """Whether a line is a row, or may begin one that has a quoted line end."""
    try:
        row = next(csv.reader([line], delimiter=header.delimiter, strict=True), [])
    except csv.Error as error:
        return "end of data" in str(error)
    return header.fits(row) and line.count('"') % 2 == 0


def _decoded(source: Source, context: ImportContext) -> Iterator[str]:
    """Lines as text, with their ends; bytes that are not UTF-8 become lone surrogates."""
    for _, lines in read_lines(source, context, stand_in=_UNDECODABLE):
        for line in lines:
            yield line.decode(errors="surrogateescape") + "\n"
