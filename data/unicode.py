"""Text as models should read it: Unicode in NFC, one kind of line end, nothing invisible but what means something.

Pure. `clean` is applied once to every text that is imported:

| characters | become |
|---|---|
| CR LF, CR, vertical tab, form feed, NEL, line and paragraph separator | line feed |
| no-break space, and the spaces of fixed width U+2000 to U+200A, U+202F, U+205F | a space |
| ideographic space (it indents Chinese and Japanese), Ogham space, tabs | stay |
| a character, then backspace (bold and underlined text of manual pages) | nothing |
| escape sequences of terminals (colours, titles); all other controls, noncharacters | nothing |
| soft hyphens, byte order marks, word joiners, invisible operators, bidi marks and controls | nothing |
| interlinear annotation, musical and shorthand format characters, Hangul fillers of compatibility | nothing |
| ZWJ | stays in emoji sequences, and beside letters of scripts that join (Arabic, Indic and the like) |
| ZWNJ | stays after letters of scripts that join, where it shapes words (Persian, Indic) |
| ZWSP | stays between letters of Thai, Lao, Burmese, Khmer and the like, which it divides into words |
| variation selector, combining grapheme joiner | stays, one only, after a visible character |
| Mongolian vowel separator | stays after a Mongolian letter |
| tags (U+E0000 to U+E0FFF) | stay in the flag emoji of regions |
| private use and unassigned characters | stay: fonts and newer versions of Unicode define them |

Spaces at the ends of lines stay, and so does indentation. A text without a visible character becomes "".
"""

import re
from unicodedata import is_normalized, normalize

_ZWSP, _ZWNJ, _ZWJ = "\u200b", "\u200c", "\u200d"
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef\u180b-\u180d\u180f\u034f"
_TAGS = "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
_CONDITIONAL = f"{_ZWSP}{_ZWNJ}{_ZWJ}{_SELECTORS}{_TAGS}\u180e"
# Scripts whose letters join, or have forms that ZWJ and ZWNJ choose: Arabic to Mandaic, the Indic ones, Tibetan,
# Burmese, Khmer, Mongolian, Balinese and other scripts of Brahmi's family, Phags-pa, Arabic and Indic supplements.
_JOINING = (
    "\u0600-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u180a\u1810-\u18af\u1a20-\u1aaf\u1b00-\u1bff\u1c00-\u1c4f"
    "\ua800-\ua8ff\ua930-\ua9ff\uaa60-\uaadf\uabc0-\uabff\ufb50-\ufdcf\ufdf0-\ufdff\ufe70-\ufefe"
    "\U00010a00-\U00010eff\U00010f30-\U00010fff\U00011000-\U00011fff\U0001e900-\U0001e95f"
)
# Scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Tai, Javanese, Cham.
_UNSPACED = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\ua980-\ua9ff\uaa00-\uaadf"
_EMOJI = (
    "\xa9\xae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\u3297"
    "\u3299\U0001f000-\U0001faff"
)

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_SPACES = re.compile("[\xa0\u2000-\u200a\u202f\u205f]")
_STRUCK = re.compile("[^\n\t\x08]\x08")
_ESCAPES = re.compile("(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\\]|\x9d)[^\x07\x1b\x9c\n\t]*(?:\x07|\x1b\\\\|\x9c)")
_REMOVED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufdd0-\ufdef\ufeff"
    "\uffa0\ufff0-\ufffb\ufffe\uffff]"
)
_HIGH = re.compile("[\U00010000-\U0010ffff]")
_REMOVED_HIGH = re.compile(
    "[\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(1, 17))
    + "]"
)
# Characters that stay where they mean something: where `_MEANT` matches all of them.
_DOUBTED = re.compile(f"[{_TAGS}]+|[{_CONDITIONAL}]")
_MEANT = re.compile(
    f"(?<=[{_EMOJI}]){_ZWJ}(?=[{_EMOJI}])|(?<=[{_EMOJI}][\ufe0e\ufe0f]){_ZWJ}(?=[{_EMOJI}])"
    "|(?<=\U0001f3f4)[\U000e0020-\U000e007e]{1,16}\U000e007f"
    f"|(?<=[{_UNSPACED}]){_ZWSP}(?=[{_UNSPACED}])"
    f"|(?<=[{_JOINING}])[{_ZWJ}{_ZWNJ}]|{_ZWJ}(?=[{_JOINING}])"
    f"|(?<=[^\\s{_CONDITIONAL}])[{_SELECTORS}]"
    "|(?<=[\u1800-\u18af])\u180e"
)
# Beside what `str.isprintable` refuses, what may have to go.
_DOUBTFUL = re.compile(f"[{_SELECTORS}\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufdd0-\ufdef]")
# A text that has none of these is clean: in the syntax of RE2, which searches a column of texts at a time. Marks may
# compose, and so may some letters of Hangul; the letters of some ranges have another form in NFC.
DOUBTFUL_RE2 = (
    r"[\x00-\x08\x0b-\x1f\x7f-\xa0\x{ad}\p{M}\x{374}\x{37e}\x{387}\x{61c}\x{958}-\x{95f}\x{9dc}-\x{9df}\x{a33}-\x{a36}"
    r"\x{a59}-\x{a5e}\x{b5c}-\x{b5d}\x{f43}-\x{f69}\x{115f}-\x{1175}\x{11a8}-\x{11c2}\x{180e}\x{1f71}-\x{1fff}"
    r"\x{2000}-\x{200f}\x{2028}-\x{202f}\x{205f}-\x{206f}\x{2126}-\x{212b}\x{2329}-\x{232a}\x{2800}\x{2adc}\x{3164}"
    r"\x{f900}-\x{faff}\x{fb1d}-\x{fb4f}\x{fdd0}-\x{fdef}\x{feff}\x{ffa0}\x{fff0}-\x{fffb}"
    r"\x{1bca0}-\x{1bca3}\x{1d15e}-\x{1d1c0}\x{2f800}-\x{2fa1f}\x{e0000}-\x{e0fff}"
    + "".join(rf"\x{{{plane:x}fffe}}-\x{{{plane:x}ffff}}" for plane in range(17))
    + "]"
)
_VISIBLE = re.compile("[^\\s\u115f\u1160\u17b4\u17b5\u2800]")
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\U000e0000-\U000e0fff]"
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """The text as the table says; the same object if nothing is to be done. `clean` of a clean text changes nothing."""
    cleaned = clean_part(text)
    return cleaned if (text.isascii() and cleaned is text) or _VISIBLE.search(cleaned) else ""


def clean_part(text: str) -> str:
    """`clean` for a part of a text: one without a visible character keeps its spaces and line ends."""
    if text.isascii():
        if text.replace("\n", " ").replace("\t", " ").isprintable():
            return text
    elif (
        text.replace("\n", " ").replace("\t", " ").replace("\u3000", " ").isprintable()
        and not _DOUBTFUL.search(text)
        and is_normalized("NFC", text)
    ):
        return text
    cleaned = _LINE_ENDS.sub("\n", text)
    cleaned = _SPACES.sub(" ", cleaned)
    if any(mark in cleaned for mark in "\x1b\x9b\x9d"):
        cleaned = _ESCAPES.sub("", cleaned)
    if "\x08" in cleaned:
        cleaned = _STRUCK.sub("", cleaned)
    cleaned = _REMOVED.sub("", cleaned)
    if _HIGH.search(cleaned):
        cleaned = _REMOVED_HIGH.sub("", cleaned)
    cleaned = _DOUBTED.sub(_if_meant, cleaned)
    cleaned = normalize("NFC", cleaned)
    return text if cleaned == text else cleaned


def _if_meant(found: re.Match[str]) -> str:
    meant = _MEANT.match(found.string, found.start())
    return found[0] if meant and meant.end() == found.end() else ""


def printable(text: object) -> str:
    """One line that a terminal can show: control characters, bidi controls and lone surrogates as escapes."""
    return _UNSAFE.sub(_escape, str(text))


def without_surrogates(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot encode, as escapes."""
    return _SURROGATES.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape", "surrogatepass").decode()
