"""An overview of a folder: counts, columns, lengths, kinds of rows, random rows.

Reads Arrow shards (memory-mapped, column by column), manifests, and the rejected rows of an import. Writes nothing.
"""

import itertools
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.conversations import read_messages
from data.corpora.reading import ROWS_FILE
from data.errors import InputError
from data.records import Conversation
from data.store import list_shards, read_manifest, read_table, sample_rows

NUM_ROWS = 3
_KINDS = (
    "corpus",
    "language",
    "split",
    "inference",
    "method",
    "verdict",
    "finish_reason",
    "kind",
)  # whose values are counted
_MAX_KINDS = 12
RejectedRow = dict[str, Any]


@dataclass(frozen=True)
class Lengths:
    """Characters of a text column over all rows."""

    least: int
    median: int
    mean: float
    most: int


@dataclass(frozen=True)
class Preview:
    """One folder of shards. `kinds` counts the values of categorical columns; `rows` are random ones."""

    folder: Path
    is_complete: bool
    record: str
    content: str
    num_rows: int
    num_shards: int
    num_bytes: int
    columns: dict[str, str]
    lengths: dict[str, Lengths]
    kinds: dict[str, dict[str, int]]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class RejectedRows:
    """The rows that an import rejected: the number for each reason, its first rows, and the first row of each file.

    A row is a line of `rejected/rows.jsonl`: file, line, reason, detail, excerpt. `of_files` has the files asked for.
    """

    path: Path
    counts: dict[str, int]
    firsts: dict[str, list[RejectedRow]]
    of_files: dict[str, RejectedRow]


def preview(folder: Path, *, num_rows: int = NUM_ROWS, seed: int = 0) -> list[Preview]:
    """A preview of each folder of shards in `folder`, or of `folder` itself, with random rows that `seed` chooses.

    Raises InputError if there are none.
    """
    found = sorted({path.parent for path in itertools.chain(folder.glob("*.arrow"), folder.glob("*/*.arrow"))})
    if not found:
        raise InputError(
            "no rows here", where=str(folder), hint="name a generated set, an import, or a folder of shards"
        )
    return [_preview(each, num_rows, seed) for each in found]


def counts_of(folder: Path) -> dict[str, object]:
    """The plain values and counts of the folder's own manifest, if it has one."""
    content = read_manifest(folder)
    flat: dict[str, object] = {key: value for key, value in content.items() if isinstance(value, str | int | float)}
    for name in ("summary", "num_questions"):
        inner = content.get(name)
        if isinstance(inner, dict):
            flat |= {f"{name}.{key}": value for key, value in inner.items() if isinstance(value, int | str)}
    return flat


def rejected_rows(folder: Path, *, num_rows: int = 1, files: Collection[str] = ()) -> RejectedRows | None:
    """What an import into `folder` rejected, with `num_rows` rows of each reason; None if nothing."""
    path = next((path for path in (folder / "rejected" / ROWS_FILE, folder / ROWS_FILE) if path.exists()), None)
    if path is None or not path.stat().st_size:
        return None
    found, wanted = RejectedRows(path, Counter[str](), {}, {}), set(files)
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row: RejectedRow = json.loads(line)
            reason, file = str(row["reason"]), str(row["file"])
            found.counts[reason] = found.counts.get(reason, 0) + 1
            firsts = found.firsts.setdefault(reason, [])
            if len(firsts) < num_rows:
                firsts.append(row)
            if file in wanted:
                found.of_files.setdefault(file, row)
    ranked = sorted(found.counts.items(), key=lambda entry: -entry[1])
    return replace(found, counts=dict(ranked))


def place_of(row: RejectedRow) -> str:
    """File and line of a rejected row."""
    return f"{row['file']}, line {row['line']}" if row["line"] else str(row["file"])


def _preview(folder: Path, num_rows: int, seed: int) -> Preview:
    shards, manifest = list_shards(folder, unfinished=True), read_manifest(folder)
    tables = [read_table(path) for path in shards]
    schema = tables[0].schema
    texts = [entry.name for entry in schema if pa.types.is_string(entry.type) and entry.name not in _KINDS]
    kinds = {name: count_values(tables, name) for name in _KINDS if name in schema.names}
    rows = list(sample_rows(shards, num_rows, seed=seed))
    if manifest.get("record") == Conversation.__name__:
        rows = [row | {"text": _dialogue(row["text"])} for row in rows]
    return Preview(
        folder=folder,
        is_complete=bool(manifest),
        record=str(manifest.get("record", "rows")),
        content=str(manifest.get("content", "")),
        num_rows=sum(table.num_rows for table in tables),
        num_shards=len(shards),
        num_bytes=sum(path.stat().st_size for path in shards),
        columns={entry.name: str(entry.type) for entry in schema},
        lengths={name: lengths for name in texts if (lengths := _lengths(tables, name))},
        kinds={name: dict(values.most_common(_MAX_KINDS)) for name, values in kinds.items() if values},
        rows=rows,
    )


def _dialogue(text: str) -> str:
    """A conversation as a line for each turn; what is none is shown as it is."""
    try:
        return "\n".join(f"{message['role']}: {message['content']}" for message in read_messages(text))
    except ValueError:
        return text


def _lengths(tables: Sequence[pa.Table], column: str) -> Lengths | None:
    sizes = [pc.utf8_length(table[column].drop_null()).to_numpy() for table in tables]
    joined = np.concatenate(sizes)
    if not len(joined):
        return None
    return Lengths(int(joined.min()), int(np.median(joined)), float(joined.mean()), int(joined.max()))


def count_values(tables: Sequence[pa.Table], column: str) -> Counter[str]:
    """The values of a column and their counts."""
    counts: Counter[str] = Counter()
    for table in tables:
        counts.update({entry["values"]: entry["counts"] for entry in table[column].value_counts().to_pylist()})
    return counts
