"""Source files as text, if they are asked for: one document each, of which no line is a sentence."""

from collections.abc import Iterator

import pyarrow as pa

from data.corpora.reading import ImportContext, Source, make_rows
from data.corpora.streams import read_whole
from data.structure import VERBATIM, Outliner


def read_code(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The file as it is; its name is the heading."""
    if not context.settings.code:
        context.reject(source, 0, "source file", "source files are imported with --code")
        return
    content = read_whole(source, context, "a source file")
    if content is None:
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start)
        context.reject(source, line + 1, "not UTF-8", str(error), content.split(b"\n")[line])
        return
    outliner = Outliner()
    outliner.add(text.replace("\r\n", "\n").strip("\n"), VERBATIM)
    name = source.path.name.encode(errors="replace").decode()  # it may have bytes that are no characters
    yield make_rows(source, [outliner.text], [0], headings=[name], outlines=[outliner.outline])
