"""Builds the index of a sealed folder of documents: words, then entities, in two passes over the texts.

Writes a folder of `.npy` files and `index.json`, under a temporary name that is replaced at the end. Memory is bounded,
whatever the number of documents: a part of the texts, or a part of the sorted runs, is in memory at a time.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augment_service.related.documents import Documents
from augment_service.related.entities import Entity, entities_of, find_candidates, rare_words
from augment_service.related.postings import Array, GrowingArray, SortedRuns, read_array, starts_of
from augment_service.related.words import Keys, WordCounts, count_words, fold, key_of
from cluster.locks import hold_lock
from data.errors import InputError
from data.seeds import fingerprint
from data.store import content_of, temporary_path, write_json

VERSION = 1  # raise it when the same documents would be indexed otherwise
DESCRIPTION = "index.json"
PART_BYTES = 8 << 20  # of text in memory
MOST_DOCUMENTS, SHARE_OF_DOCUMENTS = 1 << 17, 16  # a word in more than both (one document in 16) has no postings
MOST_ENTITIES = 48  # of a document
ENOUGH_ENTITIES = 8  # a document with fewer has rare words, too, that it repeats
FEW_ENTITIES = 4  # and one with fewer any word that is not in too many documents
RARE_SHARE, NOT_COMMON_SHARE = 0.05, 0.25  # of the documents of a corpus: rare words are in no more; the others neither
_RARE_DOCUMENTS = 16  # or in no more than this
MOST_RARE = 24  # words of a document that are looked at
_RUNS, _LOCK, _KEYS = "runs", "lock", "keys"
_KEYS_READ = 1 << 22
CASE = np.dtype([("lower", np.uint32), ("capital", np.uint32)])
POSTING = np.dtype([("row", np.uint32), ("count", np.uint8)])
PLACE = np.dtype([("row", np.uint32), ("start", np.uint32), ("length", np.uint8), ("kind", np.uint8)])
Case = tuple[int, int]  # documents that have a word in lower case, and with a capital within a sentence


def build_index(documents: Path, folder: Path, on_progress: Callable[[int], None] = lambda done: None) -> Path:
    """Write the index of these documents into `folder`, unless it is there; returns its own folder in it.

    `on_progress` is called with the number of documents that are done, of all. What a killed build left is removed.
    Raises InputError where the folder cannot be written.
    """
    target = index_path(documents, folder)
    if (target / DESCRIPTION).exists():
        return target
    work = temporary_path(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        work.mkdir()
    except OSError as error:
        hint = "choose a folder on a disk that can be written"
        raise InputError(f"cannot write the index: {error.strerror}", where=str(folder), hint=hint) from error
    try:
        with hold_lock(work / _LOCK, "the index is being built"):
            _Build(Documents(documents), work, on_progress).run(content_of(documents))
        (work / _LOCK).unlink()
        with suppress(OSError):  # another process was faster
            work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def index_path(documents: Path, folder: Path) -> Path:
    """Where `build_index` writes the index of these documents."""
    return folder / fingerprint(VERSION, content_of(documents))


def salt_of(corpus: str) -> int:
    """What is combined with the keys of a corpus, so that each has words, counts and entities of its own."""
    return key_of(f"\x00{corpus}")


def hashes(texts: Sequence[str]) -> Keys:
    """The 64-bit hash of each text, or id."""
    digests = b"".join(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed builds left: their locks have ended with them."""
    for leftover in folder.glob(".*.tmp"):
        with suppress(InputError), hold_lock(leftover / _LOCK, "") as is_locked:
            if is_locked:
                shutil.rmtree(leftover, ignore_errors=True)


class _Build:
    """One build, in a folder of its own."""

    def __init__(self, documents: Documents, folder: Path, on_progress: Callable[[int], None]) -> None:
        self._documents, self._folder, self._on_progress = documents, folder, on_progress
        self._corpora: dict[str, int] = {}
        self._sizes: list[int] = []  # documents of each corpus
        self._lengths: list[int] = []  # words of each corpus
        self._num_read = 0

    def run(self, content: str) -> None:
        """Both passes, then the description."""
        self._index_words()
        self._index_entities()
        sizes = zip(self._corpora, self._sizes, self._lengths, strict=True)
        corpora = {name: {"documents": size, "words": length} for name, size, length in sizes}
        write_json(self._folder / DESCRIPTION, {"version": VERSION, "content": content, "corpora": corpora})

    def _parts(self) -> Iterator[tuple[int, pa.Table, npt.NDArray[np.int64]]]:
        """The documents part by part, with the number of each one's corpus; a pass is half of the work."""
        for first, table in self._documents.parts(PART_BYTES):
            names = table["corpus"].to_pylist()
            for name in names:
                if name not in self._corpora:
                    self._corpora[name] = len(self._corpora)
                    self._sizes.append(0)
                    self._lengths.append(0)
            yield first, table, np.array([self._corpora[name] for name in names], np.int64)
            self._num_read += table.num_rows
            self._on_progress(self._num_read // 2)

    def _arrays(self, stack: ExitStack, **kinds: npt.DTypeLike) -> list[GrowingArray]:
        return [stack.enter_context(GrowingArray(self._folder / f"{name}.npy", kind)) for name, kind in kinds.items()]

    def _salts(self) -> Keys:
        return np.array([salt_of(name) for name in self._corpora], np.uint64)

    def _index_words(self) -> None:
        """The words of each corpus and their postings; for each document its corpus, its length, hashes of id, text."""
        words, ids = SortedRuns(self._folder / _RUNS / "words"), SortedRuns(self._folder / _RUNS / "ids")
        with ExitStack() as stack:
            corpora, lengths, texts = self._arrays(stack, corpora=np.uint32, lengths=np.uint32, texts=np.uint64)
            for first, table, numbers in self._parts():
                found = table["text"].to_pylist()
                counts = count_words(with_headings(found, table))
                words.add(*_word_run(counts, self._salts()[numbers[counts.texts]], first))
                own = hashes(table["doc_id"].to_pylist())
                order = np.argsort(own, kind="stable")
                ids.add(own[order], (first + order).astype(np.uint32))
                corpora.append(numbers)
                lengths.append(counts.lengths)
                texts.append(hashes(found))
                for number in np.unique(numbers).tolist():
                    self._sizes[number] += int(np.count_nonzero(numbers == number))
                    self._lengths[number] += int(counts.lengths[numbers == number].sum())
        with ExitStack() as stack:
            keys, rows = self._arrays(stack, id_keys=np.uint64, id_rows=np.uint32)
            for merged in ids.merged():
                keys.append(np.repeat(merged.keys, merged.counts))
                rows.append(merged.values)
        self._merge_words(words)
        shutil.rmtree(self._folder / _RUNS)

    def _merge_words(self, words: SortedRuns) -> None:
        most = max(MOST_DOCUMENTS, len(self._documents) // SHARE_OF_DOCUMENTS)
        with ExitStack() as stack:
            keys, ends, documents, lower, capital, rows, counts = self._arrays(
                stack,
                word_keys=np.uint64,
                word_ends=np.int64,
                word_documents=np.uint32,
                word_lower=np.uint32,
                word_capital=np.uint32,
                word_rows=np.uint32,
                word_counts=np.uint8,
            )
            for merged in words.merged(most=most):
                keys.append(merged.keys)
                ends.append(len(rows) + np.cumsum(np.where(merged.kept, merged.counts, 0)))
                documents.append(merged.counts)
                lower.append(merged.total("lower"))
                capital.append(merged.total("capital"))
                rows.append(merged.values["row"])
                counts.append(merged.values["count"])

    def _index_entities(self) -> None:
        """The entities of each corpus, where each is written first, who holds them; and those of each document."""
        runs = SortedRuns(self._folder / _RUNS / "entities")
        with ExitStack() as stack:
            (ends,) = self._arrays(stack, document_ends=np.int64)
            found_keys = stack.enter_context(GrowingArray(self._folder / _RUNS / f"{_KEYS}.npy", np.uint64))
            for first, table, numbers in self._parts():
                found = self._entities(table, numbers)
                sizes = [len(entities) for entities in found]
                ends.append(len(found_keys) + np.cumsum(sizes))
                rows = np.repeat(np.arange(len(found)), sizes)
                keys = np.array([key_of(entity.folded) for entities in found for entity in entities], np.uint64)
                keys ^= self._salts()[numbers[rows]]
                found_keys.append(keys)
                order = np.argsort(keys, kind="stable")
                places = _places(found, first + rows)[order]
                runs.add(keys[order], places["row"], places[starts_of(keys[order])])
        self._merge_entities(runs)
        known, keys = read_array(self._folder / "entity_keys.npy"), read_array(self._folder / _RUNS / f"{_KEYS}.npy")
        with ExitStack() as stack:
            (numbers_held,) = self._arrays(stack, document_entities=np.uint32)
            for start in range(0, len(keys), _KEYS_READ):
                numbers_held.append(np.searchsorted(known, keys[start : start + _KEYS_READ]))
        shutil.rmtree(self._folder / _RUNS)

    def _merge_entities(self, runs: SortedRuns) -> None:
        with ExitStack() as stack:
            keys, ends, rows, places = self._arrays(
                stack, entity_keys=np.uint64, entity_ends=np.int64, entity_rows=np.uint32, entity_places=PLACE
            )
            for merged in runs.merged():
                keys.append(merged.keys)
                ends.append(len(rows) + np.cumsum(merged.counts))
                rows.append(merged.values)
                places.append(merged.first_entries())

    def _entities(self, table: pa.Table, numbers: npt.NDArray[np.int64]) -> list[list[Entity]]:
        """The entities of each document of a part."""
        texts = table["text"].to_pylist()
        has_outlines = "outline" in table.column_names
        outlines = table["outline"].to_pylist() if has_outlines else [()] * len(texts)
        found: list[list[Entity]] = [[] for _ in texts]
        names = list(self._corpora)
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number).tolist()
            salt, size = salt_of(names[number]), self._sizes[number]
            candidates = {row: find_candidates(texts[row], outlines[row]) for row in rows}
            asked = (fold(word) for own in candidates.values() for one in own if one.is_run for word in one.words)
            case = self._cases(list(dict.fromkeys(asked)), salt)
            for row, own in candidates.items():
                found[row] = entities_of(own, case.__getitem__, MOST_ENTITIES)
            poor = [row for row in rows if len(found[row]) < ENOUGH_ENTITIES]
            few = [len(found[row]) < FEW_ENTITIES for row in poor]
            rare = self._rare_words([texts[row] for row in poor], few, salt, size)
            for row, words in zip(poor, rare, strict=True):
                found[row] = _with_rare(found[row], words)
        return found

    def _cases(self, words: Sequence[str], salt: int) -> dict[str, Case]:
        """In how many documents of a corpus folded words are in lower case, and with a capital within a sentence."""
        keys = np.array([key_of(word) for word in words], np.uint64)
        lower, capital = self._look_up(keys ^ np.uint64(salt), "lower", "capital")
        return dict(zip(words, zip(lower.tolist(), capital.tolist(), strict=True), strict=True))

    def _rare_words(self, texts: Sequence[str], few: Sequence[bool], salt: int, size: int) -> Iterator[list[Entity]]:
        """The most telling words of each text, of a corpus of `size` documents.

        Words that a text repeats and few documents have are what it is about; others, and less rare ones, are taken
        only for the texts that have `few` entities.
        """
        counts = count_words(texts)
        (documents,) = self._look_up(counts.keys ^ np.uint64(salt), "documents")
        is_rare = (documents <= max(_RARE_DOCUMENTS, size * RARE_SHARE)) & (counts.counts > 1)
        is_told = (documents <= max(_RARE_DOCUMENTS, size * NOT_COMMON_SHARE)) & ((documents > 1) | (counts.counts > 1))
        rows = np.flatnonzero(is_rare | (is_told & np.array(few, bool)[counts.texts]))
        weights = counts.counts[rows] * np.log((size + 1) / documents[rows])
        rows = rows[np.lexsort((-weights, ~is_rare[rows], counts.texts[rows]))]
        ends = np.searchsorted(counts.texts[rows], np.arange(len(texts)), "right").tolist()
        keys, start = counts.keys[rows].tolist(), 0
        spelled: dict[int, list[str]] = {}
        for word, key in counts.spelled.items():
            spelled.setdefault(key, []).append(word)
        for text, end in zip(texts, ends, strict=True):
            yield rare_words(text, keys[start : min(end, start + MOST_RARE)], spelled)
            start = end

    def _look_up(self, keys: Keys, *columns: str) -> list[npt.NDArray[np.int64]]:
        """Columns of the words of these keys, 0 for unknown ones."""
        known = read_array(self._folder / "word_keys.npy")
        if not len(known):
            return [np.zeros(len(keys), np.int64) for _ in columns]
        places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        is_known = known[places] == keys
        arrays = [read_array(self._folder / f"word_{name}.npy") for name in columns]
        return [np.where(is_known, array[places], 0).astype(np.int64) for array in arrays]


def with_headings(texts: Sequence[str], table: pa.Table) -> list[str]:
    """Texts with the headings above them, as they are indexed: a part of a document may not say what it is about."""
    if "heading" not in table.column_names:
        return list(texts)
    headings = table["heading"].to_pylist()
    return [f"{heading}\n{text}" if heading else text for heading, text in zip(headings, texts, strict=True)]


def _word_run(counts: WordCounts, salts: Keys, first: int) -> tuple[Keys, Array, Array]:
    """Keys, postings and cases, for `SortedRuns.add`."""
    keys = counts.keys ^ salts
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    postings = np.zeros(len(keys), POSTING)
    postings["row"] = first + counts.texts[order]
    postings["count"] = np.minimum(counts.counts[order], np.iinfo(np.uint8).max)
    starts = starts_of(keys)
    cases = np.zeros(len(starts), CASE)
    for name, flags in (("lower", counts.lower), ("capital", counts.capital)):
        cases[name] = np.add.reduceat(flags[order].astype(np.uint32), starts) if len(starts) else 0
    return keys, postings, cases


def _places(found: Sequence[Sequence[Entity]], rows: npt.NDArray[np.int64]) -> Array:
    entities = [entity for own in found for entity in own]
    places = np.zeros(len(entities), PLACE)
    places["row"] = rows
    places["start"] = [entity.start for entity in entities]
    places["length"] = [len(entity.text) for entity in entities]
    places["kind"] = [entity.kind for entity in entities]
    return places


def _with_rare(entities: list[Entity], rare: Sequence[Entity]) -> list[Entity]:
    """Entities and rare words, as many as are wanted, none that is a part of one, in the order of the text."""
    within = {fold(part) for entity in entities for part in entity.text.split()}
    new = [word for word in rare if fold(word.text) not in within]
    return sorted([*entities, *new[: ENOUGH_ENTITIES - len(entities)]], key=lambda entity: entity.start)
