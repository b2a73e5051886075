"""The outline of Markdown: headings, and what is no prose (code, tables, rules, front matter, HTML).

Pure, one pass over the lines. A parser of the whole language is not used: texts without any Markdown must cost next to
nothing, a part of a document may begin in the middle of a code block, and hostile nesting must stay linear.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data.structure import PROSE, VERBATIM, Mark, marks_of, outline_with

_LONGEST = 2000  # characters; a longer line is prose
_SIGN = re.compile(
    r"^[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?(?:#{1,6}(?:[ \t]|$)|[`~]{3}|[|<\[]|[-=*_+:]{2}|[-*_] [-*_])", re.M
)
_QUOTE = re.compile(r"(?: {0,3}> ?)+")
_FENCE = re.compile(r"[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?(?P<fence>`{3,}(?=[^`]*\Z)|~{3,})(?P<info>.*)\Z")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]|\Z)")
_UNDERLINE = re.compile(r" {0,3}(={2,}|-{2,})[ \t]*\Z")
_RULE = re.compile(r"[ \t]*(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,}|={3,}|\+(?:[-=]+\+)+)[ \t]*\Z")
_DELIMITERS = re.compile(r"[ \t]*\|?(?:[ \t]*:?-+:?[ \t]*\|)*[ \t]*:?-+:?[ \t]*\|?[ \t]*\Z")
_ROW = re.compile(r"[ \t]*\|.*\|[ \t]*\Z")
_DEFINITION = re.compile(
    r""" {0,3}\[(?!\^)[^\]]{1,200}\]:[ \t]*(?:<[^>]*>|\S+)(?:[ \t]+(?:"[^"]*"|'[^']*'|\([^)]*\)))?[ \t]*\Z"""
)
_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])(?:[ \t]|\Z)")
_INDENTED = re.compile(r"(?: {4}| {0,3}\t)")
_TAG = re.compile(
    r" {0,3}</?(?P<tag>address|article|aside|base|blockquote|body|br|caption|center|col|colgroup|dd|details|dialog|dir|"
    r"div|dl|dt|fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|head|header|hr|html|iframe|img|legend|li|"
    r"link|main|menu|nav|ol|option|p|param|picture|pre|script|search|section|source|style|summary|svg|table|tbody|td|"
    r"textarea|tfoot|th|thead|title|tr|track|ul|video)(?:[\s/>]|\Z)",
    re.I,
)
_RAW = frozenset({"pre", "script", "style", "textarea"})
_TITLE = re.compile(r"""^title[ \t]*[:=][ \t]*(?P<title>"[^"\n]*"|'[^'\n]*'|[^\n]*?)[ \t]*$""", re.M)
_FRONT = {"---": re.compile(r"(?:---|\.\.\.)[ \t]*\Z"), "+++": re.compile(r"\+\+\+[ \t]*\Z")}
_FRONT_LINES = 400
_KEY = re.compile(r"\s*(?:[\w.\"'-]+\s*[:=]|- |\[|#|\Z)")
_QUOTE_MARKS = re.compile(r"^[ \t]*(?:>[ \t]?)+", re.M)


@dataclass(frozen=True, slots=True)
class _Line:
    start: int
    end: int  # without its line end
    text: str  # without the marks of quotations
    depth: int  # of quotations

    @property
    def is_blank(self) -> bool:
        return not self.text or self.text.isspace()


def outline_of(text: str, *, indented: bool = False) -> tuple[int, ...]:
    """The outline of a Markdown text; `indented` lines are code only where the text is known to be Markdown."""
    return outline_with(_marks(text, 0, len(text), indented=indented))


def complete(text: str, outline: Sequence[int] = ()) -> list[Mark]:
    """The marks of an outline, and those of Markdown in the parts of the text that it does not cover."""
    known = marks_of(outline)
    if not _SIGN.search(text):
        return known
    found: list[Mark] = []
    at = 0
    for mark in known:
        found += [*_marks(text, at, mark[1]), mark]
        at = mark[2]
    return found + _marks(text, at, len(text))


def without_quote_marks(sentence: str) -> str:
    """A sentence without the marks of quotations before its lines. Those of list items stay: "3. Fold it"."""
    return _QUOTE_MARKS.sub("", sentence)


def heading_text(block: str) -> str:
    """A heading on one line, without its marks."""
    lines = [line for line in block.splitlines() if line.strip() and not _UNDERLINE.match(line)]
    line = " ".join(" ".join(lines).split())
    line = _QUOTE_MARKS.sub("", line)
    found = _HEADING.match(line)
    return re.sub(r"(?:^| )#+\Z", "", line[found.end() :].strip()).strip() if found else line


def title_of(text: str, outline: Sequence[int]) -> str:
    """The title of a Markdown text: that of its front matter, or its first heading of level 1, or ""."""
    marks = marks_of(outline)
    if marks and marks[0][:2] == (VERBATIM, 0) and text[:3] in _FRONT:
        found = _TITLE.search(text, 0, marks[0][2])
        if found and (title := _unquoted(found["title"])):
            return title
    first = next((mark for mark in marks if mark[0] == 1), None)
    return heading_text(text[first[1] : first[2]]) if first else ""


def _unquoted(value: str) -> str:
    if value[:1] == '"':
        try:
            return str(tomllib.loads(f"title = {value}")["title"]).strip()
        except tomllib.TOMLDecodeError:
            return value.strip('"').strip()
    return " ".join(value.strip("'").split())


def _marks(text: str, begin: int, end: int, *, indented: bool = False) -> list[Mark]:
    """The marks of a part of a text that begins and ends at line ends."""
    if begin >= end or not (indented or _SIGN.search(text, begin, end)):
        return []
    lines = list(_lines(text, begin, end))
    scan = _Scan(text, lines, indented)
    marks = list(scan.run())
    if not indented and scan.first_fence >= 0 and scan.is_unclosed and _is_closing(lines, scan.first_fence):
        # The part begins within a code block.
        last = lines[scan.first_fence].end
        rest = _Scan(text, lines[scan.first_fence + 1 :], indented)
        return [(VERBATIM, begin, last), *rest.run()]
    return marks


def _is_closing(lines: Sequence[_Line], fence: int) -> bool:
    """Whether a fence looks like the end of a code block: a line stands before it, and none after it."""
    found = _FENCE.match(lines[fence].text)
    is_bare = bool(found) and not lines[fence].text.strip().strip("`~")
    has_code = fence > 0 and not lines[fence - 1].is_blank
    return is_bare and has_code and (fence + 1 == len(lines) or lines[fence + 1].is_blank)


def _lines(text: str, begin: int, end: int) -> Iterator[_Line]:
    at = begin
    while at < end:
        stop = text.find("\n", at, end)
        stop = end if stop < 0 else stop
        quote = _QUOTE.match(text, at, min(stop, at + _LONGEST))
        first = quote.end() if quote else at
        last = stop - (stop > first and text[stop - 1] == "\r")
        yield _Line(at, last, text[first:last], quote.group().count(">") if quote else 0)
        at = stop + 1


class _Scan:
    """One pass over the lines of a text: `run` yields its marks in order.

    `first_fence` is the index of the line with the first fence (-1: none); `is_unclosed` says that the last fence was
    not closed.
    """

    def __init__(self, text: str, lines: Sequence[_Line], indented: bool) -> None:
        self._text, self._lines, self._indented = text, lines, indented
        self._in_list = False
        self._missing = set[str]()  # ends that do not come any more
        self.first_fence, self.is_unclosed = -1, False

    def run(self) -> Iterator[Mark]:
        """The marks."""
        lines = self._lines
        at = self._front_matter() if lines and not lines[0].start else 0
        if at:
            yield VERBATIM, 0, lines[at - 1].end
        is_new = True  # a paragraph may begin
        while at < len(lines):
            line = lines[at]
            if line.is_blank:
                is_new, at = True, at + 1
                continue
            kind, count = self._block(at, is_new=is_new)
            if kind != PROSE:
                yield kind, line.start, lines[at + count - 1].end
            if kind == PROSE and _ITEM.match(line.text):
                self._in_list = True
            elif (is_new or kind != PROSE) and not line.text[:1].isspace():
                self._in_list = False
            is_new = kind != PROSE
            at += count

    def _block(self, at: int, *, is_new: bool) -> tuple[int, int]:
        """The kind of the block that begins at a line, and its number of lines; prose is taken line by line."""
        line = self._lines[at]
        if len(line.text) > _LONGEST:
            return PROSE, 1
        if self._indented and is_new and not self._in_list and _INDENTED.match(line.text):
            return VERBATIM, self._indented_lines(at)
        if found := _FENCE.match(line.text):
            return VERBATIM, self._fenced_lines(at, found["fence"])
        if found := _HEADING.match(line.text):
            return len(found[1]), 1
        if count := self._html_lines(at) or self._table_lines(at):
            return VERBATIM, count
        if _RULE.match(line.text) or (is_new and _DEFINITION.match(line.text)):
            return VERBATIM, 1
        if is_new and (level := self._underlined(at)):
            return level, 2
        return PROSE, 1

    def _underlined(self, at: int) -> int:
        """The level of a heading that has a line of marks below it, 0 for none."""
        if at + 1 == len(self._lines):
            return 0
        line, below = self._lines[at], self._lines[at + 1]
        found = _UNDERLINE.match(below.text)
        if not found or below.depth != line.depth or _ITEM.match(line.text) or _INDENTED.match(line.text):
            return 0
        return 1 if found[1][0] == "=" else 2

    def _front_matter(self) -> int:
        """The lines of the front matter, 0 for none."""
        opening = self._lines[0].text.rstrip().removeprefix("\ufeff")
        if opening not in _FRONT:
            return 0
        for at, line in enumerate(self._lines[1:_FRONT_LINES], 1):
            if _FRONT[opening].match(line.text):
                inside = [line.text for line in self._lines[1:at]]
                keys = sum(bool(_KEY.match(text)) for text in inside if not text[:1].isspace())
                return at + 1 if keys and keys == sum(not text[:1].isspace() for text in inside) else 0
        return 0

    def _fenced_lines(self, at: int, fence: str) -> int:
        """The lines of a code block; without an end it takes the rest, or the rest of its quotation."""
        if self.first_fence < 0:
            self.first_fence = at
        depth = self._lines[at].depth
        self.is_unclosed = False
        for index in range(at + 1, len(self._lines)):
            line = self._lines[index]
            if line.depth < depth:
                return index - at
            bare = line.text.strip()
            if len(bare) >= len(fence) and not bare.strip(fence[0]):
                return index - at + 1
        self.is_unclosed = True
        return len(self._lines) - at

    def _indented_lines(self, at: int) -> int:
        """The lines of an indented code block, with the empty ones in it."""
        last = 0
        for count, line in enumerate(self._lines[at:], 1):
            if _INDENTED.match(line.text) and not line.is_blank:
                last = count
            elif not line.is_blank:
                break
        return last

    def _html_lines(self, at: int) -> int:
        line = self._lines[at].text
        if line.lstrip().startswith("<!--"):
            return self._until("-->", at) or 1
        found = _TAG.match(line)
        if not found:
            return 0
        tag = found["tag"].lower()
        return (self._until(f"</{tag}", at) if tag in _RAW else 0) or self._until_blank(at)

    def _until(self, ending: str, at: int) -> int:
        """The lines up to the one with this ending; 0 if there is none."""
        if ending not in self._missing:
            for index in range(at, len(self._lines)):
                if ending in self._lines[index].text.lower():
                    return index - at + 1
            self._missing.add(ending)
        return 0

    def _until_blank(self, at: int) -> int:
        return next((i - at for i in range(at, len(self._lines)) if self._lines[i].is_blank), len(self._lines) - at)

    def _table_lines(self, at: int) -> int:
        """The lines of a table: a row over delimiters, or two rows between bars; 0 if there is none."""
        lines = self._lines
        if "|" not in lines[at].text or at + 1 >= len(lines):
            return 0
        following = lines[at + 1].text[:_LONGEST]
        is_row = _ROW.match(lines[at].text) and _ROW.match(following)
        if not (is_row or ("|" in following and _DELIMITERS.match(following))):
            return 0
        inside = (i - at for i in range(at, len(lines)) if "|" not in lines[i].text)
        return next(inside, len(lines) - at)
