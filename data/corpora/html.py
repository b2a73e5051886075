"""Web pages: their title, and their main content or all that is visible, as lines with an outline."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import pyarrow as pa
from selectolax.lexbor import LexborHTMLParser, LexborNode

from data.corpora.charsets import decode_page
from data.corpora.main_content import keep_main, main_marks, remove_landmarks
from data.corpora.page_text import BLOCKS, count_visible, lay_out, mark_blocks, remove_unseen, squeezed
from data.corpora.reading import ImportContext, Source, make_rows
from data.corpora.streams import read_whole
from data.structure import Outliner

_TAG = re.compile(r"<(/?)([a-z][a-z0-9]*)", re.I)
_SHALLOW = frozenset("p option optgroup li dd dt td th tr caption".split())  # closed by the next of their kind
_NESTING = frozenset(["table", *BLOCKS.split(",")]) - _SHALLOW
# XML closes elements where HTML does not ("<script/>", "<a id='x'/>"), and has sections of characters.
_XML = re.compile(
    r"""\s{0,99}<\?xml\s|[^>]{0,500}>?\s{0,99}<html[^>]{0,500}\sxmlns\s*=\s*["']http://www.w3.org/1999/xhtml""", re.I
)
_VOID = "area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr"
_CLOSED = re.compile(
    rf"<(?!(?:{_VOID})\b)([a-z][\w:.-]*)" + r"""((?:\s+[\w:.-]+\s*=\s*(?:"[^"<]*"|'[^'<]*'))*)\s*/>""", re.I
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f]")
_REFERENCE = re.compile(r"&#(?:x0*([01]?[0-9a-f])(?![0-9a-f])|0*([0-9]{1,2})(?![0-9]));?", re.I)
_CHARACTERS = re.compile(r"<!\[CDATA\[(.*?)(?:\]\]>|\Z)", re.S)
_DEEPEST = 500  # browsers stop at 512
_MOST_TAGS, _MOST_ABOVE = 1_000_000, 20_000_000  # a manual of 15 MB in one page has half and a fifth of these
_ENOUGH, _LEAST_SHARE = 200, 0.3  # of characters: with less than both, there is no main content


class PageError(Exception):
    """A page cannot be read, for a `reason`; the message is the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Page:
    """What a page says. `outline` is that of `data.structure`."""

    title: str
    text: str
    outline: tuple[int, ...]


def read_html(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The page as one document, whose heading is its title."""
    content = read_whole(source, context, "a page")
    if content is None:
        return
    try:
        page = read_bytes(content, full=context.settings.html == "full")
    except PageError as error:
        context.reject(source, 0, error.reason, str(error), content)
        return
    yield make_rows(source, [page.text], [0], headings=[page.title], outlines=[page.outline])


def read_bytes(content: bytes, *, full: bool, is_xml: bool = False) -> Page:
    """`read_page` of what a file or a part of one holds, in any encoding. Raises PageError."""
    try:
        markup = decode_page(content)
    except ValueError as error:
        raise PageError("not UTF-8", str(error)) from error
    return read_decoded(markup, full=full, is_xml=is_xml)


def read_decoded(markup: str, *, full: bool, is_xml: bool = False) -> Page:
    """`read_page` of a page that may be hostile. Raises PageError."""
    if trouble := _trouble(markup):
        raise PageError("broken HTML", trouble)
    return read_page(markup, full=full, is_xml=is_xml)


def read_page(markup: str, *, full: bool = False, is_xml: bool = False) -> Page:
    """The main content of a page; with `full`, all that is visible. `is_xml`: it is XHTML, even if it does not say so.

    If a page has hardly any main content (a list of links), it is all but its landmarks, or if that is nothing, all.
    """
    # Controls mark the blocks of a tree below: a page has none of its own.
    markup = _CONTROL.sub("", _REFERENCE.sub(_without_control, markup))
    if is_xml or _XML.match(markup):
        markup = _CLOSED.sub(r"<\1\2></\1>", _CHARACTERS.sub(lambda found: escape(found[1]), markup))
    title, lines = "", Outliner()
    for lines_of in (_all_lines,) if full else (_main_lines, _lines_between_landmarks, _all_lines):
        tree = LexborHTMLParser(markup)
        title = _title(tree)
        remove_unseen(tree)
        body = tree.css_first("body")  # a set of frames has none, but the tree's own property may have
        if body is None:
            break
        lines = lines_of(tree, body)
        if lines.text:
            break
    return Page(title, lines.text, lines.outline)


def _without_control(reference: re.Match[str]) -> str:
    """A reference to a character, unless that is a control."""
    code = int(reference[1], 16) if reference[1] else int(reference[2])
    return "" if _CONTROL.fullmatch(chr(code)) else reference[0]


def _main_lines(tree: LexborHTMLParser, body: LexborNode) -> Outliner:
    """The main content, if there is enough of it."""
    num_seen = count_visible(body.text())
    keep_main(tree, body)
    mark_blocks(tree, body)
    marked = body.text()
    lines = lay_out(marked, main_marks(tree, body))
    return lines if count_visible(lines.text) >= min(_ENOUGH, _LEAST_SHARE * num_seen) else Outliner()


def _lines_between_landmarks(tree: LexborHTMLParser, body: LexborNode) -> Outliner:
    remove_landmarks(tree)
    return _all_lines(tree, body)


def _all_lines(tree: LexborHTMLParser, body: LexborNode) -> Outliner:
    mark_blocks(tree, body)
    return lay_out(body.text())


def _trouble(markup: str) -> str:
    """Why a page would take minutes or gigabytes; "" if it would not. Its blocks are counted without a parser."""
    depth = num_above = 0
    for number, match in enumerate(_TAG.finditer(markup), 1):
        if match[2].lower() in _NESTING:
            depth = max(0, depth - 1) if match[1] else depth + 1
        num_above += depth
        if depth > _DEEPEST:
            return f"more than {_DEEPEST} nested blocks"
        if number > _MOST_TAGS or num_above > _MOST_ABOVE:
            return f"more than {_MOST_TAGS} tags, or {_MOST_ABOVE} blocks above them"
    return ""


def _title(tree: LexborHTMLParser) -> str:
    """The title that the page gives itself, or else its first heading."""
    for node in (tree.css_first("head title"), tree.css_first("meta[property='og:title']"), tree.css_first("h1")):
        if node:
            title = node.attributes.get("content") if node.tag == "meta" else node.text()
            if words := squeezed(title or ""):
                return words
    return ""
