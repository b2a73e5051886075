"""Related documents without a model: by the words that they share (BM25), and by entities.

Reads an index of `augment_service.related.build`, memory-mapped, and its documents. All answers are the same for the
same documents, on every machine, and stay within one corpus.
"""

import json
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from augment_service.related.build import DESCRIPTION, build_index, hashes, index_path, salt_of
from augment_service.related.documents import Documents
from augment_service.related.groups import Group, draw_groups
from augment_service.related.postings import Array, read_array
from augment_service.related.words import Ints, Keys, count_words
from data.errors import InputError

INDEX = "index"
K1, B = 1.2, 0.75  # of BM25
MOST_WORDS = 64  # of a document that look for others
MOST_POSTINGS = 1 << 17  # that are read for a query
_DENSE = 32  # rows of the corpus per posting: up to here, an array of all rows is faster than sorting
_SPARE = 32  # documents ranked beside those that are asked for, since copies are left out
Floats = npt.NDArray[np.float64]


def index_folder(documents: Path, fallback: Path) -> Path:
    """Where the index of these documents is kept: beside them, or in `fallback` if that place cannot be written."""
    beside = documents.absolute().with_name(INDEX if documents.name == "documents" else f"{documents.name}.{INDEX}")
    if is_indexed(documents, beside) or os.access(beside if beside.exists() else beside.parent, os.W_OK):
        return beside
    return fallback


def is_indexed(documents: Path, folder: Path) -> bool:
    """Whether `folder` has the index of these documents, complete."""
    return (index_path(documents, folder) / DESCRIPTION).exists()


def open_index(documents: Path, fallback: Path, on_progress: Callable[[int], None] = lambda done: None) -> "Index":
    """The index of a sealed folder of documents, built where there is none.

    `on_progress` is called with the number of documents that are done. Raises InputError if it cannot be written.
    """
    return opened(str(build_index(documents, index_folder(documents, fallback), on_progress)), str(documents))


@lru_cache(maxsize=4)
def opened(folder: str, documents: str) -> "Index":
    """An index that is built, opened once in a process: what an actor is told of an index are these two paths."""
    return Index(Path(folder), Path(documents))


class Index:
    """The index in `folder` of the documents in `documents`. Documents are named by their row over all shards."""

    def __init__(self, folder: Path, documents: Path) -> None:
        self.folder, self.documents = folder, Documents(documents)
        try:
            described = json.loads((folder / DESCRIPTION).read_text())
        except (OSError, ValueError) as error:
            hint = "delete the folder: it is built again"
            raise InputError(f"the index is damaged: {error}", where=str(folder), hint=hint) from error
        self._names = list(described["corpora"])
        self._numbers = {name: number for number, name in enumerate(self._names)}
        sizes = list(described["corpora"].values())
        self._sizes = [size["documents"] for size in sizes]
        self._mean_lengths = [max(1.0, size["words"] / size["documents"]) for size in sizes]
        self._arrays: dict[str, Array] = {}

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def corpora(self) -> list[str]:
        """The corpora of the documents, in their order."""
        return self._names

    def array(self, name: str) -> Array:
        """One of the index's arrays, by the name of its file."""
        if name not in self._arrays:
            path = self.folder / f"{name}.npy"
            try:
                self._arrays[name] = np.asarray(read_array(path))
            except (OSError, ValueError) as error:
                hint = "delete its folder: the index is built again"
                raise InputError(f"the index is damaged: {error}", where=str(path), hint=hint) from error
        return self._arrays[name]

    def rows_of(self, doc_ids: Sequence[str]) -> list[int]:
        """The row of each document id. Raises KeyError for an unknown one."""
        known, wanted = self.array("id_keys"), hashes(doc_ids)
        places = np.searchsorted(known, wanted)
        for doc_id, place, key in zip(doc_ids, places.tolist(), wanted.tolist(), strict=True):
            if place == len(known) or known[place] != key:
                raise KeyError(doc_id)
        return [int(row) for row in self.array("id_rows")[places]]

    def nearest(self, rows: Sequence[int], count: int) -> list[tuple[int, ...]]:
        """For each document the `count` most related others of its corpus, the most related first.

        Fewer where no others share a word. Documents with the text of this one, or of one that is listed already, are
        left out. Of equally related ones the earlier comes first.
        """
        texts = self.documents.texts(rows)
        return [
            self._nearest(text, int(self.array("corpora")[row]), count, row)
            for row, text in zip(rows, texts, strict=True)
        ]

    def search(self, queries: Sequence[str], count: int, *, corpus: str) -> list[tuple[int, ...]]:
        """As `nearest`, for texts that are no documents: the most related documents of a corpus."""
        if corpus not in self._numbers:
            return [() for _ in queries]
        return [self._nearest(query, self._numbers[corpus], count, None) for query in queries]

    def groups(self, row: int, size: int, count: int, seed: int) -> list[Group]:
        """At most `count` groups of `size` (2 or 3) entities that a document links, as `draw_groups` says."""
        return draw_groups(self, row, size, count, seed)

    def entities_of(self, row: int) -> Ints:
        """The numbers of a document's entities, in the order of its text."""
        ends = self.array("document_ends")
        return self.array("document_entities")[ends[row - 1] if row else 0 : ends[row]].astype(np.int64)

    def entity_texts(self, entities: Sequence[int]) -> list[str]:
        """Entities as they are written where they are found first, on one line."""
        places = self.array("entity_places")[list(entities)]
        texts = self.documents.texts(places["row"].tolist())
        found = zip(texts, places["start"].tolist(), places["length"].tolist(), strict=True)
        return [" ".join(text[start : start + length].split()) for text, start, length in found]

    def entity_kinds(self, entities: Ints) -> Ints:
        """The kinds of some entities, as in `augment_service.related.entities`."""
        return self.array("entity_places")["kind"][entities].astype(np.int64)

    def entity_documents(self, entities: Ints) -> Ints:
        """In how many documents each of some entities is."""
        ends = self.array("entity_ends")
        return ends[entities] - np.where(entities > 0, ends[entities - 1], 0)

    def holders(self, entity: int, most: int) -> Ints:
        """The rows of the documents that have an entity, ascending; the first `most`."""
        ends = self.array("entity_ends")
        start = int(ends[entity - 1]) if entity else 0
        return self.array("entity_rows")[start : min(start + most, int(ends[entity]))].astype(np.int64)

    def corpus_size(self, row: int) -> int:
        """The number of documents in the corpus of a document."""
        return self._sizes[int(self.array("corpora")[row])]

    def _nearest(self, text: str, corpus: int, count: int, own: int | None) -> tuple[int, ...]:
        """The rows of the most related documents; `own` is not among them."""
        rows, scores = self._scores(text, corpus)
        texts = self.array("texts")
        seen = set() if own is None else {int(texts[own])}
        wanted = count + _SPARE
        while True:
            ranked = _best(rows, scores, wanted)
            found: list[int] = []
            known = set(seen)
            for row, key in zip(ranked.tolist(), texts[ranked].tolist(), strict=True):
                if key not in known and len(found) < count:
                    known.add(key)
                    found.append(row)
            if len(found) == count or len(ranked) == len(rows):
                return tuple(found)
            wanted *= 4

    def _scores(self, text: str, corpus: int) -> tuple[Ints, Floats]:
        """The documents of a corpus that share telling words with a text, and how related they are.

        The words that tell the most are looked up, as long as their postings are not too many: in a large corpus the
        frequent ones do not count.
        """
        counts = count_words([text])
        places, found = self._places(counts.keys ^ np.uint64(salt_of(self._names[corpus])))
        times = counts.counts[found]
        documents, ends = self.array("word_documents")[places].astype(np.float64), self.array("word_ends")
        stops = ends[places]
        starts = np.where(places > 0, ends[places - 1], 0)
        size = self._sizes[corpus]
        rarity = np.log1p((size - documents + 0.5) / (documents + 0.5))
        weights = rarity * times * (K1 + 1) / (times + K1)
        sizes = stops - starts
        order = np.lexsort((places, -weights))
        order = order[sizes[order] > 0][:MOST_WORDS]
        total = np.cumsum(sizes[order])
        order = order[(total <= MOST_POSTINGS) | (total == sizes[order])]  # the first one in any case
        held = [slice(start, stop) for start, stop in zip(starts[order].tolist(), stops[order].tolist(), strict=True)]
        rows = self._joined("word_rows", held).astype(np.int64)
        counts_held = self._joined("word_counts", held).astype(np.float64)
        norms = K1 * (1 - B + B / self._mean_lengths[corpus] * self.array("lengths")[rows])
        scores = np.repeat(weights[order], sizes[order]) * (counts_held * (K1 + 1) / (counts_held + norms))
        return _summed(rows, scores, len(self))

    def _joined(self, name: str, slices: Sequence[slice]) -> Array:
        array = self.array(name)
        return np.concatenate([array[:0], *(array[one] for one in slices)])

    def _places(self, keys: Keys) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """The places of those keys that are words of the index, and which they are."""
        known = self.array("word_keys")
        places = np.searchsorted(known, keys)
        found = places < len(known)
        found[found] = known[places[found]] == keys[found]
        return places[found], found


def _summed(rows: Ints, scores: Floats, num_rows: int) -> tuple[Ints, Floats]:
    """The distinct rows, and the sum of the scores of each."""
    if num_rows <= _DENSE * len(rows):
        dense = np.bincount(rows, scores, num_rows)
        distinct = np.flatnonzero(dense)
        sums = dense[distinct]
    else:
        distinct, group = np.unique(rows, return_inverse=True)
        sums = np.bincount(group, scores, len(distinct))
    # Rounded: sums that are equal but for the order of their terms are ties.
    return distinct, sums.astype(np.float32).astype(np.float64)


def _best(rows: Ints, scores: Floats, count: int) -> Ints:
    """The rows of the highest scores, at least `count` if there are as many; of equal scores the earlier row first."""
    if len(rows) > count:
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        kept = scores >= least
        rows, scores = rows[kept], scores[kept]
    return rows[np.lexsort((rows, -scores))]
