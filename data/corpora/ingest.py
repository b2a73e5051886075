"""The import pipeline from readers to shards: rows are checked, given ids, deduplicated, cut and written.

Reads and writes `OUT/.import/`: `bookmark.json`, the keys of the rows seen so far, MinHash signatures.
"""

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.conversations import read_messages
from data.corpora.arrays import Mask, buffer_of, hex_array, int_array, numbers_of, string_array
from data.corpora.duplicates import NearDuplicates, SeenKeys
from data.corpora.parts import PART_COLUMNS, cut_into_parts
from data.corpora.reading import BLOCK_BYTES, MOST_ROWS, NO_CONVERSATION, ImportContext, Reader, Source
from data.corpora.sources import KINDS
from data.corpora.words import Hashes, count_all_words, signatures
from data.sentences import TokenCounter
from data.store import ShardWriter, write_json

STATE_FOLDER = ".import"
BOOKMARK = "bookmark.json"
KEYS, SIGNATURES = "keys", "signatures"
_ID_BYTES, _KEY_BYTES = 16, 8  # rows are deduplicated by a prefix of their id's hash
_CONTENT_ID = re.compile(rf"[0-9a-f]{{{2 * _ID_BYTES}}}")
# By kind; a library is loaded when a file needs it.
_READERS = {
    "text": "texts:read_text",
    "html": "texts:read_html",
    "pdf": "pdf:read_pdf",
    "jsonl": "jsonl:read_jsonl",
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
    "code": "code:read_code",
}
_OF_MESSAGES = ("jsonl", "parquet", "arrow")  # the kinds that can have a column of messages


@dataclass(frozen=True)
class Bookmark:
    """Where the next shard begins; written whenever a shard is full. Producer and consumer: the import.

    Of the source at index `source`, `rows` rows were taken and `num_rejected_rows` were rejected by its reader; all
    sources before it are done. `lengths` are those of the growing files, in bytes: what an interrupted import wrote
    behind them is truncated.
    """

    source: int = 0
    rows: int = 0
    num_rejected_rows: int = 0
    num_shards: int = 0
    num_documents: int = 0
    num_words: int = 0
    num_rejected: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)


def read_bookmark(out: Path) -> Bookmark:
    """How far an interrupted import of this folder got; the beginning if there is no bookmark."""
    path = out / STATE_FOLDER / BOOKMARK
    return Bookmark(**json.loads(path.read_text())) if path.exists() else Bookmark()


def write_bookmark(out: Path, mark: Bookmark) -> None:
    """Record the progress; all that it counts must have been written before."""
    write_json(out / STATE_FOLDER / BOOKMARK, asdict(mark))


class ImportPipeline:
    """One import: reads its sources in order, from its bookmark on; counts documents and words."""

    def __init__(
        self,
        sources: Sequence[Source],
        context: ImportContext,
        writer: ShardWriter,
        count: TokenCounter,
        out: Path,
        mark: Bookmark,
    ) -> None:
        self.num_documents, self.num_words = mark.num_documents, mark.num_words
        settings = context.settings
        self._sources, self._context, self._writer, self._count = sources, context, writer, count
        self._out, self._mark, self._source, self._rows = out, mark, mark.source, 0
        self._seen = SeenKeys(out / STATE_FOLDER / KEYS, mark.lengths.get(KEYS, 0))
        self._near: NearDuplicates | None = None
        self._steps = [self._without_empty, self._without_missing_ids, self._without_known]
        if settings.similarity:
            path = out / STATE_FOLDER / SIGNATURES
            self._near = NearDuplicates(settings.similarity, path, mark.lengths.get(SIGNATURES, 0))
            self._steps.append(partial(self._without_near_duplicates, self._near))
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = self._waiting_rows = 0

    def run(self) -> None:
        """Read all sources, one after another."""
        mark = self._mark
        for done in self._sources[: mark.source]:
            self._context.on_bytes(done.size)
        for index in range(mark.source, len(self._sources)):
            source, resumes = self._sources[index], index == mark.source
            self._context.num_rejected, self._context.num_written = 0, mark.num_rejected_rows if resumes else 0
            self._source, self._rows = index, 0
            if not source.size:
                self._context.reject(source, 0, "empty", "the file has no bytes")
                continue
            if self._context.settings.messages_column and source.kind not in _OF_MESSAGES:
                self._context.reject(source, 0, NO_CONVERSATION, _no_messages(source))
                continue
            try:
                read: Reader = resolve_name(f"data.corpora.{_READERS[source.kind]}")
                for rows in read(source, self._context):
                    self._take(rows, num_done=mark.rows if resumes else 0)
            except OSError as error:
                self._context.reject(source, 0, "unreadable", str(error))
        self._flush()

    def _take(self, rows: pa.Table, num_done: int) -> None:
        """Collect rows of the current source, of which the first `num_done` are in a shard already.

        Small tables wait for others, so that a folder of small files costs no more than one large file.
        """
        left = rows.slice(max(0, num_done - self._rows))
        self._rows += rows.num_rows
        if left.num_rows:
            self._waiting.append(left)
            self._waiting_rows += left.num_rows
            self._waiting_bytes += left.nbytes
            if self._waiting_bytes >= BLOCK_BYTES or self._waiting_rows >= MOST_ROWS:
                self._flush()

    def _flush(self) -> None:
        if self._waiting:
            rows = pa.concat_tables(self._waiting).combine_chunks()
            self._waiting, self._waiting_bytes, self._waiting_rows = [], 0, 0
            for step in self._steps:
                rows = step(rows).combine_chunks()
                if not rows.num_rows:
                    return
            self._write(rows)
            if self._writer.end_if_full():
                self._set_mark()

    def _set_mark(self) -> None:
        """Record the progress: a shard is full and no rows are waiting."""
        lengths = {KEYS: self._seen.file.flush(), "rejections": self._context.rejections.rows.flush()}
        if self._near:
            lengths[SIGNATURES] = self._near.file.flush()
        mark = Bookmark(
            source=self._source,
            rows=self._rows,
            num_rejected_rows=self._context.num_rejected,
            num_shards=self._writer.num_shards,
            num_documents=self.num_documents,
            num_words=self.num_words,
            num_rejected=dict(self._context.rejections.counts),
            lengths=lengths,
        )
        write_bookmark(self._out, mark)

    def _without_empty(self, rows: pa.Table) -> pa.Table:
        left = pc.binary_length(pc.utf8_trim_whitespace(rows["text"].chunk(0)))
        return self._reject(rows, numbers_of(left) == 0, lambda _: ("empty", "no text"))

    def _without_missing_ids(self, rows: pa.Table) -> pa.Table:
        left = pc.fill_null(pc.binary_length(pc.utf8_trim_whitespace(rows["id"].chunk(0))), 1)  # null: none was wanted
        return self._reject(rows, numbers_of(left) == 0, lambda _: ("missing id", "the id is empty"))

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

    def _write(self, rows: pa.Table) -> None:
        documents = rows.select(["id", "text", "heading", "outline"]).rename_columns(PART_COLUMNS)
        for parts in cut_into_parts(documents, self._context.settings, self._count):
            corpus = string_array([self._context.settings.corpus] * parts.num_rows)
            language = string_array([""] * parts.num_rows)
            self._writer.write(parts.append_column("corpus", corpus).append_column("language", language))
            self.num_documents += parts.num_rows
            self.num_words += self._count_words(parts)

    def _count_words(self, documents: pa.Table) -> int:
        """The words of texts, or of what is said in conversations."""
        if not self._context.settings.messages_column:
            return sum(map(count_all_words, documents["text"].chunks))
        messages = itertools.chain.from_iterable(map(read_messages, documents["text"].to_pylist()))
        return count_all_words(string_array([message["content"] for message in messages]))

    def _reject(self, rows: pa.Table, mask: Mask, explain: Callable[[int], tuple[str, str]]) -> pa.Table:
        """The rows without those of the mask, which are reported; `explain` gives a row's reason and detail."""
        if not mask.any():
            return rows
        chosen, left = np.flatnonzero(mask), np.flatnonzero(~mask)
        columns = rows.select(["source", "line", "text"]).take(int_array(chosen, pa.int64())).to_pydict().values()
        for row, source, line, text in zip(chosen.tolist(), *columns, strict=True):
            self._context.rejections.add(self._sources[source].path, line, *explain(row), text)
        return rows.take(int_array(left, pa.int64()))


def _no_messages(source: Source) -> str:
    known = ", ".join(suffix for suffix, kind in KINDS.items() if kind in _OF_MESSAGES)
    return f'a "{source.path.suffix}" file has no column of messages; conversations are read from {known}'


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
