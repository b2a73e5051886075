"""The language of each text, by CLD2 on about 128 bytes from its middle.

The middle is read because texts begin with titles, menus and names. In a thread of its own: CLD2 lets others run.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pycld2

from data.corpora.arrays import buffer_of, string_array

_WINDOW_BYTES = 128  # CLD2's time grows with the text, and a longer window finds hardly more languages
_ASTRAY = 3  # bytes, at most, from the middle of a character to the next one
# CLD2 has some codes of its own, and distinguishes the scripts of Chinese.
_CODES = {"iw": "he", "jw": "jv", "zh-Hant": "zh", "sr-ME": "sr"}
_NAMES = {code: name.title() for name, code in pycld2.LANGUAGES}
_NAMES |= {ours: _NAMES[theirs] for theirs, ours in _CODES.items() if ours not in _NAMES}


class LanguageDetector:
    """Detects languages beside the thread that asks; a context manager."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "languages")

    def begin(self, texts: pa.StringArray) -> "Future[pa.StringArray]":
        """Start on some texts; the result has a code for each."""
        return self._pool.submit(detect_languages, texts)

    def __enter__(self) -> "LanguageDetector":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def detect_languages(texts: pa.StringArray) -> pa.StringArray:
    """The ISO 639 code of each text: of two letters where there is one, "" where it cannot be told."""
    return string_array([_language(window) for window in _windows(texts)])


def language_name(code: str) -> str:
    """The English name of a language, "" if the code is unknown."""
    return _NAMES.get(code, "")


def _windows(texts: pa.StringArray) -> Sequence[bytes]:
    """The middle of each text, in whole characters."""
    offsets, content = buffer_of(texts)
    starts, ends = offsets[:-1].copy(), offsets[1:].copy()
    is_long = ends - starts > _WINDOW_BYTES + _ASTRAY
    starts[is_long] += (ends - starts - _WINDOW_BYTES)[is_long] // 2
    ends[is_long] = starts[is_long] + _WINDOW_BYTES
    for places in (starts, ends):
        for _ in range(_ASTRAY):
            cut = is_long & (content[np.minimum(places, len(content) - 1)] & 0xC0 == 0x80) if len(content) else is_long
            places[cut] += 1
    view = memoryview(content.data)
    return [bytes(view[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _language(window: bytes) -> str:
    try:
        is_reliable, _, found = pycld2.detect(window, isPlainText=True)
    except pycld2.error:  # it refuses some characters that a text may have
        return ""
    code = str(found[0][1])
    return "" if not is_reliable or code == "un" or code.startswith("xx") else _CODES.get(code, code)
