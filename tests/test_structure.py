"""The outline of Markdown: what is a heading, what is no prose, and what becomes of both in sentences and imports."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from test_corpora import load

from data.markdown import complete, heading_text, outline_of, title_of
from data.records import Document
from data.sentences import pieces_of, sentence_spans, split_sentences
from data.store import read_folder, write_folder
from data.structure import VERBATIM, marks_of
from train.texts.sources import TextSource, name_texts, read_rows

PAGE = """---
title: "Otters: a page"
tags: [a, b]
---

# Otters

```python
def f(x):
    return x
```

| a | b |
|---|---|
| 1 | 2 |

The otter is heavy."""
BLOCKS = {
    "a fence": "```\nx = 1.\n\ny = 2.\n```",
    "a fence of tildes": "~~~text\nNot prose.\n~~~",
    "a longer fence around another": "````md\n```\nNot prose.\n```\nNor this.\n````",
    "a fence without an end": "```sh\nls. Then more.",
    "a table": "| a. | b |\n|:--|--:|\n| One. Two. | 2 |",
    "a table without outer bars": "a | b\n--|--\nOne. | Two.",
    "rows without a head": "| One. | 2 |\n| Two. | 3 |",
    "a rule": "* * *",
    "a comment": "<!-- Not. Shown.\nAt all. -->",
    "HTML": '<div class="a">\nRaw. Text.\n</div>',
    "a script": "<script>\nlet a = 1.\n\nb = 2.\n</script>",
    "a definition": '[1]: https://example.org/a "A title."',
    "a heading": "## Two. Parts ##",
    "an underlined heading": "Two. Parts\n=======",
}


def kinds(text: str, **flags: bool) -> list[tuple[int, str]]:
    return [(kind, text[start:end]) for kind, start, end in marks_of(outline_of(text, **flags))]


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_marked_whole_and_are_no_sentences(name: str) -> None:
    block = BLOCKS[name]
    text = f"Before it. And more.\n\n{block}"
    assert [part for _, part in kinds(text)] == [block]
    assert split_sentences(text) == ["Before it.", "And more."]
    if "without an end" not in name:
        assert split_sentences(f"{text}\n\nAfter it.") == ["Before it.", "And more.", "After it."]


def test_a_page_has_its_title_and_one_sentence() -> None:
    assert split_sentences(PAGE) == ["The otter is heavy."]
    assert [kind for kind, _ in kinds(PAGE)] == [VERBATIM, 1, VERBATIM, VERBATIM]
    assert title_of(PAGE, outline_of(PAGE)) == "Otters: a page"
    assert title_of("+++\ntitle = 'Stoats'\n+++\nHi.", outline_of("+++\ntitle = 'Stoats'\n+++\nHi.")) == "Stoats"
    assert title_of("Hi.\n\n# The *first* #\n", outline_of("Hi.\n\n# The *first* #\n")) == "The *first*"
    assert title_of("Hi. Yes.", ()) == ""


@pytest.mark.parametrize(
    "text",
    [
        "The tag #otter is used. C# too.",
        "One - two. Three | four.",
        "He wrote ```x``` here.",
        "5 > 3 is true. So is 3 < 5.",
        "A line.\n- an item\n- another item",
        "[1] is a note. [2]: so is this one.",
        "#otter",
    ],
)
def test_prose_that_looks_like_markdown_stays_prose(text: str) -> None:
    assert not outline_of(text)


def test_a_part_that_begins_within_code_is_not_turned_inside_out() -> None:
    text = "    return x\n```\n\nThe otter is heavy. It swims.\n"
    assert split_sentences(text) == ["The otter is heavy.", "It swims."]
    # With an outline nothing is guessed.
    code = PAGE.index("return")
    outline = [VERBATIM, 0, PAGE.index("```\n\n|") + 3 - code]
    assert split_sentences(PAGE[code:], outline) == ["The otter is heavy."]


def test_indented_lines_are_code_only_in_markdown_and_outside_lists() -> None:
    text = "Text.\n\n    x = 1\n\n    y = 2\n\n- item\n\n    its text\n"
    assert kinds(text, indented=True) == [(VERBATIM, "    x = 1\n\n    y = 2")]
    assert kinds(text) == []


def test_marks_of_quotations_are_left_out_of_sentences() -> None:
    text = "> The otter is heavy. It\n> swims.\n\n- An item stays.\n1. So does this."
    assert split_sentences("> The otter is heavy.") == ["The otter is heavy."]
    assert split_sentences(text)[-2:] == ["- An item stays.", "1. So does this."]


def test_heading_text_has_no_marks() -> None:
    assert heading_text("## A  title ##") == "A title"
    assert heading_text("A title\n-----") == "A title"
    assert heading_text("# C#") == "C#"


LINES = [
    "# A", "## B #", "text here", "more text", "", "", "```", "```python", "~~~", "````", "    code", "***", "- item",
    "1. one", "> quote", "> # Q", "<!-- c -->", "<div>", "</div>", "-----",
]  # fmt: skip


def by_line(text: str) -> list[int]:
    lines = [0] * (text.count("\n") + 1)
    for kind, start, end in marks_of(outline_of(text, indented=True)):
        for line in range(text.count("\n", 0, start), text.count("\n", 0, end) + 1):
            lines[line] = kind
    return lines


def test_nearly_all_lines_are_read_as_a_whole_parser_reads_them() -> None:
    """The rest are code and lazy lines in nested lists."""
    parser, rng = MarkdownIt("commonmark"), random.Random(0)
    num_different = 0
    for _ in range(2000):
        lines = [rng.choice(LINES) for _ in range(rng.randint(2, 8))]
        theirs = [0] * len(lines)
        for token in parser.parse("\n".join(lines)):
            is_verbatim = token.type in {"fence", "code_block", "hr", "html_block"}
            if token.map and (is_verbatim or token.type == "heading_open"):
                kind = VERBATIM if is_verbatim else int(token.tag[1])
                theirs[slice(*token.map)] = [kind] * len(theirs[slice(*token.map)])
        ours = by_line("\n".join(lines))
        num_different += any(one != other for one, other, line in zip(ours, theirs, lines, strict=True) if line.strip())
    assert num_different < 40


@given(st.lists(st.sampled_from([*LINES, *BLOCKS.values(), "---\na: b\n---", "Prose. And more."])).map("\n".join))
def test_marks_are_ordered_whole_lines_and_pieces_tile_the_text(text: str) -> None:
    at = 0
    for _, start, end in complete(text):
        assert at <= start < end <= len(text)
        assert (start == 0 or text[start - 1] == "\n") and (end == len(text) or text[end] == "\n")
        at = end
    assert "".join(text[start:end] for start, end in sentence_spans(text)) == text
    marked = [(kind, start) for kind, start, _ in complete(text)]
    assert [(kind, start) for kind, start, _ in pieces_of(text) if kind] == marked


@pytest.mark.parametrize(
    "unit", ["```\n", "<!-- \n", "|a|\n", "> " * 40 + "\n", "<pre>\n\n", "a\n--\n", "[" * 99 + "\n"]
)
@pytest.mark.timeout(20)
def test_hostile_texts_are_read_in_linear_time(unit: str) -> None:
    text = unit * 20_000
    assert "".join(text[start:end] for start, end in sentence_spans(text)) == text


def test_a_markdown_file_is_imported_with_title_and_outline(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    (tmp_path / "plain.txt").write_text("# no comment\n\nThe stoat is light.")
    load(tmp_path, tmp_path / "out")
    page, plain = read_folder(tmp_path / "out" / "documents", Document)
    assert (page.text, page.heading, page.outline) == (PAGE, "Otters: a page", outline_of(PAGE))
    assert (plain.heading, plain.outline) == ("", ())
    load(tmp_path / "page.md", tmp_path / "sentences", split="independent")
    assert [document.text for document in read_folder(tmp_path / "sentences" / "documents", Document)] == [
        "The otter is heavy."
    ]


def test_training_on_sentences_leaves_out_what_the_outline_says_is_none(tmp_path: Path) -> None:
    text = "Code\nx = 1. y = 2.\nIt is short. It runs."
    write_folder(tmp_path / "texts", Document, [Document("d", text, "c", outline=(1, 0, 4, VERBATIM, 5, 19))])
    source = TextSource(str(tmp_path / "texts"), split="independent")
    assert [rows.texts for rows in read_rows(source)] == [["It is short.", "It runs."]]
    assert name_texts(source, [0, 1]) == ["d", "d"]
