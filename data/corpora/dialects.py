"""How a table in text is written: its lines, the delimiter, the names of its columns.

The delimiter is the one with which the wanted columns exist; the first line may say it (`sep=;`).
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

_DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r'"?sep=(.)"?\s*', re.I | re.S)  # Excel's first line
_MOST_LINES = 1 << 20  # in one row


class RowLines:
    r"""Lines of a table, with their ends; those of the current row can be taken back.

    `taken` are the lines of the current row, `number` counts all lines so far. With `unescape`, `\"` is read as `""`.
    """

    def __init__(self, lines: Iterator[str], limit: int) -> None:
        self.taken: list[str] = []
        self.number = self._size = 0
        self.unescape = False
        self._lines, self._limit, self._again = lines, limit, list[str]()

    def begin(self) -> None:
        """The next line begins a row."""
        self.taken, self._size = [], 0

    def take_back(self, kept: int) -> None:
        """Give the lines of the current row once more, but for the first `kept` ones."""
        back = self.taken[kept:]
        self._again.extend(reversed(back))
        self.number -= len(back)
        del self.taken[kept:]
        self._size = sum(map(len, self.taken))

    def __iter__(self) -> "RowLines":
        return self

    def __next__(self) -> str:
        """Raises csv.Error if the row gets too long."""
        line = self._again.pop() if self._again else next(self._lines)
        self.taken.append(line)
        self.number += 1
        self._size += len(line)
        if self._size > self._limit + 1 or len(self.taken) > _MOST_LINES:  # 1: the line's end
            raise csv.Error(f"a row of more than {self._limit >> 20} MiB or {_MOST_LINES} lines")
        return line.replace('\\"', '""') if self.unescape else line


@dataclass(frozen=True)
class Header:
    """The names of the columns in the order of the file, and the delimiter.

    A row has `least` fields, or as many as there are names if those behind are empty: a line may end with delimiters.
    """

    names: Sequence[str]
    delimiter: str

    @cached_property
    def least(self) -> int:
        """The number of names without the empty ones at the end."""
        return max((place for place, name in enumerate(self.names, 1) if name.strip()), default=len(self.names))

    def fits(self, row: Sequence[str]) -> bool:
        """Whether a row has the fields of the header."""
        return len(row) == len(self.names) == self.least or (
            self.least <= len(row) <= len(self.names) and not any(row[self.least :])
        )

    def places(self, wanted: str) -> list[int]:
        """Where the column is, as `places_of`."""
        return places_of(self.names, wanted)


class ColumnError(Exception):
    """A wanted column is missing, or not the only one of its name: the `reason` and `detail` of a rejection."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def places_of(names: Sequence[str], wanted: str) -> list[int]:
    """Where the column is: by its name, or else without regard to case and to spaces around it."""
    exact = [place for place, name in enumerate(names) if name == wanted]
    return exact or [place for place, name in enumerate(names) if _plain(name) == _plain(wanted)]


def find_columns(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where each wanted column is. Raises ColumnError."""
    for name in wanted:
        found = places_of(names, name)
        if len(found) > 1:
            raise ColumnError("ambiguous column", f'{len(found)} columns are named "{name}": rename all but one')
        if not found:
            raise ColumnError("missing column", f'no column "{name}"; there are: {", ".join(names[:20]) or "none"}')
    return [places_of(names, name)[0] for name in wanted]


def read_header(lines: RowLines, wanted: Sequence[str], *, prefers_tabs: bool) -> Header | None:
    """The header, the first line that is neither blank nor a comment; None if no delimiter makes sense of it.

    If no delimiter gives the wanted columns, the one with the most names is taken. Lines up to the header are used up.
    """
    delimiters = f"\t{_DELIMITERS}" if prefers_tabs else _DELIMITERS
    lines.begin()
    first = next(lines, "")
    if found := _SEPARATOR.fullmatch(first):
        delimiters = found[1]
    else:
        lines.take_back(0)
    while True:
        lines.begin()
        if not (first := next(lines, "")):
            return None
        if not first.strip(f" \r\n{delimiters}"):
            continue
        lines.take_back(0)
        headers = [header for delimiter in delimiters if (header := _names(lines, delimiter))]
        best = max(headers, key=lambda each: (all(map(each.places, wanted)), len(each.names)), default=None)
        if best and first.startswith("#") and not all(map(best.places, wanted)):
            next(lines)  # a comment
            continue
        if best:
            _names(lines, best.delimiter, keep=True)
        return best


def split_literally(line: str, delimiter: str) -> list[str]:
    """The fields of a line in which quotation marks are characters, but for fields that are quoted without a fault."""
    return [_unquoted(field) for field in line.rstrip("\r\n").split(delimiter)]


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    if len(field) < 2 or not field[0] == field[-1] == '"' or '"' in inner.replace('""', ""):
        return field
    return inner.replace('""', '"')


def _names(lines: RowLines, delimiter: str, *, keep: bool = False) -> Header | None:
    """The names of the columns if this is the delimiter; the lines are given again unless they are to `keep`."""
    lines.begin()
    try:
        names = next(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        names = split_literally(lines.taken[0], delimiter) if delimiter == "\t" else []
        lines.take_back(1)
    if not keep:
        lines.take_back(0)
    return Header([name.removeprefix("\ufeff") for name in names], delimiter) if names else None


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()
