"""How the end of a line and the beginning of the next one go together, judged by the document's own words. Pure."""

import re
from collections import Counter
from collections.abc import Iterable

from data.corpora.pdf.layout import is_unspaced

_SOFT = "\u00ad"
_HYPHENS = f"\u2010\u2011{_SOFT}-"  # the last one is no range
_ENDS_IN_HYPHEN = re.compile(rf"(?<=[^\s{_HYPHENS}])[{_HYPHENS}]$")
_LAST_WORD = re.compile(r"[^\W\d_]+(?=.$)", re.DOTALL)  # before the hyphen
_LAST_COMPOUND = re.compile(rf"[^\W\d_]+(?:[{_HYPHENS}][^\W\d_]+)*(?=.$)", re.DOTALL)
_FIRST_WORD = re.compile(r"[^\W\d_]+")
_WORDS = re.compile(rf"[^\W\d_]+(?:[{_HYPHENS}][^\W\d_]+)*")
_AFTER_SUSPENDED = set("and or und oder bis sowie et ou y o e ed og och en of i oraz или и".split())
_ADDRESS = re.compile(r"(?:https?://|ftp://|www\.)\S*[/\-_.=?&#%~]$")


def ends_in_address(text: str) -> bool:
    """Whether a line ends within the address of a page, at one of its marks."""
    return bool(_ADDRESS.search(text))


class Joiner:
    """Joins lines. Knows the words of a document, with their hyphens, apart from those that a line's end divides."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._known = Counter[str]()
        divided = False
        for line in lines:
            words = [_plain(word) for word in _WORDS.findall(line)]
            divides = bool(_ENDS_IN_HYPHEN.search(line))
            self._known.update(words[divided : len(words) - divides])
            divided = divides

    def join(self, before: str, after: str) -> str:
        """Two lines as running text."""
        if not before or not after:
            return before + after
        if ends_in_address(before):
            return before + after
        if not _ENDS_IN_HYPHEN.search(before):
            close = is_unspaced(before, after) or before.endswith("—")
            return before + after if close else f"{before} {after}"
        if before.endswith(_SOFT):
            return before[:-1] + after
        left, right = _LAST_WORD.search(before), _FIRST_WORD.match(after)
        if not left or not right:
            return before + after  # numbers: 2020-2021, COVID-19
        if right[0] in _AFTER_SUSPENDED and self._known[right[0]] and not self._known[_plain(left[0] + right[0])]:
            return f"{before} {after}"  # pre- and post-war
        return (before if self._keeps_hyphen(before, left[0], right[0]) else before[:-1]) + after

    def _keeps_hyphen(self, before: str, left: str, right: str) -> bool:
        if right[0].isupper() and not (left.isupper() and len(left) > 1):
            return True  # Jean-Paul
        compound = _LAST_COMPOUND.search(before)
        parts = _plain(compound[0] if compound else left)
        with_hyphen, as_one = self._known[f"{parts}-{_plain(right)}"], self._known[parts + _plain(right)]
        if with_hyphen or as_one:
            return with_hyphen > as_one
        # state-of-the-art: its parts are words, those of well-docu-mented are not
        return "-" in parts and self._known[_plain(left)] > 0


def _plain(word: str) -> str:
    return word.casefold().replace(_SOFT, "").replace("\u2010", "-").replace("\u2011", "-")
