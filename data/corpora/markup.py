"""XML read block by block in bounded memory, under short names, without entities.

Reads the parts of office documents. Names have the usual prefix of their namespace (`w:p`), the same one for the
transitional and the strict form of OOXML; names of other namespaces begin with `?:`.
"""

from collections.abc import Collection, Iterator
from typing import Protocol
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from data.corpora.reading import BLOCK_BYTES

_OOXML = "http://schemas.openxmlformats.org/"
_STRICT = "http://purl.oclc.org/ooxml/"
_ODF = "urn:oasis:names:tc:opendocument:xmlns:"
_PREFIXES = {
    **{
        f"{base}{name}": prefix
        for base, year in ((_OOXML, "/2006/"), (_STRICT, "/"))
        for prefix, name in {
            "w": f"wordprocessingml{year}main",
            "x": f"spreadsheetml{year}main",
            "p": f"presentationml{year}main",
            "a": f"drawingml{year}main",
            "dgm": f"drawingml{year}diagram",
            "m": f"officeDocument{year}math",
            "r": f"officeDocument{year}relationships",
        }.items()
    },
    _OOXML + "markup-compatibility/2006": "mc",
    _OOXML + "package/2006/relationships": "rel",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://www.idpf.org/2007/opf": "opf",
    "http://openebook.org/namespaces/oeb-package/1.0/": "opf",  # its first version
    "http://www.w3.org/1998/Math/MathML": "math",
    "http://www.w3.org/1999/xlink": "xlink",
    "http://www.w3.org/2001/04/xmlenc#": "enc",
    "http://www.w3.org/XML/1998/namespace": "xml",
    _ODF + "container": "container",
    **{_ODF + f"{name}:1.0": name for name in ("office", "presentation", "style", "table", "text")},
    _ODF + "drawing:1.0": "draw",
}
_DEEPEST = 200  # elements inside each other: the readers recurse
_MOST_ELEMENTS = 1_000_000  # in one block: some 300 MB


class Readable(Protocol):
    """What XML is read from."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""
        ...


class MarkupError(Exception):
    """The XML cannot be read; the message says why."""


class LongMarkupError(MarkupError):
    """One block of the XML would need more memory than there should be."""


def read_blocks(file: Readable, parents: Collection[str]) -> Iterator[tuple[Element, Element]]:
    """Each child of an element whose name is in `parents`, together with that element, in the order of their ends.

    A child is dropped from its parent when it is yielded. Raises MarkupError.
    """
    yield from _parse(file, _Builder(parents))


def read_tree(file: Readable) -> Element:
    """The root of a small part. Raises MarkupError."""
    builder = _Builder(())
    for _ in _parse(file, builder):
        pass
    return builder.root


def at(node: Element, path: str) -> Element | None:
    """The first element at a path of names below `node`; None if there is none."""
    for name in path.split("/"):
        for child in node:
            if child.tag == name:
                node = child
                break
        else:
            return None
    return node


def value_at(node: Element, path: str, name: str) -> str:
    """An attribute of the element at a path; "" if it is missing."""
    found = at(node, path)
    return found.get(name, "") if found is not None else ""


def _parse(file: Readable, builder: "_Builder") -> Iterator[tuple[Element, Element]]:
    """The blocks of a file as the builder finishes them."""
    try:
        while block := file.read(BLOCK_BYTES >> 4):
            builder.parser.Parse(block, False)
            yield from builder.take()
        builder.parser.Parse(b"", True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise MarkupError(str(error)) from error


class _Builder:
    """Builds the blocks of one file; `parents` as in `read_blocks`."""

    def __init__(self, parents: Collection[str]) -> None:
        self.parser = parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.EntityDeclHandler = self._refuse_entity
        self._tree = TreeBuilder()
        parser.CharacterDataHandler = self._tree.data
        self._parents, self._open, self._ready = parents, list[Element](), list[tuple[Element, Element]]()
        self._names: dict[str, str] = {}
        self._count, self._befores = 0, list[int]()  # elements in memory, and before each open one
        self.root = Element("")  # the element that ended last: of a whole file, its root

    def take(self) -> list[tuple[Element, Element]]:
        """The blocks that were finished since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) == _DEEPEST:
            raise MarkupError(f"more than {_DEEPEST} elements inside each other")
        if self._count == _MOST_ELEMENTS:
            raise LongMarkupError(f"more than {_MOST_ELEMENTS:,} elements in one block")
        self._befores.append(self._count)
        self._count += 1
        short = {self._short(key): value for key, value in attributes.items()}
        self._open.append(self._tree.start(self._short(name), short))

    def _end(self, name: str) -> None:
        self.root = self._tree.end(self._short(name))
        self._open.pop()
        before = self._befores.pop()
        if self._open and (parent := self._open[-1]).tag in self._parents:
            del parent[-1]
            self._ready.append((parent, self.root))
            self._count = before

    def _short(self, name: str) -> str:
        if name not in self._names:
            space, _, local = name.rpartition(" ")
            self._names[name] = f"{_PREFIXES.get(space, '?')}:{local}" if space else local
        return self._names[name]

    def _refuse_entity(self, name: str, *_: object) -> None:
        raise MarkupError(f'the entity "{name}" is declared; documents have no use for entities')
