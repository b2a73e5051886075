"""Tables in columns: Parquet, and Arrow files and streams, those of saved `datasets` folders among them."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.conversations import SPELLINGS
from data.corpora.arrays import int_array
from data.corpora.reading import (
    BLOCK_BYTES,
    MOST_ROWS,
    ImportContext,
    Source,
    in_blocks,
    make_conversations,
    rows_of,
)

_ARROW_FILE_MAGIC = b"ARROW1"
_LEAST_ROWS = 64


def read_parquet(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The rows of a Parquet file, by row group; after a broken part the rest is rejected."""
    row = 0
    try:
        with pq.ParquetFile(source.path) as file:
            columns = _wanted(file.schema_arrow, source, context)
            if columns is None:
                return
            for group in range(file.num_row_groups):
                found = file.metadata.row_group(group)
                size = sum(  # the paths of a column of messages are those of its keys
                    column.total_uncompressed_size
                    for column in map(found.column, range(found.num_columns))
                    if f"{column.path_in_schema}.".startswith(f"{columns[0]}.")
                )
                mean = size // max(1, found.num_rows)
                if mean > context.settings.max_bytes:
                    detail = f"{found.num_rows} rows of {mean >> 20} MiB on average"
                    context.reject(source, row + 1, "too long", detail)
                    row += found.num_rows
                    continue
                count = min(MOST_ROWS, max(_LEAST_ROWS, BLOCK_BYTES // max(1, mean)))
                batches = file.iter_batches(count, row_groups=[group], columns=columns, use_threads=False)
                for batch in batches:
                    yield from _valid_tables(batch.select(columns), row + 1, source, context)
                    row += batch.num_rows
                    context.on_bytes(source.size * batch.num_rows // file.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        context.reject(source, row and row + 1, "broken Parquet", _one_line(error))


def read_arrow(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The rows of an Arrow file or stream, memory-mapped; after a broken part the rest is rejected."""
    row = 0
    try:
        with source.path.open("rb") as head:
            is_file = head.read(len(_ARROW_FILE_MAGIC)) == _ARROW_FILE_MAGIC
        with pa.memory_map(str(source.path)) as mapped:
            reader = pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)
            columns = _wanted(reader.schema, source, context)
            if columns is None:
                return
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else iter(reader)
            for batch in batches:
                batch = batch.select(columns)
                _check_offsets(batch)
                yield from _valid_tables(batch, row + 1, source, context)
                row += batch.num_rows
                context.on_bytes(batch.nbytes)
    except (pa.ArrowException, OSError) as error:
        context.reject(source, row and row + 1, "broken Arrow file", _one_line(error))


def _wanted(schema: pa.Schema, source: Source, context: ImportContext) -> list[str] | None:
    """The column of texts or messages, and that of ids; None, and the file rejected, if one is missing."""
    settings = context.settings
    wanted = [name for name in (settings.column, settings.id_column) if name]
    for name in wanted:
        if name not in schema.names:
            has = ", ".join(schema.names[:20]) or "none"
            context.reject(source, 0, "missing column", f'no column "{name}"; there are: {has}')
            return None
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_id, holds_messages = name == settings.id_column, name == settings.messages_column
        if not (_is_text(kind) or (is_id and pa.types.is_integer(kind)) or (holds_messages and _has_messages(kind))):
            wanted_kind = "messages: lists of objects with the texts role and content" if holds_messages else "text"
            context.reject(source, 0, "wrong type", f'the column "{name}" holds {kind}, not {wanted_kind}')
            return None
    return wanted


def _check_offsets(batch: pa.RecordBatch) -> None:
    """Raises ArrowInvalid if offsets leave their buffer; whether bytes are UTF-8 is checked row by row."""
    for column in batch.columns:
        column.view(_as_binary(column.type)).validate(full=True)


def _as_binary(kind: pa.DataType) -> pa.DataType:
    """The type with bytes in the place of texts."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(_as_binary(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_as_binary(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(entry.name, _as_binary(entry.type)) for entry in kind])
    return kind


def _has_messages(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists of messages in one of the `SPELLINGS`."""
    names = {entry.name for entry in _text_fields(kind)}
    return any(names.issuperset(keys) for keys in SPELLINGS)


def _text_fields(kind: pa.DataType) -> list[pa.Field]:
    """The keys of messages that are texts, of a list of objects."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return []
    known = {key for keys in SPELLINGS for key in keys}
    return [entry for entry in kind.value_type if entry.name in known and _is_text(entry.type)]


def _without_other_keys(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch; of messages, their keys that are read, in types that every operation below knows."""
    fields = [pa.field(entry.name, pa.large_string()) for entry in _text_fields(batch.schema.field(0).type)]
    if not fields:
        return batch
    messages = batch.column(0).cast(pa.large_list(pa.struct(fields)), safe=False)
    return pa.RecordBatch.from_arrays([messages, *batch.columns[1:]], batch.schema.names)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _valid_tables(batch: pa.RecordBatch, first: int, source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The rows of a batch in tables of bounded size, without those that are null, too long, or not UTF-8."""
    batch = _without_other_keys(batch)
    sizes = _sizes(batch.column(0))
    for rows in in_blocks(range(len(sizes)), lambda row: sizes[row] or 0):
        kept = []
        for row in rows:
            if reason := _complaint(sizes[row], batch, row, context.settings.max_bytes):
                context.reject(source, first + row, *reason)
            else:
                kept.append(row)
        if not kept:
            continue
        # A slice of lists would keep the messages of the whole batch, which are checked with it.
        is_whole = len(kept) == len(rows) and not pa.types.is_nested(batch.column(0).type)
        part = batch.slice(rows[0], len(rows)) if is_whole else batch.take(int_array(kept, pa.int64()))
        yield from _decodable(part, [first + row for row in kept], source, context)


def _decodable(
    part: pa.RecordBatch, lines: Sequence[int], source: Source, context: ImportContext
) -> Iterator[pa.Table]:
    """The rows as a table with the schema `ROWS`; if bytes are not UTF-8, each row is checked by itself."""
    try:
        columns = [_as_text(column) for column in part.columns]
    except pa.ArrowInvalid as error:
        if len(lines) == 1:
            context.reject(source, lines[0], "not UTF-8", _one_line(error))
        else:
            for row, line in enumerate(lines):
                yield from _decodable(part.take(int_array([row], pa.int64())), [line], source, context)
        return
    if context.settings.messages_column:
        given = columns[1].to_pylist() if columns[1:] else ()
        yield make_conversations(source, columns[0].to_pylist(), lines, given, context)
        return
    ids = columns[1] if columns[1:] else pa.nulls(len(lines), pa.string())
    yield rows_of(source, columns[0], ids, lines)


def _as_text(column: pa.Array) -> pa.Array:
    """A column as texts, or that of messages as it is. Raises ArrowInvalid for bytes that are not UTF-8."""
    texts = column if pa.types.is_nested(column.type) else column.cast(pa.string(), safe=False)
    texts.validate(full=True)
    return texts


def _complaint(size: int | None, batch: pa.RecordBatch, row: int, limit: int) -> tuple[str, str] | None:
    if size is None:
        return "empty", "the value is null"
    if size > limit:
        return "too long", f"a text of {size} bytes, more than {limit >> 20} MiB"
    if batch.num_columns > 1 and not batch.column(1)[row].is_valid:
        return "missing id", "the id is null"
    return None


def _sizes(texts: pa.Array) -> list[int | None]:
    """The bytes of each text or list of messages; None for a null."""
    if pa.types.is_nested(texts.type):
        return [texts.slice(row, 1).nbytes if valid else None for row, valid in enumerate(texts.is_valid().to_pylist())]
    if pa.types.is_dictionary(texts.type):
        return list(pc.binary_length(texts.dictionary).take(texts.indices).to_pylist())
    if pa.types.is_string_view(texts.type):
        texts = texts.cast(pa.large_string())
    return list(pc.binary_length(texts).to_pylist())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
