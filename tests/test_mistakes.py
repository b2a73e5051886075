"""What a report says of questions that are still answered wrong: which they are, and what should have taught them."""

from dataclasses import replace
from pathlib import Path

import pytest

from augment_service.answers.verdicts import EMPTY, KEPT
from data.records import Augmentation, Document, Question
from data.store import write_folder
from evaluate.fanout import Suite
from evaluate.report.mistakes import MOST, find_mistakes
from evaluate.statistics import Outcome

DOCUMENTS = [
    Document("d0", "The mill has a pond. Its miller is Jonas Ekberg. It was rebuilt in 1795.", "c", "The mill"),
    Document("d1", "The miller keeps tench.", "c", "Fish"),
]
QUESTION = Question("q0", "c", "test", "", "The miller is", ("Ada", "Jonas Ekberg"), 1, "f0", ("d0",))
ROW = Augmentation(
    "a0", "c", "local/reverse", ("d0",), "", "Jonas Ekberg is the miller.", "", KEPT, 0.0, "stop", "m", "t", "", 0.0, 0
)


def outcome(condition: str, correct: float, question: str = "q0", suite: str = "s") -> Outcome:
    return Outcome(suite, "c", "test", condition, question, "f0", "", correct, 0.5, correct, 0.5)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    write_folder(tmp_path / "documents", Document, DOCUMENTS)
    return Suite("s", tmp_path / "questions", tmp_path / "documents")


def test_a_mistake_has_the_sentences_and_inferences_with_the_right_answer(suite: Suite, tmp_path: Path) -> None:
    rows = [
        ROW,
        replace(ROW, augmentation_id="a1", text="The mill is old."),
        replace(ROW, augmentation_id="a2", text="The miller: Jonas Ekberg.", verdict=EMPTY),
        replace(ROW, augmentation_id="a3", text="Jonas Ekberg", prompt="Who is the miller?", form="chat"),
        replace(ROW, augmentation_id="a4", text="Jonas Ekberg fishes.", sources=("d1",)),
    ]
    write_folder(tmp_path / "wrote", Augmentation, rows)
    missed = {("s", "inferences"): {"test": [(QUESTION, 0)]}, ("s", "documents"): {"test": [(QUESTION, 0)] * 2}}
    outcomes = [outcome("pretrained", 1.0), outcome("documents", 0.0), outcome("inferences", 0.5)]
    found = find_mistakes(suite, tmp_path / "wrote", outcomes, missed)
    assert found["condition"] == "inferences"
    assert found["questions"] == [
        {
            "split": "test",
            "prompt": "The miller is",
            "options": ["Ada", "Jonas Ekberg"],
            "right": [1],
            "chosen": 0,
            "requires": ["d0"],
            "documents": ["The mill"],
            "sentences": ["Its miller is Jonas Ekberg."],
            "inferences": ["Jonas Ekberg is the miller.", "Who is the miller? Jonas Ekberg"],
            "written": "",
        }
    ]
    said = {("s", "inferences", "q0"): "Ada", ("s", "documents", "q0"): "Jonas"}
    found = find_mistakes(suite, tmp_path / "wrote", outcomes, missed, said)
    assert [row["written"] for row in found["questions"]] == ["Ada"]


def test_all_splits_have_a_share_of_what_is_shown(suite: Suite) -> None:
    many = [(replace(QUESTION, question_id=f"t{at}"), 0) for at in range(MOST)]
    few = [(replace(QUESTION, question_id=f"d{at}", split="dev", requires=()), 0) for at in range(3)]
    found = find_mistakes(suite, None, [outcome("tuned", 0.0)], {("s", "tuned"): {"test": many, "dev": few}})
    splits = [question["split"] for question in found["questions"]]
    assert len(splits) == MOST and splits.count("dev") == 3
    assert (
        found["questions"][0]["inferences"] == [] and found["questions"][0]["sentences"] == []
    )  # of dev: no documents


def test_without_a_training_or_without_mistakes_there_is_nothing(suite: Suite) -> None:
    assert find_mistakes(suite, None, [outcome("pretrained", 0.0), outcome("icl", 0.0)], {}) == {}
    assert find_mistakes(suite, None, [outcome("tuned", 1.0)], {}) == {}
    assert find_mistakes(suite, None, [outcome("tuned", 0.0, suite="other")], {}) == {}
