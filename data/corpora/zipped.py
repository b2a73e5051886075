"""Office documents: a zip of XML parts, read in bounded memory. Nothing is unpacked to the disk."""

import lzma
import os
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, BinaryIO
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from data.corpora.markup import LongMarkupError, MarkupError, read_blocks, read_tree
from data.corpora.reading import BLOCK_BYTES

BROKEN, ENCRYPTED, TOO_LONG = "broken document", "encrypted", "too long"
_UNPACKED = 8  # times the limit of a document: XML is longer than its text
_END_OF_ZIP, _END_BYTES, _COMMENT_BYTES = b"PK\x05\x06", 22, 0xFFFF
_OLE, _OLE_BYTES = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 1 << 20
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OSError,
)


class UnreadableError(Exception):
    """A file, or one document of it, that is rejected for a `reason`; the message is the detail."""

    def __init__(self, reason: str, detail: str, line: int = 0) -> None:
        super().__init__(detail)
        self.reason, self.line = reason, line


class Container:
    """The parts of one zip file. `limit` is that of a document, in bytes; eight times as much may be unpacked."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.limit = limit
        self._left = _UNPACKED * limit
        _check(file, limit)
        try:
            self._zip = zipfile.ZipFile(file)
        except _BROKEN_ZIP as error:
            raise UnreadableError(BROKEN, f"no sound zip file: {error}") from error
        # Names of parts ignore case; some programs write backslashes.
        self._names = {name.replace("\\", "/").lower(): name for name in self._zip.namelist()}

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._names

    def close(self) -> None:
        """Close the zip file; the file that it is in stays open."""
        self._zip.close()

    def read(self, name: str) -> bytes:
        """The whole of a part, at most `limit` bytes. Raises UnreadableError."""
        part, content = self._open(name), bytearray()
        while block := part.read(BLOCK_BYTES >> 4):
            content += block
            if len(content) > self.limit:
                raise UnreadableError(TOO_LONG, f"{name} has more than {self.limit >> 20} MiB")
        return bytes(content)

    def tree(self, name: str, *, needed: bool = False) -> Element:
        """The XML of a small part; an empty element if it is missing and not needed. Raises UnreadableError."""
        if name not in self and not needed:
            return Element("")
        with _naming(name):
            return read_tree(self._open(name))

    def blocks(self, name: str, *parents: str) -> Iterator[tuple[Element, Element]]:
        """As `read_blocks`. Raises UnreadableError."""
        with _naming(name):
            yield from read_blocks(self._open(name), parents)

    def related(self, name: str = "") -> dict[str, tuple[str, str]]:
        """By id, the last word of the type and the name of each part that a part of OOXML ("": the file) refers to."""
        folder, base = posixpath.split(name)
        found = {}
        for each in self.tree(posixpath.join(folder, "_rels", f"{base}.rels")).iter("rel:Relationship"):
            if each.get("TargetMode") != "External":
                kind = each.get("Type", "").rpartition("/")[2]
                found[each.get("Id", "")] = kind, resolve(name, each.get("Target", ""))
        return found

    def _open(self, name: str) -> "_Part":
        if name.lower() not in self._names:
            raise UnreadableError(BROKEN, f"no part {name} in it")
        info = self._zip.getinfo(self._names[name.lower()])
        if info.flag_bits & 1:
            raise UnreadableError(ENCRYPTED, f"the part {name} is encrypted")
        try:
            return _Part(self, self._zip.open(info), name)
        except _BROKEN_ZIP as error:
            raise UnreadableError(BROKEN, f"{name}: {error}") from error

    def spend(self, size: int) -> None:
        """Count unpacked bytes. Raises UnreadableError if there are too many."""
        self._left -= size
        if self._left < 0:
            raise UnreadableError(TOO_LONG, f"it unpacks to more than {_UNPACKED * self.limit >> 20} MiB")


class _Part:
    """A part that is being read; its bytes are counted, and its errors are raised as UnreadableError."""

    def __init__(self, container: Container, file: IO[bytes], name: str) -> None:
        self._container, self._file, self._name = container, file, name

    def read(self, size: int = -1, /) -> bytes:
        try:
            block = self._file.read(size)
        except _BROKEN_ZIP as error:
            raise UnreadableError(BROKEN, f"{self._name}: {error}") from error
        self._container.spend(len(block))
        return block


def resolve(part: str, target: str) -> str:
    """The name of the part that `part` calls `target`."""
    path = unquote(target.partition("#")[0])
    return posixpath.normpath(posixpath.join("/", posixpath.dirname(part), path)).lstrip("/")


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Faults of a part's XML become UnreadableError."""
    try:
        yield
    except MarkupError as error:
        reason = TOO_LONG if isinstance(error, LongMarkupError) else BROKEN
        raise UnreadableError(reason, f"{name}: {error}") from error


def _check(file: BinaryIO, limit: int) -> None:
    """Raises UnreadableError for what is no zip file, or has a list of parts that is longer than a document may be."""
    head = file.read(_OLE_BYTES)
    if head.startswith(_OLE):
        if "EncryptedPackage".encode("utf-16-le") in head:
            raise UnreadableError(ENCRYPTED, "the file is protected by a password")
        raise UnreadableError(
            BROKEN, "a file of an old Office program under a new name: open it there and save it anew"
        )
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_BYTES - _COMMENT_BYTES))
    tail = file.read()
    end = tail.rfind(_END_OF_ZIP)
    if not 0 <= end <= len(tail) - _END_BYTES:
        what = "the file is cut off" if head.startswith(b"PK") else f"no zip file: it begins with {head[:12]!r}"
        raise UnreadableError(BROKEN, what)
    (listed,) = struct.unpack_from("<I", tail, end + 12)
    if listed > limit:
        raise UnreadableError(TOO_LONG, f"its list of parts has {listed >> 20} MiB")
