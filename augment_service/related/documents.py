"""Documents by their number over all shards of a sealed folder.

Shards stay memory-mapped: only the rows that are asked for become Python objects.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import pyarrow as pa

from data.records import Document
from data.store import list_shards, read_records, read_table

_ROWS_READ = 4096
_SHARDS_OPEN = 1024  # an open shard takes about 100 kB


class Documents:
    """A sealed folder of documents, numbered from 0 shard by shard. Raises InputError as `list_shards` does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards = list_shards(folder)
        self._ends = list(accumulate(read_table(path).num_rows for path in self._shards))
        self._open = lru_cache(maxsize=_SHARDS_OPEN)(_Shard)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, rows: Sequence[int]) -> list[Document]:
        """The documents of these numbers, in their order."""
        return [read_records(pa.Table.from_batches([self._row(row)]), Document)[0] for row in rows]

    def texts(self, rows: Sequence[int]) -> list[str]:
        """Their texts alone."""
        return [self._row(row)["text"][0].as_py() for row in rows]

    def ids(self, rows: Sequence[int]) -> list[str]:
        """Their ids alone."""
        return [self._row(row)["doc_id"][0].as_py() for row in rows]

    def parts(self, num_bytes: int) -> Iterator[tuple[int, pa.Table]]:
        """All rows in their order, in tables of about `num_bytes` of text, each with the number of its first row."""
        first, size, batches = 0, 0, []
        for shard in self._shards:
            for batch in read_table(shard).to_batches(max_chunksize=_ROWS_READ):
                batches.append(batch)
                size += batch["text"].nbytes
                if size >= num_bytes:
                    table = pa.Table.from_batches(batches)
                    yield first, table
                    first, size, batches = first + table.num_rows, 0, []
        if batches:
            yield first, pa.Table.from_batches(batches)

    def _row(self, row: int) -> pa.RecordBatch:
        """A batch of one row."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        place = bisect_right(self._ends, row)
        return self._open(self._shards[place]).row(row - (self._ends[place - 1] if place else 0))


class _Shard:
    """An open shard."""

    def __init__(self, path: Path) -> None:
        self._batches = read_table(path).to_batches()
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def row(self, row: int) -> pa.RecordBatch:
        place = bisect_right(self._ends, row)
        return self._batches[place].slice(row - (self._ends[place - 1] if place else 0), 1)
