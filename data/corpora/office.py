"""From the parts of office documents to rows: documents, their lines, what is rejected."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple
from xml.etree.ElementTree import Element

import pyarrow as pa

from data.corpora.markup import at
from data.corpora.page_text import LONGEST_CELL, lay_out_rows
from data.corpora.reading import ImportContext, Source, in_blocks, make_rows
from data.corpora.streams import open_stream
from data.corpora.zipped import BROKEN, TOO_LONG, Container, UnreadableError
from data.structure import HEADINGS, PROSE, VERBATIM, Outliner

CODE = 8  # the kind of a line of code; lines of code that follow each other become one VERBATIM block
Line = tuple[str, int]  # a line, or a block of lines, and its kind: PROSE, a level of headings, VERBATIM or CODE


class Style(NamedTuple):
    """What a style of paragraphs or words says: the kind of its lines, and whether it hides them."""

    kind: int = PROSE
    is_hidden: bool = False


@dataclass(frozen=True)
class Content:
    """A document in a file; `line` is its number there, 0 for the only one. `doc_id` is used if ids are wanted."""

    text: str
    outline: tuple[int, ...] = ()
    heading: str = ""
    line: int = 0
    doc_id: str = ""


def read_documents(
    source: Source, context: ImportContext, read: Callable[[Container], Iterator[Content | UnreadableError]]
) -> Iterator[pa.Table]:
    """The rows of a zip file; `read` gives its documents, and those that it has but cannot read."""
    context.on_bytes(source.size)
    with open_stream(source) as file:
        contents = _readable(file, source, context, read)
        for block in in_blocks(contents, lambda content: len(content.text)):
            yield make_rows(
                source,
                [content.text for content in block],
                [content.line for content in block],
                [content.doc_id for content in block] if context.settings.id_column else (),
                headings=[content.heading for content in block],
                outlines=[content.outline for content in block],
            )


def _readable(
    file: BinaryIO,
    source: Source,
    context: ImportContext,
    read: Callable[[Container], Iterator[Content | UnreadableError]],
) -> Iterator[Content]:
    """The documents of a file; what cannot be read is rejected."""
    try:
        if not file.seekable():
            raise UnreadableError(BROKEN, "it is compressed once more: decompress it")
        with closing(Container(file, context.settings.max_bytes)) as container:
            for content in read(container):
                if isinstance(content, Content):
                    yield content
                else:
                    context.reject(source, content.line, content.reason, str(content))
    except UnreadableError as error:
        context.reject(source, error.line, error.reason, str(error))
    except RecursionError:
        context.reject(source, 0, BROKEN, "its parts are nested too deeply")


def outlined(lines: Iterable[Line], limit: int) -> Outliner:
    """Lines as a text with its outline. An empty line separates what is above and below it.

    Raises UnreadableError if the text is longer than `limit`.
    """
    outliner, size, is_apart = Outliner(), 0, False
    for text, kind in _with_code_joined(lines):
        if text:
            if is_apart and size:
                outliner.add("")
            outliner.add(" ".join(text.split()) if kind in HEADINGS else text, kind)
            size += len(text) + 1
            if size > limit:
                raise UnreadableError(TOO_LONG, f"more than {limit >> 20} MiB of text")
        is_apart = not text
    return outliner


def _with_code_joined(lines: Iterable[Line]) -> Iterator[Line]:
    """Lines of code that follow each other as one block."""
    for is_code, group in itertools.groupby(lines, lambda line: line[1] == CODE):
        if is_code:
            yield "\n".join(text for text, _ in group).strip("\n"), VERBATIM
        else:
            yield from group


def tidy(text: str) -> str:
    """A paragraph's text: without soft hyphens, with one space for several; its own line breaks are kept."""
    lines = text.replace("\u00ad", "").split("\n")
    return "\n".join(" ".join(re.split(r"[ \t]+", line.strip(" \t"))) for line in lines).strip("\n")


def table_lines(rows: Iterable[Sequence[Sequence[Line]]]) -> Iterator[Line]:
    """A table, given by the lines in each of its cells, row by row.

    One of a single column, or with headings, tables, code or long texts in its cells, divides a page: its cells follow
    each other.
    """
    rows = list(rows)
    cells = [[" ".join(text for text, _ in cell) for cell in row] for row in rows]
    kinds = {kind for row in rows for cell in row for _, kind in cell}
    longest = max((len(cell) for row in cells for cell in row), default=0)
    if kinds <= {PROSE} and longest <= LONGEST_CELL and any(len(row) > 1 for row in rows):
        yield lay_out_rows(cells), VERBATIM
    else:
        yield from itertools.chain.from_iterable(itertools.chain.from_iterable(rows))


def title_of(container: Container, properties: str) -> str:
    """The title among a document's properties; "" if it is missing or cannot be read."""
    try:
        found = next(container.tree(properties).iter("dc:title"), None)
    except UnreadableError:
        return ""
    return tidy((found.text or "") if found is not None else "")


def chosen(node: Element) -> Element:
    """Of an element with alternatives, the preferred one: the others say the same."""
    for name in ("mc:Choice", "mc:Fallback"):
        if (found := at(node, name)) is not None:
            return found
    return Element("")
