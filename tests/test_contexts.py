"""Contexts: parsed, sampled by seed, stored once, refused where they cannot fit; and of related documents."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment_service.contexts import (
    ALL,
    NONE,
    ContextReader,
    ContextSpec,
    fit_documents,
    parse_context,
    related_context,
    write_contexts,
)
from augment_service.related.index import Index, open_index
from data.errors import InputError
from data.records import Context, Document
from data.sentences import count_words, word_counter
from data.store import read_shard, write_folder


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    rows = [Document(f"{corpus}{at}", f"text {corpus} {at}", corpus) for corpus in "ab" for at in range(40)]
    write_folder(tmp_path / "documents", Document, rows)
    return tmp_path / "documents"


def render(texts: Sequence[str]) -> str:
    return "|".join(texts)


NEAREST, BUNDLE = ContextSpec("nearest", 4), ContextSpec("bundle", 3)


@pytest.mark.parametrize("spec", [NONE, ALL, ContextSpec("sample", 8), ContextSpec("required"), NEAREST, BUNDLE])
def test_a_context_is_parsed_as_it_is_printed(spec: ContextSpec) -> None:
    assert parse_context(str(spec), where="here") == spec


@pytest.mark.parametrize(
    "text",
    ["", "sample", "sample:0", "sample:-1", "sample:x", "nearest", "nearest:0", "bundle:1", "ALL", "all ", "far:3"],
)
def test_any_other_context_is_refused(text: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_context(text, where="--contexts")
    assert raised.value.where == "--contexts"
    assert "bundle:" in raised.value.hint


def test_a_context_of_another_kind_is_refused_with_those_that_can_be_used() -> None:
    with pytest.raises(InputError) as raised:
        parse_context("bundle:3", where="--contexts", kinds=("none", "nearest"))
    assert raised.value.hint.startswith("choose among none, nearest:N (the N most related documents);")


def test_all_documents_of_a_corpus_are_one_row(documents: Path, tmp_path: Path) -> None:
    paths = write_contexts(documents, ["a", "b"], ALL, render, tmp_path / "out", seed=0)
    for corpus, path in paths.items():
        (row,) = read_shard(path, Context)
        assert row == ContextReader(path).text_for()
        assert row.doc_ids == tuple(f"{corpus}{at}" for at in range(40))
        assert row.text == render([f"text {corpus} {at}" for at in range(40)])
    assert ContextReader(paths["a"]).text_for() is ContextReader(paths["a"]).text_for()  # read once in a process


def test_a_context_is_written_once(documents: Path, tmp_path: Path) -> None:
    (path,) = write_contexts(documents, ["a"], ALL, render, tmp_path / "out", seed=0).values()
    before = path.stat().st_mtime_ns
    assert write_contexts(documents, ["a"], ALL, render, tmp_path / "out", seed=0) == {"a": path}
    assert path.stat().st_mtime_ns == before
    other = write_contexts(documents, ["a"], ALL, lambda texts: "\n".join(texts), tmp_path / "out", seed=0)
    assert other["a"] != path
    assert not list((tmp_path / "out").glob(".*"))


def test_a_sample_is_a_share_in_order_and_decided_by_seed_and_draw(documents: Path, tmp_path: Path) -> None:
    def ids(seed: int, draw: int) -> tuple[str, ...]:
        spec = ContextSpec("sample", 8)
        paths = write_contexts(documents, ["a"], spec, render, tmp_path / "out", seed=seed, draw=draw)
        return ContextReader(paths["a"]).text_for().doc_ids

    first = ids(0, 0)
    assert len(first) == 5
    assert list(first) == sorted(first, key=lambda doc_id: int(doc_id[1:]))
    assert first == ids(0, 0)
    assert len({first, ids(0, 1), ids(1, 0)}) == 3


def test_required_documents_are_one_row_for_each_set_of_them(documents: Path, tmp_path: Path) -> None:
    requires = [("a3", "a1"), ("a1", "a3"), ("b2",), (), ("a5",)]
    spec = ContextSpec("required")
    paths = write_contexts(documents, ["a", "b"], spec, render, tmp_path / "out", seed=0, requires=requires)
    assert [row.doc_ids for row in read_shard(paths["a"], Context)] == [("a1", "a3"), ("a5",)]
    assert ContextReader(paths["a"]).text_for(("a3", "a1")).text == "text a 1|text a 3"
    assert ContextReader(paths["b"]).text_for(("b2",)).doc_ids == ("b2",)


def test_what_cannot_fit_is_refused_before_anything_is_written(documents: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        write_contexts(documents, ["a"], ALL, render, tmp_path / "out", seed=0, window=2)
    assert "sample" in raised.value.hint
    assert not (tmp_path / "out").exists()
    write_contexts(documents, ["a"], ContextSpec("sample", 8), render, tmp_path / "out", seed=0, window=2)


def test_a_corpus_without_documents_is_refused(documents: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        write_contexts(documents, ["a", "c"], ALL, render, tmp_path / "out", seed=0)
    assert raised.value.where == str(documents)


def test_the_nearest_documents_are_one_row_for_each_set_of_them(documents: Path, tmp_path: Path) -> None:
    found = [("a3", "a1"), ("a1", "a3"), (), ("b5",)]
    spec = ContextSpec("nearest", 2)
    paths = write_contexts(documents, ["a", "b"], spec, render, tmp_path / "out", seed=0, requires=found)
    assert [row.doc_ids for row in read_shard(paths["a"], Context)] == [("a1", "a3")]
    assert ContextReader(paths["b"]).text_for(("b5",)).text == "text b 5"


# ---- related documents


@pytest.fixture
def index(tmp_path: Path) -> Index:
    texts = [
        "slate quarry at Stonebeck",
        "bread",
        "Stonebeck slate. It was sold. Nobody knew.",
        "slate of Stonebeck",
        "Stonebeck",
    ]
    rows = [Document(f"d{at}", text, "c") for at, text in enumerate(texts)]
    write_folder(tmp_path / "related" / "documents", Document, rows)
    return open_index(tmp_path / "related" / "documents", tmp_path)


def test_a_document_is_not_among_its_nearest_and_first_in_its_bundle(index: Index) -> None:
    nearest = related_context(index, 3, ContextSpec("nearest", 2), render)
    assert nearest.doc_ids == ("d0", "d2") and nearest.text == render(index.documents.texts([0, 2]))
    bundle = related_context(index, 3, ContextSpec("bundle", 3), render)
    assert bundle.doc_ids == ("d0", "d2", "d3")
    assert related_context(index, 3, ContextSpec("bundle", 9), render).doc_ids == ("d0", "d2", "d3", "d4")
    assert related_context(index, 1, NEAREST, render).doc_ids == ()


def test_documents_are_in_the_order_of_the_corpus_or_of_a_seed(index: Index) -> None:
    spec = parse_context("bundle:4:shuffled", where="--context")
    orders = {related_context(index, 3, spec, render, seed=seed).doc_ids for seed in range(9)}
    assert len(orders) > 2 and {tuple(sorted(ids)) for ids in orders} == {("d0", "d2", "d3", "d4")}
    again = related_context(index, 3, spec, render, seed=1)
    assert again == related_context(index, 3, spec, render, seed=1)
    assert again.text == render(index.documents.texts([int(doc_id[1:]) for doc_id in again.doc_ids]))


def test_the_least_related_documents_are_left_out_of_a_small_window(index: Index) -> None:
    spec = ContextSpec("bundle", 4)
    assert related_context(index, 3, spec, render, budget=8).doc_ids == ("d0", "d3")
    assert related_context(index, 3, spec, render, budget=7).doc_ids == ("d3",)
    assert related_context(index, 2, spec, render, budget=6).text == "Stonebeck slate. It was sold."
    assert related_context(index, 2, spec, render, budget=1).text == "Stonebeck"


WORDS = st.lists(st.sampled_from(["otter. ", "heavy ", "stoat! ", "river\n\n", "東京。"]), max_size=12).map("".join)


@given(st.lists(WORDS, max_size=5), st.integers(-1, 30))
def test_documents_fit_and_none_is_left_out_that_would(texts: list[str], budget: int) -> None:
    fitting = fit_documents(texts, budget)
    if not texts or budget < 1:
        assert fitting == []
        return
    used = sum(word_counter(fitting)) + len(fitting) - 1
    assert len(fitting) >= 1 and used <= budget
    if fitting == texts[: len(fitting)]:
        following = texts[len(fitting) : len(fitting) + 1]
        assert all(used + 1 + count_words(text) > budget for text in following)
    else:
        (cut,) = fitting
        assert texts[0].startswith(cut) and count_words(texts[0]) > budget


def test_a_long_document_is_cut_at_a_sentence_and_not_counted_whole() -> None:
    counted: list[int] = []

    def count(texts: Sequence[str]) -> list[int]:
        counted.extend(map(len, texts))
        return word_counter(texts)

    text = "The otter swims far. " * 100_000
    assert fit_documents([text, "short"], 10, count) == ["The otter swims far. The otter swims far."]
    assert max(counted) < 1000
