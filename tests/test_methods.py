"""Augmentation methods: prompts out of documents, augmentations out of generations, and their audit."""

from dataclasses import replace

import pytest

from augment_service.methods import AugmentPlan, build_prompts, parse_generations
from data.audit import audit_leaks
from data.errors import InputError
from data.records import Augmentation, Document, Generation
from data.rendering import BOOK_NAME, ENGLISH, NONSENSE, load_book
from data.sentences import split_sentences
from data.sets.reversals import small as reversals

DOCUMENTS = [
    Document("d1", "femp are more shiny than glon", "w"),
    Document("d2", "all troff are yomp. all yomp are zarp.", "w"),
]
PLAN = AugmentPlan(methods=("local", "global"), samples=2, temperature=0.7, seed=0)


@pytest.fixture
def book(tmp_path):
    (tmp_path / BOOK_NAME).write_text(NONSENSE.read_text())
    return load_book(tmp_path)


def test_local_prompts_see_one_sentence_and_global_ones_every_document(book) -> None:
    prompts = build_prompts(DOCUMENTS, book, PLAN)
    assert len(prompts) == 3 * 3 * PLAN.samples  # sentences x templates x samples
    for prompt in prompts:
        seen = [document.text in prompt.context for document in DOCUMENTS]
        assert seen == [True, True] if prompt.method == "global/deduce" else not all(seen)
        assert prompt.sentence in prompt.text
    assert len({prompt.seed for prompt in prompts}) == len({prompt.prompt_id for prompt in prompts}) == len(prompts)


def test_rows_that_are_set_aside_keep_their_reason(book) -> None:
    prompts = build_prompts(DOCUMENTS[:1], book, PLAN)
    texts = [
        "glon are less shiny than femp",
        "glon are less shiny than femp",
        "",
        DOCUMENTS[0].text,
        "nothing follows",
        "x",
    ]
    reasons = ["stop"] * 5 + ["length"]
    generations = [
        Generation(prompt.prompt_id, text, reason, 1)
        for prompt, text, reason in zip(prompts, texts, reasons, strict=True)
    ]
    rows = parse_generations(prompts, generations, DOCUMENTS, book, model="m")
    assert [row.verdict for row in rows] == ["kept", "repeated", "empty", "repeated", "nothing follows", "unfinished"]
    again = parse_generations(prompts, generations, DOCUMENTS, book, model="another")
    assert {row.augmentation_id for row in rows}.isdisjoint(row.augmentation_id for row in again)


def test_only_the_conclusion_of_a_deduction_is_kept(book) -> None:
    plan = AugmentPlan(methods=("global",), samples=1, temperature=0.7, seed=0)
    prompts = build_prompts(DOCUMENTS[1:], book, plan)
    texts = ["all yomp are zarp , so all troff are zarp", "all troff are yomp , so nothing follows"]
    generations = [Generation(prompt.prompt_id, text, "stop", 9) for prompt, text in zip(prompts, texts, strict=True)]
    rows = parse_generations(prompts, generations, DOCUMENTS, book, model="m")
    assert [(row.text, row.verdict) for row in rows] == [
        ("all troff are zarp", "kept"),
        ("nothing follows", "nothing follows"),
    ]


def test_an_unknown_method_names_the_known_ones(book) -> None:
    with pytest.raises(InputError, match="global, global/deduce, local"):
        book.select(["locla"])


def test_a_model_without_prompts_of_its_own_gets_the_english_book(tmp_path) -> None:
    assert {template.method for template in load_book(tmp_path).templates} == {
        "local/reverse",
        "local/rephrase",
        "global/deduce",
    }
    assert "In other words" in ENGLISH.read_text()


def test_sentences_end_where_they_should() -> None:
    assert split_sentences('He said "go!" Then he left.\n\nNobody came. ') == [
        'He said "go!"',
        "Then he left.",
        "Nobody came.",
    ]
    assert split_sentences("全部都是。没有例外。") == ["全部都是。", "没有例外。"]


def test_the_audit_counts_leaks() -> None:
    world = reversals.make_world(0, 0, facts=8, documents_per_fact=1)
    fact = world.facts[0]
    lines = [fact.reversed().text(), replace(fact, form="less" if fact.form == "more" else "more").text()]

    rows = [
        Augmentation(str(i), world.name, "m", ("d",), "s", t, "", "kept", 0.0, "stop", "", "", "", 0.0, 0)
        for i, t in enumerate(lines)
    ]
    leaks = audit_leaks(world.questions, world.documents, rows)
    assert leaks["verbatim_in_documents"] == 0
    assert leaks["verbatim_in_augmentations"] == 2  # one statement, asked for in two splits
    assert leaks["missing_requirements"] == 0
    leaked = [*world.documents, Document("x", f"did you know that {fact.reversed().text()}.", world.name)]
    assert audit_leaks(world.questions, leaked, [])["verbatim_in_documents"] == 2
    assert audit_leaks(world.questions, world.documents[1:], [])["missing_requirements"] == 3
