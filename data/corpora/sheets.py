"""Workbooks (.xlsx, .ods): rows as in a table of text; the first row of each sheet has the names of the columns."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from xml.etree.ElementTree import Element

import pyarrow as pa

from data.corpora.dialects import ColumnError, find_columns
from data.corpora.office import Content, read_documents
from data.corpora.opendocument import Story, check_readable
from data.corpora.reading import ImportContext, ImportSettings, Source
from data.corpora.zipped import BROKEN, TOO_LONG, Container, UnreadableError

_Row = tuple[str, int, Mapping[int, str]]  # sheet, number in it, the filled cells by their column
_COLUMN = re.compile(r"([A-Z]{1,3})\d*")
_ESCAPE = re.compile(r"_x([0-9A-Fa-f]{4})_")


def read_xlsx(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The rows of all sheets that have the wanted columns; the line is the row's number in its sheet."""
    return read_documents(source, context, partial(_read, _xlsx_rows, context.settings))


def read_ods(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """As `read_xlsx`."""
    return read_documents(source, context, partial(_read, _ods_rows, context.settings))


def _read(
    rows_of: Callable[[Container], Iterator[_Row]], settings: ImportSettings, container: Container
) -> Iterator[Content | UnreadableError]:
    """The wanted cells of each row, sheet by sheet."""
    wanted = [name for name in (settings.text_column, settings.id_column) if name]
    is_empty = True
    for sheet, group in itertools.groupby(rows_of(container), lambda row: row[0]):
        is_empty, rows = False, iter(group)
        _, line, names = next(rows)
        try:
            columns = [list(names)[place] for place in find_columns(list(names.values()), wanted)]
        except ColumnError as error:
            yield UnreadableError(error.reason, f'sheet "{sheet}": {error.detail}', line)
            continue
        has_rows = False
        for _, line, cells in rows:
            has_rows = True
            text, doc_id, *_ = *(cells.get(column, "") for column in columns), ""
            if len(text) > settings.max_bytes:
                yield UnreadableError(TOO_LONG, f"a cell of more than {settings.max_bytes >> 20} MiB", line)
            else:
                yield Content(text, line=line, doc_id=doc_id)
        if not has_rows:
            yield UnreadableError("empty", f'sheet "{sheet}": names without rows', line)
    if is_empty:
        yield UnreadableError("empty", "no sheet has rows")


def _xlsx_rows(container: Container) -> Iterator[_Row]:
    main = dict(container.related().values()).get("officeDocument", "xl/workbook.xml")
    if main not in container:
        raise UnreadableError(BROKEN, f"no part {main} in it")
    related = container.related(main)
    shared = list(_shared(container, dict(related.values()).get("sharedStrings", "")))
    for sheet in container.tree(main).iter("x:sheet"):
        _, part = related.get(sheet.get("r:id", ""), ("", ""))
        for line, (_, row) in enumerate(container.blocks(part, "x:sheetData"), 1):
            if cells := dict(_xlsx_cells(row, shared)):
                yield sheet.get("name", ""), _number(row.get("r", ""), line), cells


def _shared(container: Container, part: str) -> Iterator[str]:
    """The strings that cells refer to by their number."""
    if part in container:
        for _, node in container.blocks(part, "x:sst"):
            yield _rich_text(node)


def _rich_text(node: Element) -> str:
    """The text of a string, without its phonetic guide."""
    runs = (child for child in node if child.tag in {"x:r", "x:t"})
    text = "".join(each.text or "" for run in runs for each in run.iter("x:t"))
    return _ESCAPE.sub(lambda found: _character(int(found[1], 16)), text)


def _character(code: int) -> str:
    return chr(code) if code in {9, 10, 0x5F} or (code > 0x9F and not 0xD800 <= code < 0xE000) else ""


def _xlsx_cells(row: Element, shared: list[str]) -> Iterator[tuple[int, str]]:
    """The filled cells; a cell without a reference follows the previous one."""
    column = 0
    for cell in row.iter("x:c"):
        place = _COLUMN.match(cell.get("r", ""))
        column = _column(place[1]) if place else column + 1
        value, kind = "".join(each.text or "" for each in cell.iter("x:v")), cell.get("t", "n")
        if kind == "s":
            number = _number(value, -1)
            value = shared[number] if 0 <= number < len(shared) else ""
        elif kind == "inlineStr":
            value = "".join(map(_rich_text, cell.iter("x:is")))
        if value and kind != "e":
            yield column, value


def _column(letters: str) -> int:
    """The number of a column that has this name: A is 1, AA is 27."""
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number


def _number(value: str, default: int) -> int:
    return int(value) if value.isdecimal() and len(value) < 10 else default


def _ods_rows(container: Container) -> Iterator[_Row]:
    check_readable(container)
    story, sheet, line = Story(container), 1, 1
    groups = ("table:table", "table:table-header-rows", "table:table-rows", "table:table-row-group")
    for _, node in container.blocks("content.xml", "office:spreadsheet", *groups):
        if node.tag == "table:table":
            sheet, line = sheet + 1, 1
        elif node.tag == "table:table-row":
            if cells := dict(_ods_cells(node, story)):
                yield str(sheet), line, cells
            line += _number(node.get("table:number-rows-repeated", ""), 1)


def _ods_cells(row: Element, story: Story) -> Iterator[tuple[int, str]]:
    """The filled cells; of equal ones that are stored once, the first."""
    column = 1
    for cell in row:
        if cell.tag in {"table:table-cell", "table:covered-table-cell"}:
            if text := "\n".join(text for text, _ in story.lines(cell)):
                yield column, text
            column += _number(cell.get("table:number-columns-repeated", ""), 1)
