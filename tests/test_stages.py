"""What the stages make of answers and refusals on disk, without an engine: counted, never a score of zero."""

from pathlib import Path

import pytest

from augment_service.augment import AUGMENTATIONS, collect, write_prompts
from augment_service.methods import AugmentPlan
from data.errors import InputError
from data.records import Augmentation, Document, Generation, Prompt, Question, Refusal, Score, ScoreItem
from data.rendering import load_book
from data.store import ROWS_PER_SHARD, is_sealed, read_folder, read_shard, refusals_path, write_folder, write_shard
from evaluate.fanout import Job, Suite, collect_outcomes, plan_units, score_paths, unscored
from evaluate.items import ICL, PRETRAINED

BOOK = load_book(Path("models/tiny"))
TOO_LONG = "3000 tokens are needed, the model's window has 2048"


def make_suite(num_questions: int) -> Suite:
    questions = [
        Question(f"q{i}", "w0", "reversal", "reversal", f"who {i}", ("a", "b"), i % 2, f"f{i}", ())
        for i in range(num_questions)
    ]
    return Suite("small", {"w0": [Document("d0", "doma are more shiny than ruli", "w0")]}, {"w0": questions})


def answer(paths: list[Path], items: Path, refused: set[str]) -> None:
    """Scores as a pool would leave them: every item that is not refused chooses its first option."""
    for path in paths:
        asked = read_shard(items / path.name, ScoreItem)
        write_shard(
            refusals_path(path),
            Refusal,
            [Refusal(item.item_id, "window", TOO_LONG, "less context") for item in asked if item.item_id in refused],
        )
        rows = [Score(item.item_id, (-1.0, -2.0), (1, 1), (True, False)) for item in asked]
        write_shard(path, Score, [row for row in rows if row.item_id not in refused])


def test_a_large_world_is_many_units_and_only_what_is_missing_is_asked_again(tmp_path: Path) -> None:
    suite = make_suite(2 * ROWS_PER_SHARD + 1)
    jobs = [Job("small", "w0", condition, None, "weights") for condition in (PRETRAINED, ICL)]
    units = plan_units(jobs, [suite], tmp_path, BOOK)
    assert [unit.num_rows for unit in units] == 2 * [ROWS_PER_SHARD, ROWS_PER_SHARD, 1]
    assert len({unit.name for unit in units}) == len(units)
    assert {unit.affinity for unit in units} == {"weights"}
    first = score_paths(tmp_path, jobs[0], suite)
    answer(first, tmp_path / "items", set())
    assert unscored(jobs, [suite], tmp_path) == [jobs[1]]
    assert plan_units(jobs, [suite], tmp_path, BOOK) == units[3:]


def test_refused_questions_are_in_no_accuracy_and_are_told(tmp_path: Path) -> None:
    suite = make_suite(4)
    job = Job("small", "w0", ICL, None, "weights")
    plan_units([job], [suite], tmp_path, BOOK)
    answer(score_paths(tmp_path, job, suite), tmp_path / "items", {"q1"})
    scored = collect_outcomes([job], [suite], tmp_path)
    assert [(row.question_id, row.correct) for row in scored.outcomes] == [("q0", 1.0), ("q2", 1.0), ("q3", 0.0)]
    assert [(name, refusal.item_id) for name, refusal in scored.refusals] == [("icl", "q1")]


def test_a_condition_without_any_answer_is_an_error_that_says_why(tmp_path: Path) -> None:
    suite = make_suite(3)
    job = Job("small", "w0", ICL, None, "weights")
    plan_units([job], [suite], tmp_path, BOOK)
    answer(score_paths(tmp_path, job, suite), tmp_path / "items", {"q0", "q1", "q2"})
    with pytest.raises(InputError, match=TOO_LONG) as caught:
        collect_outcomes([job], [suite], tmp_path)
    assert "condition icl" in caught.value.where


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    rows = [Document(f"d{i}", f"{name} are more shiny than ruli", "w0") for i, name in enumerate(("doma", "zusu"))]
    write_folder(tmp_path / "documents", Document, rows)
    return tmp_path / "documents"


def write_answers(out: Path, refused: int) -> int:
    """Generations for all prompts but the first few; how many prompts there are."""
    (shard,) = (out / "prompts").glob("*.arrow")
    prompts = read_shard(shard, Prompt)
    target = out / "generations" / shard.name
    write_shard(
        refusals_path(target), Refusal, [Refusal(p.prompt_id, "window", TOO_LONG, "") for p in prompts[:refused]]
    )
    answers = [Generation(p.prompt_id, f"line {number}", "stop", 2) for number, p in enumerate(prompts)]
    write_shard(target, Generation, answers[refused:])
    return len(prompts)


def test_refused_prompts_are_counted_and_the_others_become_augmentations(tmp_path: Path, documents: Path) -> None:
    units = write_prompts(documents, tmp_path, BOOK, AugmentPlan(("local",), 1, 0.7, 0))
    total = write_answers(tmp_path, refused=1)
    assert collect(documents, tmp_path, BOOK, units, model="m") == 1
    assert len(list(read_folder(tmp_path / AUGMENTATIONS, Augmentation))) == total - 1 == units[0].num_rows - 1


def test_where_all_prompts_are_refused_nothing_is_sealed(tmp_path: Path, documents: Path) -> None:
    units = write_prompts(documents, tmp_path, BOOK, AugmentPlan(("local",), 1, 0.7, 0))
    write_answers(tmp_path, refused=units[0].num_rows)
    with pytest.raises(InputError, match=TOO_LONG):
        collect(documents, tmp_path, BOOK, units, model="m")
    assert not is_sealed(tmp_path / AUGMENTATIONS)
