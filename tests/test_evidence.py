"""What the report says of the texts that a model wrote: judged where there is an oracle, shown where there is none."""

from dataclasses import replace
from pathlib import Path

import pytest

from data.records import Augmentation, Document, Question
from data.store import write_folder
from evaluate.fanout import Suite
from evaluate.report.evidence import NUM_EXAMPLES, NUM_QUESTIONS, audit_suite

QUESTION = Question("q", "corpus", "turned", "turned", "glon are", ("femp", "troff"), 0, "f", ("d",))
ROW = Augmentation(
    augmentation_id="a", corpus="reversals/w0", method="local/reverse", sources=("d0", "d1"), sentence="", text="",
    reasoning="", verdict="kept", support=float("nan"), finish_reason="stop", model="m", template="t", context_id="c",
    temperature=0.7, seed=0,
)  # fmt: skip
TEXTS = {
    "ruli are less shiny than doma": "true",
    "ruli are more shiny than doma": "false",
    "it depends on the weather": "unread",
}


def write_suite(folder: Path, corpus: str) -> Suite:
    questions = [replace(QUESTION, question_id=f"q{at}", corpus=corpus, requires=("d0",)) for at in range(4)]
    write_folder(folder / "questions", Question, questions)
    write_folder(folder / "documents", Document, [Document("d0", "doma are more shiny than ruli", corpus)])
    return Suite("mine", folder / "questions", folder / "documents")


def write_rows(folder: Path, corpus: str) -> Path:
    """Each text twice, one copy rejected, and enough unread ones to be cut."""
    texts = [*TEXTS, *[f"unread {at}" for at in range(9)]]
    rows = [replace(ROW, augmentation_id=text, corpus=corpus, text=text, reasoning="because") for text in texts]
    rows += [replace(row, verdict="repeated") for row in rows[:3]]
    write_folder(folder / "augmentations", Augmentation, rows)
    return folder / "augmentations"


def test_unread_statements_are_counted_apart_from_untrue_ones(tmp_path: Path) -> None:
    """Old code counted what its parser could not read as not true."""
    suite, rows = write_suite(tmp_path, "reversals/w0"), write_rows(tmp_path, "reversals/w0")
    found = audit_suite(suite, rows, {})
    counts = {"generated": 15, "kept": 12, "distinct": 12, "true": 1, "unread": 10}
    assert found["methods"] == {"local/reverse": counts}
    judged = {example["text"]: example["judgement"] for example in found["examples"]}
    assert TEXTS.items() <= judged.items() and len(judged) == 2 + NUM_EXAMPLES // 2
    assert {(example["document"], example["reasoning"]) for example in found["examples"]} == {("d0, d1", "because")}
    assert (found["num_documents"], found["num_questions"]) == (1, 4)


def test_only_generated_sets_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A foreign corpus has no oracle, and its documents are not held in memory for one."""
    monkeypatch.setattr("evaluate.report.evidence.read_oracles", None)
    suite, rows = write_suite(tmp_path, "papers"), write_rows(tmp_path, "papers")
    found = audit_suite(suite, rows, {})
    assert found["methods"] == {"local/reverse": {"generated": 15, "kept": 12, "distinct": 12}}
    assert {example["judgement"] for example in found["examples"]} == {""} and len(found["examples"]) == NUM_EXAMPLES


def test_choices_are_shown_with_the_questions_of_their_own_suite(tmp_path: Path) -> None:
    chosen = {("mine", "icl", "q0"): 1, ("mine", "base", "q1"): 0, ("other", "icl", "q1"): 1}
    shown = audit_suite(write_suite(tmp_path, "papers"), None, chosen)["question_examples"]
    assert [question["chosen"] for question in shown] == [{"icl": 1}, {"base": 0}] and len(shown) == NUM_QUESTIONS


def test_a_suite_without_documents_can_be_audited(tmp_path: Path) -> None:
    write_folder(tmp_path / "questions", Question, [QUESTION])
    found = audit_suite(Suite("mine", tmp_path / "questions"), None, {})
    assert (found["num_documents"], found["num_tests"], found["missing_requirements"]) == (0, 1, 1)
    assert found["methods"] == {} and found["examples"] == []


def test_what_the_verification_rejected_is_counted_and_judged(tmp_path: Path) -> None:
    true, false, unread = TEXTS
    texts = [(true, "kept", 1.0), (false, "unsupported", 0.2), (true, "minority", float("nan")), (false, "kept", 0.9)]
    texts += [(unread, "contradicted", 0.1), (true, "copied", float("nan")), (true, "kept", float("nan"))]
    rows = [
        replace(ROW, augmentation_id=str(at), corpus="reversals/w0", text=text, verdict=verdict, premises=value)
        for at, (text, verdict, value) in enumerate(texts)
    ]
    write_folder(tmp_path / "augmentations", Augmentation, rows)
    found = audit_suite(write_suite(tmp_path, "reversals/w0"), tmp_path / "augmentations", {})["verification"]
    counts = {"verified": 5, "unsupported": 1, "contradicted": 1, "minority": 1}
    assert found == {"local/reverse": {**counts, "false": 2, "false_rejected": 1}}
    rows = [replace(row, corpus="papers") for row in rows]
    write_folder(tmp_path / "papers" / "augmentations", Augmentation, rows)
    suite = write_suite(tmp_path / "papers", "papers")
    assert audit_suite(suite, tmp_path / "papers" / "augmentations", {})["verification"] == {"local/reverse": counts}
