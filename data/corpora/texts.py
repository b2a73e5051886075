"""Plain text, Markdown and source files, one document per file.

A text file over the limit becomes several documents, each of which ends at a line end.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from data.corpora.kinds import CODE
from data.corpora.lines import read_lines
from data.corpora.reading import ImportContext, Source, make_rows, not_utf8
from data.markdown import outline_of, title_of
from data.structure import VERBATIM
from data.unicode import clean

MARKDOWN = frozenset({".md", ".markdown"})  # suffixes


def read_text(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The file as one document, or as several if it is over the limit."""
    first, pending, size = 1, list[bytes](), 0
    for number, lines in read_lines(source, context):
        for index, line in enumerate(lines):
            if pending and size + len(line) > context.settings.max_bytes:
                yield from _document(source, context, first, pending)
                first, pending, size = number + index, [], 0
            pending.append(line)
            size += len(line) + 1
    if pending:
        yield from _document(source, context, first, pending)


def _document(source: Source, context: ImportContext, first: int, lines: Sequence[bytes]) -> Iterator[pa.Table]:
    content = b"\n".join(lines)
    try:
        text = content.decode().replace("\r\n", "\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start)
        context.reject(source, first + line, "not UTF-8", not_utf8(error), lines[line])
    else:
        text = clean(text) if _is_markdown(source) else text  # its outline is that of the clean text
        outline = outline_of(text, indented=True) if _is_markdown(source) else ()
        heading = title_of(text, outline)
        if source.kind == CODE and text:
            # The name may have bytes that are not characters.
            heading, outline = source.path.name.encode(errors="replace").decode(), (VERBATIM, 0, len(text))
        yield make_rows(source, [text], [first], headings=[heading], outlines=[outline])


def _is_markdown(source: Source) -> bool:
    """Whether the name says so, also below the suffix of a compression."""
    return not MARKDOWN.isdisjoint(suffix.lower() for suffix in source.path.suffixes[-2:])
