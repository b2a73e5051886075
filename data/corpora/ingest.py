"""The import pipeline from readers to shards: rows are checked, given ids, deduplicated, cut and written.

Reads and writes `OUT/.import/`: `bookmark.json`, the keys of the rows seen so far, MinHash signatures.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.conversations import read_messages
from data.corpora.arrays import Mask, buffer_of, hex_array, int_array, numbers_of, string_array
from data.corpora.cleaning import clean_rows
from data.corpora.duplicates import KeyTable, NearDuplicates, SeenKeys
from data.corpora.kinds import CODE, KINDS
from data.corpora.languages import LanguageDetector
from data.corpora.parts import PART_COLUMNS, cut_into_parts
from data.corpora.reading import BLOCK_BYTES, MOST_ROWS, NO_CONVERSATION, ImportContext, Reader, Source
from data.corpora.repeated import LineCounts, RepeatedLines
from data.corpora.streams import StreamError
from data.corpora.summary import Tally
from data.corpora.words import Hashes, signatures
from data.sentences import TokenCounter
from data.store import ShardWriter, write_json

STATE_FOLDER = ".import"
BOOKMARK = "bookmark.json"
KEYS, SIGNATURES, LINES = "keys", "signatures", "lines"
_ID_BYTES, _KEY_BYTES = 16, 8  # rows are deduplicated by a prefix of their id's hash
_CONTENT_ID = re.compile(rf"[0-9a-f]{{{2 * _ID_BYTES}}}")
# By kind; a library is loaded when a file needs it.
_READERS = {
    "text": "texts:read_text",
    "html": "html:read_html",
    "pdf": "pdf.reader:read_pdf",
    "jsonl": "jsontext:read_jsonl",
    "json": "jsontext:read_json",
    "csv": "delimited:read_csv",
    "parquet": "tables:read_parquet",
    "arrow": "tables:read_arrow",
    "docx": "word:read_docx",
    "pptx": "slides:read_pptx",
    "odf": "opendocument:read_odf",
    "xlsx": "sheets:read_xlsx",
    "ods": "sheets:read_ods",
    "epub": "epub:read_epub",
    "mail": "mail:read_mail",
    CODE: "texts:read_text",
}
_OF_MESSAGES = ("jsonl", "json", "parquet", "arrow")  # the kinds that can have a column of messages


@dataclass(frozen=True)
class Bookmark:
    """Where the next shard begins; written whenever a shard is full. Producer and consumer: the import.

    Of the source at index `source`, `rows` rows were taken and `num_rejected_rows` were rejected by its reader; all
    sources before it are done. `lengths` are those of the growing files, in bytes: what an interrupted import wrote
    behind them is truncated. `tally` is the state of the `Tally`, `repeated` and `num_dropped_lines` that of
    `RepeatedLines`.
    """

    source: int = 0
    rows: int = 0
    num_rejected_rows: int = 0
    num_shards: int = 0
    num_rejected: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    tally: dict[str, Any] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)
    num_dropped_lines: int = 0


def read_bookmark(out: Path) -> Bookmark:
    """How far an interrupted import of this folder got; the beginning if there is no bookmark."""
    path = out / STATE_FOLDER / BOOKMARK
    return Bookmark(**json.loads(path.read_text())) if path.exists() else Bookmark()


def write_bookmark(out: Path, mark: Bookmark) -> None:
    """Record the progress; all that it counts must have been written before."""
    write_json(out / STATE_FOLDER / BOOKMARK, asdict(mark))


def read_source(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The rows of a file, with clean texts; what cannot be read is rejected."""
    if not source.size:
        context.reject(source, 0, "empty", "the file has no bytes")
        return
    is_dialogue = bool(context.settings.messages_column)
    if is_dialogue and source.kind not in _OF_MESSAGES:
        context.reject(source, 0, NO_CONVERSATION, _no_messages(source))
        return
    read: Reader = resolve_name(f"data.corpora.{_READERS[source.kind]}")
    num_rows = 0
    try:
        for rows in read(source, context):
            num_rows += rows.num_rows
            # The messages of a conversation were cleaned before they became JSON.
            yield rows if is_dialogue else clean_rows(rows.combine_chunks())
        if _has_changed(source):
            context.reject(source, 0, "unreadable", "the file changed while it was read: import it again")
    except StreamError as error:
        context.reject(source, error.line, error.reason, str(error))
    except OSError as error:
        context.reject(source, 0, "unreadable", str(error))
    if not num_rows and not context.num_rejected:
        context.reject(source, 0, "empty", "the file has no rows")


def count_lines(sources: Sequence[Source], context: ImportContext) -> LineCounts:
    """How many documents have each line; the same text a second time is not another document."""
    counts, seen = LineCounts(), KeyTable()
    context.num_written = sys.maxsize  # the import itself will reject what cannot be read
    for source in sources:
        for rows in read_source(source, context):
            new = np.flatnonzero(
                seen.add(_keys_and_ids(rows.set_column(1, "id", pa.nulls(rows.num_rows, pa.string())))[0])
            )
            fresh = rows.select(["text", "outline"]).take(int_array(new, pa.int64())).to_pydict()
            counts.add(fresh["text"], fresh["outline"])
    return counts


class _Block(NamedTuple):
    """Rows that can be written when their languages are there, and the bookmark behind them."""

    rows: pa.Table
    languages: Sequence[Future[pa.StringArray]]
    mark: Bookmark


class ImportPipeline:
    """One import: reads its sources in order, from its bookmark on; `tally` counts documents and words."""

    def __init__(
        self,
        sources: Sequence[Source],
        context: ImportContext,
        writer: ShardWriter,
        count: TokenCounter,
        out: Path,
        mark: Bookmark,
        repeated: RepeatedLines | None = None,
    ) -> None:
        settings = context.settings
        self.tally = Tally(len(sources), mark.tally)
        self._sources, self._context, self._writer, self._count = sources, context, writer, count
        self._out, self._mark, self._source, self._rows = out, mark, mark.source, 0
        self._seen = SeenKeys(out / STATE_FOLDER / KEYS, mark.lengths.get(KEYS, 0))
        self._near: NearDuplicates | None = None
        self._repeated, self._detector = repeated, LanguageDetector()
        self._steps = [self._without_empty, self._without_missing_ids, self._without_known]
        if settings.similarity:
            path = out / STATE_FOLDER / SIGNATURES
            self._near = NearDuplicates(settings.similarity, path, mark.lengths.get(SIGNATURES, 0))
            self._steps.append(partial(self._without_near_duplicates, self._near))
        self._waiting: list[pa.Table] = []
        self._languages: list[Future[pa.StringArray]] = []
        self._waiting_bytes = self._waiting_rows = 0
        self._block: _Block | None = None

    def run(self) -> None:
        """Read all sources, one after another."""
        with self._detector:
            self._run()

    def _run(self) -> None:
        mark = self._mark
        for done in self._sources[: mark.source]:
            self._context.on_bytes(done.size)
        for index in range(mark.source, len(self._sources)):
            source, resumes = self._sources[index], index == mark.source
            self._context.num_rejected, self._context.num_written = 0, mark.num_rejected_rows if resumes else 0
            self._source, self._rows = index, 0
            for rows in read_source(source, self._context):
                self._take(rows, num_done=mark.rows if resumes else 0)
        self._flush()
        self._write_block()

    def _take(self, rows: pa.Table, num_done: int) -> None:
        """Collect rows of the current source, of which the first `num_done` are in a shard already.

        Small tables wait for others, so that a folder of small files costs no more than one large file.
        """
        left = rows.slice(max(0, num_done - self._rows))
        self._rows += rows.num_rows
        if left.num_rows and self._repeated:
            left = self._without_repeated_lines(self._repeated, left)
        if left.num_rows:
            # Languages are detected beside the reading and the steps; at the end they are found by the row's place.
            self._languages.append(self._detector.begin(self._said(left["text"].combine_chunks())))
            self._waiting.append(left)
            self._waiting_rows += left.num_rows
            self._waiting_bytes += left.nbytes
            if self._waiting_bytes >= BLOCK_BYTES or self._waiting_rows >= MOST_ROWS:
                self._flush()

    def _flush(self) -> None:
        """Take the steps with the rows that are waiting, and write those of the call before."""
        if self._waiting:
            rows = pa.concat_tables(self._waiting).combine_chunks()
            self._waiting, self._waiting_bytes, self._waiting_rows = [], 0, 0
            languages, self._languages = self._languages, []
            rows = rows.append_column("place", int_array(np.arange(rows.num_rows), pa.int64()))
            for step in self._steps:
                rows = step(rows).combine_chunks()
                if not rows.num_rows:
                    return
            mark = self._mark_here()
            self._write_block()
            self._block = _Block(rows, languages, mark)

    def _write_block(self) -> None:
        """Write the rows that wait for their languages."""
        if self._block is None:
            return
        (rows, languages, mark), self._block = self._block, None
        detected = pa.concat_arrays([one.result() for one in languages])
        self._write(rows, detected.take(rows["place"].chunk(0)))
        if self._writer.end_if_full():
            write_bookmark(self._out, replace(mark, num_shards=self._writer.num_shards, tally=self.tally.state))

    def _mark_here(self) -> Bookmark:
        """The progress when all rows that were taken are written; the writer's part and the tally are of then."""
        lengths = {KEYS: self._seen.file.flush(), "rejections": self._context.rejections.rows.flush()}
        if self._near:
            lengths[SIGNATURES] = self._near.file.flush()
        return Bookmark(
            source=self._source,
            rows=self._rows,
            num_rejected_rows=self._context.num_rejected,
            num_rejected=dict(self._context.rejections.counts),
            lengths=lengths,
            repeated=dict(self._repeated.documents) if self._repeated else {},
            num_dropped_lines=self._repeated.num_dropped if self._repeated else 0,
        )

    def _without_repeated_lines(self, repeated: RepeatedLines, rows: pa.Table) -> pa.Table:
        left = repeated.drop(rows).combine_chunks()
        is_gone = (_lengths(left["text"].chunk(0)) == 0) & (_lengths(rows["text"].combine_chunks()) > 0)
        return self._reject(left, is_gone, lambda _: ("empty", "nothing but repeated lines"))

    def _without_empty(self, rows: pa.Table) -> pa.Table:
        return self._reject(rows, _lengths(rows["text"].chunk(0)) == 0, lambda _: ("empty", "no text"))

    def _without_missing_ids(self, rows: pa.Table) -> pa.Table:
        given = rows["id"].chunk(0)
        if given.null_count == len(given):  # none are wanted
            return rows
        filled = pc.coalesce(given, string_array(["-"] * len(given)))
        return self._reject(rows, _lengths(filled) == 0, lambda _: ("missing id", "the id is empty"))

    def _without_known(self, rows: pa.Table) -> pa.Table:
        """The rows with an id each; those whose id was seen before are rejected."""
        keys, ids = _keys_and_ids(rows)
        is_new = self._seen.add(keys)
        given = rows["id"].chunk(0)

        def _explain(row: int) -> tuple[str, str]:
            if given[row].is_valid:
                return "duplicate id", f'a second "{given[row]}"'
            return "duplicate text", "an earlier document has the same text"

        return self._reject(rows.set_column(1, "id", ids), ~is_new, _explain)

    def _without_near_duplicates(self, near: NearDuplicates, rows: pa.Table) -> pa.Table:
        texts = rows["text"].chunk(0)
        sources, lines = numbers_of(rows["source"].chunk(0)), numbers_of(rows["line"].chunk(0))
        places = near.originals(signatures(texts), sources, lines)

        def _explain(row: int) -> tuple[str, str]:
            source, line = places[row]
            return "near-duplicate", f"like {self._sources[source].path}, line {line}"

        return self._reject(rows, np.isin(np.arange(rows.num_rows), list(places)), _explain)

    def _write(self, rows: pa.Table, languages: pa.StringArray) -> None:
        settings = self._context.settings
        documents = rows.select(["id", "text", "heading", "outline"]).rename_columns(PART_COLUMNS)
        sources, row_of = numbers_of(rows["source"].chunk(0)), dict[str, int]()
        if are_parts := settings.cuts:
            row_of = {doc_id: row for row, doc_id in enumerate(rows["id"].to_pylist())}
        for parts in cut_into_parts(documents, settings, self._count):
            parts = parts.combine_chunks()
            ids = parts["doc_id"].chunk(0)
            spoken = languages
            if are_parts:
                origins = np.array([row_of[doc_id.rpartition("/")[0]] for doc_id in ids.to_pylist()], np.int64)
                sources, spoken = sources[origins], languages.take(int_array(origins, pa.int64()))
            corpus = pa.repeat(settings.corpus, parts.num_rows)
            self._writer.write(parts.append_column("corpus", corpus).append_column("language", spoken))
            self.tally.add(ids, self._said(parts["text"].chunk(0)), sources, spoken)

    def _said(self, texts: pa.StringArray) -> pa.StringArray:
        """The texts, or what is said in conversations."""
        if not self._context.settings.messages_column:
            return texts
        messages = map(read_messages, texts.to_pylist())
        return string_array(["\n".join(message["content"] for message in one) for one in messages])

    def _reject(self, rows: pa.Table, mask: Mask, explain: Callable[[int], tuple[str, str]]) -> pa.Table:
        """The rows without those of the mask, which are reported; `explain` gives a row's reason and detail."""
        if not mask.any():
            return rows
        chosen, left = np.flatnonzero(mask), np.flatnonzero(~mask)
        columns = rows.select(["source", "line", "text"]).take(int_array(chosen, pa.int64())).to_pydict().values()
        for row, source, line, text in zip(chosen.tolist(), *columns, strict=True):
            self._context.rejections.add(self._sources[source].path, line, *explain(row), text)
        return rows.take(int_array(left, pa.int64()))


def _has_changed(source: Source) -> bool:
    status = source.path.stat()
    return (status.st_size, status.st_mtime_ns) != (source.size, source.changed_ns)


def _no_messages(source: Source) -> str:
    known = ", ".join(suffix for suffix, kind in KINDS.items() if kind in _OF_MESSAGES)
    return f'a file of the kind "{source.kind}" has no column of messages; conversations are read from {known}'


def _lengths(texts: pa.StringArray) -> npt.NDArray[np.int64]:
    """The bytes of each text without the spaces around it."""
    return numbers_of(pc.binary_length(pc.utf8_trim_whitespace(texts)))


def _keys_and_ids(rows: pa.Table) -> tuple[Hashes, pa.StringArray]:
    """For each row the key that identifies it, and its id: the given one, or the `fingerprint` of its text."""
    offsets, content = buffer_of(rows["text"].chunk(0))
    bounds, view = offsets.tolist(), memoryview(content.data)
    given = rows["id"].chunk(0)
    if given.null_count == len(given):
        joined = b"".join([_digest(view[a:b]) for a, b in pairwise(bounds)])
        return np.frombuffer(joined, ">u8")[:: _ID_BYTES // _KEY_BYTES].astype(np.uint64), hex_array(joined, _ID_BYTES)
    names = [
        name if name is not None else _digest(view[a:b]).hex()
        for name, a, b in zip(given.to_pylist(), bounds, bounds[1:], strict=False)
    ]
    # An id that was derived from content, here or in an earlier import, keeps its key.
    digests = [name if _CONTENT_ID.fullmatch(name) else _digest(name.encode()).hex() for name in names]
    return np.array([int(digest[: 2 * _KEY_BYTES], 16) for digest in digests], np.uint64), string_array(names)


def _digest(text: bytes | memoryview) -> bytes:
    """The bytes of `data.seeds.fingerprint` for one text in UTF-8."""
    digest = blake2b(len(text).to_bytes(8, "little"), digest_size=_ID_BYTES)
    digest.update(text)
    return digest.digest()
