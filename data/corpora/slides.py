"""Presentations (.pptx): the text of each slide, its title first, with its notes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

import pyarrow as pa

from data.corpora.formulas import formula_text
from data.corpora.markup import at
from data.corpora.office import Content, Line, chosen, outlined, read_documents, table_lines, tidy, title_of
from data.corpora.reading import ImportContext, Source
from data.corpora.zipped import TOO_LONG, Container, UnreadableError
from data.structure import PROSE

Related = dict[str, tuple[str, str]]  # by id, the kind and the name of a part
_TITLES = ("title", "ctrTitle")
_FRAME = ("dt", "ftr", "hdr", "sldNum", "sldImg")  # what every slide repeats


def read_pptx(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """All slides as one document, in their order, hidden ones too; an empty line between them."""
    return read_documents(source, context, _read)


def diagram_lines(container: Container, related: Related, reference: Element) -> Iterator[Line]:
    """The words in a diagram that `reference` (`dgm:relIds`) names."""
    _, part = related.get(reference.get("r:dm", ""), ("", ""))
    for point in container.tree(part).iter("dgm:pt"):
        if point.get("type", "node") in {"node", "asst"}:
            yield from _texts(point)


def _read(container: Container) -> Iterator[Content | UnreadableError]:
    parts = dict(container.related().values())
    main = parts.get("officeDocument", "ppt/presentation.xml")
    deck = _Deck(container, container.related(main))
    numbers = [node.get("r:id", "") for node in container.tree(main, needed=True).iter("p:sldId")]
    text = outlined(deck.lines(numbers), container.limit)
    yield from deck.faults
    heading = title_of(container, parts.get("core-properties", ""))
    yield Content(text.text, text.outline, deck.titles[0] if deck.titles else heading)


@dataclass
class _Deck:
    """Turns slides to lines. `titles` and `faults` are those of the slides so far."""

    container: Container
    related: Related
    titles: list[str] = field(default_factory=list)
    faults: list[UnreadableError] = field(default_factory=list)

    def lines(self, slides: Iterable[str]) -> Iterator[Line]:
        """The lines of the slides with these ids; one that cannot be read is a fault, and the others are kept."""
        for number, slide in enumerate(slides, 1):
            _, part = self.related.get(slide, ("", ""))
            try:
                yield from list(self._slide(part))
            except UnreadableError as error:
                if error.reason == TOO_LONG:
                    raise
                self.faults.append(UnreadableError(error.reason, f"slide {number}: {error}", number))
            yield "", PROSE

    def _slide(self, part: str) -> Iterator[Line]:
        related = self.container.related(part)
        shapes = list(_shapes(_drawn(self.container, part)))
        for shape in [shape for shape in shapes if _role(shape) in _TITLES]:
            if title := " ".join(" ".join(text for text, _ in _texts(shape)).split()):
                self.titles.append(title)
                yield title, 1
        for shape in shapes:
            if _role(shape) not in {*_TITLES, *_FRAME}:
                yield from _shape_lines(self.container, related, shape)
        for notes in [part for kind, part in related.values() if kind == "notesSlide"]:
            for shape in _shapes(_drawn(self.container, notes)):
                if _role(shape) == "body":
                    yield from _texts(shape)


def _drawn(container: Container, part: str) -> Element:
    """What is drawn on a slide or a page of notes."""
    found = at(container.tree(part, needed=True), "p:cSld/p:spTree")
    return found if found is not None else Element("")


def _shapes(nodes: Iterable[Element]) -> Iterator[Element]:
    """The visible shapes and tables, also those in groups, in the order of the file."""
    for node in nodes:
        if node.tag in {"p:sp", "p:graphicFrame", "p:cxnSp", "p:pic"}:
            about = next(node.iter("p:cNvPr"), None)
            if about is None or about.get("hidden") not in {"1", "true"}:
                yield node
        elif node.tag == "mc:AlternateContent":
            yield from _shapes(chosen(node))
        else:
            yield from _shapes(node)


def _role(shape: Element) -> str:
    """What a placeholder is for; "" for a shape that is none. An untyped placeholder is for anything."""
    found = next(shape.iter("p:ph"), None)
    return found.get("type", "") if found is not None else ""


def _shape_lines(container: Container, related: Related, shape: Element) -> Iterator[Line]:
    tables = list(shape.iter("a:tbl"))
    for table in tables:
        yield from table_lines([list(_texts(cell)) for cell in row.iter("a:tc")] for row in table.iter("a:tr"))
    for reference in shape.iter("dgm:relIds"):
        yield from diagram_lines(container, related, reference)
    if not tables:
        yield from _texts(shape)


def _texts(node: Element) -> Iterator[Line]:
    """The paragraphs in a shape or a cell."""
    for paragraph in node.iter("a:p"):
        pieces = list[str]()
        _inline(paragraph, pieces)
        if text := tidy("".join(pieces)):
            yield text, PROSE


def _inline(node: Element, pieces: list[str]) -> None:
    for child in node:
        if child.tag == "a:t":
            pieces.append(child.text or "")
        elif child.tag == "a:br":
            pieces.append("\n")
        elif child.tag == "m:oMath":
            pieces.append(formula_text(child))
        elif child.tag == "mc:AlternateContent":
            _inline(chosen(child), pieces)
        elif not (child.tag == "a:fld" and child.get("type") == "slidenum"):
            _inline(child, pieces)
