"""Where the objects of a JSON text begin and end, seen by their brackets, in bounded memory. Nothing is decoded.

A streaming JSON parser stops at the first error; this one resumes after it.
"""

import re
from collections.abc import Iterable, Iterator

# What is open around a row: nothing, or an array; in an object that holds the rows, one of its arrays.
IN_FILE, IN_OBJECT = (b"", b"["), (b"{[",)
DEEPEST = 1000
# Events. OPEN: an array of rows begins. ROW: an object in it. OBJECT: an object that is in no array. BETWEEN: what is
# not an object in the place of one. LONG: the first bytes of a row over the limit. DEEP: too many brackets, the rest is
# not read. UNCLOSED: the text ends within an array.
OPEN, ROW, OBJECT, BETWEEN, LONG, DEEP, UNCLOSED = "open row object between long deep unclosed".split()
Event = tuple[str, bytes]

_PLAIN = re.compile(rb'[^"{}\[\]]*+(?:"[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+"[^"{}\[\]]*+)*+')  # whole strings as well
_STRING = re.compile(rb'[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+')  # up to its end; a line end ends it, as JSON has none there
_QUOTE, _BACKSLASH = b'"\\'
_SPACES = b" \t\r\n"
_EXCERPT_BYTES = 1024


class Splitter:
    """The parts of a text that is given in chunks.

    `around` is `IN_FILE` or `IN_OBJECT`; an event has its bytes, at most `limit` of them. `indent` is the white space
    before the last row on its line; None if other characters are there.
    """

    def __init__(self, chunks: Iterable[bytes], around: tuple[bytes, ...], limit: int) -> None:
        self.indent: bytes | None = b""
        self._chunks, self._around, self._limit = chunks, around, limit
        self._stack = bytearray()  # the brackets that are open
        self._home = -1  # how many are open around the current row; -1 between rows
        self._held = bytearray()  # of the current row, or of what is between rows
        self._skips, self._is_first = False, True

    def events(self) -> Iterator[Event]:
        """All parts in their order."""
        for piece, bracket in _brackets(self._chunks):
            yield from self._step(piece, bracket)
            if len(self._held) > self._limit or len(self._stack) > DEEPEST:
                yield from self._shorten()
                if len(self._stack) > DEEPEST:
                    yield DEEP, bytes(self._held[:_EXCERPT_BYTES])
                    return
        is_open = bool(self._stack)
        yield from self._end_row() if self._home >= 0 else self._end_between()
        if is_open:
            yield UNCLOSED, b""

    def _step(self, piece: bytes, bracket: bytes) -> Iterator[Event]:
        """Go on to behind a bracket; `piece` is what is before it."""
        is_between = self._home < 0 and self._stack in self._around
        if not self._skips and (is_between or self._home >= 0):
            self._held += piece
        if bracket == b"]" and self._home > 0 and b"[" not in self._stack[self._home :]:
            yield from self._end_row()  # it is not closed, but the array around it is
            is_between = True
        if bracket in (b"}", b"]"):
            if is_between:
                yield from self._end_between()
                if not self._stack:
                    yield BETWEEN, bracket
            del self._stack[-1:]
        elif bracket:
            if self._home < 0 and bytes(self._stack) + bracket in self._around:
                yield from self._end_between()
                yield OPEN, b""
            elif is_between:
                yield from self._begin()
            self._stack += bracket
        if bracket and self._home >= 0:
            self._held += b"" if self._skips else bracket
            if len(self._stack) == self._home:
                yield from self._end_row()

    def _begin(self) -> Iterator[Event]:
        """A row begins."""
        _, end, indent = self._held.rpartition(b"\n")
        self.indent = None if indent.strip(_SPACES) or not (end or self._is_first) else bytes(indent)
        self._is_first = False
        yield from self._end_between()
        self._home = len(self._stack)

    def _shorten(self) -> Iterator[Event]:
        """Too much is held, or too many brackets are open: a row is not closed, or it is over the limit."""
        if self._home < 0:
            yield from self._end_between()
            return
        later = -1 if self.indent is None or not self._home else self._held.rfind(b"\n" + self.indent + b"{")
        if later > 0:  # the last line that begins as a row does
            held = bytes(self._held)
            del self._held[later:]
            yield from self._end_row()
            for piece, bracket in _brackets([held[later:]]):
                yield from self._step(piece, bracket)
        elif len(self._held) > self._limit:
            yield LONG, bytes(self._held[:_EXCERPT_BYTES])
            self._skips = True
            self._held.clear()

    def _end_between(self) -> Iterator[Event]:
        if between := self._held.strip(b"," + _SPACES):
            yield BETWEEN, bytes(between)
        self._held.clear()

    def _end_row(self) -> Iterator[Event]:
        if not self._skips:
            yield (ROW if self._home else OBJECT), bytes(self._held)
        del self._stack[self._home :]
        self._home, self._skips = -1, False
        self._held.clear()


def split_lines(row: bytes, indent: bytes | None) -> list[bytes]:
    """A row that is not closed, cut before each line that begins as the row does."""
    return [] if indent is None else re.split(rb",?\s*\n(?=" + indent + rb"\{)", row.rstrip(b"," + _SPACES))


def _brackets(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The brackets outside strings, each after the bytes before it; at the end of a chunk the bytes and none."""
    in_string = is_escaped = False
    for chunk in chunks:
        start, at, is_escaped = 0, int(is_escaped), False
        while at < len(chunk):
            match = (_STRING if in_string else _PLAIN).match(chunk, at)
            assert match, "both patterns match the empty string"
            at = match.end()
            if at >= len(chunk):
                break
            if in_string:
                is_escaped = chunk[at] == _BACKSLASH and at + 1 == len(chunk)
                in_string = chunk[at] == _BACKSLASH
            elif chunk[at] == _QUOTE:
                in_string = True
            else:
                yield chunk[start:at], chunk[at : at + 1]
                start = at + 1
            at += 1
        if chunk[start:]:
            yield chunk[start:], b""
