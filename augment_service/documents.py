"""Documents of a sealed folder by their ids, read where they lie in their memory-mapped shards."""

from functools import lru_cache
from pathlib import Path

from data.errors import InputError
from data.records import Document
from data.store import list_shards, read_records, read_table


class DocumentReader:
    """One folder. In memory: some 150 bytes for each document."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tables = [read_table(shard) for shard in list_shards(folder)]
        self._places = {
            doc_id: (number, row)
            for number, table in enumerate(self._tables)
            for row, doc_id in enumerate(table["doc_id"].to_pylist())
        }

    def read(self, doc_id: str) -> Document:
        """The document of that id. Raises InputError if there is none."""
        if doc_id not in self._places:
            hint = "name the documents that the inferences were written about"
            raise InputError(f"no document {doc_id}", where=str(self._folder), hint=hint)
        number, row = self._places[doc_id]
        return read_records(self._tables[number].slice(row, 1), Document)[0]


@lru_cache(maxsize=1)
def open_documents(folder: str) -> DocumentReader:
    """The reader of a folder, opened once in a process."""
    return DocumentReader(Path(folder))
