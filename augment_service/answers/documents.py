"""The document in an answer: what is written there, without the talk before and behind it. Pure."""

import re

from augment_service.answers.folding import fold
from augment_service.answers.lines import ENDS, QUOTES
from augment_service.answers.markup import plain
from augment_service.answers.phrases import is_closing, is_introduction, is_refusal, without_introduction
from data.sentences import pieces_of
from data.stops import is_abbreviation
from data.structure import PROSE

_LINE_END = re.compile("\r\n|[\r\x85\u2028\u2029]")
_FENCE = re.compile(r"[ \t]*(?:```+|~~~+)[ \t]*(?:markdown|md|text|txt|plaintext|html)?[ \t]*\Z", re.I)
_ANY_FENCE = re.compile(r"[ \t]*(?:```|~~~)")
_RULE = re.compile(r"[ \t]*(?:[-*_=][ \t]*){3,}\Z")
_MOST_CLOSING_LINES = 2


def read_document(body: str, *, is_cut: bool) -> tuple[str, bool]:
    """The document in an answer, and whether anything of it is whole.

    A document that was cut (`is_cut`) ends with its last whole sentence or line.
    """
    lines = _LINE_END.sub("\n", body).split("\n")
    before: list[str] | None = None
    while before != lines:
        before, lines = lines, _without_fence(_without_introduction(_without_closing(_trimmed(lines))), is_cut=is_cut)
    text = "\n".join(lines)
    if not is_cut or not text:
        return text, True
    whole = _whole_part(text)
    return (whole, True) if whole else (text, False)


def _trimmed(lines: list[str]) -> list[str]:
    """The lines without empty lines and rules at the ends."""
    start, end = 0, len(lines)
    while start < end and (not lines[start].strip() or _RULE.match(lines[start])):
        start += 1
    while start < end and (not lines[end - 1].strip() or _RULE.match(lines[end - 1])):
        end -= 1
    return [line.rstrip() for line in lines[start:end]]


def _without_introduction(lines: list[str]) -> list[str]:
    if not lines:
        return lines
    first = plain(lines[0])
    if len(lines) > 1 and is_introduction(fold(first)) and not is_refusal(fold(first)):
        return lines[1:]
    rest = without_introduction(first)
    return [rest, *lines[1:]] if rest and rest != first else lines


def _without_closing(lines: list[str]) -> list[str]:
    """The lines without a last paragraph that speaks to the user."""
    start = max((at + 1 for at, line in enumerate(lines) if not line or _RULE.match(line)), default=0)
    is_closing_part = start > 0 and len(lines) - start <= _MOST_CLOSING_LINES and is_closing(fold(plain(lines[start])))
    return lines[:start] if is_closing_part else lines


def _without_fence(lines: list[str], *, is_cut: bool) -> list[str]:
    """The lines without a code fence around all of them."""
    if len(lines) < 2 or not _FENCE.match(lines[0]):
        return lines
    inside = [at for at in range(1, len(lines)) if _ANY_FENCE.match(lines[at])]
    if inside == [len(lines) - 1]:
        return lines[1:-1]
    return lines[1:] if is_cut and not inside else lines


def _whole_part(text: str) -> str:
    """A text without the sentence within which it ends, and without headings that stand above nothing then."""
    pieces = list(pieces_of(text))
    while pieces and not _is_whole(text, *pieces[-1], is_last=pieces[-1][2] == len(text)):
        pieces.pop()
    return text[: pieces[-1][2]].rstrip() if pieces else ""


def _is_whole(text: str, kind: int, start: int, end: int, *, is_last: bool) -> bool:
    if kind != PROSE:
        return False
    bare = text[start:end].rstrip()
    stripped = bare.rstrip(QUOTES)
    if stripped[-1:] not in set(ENDS):
        return not is_last and "\n" in text[start:end] and bare[-1:] not in {"", ",", ":", "："}
    at = start + len(stripped) - 1
    is_open = is_last and (stripped[-2:-1].isdigit() or is_abbreviation(text, start, at, len(text)))
    return not is_open
