"""The result of an import: `Tally` counts while it runs, `Summary` is stored in the manifest.

Pure.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.corpora.arrays import Offsets as Numbers
from data.corpora.arrays import numbers_of
from data.corpora.words import count_all_words
from data.sentences import count_words

MOST_NAMED = 20  # files that gave nothing, in the summary


@dataclass(frozen=True)
class Summary:
    """The result of an import. `num_rejected` counts by reason, near-duplicates included.

    `files` and `documents` count by kind of file, `languages` counts documents by code ("" if it could not be told).
    `longest` and `shortest` have id, file, words and characters of a document. `fruitless` names the first files that
    gave no document, of `num_fruitless`; `others` counts files of other kinds in folders, by suffix. `repeated` has
    the commonest of the `num_repeated` repeated lines with the documents that hold them, of `num_compared` documents:
    all if lines were removed (`num_dropped_lines`), else a sample.
    """

    num_files: int
    num_bytes: int
    num_documents: int
    num_words: int
    num_rejected: dict[str, int]
    files: dict[str, int] = field(default_factory=dict)
    documents: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)
    longest: dict[str, Any] = field(default_factory=dict)
    shortest: dict[str, Any] = field(default_factory=dict)
    num_fruitless: int = 0
    fruitless: list[str] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)
    num_repeated: int = 0
    num_compared: int = 0
    num_dropped_lines: int = 0


class Tally:
    """Counts documents as they are written; `state` is what a bookmark keeps of it."""

    def __init__(self, num_sources: int, state: dict[str, Any]) -> None:
        self.num_documents, self.num_words = int(state.get("num_documents", 0)), int(state.get("num_words", 0))
        self.languages = Counter[str](state.get("languages", {}))
        self.longest: dict[str, Any] = state.get("longest", {})
        self.shortest: dict[str, Any] = state.get("shortest", {})
        # Documents by source, as runs of equal numbers: most sources of a large folder give one.
        self.by_source = np.repeat(*np.array(state.get("by_source", [[0], [num_sources]]), np.int64))

    def add(self, ids: pa.StringArray, texts: pa.StringArray, sources: Numbers, languages: pa.StringArray) -> None:
        """Count some documents, or parts of documents, at least one: ids, what they say, files by number, languages."""
        self.num_documents += len(ids)
        self.num_words += count_all_words(texts)
        np.add.at(self.by_source, sources, 1)
        for entry in pc.value_counts(languages):
            self.languages[entry["values"].as_py()] += entry["counts"].as_py()
        lengths = numbers_of(pc.utf8_length(texts))
        most, least = int(lengths.argmax()), int(lengths.argmin())
        if not self.longest or lengths[most] > self.longest["characters"]:
            self.longest = _described(ids, texts, sources, most)
        if not self.shortest or lengths[least] < self.shortest["characters"]:
            self.shortest = _described(ids, texts, sources, least)

    @property
    def state(self) -> dict[str, Any]:
        """The counts as JSON."""
        starts = np.flatnonzero(np.diff(self.by_source, prepend=-1))
        runs = np.diff(np.append(starts, len(self.by_source)))
        return {
            "num_documents": self.num_documents,
            "num_words": self.num_words,
            "languages": dict(self.languages),
            "longest": self.longest,
            "shortest": self.shortest,
            "by_source": [self.by_source[starts].tolist(), runs.tolist()],
        }


def _described(ids: pa.StringArray, texts: pa.StringArray, sources: Numbers, row: int) -> dict[str, Any]:
    """A document for the report."""
    text = str(texts[row])
    return {"id": str(ids[row]), "source": int(sources[row]), "words": count_words(text), "characters": len(text)}
