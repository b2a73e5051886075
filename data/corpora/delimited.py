"""Tables in text: commas, semicolons, tabs or bars between fields, names in the first row."""

import csv
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from data.corpora.intake import BLOCK_BYTES, MOST_ROWS, Intake, Source, make_rows
from data.corpora.lines import read_lines

if TYPE_CHECKING:
    from _csv import Reader

_DELIMITERS = ",;\t|"
_UNDECODABLE = b"\xff"  # in place of a line over the limit: it spoils the row that the line belongs to


def read_csv(source: Source, intake: Intake) -> Iterator[pa.Table]:
    """The rows of a file; a row that is broken or short of a wanted column is set aside with its first line."""
    # An open quote swallows lines until a field is as long as this.
    csv.field_size_limit(max(csv.field_size_limit(), intake.settings.max_bytes))
    lines = _decoded(source, intake)
    first = next(lines, "")
    delimiter = max(_DELIMITERS, key=first.count)
    rows = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    header = next(rows, [])
    wanted = [name for name in (intake.settings.text_column, intake.settings.id_column) if name]
    missing = [name for name in wanted if name not in header]
    if missing:
        has = ", ".join(header[:20]) or "none"
        intake.reject(source, 1, "missing column", f'no column "{missing[0]}"; there are: {has}', first)
        return
    places = [header.index(name) for name in wanted]
    yield from _tables(source, _sound_rows(rows, places, source, intake))


def _sound_rows(rows: "Reader", places: list[int], source: Source, intake: Intake) -> Iterator[tuple[int, list[str]]]:
    """The wanted fields of each sound row, with the number of its first line."""
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            intake.reject(source, line, "broken CSV", f"{error} (lines {line} to {rows.line_num})")
            continue
        if row is None:
            return
        if len(row) <= max(places):
            if row:
                detail = f"{len(row)} fields, the column is number {max(places) + 1}"
                intake.reject(source, line, "missing column", detail, ",".join(row)[:BLOCK_BYTES])
            continue
        fields = [row[place] for place in places]
        if any(_is_undecoded(field) for field in fields):
            intake.reject(source, line, "not UTF-8", "bytes that are no characters", fields[0])
        else:
            yield line, fields


def _tables(source: Source, rows: Iterator[tuple[int, list[str]]]) -> Iterator[pa.Table]:
    lines: list[int] = []
    fields: list[list[str]] = []
    size = 0
    for line, row in rows:
        lines.append(line)
        fields.append(row)
        size += len(row[0])
        if size >= BLOCK_BYTES or len(lines) >= MOST_ROWS:
            yield make_rows(source, [row[0] for row in fields], lines, [row[1] for row in fields if row[1:]])
            lines, fields, size = [], [], 0
    if lines:
        yield make_rows(source, [row[0] for row in fields], lines, [row[1] for row in fields if row[1:]])


def _decoded(source: Source, intake: Intake) -> Iterator[str]:
    """Lines as text, with their ends; bytes that are no UTF-8 become lone surrogates."""
    for _, lines in read_lines(source, intake, stand_in=_UNDECODABLE):
        for line in lines:
            yield line.decode(errors="surrogateescape") + "\n"


def _is_undecoded(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
