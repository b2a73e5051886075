"""Contexts: the documents that precede a question or an instruction, rendered once and stored once.

Reads sealed folders of documents. Writes shards of `Context` rows, one for each corpus, named by what decides them.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from augment_service.jobs import row_ranges
from augment_service.tokens import CHARACTERS_PER_TOKEN
from data.errors import InputError
from data.records import Context
from data.seeds import fingerprint, stream
from data.store import content_of, read_shard, read_table, schema_of, temporary_path

_SAMPLE = re.compile(r"sample:([1-9][0-9]{0,8})")
_PROBE = "\x00"
Render = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class ContextSpec:
    """Which documents are in context: none, all, one in `k` at random, or those that a question requires."""

    kind: Literal["none", "all", "sample", "required"]
    k: int = 1

    def __str__(self) -> str:
        return f"sample:{self.k}" if self.kind == "sample" else self.kind


NONE, ALL = ContextSpec("none"), ContextSpec("all")


def parse_context(text: str, *, where: str) -> ContextSpec:
    """The context of that name: none, all, sample:K or required. Raises InputError."""
    sample = _SAMPLE.fullmatch(text)
    if sample:
        return ContextSpec("sample", int(sample[1]))
    for spec in (NONE, ALL, ContextSpec("required")):
        if text == spec.kind:
            return spec
    what = f'unknown context "{text}"'
    if text.startswith("nearest"):
        what = "contexts of the nearest documents are not available yet"
    raise InputError(what, where=where, hint="choose among none, all, sample:K (one document in K), required")


def write_contexts(
    documents: Path,
    corpora: Sequence[str],
    spec: ContextSpec,
    render: Render,
    out: Path,
    *,
    seed: int,
    draw: int = 0,
    requires: Iterable[tuple[str, ...]] = (),
    window: int | None = None,
) -> dict[str, Path]:
    """A shard of contexts for each corpus; what exists is not written again.

    "all" and "sample" have one context; each `draw` samples another subset, in the documents' order. "required" has one
    for each distinct tuple of document ids in `requires`. Raises InputError for a corpus without documents, and before
    anything is written for one whose documents cannot fit into `window` tokens (None: not checked).
    """
    content = content_of(documents)
    wanted = sorted({tuple(sorted(ids)) for ids in requires if ids}) if spec.kind == "required" else []
    tables = _tables(documents, corpora)
    for corpus in corpora if spec.kind in ("all", "sample") else ():
        characters = (pc.sum(pc.utf8_length(tables[corpus]["text"])).as_py() or 0) // spec.k
        if window is not None and characters > CHARACTERS_PER_TOKEN * window:
            raise InputError(
                f"{characters:,} characters cannot fit into {window:,} tokens",
                where=f"the documents of {corpus} in context ({spec})",
                hint="sample the documents (--context sample:8), or use a model with a longer window",
            )
    paths = {}
    for corpus in corpora:
        decides = (content, corpus, spec, render([_PROBE, _PROBE]), seed, draw, *wanted)
        paths[corpus] = out / f"{fingerprint(*decides)}.arrow"
        if not paths[corpus].exists():
            _write(paths[corpus], _contexts(tables[corpus], spec, render, (seed, corpus, draw), wanted))
    return paths


def _tables(documents: Path, corpora: Sequence[str]) -> dict[str, pa.Table]:
    """The ids and texts of each corpus, still in their memory-mapped shards. Raises InputError if one has none."""
    parts: dict[str, list[pa.Table]] = {corpus: [] for corpus in corpora}
    for rows in row_ranges(documents, rows_per_unit=sys.maxsize, corpora=corpora):
        table = read_table(Path(rows.shard)).slice(rows.start, rows.stop - rows.start)
        parts[rows.corpus].append(table.select(["doc_id", "text"]))
    for corpus, found in parts.items():
        if not found:
            hint = "choose a folder that has documents of that corpus"
            raise InputError(f'no documents of the corpus "{corpus}"', where=str(documents), hint=hint)
    return {corpus: pa.concat_tables(found) for corpus, found in parts.items()}


def _write(path: Path, contexts: Iterable[Context]) -> None:
    """Write a shard, one context after the other: with required documents there may be one for each question."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, schema = temporary_path(path), schema_of(Context)
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for context in contexts:
                writer.write_table(pa.Table.from_pylist([asdict(context)], schema))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class ContextReader:
    """A shard of contexts, read once in a process."""

    def __init__(self, path: Path) -> None:
        self._contexts = _read(path)

    def text_for(self, doc_ids: tuple[str, ...] = ()) -> Context:
        """The context of these required documents; without ids, the only one of the shard."""
        return self._contexts[tuple(sorted(doc_ids))] if doc_ids else next(iter(self._contexts.values()))


@lru_cache(maxsize=16)
def _read(path: Path) -> dict[tuple[str, ...], Context]:
    return {tuple(sorted(row.doc_ids)): row for row in read_shard(path, Context)}


def _contexts(
    documents: pa.Table,
    spec: ContextSpec,
    render: Render,
    names: tuple[int, str, int],
    wanted: Sequence[tuple[str, ...]],
) -> Iterator[Context]:
    if spec.kind != "required":
        if spec.kind == "sample":
            count = max(1, round(documents.num_rows / spec.k))
            seed, corpus, draw = names
            places = stream(seed, "context", corpus, spec.k, draw).sample(range(documents.num_rows), count)
            documents = documents.take(sorted(places))
        yield _context(documents, render)
        return
    place_of = {doc_id: place for place, doc_id in enumerate(documents["doc_id"].to_pylist())}
    for doc_ids in wanted:
        found = sorted(place_of[doc_id] for doc_id in doc_ids if doc_id in place_of)
        if len(found) == len(doc_ids):  # else the question is about another corpus
            yield _context(documents.take(found), render)


def _context(documents: pa.Table, render: Render) -> Context:
    text = render(documents["text"].to_pylist())
    return Context(fingerprint("context", text), text, tuple(documents["doc_id"].to_pylist()))
