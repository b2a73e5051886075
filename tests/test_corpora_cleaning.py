"""Every text that is imported is cleaned, whatever file it comes from; outlines and ids follow."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_corpora import load, rejected, texts_in, write_arrow, write_csv, write_jsonl, write_parquet
from test_corpora_conversations import talks_in, write_lines

from data.corpora.arrays import string_array
from data.corpora.cleaning import clean_rows, clean_with_outline, not_plain
from data.corpora.reading import Source, make_rows
from data.records import Document
from data.seeds import fingerprint
from data.store import read_folder
from data.structure import VERBATIM, Outliner, marks_of
from data.unicode import clean

DIRTY = "co\xadoperation\r\ncafe\u0301\x00 \ufeff10\xa0km"
CLEAN = "cooperation\ncaf\u00e9 10 km"


def rows_of(texts: list[str], outlines: list[list[int]] | None = None, headings: list[str] | None = None) -> pa.Table:
    source = Source(0, Path("a"), "text", 1, 0)
    return make_rows(source, texts, [1] * len(texts), headings=headings or (), outlines=outlines or ())


@pytest.mark.parametrize(
    ("write", "suffix"),
    [(write_jsonl, "jsonl"), (write_csv, "csv"), (write_parquet, "parquet"), (write_arrow, "arrow")],
)
def test_every_kind_of_table_gives_clean_texts(tmp_path: Path, write, suffix: str) -> None:
    write(tmp_path / f"a.{suffix}", ["plain", DIRTY.replace("\x00", ""), "\u200b\u3164"])
    load(tmp_path / f"a.{suffix}", tmp_path / "out")
    found = list(read_folder(tmp_path / "out" / "documents", Document))
    assert [document.text for document in found] == ["plain", CLEAN]
    assert found[1].doc_id == fingerprint(CLEAN)
    assert [reason for _, _, reason in rejected(tmp_path / "out")] == ["empty"]


def test_a_text_file_is_cleaned(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(DIRTY.encode())
    load(tmp_path / "a.txt", tmp_path / "out")
    assert texts_in(tmp_path / "out") == [CLEAN]


def test_texts_that_are_the_same_when_clean_are_duplicates(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [CLEAN, DIRTY])
    load(tmp_path / "a.jsonl", tmp_path / "out")
    assert rejected(tmp_path / "out") == [("a.jsonl", 2, "duplicate text")]


def test_conversations_are_cleaned_before_they_become_json(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": DIRTY}, {"role": "assistant", "content": "Yes\r\n\u200b."}]
    write_lines(tmp_path / "a.jsonl", [talk])
    load(tmp_path / "a.jsonl", tmp_path / "out", messages_column="messages")
    assert [message["content"] for message in talks_in(tmp_path / "out")[0]] == [CLEAN, "Yes\n."]


def test_rows_that_are_clean_are_the_same_table() -> None:
    rows = rows_of(["plain\n\ttext", "na\u00efve"])
    assert clean_rows(rows) is rows


def test_titles_are_cleaned_to_one_line() -> None:
    rows = clean_rows(rows_of(["a", "b", "c"], headings=["A\u2028title\xa0here", "", "plain"]))
    assert rows["heading"].to_pylist() == ["A title here", "", "plain"]


@pytest.mark.parametrize("text", ["\x00", "\x1b", "\r", "\x7f", "\x80", "\u00e9", "\x1f"])
@pytest.mark.parametrize("before", ["", "x" * 300_000])
def test_rows_that_may_need_cleaning_are_found(text: str, before: str) -> None:
    texts = string_array(["plain ~\n\t", before + text, "", text + "x", "plain"])
    assert not_plain(texts).tolist() == [1, 3]
    assert not_plain(texts[2:]).tolist() == [1]


def check_columns(texts: list[str]) -> None:
    """The search of a column finds all that `clean` would change; white space alone may stay as it is."""
    found = clean_rows(rows_of(texts))["text"].to_pylist()
    wanted = map(clean, texts)
    assert [(a, b) for a, b in zip(found, wanted, strict=True) if a != b and (a.strip() or b)] == []


@settings(max_examples=200)
@given(st.lists(st.text(max_size=8), min_size=1, max_size=40))
def test_texts_that_the_search_passes_over_are_clean(texts: list[str]) -> None:
    check_columns(texts)


def test_every_character_is_found_by_the_search_if_it_may_go() -> None:
    planes = (*range(0xD800), *range(0xE000, 0x20000), *range(0x2F800, 0x2FA20), *range(0xE0000, 0xE1000))
    check_columns([f"a{chr(code)}" for code in planes])
    check_columns([f"{before}{chr(code)}" for code in range(0x1100, 0x1200) for before in "\u1100\uac00"])


def test_outlines_follow_what_is_removed() -> None:
    outliner = Outliner()
    outliner.add("intro\xad")
    outliner.add("Ti\u200btle", 2)
    outliner.add("\u200b")
    outliner.add("x =\xa01\r\n  y", VERBATIM)
    assert outliner.text == "intro\nTitle\n\nx = 1\n  y"
    raw = "intro\xad\nTi\u200btle\n\u200b\nx =\xa01\r\n  y"
    places = [(2, 7, 13), (VERBATIM, 16, len(raw))]
    outline = [number for mark in places for number in mark]
    (row,) = clean_rows(rows_of([raw], [outline])).to_pylist()
    assert row["text"] == outliner.text
    assert tuple(row["outline"]) == outliner.outline


@given(st.lists(st.tuples(st.text("a\u0301\xad\u200b\r\x0c\xa0 \ufe0f\u0e01\n"), st.sampled_from([0, 1, VERBATIM]))))
def test_an_outline_marks_the_same_lines_after_cleaning(blocks: list[tuple[str, int]]) -> None:
    raw, marks, size = [], [], 0
    for block, kind in blocks:
        raw.append(block)
        if kind and block:
            marks.append((kind, size, size + len(block)))
        size += len(block) + 1
    text, outline = clean_with_outline("\n".join(raw), [number for mark in marks for number in mark])
    kept = [(kind, text[start:end]) for kind, start, end in marks_of(outline)]
    wanted = [(kind, clean(block)) for block, kind in blocks if kind]
    assert [(kind, part.strip()) for kind, part in kept if part.strip()] == [
        (kind, part.strip()) for kind, part in wanted if part.strip()
    ]
