"""Lines of a file in blocks, in bounded memory: an overlong line is skipped, not read.

Reads a UTF-8 file and yields bytes: errors of a line are reported by those who decode it.
"""

import codecs
from collections.abc import Callable, Iterator
from typing import BinaryIO

from data.corpora.reading import BLOCK_BYTES, ImportContext, Source
from data.corpora.streams import open_stream

_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_HEAD_BYTES = 1024


def read_lines(source: Source, context: ImportContext, *, stand_in: bytes = b"") -> Iterator[tuple[int, list[bytes]]]:
    """Lines without their ends, in lists, each with the number of its first line, counted from 1.

    A line over the limit is rejected and replaced by `stand_in`.
    """
    for number, block in read_blocks(source, context):
        yield number, lines_of(block, number, source, context, stand_in)


def read_blocks(source: Source, context: ImportContext) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines, without the last one's end, each with the number of its first line.

    Of a line over the limit at least the first `limit` + 1 bytes are there. A file in UTF-16 is rejected as a whole.
    """
    with open_stream(source) as file:
        mark = file.read(len(codecs.BOM_UTF8))
        if mark.startswith(_WIDE_MARKS):
            context.reject(source, 0, "not UTF-8", "the file is in UTF-16: convert it to UTF-8")
            return
        file.seek(len(mark) if mark == codecs.BOM_UTF8 else 0)
        number = 1
        for block in _blocks(file, context.settings.max_bytes, context.on_bytes):
            yield number, block
            number += block.count(b"\n") + 1


def lines_of(block: bytes, number: int, source: Source, context: ImportContext, stand_in: bytes = b"") -> list[bytes]:
    """The lines of a block; one over the limit is rejected and replaced by `stand_in`."""
    lines, limit = block.split(b"\n"), context.settings.max_bytes
    if len(block) > limit:
        for index in [index for index, line in enumerate(lines) if len(line) > limit]:
            detail = f"a line of more than {limit >> 20} MiB"
            context.reject(source, number + index, "too long", detail, lines[index][:_HEAD_BYTES])
            lines[index] = stand_in
    return lines


def _blocks(file: BinaryIO, limit: int, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    """Whole lines; of a line over the limit, at least its first `limit` + 1 bytes, and not all of it."""
    rest, in_long_line = bytearray(), False
    while block := file.read(BLOCK_BYTES):
        on_bytes(len(block))
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
