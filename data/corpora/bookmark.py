"""How far an import is, so that a killed one goes on: written whenever a shard is full.

Reads and writes `OUT/.import/`: `bookmark.json`, the keys of what was seen, signatures. Files that grow are as long as
the bookmark says; what a killed import wrote behind that is cut off.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data.store import write_json

FOLDER = ".import"
_FILE = "bookmark.json"


@dataclass(frozen=True)
class Bookmark:
    """Where the next shard begins. Producer: `data.corpora.flow`.

    `rows` were taken from the source at index `source`, and `told` of its rows were set aside by its reader; all
    sources before it are done. `lengths` are those of the growing files, in bytes.
    """

    source: int = 0
    rows: int = 0
    told: int = 0
    num_shards: int = 0
    num_documents: int = 0
    num_words: int = 0
    num_rejected: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)


def read_bookmark(out: Path) -> Bookmark:
    """Where a killed import of this folder was; the beginning where there is none."""
    path = out / FOLDER / _FILE
    return Bookmark(**json.loads(path.read_text())) if path.exists() else Bookmark()


def write_bookmark(out: Path, mark: Bookmark) -> None:
    """All that came before must have been written."""
    write_json(out / FOLDER / _FILE, asdict(mark))


class GrowingFile:
    """A file that is appended to, cut to the length that its bookmark knows."""

    def __init__(self, path: Path, length: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, length)
        self.path = path
        self._file = path.open("r+b")
        self._file.seek(length)

    def append(self, content: bytes) -> None:
        """Write behind the end, in a while."""
        self._file.write(content)

    def flush(self) -> int:
        """Write now; returns the length in bytes."""
        self._file.flush()
        return self._file.tell()

    def read(self, start: int, size: int) -> bytes:
        """What was written and flushed."""
        return os.pread(self._file.fileno(), size, start)

    def close(self) -> None:
        """End it; the file stays."""
        self._file.close()
