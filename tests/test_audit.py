"""The audits: sound sets pass them, planted faults and shortcuts do not."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from data.audit import FAULTS, TRAINED, audit_folder, audit_leaks, audit_set
from data.baselines import NgramModel, credit, make_rate, measure_baselines
from data.errors import InputError
from data.records import Document, Question
from data.sets.registry import make_set
from data.sets.world import World
from data.store import read_folder, write_folder
from tests.generated import MAKERS, default_section, make_worlds

VARIANTS = {
    **{f"{name} {lexicon}": (name, ("--lexicon", lexicon)) for name, lexicon in MAKERS},
    "semantic smaller": ("semantic", ("--categories", "50", "--documents", "400")),
    "semantic larger": ("semantic", ("--categories", "150", "--documents", "1500", "--questions_per_split", "200")),
    "syllogisms larger": ("syllogisms", ("--syllogisms", "460")),
    "reversals larger": ("reversals", ("--facts", "301", "--documents_per_fact", "3")),
    "reversal-curse nonsense": ("reversal-curse", ("--nonsense_names", "true", "--documents_per_fact", "9")),
    "process larger": ("process", ("--functions", "9", "--documents", "900")),
}
# Six statements about two terms. Pairs of words give away "all a are c" after "all a are b" and "all b are c", so this
# form is rare; but then "All" is rare among the answers, and in large numbers the lengths of "Some" and "No" tell a
# little.
EXEMPT = {
    ("syllogisms larger", "statement"): {"shortest", "longest"},
}
each_set = pytest.mark.parametrize("variant", VARIANTS)


@cache
def made(variant: str) -> tuple[list[Question], list[Document]]:
    name, words = VARIANTS[variant]
    worlds: list[World] = list(make_worlds(name, default_section(name, words), seed=1))
    return [q for world in worlds for q in world.questions], [d for world in worlds for d in world.documents]


@each_set
def test_nothing_is_wrong_with_a_set(variant: str) -> None:
    questions, documents = made(variant)
    audit = audit_set(questions, documents)
    assert audit.faults == dict.fromkeys(FAULTS, ()) and audit.sound
    assert all(q.split.startswith("statement") or not (q.also_right or q.also_true) for q in questions)
    leaks = audit_leaks(questions, documents, [])
    assert leaks["verbatim_in_documents"] == leaks["missing_requirements"] == 0


@each_set
def test_no_shortcut_is_better_than_chance(variant: str) -> None:
    questions, documents = made(variant)
    tests = [question for question in questions if question.inference not in TRAINED]
    for split, rates in measure_baselines(tests, documents).items():
        above = {name: rate for name, rate in rates.items() if rate.above_chance}
        assert above.keys() == EXEMPT.get((variant, split), set()), (split, above)
        if variant.startswith("reversal-curse") and split.startswith("reversal"):
            assert rates["bigram"].accuracy < 0.2  # below chance by design: wrong options did end documents


@each_set
def test_ids_are_unique_and_required_documents_are_there(variant: str) -> None:
    questions, documents = made(variant)
    assert len({document.doc_id for document in documents}) == len(documents)
    assert len({question.question_id for question in questions}) == len(questions)
    present = {document.doc_id for document in documents}
    for question in questions:
        assert question.requires and present.issuperset(question.requires)
        assert len(set(question.options)) == len(question.options)


def test_a_folder_is_audited(tmp_path: Path) -> None:
    assert make_set("reversals", "tiny", 2, {"facts": 8, "documents_per_fact": 1}, 0, tmp_path / "set")
    audit = audit_folder(tmp_path / "set")
    assert audit.sound and any("bigram" in line for line in audit.lines)
    questions = list(read_folder(tmp_path / "set" / "questions", Question))
    documents = list(read_folder(tmp_path / "set" / "documents", Document))
    test = next(question for question in questions if question.split == "reversal")
    leak = Document("leak", f"{test.prompt} {test.options[test.answer]}", test.corpus)
    write_folder(tmp_path / "leaked" / "documents", Document, [*documents, leak])
    write_folder(tmp_path / "leaked" / "questions", Question, questions)
    audit = audit_folder(tmp_path / "leaked")
    assert not audit.sound and any(line.strip() == test.question_id for line in audit.lines)


def test_an_import_is_audited_for_leaks(tmp_path: Path) -> None:
    write_folder(tmp_path / "documents", Document, [Document("d", "Ann is tall. Bob is old.", "corpus")])
    assert audit_folder(tmp_path).sound
    question = Question("q", "corpus", "s", "s", "Bob is", ("old", "young"), 0, "f", ("d",))
    assert not audit_folder(tmp_path, [question]).sound
    missing = replace(question, prompt="Cy is", requires=("gone",))
    assert not audit_folder(tmp_path, [missing]).sound
    assert audit_folder(tmp_path, [replace(missing, requires=())]).sound
    (tmp_path / "documents" / "manifest.json").unlink()
    with pytest.raises(InputError, match="unfinished"):
        audit_folder(tmp_path)


def faults_of(questions: Sequence[Question], documents: Sequence[Document]) -> set[str]:
    return {fault for fault, found in audit_set(questions, documents).faults.items() if found}


def semantic() -> tuple[list[Question], list[Document]]:
    questions, documents = made("semantic smaller")
    return list(questions), list(documents)


def a_question(split: str, inference: str = "") -> tuple[Question, str]:
    """A question of the small semantic set, and its test statement as a sentence."""
    question = next(q for q in semantic()[0] if q.split == split and q.inference.startswith(inference))
    return question, f"{question.prompt} {question.options[question.answer]}."


@pytest.mark.parametrize("split", ["reversals", "syllogisms", "category-holdout"])
def test_a_test_statement_in_a_document_is_found(split: str) -> None:
    _, documents = semantic()
    question, sentence = a_question(split)
    leaked = [*documents, Document("leak", f"Something else is said first.\n{sentence}", question.corpus)]
    assert "leaked" in faults_of([question], leaked)
    assert audit_leaks([question], leaked, [])["verbatim_in_documents"] == 1


def test_a_paraphrase_of_a_test_statement_is_found() -> None:
    _, documents = semantic()
    question, _ = a_question("category-holdout", "kind")
    answer = question.options[question.answer]
    told = [f"{name} are a type of {answer}." for name in question.prompt.replace(",", "").split()]
    leaked = [*documents, Document("leak", "\n".join(told), question.corpus)]
    assert "leaked" in faults_of([question], leaked)
    assert audit_leaks([question], leaked, [])["verbatim_in_documents"] == 0


def test_a_held_out_category_must_not_be_told_about() -> None:
    _, documents = semantic()
    question, sentence = a_question("category-holdout", "trait")
    assert "held out seen" in faults_of([question], [*documents, Document("leak", sentence, question.corpus)])


def test_documents_that_are_left_out_are_missed() -> None:
    _, documents = semantic()
    question, _ = a_question("syllogisms")
    assert faults_of([question], []) == {"does not follow"}
    short = replace(question, requires=question.requires[:-1])
    assert faults_of([short], documents) == {"not in required"}
    gone = [document for document in documents if document.doc_id not in question.requires]
    assert audit_leaks([question], gone, [])["missing_requirements"] == 1


def test_a_wrong_answer_and_a_second_right_one_are_found() -> None:
    _, documents = semantic()
    question, _ = a_question("syllogisms")
    wrong = replace(question, answer=(question.answer + 1) % 4)
    assert "does not follow" in faults_of([wrong], documents)
    doubled = replace(question, options=(question.options[question.answer],) * 4)
    assert "several right" in faults_of([doubled], documents)
    for declared in ({"also_right": (wrong.answer,)}, {"also_true": (wrong.answer,)}):
        assert faults_of([replace(question, **declared)], documents) == {"several right"}


def test_what_is_introduced_is_found_without_its_introduction() -> None:
    question = next(q for q in made("syllogisms tiny")[0] if q.split == "statement")
    answer = question.options[question.answer]
    told = Document("leak", f"note that {answer}", question.corpus)
    assert audit_leaks([question], [*made("syllogisms tiny")[1], told], [])["verbatim_in_documents"] == 1


def test_what_cannot_be_read_is_found() -> None:
    questions, documents = semantic()
    odd = Document("odd", "Quite so, and no wonder.", documents[0].corpus)
    assert faults_of(questions[:1], [*documents, odd]) == {"unread sentence"}
    assert faults_of([replace(questions[0], prompt="What on earth")], documents) == {"unread question"}


def test_a_frequent_answer_is_a_shortcut() -> None:
    questions, documents = semantic()
    asked = [question for question in questions if question.split == "syllogisms"]
    alike = [question for question in asked if question.options[question.answer] == asked[0].options[asked[0].answer]]
    told = [Document(f"x{i}", f"of {asked[0].options[asked[0].answer]}", asked[0].corpus) for i in range(5000)]
    (rates,) = measure_baselines(alike, [*documents, *told]).values()
    assert rates["unigram"].accuracy == rates["bigram"].accuracy == 1.0


def test_a_long_answer_is_a_shortcut() -> None:
    questions, documents = semantic()
    asked = [
        replace(q, options=tuple(o + "ion" if i == q.answer else o for i, o in enumerate(q.options))) for q in questions
    ]
    assert all(rates["longest"].above_chance for rates in measure_baselines(asked, documents).values())


def test_the_models_count_words_and_pairs() -> None:
    model = NgramModel(["the grud is rony", "a grud is blimy", "a grud is rony"])
    assert (
        model.bigram("this grud is", "rony") > model.bigram("this grud is", "blimy") > model.bigram("this a", "blimy")
    )
    assert model.unigram("", "grud") > model.unigram("", "rony") > model.unigram("", "unheard")
    assert credit([1.0, 1.0, 0.0, 0.0], 1) == 0.5 and credit([1.0, 0.0], 1) == 0.0


def test_an_interval_counts_facts() -> None:
    points = [1.0] * 40 + [0.0] * 60
    assert make_rate(points, 100, 0.25).above_chance
    assert not make_rate(points, 10, 0.25).above_chance
