"""Marks around text in answers: markers of list items, emphasis, quotes, code, headings. Pure.

What is removed is at the ends of a line, except for pairs of asterisks around words inside it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase

from data.abbreviations import MONTHS

BULLET, NUMBER, LETTER = "bullet", "number", "letter"
_EMPHASIS = r"(?P<emphasis>\*\*|__)?\s*"
_MARKER = re.compile(
    rf"{_EMPHASIS}(?:"
    r"(?P<bullet>[-–—*+＊](?=\s)(?:\s*\[[ xX]?\](?=\s))?|[•‣◦▪▫■□◆◇●○∙·・✓✔☐☑➢➤→](?!\Z))"
    r"|(?P<number>\d{1,3})(?:\.\d{1,2})*\\?[.)、．）](?!\d)|[(（](?P<closed>\d{1,3})[)）]|(?P<circled>[①-⑳])"
    r"|\((?P<letter>[a-zA-Z]|[ivx]{2,4})\)|(?P<half>[a-zA-Z]|[ivx]{2,4})\)|(?P<dotted>[a-zA-Z])\.(?=\s)"
    r")(?P<gap>\s*(?:(?P<close>\*\*|__)\s*)?)"
)
_BOLD = re.compile(r"\*\*(?=\S)([^*\n]*[^*\s])\*\*")
_ITALIC = re.compile(r"(?<![\w*])[*](?![\s*])([^*\n]*[^*\s])[*](?![\w*])")
_UNDERLINED = re.compile(r"(?<!\w)__(?=\S)([^_\n]*\s[^_\n]*[^_\s])__(?!\w)")
_LOOSE = re.compile(r"^(?:\*\*|__)(?=\s|[^\W_])(?!\w+__)|(?<!__\w)(?<=[^\s*_])\s*\*\*$|\\+$")
_ELEMENT = r"</?(?:li|ul|ol|p|b|i|u|em|strong|br|div|span|h[1-6]|answer|output|statement|response)\s*/?>"
_TAGS = re.compile(rf"\A(?:{_ELEMENT}\s*)+|(?:\s*{_ELEMENT})+\Z", re.I)
_STRESSED = re.compile(r"<(b|i|u|em|strong)>([^<]*)</\1>", re.I)
_HASHES = re.compile(r"#{1,6}\s+")
_CLOSING = {
    '"': '"',
    "'": "'",
    "“": "”",
    "„": "“”",
    "‘": "’",
    "«": "»",
    "»": "«",
    "‹": "›",
    "「": "」",
    "『": "』",
    "`": "`",
}
_INNER_SINGLE = re.compile(r"(?<!\w)['‘’]|['‘’](?!\w)")
# In these languages "3." is also "third".
_ORDINAL_LANGUAGES = frozenset("bs cs da de et fi fo hr hu is lb lv nb nn no pl sk sl sr tr".split())
_LEAST_SMALL, _LEAST_CAPITAL = 2, 3  # letters that follow each other; two persons may be A. and B.
_MOST_ALONE = 50  # a line by itself that begins with "100." is hardly an item
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Marker:
    """The marker of a list item: its kind, its number (0: none) or letter, and what follows it."""

    kind: str
    number: int
    letter: str
    rest: str


def list_marker(line: str) -> Marker | None:
    """The marker with which a line seems to begin; `Numbering` decides about numbers and dotted letters."""
    found = _MARKER.match(line)
    if not found:
        return None
    rest = line[found.end() :]
    if found["emphasis"] and not found["close"]:
        rest = found["emphasis"] + rest
    elif found["close"] and not found["emphasis"]:
        rest = found["close"] + rest
    if found["bullet"]:
        return Marker(BULLET, 0, "", rest)
    if found["circled"]:
        return Marker(NUMBER, ord(found["circled"]) - ord("①") + 1, "", rest)
    if letter := found["letter"] or found["half"] or found["dotted"]:
        return Marker(LETTER, 0, f"{letter}." if found["dotted"] else letter, rest)
    is_apart = not rest or any(map(str.isspace, found["gap"]))
    first = rest.lstrip("*_\"“„«'`")[:1]
    if not is_apart and (not first or first.islower() or not first.isalpha()):
        return None
    return Marker(NUMBER, int(found["number"] or found["closed"]), "", rest)


class Numbering:
    """Which markers number items, given those of all lines of an answer.

    "3. Mai" is a date, "A. Pell" a name, and "2. Platz" a rank, unless the numbers or letters follow each other.
    """

    def __init__(self, markers: Iterable[Marker], language: str) -> None:
        known = list(markers)
        self._numbers = {marker.number for marker in known if marker.number}
        letters = "".join(marker.letter[0] for marker in known if marker.letter.endswith("."))
        is_run = ascii_lowercase.startswith(letters) or ascii_uppercase.startswith(letters)
        self._is_lettered = is_run and len(letters) >= (_LEAST_SMALL if letters.islower() else _LEAST_CAPITAL)
        self._most_alone = 1 if language in _ORDINAL_LANGUAGES else _MOST_ALONE

    def has(self, marker: Marker) -> bool:
        """Whether a marker numbers an item; all others than numbers and dotted letters do."""
        if marker.letter.endswith("."):
            return self._is_lettered
        if marker.kind != NUMBER or not self._numbers.isdisjoint({marker.number - 1, marker.number + 1}):
            return True
        word = _WORD.match(marker.rest)
        return marker.number <= self._most_alone and (word is None or word.group().lower() not in MONTHS)


def plain(line: str) -> str:
    """A line without emphasis, tags, quotes around all of it, and the marks of a heading."""
    before = None
    while before != line:
        before = line
        line = _TAGS.sub("", _STRESSED.sub(r"\2", line)).strip() if "<" in line else line.strip()
        line = _HASHES.sub("", line, count=1) if line[:1] == "#" else line
        if "*" in line or "__" in line or line[-1:] == "\\":
            for pattern in (_BOLD, _UNDERLINED, _ITALIC):
                line = pattern.sub(r"\1", line)
            line = _LOOSE.sub("", line)
        line = _unquoted(line)
    return line


def _unquoted(line: str) -> str:
    """A line without quotes, if one pair is around all of it; a full stop may follow them."""
    opening, closing = line[:1], _CLOSING.get(line[:1], "")
    if not closing or len(line) < 3:
        return line
    if line.startswith("```") and line.endswith("```") and len(line) > 6:
        return line[3:-3]
    stop = line[-1] if line[-1] in ".,;" and line[-2] in closing else ""
    inner, end = line[1 : -1 - len(stop)], line[-1 - len(stop)]
    if end not in closing or not inner:
        return line
    single = opening in "'‘"
    if _INNER_SINGLE.search(inner) if single else any(mark in inner for mark in opening + closing):
        return line
    return inner + (stop if stop == "." and inner[-1] not in ".!?" else "")
