"""The ledger: which prompts are answered in a folder of finished shards, and where; the same for measurements.

A prompt's id names everything that is asked, so an answer that is there is never asked for again: a rerun, a widened
corpus or a further method generates only what is missing. Reads the column of that id in the shards. Writes
`ledger/`: 24 bytes for each prompt, sorted, which actors map into memory.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.seeds import fingerprint
from data.store import read_records, read_table, temporary_path, write_text

FOLDER = "ledger"
_ENTRY = np.dtype([("high", ">u8"), ("low", ">u8"), ("shard", "<u4"), ("row", "<u4")])
Entries = np.ndarray[Any, np.dtype[np.void]]
Answer = TypeVar("Answer")
_NAMED: set[Path] = set()  # the indexes that this process has named


class Ledger(Generic[Answer]):
    """The answers of other shards, rows of `record`, by the id in its field `column`."""

    def __init__(self, entries: Entries, shards: Sequence[Path], record: type[Answer], column: str) -> None:
        self._entries, self._shards = entries, shards
        self._record, self._column = record, column
        self._highs = entries["high"]

    @classmethod
    def open(cls, index: str, record: type[Answer], column: str = "prompt_id") -> Self:
        """The ledger of an index that `index_shards` wrote; with "" an empty one."""
        if not index:
            return cls(np.zeros(0, _ENTRY), (), record, column)
        path = Path(index)
        shards = [path.parent.parent / name for name in path.with_suffix(".txt").read_text().splitlines()]
        return cls(np.load(path, mmap_mode="r", allow_pickle=False), shards, record, column)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, prompt_id: str) -> bool:
        return self._place(prompt_id) is not None

    def find(self, prompt_id: str) -> tuple[Answer, ...]:
        """The rows that answer a prompt, () if it was not answered."""
        place = self._place(prompt_id)
        if place is None:
            return ()
        entry = self._entries[place]
        table, start = _table(self._shards[entry["shard"]]), int(entry["row"])
        ids, stop = table[self._column], start
        while stop < table.num_rows and ids[stop].as_py() == prompt_id:
            stop += 1
        return tuple(read_records(table.slice(start, stop - start), self._record))

    def _place(self, prompt_id: str) -> int | None:
        high, low = (np.uint64(int(half, 16)) for half in (prompt_id[:16], prompt_id[16:]))
        place = int(np.searchsorted(self._highs, high))
        while place < len(self._entries) and self._highs[place] == high:
            if self._entries[place]["low"] == low:
                return place
            place += 1
        return None


def index_shards(folder: Path, leave_out: Sequence[Path] = (), column: str = "prompt_id") -> str:
    """The path of an index, by `column`, of the folder's finished shards, but for some; "" if there are none.

    An index is named by its shards. Those of earlier commands are removed; what this process has named stays, for units
    that are still to run open it: the suites of a study have one folder of shards, and an index each.
    """
    shards = sorted(path for path in folder.glob("*.arrow") if path not in set(leave_out))
    if not shards:
        return ""
    path = folder / FOLDER / f"{fingerprint(*(shard.name for shard in shards))}.npy"
    _NAMED.add(path)
    if path.exists() and path.with_suffix(".txt").exists():
        return str(path)
    parts = [_entries(shard, number, column) for number, shard in enumerate(shards)]
    entries = np.concatenate(parts)
    entries.sort(order=("high", "low"))
    path.parent.mkdir(exist_ok=True)
    before = [old for old in path.parent.iterdir() if not old.name.startswith(".")]
    write_text(path.with_suffix(".txt"), "\n".join(shard.name for shard in shards))
    temporary = temporary_path(path)
    with temporary.open("wb") as file:
        np.save(file, entries, allow_pickle=False)
    temporary.replace(path)
    for old in before:
        if old.with_suffix(".npy") not in _NAMED:
            old.unlink(missing_ok=True)
    return str(path)


def _entries(shard: Path, number: int, column: str) -> Entries:
    """The first row of each prompt of a shard."""
    table = read_table(shard)
    if column not in table.column_names:  # of an earlier version
        return np.zeros(0, _ENTRY)
    ids = pc.run_end_encode(table[column].combine_chunks())
    starts = [0, *ids.run_ends.to_pylist()[:-1]] if len(ids) else []
    raw = bytes.fromhex("".join(ids.values.to_pylist()))
    entries = np.zeros(len(starts), _ENTRY)
    halves = np.frombuffer(raw, ">u8").reshape(-1, 2)
    entries["high"], entries["low"] = halves[:, 0], halves[:, 1]
    entries["shard"], entries["row"] = number, starts
    return entries


@lru_cache(maxsize=64)  # a unit's documents are neighbours in the other shards, too
def _table(shard: Path) -> pa.Table:
    return read_table(shard)
