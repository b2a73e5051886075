"""The title that a PDF gives itself, if it is one."""

import ctypes
import re
from pathlib import PurePath
from typing import Any

import pypdfium2.raw as pdfium

_MOST_BYTES = 1 << 12
_MOST_CHARACTERS = 300
# What programs write when nobody gave a title.
_BY_PROGRAMS = re.compile(
    r"(?:microsoft (?:word|powerpoint|excel)|powerpoint|word|slide)\b.*[-–].*|.*\.(?:docx?|dvi|tex|pdf|pptx?|xlsx?|odt|"
    r"indd|rtf|txt|html?|qxd|ps|fm|p65)|untitled.*|unbenannt|sans titre|document\d*|dokument\d*|(?:no |\W*)title|"
    r"presentation\d*|powerpoint presentation|slide \d+|book\d*|layout \d+|print.*|full page.*|about:blank|"
    r"[\w-]*\d[\w-]*|\(?(?:anonymous|unspecified|untitled)\)?",
    re.I,
)


def title_of(document: Any, file_name: str) -> str:
    """The title in the file's own data; "" if there is none, or one that a program made up."""
    buffer = ctypes.create_string_buffer(_MOST_BYTES)
    length = pdfium.FPDF_GetMetaText(document, b"Title", buffer, len(buffer))
    text = buffer.raw[: max(0, min(length, len(buffer)) - 2)].decode("utf-16-le", "replace")
    return sensible_title(text, file_name)


def sensible_title(text: str, file_name: str) -> str:
    """A title on one line, or "" if it is the name of a file or what a program writes by itself."""
    title = " ".join("".join(" " if ord(character) < 32 else character for character in text).split())
    plain = title.casefold()
    is_name = plain in {file_name.casefold(), PurePath(file_name).stem.casefold()}
    letters = sum(map(str.isalpha, title))
    if is_name or letters < 2 or "\ufffd" in title or len(title) > _MOST_CHARACTERS or _BY_PROGRAMS.fullmatch(title):
        return ""
    return title
