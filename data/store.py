"""Folders of Arrow shards that `datasets.load_from_disk` opens memory-mapped.

A shard is written under a temporary name and renamed; the folder's `manifest.json` is written last, so a folder
with a manifest is complete and one without is work in progress. Reads: shards. Writes: shards, `state.json` and
`dataset_info.json` (what `datasets` wants to see), `manifest.json` (ours: row count, key, notes).
"""

import dataclasses
import hashlib
import json
import os
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from data.errors import InputError
from data.records import Refusal
from data.seeds import fingerprint

MANIFEST = "manifest.json"
INPUTS = "inputs.json"
REFUSED = "refused"
ROWS_PER_SHARD = 512  # what a killed engine costs at most; enough for an engine to work on side by side
SHARD_BYTES = 64 << 20  # of text: what one actor reads at a time
Record = typing.TypeVar("Record")
_ARROW_TYPES: dict[type, tuple[pa.DataType, str]] = {
    str: (pa.string(), "string"),
    int: (pa.int64(), "int64"),
    float: (pa.float64(), "float64"),
    bool: (pa.bool_(), "bool"),
}


def schema_of(record: type) -> pa.Schema:
    """The Arrow schema of a record class, derived from its annotations."""
    hints = typing.get_type_hints(record)
    return pa.schema([(field.name, _arrow_type(hints[field.name])) for field in dataclasses.fields(record)])


def write_json(path: Path, content: object) -> None:
    """Write JSON so that a reader sees the old file or the whole new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    os.replace(temporary, path)


def write_shard(path: Path, record: type, rows: Iterable[object]) -> int:
    """Write rows of one record class as one Arrow stream file, atomically; returns the number of rows."""
    schema = schema_of(record)
    columns = [field.name for field in dataclasses.fields(record)]
    data = list(rows)
    arrays = [pa.array([getattr(row, name) for row in data], schema.field(name).type) for name in columns]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        os.replace(temporary, path)
    except OSError:  # a full disk: half a shard must not fill it further
        temporary.unlink(missing_ok=True)
        raise
    return len(data)


def shard_name(number: int) -> str:
    """What the shards of a folder are called, counted from 0."""
    return f"part-{number:05d}.arrow"


class ShardWriter:
    """Streams tables of one record class into shards, each renamed when it is full: of `shard_bytes`, or a little more.

    A context: a shard that an error leaves half written keeps its temporary name, and is no shard. `num_shards` are
    in the folder already.
    """

    def __init__(self, folder: Path, record: type, *, shard_bytes: int = SHARD_BYTES, num_shards: int = 0) -> None:
        self._folder, self._schema, self._shard_bytes = folder, schema_of(record), shard_bytes
        self.num_shards, self._num_bytes = num_shards, 0
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, rows: pa.Table) -> None:
        """Append rows; the columns must be those of the record, in any order."""
        if self._writer is None:
            self._sink = pa.OSFile(str(self._temporary()), "wb")
            self._writer = pa.ipc.new_stream(self._sink, self._schema)
        self._writer.write_table(rows.select(self._schema.names).cast(self._schema))
        self._num_bytes += rows.nbytes

    def end_if_full(self) -> bool:
        """End the shard under way if it is full; whether it was."""
        is_full = self._num_bytes >= self._shard_bytes
        if is_full:
            self._finish()
        return is_full

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._finish(complete=kind is None)

    def _finish(self, *, complete: bool = True) -> None:
        assert self._writer is not None
        self._writer.close()
        self._sink.close()
        self._writer, self._num_bytes = None, 0
        if complete:
            os.replace(self._temporary(), self._folder / shard_name(self.num_shards))
            self.num_shards += 1

    def _temporary(self) -> Path:
        return self._folder / f".{shard_name(self.num_shards)}.{os.getpid()}.tmp"


def seal(folder: Path, record: type, *, key: str = "", notes: dict[str, object] | None = None) -> None:
    """Declare a folder of shards complete: writes what `datasets` needs, then the manifest, last.

    Both carry a hash of the shards' content: `datasets` names what it caches by it.
    """
    shards = sorted(path.name for path in folder.glob("*.arrow"))
    content = fingerprint(*(_digest(folder / name) for name in shards))
    state: dict[str, object] = {
        "_data_files": [{"filename": name} for name in shards],
        "_fingerprint": content,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    hints = typing.get_type_hints(record)
    features = {field.name: _feature(hints[field.name]) for field in dataclasses.fields(record)}
    write_json(folder / "state.json", state)
    write_json(folder / "dataset_info.json", {"features": features})
    num_rows = sum(read_table(folder / name).num_rows for name in shards)
    manifest = {"record": record.__name__, "num_rows": num_rows, "shards": shards, "content": content, "key": key}
    write_json(folder / MANIFEST, manifest | {"notes": notes or {}})


def write_folder(
    folder: Path, record: type, rows: Sequence[object], *, key: str = "", notes: dict[str, object] | None = None
) -> None:
    """A small dataset in one call: one shard, sealed."""
    write_shard(folder / "part-00000.arrow", record, rows)
    seal(folder, record, key=key, notes=notes)


def is_sealed(folder: Path, *, key: str = "") -> bool:
    """Whether the folder is complete; with a key, a folder that was made from other inputs is refused."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        return False
    found = json.loads(manifest.read_text()).get("key", "")
    if key and found != key:
        raise InputError(
            f"the folder holds the result of other inputs (key {found}, wanted {key})",
            where=str(folder),
            hint="choose another output folder, or delete this one",
        )
    return True


def claim(folder: Path, key: str) -> None:
    """Bind an output folder to the inputs that `key` names; a folder that is bound to others is refused."""
    path = folder / INPUTS
    if path.exists():
        found = json.loads(path.read_text())["key"]
        if found != key:
            raise InputError(
                f"the folder holds work on other inputs or settings (key {found}, wanted {key})",
                where=str(folder),
                hint="choose another --out, or delete this folder",
            )
    else:
        write_json(path, {"key": key})


def read_table(path: Path) -> pa.Table:
    """One shard as a memory-mapped Arrow table."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        return reader.read_all()


def read_shard(path: Path, record: type[Record]) -> list[Record]:
    """The rows of one shard as records."""
    names = [field.name for field in dataclasses.fields(record)]  # type: ignore[arg-type]
    rows = read_table(path).select(names).to_pylist()
    return [record(**{key: tuple(v) if isinstance(v, list) else v for key, v in row.items()}) for row in rows]


def read_folder(folder: Path, record: type[Record]) -> Iterator[Record]:
    """All rows of a folder, shard by shard, in the order of the shards' names."""
    shards = sorted(folder.glob("*.arrow"))
    if not shards:
        raise InputError(
            f"no {record.__name__} rows here",
            where=str(folder),
            hint="name a folder of Arrow shards, as made by `data`",
        )
    for shard in shards:
        yield from read_shard(shard, record)


def refusals_path(shard: Path) -> Path:
    """Where the rows rest that a shard of answers does not have."""
    return shard.parent / REFUSED / shard.name


def read_refusals(shard: Path) -> list[Refusal]:
    """The rows that a shard of answers does not have, and why; none if all were answered."""
    path = refusals_path(shard)
    return read_shard(path, Refusal) if path.exists() else []


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def _arrow_type(hint: object) -> pa.DataType:
    if typing.get_origin(hint) is tuple:
        return pa.list_(_ARROW_TYPES[typing.get_args(hint)[0]][0])
    return _ARROW_TYPES[typing.cast(type, hint)][0]


def _feature(hint: object) -> dict[str, object]:
    if typing.get_origin(hint) is tuple:
        return {"feature": _feature(typing.get_args(hint)[0]), "_type": "List"}
    return {"dtype": _ARROW_TYPES[typing.cast(type, hint)][1], "_type": "Value"}
