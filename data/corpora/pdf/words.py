"""The words of a page with their places, from PDFium's raw interface: a few calls for each word, none for each letter.

Coordinates are points, from the left and from the top of the page as it is read; `y` is that of the baseline.
"""

import ctypes
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pypdfium2.raw as pdfium

BOLD, MONO = 1, 2  # bits of a style
_FONT_FIXED, _FONT_FORCED_BOLD = 1, 1 << 18  # bits of a font descriptor's flags
_BOLD_NAME = re.compile(r"bold|black|heavy|demi|cmbx|sfbx|ecbx|medi$|lin(?:libertine|biolinum)t[bz]", re.I)
_MONO_NAME = re.compile(r"mono|courier|consol|typewriter|cmtt|sftt|ectt|inconsolata|menlo", re.I)
_LINE_HYPHEN = "\ufffe"  # PDFium's mark for a hyphen at the end of a line
_SOFT_HYPHEN = "\u00ad"
_WORD = re.compile(rf"(\s*)([^\s{_LINE_HYPHEN}]+{_LINE_HYPHEN}?|{_LINE_HYPHEN})")
# Accents that stand alone, and the marks that join a letter.
_ACCENTS = dict(
    zip("`´¨ˆ˜¸ˇ˘¯˙˝˚", "\u0300\u0301\u0308\u0302\u0303\u0327\u030c\u0306\u0304\u0307\u030b\u030a", strict=True)
)
# Replacement, private use, control and no characters; the hyphen's mark is none of these.
_BAD = re.compile(
    "[\ufffd\uffff\ue000-\uf8ff\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufdd0-\ufdef]|[\udb80-\udbff](?=[\udc00-\udfff])"
)
_ACCENT = re.compile(f"[{''.join(_ACCENTS)}]")
_NEAR = 80  # characters between an accent and its letter
_NOTHING = "\u200b"
_SURROGATES = re.compile("[\ud800-\udfff]")
_LIGATURES = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)}
# A soft hyphen within a line is not seen; one at its end is a hyphen that may go.
_FOLDED = _LIGATURES | dict.fromkeys((*range(32), 127, *range(128, 160), 8203, 65279), "")
_TILTED = -1  # neither of the four directions
_MARGIN = 2  # points that a word may stand out of the page
_STRAIGHT = 5  # degrees that a line may lean
_MIN_IMAGES = 0.25  # of the page: smaller pictures are no scan
_MAX_OBJECTS = 10_000  # that are looked through for pictures
_FORM_DEPTH = 3


class Word(NamedTuple):
    """A word; `space`: there is a space before it, `place` counts in the file's own order."""

    text: str
    x0: float
    x1: float
    y: float
    size: float
    style: int
    space: bool
    place: int


@dataclass
class Page:
    """A page: its words in the file's order, those that stand in another direction than most, and its size in points.

    `scanned` says that pictures cover a large part of it, `num_bad` of its `num_characters` have no meaning in Unicode.
    """

    width: float
    height: float
    words: list[Word] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    scanned: bool = False
    num_characters: int = 0
    num_bad: int = 0


_Placed = tuple[str, float, float, float, float, int, bool, int]  # as a Word, on the axes of the file


class _Look(NamedTuple):
    """What the letters of one text object share."""

    size: float
    turn: int  # quarters, counter-clockwise; or _TILTED
    style: int
    base: float  # the height of the baseline, on the axes of the direction


def read_page(page: Any) -> Page:
    """The words of a loaded page."""
    box = pdfium.FS_RECTF()
    pdfium.FPDF_GetPageBoundingBox(page, box)
    text_page = pdfium.FPDFText_LoadPage(page)
    try:
        content = _with_accents(text_page, _content(text_page)) if text_page else ""
        found = list(_placed(text_page, content, box))
    finally:
        if text_page:
            pdfium.FPDFText_ClosePage(text_page)
    read = _straightened(found, box)
    read.num_characters, read.num_bad = sum(map(len, content.split())), len(_BAD.findall(content))
    if not read.words:
        read.scanned = _covered(page, box) >= _MIN_IMAGES
    return read


def _content(text_page: Any) -> str:
    """All characters, one for each of PDFium's indices: those beyond U+FFFF are two surrogates."""
    count = pdfium.FPDFText_CountChars(text_page)
    if count <= 0:
        return ""
    buffer = (ctypes.c_ushort * (count + 1))()
    if pdfium.FPDFText_GetText(text_page, 0, count, buffer) == count + 1:
        return "".join(map(chr, buffer[:count]))
    # Characters without a meaning in Unicode are left out of the whole text.
    codes = [pdfium.FPDFText_GetUnicode(text_page, index) for index in range(count)]
    return "".join(_LINE_HYPHEN if code == 2 else chr(code) if 0 < code < 0x110000 else "\ufffd" for code in codes)


def _in_unicode(text: str) -> str:
    """The text with its surrogates as the characters that they stand for."""
    if not text.isascii() and _SURROGATES.search(text):
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _placed(text_page: Any, content: str, box: Any) -> Iterator[tuple[int, _Placed]]:
    """The words that lie on the page with their directions; their places are still those of the file."""
    looks, styles = dict[int, _Look](), dict[int, int]()
    first, last = pdfium.FS_RECTF(), pdfium.FS_RECTF()
    left, right, bottom, top = box.left - _MARGIN, box.right + _MARGIN, box.bottom - _MARGIN, box.top + _MARGIN
    after_none = False  # the space after a line's hyphen, or an accent by itself, is PDFium's
    for match in _WORD.finditer(content):
        start, end = match.span(2)
        word = match[2]
        drawn = pdfium.FPDFText_GetTextObject(text_page, start)
        key = ctypes.addressof(drawn.contents) if drawn else 0
        look = looks.get(key)
        if look is None:
            look = looks[key] = _look(text_page, start, drawn, styles)
        pdfium.FPDFText_GetLooseCharBox(text_page, start, first)
        pdfium.FPDFText_GetLooseCharBox(text_page, end - 1, last)
        space = match[1] == " " and not after_none
        after_none = word[-1] == _LINE_HYPHEN or word == _NOTHING
        if not (word.isascii() and word.isprintable()):
            word = _folded(word)
        middle, height = (first.left + last.right) / 2, (first.bottom + first.top) / 2
        if not (word and left <= middle <= right and bottom <= height <= top):
            continue
        turn, base = look.turn, look.base
        if turn in (0, _TILTED):
            x0, x1 = min(first.left, last.left), max(first.right, last.right)
        elif turn == 2:
            x0, x1 = -max(first.right, last.right), -min(first.left, last.left)
        elif turn == 1:
            x0, x1 = min(first.bottom, last.bottom), max(first.top, last.top)
        else:
            x0, x1 = -max(first.top, last.top), -min(first.bottom, last.bottom)
        yield turn, (word, x0, x1, base, look.size, look.style, space, start)


def _folded(word: str) -> str:
    return _in_unicode(word).replace(_LINE_HYPHEN, "-").translate(_FOLDED)


def _with_accents(text_page: Any, content: str) -> str:
    """The characters with accents put on their letters: many files draw an accent by itself, somewhere near the letter.

    What was an accent becomes `_NOTHING`, so that all keep their indices.
    """
    written = list(content)
    accent, letter = pdfium.FS_RECTF(), pdfium.FS_RECTF()
    for found in _ACCENT.finditer(content):
        index = found.start()
        pdfium.FPDFText_GetLooseCharBox(text_page, index, accent)
        middle, height = (accent.left + accent.right) / 2, accent.top - accent.bottom
        for near in _around(index, len(written)):
            both = _composed(written[near], found[0])
            if not both:
                continue
            pdfium.FPDFText_GetLooseCharBox(text_page, near, letter)
            if letter.left <= middle <= letter.right and abs(letter.bottom - accent.bottom) < height:
                written[near], written[index] = both, _NOTHING
                break
    return "".join(written)


def _around(index: int, count: int) -> Iterator[int]:
    """The indices beside one, the nearest first."""
    for distance in range(1, _NEAR):
        for near in (index + distance, index - distance):
            if 0 <= near < count:
                yield near


def _composed(letter: str, accent: str) -> str:
    """A letter with an accent that stands alone, as one character; "" if there is none."""
    if not letter or accent not in _ACCENTS:
        return ""
    both = unicodedata.normalize("NFC", letter.replace("ı", "i") + _ACCENTS[accent])
    return both if len(both) == 1 else ""


def _look(text_page: Any, index: int, drawn: Any, styles: dict[int, int]) -> _Look:
    """What the letter at an index has in common with the others of its object."""
    matrix, x, y = pdfium.FS_MATRIX(), ctypes.c_double(), ctypes.c_double()
    pdfium.FPDFText_GetMatrix(text_page, index, matrix)
    pdfium.FPDFText_GetCharOrigin(text_page, index, x, y)
    size = pdfium.FPDFText_GetFontSize(text_page, index) * math.hypot(matrix.c, matrix.d)
    if not 0.5 <= size <= 2000:
        size = 10.0
    angle = math.degrees(math.atan2(matrix.b, matrix.a))
    quarters = round(angle / 90)
    turn = quarters % 4 if abs(angle - 90 * quarters) <= _STRAIGHT else _TILTED
    base = {1: -x.value, 2: -y.value, 3: x.value}.get(turn, y.value)
    return _Look(size, turn, _style(drawn, styles) if drawn else 0, base)


def _style(drawn: Any, known: dict[int, int]) -> int:
    """The style of an object's font; `known` holds those of the page's fonts that were seen."""
    font = pdfium.FPDFTextObj_GetFont(drawn)
    if not font:
        return 0
    key = ctypes.addressof(font.contents)
    if key not in known:
        known[key] = _font_style(font)
    return known[key]


def _font_style(font: Any) -> int:
    buffer = ctypes.create_string_buffer(128)
    pdfium.FPDFFont_GetBaseFontName(font, buffer, len(buffer))
    name = buffer.value.decode("latin-1")
    flags = max(0, pdfium.FPDFFont_GetFlags(font))
    bold = flags & _FONT_FORCED_BOLD or _BOLD_NAME.search(name)  # the weight that PDFium gives is a guess
    return (BOLD if bold else 0) | (MONO if flags & _FONT_FIXED or _MONO_NAME.search(name) else 0)


def _straightened(found: list[tuple[int, _Placed]], box: Any) -> Page:
    """The page in the direction of most of its letters."""
    weights = Counter[int]()
    for turn, (text, *_) in found:
        weights[turn] += len(text)
    straight = [turn for turn, _ in weights.most_common() if turn != _TILTED]
    main = straight[0] if straight else 0
    corners = {
        0: (box.left, box.top),
        1: (box.bottom, -box.left),
        2: (-box.right, -box.bottom),
        3: (-box.top, box.right),
    }
    left, top = corners[main]
    width, height = abs(box.right - box.left), abs(box.top - box.bottom)
    page = Page(height, width) if main % 2 else Page(width, height)
    lines: dict[tuple[int, float], list[str]] = {}
    for turn, (text, x0, x1, y, size, style, space, place) in found:
        if turn == main:
            page.words.append(Word(text, x0 - left, x1 - left, top - y, size, style, space, place))
        else:
            lines.setdefault((turn, round(y) if turn != _TILTED else 0), []).append(text)
    page.turned = [" ".join(words) for words in lines.values()]
    return page


def _covered(page: Any, box: Any) -> float:
    """The share of the page that its pictures cover, at most 1."""
    area = abs(box.right - box.left) * abs(box.top - box.bottom)
    budget = [_MAX_OBJECTS]
    count = pdfium.FPDFPage_CountObjects(page)
    objects = (pdfium.FPDFPage_GetObject(page, index) for index in range(count))
    covered = sum(_pictured(found, budget, _FORM_DEPTH) for found in objects)
    return min(1.0, covered / area) if area > 0 else 0.0


def _pictured(found: Any, budget: list[int], depth: int) -> float:
    """The area of the pictures in an object of a page, in square points; `budget` counts down."""
    budget[0] -= 1
    kind = pdfium.FPDFPageObj_GetType(found) if found and budget[0] > 0 else 0
    if kind == pdfium.FPDF_PAGEOBJ_FORM and depth:
        count = pdfium.FPDFFormObj_CountObjects(found)
        inner = (pdfium.FPDFFormObj_GetObject(found, index) for index in range(min(count, budget[0])))
        return sum(_pictured(part, budget, depth - 1) for part in inner)
    if kind != pdfium.FPDF_PAGEOBJ_IMAGE:
        return 0.0
    left, bottom, right, top = (ctypes.c_float() for _ in range(4))
    pdfium.FPDFPageObj_GetBounds(found, left, bottom, right, top)
    return abs((right.value - left.value) * (top.value - bottom.value))
