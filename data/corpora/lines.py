"""Lines of a file in blocks, in bounded memory: an overlong line is skipped, not read.

Yields UTF-8 bytes with line feeds, also of files in UTF-16 and UTF-32 and of those with carriage returns alone. Bytes
that are not UTF-8 are reported by those who decode them.
"""

import codecs
import itertools
from collections.abc import Callable, Iterator

from data.corpora.reading import BLOCK_BYTES, ImportContext, Source
from data.corpora.streams import CONTROLS, StreamError, open_stream

# A mark of UTF-32 begins with one of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, ""),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HEAD_BYTES = 1024
_UNDECODABLE = b"\xff"


def read_lines(source: Source, context: ImportContext, *, stand_in: bytes = b"") -> Iterator[tuple[int, list[bytes]]]:
    """Lines without their ends, in lists, each with the number of its first line, counted from 1.

    A line over the limit is rejected and replaced by `stand_in`.
    """
    for number, block in read_blocks(source, context):
        yield number, lines_of(block, number, source, context, stand_in)


def read_blocks(source: Source, context: ImportContext) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines, without the last one's end, each with the number of its first line.

    Of a line over the limit at least the first `limit` + 1 bytes are there. Raises OSError; a StreamError then has the
    number of the line that is not whole, unless that is the first.
    """
    number = 1
    try:
        for block in _blocks(_with_line_feeds(read_chunks(source, context.on_bytes)), context.settings.max_bytes):
            yield number, block
            number += block.count(b"\n") + 1
    except StreamError as error:
        error.line = number if number > 1 else 0
        raise


def lines_of(block: bytes, number: int, source: Source, context: ImportContext, stand_in: bytes = b"") -> list[bytes]:
    """The lines of a block; one over the limit is rejected and replaced by `stand_in`."""
    lines, limit = block.split(b"\n"), context.settings.max_bytes
    if len(block) > limit:
        for index in [index for index, line in enumerate(lines) if len(line) > limit]:
            detail = f"a line of more than {limit >> 20} MiB"
            context.reject(source, number + index, "too long", detail, lines[index][:_HEAD_BYTES])
            lines[index] = stand_in
    return lines


def read_chunks(source: Source, on_bytes: Callable[[int], None] = lambda _: None) -> Iterator[bytes]:
    """The content in UTF-8 without a byte order mark, in parts of at most `BLOCK_BYTES`. Raises OSError.

    UTF-16 and UTF-32 are recognised by their mark, UTF-16 also by its null bytes; their halves of characters become
    bytes that are not UTF-8.
    """
    with open_stream(source, on_bytes) as file:
        first = file.read1(_HEAD_BYTES)
        mark, encoding = next((each for each in _MARKS if first.startswith(each[0])), (b"", _wide_encoding(first)))
        decoder = codecs.getincrementaldecoder(encoding)("surrogatepass") if encoding else None
        chunk = first[len(mark) :]
        while first:
            yield _recode(decoder, chunk) if decoder else chunk
            first = chunk = file.read1(BLOCK_BYTES)
        if decoder and decoder.getstate()[0]:
            yield _UNDECODABLE  # half a code unit


def _recode(decoder: codecs.IncrementalDecoder, chunk: bytes) -> bytes:
    try:
        return decoder.decode(chunk).encode(errors="surrogatepass")
    except UnicodeDecodeError as error:
        raise StreamError("not UTF-8", str(error)) from error


def _wide_encoding(head: bytes) -> str:
    """The UTF-16 of a text without a mark, seen by its null bytes at every other place; "" for none."""
    head = head[: len(head) // 2 * 2]
    evens, odds = head[::2].count(0), head[1::2].count(0)
    # Most of a Latin text; of others, only spaces and line ends, and then the rest is not UTF-8 with null bytes in it.
    least = 1 + len(head) // (64 if _is_binary(head.replace(b"\0", b"")) else 4)
    if odds >= least and evens * 16 <= odds:
        encoding = "utf-16-le"
    elif evens >= least and odds * 16 <= evens:
        encoding = "utf-16-be"
    else:
        return ""
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return ""
    return encoding


def _is_binary(head: bytes) -> bool:
    """Whether bytes are no text in UTF-8: that would have few control characters."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return True
    return bool(CONTROLS.search(head))


def _with_line_feeds(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks; if the first MiB has carriage returns and no line feed, these end the lines."""
    head = b""
    for chunk in chunks:
        head += chunk
        if b"\n" in chunk or len(head) >= BLOCK_BYTES:
            break
    alone = b"\r" in head and b"\n" not in head
    for chunk in itertools.chain([head], chunks):
        yield chunk.replace(b"\r", b"\n") if alone else chunk


def _blocks(chunks: Iterator[bytes], limit: int) -> Iterator[bytes]:
    """Whole lines; of a line over the limit, at least its first `limit` + 1 bytes, and not all of it."""
    rest, in_long_line = bytearray(), False
    for block in chunks:
        if in_long_line:
            _, end, block = block.partition(b"\n")
            if not end:
                continue
            in_long_line = False
        lines, end, tail = block.rpartition(b"\n")
        if end:
            yield bytes(rest) + lines
            rest.clear()
        rest += tail
        if len(rest) > limit:
            yield bytes(rest)
            rest.clear()
            in_long_line = True
    if rest:
        yield bytes(rest)
