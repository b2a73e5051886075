"""What the import asks of the process that reads PDF files, and what it answers."""

from typing import TypedDict

BROKEN, ENCRYPTED, SCANNED, GARBLED, LONG = "broken PDF", "encrypted PDF", "scanned PDF", "garbled PDF", "too long"


class Request(TypedDict):
    """A file to read, the name that the user knows, the most bytes of text, the most seconds of processor time.

    Path and name may have surrogates for bytes that are not UTF-8.
    """

    path: str
    name: str
    max_bytes: int
    seconds: int


class Answer(TypedDict):
    """The document, and what is rejected: page (0 for the file), reason, detail. `text` None: there is no document."""

    text: str | None
    heading: str
    outline: list[int]
    rejected: list[tuple[int, str, str]]
