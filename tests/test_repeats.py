"""Rows that repeat an earlier one: what is left out when they are compared, what is not, and long texts."""

import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment_service.answers.folding import bare_words, fold
from augment_service.repeats import LONG_WORDS, RepeatFinder


@pytest.fixture
def finder(tmp_path: Path) -> RepeatFinder:
    return RepeatFinder(tmp_path / "signatures")


def table(*texts: str, corpus: str = "c", **columns: list[str]) -> pa.Table:
    return pa.table({"corpus": [corpus] * len(texts), "text": list(texts), **columns})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The otter is heavier than the stoat.", "the otter is heavier than the stoat"),
        ("The otter is heavier than the stoat.", "An otter is heavier than a stoat!"),
        ("The otter is heavier than the stoat.", "Thus, the otter is also heavier than the stoat."),
        ("A bridge was built.", "The bridge was built."),
        ("It says that otters swim.", "It says otters swim."),
        ("It is a well-known fact", "It is a well known fact"),
        ("Otters swim — in rivers.", "Otters swim in rivers"),
        ("“Otters” swim.", '"Otters" swim.'),
        ("It’s old.", "It's old."),
        ("1. Otters swim.\n2. Stoats climb.", "- Otters swim.\n- Stoats climb."),
        ("1) Otters swim.\n2) Stoats climb.", "2) Otters swim.\n3) Stoats climb."),
        ("## Otters\n\nThey swim.", "Otters\nThey swim."),
        ("水獭比白鼬重。", "水獭，比白鼬重"),
        ("Ａ bridge", "a bridge"),
        ("PLAN A WORKS", "plan a works"),
    ],
)  # fmt: skip
def test_what_says_the_same_is_a_repetition(finder: RepeatFinder, one: str, other: str) -> None:
    assert finder.find(table(one, other)).tolist() == [False, True]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The otter is heavier than the stoat.", "The otter is lighter than the stoat."),
        ("The otter is heavier than the stoat.", "The stoat is heavier than the otter."),
        ("The otter is heavy.", "The otter is not heavy."),
        ("The otter is heavy.", "No otter is heavy."),
        ("All otters swim.", "Some otters swim."),
        ("It opened in 1998.", "It opened in 1999."),
        ("It opened in 1998.", "It opened before 1998."),
        ("It weighs 1.5 kg.", "It weighs 15 kg."),
        ("It weighs 1,5 kg.", "It weighs 1.5 kg."),
        ("It was -5 degrees.", "It was 5 degrees."),
        ("It was −5 degrees.", "It was 5 degrees."),
        ("It is 10² metres.", "It is 102 metres."),
        ("It costs $5.", "It costs €5."),
        ("It rose by 5%.", "It rose by 5."),
        ("It is a > b.", "It is a < b."),
        ("C++ is old.", "C is old."),
        ("C# is old.", "C is old."),
        ("Plan A works.", "Plan B works."),
        ("Plan A works.", "Plan works."),
        ("A. Pell is the mayor.", "Pell is the mayor."),
        ("Ada Pell is the mayor.", "Ida Pell is the mayor."),
        ("The ferry goes to Pinnet.", "The ferry goes from Pinnet."),
        ("She can swim.", "She can't swim."),
        ("The otter was heavy.", "The otter is heavy."),
        ("3. Mai war ein Sonntag.", "4. Mai war ein Sonntag."),
        ("Den Hund beißt der Mann.", "Der Hund beißt den Mann."),
        ("水獭比白鼬重。", "水獭不比白鼬重。"),
        ("Выдра тяжелее.", "Выдра не тяжелее."),
    ],
)  # fmt: skip
def test_another_number_name_word_or_order_is_another_statement(finder: RepeatFinder, one: str, other: str) -> None:
    assert finder.find(table(one, other)).tolist() == [False, False]


def test_only_kept_rows_count_and_documents_come_first(finder: RepeatFinder) -> None:
    assert finder.find(table("Otters swim.", "Otters swim.")).tolist() == [False, True]
    rows = table("otters swim", "Stoats climb.", "Stoats climb.", verdict=["kept", "unparsed", "kept"])
    assert finder.find(rows).tolist() == [True, False, False]
    assert finder.find(table("the stoats climb", verdict=["kept"])).tolist() == [True]


def test_corpora_do_not_mix(finder: RepeatFinder) -> None:
    assert finder.find(table("Otters swim.")).tolist() == [False]
    assert finder.find(table("Otters swim.", corpus="d")).tolist() == [False]
    assert finder.find(table("Otters swim.", corpus="c")).tolist() == [True]


def test_equal_answers_to_different_questions_are_different(finder: RepeatFinder) -> None:
    questions = ["When was it built?", "When did it burn?", "when was it built", ""]
    rows = table("1902", "1902", "1902.", "1902", question=questions)
    assert finder.find(rows).tolist() == [False, False, True, False]


def words(count: int, seed: int = 0) -> list[str]:
    letters = random.Random(seed)
    return ["".join(letters.choices("bdfgklmnprst", k=6)) for _ in range(count)]


def test_long_texts_repeat_if_nine_tenths_are_the_same(finder: RepeatFinder) -> None:
    text = words(3 * LONG_WORDS)
    finder.find(table(" ".join(text)))
    changed = [*text]
    changed[LONG_WORDS] = "other"
    assert finder.find(table(" ".join(changed), " ".join(text[::-1]))).tolist() == [True, False]
    for place in range(0, len(text), 20):  # a twentieth of the words, so a quarter of the runs of five
        changed[place] = "other"
    assert finder.find(table(" ".join(changed))).tolist() == [False]


@pytest.mark.parametrize("change", ["1998", "not", "never", "don't"])
def test_long_texts_with_other_numbers_or_negations_are_different(finder: RepeatFinder, change: str) -> None:
    text = words(3 * LONG_WORDS)
    text[LONG_WORDS] = "1999"
    finder.find(table(" ".join(text)))
    text[LONG_WORDS] = change
    assert finder.find(table(" ".join(text))).tolist() == [False]


def test_long_texts_of_another_corpus_are_different(finder: RepeatFinder) -> None:
    text = words(2 * LONG_WORDS)
    changed = [*text[:-1], "other"]
    assert finder.find(table(" ".join(text))).tolist() == [False]
    assert finder.find(table(" ".join(changed), corpus="d")).tolist() == [False]
    assert finder.find(table(" ".join(changed))).tolist() == [True]


def test_one_other_word_makes_a_text_that_is_not_long_different(finder: RepeatFinder) -> None:
    text = words(LONG_WORDS - 1)
    assert finder.find(table(" ".join(text), " ".join([*text[:-1], "other"]))).tolist() == [False, False]


@given(texts=st.lists(st.text(max_size=40), max_size=12), size=st.integers(1, 5))
def test_batches_do_not_matter_and_equal_folds_repeat(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int
) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    folder = tmp_path_factory.mktemp("repeats")
    whole = RepeatFinder(folder / "whole").find(table(*texts)).tolist()
    finder = RepeatFinder(folder / "parts")
    parts: list[bool] = []
    for start in range(0, len(texts), size):
        parts += finder.find(table(*texts[start : start + size])).tolist()
    assert parts == whole
    folds, bare = set[str](), set[str]()
    for text, is_repeated in zip(texts, whole, strict=True):
        assert is_repeated == (fold(text) in folds or bare_words(text) in bare)
        folds.add(fold(text))
        bare.add(bare_words(text))
