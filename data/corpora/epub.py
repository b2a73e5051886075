"""Books (.epub): one document for each chapter, in the order of reading. Chapters are web pages."""

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

import pyarrow as pa

from data.corpora.reading import ImportContext, Source
from data.corpora.texts import visible_text
from data.corpora.zipped import BROKEN, ENCRYPTED, Container, Content, UnreadableError, read_documents, resolve, tidy
from data.structure import BETWEEN, marks_of

_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
_PAGES = ("application/xhtml+xml", "text/html", "application/xml", "text/xml")
_FONT_MASKS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")  # fonts are masked, not texts
_CONTENTS = ("toc", "cover", "index", "loi", "lot")  # types of pages that repeat the titles of others
# HTML knows no empty tags but these; `<title/>` would swallow the page.
_VOID = b"area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr"
_EMPTY = re.compile(rb"<(?!(?:" + _VOID + rb")[\s/])([a-z][\w:.-]*)((?:\s[^<>]*)?)/>", re.I)


def read_epub(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The chapters; a row's line is the chapter's number in the order of reading."""
    return read_documents(source, context, _read)


def page_text(content: bytes) -> tuple[str, tuple[int, ...]]:
    """The text of a page in XHTML or HTML, with its outline."""
    return visible_text(_EMPTY.sub(rb"<\1\2></\1>", content).decode(errors="replace")), ()


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
            text, outline = page_text(container.read(name))
        except UnreadableError as error:
            is_empty = False
            yield UnreadableError(error.reason, error.detail, line)
            continue
        if text.strip():
            is_empty = False
            above = [text[start:end] for kind, start, end in marks_of(outline) if kind == 1][:1]
            yield Content(text, outline, BETWEEN.join(filter(None, [title, *above])), line)
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
        if all(method.get("Algorithm") not in _FONT_MASKS for method in data.iter("enc:EncryptionMethod"))
        for reference in data.iter("enc:CipherReference")
    )
