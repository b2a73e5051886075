"""Related documents: words, postings, entities, the index and what it answers, against plain counting."""

import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment_service.related import build as building
from augment_service.related import index as asking
from augment_service.related import postings
from augment_service.related.build import build_index, index_path
from augment_service.related.documents import Documents
from augment_service.related.entities import NAME, QUANTITY, RARE, entities_of, find_candidates
from augment_service.related.index import K1, B, Index, index_folder, is_indexed, open_index
from augment_service.related.postings import GrowingArray, SortedRuns, read_array
from augment_service.related.words import count_words, fold, is_mark, key_of, split_words, terms_of
from cluster.locks import hold_lock
from data.errors import InputError
from data.records import Document
from data.store import read_folder, seal, shard_name, write_folder, write_shard

TEXTS = st.lists(st.text(alphabet="abcAB ÄößЖИдд東京都カナกข1_.,-'\n", max_size=60), max_size=6)
TOWNS = [
    "The old mill of Harrowgate burned in 1911. Ada Wren rebuilt it.",
    "Ada Wren studied the barley rust with Tomas Veil.",
    "A letter names Tomas Veil as owner of the quarry at Stonebeck.",
    "Bread was cheap that year. Nobody recalls why.",
    "The quarry at Stonebeck sold slate.",
]


def write_documents(folder: Path, texts: Sequence[str], corpus: str = "c", *, per_shard: int = 1000) -> Path:
    rows = [Document(f"{corpus}-{at}", text, corpus) for at, text in enumerate(texts)]
    for number, first in enumerate(range(0, max(1, len(rows)), per_shard)):
        write_shard(folder / shard_name(number), Document, rows[first : first + per_shard])
    seal(folder, Document)
    return folder


def indexed(folder: Path, texts: Sequence[str]) -> Index:
    return open_index(write_documents(folder / "documents", texts), folder / "fallback")


def words_of(text: str) -> list[str]:
    return [term for token in split_words(text) if not is_mark(token) for term in terms_of(token)]


def bm25(texts: Sequence[str], query: str) -> list[float]:
    """The scores of all documents, as the formula says it; the query's words count as a document's do."""
    documents = [Counter(words_of(text)) for text in texts]
    mean = sum(sum(words.values()) for words in documents) / len(documents)
    held = Counter(word for words in documents for word in words)
    scores = [0.0] * len(texts)
    for word, times in Counter(words_of(query)).items():
        rarity = math.log1p((len(texts) - held[word] + 0.5) / (held[word] + 0.5)) if held[word] else 0.0
        weight = rarity * times * (K1 + 1) / (times + K1)
        for row, words in enumerate(documents):
            norm = K1 * (1 - B + B * sum(words.values()) / mean)
            scores[row] += weight * words[word] * (K1 + 1) / (words[word] + norm)
    return scores


# ---- documents by row


def test_rows_are_counted_over_all_shards(tmp_path: Path) -> None:
    write_documents(tmp_path, [f"text {at}" for at in range(25)], per_shard=7)
    documents, rows = Documents(tmp_path), list(read_folder(tmp_path, Document))
    assert len(documents) == 25
    assert documents.read([24, 0, 7, 6, 7]) == [rows[at] for at in (24, 0, 7, 6, 7)]
    assert documents.texts([13]) == [rows[13].text] and documents.ids([21]) == [rows[21].doc_id]
    for row in (-1, 25):
        with pytest.raises(IndexError):
            documents.texts([row])


@pytest.mark.parametrize("num_bytes", [1, 60, 1 << 20])
def test_parts_have_every_row_once(tmp_path: Path, num_bytes: int) -> None:
    write_documents(tmp_path, [f"text {at}" for at in range(25)], per_shard=7)
    at = 0
    for first, table in Documents(tmp_path).parts(num_bytes):
        assert first == at and table["doc_id"].to_pylist() == [f"c-{row}" for row in range(at, at + table.num_rows)]
        at += table.num_rows
    assert at == 25


# ---- words


@given(TEXTS)
def test_words_are_counted_as_one_by_one(texts: list[str]) -> None:
    found = count_words(texts)
    expected = {(key_of(word), at): n for at, text in enumerate(texts) for word, n in Counter(words_of(text)).items()}
    rows = zip(found.keys.tolist(), found.texts.tolist(), strict=True)
    assert dict(zip(rows, found.counts.tolist(), strict=True)) == expected
    assert found.lengths.tolist() == [len(words_of(text)) for text in texts]
    order = list(zip(found.keys.tolist(), found.texts.tolist(), strict=True))
    assert order == sorted(order)


def test_a_capital_counts_where_no_sentence_begins() -> None:
    found = count_words(["The mill. Ada came, the Mill (Red) stood. \n- Barley", "the"])
    names = {key_of(fold(word)): word for word in ("the", "mill", "ada", "came", "red", "stood", "barley")}
    assert {names[key] for key in found.keys[found.capital].tolist()} == {"mill"}
    assert {names[key] for key in found.keys[found.lower].tolist()} == {"the", "mill", "came", "stood"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Otters' otter glass corpus bus", ["otter", "otter", "glass", "corpus", "bus"]),
        ("load_table(x2), v1.5", ["load_table", "x2", "v1", "5"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs are no letters
        ("東京都は", ["東京", "京都", "都は"]),
        ("러스트는 x", ["러스", "스트", "트는", "x"]),
        ("ไทย", ["ไท", "ทย"]),
        ("une élèves", ["une", "élève"]),
    ],
)
def test_words_of_scripts(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_keys_are_the_same_on_every_machine() -> None:
    assert key_of("otter") == 0xF9B2E3CA888CB980


# ---- postings


@settings(max_examples=30)
@given(
    runs=st.lists(st.lists(st.tuples(st.integers(0, 2**64 - 1) | st.integers(0, 5), st.integers(0, 9))), max_size=4),
    most=st.none() | st.integers(1, 3),
)
def test_runs_are_merged_to_all_that_was_added(
    tmp_path_factory: pytest.TempPathFactory, runs: list[list[tuple[int, int]]], most: int | None
) -> None:
    merged = SortedRuns(tmp_path_factory.mktemp("runs") / "runs")
    expected: dict[int, list[int]] = defaultdict(list)
    for run in runs:
        run.sort(key=lambda pair: pair[0])
        keys = np.array([key for key, _ in run], np.uint64)
        merged.add(keys, np.array([value for _, value in run], np.uint32))
        for key, value in run:
            expected[key].append(value)
    found: dict[int, list[int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postings, "_VALUES_MERGED", 2)
        for part in merged.merged(most=most):
            values = iter(part.values.tolist())
            for key, count, kept in zip(part.keys.tolist(), part.counts.tolist(), part.kept.tolist(), strict=True):
                assert count == len(expected[key]) and kept == (most is None or count <= most)
                found[key] = [next(values) for _ in range(count)] if kept else []
    assert list(found) == sorted(expected)
    assert found == {key: held if most is None or len(held) <= most else [] for key, held in expected.items()}


@pytest.mark.parametrize("dtype", [np.uint64, building.PLACE])
def test_a_growing_array_is_a_plain_npy_file(tmp_path: Path, dtype: object) -> None:
    path = tmp_path / "a.npy"
    values = np.zeros(7, dtype)  # type: ignore[call-overload]
    with GrowingArray(path, values.dtype) as array:
        for start in (0, 3, 3):
            array.append(values[start : start + 3])
    assert np.array_equal(np.load(path, allow_pickle=False), np.concatenate([values[:3], values[3:6], values[3:6]]))
    with GrowingArray(path, np.int64):
        pass
    assert len(read_array(path)) == 0


# ---- entities


def entities(text: str, *others: str) -> list[tuple[int, str]]:
    """The entities of a text in a corpus with some others."""
    counts = count_words([text, *others])
    lower, capital = (Counter(counts.keys[flags].tolist()) for flags in (counts.lower, counts.capital))
    found = entities_of(find_candidates(text), lambda word: (lower[key_of(word)], capital[key_of(word)]), 99)
    assert all(text[one.start : one.start + len(one.text)] == one.text for one in found)
    return [(one.kind, one.text) for one in found]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("We met Ada Wren in Harrowgate.", ["Ada Wren", "Harrowgate"]),
        ("The mill burned. Nobody saw the Mill of Harrowgate.", ["Mill of Harrowgate"]),
        ("When Ada's aunt came, it rained. As she said to Ada.", ["Ada"]),
        ("He drove with J. R. Hart and the Apollo 11 crew.", ["J. R. Hart", "Apollo 11"]),
        ("As Chapter 4 and Figure 2.1 say, I know. I'm here.", []),
        ("Er fuhr mit Johann van der Berg nach Köln.", ["Johann van der Berg", "Köln"]),
        ("Мы видели Анну Павлову в Москве.", ["Анну Павлову", "Москве"]),
        ("これはデータベースです。", ["データベース"]),
        ("# All Words Of A Title\n\nplain text", []),
        ("THE SOFTWARE IS PROVIDED AS IT IS, the software of NASA, provided as it is.", ["NASA"]),
    ],
)
def test_names(text: str, names: list[str]) -> None:
    others = 6 * ["we know it when we say so, as he and the others did"]
    assert [name for kind, name in entities(text, *others) if kind == NAME] == names


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It ran 42 km at 3.5 °C on 12 May 1987, or 2001-02-03.", ["42 km", "3.5 °C", "12 May 1987", "2001-02-03"]),
        ("It cost €1,500 in 1987 and 12% more.", ["€1,500", "1987", "12%"]),
        (
            "Call read_table() or numpy.load with --force, e.g. parseInt.",
            ["read_table", "numpy.load", "--force", "parseInt"],
        ),
        ('the “late frost” of `cargo build` and "a long sentence that is quoted here"', ["late frost", "cargo build"]),
        ("他说《红楼梦》在1791年", ["红楼梦", "1791年"]),
        ("port 8080, version 3, 12 of 7 people", []),
    ],
)
def test_other_entities(text: str, found: list[str]) -> None:
    assert [text for kind, text in entities(text) if kind != NAME] == found


@settings(max_examples=50)
@given(st.text(max_size=200))
def test_any_text_has_entities_that_it_contains(text: str) -> None:
    entities(text)


def test_nonsense_words_are_the_entities_of_texts_without_names(tmp_path: Path) -> None:
    nonsense = [f"{first}{last}" for first in ("bla", "kru", "tro", "sna") for last in ("mp", "ft", "dd", "lk", "nt")]
    texts = [f"It is well known that {a} are more patient than {b}." for a, b in pairwise(nonsense)]
    index = indexed(tmp_path, texts * 3)
    for row, text in enumerate(texts):
        found = index.entity_texts(index.entities_of(row).tolist())
        assert {text.split()[5], text.split()[-1].rstrip(".")} <= set(found)
        assert set(index.entity_kinds(index.entities_of(row)).tolist()) == {RARE}


# ---- the index


@settings(max_examples=40)
@given(texts=st.lists(st.text(alphabet="abc ", min_size=1, max_size=12), min_size=1, max_size=12))
def test_scores_are_those_of_the_formula(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    index = indexed(tmp_path_factory.mktemp("index"), texts)
    for row, text in enumerate(texts):
        scores = [round(score, 5) for score in bm25(texts, text)]
        (found,) = index.nearest([row], len(texts))
        assert row not in found
        kept: dict[str, int] = {}  # of equal texts the first that is ranked
        for other in sorted(range(len(texts)), key=lambda at: (-scores[at], at)):
            if scores[other] > 0 and texts[other] != text:
                kept.setdefault(texts[other], other)
        assert list(found) == list(kept.values())


def test_the_number_of_runs_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{TOWNS[at % 5]} {at // 5} {at * 7919 % 13}x Wren" for at in range(200)]
    documents = write_documents(tmp_path / "documents", texts, per_shard=30)
    whole = build_index(documents, tmp_path / "whole")
    monkeypatch.setattr(building, "PART_BYTES", 500)
    monkeypatch.setattr(building, "_KEYS_READ", 3)
    monkeypatch.setattr(postings, "_VALUES_MERGED", 50)
    parts = build_index(documents, tmp_path / "parts")
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in parts.iterdir())
    assert [name for name in names if (whole / name).read_bytes() != (parts / name).read_bytes()] == []


def test_each_corpus_is_by_itself(tmp_path: Path) -> None:
    rows = [Document(f"{corpus}{at}", text, corpus) for at, text in enumerate(TOWNS) for corpus in ("one", "two")]
    write_folder(tmp_path / "documents", Document, rows)
    index = open_index(tmp_path / "documents", tmp_path)
    alone = indexed(tmp_path / "alone", TOWNS)
    for row in range(5):
        expected = alone.nearest([row], 4)[0]
        for shift in (0, 1):
            assert index.nearest([2 * row + shift], 4) == [tuple(2 * other + shift for other in expected)]
    assert index.search(["Tomas Veil"], 9, corpus="two") == [(3, 5)]
    assert index.search(["Tomas Veil", "!"], 9, corpus="three") == [(), ()]
    assert index.search(["!"], 9, corpus="two") == [()]
    assert index.rows_of(["two3", "one0"]) == [7, 0]
    with pytest.raises(KeyError):
        index.rows_of(["three0"])


def test_copies_are_left_out_and_ties_are_in_the_order_of_rows(tmp_path: Path) -> None:
    texts = ["barley rust", "barley x", "barley rust", "barley y", "barley x", "barley z", "oats"]
    index = indexed(tmp_path, texts)
    assert index.nearest([0, 2, 6], 5) == [(1, 3, 5), (1, 3, 5), ()]
    assert index.nearest([0], 2) == [(1, 3)]


def test_a_heading_is_found_with_its_text(tmp_path: Path) -> None:
    rows = [
        Document("a", "It sold slate.", "c", heading="The quarry at Stonebeck"),
        Document("b", "It sold bread.", "c"),
    ]
    write_folder(tmp_path / "documents", Document, rows)
    assert open_index(tmp_path / "documents", tmp_path).search(["Stonebeck"], 2, corpus="c") == [(0,)]


def test_frequent_words_have_no_postings_in_a_large_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "MOST_DOCUMENTS", 3)
    index = indexed(tmp_path, [f"barley number{at // 2}" for at in range(40)])
    assert index.search(["barley"], 4, corpus="c") == [()]
    assert index.search(["barley number3"], 4, corpus="c") == [(6,)]  # 7 is a copy
    monkeypatch.setattr(asking, "MOST_POSTINGS", 1)
    assert index.search(["number3 number5"], 4, corpus="c")[0] in ((6,), (10,))  # one word at least is looked up


def test_documents_without_words_are_no_trouble(tmp_path: Path) -> None:
    index = indexed(tmp_path, ["!", "", "?"])
    assert index.nearest([0, 1], 3) == [(), ()] and index.groups(0, 2, 3, 0) == []
    write_folder(tmp_path / "none" / "documents", Document, [])
    assert len(open_index(tmp_path / "none" / "documents", tmp_path)) == 0


# ---- building


def test_an_index_is_beside_its_documents_and_named_by_their_content(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "documents", TOWNS)
    done: list[int] = []
    index = open_index(documents, tmp_path / "fallback", done.append)
    assert index.folder == index_path(documents, tmp_path / "index") and done == [2, 5]
    assert {path.suffix for path in index.folder.iterdir()} == {".npy", ".json"}
    changed = {path: path.stat().st_mtime_ns for path in index.folder.iterdir()}
    build_index(documents, tmp_path / "index")
    assert {path: path.stat().st_mtime_ns for path in index.folder.iterdir()} == changed
    copy = write_documents(tmp_path / "copy", TOWNS)
    assert index_path(copy, tmp_path) == index_path(documents, tmp_path)
    assert index_folder(copy, tmp_path / "fallback") == tmp_path / "copy.index"


def test_a_place_that_cannot_be_written_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = write_documents(tmp_path / "documents", TOWNS)
    monkeypatch.setattr(asking.os, "access", lambda path, mode: False)
    assert index_folder(documents, tmp_path / "fallback") == tmp_path / "fallback"
    build_index(documents, tmp_path / "index")
    assert index_folder(documents, tmp_path / "fallback") == tmp_path / "index"  # what is there need not be written
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        build_index(documents, tmp_path / "file" / "index")


def test_a_killed_build_leaves_nothing_that_counts(tmp_path: Path) -> None:
    documents, folder = write_documents(tmp_path / "documents", TOWNS), tmp_path / "index"

    class KilledError(Exception):
        pass

    def kill(done: int) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        build_index(documents, folder, kill)
    assert list(folder.iterdir()) == []
    dead, alive = folder / ".dead.tmp", folder / ".alive.tmp"
    for leftover in (dead, alive):
        leftover.mkdir()
        (leftover / "lock").touch()
    with hold_lock(alive / "lock", "in use"):
        build_index(documents, folder)
    assert not dead.exists() and alive.exists() and is_indexed(documents, folder)


def test_a_damaged_index_is_one_clear_error(tmp_path: Path) -> None:
    index = indexed(tmp_path, TOWNS)
    (index.folder / "word_keys.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        Index(index.folder, tmp_path / "documents").nearest([0], 2)
    (index.folder / "index.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        Index(index.folder, tmp_path / "documents")


# ---- groups of entities


def test_groups_are_held_by_the_document_or_linked_through_another(tmp_path: Path) -> None:
    index = indexed(tmp_path, TOWNS)
    pairs = index.groups(0, 2, 50, seed=1)
    found = {frozenset(pair.entities): pair.rows for pair in pairs}
    assert len(found) == len(pairs)
    assert found[frozenset(("Ada Wren", "Harrowgate"))] == (0, 1)
    assert found[frozenset(("Harrowgate", "Tomas Veil"))][:2] == (0, 1)  # through Ada Wren
    triples = index.groups(0, 3, 50, seed=1)
    assert {frozenset(one.entities) for one in triples} >= {frozenset(("Harrowgate", "Ada Wren", "Tomas Veil"))}
    for group in [*pairs, *triples]:
        assert group.rows[0] == 0 and len(set(group.rows)) == len(group.rows) <= len(group.entities) + 1
        shown = " ".join(TOWNS[row] for row in group.rows)
        assert all(entity in shown for entity in group.entities)


def test_groups_depend_on_the_document_and_the_seed_not_on_its_row(tmp_path: Path) -> None:
    rows = [Document(f"d{at}", text, "c") for at, text in enumerate(TOWNS)]
    others = [Document(f"o{at}", f"Plain bread number {at} was sold by hand.", "c") for at in range(30)]
    write_folder(tmp_path / "few" / "documents", Document, rows)
    write_folder(tmp_path / "many" / "documents", Document, [*others, *rows])
    few, many = (open_index(tmp_path / name / "documents", tmp_path) for name in ("few", "many"))
    for row in range(5):
        expected = [(group.entities, [at + 30 for at in group.rows]) for group in few.groups(row, 2, 4, seed=3)]
        assert [(group.entities, list(group.rows)) for group in many.groups(row + 30, 2, 4, seed=3)] == expected
    drawn = {tuple(group.entities for group in few.groups(0, 2, 4, seed=seed)) for seed in range(6)}
    assert len(drawn) > 1
    assert few.groups(0, 2, 2, seed=3) == few.groups(0, 2, 4, seed=3)[:2]


def test_an_entity_is_not_paired_with_a_part_of_itself(tmp_path: Path) -> None:
    index = indexed(tmp_path, ["We saw Ada Wren and Wren at Harrowgate with Ada.", "Then Ada met Wren."])
    for group in index.groups(0, 2, 20, seed=0):
        one, other = (set(text.split()) for text in group.entities)
        assert not (one <= other or other <= one)


def test_quantities_link_no_documents(tmp_path: Path) -> None:
    texts = ["In Harrowgate it was 1911 for Ada Wren.", "In Stonebeck it was 1911 for Tomas Veil.", "It was quiet."]
    index = indexed(tmp_path, texts)
    kinds = dict(
        zip(index.entity_texts(index.entities_of(0).tolist()), index.entity_kinds(index.entities_of(0)), strict=True)
    )
    assert kinds["1911"] == QUANTITY
    assert not {"Stonebeck", "Tomas Veil"} & {text for group in index.groups(0, 2, 50, 0) for text in group.entities}


def test_nothing_is_left_of_the_runs(tmp_path: Path) -> None:
    index = indexed(tmp_path, TOWNS)
    assert not [path for path in index.folder.rglob("*") if path.is_dir()]
    shutil.rmtree(index.folder)
