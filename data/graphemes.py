"""Where a text can be cut without cutting a character as readers see it (a grapheme cluster)."""

import unicodedata

import regex

_CLUSTER = regex.compile(r"\X")
_REACHES = (16, 256, 4096)  # characters around a wanted cut; a cluster is rarely longer
_FIRST_COMBINING = "\u0300"
_JOINER = "\u200d"
_VIRAMA = 9  # the combining class
_HANGING = frozenset({"Mn", "Mc", "Me", "Cf"})
_SIGNS_AM = frozenset("\u0e33\u0eb3")  # letters by their category, parts of a vowel by their use
_WRITTEN_BEFORE = frozenset("เแโใไເແໂໃໄ")  # vowels of Thai and Lao before their consonant
_FLAG = ("\U0001f1e6", "\U0001f1ff")


def is_cut(text: str, at: int) -> bool:
    """Whether a text may be cut before the character at `at`.

    Nothing may begin with a combining mark or a joiner, or end with what joins or waits for the next letter.
    """
    if not 0 < at < len(text):
        return True
    if not _may_part(text[at - 1], text[at]):
        return False
    before = text[at - 1]
    if before.isspace() or unicodedata.category(before)[0] == "P":
        return True
    if before < _FIRST_COMBINING and text[at] < _FIRST_COMBINING:
        return True
    first = max(0, at - _REACHES[0])
    return at in _boundaries(text, first, at + _REACHES[0], lowest=max(0, first - _REACHES[-1]))


def middle_cut(text: str, start: int, end: int) -> int:
    """The place near the middle of a span where it can be cut; the middle itself if the span is one cluster."""
    middle = (start + end) // 2
    for reach in (*_REACHES, end - start):
        first, last = max(start, middle - reach), min(end, middle + reach)
        found = _boundaries(text, first, last, lowest=start)
        cuts = [at for at in found if start < at < end and _may_part(text[at - 1], text[at])]
        if cuts:
            return min(cuts, key=lambda at: abs(at - middle))
    return middle


def _may_part(before: str, after: str) -> bool:
    if before < _FIRST_COMBINING and after < _FIRST_COMBINING:
        return (before, after) != ("\r", "\n") and after != "\u00ad"
    if unicodedata.category(after) in _HANGING or after in _SIGNS_AM:
        return False
    return before != _JOINER and before not in _WRITTEN_BEFORE and unicodedata.combining(before) != _VIRAMA


def _boundaries(text: str, first: int, last: int, *, lowest: int) -> list[int]:
    """The boundaries between the clusters of a part of a text, without those at its ends.

    Flags are pairs that are counted from the first of a row of them, which is looked for down to `lowest`.
    """
    last = min(last, len(text))
    row = first
    while row > lowest and _FLAG[0] <= text[row - 1] <= _FLAG[1]:
        row -= 1
    return [found.end() for found in _CLUSTER.finditer(text, first - (first - row) % 2, last) if found.end() < last]
