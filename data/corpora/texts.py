"""Plain text and Markdown, one document per file; web pages as the text that a reader sees.

A text file over the limit becomes several documents, each of which ends at a line end.
"""

import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
from selectolax.lexbor import LexborHTMLParser

from data.corpora.lines import read_lines
from data.corpora.reading import ImportContext, Source, make_rows, not_utf8
from data.corpora.streams import read_whole

_HIDDEN = ["script", "style", "template", "noscript", "svg", "math", "iframe", "object", "head"]
_BLOCKS = (
    "address,article,aside,blockquote,br,caption,center,dd,details,div,dl,dt,fieldset,figcaption,figure,footer,form,"
    "h1,h2,h3,h4,h5,h6,header,hr,li,main,nav,ol,option,p,section,summary,table,td,th,tr,ul"
)
_TAG = re.compile(rb"<(/?)([a-z][a-z0-9]*)", re.I)
_NESTING = {name.encode() for name in _BLOCKS.split(",")} - {b"br", b"hr", b"p", b"option", b"li", b"td", b"th", b"tr"}
_DEEPEST = 1000  # the parser's time grows with the square of the depth
_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([\w.:-]+)""", re.I)
_CHARSET_WITHIN = 4096  # bytes
_END = "\x1e"  # end of a block, until the text is extracted


def read_text(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The file as one document, or as several if it is over the limit."""
    first, pending, size = 1, list[bytes](), 0
    for number, lines in read_lines(source, context):
        for index, line in enumerate(lines):
            if pending and size + len(line) > context.settings.max_bytes:
                yield from _document(source, context, first, pending)
                first, pending, size = number + index, [], 0
            pending.append(line)
            size += len(line) + 1
    if pending:
        yield from _document(source, context, first, pending)


def read_html(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The visible text of a page, one line per block."""
    content = read_whole(source, context, "a page")
    if content is None:
        return
    declared = _CHARSET.search(content, 0, _CHARSET_WITHIN)
    charset = declared[1].decode("ascii") if declared else "utf-8"
    try:
        # A byte order mark is not part of the text; a page that declares UTF-8 must be UTF-8.
        page = content.decode("utf-8-sig" if charset.lower() in {"utf-8", "utf8"} else charset)
        page = page.encode(errors="replace").decode()  # some charsets produce lone surrogates
    except (UnicodeError, LookupError) as error:
        context.reject(source, 0, "not UTF-8", str(error), content)
        return
    if _depth(content) > _DEEPEST:
        context.reject(source, 0, "broken HTML", f"more than {_DEEPEST} nested blocks", page)
        return
    yield make_rows(source, [visible_text(page)], [0])


def visible_text(page: str) -> str:
    """What a reader of the page sees: blocks on lines of their own, spaces as one, no scripts, no styles."""
    tree = LexborHTMLParser(page)
    if tree.body is None:
        return ""
    tree.strip_tags(_HIDDEN)
    for node in tree.css("pre"):
        node.replace_with(_END + node.text().replace("\n", _END) + _END)
    for node in tree.css(_BLOCKS):
        node.insert_before(_END)
        node.insert_after(_END)
    # Line ends of the source are spaces to a reader.
    lines = (" ".join(line.split()) for line in tree.body.text().split(_END))
    return "\n".join(line for line in lines if line)


def _document(source: Source, context: ImportContext, first: int, lines: Sequence[bytes]) -> Iterator[pa.Table]:
    content = b"\n".join(lines)
    try:
        text = content.decode().replace("\r\n", "\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start)
        context.reject(source, first + line, "not UTF-8", not_utf8(error), lines[line])
    else:
        yield make_rows(source, [text], [first])


def _depth(page: bytes) -> int:
    """The deepest nesting of blocks."""
    depth = deepest = 0
    for match in _TAG.finditer(page):
        if match[2].lower() in _NESTING:
            depth = max(0, depth - 1) if match[1] else depth + 1
            deepest = max(deepest, depth)
    return deepest
