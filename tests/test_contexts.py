"""Contexts: parsed, sampled by seed, stored once, refused where they cannot fit."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from augment_service.contexts import ALL, NONE, ContextReader, ContextSpec, parse_context, write_contexts
from data.errors import InputError
from data.records import Context, Document
from data.store import read_shard, write_folder


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    rows = [Document(f"{corpus}{at}", f"text {corpus} {at}", corpus) for corpus in "ab" for at in range(40)]
    write_folder(tmp_path / "documents", Document, rows)
    return tmp_path / "documents"


def render(texts: Sequence[str]) -> str:
    return "|".join(texts)


@pytest.mark.parametrize("spec", [NONE, ALL, ContextSpec("sample", 8), ContextSpec("required")])
def test_a_context_is_parsed_as_it_is_printed(spec: ContextSpec) -> None:
    assert parse_context(str(spec), where="here") == spec


@pytest.mark.parametrize("text", ["", "sample", "sample:0", "sample:-1", "sample:x", "nearest:4", "ALL", "all "])
def test_any_other_context_is_refused(text: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_context(text, where="--contexts")
    assert raised.value.where == "--contexts"
    assert ("not available yet" in raised.value.what) == text.startswith("nearest")


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
