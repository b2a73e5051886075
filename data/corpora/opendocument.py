"""OpenDocument texts and presentations (.odt, .odp): what a reader sees, without deletions, comments and contents."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from xml.etree.ElementTree import Element

import pyarrow as pa

from data.corpora.formulas import formula_text
from data.corpora.markup import at, value_at
from data.corpora.office import CODE, Content, Line, Style, outlined, read_documents, table_lines, tidy, title_of
from data.corpora.reading import ImportContext, Source
from data.corpora.zipped import ENCRYPTED, Container, UnreadableError, resolve
from data.structure import PROSE

_CONTENT, _STYLES, _MANIFEST = "content.xml", "styles.xml", "META-INF/manifest.xml"
_TITLE = 9  # a kind of style, besides those of lines
_CODE_STYLE = re.compile(r"preformatted text|source code|html preformatted|code|listing", re.I)
_HEADING_STYLE = re.compile(r"heading (10|[1-9])")
_SPACES = re.compile(r"[ \t\r\n]+")
_ESCAPE = re.compile(r"_([0-9a-f]{2,4})_", re.I)
_DROPPED = frozenset(
    "office:annotation office:annotation-end office:forms text:note-citation text:ruby-text text:tracked-changes "
    "text:hidden-text text:table-of-content text:illustration-index text:table-index text:alphabetical-index "
    "text:user-index text:object-index text:sequence-decls text:variable-decls text:user-field-decls text:script "
    "presentation:notes table:covered-table-cell text:meta-field-decls text:alphabetical-index-auto-mark-file".split()
)
_FRAME = ("header", "footer", "date-time", "page-number")  # what every slide repeats
_MOST_SPACES = 200  # in one `text:s`


def read_odf(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The text, or all slides, as one document; notes and text boxes follow the paragraph that they belong to."""
    return read_documents(source, context, _read)


def check_readable(container: Container) -> None:
    """Raises UnreadableError if a password protects the file."""
    # The list of parts is not parsed: old programs wrote some that are no sound XML.
    if _MANIFEST in container and b"encryption-data" in container.read(_MANIFEST):
        raise UnreadableError(ENCRYPTED, "the file is protected by a password")


def _read(container: Container) -> Iterator[Content]:
    check_readable(container)
    story = Story(container)
    for node in container.tree(_STYLES).iter("style:style"):
        story.learn(node)
    text = outlined(story.lines(story.blocks()), container.limit)
    yield Content(text.text, text.outline, story.title or title_of(container, "meta.xml"))


@dataclass
class Story:
    """Turns blocks to lines. `styles` by their names; `title` is that of the text, once seen."""

    container: Container
    styles: dict[str, Style] = field(default_factory=dict)
    title: str = ""

    def learn(self, node: Element) -> None:
        """Note what a style says, or its parent, which stands before it or is named after what it is."""
        name, parent = node.get("style:name", ""), node.get("style:parent-style-name", "")
        above = self.styles.get(parent) or _named(parent)
        is_hidden = value_at(node, "style:text-properties", "text:display") == "none"
        self.styles[name] = Style(_named(name).kind or above.kind, is_hidden or above.is_hidden)

    def blocks(self) -> Iterator[Element]:
        """What stands in the text, or on the slides, one after another."""
        parents = ("office:automatic-styles", "office:text", "office:presentation", "office:drawing")
        for parent, node in self.container.blocks(_CONTENT, *parents):
            if parent.tag == parents[0]:
                self.learn(node)
            else:
                yield node

    def lines(self, blocks: Iterable[Element]) -> Iterator[Line]:
        """The lines of paragraphs and tables, and of what contains such."""
        for node in blocks:
            tag = node.tag
            if tag in {"text:p", "text:h"}:
                yield from self._paragraph(node)
            elif tag == "table:table":
                yield from table_lines([list(self.lines(cell)) for cell in _cells(row)] for row in _rows(node))
            elif tag == "draw:page":
                yield from self._slide(node)
            elif tag == "draw:object":
                yield self._formula(node), PROSE
            elif tag not in _DROPPED and node.get("text:display") != "none":
                yield from self.lines(node)

    def _paragraph(self, node: Element) -> Iterator[Line]:
        style = self._style_of(node)
        pieces, asides = list[str](), list[Iterator[Line]]()
        self._inline(node, style.is_hidden, pieces, asides)
        text = "".join(pieces)
        if style.kind == CODE:
            yield text.replace("\u00ad", "").rstrip(), CODE
        elif text := tidy(text):
            if style.kind == _TITLE and not self.title:
                self.title = " ".join(text.split())
            kind = 1 if style.kind == _TITLE else style.kind
            yield text, min(6, _number(node, "text:outline-level", 1)) if node.tag == "text:h" else kind
        yield from chain.from_iterable(asides)

    def _inline(self, node: Element, is_hidden: bool, pieces: list[str], asides: list[Iterator[Line]]) -> None:
        """Collect the text in a paragraph, and the notes and boxes that it refers to."""
        pieces.append("" if is_hidden else _SPACES.sub(" ", node.text or ""))
        for child in node:
            tag = child.tag
            if tag == "text:s":
                pieces.append(" " * min(_MOST_SPACES, _number(child, "text:c", 1)))
            elif tag in {"text:tab", "text:line-break"}:
                pieces.append("\t" if tag == "text:tab" else "\n")
            elif tag == "draw:frame" and at(child, "draw:object") is not None:
                pieces.append("" if is_hidden else self._formula(child))
            elif tag == "text:note" or (tag.startswith("draw:") and tag != "draw:a"):
                asides.append(self.lines(child))
            elif tag not in _DROPPED and child.get("text:display") != "none":
                self._inline(child, is_hidden or self._style_of(child).is_hidden, pieces, asides)
            pieces.append("" if is_hidden else _SPACES.sub(" ", child.tail or ""))

    def _formula(self, node: Element) -> str:
        """The formulas that are embedded here; "" for other objects."""
        names = [each.get("xlink:href", "") for each in node.iter("draw:object")]
        trees = [node, *(self.container.tree(f"{resolve('', name)}/{_CONTENT}") for name in names if name)]
        return " ".join(formula_text(math) for tree in trees for math in tree.iter("math:math"))

    def _slide(self, page: Element) -> Iterator[Line]:
        """The title of a slide, the rest of it, its notes."""
        shapes = [shape for shape in page if shape.get("presentation:class") not in _FRAME]
        titles = [shape for shape in shapes if shape.get("presentation:class") == "title"]
        title = " ".join(" ".join(text for text, _ in self.lines(titles)).split())
        self.title = self.title or title
        yield title, 1
        yield from self.lines(shape for shape in shapes if shape not in titles)
        for notes in page.iter("presentation:notes"):
            yield from self.lines(frame for frame in notes if frame.get("presentation:class") == "notes")
        yield "", PROSE

    def _style_of(self, node: Element) -> Style:
        name = node.get("text:style-name", "")
        return self.styles.get(name) or _named(name)


def _named(name: str) -> Style:
    """What the name of a style says by itself: those of the program are English in the file."""
    plain = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), name).lower()
    if found := _HEADING_STYLE.fullmatch(plain):
        return Style(min(6, int(found[1])), False)
    return Style(_TITLE, False) if plain == "title" else Style(CODE if _CODE_STYLE.fullmatch(plain) else PROSE, False)


def _number(node: Element, name: str, default: int) -> int:
    """A positive number of an attribute."""
    value = node.get(name, "")
    return max(1, int(value)) if value.isdecimal() and len(value) < 8 else default


def _rows(table: Element) -> Iterator[Element]:
    for child in table:
        if child.tag == "table:table-row":
            yield child
        elif child.tag in {"table:table-header-rows", "table:table-rows", "table:table-row-group"}:
            yield from _rows(child)


def _cells(row: Element) -> Iterator[Element]:
    return (cell for cell in row if cell.tag in {"table:table-cell", "table:covered-table-cell"})
