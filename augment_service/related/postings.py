"""Which documents hold which keys, sorted on disk: more of them than fit into memory.

Each batch is written as a run, sorted by key and row; runs are merged range by range of the keys. Keys are hashes, so
equal ranges hold about equally many. Everything is a `.npy` file, which is read memory-mapped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from augment_service.related.words import Ints, Keys

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER_BYTES = 256  # of a .npy file, padded: the length is known at the end only
_VALUES_MERGED = 1 << 21  # at a time, about
Array = npt.NDArray[Any]


class GrowingArray:
    """An array of one dimension that is appended to, in a `.npy` file. A context manager."""

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self._dtype, self._file, self._length = np.dtype(dtype), path.open("wb"), 0
        self._file.write(b"\0" * _HEADER_BYTES)

    def append(self, values: Array) -> None:
        """Append values, converted if need be."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self._length += len(values)

    def __len__(self) -> int:
        return self._length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        described = self._dtype.descr if self._dtype.names else self._dtype.str
        header = repr({"descr": described, "fortran_order": False, "shape": (self._length,)}).encode()
        size = _HEADER_BYTES - len(_MAGIC) - 2
        self._file.seek(0)
        self._file.write(_MAGIC + size.to_bytes(2, "little") + header.ljust(size - 1) + b"\n")
        self._file.close()


def read_array(path: Path) -> Array:
    """A `.npy` file, memory-mapped; never a pickle."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def starts_of(keys: Array) -> Ints:
    """Where a new value begins among sorted ones."""
    return np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)


@dataclass(frozen=True)
class Merged:
    """Some keys, ascending, with all that the runs have of them. `counts` are the values of each key in all runs.

    `values` are in the order of the keys, then of the runs, and `kept` says of which keys they are here. `entries` are
    those of the runs, `entry_keys` the places of their keys; an earlier run's come first.
    """

    keys: Keys
    counts: Ints
    kept: npt.NDArray[np.bool_]
    values: Array
    entries: Array
    entry_keys: Ints

    def first_entries(self) -> Array:
        """The entry of the first run that has the key, for each key."""
        return self.entries[np.unique(self.entry_keys, return_index=True)[1]]

    def total(self, column: str) -> Ints:
        """The sum over a column of the entries, for each key."""
        return np.bincount(self.entry_keys, self.entries[column], len(self.keys)).astype(np.int64)


class SortedRuns:
    """Values on disk in runs that are sorted by key, with an entry for each distinct key of a run."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._num_runs, self._num_values = folder, 0, 0
        folder.mkdir(parents=True)

    def add(self, keys: Keys, values: Array, entries: Array | None = None) -> None:
        """A run: a value for each of the keys, which ascend and may repeat, and an entry for each distinct one."""
        starts = starts_of(keys)
        path = self._folder / f"{self._num_runs:06d}"
        np.save(path.with_suffix(".keys.npy"), keys[starts])
        np.save(path.with_suffix(".starts.npy"), np.append(starts, len(keys)))
        np.save(path.with_suffix(".values.npy"), values)
        np.save(path.with_suffix(".entries.npy"), np.zeros(len(starts), np.uint8) if entries is None else entries)
        self._num_runs += 1
        self._num_values += len(keys)

    def merged(self, *, most: int | None = None) -> Iterator[Merged]:
        """All keys in their order. Keys with more than `most` values come without them."""
        num_parts = -(-self._num_values // _VALUES_MERGED)
        edges = [(part << 64) // num_parts for part in range(1, num_parts)]
        for low, high in zip([0, *edges], [*edges, None], strict=True) if num_parts else ():
            yield self._merge([self._slice(number, low, high) for number in range(self._num_runs)], most)

    def _merge(self, slices: "list[_Slice]", most: int | None) -> Merged:
        keys, group = np.unique(np.concatenate([one.keys for one in slices]), return_inverse=True)
        counts = np.bincount(group, np.concatenate([np.diff(one.starts) for one in slices]), len(keys)).astype(np.int64)
        kept = np.ones(len(keys), bool) if most is None else counts <= most
        values, owners, at = [], [], 0
        for one in slices:  # one after the other: the values of frequent keys are never in memory together
            owner = np.repeat(group[at : at + len(one.keys)], np.diff(one.starts))
            at += len(one.keys)
            values.append(one.values()[kept[owner]])
            owners.append(owner[kept[owner]])
        order = np.argsort(np.concatenate(owners), kind="stable")
        entries = np.concatenate([one.entries for one in slices])
        return Merged(keys, counts, kept, np.concatenate(values)[order], entries, group)

    def _slice(self, number: int, low: int, high: int | None) -> "_Slice":
        """The part of a run whose keys are from `low` to `high` (exclusive). Files are not kept open."""
        path = self._folder / f"{number:06d}"
        keys = read_array(path.with_suffix(".keys.npy"))
        first = int(np.searchsorted(keys, np.uint64(low)))
        last = len(keys) if high is None else int(np.searchsorted(keys, np.uint64(high)))
        starts = np.array(read_array(path.with_suffix(".starts.npy"))[first : last + 1])
        entries = np.array(read_array(path.with_suffix(".entries.npy"))[first:last])
        return _Slice(np.array(keys[first:last]), starts, entries, path.with_suffix(".values.npy"))


@dataclass(frozen=True)
class _Slice:
    keys: Keys
    starts: Ints
    entries: Array
    path: Path

    def values(self) -> Array:
        return np.array(read_array(self.path)[self.starts[0] : self.starts[-1]])
