"""The encoding of a web page, by the rules of the web, and its text.

Pure. The order is that of browsers: byte order mark, `<meta>` or XML declaration, valid UTF-8, a guess.
Labels are those of the WHATWG Encoding Standard: "iso-8859-1" means windows-1252, and a declared UTF-16 without a mark
means UTF-8. One rule differs: valid UTF-8 is UTF-8 even if a single-byte encoding is declared, since text
of such an encoding is hardly ever valid UTF-8, and files are converted more often than their declarations.
"""

import codecs
import re

import webencodings
from resiliparse.parse.encoding import detect_encoding

UTF_8 = "utf-8"
_MARKS = ((codecs.BOM_UTF8, UTF_8), (codecs.BOM_UTF16_LE, "utf-16le"), (codecs.BOM_UTF16_BE, "utf-16be"))
_WIDE = ((b"<\0", "utf-16le"), (b"\0<", "utf-16be"))  # a page of two bytes for a character whose mark is missing
_WITHIN = 1 << 16  # bytes; browsers prescan 1024, and decode the page anew if a declaration comes later
_ATTRIBUTES = rb"""(?:[^>"']|"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z))*+(?:>|\Z)"""
# What is skipped (comments, scripts, tags with their quoted attributes), and `meta`, which is read. Each alternative
# ends at the end of the bytes at the latest, so that the search is linear.
_TAG = re.compile(
    rb"<!--(?:-?>|.*?(?:--!?>|\Z))"
    rb"|<(script|style|title|textarea|xmp|noscript|template)(?=[\s/>]).*?(?:</\1(?=[\s/>])|\Z)"
    rb"|<meta(?=[\s/])(?P<meta>" + _ATTRIBUTES + rb")|<[/!?a-z]" + _ATTRIBUTES,
    re.I | re.S,
)
_ATTRIBUTE = re.compile(rb"""([^\s=/>"']+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"']*)))?""")
_IN_CONTENT = re.compile(rb"""charset\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s;"']+))""", re.I)
_XML = re.compile(rb"""<\?xml\s[^>]{0,200}?encoding\s*=\s*["']([^"'>]+)["']""")
_KNOWN_TAG = re.compile(
    rb"<(?:!doctype|html|head|body|meta|title|p|div|span|br|h[1-6]|a|b|i|table|font|pre|ul|li)[\s/>]", re.I
)
_MULTI_BYTE = frozenset("gbk gb18030 big5 euc-jp iso-2022-jp shift_jis euc-kr replacement".split())
# As browsers decode: GBK by its superset, and bytes without a character as the control that they were.
_CODECS = {"gbk": "gb18030"}
_TEXT_PER_NUL = 1000  # characters; a NUL here and there is dropped, as browsers do
# Controls have no place in a text: C0 but white space, C1. NEL, the line end among them, becomes one.
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if code not in (9, 10, 12, 13, 0x85)} | {0x85: "\n"}


def decode_page(content: bytes) -> str:
    """The page as text without control characters. Raises ValueError, which says why, if it cannot be decoded."""
    for mark, name in _MARKS:
        if content.startswith(mark):
            return _decode(content[len(mark) :], name, "its byte order mark")
    for start, name in _WIDE:
        if content.startswith(start):
            return _decode(content, name, f"it begins like {name}")
    declared = declared_encoding(content)
    if declared not in _MULTI_BYTE:
        try:
            return _clean(content.decode())
        except UnicodeDecodeError:
            pass
    if declared:
        return _decode(content, declared, f"it declares {declared}")
    return _decode(content, _guess(content), "it declares no encoding")


def decode_as(content: bytes, label: str) -> str:
    """A text whose encoding is declared outside of it, as in a message. Raises ValueError if it cannot be decoded."""
    found = webencodings.lookup(label)
    name = found.name if found else UTF_8
    if name not in _MULTI_BYTE and not name.startswith("utf-16"):
        try:
            return _clean(content.decode())
        except UnicodeDecodeError:
            pass
    return _decode(content, name, f'it declares "{label}"')


def declared_encoding(content: bytes) -> str:
    """The WHATWG name of the encoding that a page declares; "" if there is none, or none that the web knows."""
    head = content[:_WITHIN]
    for tag in _TAG.finditer(head):
        if tag["meta"] is not None and (name := _of_meta(tag["meta"])):
            return name
    xml = _XML.match(head)
    return _name(xml[1]) if xml else ""


def _of_meta(attributes: bytes) -> str:
    values: dict[bytes, bytes] = {}
    for found in _ATTRIBUTE.finditer(attributes):
        values.setdefault(found[1].lower(), found[2] or found[3] or found[4] or b"")
    if b"charset" in values:
        return _name(values[b"charset"])
    if values.get(b"http-equiv", b"").lower() == b"content-type":
        charset = _IN_CONTENT.search(values.get(b"content", b""))
        return _name(charset[1] or charset[2] or charset[3] or b"") if charset else ""
    return ""


def _name(label: bytes) -> str:
    """The encoding of a label, as a declaration within the page means it."""
    encoding = webencodings.lookup(label.decode("ascii", errors="replace"))
    if encoding is None:
        return ""
    if encoding.name.startswith("utf-16"):
        return UTF_8  # the declaration itself could be read: each character of it was a byte
    return "windows-1252" if encoding.name == "x-user-defined" else encoding.name


def _guess(content: bytes) -> str:
    """The likeliest encoding of a page that declares none and is not UTF-8. Raises ValueError if it is no page."""
    if not _KNOWN_TAG.search(content):
        raise ValueError("it is not UTF-8, declares no encoding and has no tags")
    guess = webencodings.lookup((detect_encoding(content) or UTF_8).replace("_", "-"))
    return guess.name if guess else UTF_8


def _decode(content: bytes, name: str, why: str) -> str:
    if name == "replacement":
        raise ValueError(f"{why}, in an encoding that browsers refuse")
    codec = _CODECS.get(name) or webencodings.lookup(name).codec_info.name
    try:
        return _clean(content.decode(codec, errors="strict" if name in _MULTI_BYTE or "utf" in name else _SINGLE))
    except UnicodeDecodeError as error:
        raise ValueError(f"{why}: {error}") from None


def _clean(text: str) -> str:
    """The text without controls. Raises ValueError if it has many NULs: then it is no text."""
    if text.count("\0") * _TEXT_PER_NUL > len(text):
        raise ValueError("its bytes are no text: there are NULs among them")
    return text.translate(_CONTROLS)


def _undefined(error: UnicodeError) -> tuple[str, int]:
    """A byte that a single-byte encoding leaves open is a C1 control on the web, which no reader sees."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    if any(byte not in range(128, 160) for byte in error.object[error.start : error.end]):
        raise error
    return "", error.end


_SINGLE = "entail.undefined-is-control"
codecs.register_error(_SINGLE, _undefined)
