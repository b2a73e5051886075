"""Sentences and chunks: nothing is lost, order stays, budgets hold, in several scripts."""

import textwrap
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from benchmarks.sentences import EUROPEAN, PARTS, count_right, ours, pooled, read_gold
from data.chunks import chunk_spans
from data.corpora.arrays import string_array
from data.corpora.words import count_all_words
from data.sentences import count_words, cumulate, sentence_spans, split_sentences

MARKS = [". ", "! ", "?\n", "。", "！", "؟ ", "।", "... ", '." ', "\n\n", "\u2028", " ", "", "Dr. ", "e.g. ", "3. "]
WORDS = ["glon", "Troff", "J", "全部", "すべて", "कमल", "كتاب", "é", "x" * 40, "12", "🙂"]
texts = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(MARKS))).map(
    lambda pairs: "".join(word + mark for word, mark in pairs)
)
any_text = st.one_of(st.text(), texts)


@given(any_text)
def test_spans_tile_the_text(text: str) -> None:
    spans = sentence_spans(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans)


@given(texts)
def test_sentences_hold_every_character_but_spaces(text: str) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


@given(texts, texts)
def test_what_is_no_prose_is_no_sentence_and_the_rest_is(before: str, after: str) -> None:
    code = "```\nCode. And more.\n```"
    expected = [*split_sentences(before), *split_sentences(after)]
    assert split_sentences(f"{before}\n\n{code}\n\n{after}") == expected


@pytest.mark.parametrize("part", PARTS)
def test_boundaries_are_found_in_many_languages(part: str) -> None:
    counts = count_right(ours, [text for text in read_gold() if text.part == part])
    assert len(counts) >= 12
    assert pooled(counts, EUROPEAN).f1 >= 0.97 and pooled(counts).f1 >= 0.95
    assert all(value.f1 >= 0.9 for value in counts.values())


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "go!" Then he left. (So did I.) End.', ['He said "go!"', "Then he left.", "(So did I.)", "End."]),
        ("Dr. Ito met J. R. Okoro. See fig. 3 and p. 7.", ["Dr. Ito met J. R. Okoro.", "See fig. 3 and p. 7."]),
        ("It costs 3.50 etc. and more. No. Well... yes.", ["It costs 3.50 etc. and more.", "No.", "Well... yes."]),
        ("femp are glon. troff are yomp.", ["femp are glon.", "troff are yomp."]),
        ("1. Fold it.\n2. Cut it.", ["1. Fold it.", "2. Cut it."]),
        ("a title\nthe text", ["a title", "the text"]),
        ("全部都是。没有例外！「真的？」是。", ["全部都是。", "没有例外！", "「真的？」", "是。"]),
        ("هل أنت هنا؟ نعم. أنا هنا۔", ["هل أنت هنا؟", "نعم.", "أنا هنا۔"]),
        ("राम घर गया। वह सो गया।", ["राम घर गया।", "वह सो गया।"]),
        ("Он ушёл. Она нет!", ["Он ушёл.", "Она нет!"]),
        ("Am 3. Mai kam er. Es war 1990. Er blieb.", ["Am 3. Mai kam er.", "Es war 1990.", "Er blieb."]),
        (
            "It costs 3.50. Kim et al. (2020) agree [3]. Yes.",
            ["It costs 3.50.", "Kim et al. (2020) agree [3].", "Yes."],
        ),
        (
            "See https://example.org/a.html?b=1. Or a@example.org. Good.",
            ["See https://example.org/a.html?b=1.", "Or a@example.org.", "Good."],
        ),
        (
            '"Why?" she asked. "No." He left. "Is Yahoo! old?" he said.',
            ['"Why?" she asked.', '"No."', "He left.", '"Is Yahoo! old?" he said.'],
        ),
        ("« Viens ! » dit-il. « Non. » Il sortit.", ["« Viens ! » dit-il.", "« Non. »", "Il sortit."]),
        (
            "In the U.S. He left at 5 p.m. on Monday. At 6 p.m. It rained.",
            ["In the U.S.", "He left at 5 p.m. on Monday.", "At 6 p.m.", "It rained."],
        ),
        ("“你好！”他说。没有人回答。", ["“你好！”他说。", "没有人回答。"]),
        ("ខ្ញុំទៅផ្សារ។\u200bគាត់ទៅសាលា៕", ["ខ្ញុំទៅផ្សារ។", "គាត់ទៅសាលា៕"]),
        ("ဒါက စာအုပ်။ ကောင်းတယ်။", ["ဒါက စာအုပ်။", "ကောင်းတယ်။"]),
        ("Τι ώρα είναι; Δεν ξέρω.", ["Τι ώρα είναι;", "Δεν ξέρω."]),
        ("One; two. Three", ["One; two.", "Three"]),
    ],
)
def test_sentences_of_several_scripts(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@pytest.mark.parametrize("width", [40, 55, 72, 100, 120])
def test_line_ends_of_wrapped_text_are_spaces(width: int) -> None:
    sentences = [
        "The committee of the old society met in the hall on the first day of the session, and it was rather cold.",
        "Nobody had thought of the stove, which stood in a corner and had been there for longer than anyone knew.",
        "Then somebody asked for coal, and the caretaker, who had slept, went down to the cellar to look for some.",
    ]
    text = textwrap.fill(" ".join(sentences), width)
    short = textwrap.fill(
        "This paragraph is short, but it is wrapped at the width of the others, as one can see.", width
    )
    assert split_sentences(f"A heading\n\n{text}\n\n{short}") == ["A heading", *sentences, " ".join(short.split())]
    quoted = "\n".join(f"> {line}" for line in text.splitlines())
    assert split_sentences(quoted) == sentences


def test_wrapped_chinese_is_joined_without_spaces_and_korean_with_them() -> None:
    chinese = "这座老桥建于一九〇二年因为今年没有足够的钱所以镇上决定暂时不修居民只好绕道邻近的村子" * 2 + "。"
    lines = [chinese[at : at + 36] for at in range(0, len(chinese), 36)]
    assert split_sentences("\n".join(lines)) == [chinese]


@pytest.mark.parametrize(
    "text",
    [
        "The sea is wide and cold tonight, my dear,\nThe moon is low\nand you are far from here,\nbut I can hear",
        "Ada Moss\n12 Elm Street, near the old mill pond\nLower Wick\nthe north of the country, near the border",
        "- wood for the fire in the old kitchen stove\n- water from the well behind the large barn\n- bread and salt",
        "def first(value):\n    return value\n\ndef second(value):\n    return first(value)",
        "Apples\nPears\nplums",
    ],
)
def test_line_ends_of_poems_addresses_and_lists_end_sentences(text: str) -> None:
    assert split_sentences(text) == [line.strip() for line in text.splitlines() if line.strip()]


def test_cumulated_sentences_carry_all_earlier_ones() -> None:
    assert list(cumulate(["a.", "b.", "c."])) == ["a.", "a. b.", "a. b. c."]


@given(any_text, st.integers(1, 30))
def test_chunks_tile_the_text_and_keep_the_budget(text: str, budget: int) -> None:
    chunks = [text[start:end] for start, end in chunk_spans(text, budget)]
    assert "".join(chunks) == text
    assert all(count_words(chunk) <= budget for chunk in chunks)


@given(st.lists(st.integers(1, 6), min_size=1), st.integers(6, 30))
def test_chunks_end_with_sentences_and_are_full(lengths: list[int], budget: int) -> None:
    sentences = [" ".join(["glon"] * (length - 1) + ["End. "]) for length in lengths]
    text = "".join(sentences)
    ends = np.cumsum([len(sentence) for sentence in sentences])
    spans = chunk_spans(text, budget)
    assert all(end in ends for _, end in spans)
    for (start, end), (_, following) in pairwise(spans):
        first_after = text[end:following].split("End.")[0] + "End."
        assert count_words(text[start:end] + first_after) > budget


@pytest.fixture(scope="module")
def bytes_in_pairs() -> Tokenizer:
    """A byte tokenizer whose merges reach over word ends, so that counts of parts and of the whole differ."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["glon are troff. Troff are yomp. 全部"] * 9, trainer)
    return tokenizer


@given(any_text, st.integers(8, 40))
def test_chunks_keep_the_budget_of_a_tokenizer(bytes_in_pairs: Tokenizer, text: str, budget: int) -> None:
    def count(parts):
        return [len(found.ids) for found in bytes_in_pairs.encode_batch(list(parts))]

    chunks = [text[start:end] for start, end in chunk_spans(text, budget, count)]
    assert "".join(chunks) == text
    assert all(size <= budget for size in count(chunks))


@given(any_text, st.integers(8, 40))
def test_chunks_keep_the_budget_where_a_whole_is_more_than_its_parts(text: str, budget: int) -> None:
    def count(parts):
        return [1 + len(part) ** 2 // 60 for part in parts]

    chunks = [text[start:end] for start, end in chunk_spans(text, budget, count)]
    assert "".join(chunks) == text
    assert all(size <= budget for size in count(chunks))


@given(st.lists(st.text(st.sampled_from("ab é\n\t全す。🙂"), max_size=30)))
def test_words_are_counted_alike_one_by_one_and_at_once(rows: list[str]) -> None:
    assert count_all_words(string_array(rows)) == sum(map(count_words, rows))


CLUSTERS = ["👨\u200d👩\u200d👧", "🇩🇪", "👍🏽", "é", "เป็", "ที่", "น้ำ", "न्", "क्षि", "ே", "한", "ᄒ", "ᅡ", "x", " ", "。"]


@given(st.lists(st.sampled_from(CLUSTERS), max_size=60).map("".join), st.integers(24, 60))
def test_no_cut_is_within_a_character(text: str, budget: int) -> None:
    def count(parts):
        return [len(part.encode()) for part in parts]

    chunks = [text[start:end] for start, end in chunk_spans(text, budget, count)]
    assert "".join(chunks) == text
    longest = max(map(len, regex.findall(r"\X", text)), default=0)
    if longest * 4 <= budget:  # else a cluster may be longer than the budget
        for chunk in chunks[1:]:
            assert unicodedata.category(chunk[0]) not in {"Mn", "Mc", "Me", "Cf"}
        assert not any(chunk[-1] == "\u200d" or unicodedata.combining(chunk[-1]) == 9 for chunk in chunks[:-1])
        clusters = set(np.cumsum([len(found) for found in regex.findall(r"\X", text)]).tolist())
        assert clusters.issuperset(np.cumsum(list(map(len, chunks))).tolist())
    assert all(size <= budget for size in count(chunks))


def test_runs_of_marks_are_read_once() -> None:
    for text in (
        "🇩🇪" * 20_000,
        "a" + "\u0301" * 300_000,
        "a. " * 20_000,
        "." * 300_000,
        "?!" * 150_000,
        "." + '"' * 300_000,
        "\n" * 300_000,
        " " * 300_000,
    ):
        assert "".join(text[start:end] for start, end in chunk_spans(text, 50)) == text


def test_bullets_are_no_part_of_a_sentence() -> None:
    assert split_sentences("• Otters swim.\n• Stoats run. They bite.") == ["Otters swim.", "Stoats run.", "They bite."]
