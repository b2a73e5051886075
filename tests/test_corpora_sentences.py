"""Sentences and chunks: nothing is lost, order stays, budgets hold, in several scripts."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

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


@given(any_text)
def test_sentences_hold_every_character_but_spaces(text: str) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


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
    ],
)
def test_sentences_of_several_scripts(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


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


def test_runs_of_marks_are_read_once() -> None:
    for text in ("." * 300_000, "?!" * 150_000, "." + '"' * 300_000, "\n" * 300_000, " " * 300_000):
        assert "".join(text[start:end] for start, end in chunk_spans(text, 50)) == text
