"""Some of the documents: the first ones, a random few, or as many as a budget of tokens is enough for.

Reads sealed folders of documents. Writes the chosen ones into a sealed folder of their own, named by what chose them,
so that the same command chooses the same ones again.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from augment_service.augment import AugmentTask
from augment_service.jobs import RowRange, ShardedJob
from augment_service.plan import assume_proposals
from data.errors import InputError
from data.records import Document
from data.seeds import derive_seed, fingerprint
from data.store import content_of, is_sealed, read_records, read_table, seal, shard_name, write_shard

CHOSEN = "chosen"
_ROWS_PER_SHARD = 4096


def first_rows(ranges: Sequence[RowRange], limit: int | None) -> list[RowRange]:
    """The ranges of the first `limit` rows (None: of all)."""
    if limit is None:
        return list(ranges)
    found = []
    for rows in ranges:
        if limit <= 0:
            break
        found.append(replace(rows, stop=min(rows.stop, rows.start + limit)))
        limit -= rows.stop - rows.start
    return found


def choose_few(documents: Path, ranges: Sequence[RowRange], count: int, out: Path, *, seed: int) -> Path:
    """A sealed folder of `count` random documents, all if there are no more."""
    total = _num_rows(ranges)
    order = _order(total, seed)[: min(count, total)]
    return _write_chosen(
        out / CHOSEN / fingerprint("few", content_of(documents), *_named(ranges), count, seed), ranges, order
    )


def choose_named(documents: Path, ranges: Sequence[RowRange], ids: Collection[str], out: Path) -> Path:
    """A sealed folder of the documents with these ids. Raises InputError if none of them is there."""
    columns = (
        read_table(Path(rows.shard))["doc_id"].slice(rows.start, rows.stop - rows.start).to_pylist() for rows in ranges
    )
    places = [place for place, name in enumerate(chain.from_iterable(columns)) if name in ids]
    if not places:
        what = f"none of the {len(ids):,} documents is in this folder"
        raise InputError(what, where=f"--documents {documents}", hint="name the documents that the study learned")
    folder = out / CHOSEN / fingerprint("named", content_of(documents), *_named(ranges), *sorted(ids))
    return _write_chosen(folder, ranges, np.array(places))


def choose_within(
    documents: Path,
    ranges: Sequence[RowRange],
    jobs: Sequence[ShardedJob],
    budget: int,
    out: Path,
    *,
    seed: int,
    expected: Mapping[str, float],
    on_tokens: Callable[[int], None] = lambda _: None,
) -> Path:
    """A sealed folder of random documents to which the jobs' answers have at most `budget` tokens.

    `expected` are the tokens of an answer by method, where they are known; others may have as many as their template
    allows. Raises InputError if not even the first document is within the budget.
    """
    tasks: dict[str, None] = dict.fromkeys(_key(job.task) for job in jobs)
    names = (content_of(documents), *_named(ranges), budget, seed, *tasks)
    folder = out / CHOSEN / fingerprint("budget", *names)
    if is_sealed(folder):
        return folder
    order, spent, taken = _order(_num_rows(ranges), seed), 0.0, 0
    corpora = [{rows.corpus for rows in job.ranges} for job in jobs]
    for document in _read_rows(ranges, order):
        asking = (job for job, own in zip(jobs, corpora, strict=True) if document.corpus in own)
        tokens = sum(_tokens(job.task, document, expected) for job in asking)
        if spent + tokens > budget:
            if not taken:
                what = f"a budget of {budget:,} tokens is not enough for one document, which takes {tokens:,.0f}"
                raise InputError(what, where="--budget-tokens", hint="give more, or ask for fewer methods or samples")
            break
        spent, taken = spent + tokens, taken + 1
        on_tokens(round(spent))
    return _write_chosen(folder, ranges, order[:taken])


def _order(total: int, seed: int) -> Any:
    """The places of all documents in a random order; a larger choice holds a smaller one."""
    return np.random.default_rng(derive_seed(seed, CHOSEN)).permutation(total)


def _key(task: Any) -> str:
    """Names what is asked, whoever answers: a plan may not know the weights."""
    assert isinstance(task, AugmentTask)
    return replace(task, model="").key


def _tokens(task: Any, document: Document, expected: Mapping[str, float]) -> float:
    """Tokens of all answers about a document."""
    assert isinstance(task, AugmentTask)
    stages = task.stages(document, lambda asked: assume_proposals(task, document, asked))
    return sum(len(asked) * expected.get(template.method, float(template.max_tokens)) for template, asked in stages)


def _named(ranges: Sequence[RowRange]) -> Iterator[str | int]:
    """Names the rows that are chosen from."""
    return (part for rows in ranges for part in (Path(rows.shard).name, rows.start, rows.stop))


def _num_rows(ranges: Sequence[RowRange]) -> int:
    return sum(rows.stop - rows.start for rows in ranges)


def _read_rows(ranges: Sequence[RowRange], places: Any) -> Iterator[Document]:
    """The documents at some places, counted over all ranges."""
    ends = np.cumsum([rows.stop - rows.start for rows in ranges])
    read = lru_cache(maxsize=64)(read_table)
    for place in map(int, places):
        number = int(np.searchsorted(ends, place, side="right"))
        rows = ranges[number]
        row = rows.stop - (int(ends[number]) - place)
        yield read_records(read(Path(rows.shard)).slice(row, 1), Document)[0]


def _write_chosen(folder: Path, ranges: Sequence[RowRange], places: Any) -> Path:
    """Write the documents at some places, in the order of the corpus, unless that is done."""
    if not is_sealed(folder):
        rows = _read_rows(ranges, np.sort(places))
        number = 0
        while some := list(islice(rows, _ROWS_PER_SHARD)):
            write_shard(folder / shard_name(number), Document, some)
            number += 1
        seal(folder, Document)
    return folder
