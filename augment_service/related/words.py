"""Texts to the words that an index counts: folded, hashed, and with what their case says about them.

Pure. A word has letters, digits and underscores. Where a script sets no spaces between words, each pair of neighbouring
characters is one. Words are known by a 64-bit hash, so that an index needs no table of strings.
"""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

# Spaces, controls and punctuation; combining marks are parts of words.
SEPARATORS = (
    r"\s\x00-\x20!-/:-@\[-^`{-~\x7f-\xa9\xab-\xb1\xb4\xb6-\xb9\xbb-\xbf\xd7\xf7\u037e\u0387\u055a-\u055f\u0589\u058a\u05be"
    r"\u05c0\u05c3\u05f3\u05f4\u060c\u061b\u061f\u066a-\u066d\u06d4\u0964\u0965\u0970\u0e2f\u0e5a\u0e5b\u104a-\u104f\u1361-"
    r"\u1368\u17d4-\u17d6\u17d8-\u17da\u2000-\u200b\u200e-\u206f\u20a0-\u20bf\u2190-\u2bff\u2e00-\u2e7f\u3000-\u3004\u3007-"
    r"\u3020\u3030-\u303f\u30fb\ufe10-\ufe6f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
# Thai, Lao, Tibetan, Burmese, Khmer, kana, Han; Hangul, whose words end in particles.
UNSPACED = (
    r"\uac00-\ud7a3\u1100-\u11ff\u0e01-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005\u3006\u3040-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\U00020000-\U0003ffff"
)
# A capital after one of them says nothing.
_MARKS = '\n\t.!?:;…"“”«»‹›„‟()[]{}•‣·*#|><=/`~–—-。！？：；「『《〈（،؛؟۔।॥'
_TOKEN = re.compile(rf"[^{SEPARATORS}{UNSPACED}]+|[{UNSPACED}]+|[{re.escape(_MARKS)}]")
_UNSPACED_RUN = re.compile(rf"[{UNSPACED}]")
_PLURAL = re.compile(r"(?<=[a-zà-öø-ÿ]{3})(?<![su])s\Z")  # not "glass", "corpus"
_LOWER, _CAPITAL, _MARK = 1, 2, 4


@dataclass(frozen=True, slots=True)
class WordCounts:
    """The distinct words of some texts, ordered by key, then by text.

    `texts` has the place of the text, `counts` how often the word occurs in it. `lower` and `capital` say whether it
    occurs without a capital, and with one where no sentence begins. `lengths` are the words of each text. `spelled` has
    the key of each word of a script with spaces, as it is written.
    """

    keys: Keys
    texts: Ints
    counts: Ints
    lower: npt.NDArray[np.bool_]
    capital: npt.NDArray[np.bool_]
    lengths: Ints
    spelled: dict[str, int]


def fold(word: str) -> str:
    """A word without case and without the plural of many languages of Europe: "Otters", "otter"."""
    return _PLURAL.sub("", word.lower())


@lru_cache(maxsize=1 << 16)
def key_of(word: str) -> int:
    """The 64-bit hash of a folded word, the same on every machine."""
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def split_words(text: str) -> list[str]:
    """The words and marks of a text as they are written; a script without spaces is one word up to a mark."""
    return _TOKEN.findall(text)


def is_unspaced(token: str) -> bool:
    """Whether a token is a run of a script that sets no spaces between words."""
    return bool(_UNSPACED_RUN.match(token))


def is_mark(token: str) -> bool:
    """Whether a token is no word."""
    return token in _MARKS


def terms_of(token: str) -> list[str]:
    """What is indexed for a word: itself, folded, or its pairs of characters."""
    if not _UNSPACED_RUN.match(token):
        return [fold(token)]
    return ["".join(pair) for pair in pairwise(token)] or [token]


class _Numbers(dict[str, int]):
    """Numbers tokens in the order of their first use."""

    def __missing__(self, token: str) -> int:
        number = self[token] = len(self)
        return number


def count_words(texts: Sequence[str]) -> WordCounts:
    """The words of some texts, of less than 2**31 words in all."""
    numbers, stream, ends = _Numbers(), array("i"), array("q")
    for text in texts:
        stream.extend(map(numbers.__getitem__, _TOKEN.findall(text)))
        ends.append(len(stream))
    tokens = np.frombuffer(stream, np.int32) if stream else np.zeros(0, np.int32)
    bounds = np.frombuffer(ends, np.int64) if ends else np.zeros(0, np.int64)
    text_of = np.repeat(np.arange(len(texts), dtype=np.int64), np.diff(bounds, prepend=0))
    written = list(numbers)
    keys, sizes, kinds = _describe(written)
    ends_of_keys = np.cumsum(sizes)
    single = np.flatnonzero(sizes == 1)
    spelled = dict(zip([written[at] for at in single.tolist()], keys[ends_of_keys[single] - 1].tolist(), strict=True))
    kind = kinds[tokens]
    is_start = np.ones(len(tokens), bool)
    is_start[1:] = (kind[:-1] == _MARK) | (text_of[1:] != text_of[:-1])
    flags = np.where(is_start, kind & _LOWER, kind)
    words = kind != _MARK
    return _grouped(tokens[words], text_of[words], flags[words], keys, sizes, len(texts), spelled)


def _describe(tokens: Sequence[str]) -> tuple[Keys, Ints, npt.NDArray[np.uint8]]:
    """The keys of all tokens, one after the other, how many each has, and its kind."""
    keys, sizes, kinds = array("Q"), array("q"), bytearray()
    for own, kind in map(_described, tokens):
        keys.extend(own)
        sizes.append(len(own))
        kinds.append(kind)
    return _array(keys, np.uint64), _array(sizes, np.int64), np.frombuffer(bytes(kinds), np.uint8)


@lru_cache(maxsize=1 << 18)  # the next part of a corpus has most of the words of this one
def _described(token: str) -> tuple[tuple[int, ...], int]:
    if token in _MARKS:
        return (), _MARK
    first = token[0]
    kind = _LOWER if first.islower() else _CAPITAL if first.isupper() or first.istitle() else 0
    return tuple(map(key_of, terms_of(token))), kind


def _array(values: "array[int]", dtype: Any) -> Any:
    return np.frombuffer(values, dtype) if values else np.zeros(0, dtype)


def _grouped(
    tokens: Any, text_of: Ints, flags: Any, keys: Keys, sizes: Ints, num_texts: int, spelled: dict[str, int]
) -> WordCounts:
    """One entry for each word of each text."""
    known, ranks = np.unique(keys, return_inverse=True)
    first = np.cumsum(sizes) - sizes
    num = sizes[tokens]
    places = np.repeat(first[tokens], num)
    if len(places) > len(tokens):  # words of several keys
        places += np.arange(len(places)) - np.repeat(np.cumsum(num) - num, num)
        text_of, flags = np.repeat(text_of, num), np.repeat(flags, num)
    # Rank, text and flags in one number: a single sort groups and orders them.
    codes = ranks[places].astype(np.uint64) << np.uint64(34)
    codes |= text_of.astype(np.uint64) << np.uint64(2)
    codes |= flags.astype(np.uint64)
    codes.sort()
    pairs = codes >> np.uint64(2)
    starts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]])) if len(pairs) else np.zeros(0, np.int64)
    seen = np.bitwise_or.reduceat(codes & np.uint64(3), starts) if len(starts) else codes
    pairs = pairs[starts]
    return WordCounts(
        known[(pairs >> np.uint64(32)).astype(np.int64)],
        (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64),
        np.diff(np.append(starts, len(codes))),
        (seen & np.uint64(_LOWER)) > 0,
        (seen & np.uint64(_CAPITAL)) > 0,
        np.bincount(text_of, minlength=num_texts),
        spelled,
    )
