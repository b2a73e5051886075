"""Books (.epub): one document for each chapter, in the order of reading. Chapters are web pages."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element

import pyarrow as pa

from data.corpora.html import PageError, read_bytes
from data.corpora.markup import every
from data.corpora.reading import ImportContext, Source
from data.corpora.zipped import BROKEN, ENCRYPTED, Container, Content, UnreadableError, read_documents, resolve, tidy
from data.structure import BETWEEN, marks_of

_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
_PAGES = ("application/xhtml+xml", "text/html", "application/xml", "text/xml")
_FONT_MASKS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")  # fonts are masked, not texts
_CONTENTS = ("toc", "cover", "index", "loi", "lot")  # types of pages that repeat the titles of others


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
    chapters, is_empty = list(dict.fromkeys(_chapters(tree, package))), True
    if chapters and locked.issuperset(name.lower() for name in chapters):
        raise UnreadableError(ENCRYPTED, "the book is protected (DRM)")
    for line, name in enumerate(chapters, 1):
        try:
            if name.lower() in locked:
                raise UnreadableError(ENCRYPTED, f"{name} is protected (DRM)")
            page = read_bytes(container.read(name), full=True, is_xml=True)
        except (UnreadableError, PageError) as error:
            is_empty = False
            yield UnreadableError(error.reason, str(error), line)
            continue
        if page.text:
            is_empty = False
            above = [page.text[start:end] for kind, start, end in marks_of(page.outline) if kind == 1][:1]
            yield Content(page.text, page.outline, BETWEEN.join(dict.fromkeys(filter(None, [title, *above]))), line)
    if is_empty:
        yield Content("", heading=title)


def _chapters(tree: Element, package: str) -> Iterator[str]:
    """The names of the pages in the order of reading, without tables of contents."""
    items = {node.get("id", ""): node for node in tree.iter("opf:item")}
    guides = (node for node in tree.iter("opf:reference") if node.get("type", "").lower() in _CONTENTS)
    skipped = {resolve(package, node.get("href", "")) for node in guides}
    for reference in tree.iter("opf:itemref"):
        item = items.get(reference.get("idref", ""), Element(""))
        name = resolve(package, item.get("href", ""))
        is_contents = "nav" in item.get("properties", "").split() or name in skipped
        if item.get("media-type") in _PAGES and not is_contents:
            yield name


def _locked(container: Container) -> frozenset[str]:
    """The names, in small letters, of the parts that are encrypted."""
    return frozenset(
        resolve("", reference.get("URI", "")).lower()
        for data in container.tree(_ENCRYPTION).iter("enc:EncryptedData")
        if all(method.get("Algorithm") not in _FONT_MASKS for method in every(data, "enc:EncryptionMethod"))
        for reference in data.iter("enc:CipherReference")
    )
