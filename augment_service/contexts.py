"""Contexts: the documents that precede a question or an instruction, rendered once and stored once.

Reads sealed folders of documents. Writes shards of `Context` rows, one for each corpus, named by what decides them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import pyarrow.compute as pc

from data.errors import InputError
from data.records import Context, Document
from data.seeds import fingerprint, stream
from data.store import content_of, list_shards, read_shard, read_table, write_shard

KINDS = ("none", "all", "sample", "required")
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
) -> dict[str, Path]:
    """A shard of contexts for each corpus; what exists is not written again.

    "all" and "sample" have one context; each `draw` samples another subset, in the documents' order. "required" has one
    for each distinct tuple of document ids in `requires`. Raises InputError for a corpus without documents.
    """
    content = content_of(documents)
    wanted = sorted({tuple(sorted(ids)) for ids in requires if ids}) if spec.kind == "required" else []
    paths = {}
    for corpus in corpora:
        decides = (content, corpus, spec, render([_PROBE, _PROBE]), seed, draw, *wanted)
        paths[corpus] = out / f"{fingerprint(*decides)}.arrow"
        if not paths[corpus].exists():
            rows = list(_contexts(list(read_corpus(documents, corpus)), spec, render, (seed, corpus, draw), wanted))
            write_shard(paths[corpus], Context, rows)
    return paths


def read_corpus(documents: Path, corpus: str) -> Iterator[Document]:
    """The documents of one corpus, in their order. Raises InputError if there are none."""
    found = False
    for shard in list_shards(documents):
        table = read_table(shard)
        table = table.filter(pc.equal(table["corpus"], corpus))
        for row in table.select(["doc_id", "text", "corpus"]).to_pylist():
            found = True
            yield Document(**row)
    if not found:
        raise InputError(
            f'no documents of the corpus "{corpus}"', where=str(documents), hint="name documents of that corpus"
        )


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
    documents: Sequence[Document],
    spec: ContextSpec,
    render: Render,
    names: tuple[int, str, int],
    wanted: Sequence[tuple[str, ...]],
) -> Iterator[Context]:
    if spec.kind != "required":
        yield _context(_sample(documents, spec.k, *names) if spec.kind == "sample" else documents, render)
        return
    known = {document.doc_id: (place, document) for place, document in enumerate(documents)}
    for doc_ids in wanted:
        found = sorted(known[doc_id] for doc_id in doc_ids if doc_id in known)
        if len(found) == len(doc_ids):  # else the question is about another corpus
            yield _context([document for _, document in found], render)


def _sample(documents: Sequence[Document], k: int, seed: int, corpus: str, draw: int) -> list[Document]:
    count = max(1, round(len(documents) / k))
    places = stream(seed, "context", corpus, k, draw).sample(range(len(documents)), count)
    return [documents[place] for place in sorted(places)]


def _context(documents: Sequence[Document], render: Render) -> Context:
    text = render([document.text for document in documents])
    return Context(fingerprint("context", text), text, tuple(document.doc_id for document in documents))
