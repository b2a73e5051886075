"""What models write, parsed: odd forms by hand, answers of a small chat model, and what must hold for any text."""

import json
import string
from pathlib import Path
from typing import Any
from unicodedata import category

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment_service.answers.folding import fold, fold_column
from augment_service.answers.verdicts import (
    COPIED,
    EMPTY,
    EXAMPLE,
    KEPT,
    LANGUAGE,
    NOTHING,
    REFERS,
    REPEATED,
    UNFINISHED,
    UNPARSED,
    VERDICTS,
    Asked,
)
from augment_service.parsing import PARSERS, parse_answer

SOURCE = "The Halden bridge is older than the Sorrel bridge. Ines Corra keeps the light of Marle Harbour."
EXAMPLES = (
    "The otter is heavier than the stoat.",
    "The stoat is lighter than the otter.",
    "Ada Pell is the mayor of Lower Wick.",
    "The mayor of Lower Wick is Ada Pell.",
)
Rows = list[tuple[str, ...]]
YOUNGER, KEEPS, HARBOUR = "The Sorrel bridge is younger.", "The light is kept by Ines.", "Marle is a harbour."
K = KEPT


def asked(parser: str = "statements", **changes: object) -> Asked:
    given = {"source": SOURCE, "nothing": "Nothing follows.", "examples": EXAMPLES, "language": "en", **changes}
    return Asked(parser, **given)  # type: ignore[arg-type]


def parsed(text: str, parser: str = "statements", reason: str = "stop", **changes: object) -> Rows:
    rows = parse_answer(text, reason, asked(parser, **changes))
    if parser == "questions":
        return [(row.verdict, row.question, row.text) for row in rows]
    return [(row.verdict, row.text) for row in rows]


def kept(text: str, parser: str = "statements", **changes: object) -> list[str]:
    rows = parsed(text, parser, **changes)
    assert [row for row in rows if row[0] != KEPT] == []
    return [row[1] for row in rows]


# ---- statements


@pytest.mark.parametrize(
    "text",
    [
        f"1. {YOUNGER}\n2. {KEEPS}",
        f"1) {YOUNGER}\n2) {KEEPS}",
        f"(1) {YOUNGER}\n(2) {KEEPS}",
        f"(a) {YOUNGER}\n(b) {KEEPS}",
        f"a. {YOUNGER}\nb. {KEEPS}",
        f"i) {YOUNGER}\nii) {KEEPS}",
        f"- {YOUNGER}\n- {KEEPS}",
        f"* {YOUNGER}\n* {KEEPS}",
        f"•{YOUNGER}\n• {KEEPS}",
        f"– {YOUNGER}\n– {KEEPS}",
        f"- [ ] {YOUNGER}\n- [x] {KEEPS}",
        f"① {YOUNGER}\n② {KEEPS}",
        f"**1.** {YOUNGER}\n**2.** {KEEPS}",
        f"**1. {YOUNGER}**\n**2. {KEEPS}**",
        f"1. **{YOUNGER}**\n2. *{KEEPS}*",
        f'1. "{YOUNGER}"\n2. “{KEEPS}”',
        f"1.{YOUNGER}\n2.{KEEPS}",
        f"1. {YOUNGER} 2. {KEEPS}",
        f"> {YOUNGER}\n> {KEEPS}",
        f"<li>{YOUNGER}</li>\n<li>{KEEPS}</li>",
        f"{YOUNGER}\n{KEEPS}",
        f"{YOUNGER}\r\n\r\n{KEEPS}\u2028",
        f"Inference 1: {YOUNGER}\nInference 2: {KEEPS}",
        f"Statement: {YOUNGER}\n**Statement:** {KEEPS}",
        f"**Inferences:**\n\n- {YOUNGER}\n- {KEEPS}",
        f"### Inferences\n{YOUNGER}\n{KEEPS}",
        f"Here are two statements that follow from the text:\n\n1. {YOUNGER}\n2. {KEEPS}",
        f"Sure! Here's what can be inferred from the document:\n{YOUNGER}\n{KEEPS}\n\nLet me know if you need more!",
        f"Certainly.\n\n{YOUNGER}\n{KEEPS}\n\nI hope this helps!",
        f"One bridge is old. So we infer the following:\n1. {YOUNGER}\n2. {KEEPS}\n\nThese inferences follow from it.",
        f"Based on the document, here are the inferences:\n* {YOUNGER}\n* {KEEPS}\n\nNote: the second is likely.",
        f"1. {YOUNGER}\n   - {KEEPS}",
        f"1. About the bridges:\n   - {YOUNGER}\n2. About the light:\n   - {KEEPS}",
        f"1. {YOUNGER}\n   *Reason:* the text says so.\n2. {KEEPS}\n   - Evidence: she keeps it.",
        f"Statement 1: {YOUNGER}\nReasoning: it is newer.\nNot older.\n\nStatement 2: {KEEPS}\nReasoning: she does.",
        f"{YOUNGER}\n\nThis inference follows from the age.\nAnd so on.\n\n{KEEPS}",
        f"```\n{YOUNGER}\n{KEEPS}\n```",
        f"```json\n{json.dumps([YOUNGER, KEEPS])}\n```",
        f"Here is the JSON list: {json.dumps([YOUNGER, KEEPS])}\n\nIt has two strings.",
        json.dumps([{"statement": YOUNGER}, {"statement": KEEPS}]),
        json.dumps({"statements": [YOUNGER, KEEPS]}, indent=2),
        f"['{YOUNGER}', '{KEEPS}',]",
        f"<think>\nIs it older?\n1. No.\n</think>\n\n{YOUNGER}\n{KEEPS}",
        f"So, the bridge.\n</think>\n{YOUNGER}\n{KEEPS}",
        f"{YOUNGER}\n{KEEPS}<|im_end|>",
        f"---\n{YOUNGER}\n\n***\n{KEEPS}\n---",
    ],
)
def test_two_statements_in_any_dress(text: str) -> None:
    assert kept(text) == [YOUNGER, KEEPS]


@pytest.mark.parametrize(
    "text",
    [
        "1.5 million people cross the bridge.",
        "2024 was a good year for bridges.",
        "A. Pell was the keeper.",
        "3. Mai 1987 ist ein Feiertag.",
        "-5 degrees is cold for a bridge.",
        "The `__init__` method runs first.",
        "5 * 3 * 2 is thirty.",
        '"The bridge" is older than "the light".',
        "“The bridge,” she said, “is old.”",
        "'Tis the otters' bridge.",
        "[The bridge] is younger.",
        'The default value is: ["old", "young"]',
        "None of the bridges is new.",
        "No bridge is new.",
        "Nothing follows the road to the bridge.",
        "Note that the bridge is younger.",
        "I cannot swim across the Sorrel.",
        "Sure enough, the bridge fell.",
        "The tag </b> ends bold text in a page.",
        "The bridge is young: it has seen ten winters.",
        "f(x) = 2 is a constant function.",
    ],
)
def test_what_only_looks_like_markup_or_talk_is_kept_as_it_is(text: str) -> None:
    assert kept(text) == [text]
    assert kept(text, "statement") == [text]


def test_items_may_begin_with_small_letters() -> None:
    assert kept("1. **the** bridge is young\n2. *the light* is red") == ["the bridge is young", "the light is red"]


def test_initials_are_no_letters_of_a_list_and_ordinals_no_numbers_of_one() -> None:
    assert kept("A. Pell was the keeper.\nB. Reed was the miller.") == [
        "A. Pell was the keeper.",
        "B. Reed was the miller.",
    ]
    german = {"language": "de", "source": "Otto lief.", "examples": ()}
    assert kept("2. Platz belegte Otto.", **german) == ["2. Platz belegte Otto."]
    assert kept("1. Otto lief weit.\n2. Platz war er.", **german) == ["Otto lief weit.", "Platz war er."]


@pytest.mark.parametrize(
    ("language", "text", "right"),
    [
        (
            "zh",
            "1. 水獭比白鼬重。\n2、白鼬比水獭轻。\n（3）桥很旧吗？",
            ["水獭比白鼬重。", "白鼬比水獭轻。", "桥很旧吗？"],
        ),
        ("ja", "・橋は古い。\n・灯台は赤い。", ["橋は古い。", "灯台は赤い。"]),
        ("ko", "1. 다리는 오래되었다.\n2. 등대는 빨갛다.", ["다리는 오래되었다.", "등대는 빨갛다."]),
        ("ar", "١. الجسر قديم جدا.\n- هل الجسر قديم؟", ["الجسر قديم جدا.", "هل الجسر قديم؟"]),
        ("ru", "1) Мост старый.\n«Мост старше другого.»", ["Мост старый.", "Мост старше другого."]),
        ("de", "- Die Brücke ist alt.\n„Der Turm ist rot.“", ["Die Brücke ist alt.", "Der Turm ist rot."]),
        ("fr", "« Le pont est vieux. »\nLe pont est-il vieux ?", ["Le pont est vieux.", "Le pont est-il vieux ?"]),
        ("th", "1. สะพานนี้เก่ามากแล้ว", ["สะพานนี้เก่ามากแล้ว"]),
    ],
)
def test_statements_of_other_languages(language: str, text: str, right: list[str]) -> None:
    assert kept(text, language=language, source="x? y？ z؟", examples=()) == right


@pytest.mark.parametrize(
    "text",
    [
        "Nothing follows",
        "nothing follows.",
        '"Nothing follows."',
        "- Nothing follows.",
        "1. NOTHING FOLLOWS!",
        "None.",
        "**None**",
        "N/A",
        "[]",
        "No inference can be drawn.",
        "No new statements follow from the document.",
        "There is nothing that follows from the document.",
        "There are no further inferences.",
        "Nothing can be inferred from this.",
        "Nothing follows, since it only states two facts.",
        "Answer: Nothing follows.",
        "Nothing follows from the text. It states facts.",
        "There is nothing to infer.",
    ],
)
@pytest.mark.parametrize("parser", ["statement", "statements"])
def test_nothing_follows_however_it_is_said(parser: str, text: str) -> None:
    assert [row[0] for row in parsed(text, parser)] == [NOTHING]


def test_nothing_follows_by_the_phrase_of_the_book() -> None:
    german = {"nothing": "Daraus folgt nichts.", "language": "de", "examples": ()}
    assert [row[0] for row in parsed("- daraus folgt nichts", **german)] == [NOTHING]
    assert [row[0] for row in parsed("Daraus folgt nichts für die Brücke von Halden.", **german)] == [KEPT]


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I cannot answer.",
        "Sorry, but there is no text.",
        "As an AI language model, I cannot draw conclusions.",
        "I cannot provide inferences about persons.",
        "Unfortunately, I can't determine that.",
        "Could you please provide the document?",
        "It seems you haven't provided a text.",
        "Sure! Here it is:",
        "Inferences:",
        "**Key Facts**",
        "# Key facts",
        "1.",
        "Bridges",
        "- Bridges",
        "The bridges are:",
        "| a | b |",
        "This is an example of a syllogism.",
        "42",
        "The original sentence is repeated here.",
        "I have turned the fact around.",
    ],
)
@pytest.mark.parametrize("parser", ["statement", "statements"])
def test_what_is_no_statement(parser: str, text: str) -> None:
    assert [row[0] for row in parsed(text, parser)] == [UNPARSED]


@pytest.mark.parametrize("text", ["", " \n ", '""', "...", "<think>So</think>", "```\n```", "<|im_end|>"])
@pytest.mark.parametrize("parser", PARSERS)
def test_nothing_written_is_empty(parser: str, text: str) -> None:
    assert [row[0] for row in parsed(text, parser)] == [EMPTY]


def test_copies_of_the_source() -> None:
    first, second = "The Halden bridge is older than the Sorrel bridge", "Ines Corra keeps the light of Marle Harbour!"
    same = (first.lower(), second, SOURCE, f"{second} {first}.", "Ines Corra keeps the light", f"Thus, {first}.")
    for text in (*same, "A Halden bridge is older than a Sorrel bridge"):
        assert parsed(text) == parsed(text, "statement") == [(COPIED, text)]
    for text in ("The Halden bridge is old.", "Ines Corra keeps the lights", f"{first}. It is long."):
        assert parsed(text) == parsed(text, "statement") == [(KEPT, text)]


def test_without_a_language_only_a_whole_sentence_is_a_copy() -> None:
    sentence, part = "people say that glapo is the keeper of volp", "glapo is the keeper of volp"
    known = {"source": sentence, "language": ""}
    assert parsed(part, "statement", **known) == [(KEPT, part)]
    assert parsed(part, "statements", **known) == [(COPIED, part)]
    assert parsed(f"{sentence.title()}.", "statement", **known)[0][0] == COPIED


def test_equal_statements_of_one_answer_repeat() -> None:
    assert [row[0] for row in parsed(f"1. {YOUNGER}\n2. {YOUNGER.lower()}\n3. {KEEPS}")] == [KEPT, REPEATED, KEPT]


@pytest.mark.parametrize(
    "text",
    [
        "The stoat is lighter than the otter.",
        "The otter weighs more than the stoat.",
        "Ines is the mayor of Lower Wick.",
        "Ada Pell keeps the light.",
        "The mayor is Ada Pell.",
        "Both the otter and the stoat are good examples.",
    ],
)
def test_statements_from_the_example(text: str) -> None:
    assert parsed(text) == [(EXAMPLE, text)]
    assert parsed(text, examples=()) == [(KEPT, text)]


@pytest.mark.parametrize("parser", ["statements", "text"])
def test_an_answer_that_goes_round_in_circles_is_repeated(parser: str) -> None:
    circles = "Ines keeps the light of the harbour, and the light of the harbour is kept by Ines, and " * 4 + "so on."
    assert parsed(circles, parser) == [(REPEATED, circles)]
    long = "Ines Corra keeps the light, which is older than the bridge that leads to it, by night and by day."
    assert parsed(long, parser) == [(KEPT, long)]


def test_two_words_that_several_examples_have_together_are_from_them() -> None:
    examples = ("Ada Pell lives in the mill house.", "Jonas Frey built the mill house in 1874.", "An otter swims.")
    text = "Ines Corra is the one who built the mill house and keeps the light with great profit."
    assert parsed(text, examples=examples) == [(EXAMPLE, text)]
    assert parsed(text, examples=examples[1:]) == [(KEPT, text)]
    assert parsed(text, examples=examples, source=f"{SOURCE} The mill house is old.") == [(KEPT, text)]


def test_what_the_source_says_is_not_from_the_example() -> None:
    about = "The otter is heavier than the stoat. Ada Pell is the mayor of Lower Wick."
    for text in ("The stoat is lighter than the otter.", "The mayor of Lower Wick is called Ada Pell."):
        assert parsed(text, source=about) == [(KEPT, text)]
    text = "The light is heavier than the bridge."
    assert parsed(text) == [(KEPT, text)]


def test_another_language_only_where_it_is_sure() -> None:
    german = "Die Brücke von Halden ist viel älter als die Brücke von Sorrel, und sie ist auch schöner."
    assert parsed(german) == [(LANGUAGE, german)]
    assert (
        parsed(german, language="de")
        == parsed(german, language="")
        == parsed(german, language="nl")
        == [(KEPT, german)]
    )
    assert parsed(german[:34]) == [(KEPT, german[:34])]
    nonsense = "femp are more shiny than glon and glon are more shiny than troff , so femp are more shiny than troff"
    assert parsed(nonsense) == [(KEPT, nonsense)]


def test_a_cut_answer_keeps_its_whole_lines() -> None:
    assert parsed(f"1. {YOUNGER}\n2. The light is ke", reason="length") == [
        (KEPT, YOUNGER),
        (UNFINISHED, "The light is ke"),
    ]
    assert parsed(f"{YOUNGER}\n{KEEPS}\n", reason="length") == [(KEPT, YOUNGER), (KEPT, KEEPS)]
    assert parsed(f'["{YOUNGER}", "The light is ke', reason="length") == [
        (KEPT, YOUNGER),
        (UNFINISHED, "The light is ke"),
    ]
    for text in ("<think>The bridge", "<think>The bridge is old. So\n1. it", "The bridge is"):
        assert [row[0] for row in parsed(text, reason="length")] == [UNFINISHED]
    assert [row[0] for row in parsed("<think>The bridge is old.")] == [UNFINISHED]


def test_a_statement_ends_before_its_explanation() -> None:
    assert kept(f"{YOUNGER}\n\nExplanation: I turned it around.", "statement") == [YOUNGER]
    assert kept(f"{YOUNGER}\nThe word older became younger.", "statement") == [YOUNGER]
    assert kept(f"1. {YOUNGER}\n2. {KEEPS}", "statement") == [YOUNGER]
    assert kept("The Sorrel bridge\nis younger.", "statement") == [YOUNGER]
    assert kept(f"Sure! Here is the rewritten sentence: {YOUNGER}", "statement") == [YOUNGER]


def test_reasoning_ends_at_the_last_mark() -> None:
    text = f"The first is older.\nTherefore: no.\n\nTherefore:\n1. {YOUNGER}\n2. {KEEPS}"
    rows = parse_answer(text, "stop", asked("statements", answer_after="Therefore:"))
    assert [(row.verdict, row.text) for row in rows] == [(KEPT, YOUNGER), (KEPT, KEEPS)]
    assert {row.reasoning for row in rows} == {"The first is older. Therefore: no. Therefore:"}
    assert parsed(text, answer_after="Conclusion:")[0][0] == UNPARSED
    assert parsed("Nothing follows.", answer_after="Conclusion:") == [(NOTHING, "Nothing follows.")]


# ---- the embedded model


def plainly_parsed(text: str, reason: str, sentence: str, nothing: str, mark: str) -> tuple[str, str, str]:
    """What the whole answer on one line is: all that answers in the embedded model's language need."""
    line = " ".join(text.split())
    reasoning, found, answer = line.rpartition(mark) if mark else ("", "", line)
    if reason != "stop":
        verdict = UNFINISHED
    elif not fold(answer):
        verdict = EMPTY
    elif fold(answer) == nothing:
        verdict = NOTHING
    elif (mark and not found) or sum(any(map(str.isalpha, word)) for word in answer.split()) < 2:
        verdict = UNPARSED
    else:
        verdict = COPIED if fold(answer) == fold(sentence) else KEPT
    return verdict, answer, reasoning + found


WORDS = st.lists(
    st.sampled_from("all some no femp glon are more less shiny than the mayor of is , so".split()), min_size=2
)
PHRASES = WORDS.map(" ".join) | st.just("nothing follows") | st.just("")


@given(PHRASES, PHRASES, st.sampled_from(["stop", "length"]), st.sampled_from(["", ", so "]))
def test_answers_of_the_embedded_model_are_one_line(text: str, sentence: str, reason: str, mark: str) -> None:
    (row,) = parse_answer(f" {text}", reason, Asked("statement", sentence, "nothing follows", (), mark))
    right = plainly_parsed(text, reason, sentence, "nothing follows", mark)
    assert (row.verdict, row.text.strip(), row.reasoning) == (right[0], right[1].strip(), right[2])


# ---- questions


WHO = [(K, "Who keeps the light?", "Ines Corra"), (K, "Which bridge is older?", "Halden")]


@pytest.mark.parametrize(
    "text",
    [
        "Q: Who keeps the light?\nA: Ines Corra\n\nQ: Which bridge is older?\nA: Halden",
        "Q: Who keeps the light?\nA: Ines Corra\nExplanation: she does.\n\n"
        "Q: Which bridge is older?\nA: Halden\n(Note: it is old.)",
        "Q1: Who keeps the light?\nA1: Ines Corra\nQ2: Which bridge is older?\nA2: Halden",
        "1. Q: Who keeps the light?\n   A: Ines Corra\n2. Q: Which bridge is older?\n   A: Halden",
        "**Question 1:** Who keeps the light?\n**Answer:** Ines Corra\n"
        "**Question 2:** Which bridge is older?\n**Answer:** Halden",
        "Question:\nWho keeps the light?\nAnswer:\nInes Corra\n\nQuestion:\nWhich bridge is older?\nAnswer:\nHalden",
        "1. **Who keeps the light?**\n   Ines Corra\n2. **Which bridge is older?**\n   Halden",
        "1. Who keeps the light? - Ines Corra\n2. Which bridge is older? (Halden)",
        "- Who keeps the light? Answer: Ines Corra\n- Which bridge is older? **Answer:** Halden",
        "Who keeps the light?\nInes Corra\n\nWhich bridge is older?\nHalden",
        "Here are two questions:\n\nQ: Who keeps the light?\nA: Ines Corra\n"
        "Q: Which bridge is older?\nA: Halden\n\nI hope this helps!",
        "Questions:\n1. Who keeps the light?\n2. Which bridge is older?\n\nAnswers:\n1. Ines Corra\n2. Halden",
        '[{"question": "Who keeps the light?", "answer": "Ines Corra"}, '
        '{"question": "Which bridge is older?", "answer": "Halden"}]',
        '```json\n{"q": "Who keeps the light?", "a": "Ines Corra"}\n'
        '{"q": "Which bridge is older?", "a": "Halden"}\n```',
        "1. Who keeps the light?\nA) Ada\nB) Ines Corra\nAnswer: B\n"
        "2. Which bridge is older?\nA) Halden\nB) Sorrel\nAnswer: A) Halden",
        "Question 1 - Who keeps the light?\nAnswer - Ines Corra\nQuestion 2 - Which bridge is older?\nAnswer - Halden",
    ],
)
def test_two_questions_in_any_dress(text: str) -> None:
    assert parsed(text, "questions") == WHO


def test_questions_of_other_languages() -> None:
    assert parsed("Frage: Wer?\nAntwort: Ines", "questions", language="de") == [(K, "Wer?", "Ines")]
    assert parsed("问题：谁管理灯塔？\n答案：伊内斯", "questions", language="zh") == [(K, "谁管理灯塔？", "伊内斯")]
    assert parsed("Question 1 : Qui ?\nRéponse : Ines", "questions", language="fr") == [(K, "Qui ?", "Ines")]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Q: Who keeps the light?", UNPARSED),
        ("Q: Who keeps the light?\nA:", UNPARSED),
        ("1. Who keeps the light?\nA) Ada\nB) Ines", UNPARSED),
        ("Q: Who keeps the light?\nA: The answer is B.", UNPARSED),
        ("Q: Who keeps the light?\nA: Who keeps it?", UNPARSED),
        ("Q: Who keeps the light?\nA: None.", UNPARSED),
        ("Q: 1902\nA: Ines", UNPARSED),
        ("The bridge is old.", UNPARSED),
        ("I'm sorry, but I can't write questions.", UNPARSED),
        ("Q: According to the passage, who keeps the light?\nA: Ines", REFERS),
        ("Q: Who is mentioned in the text above?\nA: Ines", REFERS),
        ("Q: What does the author say of the light?\nA: That Ines keeps it.", REFERS),
        ("Q: Who keeps the light?\nA: The text does not say.", REFERS),
        ("Q: Who is Ada Pell?\nA: The mayor.", EXAMPLE),
    ],
)
def test_what_is_no_question_for_a_closed_book(text: str, verdict: str) -> None:
    assert [row[0] for row in parsed(text, "questions")] == [verdict]


def test_questions_about_documents_may_name_them() -> None:
    source = "The parser reads the document line by line."
    text = "Q: How is the document read?\nA: Line by line."
    assert parsed(text, "questions", source=source) == [(K, "How is the document read?", "Line by line.")]


def test_the_same_question_twice_and_a_cut_one() -> None:
    text = "Q: Who?\nA: Ines\nQ: who\nA: Ines.\nQ: Who?\nA: Tom\nQ: Which brid"
    verdicts = [row[0] for row in parsed(text, "questions", reason="length")]
    assert verdicts == [KEPT, REPEATED, KEPT, UNFINISHED]
    assert [row[0] for row in parsed("Q: Who keeps it?\nA: Ines Cor", "questions", reason="length")] == [UNFINISHED]
    assert [row[0] for row in parsed("Q: Who keeps it?\nA:", "questions", reason="length")] == [UNFINISHED]


# ---- texts and names


ARTICLE = "# The bridges\n\nThe Halden bridge is old. The other is **newer**.\n\n- one\n  - two"


@pytest.mark.parametrize(
    "text",
    [
        ARTICLE,
        f"Here is a short article:\n\n{ARTICLE}",
        f"Sure! Here's the rewritten text:\n\n---\n\n{ARTICLE}\n\n---\n\nLet me know if you'd like another version.",
        f"```markdown\n{ARTICLE}\n```",
        f"<think>An article?</think>\n\n{ARTICLE}\n",
        ARTICLE.replace("\n", "\r\n"),
    ],
)
def test_a_document_without_the_talk_around_it(text: str) -> None:
    assert kept(text, "text") == [ARTICLE]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("The bridge is old. It was bui", "The bridge is old."),
        ("The bridge is old. It cost 1.", "The bridge is old."),
        ("The bridge is old. It was built by Mr.", "The bridge is old."),
        ("The bridge is old today.", "The bridge is old today."),
        ("# Bridges\n\nThe bridge is old.\n\n## Hist", "# Bridges\n\nThe bridge is old."),
        ("Some bridges:\n- the Halden bridge\n- the Sor", "Some bridges:\n- the Halden bridge"),
        ("桥很旧。它是1902年建造的。灯塔是红", "桥很旧。它是1902年建造的。"),
    ],
)
def test_a_cut_document_ends_with_its_last_whole_sentence(text: str, whole: str) -> None:
    assert parsed(text, "text", reason="length", language="") == [(KEPT, whole)]


def test_documents_that_are_rejected() -> None:
    assert parsed("The bridge is", "text", reason="length") == [(UNFINISHED, "The bridge is")]
    assert parsed(f"{SOURCE} The end has come.", "text")[0][0] == COPIED
    assert parsed(f"{SOURCE} It is long. It is red. It is wide.", "text")[0][0] == KEPT
    assert parsed("I'm sorry, I can't write an article.", "text")[0][0] == UNPARSED
    assert parsed("The text is already clear. I have not changed it.", "text")[0][0] == UNPARSED
    assert parsed("Nothing follows.", "text")[0][0] == NOTHING
    assert parsed("Ada Pell was born in a small town. She likes otters.", "text")[0][0] == EXAMPLE


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("- Bridge\n- Light house", ["Bridge", "Light house"]),
        ("Key concepts:\nbridge\nlight", ["bridge", "light"]),
        ("Key concepts: bridge, light house and keeper.", ["bridge", "light house", "keeper"]),
        (
            "1. **Spacing**: ask again after a day.\n2. Cards - write cards",
            ["Spacing: ask again after a day.", "Cards - write cards"],
        ),
        (
            "1. **Chunking**\n   Cut the text.\n2. **Maps:**\n   - draw\n   - show",
            ["Chunking: Cut the text.", "Maps: draw; show"],
        ),
        ("**Chunking**\nCut the text.\n\n**Maps**\nDraw it.", ["Chunking: Cut the text.", "Maps: Draw it."]),
        ("Here are two strategies:\n\n1. Read it.\n2. Tell it.\n\nThese strategies help.", ["Read it.", "Tell it."]),
        ('["bridge", "light"]', ["bridge", "light"]),
        ("桥、灯塔、港口", ["桥", "灯塔", "港口"]),
    ],
)
def test_names_with_what_follows_their_colon(text: str, names: list[str]) -> None:
    assert kept(text, "names") == names


def test_names_that_are_rejected() -> None:
    rows = parsed("- Bridge\n- bridge\n- 12\n- Light ho", "names", reason="length")
    assert [row[0] for row in rows] == [KEPT, REPEATED, UNPARSED, UNFINISHED]
    long = "This is about a bridge which was built a very long time ago by many people of the town"
    assert parsed(long, "names")[0][0] == UNPARSED


# ---- answers of a real model

# What SmolLM2-135M-Instruct wrote, and what a reader holds to be right: verdict, text, and the question of a pair.
# `missed` is true where the parser is known to see it otherwise.
ANSWERS = [json.loads(line) for line in (Path(__file__).parent / "answers" / "smollm2.jsonl").read_text().splitlines()]
OTTER = "The otter is heavier than the stoat."
EXAMPLES_OF = {  # the statements of worked examples in the prompts
    "rephrase": (OTTER, "The otter weighs more than the stoat does."),
    "reverse": EXAMPLES,
    "deduce1": (
        OTTER,
        "The stoat is heavier than the weasel.",
        "The otter is heavier than the weasel.",
        "The weasel is the lightest of the three.",
    ),
    "base/rephrase": (
        OTTER,
        "The otter weighs more than the stoat does.",
        "Ada Pell is the mayor of Lower Wick.",
        "Ada Pell holds the office of mayor in Lower Wick.",
    ),
    "base/reverse": EXAMPLES,
}


@pytest.mark.parametrize("answer", ANSWERS, ids=[f"{at}-{one['kind']}" for at, one in enumerate(ANSWERS)])
def test_an_answer_of_a_small_chat_model(answer: dict[str, Any]) -> None:
    examples = EXAMPLES_OF.get(answer["kind"], ())
    about = asked(answer["parser"], source=answer["source"], examples=examples)
    rows = parse_answer(answer["text"], answer["finish_reason"], about)
    found = [[row.verdict, row.text, *filter(None, [row.question])] for row in rows]
    assert (found == answer["right"]) == (not answer.get("missed", False)), found


# ---- what holds for any answer

MARKS = (
    "1. ¦2) ¦- ¦* ¦**¦__¦`¦```¦```json¦\n¦\n\n¦  ¦\t¦'¦“¦”¦«¦»¦[¦]¦{¦}¦:¦, ¦A. ¦b. ¦(c) ¦# ¦> ¦|¦---¦\\¦"
    '"¦\\"¦•¦、¦.¦?¦…'
)
WORDING = (
    "<think>¦</think>¦Q: ¦A: ¦Answer: ¦Question 1: ¦Sure! ¦Here is the list:¦Nothing follows¦None¦Who keeps it?¦Ines¦"
    "1902¦The bridge is old.¦3. Mai¦桥很旧。¦<li>¦<|im_end|>¦Let me know¦I'm sorry¦İ¦ß¦\u2028¦\ud800¦\x00"
)
PIECES = st.sampled_from(f"{MARKS}¦{WORDING}".split("¦"))
TEXTS = st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=60)


def letters(text: str) -> str:
    """The letters and digits of a text."""
    return "".join(filter(str.isalnum, text))


@given(TEXTS, st.sampled_from(PARSERS), st.sampled_from(["stop", "length"]), st.sampled_from(["", "en", "de"]))
def test_any_answer_has_a_verdict(text: str, parser: str, reason: str, language: str) -> None:
    for after in ("", "Answer:"):
        rows = parse_answer(text, reason, asked(parser, language=language, answer_after=after))
        assert rows
        assert {row.verdict for row in rows} <= set(VERDICTS)
        assert all(row.text and (row.question or parser != "questions") for row in rows if row.verdict == KEPT)


@given(TEXTS.filter(lambda text: "\\" not in text), st.sampled_from(PARSERS), st.sampled_from(["stop", "length"]))
def test_what_is_kept_stands_in_the_answer(text: str, parser: str, reason: str) -> None:
    for row in parse_answer(text, reason, asked(parser)):
        if row.verdict == KEPT:
            written = letters(text.replace("<li>", ""))
            assert letters(row.text.replace("<li>", "")) in written
            assert letters(row.question.replace("<li>", "")) in written


def is_plain(text: str, parser: str) -> bool:
    """Whether a kept text means the same by itself: a name as long as this one is kept as the item of a list only."""
    return (
        "<think>" not in text
        and "<|" not in text
        and "```" not in text
        and (parser != "names" or len(text.split()) < 9)
    )


@given(TEXTS, st.sampled_from(["statement", "statements", "text", "names"]))
def test_what_is_kept_is_kept_again_as_it_is(text: str, parser: str) -> None:
    for row in parse_answer(text, "stop", asked(parser)):
        if row.verdict == KEPT and is_plain(row.text, parser):
            again = parse_answer(row.text, "stop", asked(parser))
            assert [(one.verdict, one.text) for one in again] == [(KEPT, row.text)]


@given(st.lists(st.sampled_from("[{(\"'`*_<>-1.aQ: \n\\"), max_size=3000).map("".join), st.sampled_from(PARSERS))
def test_hostile_nesting_ends(text: str, parser: str) -> None:
    assert parse_answer(text, "stop", asked(parser))


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(
    "unit",
    [
        "[",
        '{"a": ',
        '"',
        "1. ",
        "- ",
        "**",
        "<think>",
        "a ",
        "a. ",
        "Q: a?\n",
        "\\",
        "the the ",
        "> ",
        "1. a\n",
        "A. b\n",
    ],
)
def test_long_monotonous_answers_are_read_in_linear_time(parser: str, unit: str) -> None:
    assert parse_answer(unit * 5000, "stop", asked(parser))


# ---- the folded form


def test_both_folds_are_one_for_every_character() -> None:
    known = [chr(code) for code in range(0x110000) if category(chr(code)) not in {"Cn", "Cs", "Co"}]
    texts = ["".join(f"a{one}b 2{one} " for one in known[start : start + 50]) for start in range(0, len(known), 50)]
    texts += [f"{one} a{one}" for one in known if category(one)[0] not in "LN"]
    folded = fold_column(pa.chunked_array([texts])).to_pylist()
    assert [(text, one) for text, one in zip(texts, folded, strict=True) if fold(text) != one] == []


@given(st.text(string.printable, max_size=40))
def test_both_folds_are_one_for_ascii(text: str) -> None:
    assert fold_column(pa.array([text])).to_pylist() == [fold(text)] == [fold(fold(text))]


def test_fold_ignores_case_width_quotes_spaces_and_marks_at_the_ends() -> None:
    assert (
        len({fold(text) for text in ("“Otters\n swim.”", "otters swim", "ＯＴＴＥＲＳ swim!!", "- otters swim"[2:])})
        == 1
    )
    assert fold("It’s 10²") == "it's 10^2" and fold("ΟΔΟΣ") == fold("οδος") and fold("… ") == ""
