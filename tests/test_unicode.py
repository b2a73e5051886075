"""Cleaned text: what changes, what stays, and that cleaning twice changes nothing."""

from unicodedata import is_normalized

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.unicode import clean, printable

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
WALES = "\U0001f3f4\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f"
ODD = (
    "ae\u0301\u0327\u00e9 \n\r\t\x00\x08\x0b\x0c\x1b[31m]\x07\x7f\x85\x9b\xa0\xad\u034f\u061c\u0627\u0645\u0915"
    "\u094d\u093c\u0958\u0e01\u0e33\u1100\u1161\u115f\u1160\u1780\u180b\u180e\u1820\u2000\u2028\u200b\u200c\u200d\u200e\u202e\u2060"
    "\u212b\u2764\u2800\u3000\u3164\ue000\ufb50\ufe0e\ufe0f\ufeff\ufff9\ufffe\U0001f3f4\U0001f3fb\U0001f468\U0001f469"
    "\U000e0001\U000e0067\U000e007f\U000e0100\U0010ffff"
)
odd_texts = st.text(st.one_of(st.sampled_from(ODD), st.characters(exclude_categories=["Cs"])), max_size=30)
GONE = set(
    "\x00\x07\x08\x0b\x0c\r\x1b\x7f\x85\x9b\xa0\xad\u061c\u2000\u2028\u200e\u202e\u2060\u3164\ufeff\ufff9\ufffe\U0010ffff"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc\x0bd\x0ce\x85f\u2028g\u2029h", "a\nb\nc\nd\ne\nf\ng\nh"),
        ("e\u0301", "\u00e9"),
        ("\u212b", "\u00c5"),
        ("co\xadop\u2060er\ufeffation", "cooperation"),
        ("a\x00b\x7f\x9fc\ufdd0d\uffffe", "abcde"),
        ("10\xa0000\u202f\u20ac\u2009!", "10 000 \u20ac !"),
        ("\u3000\u4f60\u597d", "\u3000\u4f60\u597d"),
        ("admin\u202etxt.exe\u202c", "admintxt.exe"),
        ("\x1b[1;31mred\x1b[0m \x1b]0;title\x07text", "red text"),
        ("N\x08NA\x08AM\x08ME\x08E", "NAME"),
        ("_\x08u_\x08n", "un"),
        ("\ufff9base\ufffaruby\ufffb", "baseruby"),
        ("zero\u200bwidth\u200cin\u200dLatin", "zerowidthinLatin"),
        ("e\xad\u0301", "\u00e9"),
        ("hidden\U000e0068\U000e0069 tags", "hidden tags"),
        ("a \ufe0f\ufe0fb", "a b"),
        ("\u2764\ufe0f\ufe0f\U000e0101\U000e0102", "\u2764\ufe0f"),
        ("\u034f \u200c\xa0\u034f", ""),
        ("\u3164\uffa0", ""),
        ("\u2800\n\u2800", ""),
        ("\u200b\ufeff", ""),
    ],
)
def test_what_is_no_text_goes(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "\tindented\n    code  \n\n",
        " \n",
        "Stra\u00dfe, na\u00efve, \u0421\u043e\u043b\u043d\u0446\u0435",
        FAMILY,
        "\u2764\ufe0f",
        "1\ufe0f\u20e3",
        WALES,
        "\U0001f3f3\ufe0f\u200d\U0001f308",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # a Persian verb with its prefix
        "\u0647\u200d",  # an Arabic letter in its initial form
        "\u0915\u094d\u200d\u0937",  # an Indic half form
        "\u0d28\u0d4d\u200d ",  # a Malayalam chillu
        "\u179f\u17bd\u179f\u17d2\u178f\u17b8\u200b\u1796\u17b7\u1797\u1796\u179b\u17c4\u1780",  # two Khmer words
        "\u908a\U000e0101",  # a variant of an ideograph
        "\u1820\u180e\u1820",
        "\ue000",
        "\u1100\u1160",
        "\u2803\u2800\u2803",
    ],
)
def test_what_means_something_stays(text: str) -> None:
    assert clean(text) == text


def test_a_clean_text_is_the_same_object() -> None:
    for text in ("plain text\n\twith a tab", "na\u00efve \u4f60\u597d\u3000\u0e01"):
        assert clean(text) is text


@settings(max_examples=600)
@given(odd_texts)
def test_cleaning_is_done_once(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert is_normalized("NFC", once)
    assert not GONE & set(once)
    assert once.count("\t") == text.count("\t") or not once


@settings(max_examples=300)
@given(st.lists(odd_texts, min_size=1, max_size=4))
def test_lines_are_cleaned_by_themselves(blocks: list[str]) -> None:
    apart = "\n".join(map(clean, blocks))
    assert clean(apart) == apart or not clean(apart)


def test_what_a_terminal_would_obey_is_shown_escaped() -> None:
    assert printable("a\x1b[2J\nb\u202e\udce9\ud800") == "a\\x1b[2J\\nb\\u202e\\xe9\\ud800"
    assert printable("\u0645\u06cc\u200c\u062e [bold]") == "\u0645\u06cc\u200c\u062e [bold]"
