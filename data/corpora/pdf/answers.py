"""What the import asks of the process that reads PDF files, and what it answers."""

from typing import TypedDict

BROKEN, ENCRYPTED, SCANNED, GARBLED, LONG = "broken PDF", "encrypted PDF", "scanned PDF", "garbled PDF", "too long"
_SECONDS, _SECONDS_PER_MIB = 20, 10  # of processor time for a file
_MIB = 1 << 20


class Request(TypedDict):
    """A file to read. `path` may have the surrogates of undecodable bytes; `name` is that of the user's file."""

    path: str
    name: str
    max_bytes: int


class Answer(TypedDict):
    """The document, and what is rejected: page (0 for the file), reason, detail. `text` None: there is no document."""

    text: str | None
    heading: str
    outline: list[int]
    rejected: list[tuple[int, str, str]]


def seconds_for(size: int) -> int:
    """The processor time that a file of so many bytes may take."""
    return _SECONDS + _SECONDS_PER_MIB * size // _MIB
