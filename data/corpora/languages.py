"""The language of each text, by CLD2 on about 128 bytes from its middle.

The middle is read because texts begin with titles, menus and names. Many texts are detected in a process of their own
(`data.corpora.language_worker`), beside the reading of more.
"""

import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pycld2

from data.corpora.arrays import buffer_of, string_array
from data.corpora.language_worker import CODES, NUMBER, detect
from data.errors import ResumableError

_WINDOW_BYTES = 128  # CLD2's time grows with the text, and a longer window finds hardly more languages
_ASTRAY = 3  # bytes, at most, from the middle of a character to the next one
_MANY = 2048  # texts: detecting fewer takes no longer than starting a process
_ROOT = Path(__file__).resolve().parent.parent.parent
_NAMES = {code: name.title() for name, code in pycld2.LANGUAGES}
_NAMES |= {ours: _NAMES[theirs] for theirs, ours in CODES.items() if ours not in _NAMES}


class LanguageDetector:
    """Detects languages beside the thread that asks; a context manager."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "languages")
        self._num_texts = 0
        self._worker: subprocess.Popen[bytes] | None = None

    def begin(self, texts: pa.StringArray) -> "Future[pa.StringArray]":
        """Start on some texts; the result has a code for each."""
        return self._pool.submit(self._detect, texts)

    def __enter__(self) -> "LanguageDetector":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._worker:
            self._worker.kill()
            self._worker.communicate()

    def _detect(self, texts: pa.StringArray) -> pa.StringArray:
        self._num_texts += len(texts)
        if self._num_texts < _MANY:
            return detect_languages(texts)
        if self._worker is None:
            command = [sys.executable, "-m", "data.corpora.language_worker"]
            self._worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT)
        source, sink = self._worker.stdout, self._worker.stdin
        assert source and sink
        content, lengths = _windows(texts)
        try:
            sink.write(len(texts).to_bytes(NUMBER, "little") + lengths.astype("<u4").tobytes() + content)
            sink.flush()
            size = source.read(NUMBER)
            codes = source.read(int.from_bytes(size, "little"))
        except OSError as error:
            raise ResumableError(f"the process that detects languages has ended ({error}); run it again") from error
        if len(size) < NUMBER:
            raise ResumableError("the process that detects languages has ended; run the command again")
        return string_array(codes.decode().split("\n") if len(texts) else [])


def detect_languages(texts: pa.StringArray) -> pa.StringArray:
    """The ISO 639 code of each text, in this process."""
    content, lengths = _windows(texts)
    bounds = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    return string_array([detect(content[start:end]) for start, end in pairwise(bounds)])


def language_name(code: str) -> str:
    """The English name of a language, "" if the code is unknown."""
    return _NAMES.get(code, "")


def _windows(texts: pa.StringArray) -> tuple[bytes, "np.ndarray[tuple[int], np.dtype[np.int64]]"]:
    """The middle of each text, in whole characters: all of them joined, and the bytes of each."""
    offsets, content = buffer_of(texts)
    starts, ends = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    is_long = ends - starts > _WINDOW_BYTES + _ASTRAY
    starts[is_long] += (ends - starts - _WINDOW_BYTES)[is_long] // 2
    ends[is_long] = starts[is_long] + _WINDOW_BYTES
    for places in (starts, ends):
        for _ in range(_ASTRAY):
            cut = is_long & (content[np.minimum(places, len(content) - 1)] & 0xC0 == 0x80) if len(content) else is_long
            places[cut] += 1
    lengths = ends - starts
    firsts = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) if len(lengths) else starts
    return content[firsts + np.arange(len(firsts))].tobytes(), lengths
