"""Contexts: the documents that precede a question or an instruction, rendered once and stored once.

Reads sealed folders of documents, and indexes of them. Writes shards of `Context` rows, one for each corpus, named by
what decides them. Contexts of related documents are made where they are needed, in an actor, and are not stored.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast

import pyarrow as pa
import pyarrow.compute as pc

from augment_service.jobs import row_ranges
from augment_service.related.index import Index
from augment_service.tokens import CHARACTERS_PER_TOKEN
from data.chunks import chunk_spans
from data.errors import InputError
from data.records import Context
from data.seeds import fingerprint, stream
from data.sentences import TokenCounter, word_counter
from data.store import content_of, read_shard, read_table, schema_of, temporary_path

Kind = Literal["none", "all", "sample", "required", "nearest", "bundle"]
_NUMBERED = re.compile(r"(sample|nearest|bundle):([1-9][0-9]{0,8})")
_SHUFFLED = ":shuffled"
_MEANINGS: dict[Kind, str] = {
    "none": "none",
    "all": "all",
    "sample": "sample:K (one document in K)",
    "required": "required",
    "nearest": "nearest:N (the N most related documents)",
    "bundle": "bundle:N (a document and the N - 1 most related ones)",
}
_PROBE = "\x00"
Render = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class ContextSpec:
    """Which documents are in context.

    None, all, one in `k` at random, those that a question requires, the `k` that are most related to a document or a
    question, or a document together with the `k` - 1 that are most related to it. They are in the order of the corpus,
    or in a random one by the seed.
    """

    kind: Kind
    k: int = 1
    is_shuffled: bool = False

    def __str__(self) -> str:
        name = f"{self.kind}:{self.k}" if self.kind in ("sample", "nearest", "bundle") else self.kind
        return name + _SHUFFLED * self.is_shuffled


NONE, ALL = ContextSpec("none"), ContextSpec("all")


def parse_context(text: str, *, where: str, kinds: Sequence[Kind] = tuple(_MEANINGS)) -> ContextSpec:
    """The context of that name, e.g. "all" or "nearest:4:shuffled". Raises InputError unless it is of these kinds."""
    name, is_shuffled = text.removesuffix(_SHUFFLED), text.endswith(_SHUFFLED)
    numbered = _NUMBERED.fullmatch(name)
    spec = None
    if numbered:
        spec = ContextSpec(cast(Kind, numbered[1]), int(numbered[2]), is_shuffled)
    elif name in ("all", "required") or text == "none":
        spec = ContextSpec(cast(Kind, name), is_shuffled=is_shuffled)
    hint = "choose among " + ", ".join(_MEANINGS[kind] for kind in kinds) + f"; {_SHUFFLED} behind it: in random order"
    if spec is None:
        raise InputError(f'unknown context "{text}"', where=where, hint=hint)
    if spec.kind not in kinds:
        raise InputError(f'the context "{text}" cannot be used here', where=where, hint=hint)
    if (spec.kind, spec.k) == ("bundle", 1):
        raise InputError("a bundle has two documents or more", where=where, hint="e.g. bundle:3")
    return spec


def related_context(
    index: Index,
    row: int,
    spec: ContextSpec,
    render: Render,
    *,
    budget: int | None = None,
    count_tokens: TokenCounter = word_counter,
    seed: int = 0,
) -> Context:
    """The documents that are related to one, or it and those ("nearest", "bundle"); for tasks, in the actor.

    They have at most `budget` tokens together (None: any number), as `fit_documents` says. The context has fewer than
    `spec` asks for where fewer are related, or fit.
    """
    is_bundle = spec.kind == "bundle"
    (related,) = index.nearest([row], spec.k - is_bundle)
    ranked = (*[row] * is_bundle, *related)
    texts = index.documents.texts(ranked)
    if budget is not None:
        texts = fit_documents(texts, budget, count_tokens)
    placed = sorted(zip(ranked, texts, strict=False))
    if spec.is_shuffled:
        (doc_id,) = index.documents.ids([row])
        stream(seed, "order", str(spec), doc_id).shuffle(placed)
    text = render([text for _, text in placed])
    return Context(fingerprint("context", text), text, tuple(index.documents.ids([row for row, _ in placed])))


def fit_documents(texts: Sequence[str], budget_tokens: int, count_tokens: TokenCounter = word_counter) -> list[str]:
    """The first of these texts, as many as have at most `budget_tokens` tokens together, with one between two of them.

    A first one that is too long by itself is cut behind its last sentence that fits, if none does behind its last word;
    so none is returned only for a budget below 1.
    """
    if not texts or budget_tokens < 1:
        return []
    fitting: list[str] = []
    left = budget_tokens + 1
    for text in texts:
        # What cannot fit is not counted: that takes memory.
        size = count_tokens([text])[0] + 1 if len(text) <= CHARACTERS_PER_TOKEN * left else left + 1
        if size > left:
            break
        fitting.append(text)
        left -= size
    if not fitting:
        text = texts[0][: CHARACTERS_PER_TOKEN * budget_tokens]
        start, end = chunk_spans(text, budget_tokens, count_tokens)[0]
        fitting = [text[start:end].rstrip()]
    return fitting


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

    "all" and "sample" have one context; each `draw` samples another subset, or another order. "required" and
    "nearest" have one for each distinct tuple of document ids in `requires`. Raises InputError for a corpus without
    documents, and before anything is written for one whose documents cannot fit into `window` tokens (None: not
    checked).
    """
    content = content_of(documents)
    is_by_ids = spec.kind in ("required", "nearest")
    wanted = sorted({tuple(sorted(ids)) for ids in requires if ids}) if is_by_ids else []
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
    seed, corpus, draw = names

    def ordered(places: Iterable[int], *about: str) -> list[int]:
        found = sorted(places)
        if spec.is_shuffled:
            stream(seed, "order", corpus, draw, *about).shuffle(found)
        return found

    if spec.kind not in ("required", "nearest"):
        places: Iterable[int] = range(documents.num_rows)
        if spec.kind == "sample":
            count = max(1, round(documents.num_rows / spec.k))
            places = stream(seed, "context", corpus, spec.k, draw).sample(range(documents.num_rows), count)
        yield _context(documents.take(ordered(places)), render)
        return
    named = pa.array(sorted({doc_id for doc_ids in wanted for doc_id in doc_ids}), pa.string())
    rows = pc.indices_nonzero(pc.is_in(documents["doc_id"], named))
    place_of = dict(zip(documents["doc_id"].take(rows).to_pylist(), rows.to_pylist(), strict=True))
    for doc_ids in wanted:
        found = sorted(place_of[doc_id] for doc_id in doc_ids if doc_id in place_of)
        if len(found) == len(doc_ids):  # else the question is about another corpus
            yield _context(documents.take(ordered(found, *doc_ids)), render)


def _context(documents: pa.Table, render: Render) -> Context:
    text = render(documents["text"].to_pylist())
    return Context(fingerprint("context", text), text, tuple(documents["doc_id"].to_pylist()))
