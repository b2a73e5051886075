"""An answer to its lines: without thoughts, control tokens, code fences, introductions and closings. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from augment_service.answers.folding import fold
from augment_service.answers.markup import Marker, Numbering, list_marker, plain
from augment_service.answers.phrases import (
    is_closing,
    is_introduction,
    is_labelled,
    is_reason,
    is_refusal,
    is_remark,
    names_answer,
    without_introduction,
)

_BREAKS = "\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
_LINE_END = re.compile(f"\r\n|[{_BREAKS}]")
_TAGS = "think|thinking|thought|thoughts|reasoning|reflection|scratchpad"
_OPEN = re.compile(rf"\s*(?:```\w*\s*)?[<\[](?:{_TAGS})[>\]]", re.I)
_CLOSED = re.compile(rf"(?<![`\"'“])[<\[]/(?:{_TAGS})[>\]](?![`\"'”])", re.I)
_TURN = re.compile(r"\A\s*(?:<\|im_start\|>(?:assistant)?|<\|assistant\|>|<start_of_turn>model|<s>|<bos>)\s*")
_END_OF_TURN = re.compile(rf"[ \t]*(?:<\|[a-z_]{{1,20}}\|>|</s>|<end_of_turn>|<eos>)[ \t]*(?=[{_BREAKS}<]|\Z)")
_FENCE = re.compile(r"[ \t]*(?:```+|~~~+)[ \t]*[\w+-]*[ \t]*\Z")
_RULE = re.compile(r"[\s|:=_*~+—–-]*\Z")
_INLINE_ITEM = re.compile(r"(?<=[^\s(])\s+(?=\(?\d{1,2}[.)]\s+[^\W\d_a-z])")
_MOST_INLINE = 100  # items on one line
_PREFIX = re.compile(r"\A\s*(?:(?:>(?=\s|\Z)|</?(?:li|ul|ol|p|div|span)>)\s*)+", re.I)
_STRONG = ("**", "__")
_TAB = 4
LIST, FIRST, PAIRS = "list", "first", "pairs"  # what is read
ENDS = ".!?。！？؟।…"
QUOTES = "\"'”’»)]」』*_"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an answer, without markers and markup.

    `depth` is the indentation in columns. A `heading` stands above others. `is_whole` is false for the line within
    which the answer was cut. `follows` says that it continues the item before it, `gap` that it begins something new.
    """

    text: str
    marker: Marker | None = None
    depth: int = 0
    heading: bool = False
    is_whole: bool = True
    follows: bool = False
    gap: bool = False


def without_thoughts(text: str) -> tuple[str, bool]:
    """What a model answered, without what it thought before, and whether it was still thinking at its end.

    Control tokens that an engine has left at the ends of lines end the answer; within a line they are its text.
    """
    text = _TURN.sub("", text, count=1)
    start = max((found.end() for found in _CLOSED.finditer(text)), default=0)
    if opened := _OPEN.match(text, start):
        return text[opened.end() :], True
    return _END_OF_TURN.split(text[start:], maxsplit=1)[0], False


def on_one_line(text: str) -> str:
    """A text with single spaces."""
    return " ".join(text.split())


def read_lines(body: str, *, is_cut: bool, language: str = "", kind: str = LIST) -> list[Line]:
    """The lines that belong to the answer: no introduction, no closing, no rules, no empty lines.

    `is_cut` says that the answer ended at the limit of tokens. In a `LIST`, what is around its items is left out, too;
    in `PAIRS`, labels such as "Answer:" stay.
    """
    raw = _LINE_END.split(body)
    is_cut = is_cut and not _FENCE.match(raw[-1])
    parts = [part for line in raw if not _FENCE.match(line) for part in _items_of(line)]
    markers = (list_marker(_PREFIX.sub("", part).strip()) for part in parts)
    numbering = Numbering(filter(None, markers), language)
    lines: list[Line] = []
    gap = False
    for place, part in enumerate(parts):
        if _RULE.match(part):
            gap = gap or bool(lines)
            continue
        line = _line(part, numbering)
        if not line.text:  # a marker alone
            gap = True
            continue
        lines.append(replace(line, gap=gap, is_whole=not is_cut or place + 1 < len(parts)))
        gap = False
    return _connected(_without_frame(lines, kind))


def _items_of(line: str) -> list[str]:
    """The items of a line that has several: "1. Otters swim. 2. Stoats climb."."""
    marker = list_marker(line.strip())
    if marker is None or marker.number != 1:
        return [line]
    parts = _INLINE_ITEM.split(line, maxsplit=_MOST_INLINE)
    numbers = [found.number if (found := list_marker(part.strip())) else 0 for part in parts]
    return parts if numbers == list(range(1, len(parts) + 1)) else [line]


def _line(part: str, numbering: Numbering) -> Line:
    """A line without its dress: markers and markup may be around each other."""
    spread = part.expandtabs(_TAB)
    text, first, before = part.strip(), None, None
    is_heading = False
    while before != text:
        before, text = text, _PREFIX.sub("", text).strip()
        marker = list_marker(text)
        if marker is not None and numbering.has(marker) and not (first and marker.letter.endswith(".")):
            first, text = first or marker, marker.rest.strip()
            continue
        bare = plain(text)
        is_bold = text[:2] in _STRONG and text[-2:] in _STRONG and bare[-1:] not in ENDS + QUOTES
        is_heading = is_heading or text[:1] == "#" or is_bold
        text = bare
    is_heading = bool(text) and (is_heading or text[-1] in ":：")
    return Line(text, first, len(spread) - len(spread.lstrip()), is_heading)


def _without_frame(lines: Sequence[Line], kind: str) -> list[Line]:
    """The lines without the introduction before them and the closing behind them."""
    start = 0
    while start < len(lines) and _introduces(lines[start], kind, is_only=len(lines) == 1):
        start += 1
    end = start
    while end < len(lines) and (lines[end].marker or not is_closing(fold(lines[end].text))):
        end += 1
    found = _without_remarks(lines[start:end], kind)
    items = [at for at, line in enumerate(found) if line.marker]
    if kind == LIST and len(items) > 1:
        inner = range(items[0], _end_of_item(found, items[-1]))
        found = [line for at, line in enumerate(found) if at in inner or is_labelled(line.text)]
    return [line for line in (found if kind == PAIRS else map(_unlabelled, found)) if line.text]


def _introduces(line: Line, kind: str, *, is_only: bool) -> bool:
    folded = fold(line.text)
    if line.marker or is_refusal(folded):
        return False
    if line.heading and not is_only and kind != PAIRS and names_answer(folded):
        return True
    return is_introduction(folded) and (not is_only or line.heading)


def _without_remarks(lines: Sequence[Line], kind: str) -> list[Line]:
    """The lines without reasons, notes and talk about the answer, each up to the next item or paragraph."""
    found: list[Line] = []
    least = min((line.depth for line in lines if line.marker), default=0)
    in_remark = False
    for at, line in enumerate(lines):
        is_top = line.marker is not None and line.depth == least
        in_remark = in_remark and not (line.marker or line.gap or is_labelled(line.text))
        folded = fold(line.text)
        is_talk = at > 0 and kind != PAIRS and line.marker is None and is_remark(folded)
        in_remark = in_remark or is_talk or (is_reason(folded) and not is_top)
        if not in_remark:
            found.append(line)
    return found


def _end_of_item(lines: Sequence[Line], item: int) -> int:
    """Where the lines end that belong to an item: they are indented more."""
    at = item + 1
    while at < len(lines) and lines[at].depth > lines[item].depth:
        at += 1
    return at


def without_label(text: str) -> str:
    """A line without what introduces it, and without the markers and markup behind that."""
    while (rest := plain(_PREFIX.sub("", without_introduction(text)))) != text:
        while (marker := list_marker(rest)) is not None and marker.letter[-1:] != ".":
            rest = plain(_PREFIX.sub("", marker.rest))
        text = rest
    return text


def _unlabelled(line: Line) -> Line:
    text = without_label(line.text)
    return replace(line, text=text, gap=True) if text != line.text else line


def _connected(lines: Sequence[Line]) -> list[Line]:
    """The lines; those that are indented below an item, and have no marker, follow it."""
    found: list[Line] = []
    depth = -1
    for line in lines:
        if line.marker:
            depth = line.depth
        elif line.depth <= depth:
            depth = -1
        found.append(replace(line, follows=depth >= 0) if not line.marker else line)
    return found
