"""The reversal of texts: words, entities, marks, scripts without spaces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment_service.reversal import reverse_entities, reverse_words, word_spans
from data.structure import VERBATIM


@pytest.mark.parametrize(
    ("text", "words", "entities"),
    [
        (
            "Ada Pell was born on July 3, 1962, in Lower Wick.",
            ". Wick Lower in , 1962 , 3 July on born was Pell Ada",
            ". Lower Wick in , July 3, 1962 on born was Ada Pell",
        ),
        (
            'The crew of J. R. Birch said "all is well" on 3 July 1962.',
            '. 1962 July 3 on " well is all " said Birch . R . J of crew The',
            '. 3 July 1962 on "all is well" said J. R. Birch of crew The',
        ),
        ("In Paris, Ludwig van Dorn ran 3.5 km.", ". km 3.5 ran Dorn van Ludwig , Paris In",
         ". km 3.5 ran Ludwig van Dorn , Paris In"),
        ("Call `foo(bar)` or see https://a.b/c?d=e.", ". e = d ? c / b . a / / : https see or ` ) bar ( foo ` Call",
         ". https://a.b/c?d=e see or `foo(bar)` Call"),
        ("The dorb of x^2 + sin(x) is 9*worl(x).", ". ) x ( worl * 9 is ) x ( sin + 2 ^ x of dorb The",
         ". 9*worl(x) is sin(x) + x^2 of dorb The"),
        ("femp are well-known, aren't they", "they aren't , well-known are femp", "they aren't , well-known are femp"),
        ("マイケルは東京の人。", "。人の京東はルケイマ", "。人の京東はマイケル"),
        ("สวัสดีครับ", "บรัคดีสวัส", "บรัคดีสวัส"),
        ("भारत की राजधानी दिल्ली है।", "। है दिल्ली राजधानी की भारत", "। है दिल्ली राजधानी की भारत"),
        ("كيف الحال؟", "؟ الحال كيف", "؟ الحال كيف"),
        ("One two.\nThree.\n\nFour", "Four\n\n. Three\n. two One", "Four\n\n. Three\n. two One"),
        ("", "", ""),
        (" \n ", "", ""),
    ],
)  # fmt: skip
def test_words_are_turned_around_and_entities_stay_whole(text: str, words: str, entities: str) -> None:
    assert reverse_words(text) == words
    assert reverse_entities(text) == entities


def test_what_the_outline_calls_no_prose_is_whole() -> None:
    text = "Run this:\nx = 1\ny = 2\nThen stop."
    assert reverse_entities(text, (VERBATIM, 10, 21)) == ". stop Then\nx = 1\ny = 2\n: this Run"


ALPHABET = st.text("ab AB1.,-'\n()東京ンเกนé", max_size=60)


@given(ALPHABET)
def test_a_reversal_loses_no_character_but_spaces_and_is_undone_by_another(text: str) -> None:
    for reverse in (reverse_words, reverse_entities):
        assert sorted("".join(reverse(text).split())) == sorted("".join(text.split()))
    assert reverse_words(reverse_words(reverse_words(text))) == reverse_words(text)


@given(ALPHABET)
def test_words_are_within_the_text_and_do_not_overlap(text: str) -> None:
    spans = word_spans(text)
    ends = [0, *(end for _, end in spans)]
    assert all(before <= start < end for before, (start, end) in zip(ends, spans, strict=False))
    assert all(any(c.isalnum() for c in text[start:end]) for start, end in spans if text[start:end].isascii())
