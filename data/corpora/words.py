"""Words of many texts at once, on the bytes of an Arrow column: where they start, how many, MinHash signatures.

Pure. A word is delimited by ASCII spaces; kana and ideographs (UTF-8 lead bytes E3 to E9) are each a word, as in
`data.sentences.count_words`. All arrays are numpy.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import rensa

from data.corpora.arrays import Bytes, Mask, Offsets, buffer_of

NUM_HASHES = 128
_SHINGLE_WORDS = 5
_SEED = 1
_SLICE_BYTES = 1 << 18  # hashed at a time, so that the arrays stay in the CPU cache
_MOST_BYTES = 1 << 20  # of one text: the rest does not change its signature
_SPACE, _CJK_FIRST, _CJK_LAST = 0x20, 0xE3, 0xE9
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_POWERS = np.power(_FACTOR, np.arange(64, dtype=np.uint64))  # modulo 2**64

Hashes = npt.NDArray[np.uint64]
Signatures = npt.NDArray[np.uint32]


def word_starts(content: Bytes, offsets: Offsets) -> Mask:
    """Whether a word starts at each byte; words never span two texts."""
    letter = content > _SPACE
    lead = content - np.uint8(_CJK_FIRST) <= _CJK_LAST - _CJK_FIRST  # unsigned: what is below wraps around
    has_lead = bool(lead.any())
    if has_lead:  # the three bytes of characters that are words by themselves
        letter &= ~lead
        letter[1:] &= ~lead[:-1]
        letter[2:] &= ~lead[:-2]
    starts = letter.copy()
    starts[1:] &= ~letter[:-1]
    firsts = offsets[:-1][offsets[:-1] < offsets[1:]]
    starts[firsts] = letter[firsts]
    return starts | lead if has_lead else starts


def count_all_words(texts: pa.StringArray) -> int:
    """The words of all texts together."""
    offsets, content = buffer_of(texts)
    return sum(int(np.count_nonzero(word_starts(piece, bounds))) for piece, bounds in _slices(offsets, content))


def signatures(texts: pa.StringArray) -> Signatures:
    """MinHash signatures of shape (n, `NUM_HASHES`) over runs of five words, case and spaces apart."""
    offsets, content = buffer_of(texts)
    rows = [_signatures(piece[:_MOST_BYTES], np.minimum(b, _MOST_BYTES)) for piece, b in _slices(offsets, content)]
    return np.concatenate(rows) if rows else np.zeros((0, NUM_HASHES), np.uint32)


def _slices(offsets: Offsets, content: Bytes) -> Iterator[tuple[Bytes, Offsets]]:
    """Some texts at a time: those that fit a slice, or one that is longer."""
    start = 0
    while start + 1 < len(offsets):
        end = max(start + 1, int(np.searchsorted(offsets, offsets[start] + _SLICE_BYTES, "right")) - 1)
        yield content[offsets[start] : offsets[end]], offsets[start : end + 1] - offsets[start]
        start = end


def _signatures(content: Bytes, offsets: Offsets) -> Signatures:
    hashes, bounds = _shingles(content, offsets)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, bounds.astype(np.uint64), NUM_HASHES, _SEED)
    return np.array(matrix.to_rows(), np.uint32)


def _shingles(content: Bytes, offsets: Offsets) -> tuple[Hashes, Offsets]:
    """A hash for each run of words (fewer at a text's end), and where each text's hashes begin (n + 1)."""
    upper = (content >= ord("A")) & (content <= ord("Z"))
    folded = np.where(upper, content + 32, content)
    starts = np.flatnonzero(word_starts(content, offsets))
    bounds = np.searchsorted(starts, offsets)
    if not len(starts):
        return np.zeros(0, np.uint64), bounds
    lengths = np.diff(np.append(starts, len(content)))
    place = np.arange(starts[0], len(content)) - np.repeat(starts, lengths)
    values = np.where(folded > _SPACE, folded, 0)[starts[0] :].astype(np.uint64)
    words = np.add.reduceat(values * _POWERS[place & 63], starts - starts[0])
    words = mixed(words)
    left = np.repeat(bounds[1:], np.diff(bounds)) - np.arange(len(words))  # words from here to the text's end
    hashes = words.copy()
    for ahead in range(1, min(_SHINGLE_WORDS, len(words))):
        hashes[:-ahead] += np.where(left[:-ahead] > ahead, words[ahead:] * _POWERS[ahead], 0)
    return mixed(hashes), bounds


def mixed(hashes: Hashes) -> Hashes:
    """The hashes with every bit spread over all of them."""
    hashes = hashes ^ (hashes >> np.uint64(32))
    hashes = hashes * _MIX
    return hashes ^ (hashes >> np.uint64(29))
