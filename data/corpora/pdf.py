"""PDF files: the text of their pages, with lines joined. Scans have no text and are rejected."""

import logging
import re
import struct
import zlib
from collections.abc import Iterator

import pyarrow as pa
from pypdf import PdfReader
from pypdf.errors import PyPdfError

from data.corpora.reading import ImportContext, Source, make_rows

# What the library raises for broken files: it follows whatever numbers and names a file contains.
_BROKEN = (
    PyPdfError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_HYPHEN = re.compile(r"(?<=\w)[-\u00ad\u2010]\n(?=[^\W\d_])")
_LINE = re.compile(r"(?<![.!?:。！？।\n])\n(?!\n)")


def read_pdf(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The file as one document; a page that cannot be read is rejected, the others are kept."""
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns about what it repairs
    context.on_bytes(source.size)
    with source.path.open("rb") as file:
        try:
            reader = PdfReader(file)
            if reader.is_encrypted and not reader.decrypt(""):
                context.reject(source, 0, "broken PDF", "the file is protected by a password")
                return
            count = len(reader.pages)
        except _BROKEN as error:
            context.reject(source, 0, "broken PDF", _name(error))
            return
        pages = list(_pages(reader, count, source, context))
    text = "\n\n".join(page for page in pages if page.strip())
    if len(text) > context.settings.max_bytes:
        context.reject(source, 0, "too long", f"more than {context.settings.max_bytes >> 20} MiB of text", text)
    elif pages:
        yield make_rows(source, [text], [0])


def _pages(reader: PdfReader, count: int, source: Source, context: ImportContext) -> Iterator[str]:
    """The text of the pages that can be read, until there is more than a document may hold."""
    size = 0
    for number in range(count):
        if size > context.settings.max_bytes:
            return
        try:
            page = reader.pages[number].extract_text()
        except _BROKEN as error:
            context.reject(source, number + 1, "broken PDF", f"page {number + 1}: {_name(error)}")
            continue
        size += len(page)
        yield join_lines(page.encode(errors="replace").decode())


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def join_lines(page: str) -> str:
    """Lines of a page as running text: hyphenated words are joined, a line without a full stop continues."""
    lines = "\n".join(line.strip() for line in page.splitlines())
    return _LINE.sub(" ", _HYPHEN.sub("", lines)).strip()
