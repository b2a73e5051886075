"""The bytes of a file, as a stream or at once: decompressed if they are compressed, counted for the progress.

Compression is recognised by its first bytes and not by the name. Memory is bounded, and so is what a compressed file
may become.
"""

import bz2
import io
import lzma
import os
import re
import stat
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from backports import zstd

from data.corpora.reading import BLOCK_BYTES, ImportContext, Source

COMPRESSIONS = (".gz", ".bgz", ".zst", ".zstd", ".bz2", ".xz")
# A file may become 16 MiB, or 200 times what was read of it so far. Text shrinks to a third or a tenth, seldom to a
# hundredth; a gzip bomb grows a thousandfold.
_FREE_BYTES, _MOST_RATIO = 16 << 20, 200
_WINDOW_BITS = 27  # 128 MiB, for zstd and xz: the limit of the zstd command without --long
_INPUT_BYTES = 1 << 16
_BZ2 = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")  # a frame, or one to skip
_GZIP, _XZ = b"\x1f\x8b\x08", b"\xfd7zXZ\x00"
_MAGIC_BYTES = 10
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # that texts do not have
_WIDE = re.compile(rb"\xff\xfe|\xfe\xff|[^\x00]\x00|\x00[^\x00]")  # the begin of a text in UTF-16


class StreamError(OSError):
    """A compressed file cannot be read on from here; what came before is sound.

    `reason` is that of the rejection. `line` is the first line that is lost, where the reader counts lines, else 0.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.line = 0


class _Decompressor(Protocol):
    """One member, frame or stream of a compressed file."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Inflater:
    """zlib's decompressor of gzip with the interface of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail and not self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


class _CountedFile(io.FileIO):
    """A regular file; `on_bytes` is called with the number of bytes of each read. Raises OSError for a pipe."""

    def __init__(self, source: Source, on_bytes: Callable[[int], None]) -> None:
        # Opened without waiting: a pipe in the file's place would wait for its writer.
        super().__init__(source.path, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))
        self._on_bytes = on_bytes
        if not stat.S_ISREG(os.fstat(self.fileno()).st_mode):
            self.close()
            raise OSError("it is no longer a file")

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        self._on_bytes(count or 0)
        return count


class _Decompressed(io.RawIOBase):
    """The content of a compressed file, all of its members; a StreamError comes after the bytes before the fault."""

    def __init__(self, file: io.BufferedReader, form: str) -> None:
        self._file, self._form = file, form
        self._member: _Decompressor = _decompressor(form)
        self._rest = b""  # read, not yet decompressed
        self._num_read = self._num_written = 0
        self._is_done = False
        self._fault: StreamError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer, unless the end or a fault comes first."""
        filled = 0
        while filled < len(buffer) and not self._fault and not self._is_done:
            try:
                part = self._next(len(buffer) - filled)
            except StreamError as error:
                self._fault = error
                break
            self._is_done = not part
            buffer[filled : filled + len(part)] = part
            filled += len(part)
        if self._fault and not filled:
            raise self._fault
        return filled

    def _next(self, count: int) -> bytes:
        """At least 1 and at most `count` bytes; none at the end."""
        while True:
            if self._member.eof and not self._begin_member():
                return b""
            data = b""
            if self._member.needs_input:
                data = self._rest or self._file.read1(_INPUT_BYTES)
                self._num_read += 0 if self._rest else len(data)
                self._rest = b""
            part = self._decompress(data, count)
            if part:
                return part
            if not data and not self._member.eof and self._member.needs_input:
                raise self._broken("the file ends too early")

    def _begin_member(self) -> bool:
        """Whether another member follows; padding with zeros is passed over."""
        rest = (self._member.unused_data or self._rest).lstrip(b"\0")
        while not rest and (data := self._file.read1(_INPUT_BYTES)):
            self._num_read += len(data)
            rest = data.lstrip(b"\0")
        while rest and len(rest) < _MAGIC_BYTES and (data := self._file.read1(_INPUT_BYTES)):
            self._num_read += len(data)
            rest += data
        if rest and _form_of(rest) != self._form:
            raise self._broken("bytes after the end of the compressed data")
        if rest:
            self._member, self._rest = _decompressor(self._form), rest
        return bool(rest)

    def _decompress(self, data: bytes, count: int) -> bytes:
        try:
            part = self._member.decompress(data, count)
        except (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, EOFError, ValueError) as error:
            raise self._broken(str(error)) from error
        self._num_written += len(part)
        if self._num_written > max(_FREE_BYTES, _MOST_RATIO * self._num_read):
            detail = f"the file grows to more than {_MOST_RATIO} times its size; if that is right, decompress it first"
            raise StreamError("too long", detail)
        return part

    def _broken(self, what: str) -> StreamError:
        return StreamError("broken compression", f"{self._form}, after {self._num_written} bytes of content: {what}")

    def close(self) -> None:
        self._file.close()
        super().close()


def open_stream(source: Source, on_bytes: Callable[[int], None] = lambda _: None) -> io.BufferedReader:
    """The content of a file from its beginning, decompressed; `on_bytes` counts bytes of the file itself.

    Files that are not compressed can be sought in. Raises OSError, also while it is read; `read1(n)` gives all bytes
    before a fault.
    """
    file: io.BufferedReader = io.BufferedReader(_CountedFile(source, on_bytes))
    try:
        head = file.peek(_MAGIC_BYTES)
        form = _form_of(head)
        if form:
            return io.BufferedReader(_Decompressed(file, form), BLOCK_BYTES)
        if source.path.suffix.lower() in COMPRESSIONS and CONTROLS.search(head) and not _WIDE.match(head):
            raise StreamError("broken compression", f"not the content of a {source.path.suffix} file")
    except BaseException:
        file.close()
        raise
    return file


def read_whole(source: Source, context: ImportContext, noun: str) -> bytes | None:
    """The content of a file that a reader needs at once; None, and the file rejected, if it is over the limit.

    Raises OSError.
    """
    limit = context.settings.max_bytes
    with open_stream(source, context.on_bytes) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        context.reject(source, 0, "too long", f"{noun} of more than {limit >> 20} MiB")
        return None
    return content


def _form_of(head: bytes) -> str:
    """The compression that begins like this; "" for none."""
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_XZ):
        return "xz"
    if _BZ2.match(head):
        return "bzip2"
    return "zstd" if _ZSTD.match(head) else ""


def _decompressor(form: str) -> _Decompressor:
    if form == "gzip":
        return _Inflater()
    if form == "bzip2":
        return bz2.BZ2Decompressor()
    if form == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << _WINDOW_BITS)
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_BITS})
