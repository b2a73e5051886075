"""Rows that say what an earlier row of their corpus says, over a whole run, batch by batch.

A kept row repeats an earlier one if

1. both have the same folded text (case, spaces, quotes and marks at the ends), or
2. both have the same words in the same order, when case, punctuation, hyphens between letters, markers of list items,
   articles, "that", and linking adverbs such as "also" and "therefore" are left out. Every other word counts, and so
   does every digit and sign: "heavier" and "lighter", "is" and "is not", 1998 and 1999, Ada and Ida are two statements.
3. Texts of `LONG_WORDS` such words or more repeat an earlier one if they have the same numbers and negations, too, and
   the Jaccard similarity of their runs of five words (ideographs and kana are words by themselves) is about
   `SIMILARITY` or more, estimated by MinHash. That is one other word in a hundred; in a shorter text no word inside it
   could differ. A name that occurs once may be another one.

The English words of rule 2 are left out in every language; those of other languages count, since articles tell the
subject from the object in some. Memory: 24 bytes for a kept row and 192 for a long one; signatures (524 bytes each) are
in a scratch file.
"""

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa

from augment_service.answers.folding import bare_words, fold
from augment_service.answers.verdicts import KEPT
from data.corpora.arrays import Mask, string_array
from data.corpora.duplicates import KeyTable, NearDuplicates
from data.corpora.words import Hashes, signatures

SIMILARITY = 0.9
LONG_WORDS = 100
_GUARDED = re.compile(
    r"(?<!\S)(?:\S*\d\S*|not|no|never|none|neither|nor|nobody|nothing|without|cannot|\w+n't|nicht|kein\w*|nie|ohne|pas|"
    r"jamais|sans|sin|nunca|senza|mai|не|нет|без|لا|ليس|لم|لن|[不没沒無无非未]|な い|ま せ ん)(?!\S)"
)
_SEPARATOR = "\x1f"


class RepeatFinder:
    """The kept rows seen so far. `scratch` is a file for the signatures of long texts; it is rewritten."""

    def __init__(self, scratch: Path) -> None:
        self._folded, self._bare = KeyTable(), KeyTable()
        self._near = NearDuplicates(SIMILARITY, scratch, 0)
        self._num_seen = 0

    def find(self, rows: pa.Table) -> Mask:
        """Which of the next rows repeat an earlier one of their corpus; the others are remembered.

        Columns: `corpus` and `text`; with `verdict`, rows that are not kept neither repeat nor are repeated; with
        `question`, it is part of the text. Documents, which have neither, come first: then what they say is repeated.
        """
        places = np.arange(rows.num_rows)
        if "verdict" in rows.column_names:
            places = np.flatnonzero([verdict == KEPT for verdict in rows["verdict"].to_pylist()])
        corpora, texts = rows["corpus"].to_pylist(), rows["text"].to_pylist()
        if "question" in rows.column_names:
            questions = rows["question"].to_pylist()
            texts = [f"{asked}\n{text}" if asked else text for asked, text in zip(questions, texts, strict=True)]
        repeats = np.zeros(rows.num_rows, bool)
        chosen = places.tolist()
        repeats[places] = self._find([corpora[place] for place in chosen], [texts[place] for place in chosen])
        return repeats

    def _find(self, corpora: Sequence[str], texts: Sequence[str]) -> Mask:
        bare = [bare_words(text) for text in texts]
        is_new = self._folded.add(_keys(corpora, map(fold, texts)))
        is_new &= self._bare.add(_keys(corpora, bare))
        is_long = np.fromiter((text.count(" ") + 1 >= LONG_WORDS for text in bare), bool, len(bare))
        rows = np.flatnonzero(is_new & is_long)
        if len(rows):
            chosen = [bare[row] for row in rows.tolist()]
            guards = _keys([corpora[row] for row in rows.tolist()], map(_guarded, chosen)).astype(np.uint32)
            # Signatures with other guards share no hash, so they are never similar.
            guarded = signatures(string_array(chosen)) ^ guards[:, None]
            lines = np.arange(self._num_seen, self._num_seen + len(rows))
            found = self._near.originals(guarded, np.zeros(len(rows), np.int64), lines)
            self._num_seen += len(rows)
            is_new[rows[list(found)]] = False
        return ~is_new


def _guarded(bare: str) -> str:
    """The numbers and negations of a text, in any order."""
    return " ".join(sorted(_GUARDED.findall(bare)))


def _keys(corpora: Iterable[str], texts: Iterable[str]) -> Hashes:
    """64 bits for each text in its corpus."""
    whole = b"".join(
        blake2b(f"{corpus}{_SEPARATOR}{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for corpus, text in zip(corpora, texts, strict=True)
    )
    return np.frombuffer(whole, np.uint64)
