"""Detects languages in a process of its own: `python -m data.corpora.language_worker`.

Reads requests from its standard input until it ends, and writes an answer to each to its standard output. A request is
a count, and for each text its length and its bytes; an answer is a length and the codes, one on each line. Numbers
have four bytes, the least significant first. Imports next to nothing, so that it starts at once.
"""

import sys
from array import array
from itertools import pairwise

import pycld2

# CLD2 has some codes of its own, and distinguishes the scripts of Chinese.
CODES = {"iw": "he", "jw": "jv", "zh-Hant": "zh", "sr-ME": "sr"}
NUMBER = 4


def detect(text: bytes) -> str:
    """The ISO 639 code of a text: of two letters where there is one, "" where it cannot be told."""
    try:
        is_reliable, _, found = pycld2.detect(text, isPlainText=True)
    except pycld2.error:  # it refuses some characters that a text may have
        return ""
    code = str(found[0][1])
    return "" if not is_reliable or code == "un" or code.startswith("xx") else CODES.get(code, code)


def serve() -> None:
    """Answer requests until there are no more."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while header := source.read(NUMBER):
        lengths = array("I", source.read(NUMBER * int.from_bytes(header, "little")))
        bounds = [0]
        for length in lengths:
            bounds.append(bounds[-1] + length)
        content = source.read(bounds[-1])
        codes = "\n".join(detect(content[start:end]) for start, end in pairwise(bounds)).encode()
        sink.write(len(codes).to_bytes(NUMBER, "little") + codes)
        sink.flush()


if __name__ == "__main__":
    serve()
