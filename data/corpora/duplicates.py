"""Duplicates: documents by their key, and near-duplicates by MinHash signatures.

In memory: 12 bytes for a key; 16 keys for each document if near-duplicates are searched for. Keys and signatures are
also stored in files, from which an interrupted import resumes.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.corpora.arrays import Mask
from data.corpora.reading import GrowingFile
from data.corpora.words import NUM_HASHES, Hashes, Signatures, mixed

_BANDS = 16  # of 8 hashes: finds 95% of the pairs with a similarity of 0.8, and nearly all above
_NONE = -1
Place = tuple[int, int]  # source, line
Numbers = npt.NDArray[np.int64]
_ROWS_READ = 8192  # signatures at a time, of an interrupted import
_ROW = np.dtype([("signature", np.uint32, NUM_HASHES), ("source", np.int32), ("line", np.int64)])


class SeenKeys:
    """The keys of all documents seen so far. `length` bytes of the file are those of an interrupted import."""

    def __init__(self, path: Path, length: int) -> None:
        self._table, self.file = KeyTable(), GrowingFile(path, length)
        known = np.fromfile(path, np.uint64)
        self._table.insert(known, np.zeros(len(known), np.int64))

    def add(self, keys: Hashes) -> Mask:
        """Which of the keys are new (of equal ones, the first); remembers them."""
        is_new = self._table.add(keys)
        self.file.append(keys[is_new].tobytes())
        return is_new


class KeyTable:
    """Maps 64-bit keys to numbers, in batches: sorted runs; neighbours of similar size are merged."""

    def __init__(self) -> None:
        self._runs: list[tuple[Hashes, npt.NDArray[np.uint32]]] = []

    def find(self, keys: Hashes) -> Numbers:
        """The number of each key, -1 for the unknown."""
        found = np.full(len(keys), _NONE, np.int64)
        order = np.argsort(keys)  # neighbouring look-ups touch neighbouring memory
        ordered = keys[order]
        for known, numbers in self._runs:
            places = np.minimum(np.searchsorted(known, ordered), len(known) - 1)
            hits = known[places] == ordered
            found[order[hits]] = numbers[places[hits]]
        return found

    def add(self, keys: Hashes) -> Mask:
        """Which of the keys are new (of equal ones, the first); adds them."""
        _, firsts = np.unique(keys, return_index=True)
        is_new = np.zeros(len(keys), bool)
        is_new[firsts] = True
        is_new &= self.find(keys) < 0
        self.insert(keys[is_new], np.zeros(int(is_new.sum()), np.int64))
        return is_new

    def insert(self, keys: Hashes, numbers: Numbers) -> None:
        """Add keys; of equal ones in one call the first is kept."""
        if not len(keys):
            return
        unique, first = np.unique(keys, return_index=True)
        run = unique, numbers[first].astype(np.uint32)
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            older = self._runs.pop()
            joined = np.concatenate([older[0], run[0]])
            order = np.argsort(joined, kind="stable")  # merges the two sorted runs
            run = joined[order], np.concatenate([older[1], run[1]])[order]
        self._runs.append(run)


class NearDuplicates:
    """Which documents are similar to an earlier one that was kept; similarity is estimated from signatures.

    `length` bytes of the file of signatures are those of an interrupted import.
    """

    def __init__(self, similarity: float, path: Path, length: int) -> None:
        self._similarity = similarity
        self._table, self._num_kept = KeyTable(), 0
        self.file = GrowingFile(path, length)
        with path.open("rb") as file:
            while len(rows := np.fromfile(file, _ROW, _ROWS_READ)):
                self._insert(_band_keys(rows["signature"]))

    def originals(self, signatures: Signatures, sources: Numbers, lines: Numbers) -> dict[int, Place]:
        """For a batch of documents: by row, the place of the kept document that it resembles. The others are kept."""
        keys = _band_keys(signatures)
        places = self._find(signatures, keys)
        leaders: dict[int, int] = {}
        for row, earlier in _pairs_within(keys):
            leader = leaders.get(earlier, earlier)
            if row not in places and (leader not in places) and self._is_similar(signatures[row], signatures[leader]):
                places[row] = int(sources[leader]), int(lines[leader])
                leaders[row] = leader
        kept = np.array([row for row in range(len(keys)) if row not in places], np.int64)
        self._keep(signatures[kept], keys[kept], sources[kept], lines[kept])
        return places

    def _find(self, signatures: Signatures, keys: Hashes) -> dict[int, Place]:
        """Documents of the batch that are similar to one of an earlier batch, by row."""
        numbers = self._table.find(keys.ravel()).reshape(keys.shape)
        rows, bands = np.nonzero(numbers != _NONE)
        places: dict[int, Place] = {}
        for row, number in np.unique(np.stack([rows, numbers[rows, bands]], axis=1), axis=0).tolist():
            if row not in places:
                stored = np.frombuffer(self.file.read(number * _ROW.itemsize, _ROW.itemsize), _ROW)[0]
                if self._is_similar(signatures[row], stored["signature"]):
                    places[row] = int(stored["source"]), int(stored["line"])
        return places

    def _keep(self, signatures: Signatures, keys: Hashes, sources: Numbers, lines: Numbers) -> None:
        rows = np.zeros(len(keys), _ROW)
        rows["signature"], rows["source"], rows["line"] = signatures, sources, lines
        self.file.append(rows.tobytes())
        self.file.flush()
        self._insert(keys)

    def _insert(self, keys: Hashes) -> None:
        numbers = np.arange(self._num_kept, self._num_kept + len(keys))
        self._table.insert(keys.ravel(), np.repeat(numbers, _BANDS))
        self._num_kept += len(keys)

    def _is_similar(self, one: Signatures, other: Signatures) -> bool:
        return bool(np.count_nonzero(one == other) >= self._similarity * NUM_HASHES)


def _band_keys(signatures: Signatures) -> Hashes:
    """One key for each band, of shape (n, bands); the same hashes in another band are another key."""
    bands = signatures.reshape(len(signatures), _BANDS, -1).astype(np.uint64)
    weights = mixed(np.arange(1, bands.shape[2] + 1, dtype=np.uint64)) | np.uint64(1)
    return mixed((bands * weights).sum(axis=2) + mixed(np.arange(_BANDS, dtype=np.uint64)))


def _pairs_within(keys: Hashes) -> list[tuple[int, int]]:
    """Pairs (row, earlier row) that share a key, in the order of rows: the earlier is the first of its kind."""
    pairs: set[tuple[int, int]] = set()
    for band in keys.T:
        _, firsts, group = np.unique(band, return_index=True, return_inverse=True)
        earlier = firsts[group]
        later = np.flatnonzero(earlier < np.arange(len(keys)))
        pairs.update(zip(later.tolist(), earlier[later].tolist(), strict=True))
    return sorted(pairs)
