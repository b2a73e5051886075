"""JSON in answers: lists of strings, objects; broken, cut, and followed by talk, as models write it. Pure.

It is searched for strings rather than decoded: a missing comma or bracket must not lose what stands before it.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from augment_service.answers.folding import fold
from augment_service.answers.phrases import is_introduction, names_answer

_BEGIN = re.compile(r"(?:^|:)[ \t]*(?=[\[{]\s*(?:[\"'“{\[]|[\]}]\s*\Z))", re.M)
_VALUE = re.compile(
    r"\"((?:[^\"\\]|\\.)*+)\"|(?<=[\[{,:\s])'((?:[^'\\]|\\.)*+)'(?=\s*[,:\]}])"
    r"|(?<=:)\s*(-?\d[\d.,]*+|true|false)(?=\s*[,}\]\n])",
    re.S,
)
_OPEN = re.compile(r"[\[{,:]\s*\"((?:[^\"\\]|\\.)*+)\\?\Z", re.S)
_KEY = re.compile(r"\s*:")
_BRACKET = re.compile(r"[\[{\]}]|\S")
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)", re.S)


@dataclass(frozen=True, slots=True)
class Value:
    """A string or number in JSON: the key before it ("" in a bare list), and whether it was written to its end."""

    key: str
    text: str
    is_whole: bool = True


def has_objects(body: str) -> bool:
    """Whether there is JSON at the beginning of a line, or behind what introduces it."""
    return _begin(body) >= 0


def values_of(body: str) -> Iterator[Value]:
    """The values of the first JSON in an answer that are strings or numbers, in their order."""
    begin = _begin(body)
    if begin < 0:
        return
    key, at, depth = "", begin, 0
    for found in _VALUE.finditer(body, at):
        between = body[at : found.start()]
        depth = _depth(between, depth)
        if depth <= 0 or "```" in between:
            return
        text, at = _unescaped(next(filter(None, found.groups()), "")), found.end()
        if _KEY.match(body, at):
            key = text
        else:
            yield Value(key, text)
    if left := _OPEN.search(body, max(begin, at - 1)):
        yield Value(key, _unescaped(left[1]), is_whole=False)


def _begin(body: str) -> int:
    """Where the first JSON begins, -1 if there is none."""
    for found in _BEGIN.finditer(body):
        head = fold(body[body.rfind("\n", 0, found.start()) + 1 : found.start()])
        if not head or is_introduction(head) or names_answer(head):
            return found.end()
    return -1


def _depth(between: str, depth: int) -> int:
    """The depth of brackets behind a part without strings; 0 if all were closed and talk follows."""
    for mark in _BRACKET.findall(between):
        depth += (mark in "[{") - (mark in "]}")
        if depth <= 0 and mark not in "]},":
            return 0
    return depth


def _unescaped(text: str) -> str:
    """A string of JSON without its escapes; half surrogates stay escapes."""
    return _ESCAPE.sub(_character, text) if "\\" in text else text


def _character(found: re.Match[str]) -> str:
    try:
        character = str(json.loads(f'"{found.group()}"'))
    except ValueError:
        return found.group()[1:]
    return found.group() if "\ud800" <= character <= "\udfff" else character
