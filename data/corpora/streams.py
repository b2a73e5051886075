"""The bytes of a file, as a stream or at once, counted for the progress."""

from typing import BinaryIO

from data.corpora.reading import ImportContext, Source


def open_stream(source: Source) -> BinaryIO:
    """The content of a file, from its beginning. Raises OSError."""
    return source.path.open("rb")


def read_whole(source: Source, context: ImportContext, noun: str) -> bytes | None:
    """The content of a file that a reader needs at once; None, and the file rejected, if it is over the limit."""
    context.on_bytes(source.size)
    limit = context.settings.max_bytes
    with open_stream(source) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        context.reject(source, 0, "too long", f"{noun} of more than {limit >> 20} MiB")
        return None
    return content
