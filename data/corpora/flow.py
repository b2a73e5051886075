"""The way of rows from readers to shards: checked, named, told from what was seen before, cut, written."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.corpora.arrays import Mask, bool_array, buffer_of, hex_array, numbers_of, same_string, string_array
from data.corpora.bookmark import FOLDER, Bookmark, write_bookmark
from data.corpora.duplicates import NearDuplicates, SeenKeys
from data.corpora.intake import BLOCK_BYTES, MOST_ROWS, Intake, Reader, Source
from data.corpora.parts import cut_into_parts
from data.corpora.words import Hashes, count_all_words, signatures
from data.sentences import TokenCounter
from data.store import ShardWriter

_ID_BYTES = 8
_BEGINNING = Bookmark()
_LIKE_A_CONTENT_ID = re.compile(rf"[0-9a-f]{{{2 * _ID_BYTES}}}")
# By kind; a library is loaded when a file needs it.
_READERS = {
    "text": ("texts", "read_text"),
    "html": ("texts", "read_html"),
    "pdf": ("pdf", "read_pdf"),
    "jsonl": ("jsonl", "read_jsonl"),
    "csv": ("delimited", "read_csv"),
    "parquet": ("tables", "read_parquet"),
    "arrow": ("tables", "read_arrow"),
}


class Flow:
    """One import: reads its sources in order, from where its bookmark says; counts documents and words."""

    def __init__(
        self,
        sources: Sequence[Source],
        intake: Intake,
        writer: ShardWriter,
        count: TokenCounter,
        out: Path,
        mark: Bookmark = _BEGINNING,
    ) -> None:
        self.num_documents, self.num_words = mark.num_documents, mark.num_words
        settings = intake.settings
        self._sources, self._intake, self._writer, self._count = sources, intake, writer, count
        self._out, self._mark, self._source, self._rows = out, mark, mark.source, 0
        self._seen = SeenKeys(out / FOLDER / "keys", mark.lengths.get("keys", 0))
        self._near: NearDuplicates | None = None
        self._steps = [self._without_empty, self._without_known]
        if settings.similarity:
            path = out / FOLDER / "signatures"
            self._near = NearDuplicates(settings.similarity, path, mark.lengths.get("signatures", 0))
            self._steps.append(partial(self._without_near_duplicates, self._near))
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = self._waiting_rows = 0

    def run(self) -> None:
        """Read all sources, one after another."""
        mark = self._mark
        for done in self._sources[: mark.source]:
            self._intake.on_bytes(done.size)
        for index in range(mark.source, len(self._sources)):
            source, goes_on = self._sources[index], index == mark.source
            self._intake.begin(known=mark.told if goes_on else 0)
            self._source, self._rows = index, 0
            if not source.size:
                self._intake.reject(source, 0, "empty", "a file of no bytes")
                continue
            try:
                for rows in _reader(source.kind)(source, self._intake):
                    self._take(rows, known=mark.rows if goes_on else 0)
            except OSError as error:
                self._intake.reject(source, 0, "unreadable", str(error))
        self._flush()

    def _take(self, rows: pa.Table, known: int) -> None:
        """The next rows of the source under way, of which the first `known` are in a shard already."""
        left = rows.slice(max(0, known - self._rows))
        self._rows += rows.num_rows
        if left.num_rows:
            self._add(left)

    def _add(self, rows: pa.Table) -> None:
        """Small tables wait for others, so that a folder of small files costs no more than one large file."""
        self._waiting.append(rows)
        self._waiting_rows += rows.num_rows
        self._waiting_bytes += rows.nbytes
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
        """A shard is full, and nothing waits: from here a killed import would go on."""
        lengths = {"keys": self._seen.file.flush(), "rejections": self._intake.rejections.rows.flush()}
        if self._near:
            lengths["signatures"] = self._near.file.flush()
        mark = Bookmark(
            source=self._source,
            rows=self._rows,
            told=self._intake.told,
            num_shards=self._writer.num_shards,
            num_documents=self.num_documents,
            num_words=self.num_words,
            num_rejected=dict(self._intake.rejections.counts),
            lengths=lengths,
        )
        write_bookmark(self._out, mark)

    def _without_empty(self, rows: pa.Table) -> pa.Table:
        left = pc.binary_length(pc.utf8_trim_whitespace(rows["text"].chunk(0)))
        return self._set_aside(rows, numbers_of(left) == 0, lambda _: ("empty", "no text"))

    def _without_known(self, rows: pa.Table) -> pa.Table:
        """The rows with an id each; those whose id was seen before are set aside."""
        keys, ids = _keys_and_ids(rows)
        is_new = self._seen.add(keys)
        given = rows["id"].chunk(0)

        def _tell(row: int) -> tuple[str, str]:
            if given[row].is_valid:
                return "duplicate id", f'a second "{given[row]}"'
            return "duplicate text", "seen before, word for word"

        return self._set_aside(rows.set_column(1, "id", ids), ~is_new, _tell)

    def _without_near_duplicates(self, near: NearDuplicates, rows: pa.Table) -> pa.Table:
        texts = rows["text"].chunk(0)
        sources, lines = numbers_of(rows["source"].chunk(0)), numbers_of(rows["line"].chunk(0))
        places = near.originals(signatures(texts), sources, lines)

        def _tell(row: int) -> tuple[str, str]:
            source, line = places[row]
            return "near-duplicate", f"like {self._sources[source].path}, line {line}"

        return self._set_aside(rows, np.isin(np.arange(rows.num_rows), list(places)), _tell)

    def _write(self, rows: pa.Table) -> None:
        documents = rows.select(["id", "text"]).rename_columns(["doc_id", "text"])
        for parts in cut_into_parts(documents, self._intake.settings, self._count):
            world = same_string(self._intake.settings.corpus, parts.num_rows)
            self._writer.write(parts.append_column("corpus", world))
            self.num_documents += parts.num_rows
            self.num_words += sum(map(count_all_words, parts["text"].chunks))

    def _set_aside(self, rows: pa.Table, mask: Mask, tell: Callable[[int], tuple[str, str]]) -> pa.Table:
        """The rows without those of the mask, which are reported; `tell` gives the reason and the detail of a row."""
        if not mask.any():
            return rows
        chosen = np.flatnonzero(mask)
        columns = rows.select(["source", "line", "text"]).filter(bool_array(mask)).to_pydict().values()
        for row, source, line, text in zip(chosen.tolist(), *columns, strict=True):
            self._intake.rejections.add(self._sources[source].path, line, *tell(row), text)
        return rows.filter(bool_array(~mask))


def _reader(kind: str) -> Reader:
    module, name = _READERS[kind]
    return cast(Reader, getattr(import_module(f"data.corpora.{module}"), name))


def _keys_and_ids(rows: pa.Table) -> tuple[Hashes, pa.StringArray]:
    """For each row the key by which it is known, and its id: the one that it came with, or a hash of its text."""
    offsets, content = buffer_of(rows["text"].chunk(0))
    bounds, view = offsets.tolist(), memoryview(content.data)
    given = rows["id"].chunk(0)
    if given.null_count == len(given):
        joined = b"".join([blake2b(view[a:b], digest_size=_ID_BYTES).digest() for a, b in pairwise(bounds)])
        return np.frombuffer(joined, ">u8").astype(np.uint64), hex_array(joined, _ID_BYTES)
    digest = partial(blake2b, digest_size=_ID_BYTES)
    names = [
        name if name is not None else digest(view[a:b]).hexdigest()
        for name, a, b in zip(given.to_pylist(), bounds, bounds[1:], strict=False)
    ]
    # An id that was made from content, here or in an earlier import, keeps its key.
    keys = [
        int(name, 16) if _LIKE_A_CONTENT_ID.fullmatch(name) else int(digest(name.encode()).hexdigest(), 16)
        for name in names
    ]
    return np.array(keys, np.uint64), string_array(names)
