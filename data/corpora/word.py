"""Word documents (.docx): what a reader of the printed text sees, with deletions dropped and insertions kept."""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import pyarrow as pa

from data.corpora.formulas import formula_text
from data.corpora.markup import at, value_at
from data.corpora.office import (
    CODE,
    Content,
    Line,
    Style,
    chosen,
    outlined,
    read_documents,
    table_lines,
    tidy,
    title_of,
)
from data.corpora.reading import ImportContext, Source
from data.corpora.slides import diagram_lines
from data.corpora.zipped import Container
from data.structure import PROSE

_TITLE, _CONTENTS = 9, -1  # kinds of styles, besides those of lines
_NAMED = (
    (re.compile(r"heading ?([1-9])", re.I), 1),
    (re.compile(r"title", re.I), _TITLE),
    (re.compile(r"toc ?\d|toc ?heading|table ?of ?figures|index ?(\d|heading)", re.I), _CONTENTS),
    (re.compile(r".*\bcode( block)?|(html )?preformatted( text)?|verbatim|source ?code|macro ?text", re.I), CODE),
)
_DROPPED = frozenset(
    "w:del w:moveFrom w:pPr w:rPr w:tblPr w:trPr w:tcPr w:sectPr w:sdtPr w:sdtEndPr w:instrText w:delText w:rt "
    "w:delInstrText w:fldChar w:commentReference w:annotationRef".split()
)
_CHARACTERS = {"w:tab": "\t", "w:ptab": "\t", "w:br": "\n", "w:cr": "\n", "w:noBreakHyphen": "-", "w:softHyphen": ""}
_LATIN = "abgdezhqiklmnxoprstufcywABGDEZHQIKLMNXOPRSTUFCYWjJV"
_GREEK = "αβγδεζηθικλμνξοπρστυφχψωΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩϕϑς"
_SYMBOLS = str.maketrans(_LATIN, _GREEK)  # of the font Symbol
_LONGEST_CHAIN = 20  # styles that are based on each other


def read_docx(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The text as one document; notes and text boxes follow the paragraph that they belong to."""
    return read_documents(source, context, _read)


def _read(container: Container) -> Iterator[Content]:
    parts = dict(container.related().values())
    main = parts.get("officeDocument", "word/document.xml")
    related = dict(container.related(main).values())
    styles = _read_styles(container.tree(related.get("styles", "")))
    notes = {
        (kind, note.get("w:id", "")): note
        for kind in ("footnote", "endnote")
        for note in container.tree(related.get(f"{kind}s", "")).iter(f"w:{kind}")
        if note.get("w:type", "normal") == "normal"
    }
    story = _Story(container, container.related(main), styles, notes)
    body = (block for _, block in container.blocks(main, "w:body"))
    text = outlined(story.lines(body), container.limit)
    heading = story.title or title_of(container, parts.get("core-properties", ""))
    yield Content(text.text, text.outline, heading)


def is_on(node: Element | None) -> bool:
    """Whether a property of Word is there and not switched off."""
    return node is not None and node.get("w:val", "true") not in {"0", "false", "off"}


def _read_styles(tree: Element) -> dict[str, Style]:
    nodes = {node.get("w:styleId", ""): node for node in tree.iter("w:style")}
    return {name: _style(name, nodes) for name in nodes}


def _style(name: str, nodes: dict[str, Element]) -> Style:
    """What a style says, or the one that it is based on."""
    kind: int | None = None
    is_hidden = False
    for _ in range(_LONGEST_CHAIN):
        if name not in nodes:
            break
        node = nodes[name]
        if kind is None:
            named, level = _kind_of(value_at(node, "w:name", "w:val") or name), _level(at(node, "w:pPr"))
            kind = named if named != PROSE else level
        is_hidden = is_hidden or is_on(at(node, "w:rPr/w:vanish"))
        name = value_at(node, "w:basedOn", "w:val")
    return Style(kind or PROSE, is_hidden)


def _kind_of(name: str) -> int:
    """The kind of a style by its name, which is English in the file whatever the language of the program."""
    for pattern, kind in _NAMED:
        if found := pattern.fullmatch(name):
            return min(6, int(found[1])) if kind == 1 else kind
    return PROSE


def _level(properties: Element | None) -> int | None:
    """The level of a heading that the properties of a paragraph name, PROSE for none, None if they do not say."""
    value = value_at(properties, "w:outlineLvl", "w:val") if properties is not None else ""
    return (min(6, int(value) + 1) if re.fullmatch("[0-8]", value) else PROSE) if value else None


@dataclass
class _Story:
    """Turns blocks to lines. `notes` by kind and id: each is given once. `title` is that of the text, once seen."""

    container: Container
    related: dict[str, tuple[str, str]]
    styles: dict[str, Style]
    notes: dict[tuple[str, str], Element]
    title: str = ""
    _carried: str = ""  # the text of a paragraph whose end was deleted

    def lines(self, blocks: Iterable[Element]) -> Iterator[Line]:
        """The lines of paragraphs and tables, and of what contains such."""
        for node in blocks:
            if node.tag == "w:p":
                yield from self._paragraph(node)
            elif node.tag == "w:tbl":
                yield from table_lines(
                    [list(self.lines(cell)) for cell in _within(row, "w:tc")] for row in _within(node, "w:tr")
                )
            elif node.tag == "mc:AlternateContent":
                yield from self.lines(chosen(node))
            elif node.tag not in _DROPPED and not _is_filler(node):
                yield from self.lines(node)
        if self._carried:
            text, self._carried = tidy(self._carried), ""
            yield text, PROSE

    def _paragraph(self, node: Element) -> Iterator[Line]:
        properties = at(node, "w:pPr")
        properties = Element("w:pPr") if properties is None else properties
        style = self._style_of(value_at(properties, "w:pStyle", "w:val"))
        if style.kind == _CONTENTS:
            return
        pieces, asides = list[str](), list[Iterator[Line]]()
        self._inline(node, style.is_hidden, pieces, asides)
        text, self._carried = self._carried + "".join(pieces), ""
        is_drop_cap = value_at(properties, "w:framePr", "w:dropCap") in {"drop", "margin"}
        if is_drop_cap or at(properties, "w:rPr/w:del") is not None:
            self._carried = text
        elif style.kind == CODE:
            yield text.replace("\u00ad", "").rstrip(), CODE
        elif text := tidy(text):
            if style.kind == _TITLE and not self.title:
                self.title = " ".join(text.split())
            direct = _level(properties)
            yield text, (1 if style.kind == _TITLE else style.kind) if direct is None else direct
        yield from itertools.chain.from_iterable(asides)

    def _inline(self, node: Element, is_hidden: bool, pieces: list[str], asides: list[Iterator[Line]]) -> None:
        """Collect the text in a paragraph, and the notes and boxes that it refers to."""
        for child in node:
            tag = child.tag
            if tag == "w:t":
                pieces.append("" if is_hidden else child.text or "")
            elif tag in _CHARACTERS:
                pieces.append("" if is_hidden else _CHARACTERS[tag])
            elif tag == "w:r":
                self._inline(child, self._hides(at(child, "w:rPr"), is_hidden), pieces, asides)
            elif tag in {"w:footnoteReference", "w:endnoteReference"}:
                note = self.notes.pop((tag[2:-9], child.get("w:id", "")), None)
                asides += [] if note is None or is_hidden else [self.lines(note)]
            elif tag == "w:txbxContent":
                asides.append(self.lines(child))
            elif tag == "dgm:relIds":
                asides.append(diagram_lines(self.container, self.related, child))
            elif tag == "m:oMath":
                pieces.append(formula_text(child))
            elif tag == "w:sym":
                pieces.append("" if is_hidden else _symbol(child))
            elif tag == "mc:AlternateContent":
                self._inline(chosen(child), is_hidden, pieces, asides)
            elif tag not in _DROPPED and not _is_filler(child):
                self._inline(child, is_hidden, pieces, asides)

    def _hides(self, properties: Element | None, is_hidden: bool) -> bool:
        if properties is None:
            return is_hidden
        own = at(properties, "w:vanish")
        if own is not None:
            return is_on(own)
        return is_hidden or self._style_of(value_at(properties, "w:rStyle", "w:val")).is_hidden

    def _style_of(self, name: str) -> Style:
        return self.styles.get(name) or (Style(_kind_of(name), False) if name else Style())


def _within(node: Element, tag: str) -> Iterator[Element]:
    """The rows of a table, or the cells of a row, also those that something is wrapped around."""
    for child in node:
        if child.tag == tag:
            if at(child, "w:trPr/w:del") is None:
                yield child
        elif child.tag not in _DROPPED:
            yield from _within(child, tag)


def _is_filler(node: Element) -> bool:
    """Whether a field is a table of contents, or still asks to be filled in."""
    is_contents = value_at(node, "w:sdtPr/w:docPartObj/w:docPartGallery", "w:val").startswith("Table of")
    return is_contents or is_on(at(node, "w:sdtPr/w:showingPlcHdr"))


def _symbol(node: Element) -> str:
    """The Greek letter that a sign of the font Symbol shows; "" for ornaments."""
    try:
        code = int(node.get("w:char", ""), 16)
    except ValueError:
        return ""
    if 0xF020 <= code <= 0xF0FF:  # the private characters that stand for those of a font
        return chr(code - 0xF000).translate(_SYMBOLS) if node.get("w:font") == "Symbol" and code < 0xF07F else ""
    return chr(code) if 0x20 <= code < 0xD800 else ""
