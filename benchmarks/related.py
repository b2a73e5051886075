"""The index of related documents: seconds, memory, size, and whether it finds what belongs together.

`python -m benchmarks.related --json OUT`. Documents of random words, as frequent as words are; each has a partner that
mentions some of the same names. Peers, if they are installed: bm25s and tantivy on the same texts, which find words
only. Each side has a process of its own.
"""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import in_process
from benchmarks.harness import Bench, Goal, print_ratios, run
from data.records import Document
from data.seeds import fingerprint, stream
from data.store import seal, shard_name, write_shard

GOALS = {"build": Goal(1.0), "recall_at_1": Goal(0.95), "recall_at_4": Goal(0.95)}
BUILD_SECONDS = 120.0  # of one core: the ratio is 1 at these
WORDS = 200  # of a document
VOCABULARY = 60_000  # at most: in a small corpus, words must not be rarer than names
SHARED_NAMES, OTHER_NAMES = 4, 2  # of a document: those of its partner, too, and others
DOCUMENTS_PER_NAME = 10
DOCUMENTS_PER_SHARD = 20_000
NUM_QUERIES = 2000
SENTENCE = 12


def measure(bench: Bench) -> None:
    """Build and ask the index; the same with the peers."""
    count = 2000 if bench.flags.smoke else bench.flags.documents
    documents = bench.folder / "documents"
    bench.tell(f"writing {count:,} documents of {WORDS} words")
    write_documents(documents, count)
    sides: dict[str, Callable[..., dict[str, Any]]] = {"ours": measure_ours}
    if not bench.flags.ours_only:
        sides |= {"bm25s": measure_bm25s, "tantivy": measure_tantivy}
    found: dict[str, dict[str, Any]] = {}
    for name, side in sides.items():
        found[name] = in_process(side, documents, bench.folder / name, NUM_QUERIES)
        bench.tell(f"{name}: " + ", ".join(f"{what} {value:,}" for what, value in found[name].items()))
    ours = found["ours"]
    ratios = {
        "build": BUILD_SECONDS / ours["build_cpu_seconds"] * count / 100_000,
        "recall_at_1": ours["recall_at_1"],
        "recall_at_4": ours["recall_at_4"],
    }
    bench.report = {"documents": count, "sides": found, "ratios": ratios}
    print_ratios(bench, ratios, GOALS)


def write_documents(folder: Path, count: int) -> None:
    """Documents of frequent and rare words, each with some names; the partner of 2i is 2i + 1."""
    rng, draw = np.random.default_rng(0), stream(0, "benchmarks", "related")
    num_words = min(VOCABULARY, count)
    words = ["".join(draw.choices("aeioubdfgklmnprstvz", k=draw.randint(2, 10))) for _ in range(num_words)]
    shares = 1 / (np.arange(num_words) + 2.7)  # Zipf's law, as Mandelbrot has it
    shares /= shares.sum()
    num_names = max(8, count * (SHARED_NAMES + OTHER_NAMES) // DOCUMENTS_PER_NAME)
    names = [f"{draw.choice(words).title()} {draw.choice(words).title()}{at}" for at in range(num_names)]
    partners: list[str] = []
    for number, first in enumerate(range(0, count, DOCUMENTS_PER_SHARD)):
        rows = []
        drawn = rng.choice(num_words, (DOCUMENTS_PER_SHARD, WORDS), p=shares)
        for row in range(first, min(first + DOCUMENTS_PER_SHARD, count)):
            if row % 2 == 0:
                partners = draw.sample(names, SHARED_NAMES)
            text = [words[at] for at in drawn[row - first].tolist()]
            for name in [*partners, *draw.sample(names, OTHER_NAMES)]:
                text.insert(draw.randrange(1, len(text)), name)
            sentences = (text[at : at + SENTENCE] for at in range(0, len(text), SENTENCE))
            rows.append(
                Document(fingerprint("related", row), " ".join(f"The {' '.join(one)}." for one in sentences), "corpus")
            )
        write_shard(folder / shard_name(number), Document, rows)
    seal(folder, Document)


def measure_ours(documents: Path, folder: Path, num_queries: int) -> dict[str, Any]:
    """The index with its entities, and partners found by it."""
    from augment_service.related.build import build_index
    from augment_service.related.index import Index

    clock = _Clock()
    path = build_index(documents, folder)
    built = clock.seconds()
    index = Index(path, documents)
    rows = _queries(len(index), num_queries)
    index.nearest(rows[:8], 4)
    clock = _Clock()
    found = index.nearest(rows, 4)
    asked = clock.seconds()
    clock = _Clock()
    for row in rows[: num_queries // 4]:
        index.groups(row, 2, 4, seed=0)
    grouped = clock.seconds()
    return _result(documents, path, built, asked, rows, found) | {
        "groups_per_second": round(num_queries // 4 / grouped[0], 1)
    }


def measure_bm25s(documents: Path, folder: Path, num_queries: int) -> dict[str, Any]:
    """BM25 of bm25s, texts in memory; it saves its arrays."""
    try:
        import bm25s
    except ImportError:
        return {}
    texts = _texts(documents)
    clock = _Clock()
    tokens = bm25s.tokenize(texts, stopwords=None, show_progress=False)
    found = bm25s.BM25()
    found.index(tokens, show_progress=False)
    found.save(str(folder), show_progress=False)
    built = clock.seconds()
    rows = _queries(len(texts), num_queries)
    found = bm25s.BM25.load(str(folder), mmap=True)
    clock = _Clock()
    asked_tokens = bm25s.tokenize([texts[row] for row in rows], stopwords=None, show_progress=False)
    ranked, _ = found.retrieve(asked_tokens, k=5, show_progress=False)
    asked = clock.seconds()
    near = [tuple(one for one in other if one != row)[:4] for row, other in zip(rows, ranked.tolist(), strict=True)]
    return _result(documents, folder, built, asked, rows, near)


def measure_tantivy(documents: Path, folder: Path, num_queries: int) -> dict[str, Any]:
    """BM25 of tantivy, one thread; the query is any of the words."""
    try:
        import tantivy
    except ImportError:
        return {}
    texts = _texts(documents)
    folder.mkdir()
    clock = _Clock()
    schema = tantivy.SchemaBuilder().add_text_field("text").add_integer_field("row", stored=True).build()
    index = tantivy.Index(schema, path=str(folder))
    writer = index.writer(heap_size=256_000_000, num_threads=1)
    for row, text in enumerate(texts):
        writer.add_document(tantivy.Document(text=text, row=row))
    writer.commit()
    writer.wait_merging_threads()
    built = clock.seconds()
    index.reload()
    searcher = index.searcher()
    rows = _queries(len(texts), num_queries)
    clock = _Clock()
    near = []
    for row in rows:
        words = set(texts[row].lower().replace(".", "").split())
        query = tantivy.Query.boolean_query(
            [(tantivy.Occur.Should, tantivy.Query.term_query(schema, "text", word)) for word in words]
        )
        hits = searcher.search(query, 5).hits
        ranked = [int(searcher.doc(address)["row"][0]) for _, address in hits]
        near.append(tuple(one for one in ranked if one != row)[:4])
    return _result(documents, folder, built, clock.seconds(), rows, near)


class _Clock:
    """Seconds since it was made: of this process on all cores, and on the wall."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.monotonic()

    def seconds(self) -> tuple[float, float]:
        return time.process_time() - self._cpu, time.monotonic() - self._wall


def _texts(documents: Path) -> list[str]:
    from data.store import read_folder

    return [document.text for document in read_folder(documents, Document)]


def _queries(num_documents: int, count: int) -> list[int]:
    return stream(0, "benchmarks", "queries").sample(range(num_documents), min(count, num_documents))


def _result(
    documents: Path,
    folder: Path,
    built: tuple[float, float],
    asked: tuple[float, float],
    rows: Sequence[int],
    found: Sequence[tuple[int, ...]],
) -> dict[str, Any]:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    texts = sum(path.stat().st_size for path in documents.glob("*.arrow"))
    recall = {n: sum(row ^ 1 in near[:n] for row, near in zip(rows, found, strict=True)) / len(rows) for n in (1, 4)}
    return {
        "build_cpu_seconds": round(built[0], 2),
        "build_wall_seconds": round(built[1], 2),
        "index_megabytes": round(size / 1e6, 1),
        "documents_megabytes": round(texts / 1e6, 1),
        "queries_per_cpu_second": round(len(rows) / asked[0], 1),
        "recall_at_1": round(recall[1], 4),
        "recall_at_4": round(recall[4], 4),
        "major_faults": resource.getrusage(resource.RUSAGE_SELF).ru_majflt,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the flags, measure, write the report; returns the exit code."""
    return run(
        "related",
        __doc__.splitlines()[0],
        measure,
        arguments,
        lambda parser: parser.add_argument("--documents", type=int, default=100_000, metavar="N", help="(100,000)"),
    )


if __name__ == "__main__":
    sys.exit(main())
