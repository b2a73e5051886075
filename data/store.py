"""Folders of Arrow shards that `datasets.load_from_disk` opens memory-mapped.

A shard is written under a temporary name and renamed; the folder's `manifest.json` is written last, so a folder
with a manifest is complete and one without is unfinished. Reads: shards, manifests. Writes: shards, `state.json` and
`dataset_info.json` (which `datasets` expects), `manifest.json` (ours), `inputs.json`.
"""

import dataclasses
import hashlib
import json
import os
import platform
import random
import typing
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from data.errors import InputError
from data.records import Refusal
from data.seeds import fingerprint

MANIFEST = "manifest.json"
INPUTS = "inputs.json"
REFUSED = "refused"
ROWS_PER_SHARD = 512  # the most work that a killed engine loses; enough rows for an engine to batch
SHARD_BYTES = 64 << 20  # of text: what one actor reads at a time
_WORKSPACE_FILES = frozenset((".lock", "stages.json"))  # a command may create these before it claims its folder
Record = typing.TypeVar("Record")
_ARROW_TYPES: dict[object, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def schema_of(record: type) -> pa.Schema:
    """The Arrow schema of a record class, derived from its annotations."""
    hints = typing.get_type_hints(record)
    return pa.schema([(field.name, _arrow_type(hints[field.name])) for field in dataclasses.fields(record)])


def temporary_path(path: Path) -> Path:
    """A hidden name beside `path` that no other process uses, on this host or on another one that shares the disk."""
    return path.with_name(f".{path.name}.{platform.node()}.{uuid.uuid4().hex[:12]}.tmp")


def sync(path: Path) -> None:
    """Wait until a file or folder has reached the disk, before a rename refers to it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a text file so that a reader sees the old file or the whole new one; `durable` survives a power loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    temporary.write_text(text, encoding="utf-8")
    if durable:
        sync(temporary)
    os.replace(temporary, path)
    if durable:
        sync(path.parent)


def write_json(path: Path, content: object, *, durable: bool = False) -> None:
    """Write JSON so that a reader sees the old file or the whole new one; `durable` survives a power loss."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n", durable=durable)


def write_shard(path: Path, record: type, rows: Iterable[object]) -> int:
    """Write rows of one record class as one Arrow stream file, atomically; returns the number of rows."""
    schema = schema_of(record)
    data = list(rows)
    arrays = [pa.array([getattr(row, field.name) for row in data], field.type) for field in schema]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        os.replace(temporary, path)
    except OSError:  # a full disk: a partial shard must not fill it further
        temporary.unlink(missing_ok=True)
        raise
    return len(data)


def shard_name(number: int) -> str:
    """The file name of a shard, counted from 0."""
    return f"part-{number:05d}.arrow"


class ShardWriter:
    """Streams tables of one record class into shards of `shard_bytes` or slightly more, each renamed when it is full.

    A context manager: a shard that an error interrupts keeps its temporary name. `num_shards` shards are in the folder
    already.
    """

    def __init__(self, folder: Path, record: type, *, shard_bytes: int = SHARD_BYTES, num_shards: int = 0) -> None:
        self._folder, self._schema, self._shard_bytes = folder, schema_of(record), shard_bytes
        self._defaults = {field.name: field.default for field in _fields(record)}
        self.num_shards, self._num_bytes = num_shards, 0
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, rows: pa.Table) -> None:
        """Append rows; the columns must be those of the record, in any order, but for those that have a default."""
        for name in set(self._schema.names).difference(rows.column_names):
            if self._defaults[name] is not dataclasses.MISSING:  # written by an earlier version
                value = pa.scalar(self._defaults[name], self._schema.field(name).type)
                rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
        if self._writer is None:
            self._temporary = temporary_path(self._folder / shard_name(self.num_shards))
            self._sink = pa.OSFile(str(self._temporary), "wb")
            self._writer = pa.ipc.new_stream(self._sink, self._schema)
        self._writer.write_table(rows.select(self._schema.names).cast(self._schema))
        self._num_bytes += rows.nbytes

    def end_if_full(self) -> bool:
        """Finish the current shard if it is full; returns whether it was."""
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
            os.replace(self._temporary, self._folder / shard_name(self.num_shards))
            self.num_shards += 1


def seal(folder: Path, record: type, *, key: str = "") -> None:
    """Declare a folder of shards complete: writes what `datasets` needs, then the manifest, with the `key` if given.

    Both carry a hash of the shards' content, by which `datasets` names what it caches. All shards are flushed to the
    disk before the manifest is written.
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
    features = {field.name: _feature(field.type) for field in schema_of(record)}
    write_json(folder / "state.json", state)
    write_json(folder / "dataset_info.json", {"features": features})
    num_rows = sum(read_table(folder / name).num_rows for name in shards)
    for name in shards:
        sync(folder / name)
    manifest = {"record": record.__name__, "num_rows": num_rows, "shards": shards, "content": content}
    manifest |= {"key": key} if key else {}
    write_json(folder / MANIFEST, manifest, durable=True)


def write_folder(folder: Path, record: type, rows: Sequence[object]) -> None:
    """A small dataset in one call: one shard, sealed."""
    write_shard(folder / shard_name(0), record, rows)
    seal(folder, record)


def is_sealed(folder: Path) -> bool:
    """Whether the folder is complete."""
    return (folder / MANIFEST).exists()


def claim(folder: Path, key: str) -> None:
    """Bind an output folder to the inputs that `key` names; InputError if it is bound to others."""
    found = _claimed_key(folder)
    if found and found != key:
        raise InputError(
            f"the folder holds work on other inputs or settings (key {found}, wanted {key})",
            where=str(folder),
            hint="choose another --out, or delete this folder",
        )
    if found != key:
        write_json(folder / INPUTS, {"key": key})


def is_claimed(folder: Path, key: str) -> bool:
    """Whether an output folder is bound to the inputs that `key` names; writes nothing.

    Raises InputError if it is bound to others, or has files but was never claimed: those are not ours to overwrite.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError("the output path is a file", where=str(folder), hint="choose another --out")
    found = _claimed_key(folder)
    foreign = {path.name for path in folder.iterdir()} - _WORKSPACE_FILES if folder.exists() else set()
    if found is None and foreign:
        raise InputError(
            f"the folder holds something else: {', '.join(sorted(foreign)[:3])}",
            where=str(folder),
            hint="choose a new or empty folder with --out",
        )
    if found:
        claim(folder, key)
    return found == key


def _claimed_key(folder: Path) -> str | None:
    """The key that a folder is bound to: "" if it was released, None if it was never claimed."""
    path = folder / INPUTS
    if not path.exists():
        return None
    try:
        return str(json.loads(path.read_text())["key"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"not one of our {INPUTS} files", where=str(path), hint="choose another --out") from error


def release(folder: Path) -> None:
    """Let other inputs claim the folder; the files in it remain ours."""
    write_json(folder / INPUTS, {"key": ""})


def read_table(path: Path) -> pa.Table:
    """One shard as a memory-mapped Arrow table; InputError if it is truncated."""
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            return reader.read_all()
    except pa.ArrowInvalid as error:
        raise InputError(f"the shard is truncated: {error}", where=str(path), hint="make the folder again") from error


def read_shard(path: Path, record: type[Record]) -> list[Record]:
    """The rows of one shard as records; InputError if it has other columns."""
    table = read_table(path)
    names = {field.name for field in _fields(record) if field.default is dataclasses.MISSING}
    if missing := sorted(names.difference(table.column_names)):
        raise InputError(
            f"no column {', '.join(missing)}: these are not {record.__name__} rows of this version",
            where=str(path),
            hint="make the folder again",
        )
    return read_records(table, record)


def read_records(table: pa.Table, record: type[Record]) -> list[Record]:
    """The rows of a table as records; it may have more columns, and lack those that have a default."""
    names = [field.name for field in _fields(record)]
    rows = table.select([name for name in names if name in table.column_names]).to_pylist()
    return [record(**{key: tuple(v) if isinstance(v, list) else v for key, v in row.items()}) for row in rows]


def _fields(record: typing.Any) -> tuple[dataclasses.Field[typing.Any], ...]:
    return dataclasses.fields(record)


def list_shards(folder: Path, record: type | None = None, *, unfinished: bool = False) -> list[Path]:
    """The shards of a folder in the order of their names.

    Raises InputError if there are none, if one is missing, if they hold another record, or if the folder is unfinished:
    without a manifest its shards are listed only with `unfinished`.
    """
    manifest, kind = read_manifest(folder), f"{record.__name__} " if record else ""
    shards = [folder / name for name in manifest["shards"]] if "shards" in manifest else sorted(folder.glob("*.arrow"))
    if not shards and "shards" not in manifest:
        raise InputError(f"no {kind}rows here", where=str(folder), hint="name a folder that `data` made")
    if not manifest and not unfinished:
        raise InputError(
            "the folder is unfinished: it has no manifest",
            where=str(folder),
            hint="run the command that writes it again: it resumes",
        )
    if record and manifest.get("record", record.__name__) != record.__name__:
        what = f"the folder holds {manifest['record']} rows, not {kind}rows"
        raise InputError(what, where=str(folder), hint="name another folder")
    if lost := [path for path in shards if not path.exists()]:
        raise InputError(f"the shard {lost[0].name} is missing", where=str(folder), hint="make the folder again")
    return shards


def read_folder(folder: Path, record: type[Record], *, unfinished: bool = False) -> Iterator[Record]:
    """All rows of a folder, shard by shard. Raises InputError as `list_shards` does."""
    for shard in list_shards(folder, record, unfinished=unfinished):
        yield from read_shard(shard, record)


def sample_rows(
    shards: Sequence[Path], count: int, *, seed: int, columns: Sequence[str] = (), run: int = 1
) -> Iterator[dict[str, typing.Any]]:
    """Random rows of some shards, all if there are fewer, in their order; the same for the same seed.

    Runs of neighbours (`run` rows) touch less of a large file.
    """
    sizes = [read_table(path).num_rows for path in shards]
    starts = range(0, sum(sizes), run)
    chosen = sorted(random.Random(seed).sample(starts, min(-(-count // run), len(starts))))
    first = 0
    for path, size in zip(shards, sizes, strict=True):
        inside = [(max(start, first) - first, min(start + run, first + size) - first) for start in chosen]
        if any(start < end for start, end in inside):
            table = read_table(path)
            wanted = table.select(columns) if columns else table
            for start, end in inside:
                for number in range(start, end):
                    yield from wanted.slice(number, 1).to_pylist()
        first += size


def read_manifest(folder: Path) -> dict[str, typing.Any]:
    """The manifest of a folder; empty if it has none. Raises InputError if it is not JSON."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"the manifest is not JSON: {error}", where=str(path), hint="make the folder again") from error
    return content if isinstance(content, dict) else {}


def content_of(folder: Path) -> str:
    """The hash of a sealed folder's shards."""
    return str(read_manifest(folder)["content"])


def refusals_path(shard: Path) -> Path:
    """Where the rows are stored that a shard of answers lacks."""
    return shard.parent / REFUSED / shard.name


def read_refusals(shard: Path) -> list[Refusal]:
    """The rows that a shard of answers lacks, and why; none if all were answered."""
    path = refusals_path(shard)
    return read_shard(path, Refusal) if path.exists() else []


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _arrow_type(hint: object) -> pa.DataType:
    return pa.list_(_arrow_type(typing.get_args(hint)[0])) if typing.get_origin(hint) is tuple else _ARROW_TYPES[hint]


def dtype_of(kind: pa.DataType) -> str:
    """The name of a scalar type in `datasets`."""
    return "float64" if pa.types.is_float64(kind) else str(kind)


def _feature(kind: pa.DataType) -> dict[str, object]:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": dtype_of(kind), "_type": "Value"}
