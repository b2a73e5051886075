"""The folded form of a text: texts that differ in case, width, spaces, kind of quotes or marks at their ends share it.

Pure. `fold` takes one text, `fold_column` an Arrow column; both give the same. `bare_words` goes further: texts that
say the same in the same words share them.
"""

import re
from unicodedata import normalize

import pyarrow as pa
import pyarrow.compute as pc

_SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2028\u2029"  # all that `str.split` knows and NFKC leaves
_EDGES = _SPACES + "\"'“”‘’„‚«»‹›「」『』`*_.,:;!?。、，！？：；…"
_POWER = "([0-9])([²³¹⁰⁴-⁹])"  # NFKC would make 102 of 10²
_POWERS = re.compile(_POWER)
_SINGLE, _DOUBLE = "‘’ʼ‛", "“”„‟"
_QUOTES = str.maketrans(dict.fromkeys(_SINGLE, "'") | dict.fromkeys(_DOUBLE, '"') | {"İ": "i"})

_LINKING = frozenset(
    "the an that also thus therefore hence moreover furthermore additionally consequently accordingly indeed".split()
)
_MARKS = "\"'“”‘‚„«»‹›()[]{}`*_,:;!?…•·"
_SENTENCE_ENDS = (".", "!", "?", ":")
_ITEM = re.compile(r"^[ \t]*(?:[-*•–—+>]|#{1,6}|\(?\d{1,3}[.)])[ \t]+", re.M)
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])|[—―]")
_SIGNED = re.compile(r"[-.]{1,2}\d")
_IDEOGRAPH = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])|[、。「」『』《》〈〉【】〔〕・]|[,!?:;](?!\d)")
_DASHES = str.maketrans({"’": "'", "−": "-", "–": "-", "‐": "-", "‑": "-"})


def fold(text: str) -> str:
    """The text in NFKC and lower case, with straight quotes and single spaces, without quotes and marks at its ends."""
    if not text.isascii():
        # Python and Arrow make different small letters of "İ", and of the "Σ" at a word's end.
        text = compatible(text).translate(_QUOTES)
    return " ".join(text.lower().replace("ς", "σ").split()).strip(_EDGES)


def compatible(text: str) -> str:
    """The text in NFKC, but for powers: 10² is 10^2."""
    return normalize("NFKC", _POWERS.sub(r"\1^\2", text))


def fold_column(texts: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """`fold` of every text."""
    if not pc.all(pc.string_is_ascii(texts)).as_py():
        texts = pc.utf8_normalize(pc.replace_substring_regex(texts, _POWER, r"\1^\2"), form="NFKC")
        texts = pc.replace_substring_regex(texts, f"[{_SINGLE}]", "'")
        texts = pc.replace_substring_regex(texts, f"[{_DOUBLE}]", '"')
    small = pc.replace_substring(pc.utf8_lower(texts), "ς", "σ")
    return pc.utf8_trim(pc.replace_substring_regex(small, f"[{_SPACES}]+", " "), characters=_EDGES)


def bare_words(text: str) -> str:
    """The words of a text that distinguish it, with single spaces, in lower case; "" if it has none.

    Left out are punctuation, hyphens between letters, markers of list items, English articles, "that", and linking
    adverbs such as "also" and "therefore". Numbers, signs and all other words stay; ideographs and kana are words.
    """
    if "\n" in text:
        text = _ITEM.sub("", text)
    if not text.isascii():
        text = _IDEOGRAPH.sub(r" \1 ", compatible(text).translate(_DASHES))
    if "-" in text or "—" in text:
        text = _HYPHEN.sub(" ", text)
    words = []
    begins = True
    for word in text.split():
        bare = word.lstrip(_MARKS)
        if bare[:1] in {"-", "."} and not _SIGNED.match(bare):
            bare = bare.lstrip(_MARKS + "-.")
        bare = bare.rstrip(_MARKS + "-.").lower()
        # "Plan A" has a name, "A plan" an article.
        is_article = bare == "a" and word[-1:] != "." and (begins or "A" not in word)
        if bare and bare not in _LINKING and not is_article:
            words.append(bare)
        begins = word.endswith(_SENTENCE_ENDS)
    return " ".join(words)
