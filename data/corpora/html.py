"""Web pages: their title, and their main content or all that is visible, as lines with an outline."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from selectolax.lexbor import LexborHTMLParser, LexborNode

from data.corpora.charsets import decode_page
from data.corpora.main_content import keep_main, main_marks, remove_landmarks
from data.corpora.page_text import BLOCKS, Marker, count_visible, lay_out, remove_unseen, squeezed
from data.corpora.reading import ImportContext, Source, make_rows
from data.corpora.streams import read_whole
from data.structure import Outliner

_TAG = re.compile(rb"<(/?)([a-z][a-z0-9]*)", re.I)
_SHALLOW = frozenset(b"p option li dd dt".split())  # closed by the next of their kind
_NESTING = frozenset(name.encode() for name in BLOCKS.split(",")) - _SHALLOW
_DEEPEST = 500  # browsers stop at 512; the time for a page grows with the square of its depth


_ENOUGH, _LEAST_SHARE = 200, 0.3  # of letters: a page with less main content than both is no page with main content


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
        markup = decode_page(content)
    except ValueError as error:
        context.reject(source, 0, "not UTF-8", str(error), content)
        return
    if depth_of(content) > _DEEPEST:
        context.reject(source, 0, "broken HTML", f"more than {_DEEPEST} nested blocks", markup)
        return
    page = read_page(markup, full=context.settings.html == "full")
    yield make_rows(source, [page.text], [0], headings=[page.title], outlines=[page.outline])


def read_page(markup: str, *, full: bool = False) -> Page:
    """The main content of a page; with `full`, all that is visible.

    If a page has hardly any main content (a list of links), it is all but its landmarks, or if that is nothing, all.
    """
    title, lines = "", Outliner()
    for lines_of in (_all_lines,) if full else (_main_lines, _lines_between_landmarks, _all_lines):
        tree = LexborHTMLParser(markup)
        title = _title(tree)
        if tree.body is None:
            break
        remove_unseen(tree)
        lines = lines_of(tree, tree.body)
        if lines.text:
            break
    return Page(title, lines.text, lines.outline)


def _main_lines(tree: LexborHTMLParser, body: LexborNode) -> Outliner:
    """The main content, if there is enough of it."""
    num_seen = count_visible(body.text())
    keep_main(tree, body)
    Marker(tree, body)
    marked = body.text()
    lines = lay_out(marked, main_marks(tree, body))
    return lines if count_visible(lines.text) >= min(_ENOUGH, _LEAST_SHARE * num_seen) else Outliner()


def _lines_between_landmarks(tree: LexborHTMLParser, body: LexborNode) -> Outliner:
    remove_landmarks(tree)
    return _all_lines(tree, body)


def _all_lines(tree: LexborHTMLParser, body: LexborNode) -> Outliner:
    Marker(tree, body)
    return lay_out(body.text())


def depth_of(page: bytes) -> int:
    """The deepest nesting of blocks."""
    depth = deepest = 0
    for match in _TAG.finditer(page):
        if match[2].lower() in _NESTING:
            depth = max(0, depth - 1) if match[1] else depth + 1
            deepest = max(deepest, depth)
    return deepest


def _title(tree: LexborHTMLParser) -> str:
    """The title that the page gives itself, or else its first heading."""
    for node in (tree.css_first("head title"), tree.css_first("meta[property='og:title']"), tree.css_first("h1")):
        if node:
            title = node.attributes.get("content") if node.tag == "meta" else node.text()
            if words := squeezed(title or ""):
                return words
    return ""
