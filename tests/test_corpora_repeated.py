"""Repeated lines: found in a sample, counted, removed on request; never code, tables, headings or short lines."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_corpora import check_resuming, load, rejected, texts_in, write_jsonl

from data.corpora.reading import ImportSettings
from data.corpora.repeated import LineCounts, counted_lines, is_many, without_lines
from data.errors import InputError
from data.records import Document
from data.store import read_folder
from data.structure import VERBATIM, Outliner, marks_of

FOOTER = "Copyright 2024 Example Works. All rights reserved."
COOKIES = "We use cookies to remember your settings."


def pages(count: int) -> list[str]:
    """Pages with a notice at the top and a footer."""
    return [f"{COOKIES}\n\nPage {n} tells of otters.\n\n{FOOTER}" for n in range(count)]


def test_repeated_lines_are_reported_and_kept(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", pages(40))
    summary = load(tmp_path / "a.jsonl", tmp_path / "out")
    assert summary.repeated == {COOKIES: 40, FOOTER: 40}
    assert (summary.num_repeated, summary.num_compared, summary.num_dropped_lines) == (2, 40, 0)
    assert texts_in(tmp_path / "out") == pages(40)


def test_repeated_lines_are_removed_on_request(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", pages(40))
    summary = load(tmp_path / "a.jsonl", tmp_path / "out", drop_repeated_lines=True)
    assert texts_in(tmp_path / "out") == [f"Page {n} tells of otters." for n in range(40)]
    assert summary.repeated == {COOKIES: 40, FOOTER: 40}
    assert (summary.num_repeated, summary.num_compared, summary.num_dropped_lines) == (2, 40, 80)


@pytest.mark.parametrize(("num_holders", "is_dropped"), [(2, False), (4, False), (5, True)])
def test_a_line_is_repeated_in_three_documents_and_one_in_twenty(
    tmp_path: Path, num_holders: int, is_dropped: bool
) -> None:
    members = [f"Otter {'x' * n} swims.{chr(10) + FOOTER if n < num_holders else ''}" for n in range(100)]
    write_jsonl(tmp_path / "a.jsonl", members)
    summary = load(tmp_path / "a.jsonl", tmp_path / "out", drop_repeated_lines=True)
    assert summary.num_dropped_lines == (num_holders if is_dropped else 0)
    assert is_many(np.array([2, 3]), 10).tolist() == [False, True]


def test_copies_of_a_document_do_not_make_its_lines_repeated(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["A line of an otter.\nAnother line of it."] * 30 + ["Something else here."])
    summary = load(tmp_path / "a.jsonl", tmp_path / "out", drop_repeated_lines=True)
    assert texts_in(tmp_path / "out") == ["A line of an otter.\nAnother line of it.", "Something else here."]
    assert (summary.num_compared, summary.num_dropped_lines) == (2, 0)


def test_a_document_of_nothing_else_is_rejected(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*(f"{FOOTER}\nOtter {'x' * n}" for n in range(9)), FOOTER])
    load(tmp_path / "a.jsonl", tmp_path / "out", drop_repeated_lines=True)
    assert len(texts_in(tmp_path / "out")) == 9
    assert rejected(tmp_path / "out") == [("a.jsonl", 10, "empty")]


def test_ids_are_those_of_what_is_left(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [f"Otter {'x' * n} swims.\n{FOOTER}" for n in range(5)])
    write_jsonl(tmp_path / "b.jsonl", [f"Otter {'x' * n} swims." for n in range(5)])
    load(tmp_path / "a.jsonl", tmp_path / "a", drop_repeated_lines=True)
    load(tmp_path / "b.jsonl", tmp_path / "b")
    one, two = ([*read_folder(tmp_path / name / "documents", Document)] for name in "ab")
    assert one == two


@pytest.mark.parametrize(
    "line",
    [
        "}",
        "end",
        "    return the_value_of_it",
        "\tindented by a tab",
        "| --- | --- | --- |",
        "==========",
        "",
        "See also",
    ],
)
def test_lines_that_documents_share_with_reason_are_not_counted(line: str) -> None:
    assert list(counted_lines(line, ())) == []


def test_lines_are_counted_with_their_numbers_and_single_spaces() -> None:
    found = [line for _, line in counted_lines("Weight:  300 g\nWeight: 20\tkg \n以下内容受版权保护", ())]
    assert found == ["Weight: 300 g", "Weight: 20 kg", "以下内容受版权保护"]


def test_code_and_headings_stay_and_outlines_follow() -> None:
    outliner = Outliner()
    outliner.add(COOKIES)
    outliner.add("A heading of several words", 1)
    outliner.add("def otter(of, a, river):\n    pass", VERBATIM)
    outliner.add(COOKIES)
    outliner.add("")
    outliner.add("The text goes on.\n" + FOOTER)
    lines = list(counted_lines(outliner.text, outliner.outline))
    assert [line for _, line in lines] == [COOKIES, COOKIES, "The text goes on.", FOOTER]
    text, outline = without_lines(outliner.text, outliner.outline, [0, 4, 7])
    assert text == "A heading of several words\ndef otter(of, a, river):\n    pass\n\nThe text goes on."
    assert [(kind, text[start:end]) for kind, start, end in marks_of(outline)] == [
        (1, "A heading of several words"),
        (VERBATIM, "def otter(of, a, river):\n    pass"),
    ]


@given(st.lists(st.tuples(st.sampled_from(["", "text", "other text"]), st.sampled_from("hvpd")), max_size=12))
def test_what_is_marked_survives_every_cut(blocks: list[tuple[str, str]]) -> None:
    outliner, dropped, marked = Outliner(), [], []
    for number, (block, role) in enumerate(blocks):
        outliner.add(block, {"h": 2, "v": VERBATIM}.get(role, 0))
        if role == "d":
            dropped.append(number)
        elif role in "hv" and block:
            marked.append(block)
    text, outline = without_lines(outliner.text, outliner.outline, dropped)
    assert [text[start:end] for _, start, end in marks_of(outline)] == marked
    kept = [block for number, (block, _) in enumerate(blocks) if number not in dropped and block]
    assert [line for line in text.split("\n") if line] == kept


def test_counts_come_back_from_a_file(tmp_path: Path) -> None:
    counts = LineCounts()
    counts.add([FOOTER, FOOTER, FOOTER, f"{FOOTER}\n{COOKIES}"], [()] * 4)
    counts.save(tmp_path / "lines")
    again = LineCounts.load(tmp_path / "lines")
    lines = [FOOTER, COOKIES, "A line of no document"]
    assert again.num_documents == 4 and again.are_repeated(lines).tolist() == [True, False, False]


def test_a_killed_import_drops_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    members = [f"{COOKIES}\n{n} " + "glon femp " * 50 + f"\n{FOOTER}" for n in range(3_000)]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in members) + "{\n")
    write_jsonl(folder / "b.jsonl", [*members[:50], FOOTER])
    starts = check_resuming(folder, tmp_path, monkeypatch, {"drop_repeated_lines": True})
    assert len(starts) > 3
    assert all(FOOTER not in text and COOKIES not in text for text in texts_in(tmp_path / "out"))


def test_conversations_have_no_repeated_lines() -> None:
    with pytest.raises(InputError, match="--drop-repeated-lines"):
        ImportSettings(messages_column="messages", drop_repeated_lines=True)
