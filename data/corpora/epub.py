"""Books (.epub): one document for each chapter, in the order of reading. Chapters are web pages."""

from collections.abc import Iterator
from typing import NamedTuple
from xml.etree.ElementTree import Element

import pyarrow as pa

from data.corpora.html import Page, PageError, read_bytes
from data.corpora.office import Content, read_documents, tidy
from data.corpora.reading import ImportContext, Source
from data.corpora.zipped import BROKEN, ENCRYPTED, Container, UnreadableError, resolve
from data.structure import BETWEEN, HEADINGS, marks_of

_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
_PAGES = ("application/xhtml+xml", "text/html", "application/xml", "text/xml")
_FONT_MASKS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")  # fonts are masked, not texts
_CONTENTS = ("toc", "loi", "lot")  # types of pages that list the titles of others
_MOST_BESIDE = 0.5  # of a page with a table of contents; if more is left, links were mistaken for text


class _Chapter(NamedTuple):
    """A page of a book: its part, its number in the order of reading."""

    name: str
    line: int
    has_contents: bool


def read_epub(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The chapters; a row's line is the chapter's number in the order of reading."""
    return read_documents(source, context, _read)


def _read(container: Container) -> Iterator[Content | UnreadableError]:
    root = next(container.tree(_CONTAINER).iter("container:rootfile"), None)
    package = resolve("", root.get("full-path", "")) if root is not None else ""
    if package not in container:
        raise UnreadableError(BROKEN, "the list of its chapters is missing")
    tree, locked = container.tree(package), _locked(container)
    title = tidy(next((node.text or "" for node in tree.iter("dc:title")), ""))
    chapters = list(_chapters(tree, package))
    if chapters and locked.issuperset(chapter.name.lower() for chapter in chapters):
        raise UnreadableError(ENCRYPTED, "the book is protected (DRM)")
    is_empty = True
    for chapter in chapters:
        try:
            if chapter.name.lower() in locked:
                raise UnreadableError(ENCRYPTED, f"{chapter.name} is protected (DRM)")
            page = _read_chapter(container, chapter)
        except (UnreadableError, PageError) as error:
            is_empty = False
            yield UnreadableError(error.reason, str(error), chapter.line)
            continue
        if page.text:  # a cover has none
            is_empty = False
            yield Content(page.text, page.outline, BETWEEN.join(_titles(title, page)), chapter.line)
    if is_empty:
        yield Content("", heading=title)


def _read_chapter(container: Container, chapter: _Chapter) -> Page:
    """The page; of one that is mostly a table of contents, what else is on it."""
    content = container.read(chapter.name)
    whole = read_bytes(content, full=True, is_xml=True)
    if not chapter.has_contents:
        return whole
    main = read_bytes(content, full=False, is_xml=True)
    return main if len(main.text) < _MOST_BESIDE * len(whole.text) else Page("", "", ())


def _titles(book: str, page: Page) -> list[str]:
    """The titles of the book and of the chapter: its first heading, or the title of the page."""
    headings = (page.text[start:end] for kind, start, end in marks_of(page.outline) if kind in HEADINGS)
    chapter = next(headings, page.title)
    return [title for title in dict.fromkeys([book, chapter]) if title]


def _chapters(tree: Element, package: str) -> Iterator[_Chapter]:
    """The pages in the order of reading, without the navigation of the book."""
    items = {node.get("id", ""): node for node in tree.iter("opf:item")}
    guides = (node for node in tree.iter("opf:reference") if node.get("type", "").lower() in _CONTENTS)
    contents, names = {resolve(package, node.get("href", "")) for node in guides}, set[str]()
    for line, reference in enumerate(tree.iter("opf:itemref"), 1):
        identity = reference.get("idref", "")
        # Reading one that is missing from the list is an error.
        item = items.get(identity, Element("", {"href": identity, "media-type": _PAGES[0]}))
        name = resolve(package, item.get("href", ""))
        is_page = item.get("media-type") in _PAGES and "nav" not in item.get("properties", "").split()
        if is_page and name not in names:
            names.add(name)
            yield _Chapter(name, line, name in contents)


def _locked(container: Container) -> frozenset[str]:
    """The names, in small letters, of the parts that are encrypted."""
    return frozenset(
        resolve("", reference.get("URI", "")).lower()
        for data in container.tree(_ENCRYPTION).iter("enc:EncryptedData")
        if all(method.get("Algorithm") not in _FONT_MASKS for method in data.iter("enc:EncryptionMethod"))
        for reference in data.iter("enc:CipherReference")
    )
