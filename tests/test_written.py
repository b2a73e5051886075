"""Written answers: which questions are asked, how, and what counts as right."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from augment_service.chat import AnswerFrame
from augment_service.contexts import ContextSpec
from augment_service.engines.protocol import EngineSpec
from augment_service.jobs import RowAnswer
from augment_service.worker import EngineWorker
from data.records import Document, Generation, Prompt, Question, Refusal
from data.rendering import load_book
from data.store import read_folder, read_shard, write_folder, write_shard
from evaluate.conditions import study_condition
from evaluate.fanout import ScoreJob, Suite
from evaluate.written import MAX_TOKENS, WrittenTask, begins_with, collect_written, plan_written, sample_jobs

BOOK = load_book(Path("models/tiny"))
BASE, ICL = study_condition("base"), study_condition("base", ContextSpec("required"))


def question(name: str, split: str = "test", **changes: Any) -> Question:
    made = {
        "prompt": f"The lighthouse {name} was built in",
        "options": ("1852", "1901"),
        "answer": 0,
        "requires": ("d0",),
    }
    return Question(name, "c", split, "qa", fact_id=name, **(made | changes))


def suite_of(folder: Path, rows: Sequence[Question]) -> Suite:
    write_folder(folder / "questions", Question, rows)
    write_folder(folder / "documents", Document, [Document("d0", "The lighthouse was built in 1852.", "c")])
    return Suite("lights", folder / "questions", folder / "documents")


@pytest.mark.parametrize(
    ("text", "option", "right"),
    [
        (" 1852.", "1852", True),
        (" 1852, after three years of work", "1852", True),
        (" 18521", "1852", False),
        ("in 1852", "1852", False),
        (' "Anna Weil" was', "anna weil", True),
        ("Anna", "Anna Weil", False),
        ("東京都にある", "東京", True),
        ("京都", "東京", False),
        ("１８５２", "1852", True),
        ("", "1852", False),
        ("anything", "?", False),
    ],
)
def test_an_answer_is_right_if_it_begins_with_the_option(text: str, option: str, right: bool) -> None:
    assert begins_with(text, option) is right


def test_a_question_is_asked_in_its_context_and_frame() -> None:
    asked: list[Prompt] = []

    class Recorder:
        def generate(self, prompts: Sequence[Prompt], on_answer: Any) -> None:
            asked.extend(prompts)
            on_answer(0, Generation(prompts[0].prompt_id, " 1852", "stop", 3))

    found: dict[int, RowAnswer] = {}
    rows = [question("q0", options=("1852", "x" * 2000)), question("q1")]
    task: Any = WrittenTask({}, frame=AnswerFrame("<user>", "<assistant>", " "))
    task.compute(Recorder(), rows[:1], found.__setitem__)
    (prompt,) = asked
    assert (prompt.before, prompt.text, prompt.after) == ("<user>", rows[0].prompt, "<assistant>")
    assert (prompt.temperature, prompt.stop, prompt.max_tokens) == (0.0, "", MAX_TOKENS)
    assert found[0].answers == (Generation("q0", " 1852", "stop", 3),)
    WrittenTask({}, required=True).compute(Recorder(), [question("q2", requires=()), rows[1]], found.__setitem__)
    assert isinstance(found[0].refusals[0], Refusal) and found[1].answers
    assert asked[1].max_tokens == 8 + 4


def test_of_each_split_the_same_few_are_asked(tmp_path: Path) -> None:
    rows = [question(f"q{at}", split="dev" if at % 4 == 0 else "test") for at in range(40)]
    suite = suite_of(tmp_path, rows)
    jobs = [ScoreJob(suite, "", condition, None, "w") for condition in (BASE, ICL)]
    found = sample_jobs(jobs, 6, tmp_path / "out", seed=0)
    assert len({job.suite for job in found}) == 1 and [job.condition for job in found] == [BASE, ICL]
    chosen = [row.question_id for row in read_folder(found[0].suite.questions, Question)]
    splits = [row.split for row in rows if row.question_id in chosen]
    assert (splits.count("dev"), splits.count("test")) == (6, 6)
    assert chosen == [row.question_id for row in rows if row.question_id in chosen]
    other = sample_jobs(jobs, 6, tmp_path / "out", seed=1)
    assert chosen != [row.question_id for row in read_folder(other[0].suite.questions, Question)]
    assert sample_jobs(jobs, 0, tmp_path / "out", seed=0) == []


def test_answers_are_asked_once_and_counted(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, [question("q0"), question("q1"), question("q2", also_right=(1,))])
    jobs = sample_jobs([ScoreJob(suite, "", BASE, None, "w")], 10, tmp_path, seed=0)
    worker = EngineWorker(EngineSpec("fake", "models/tiny"))
    (unit,) = plan_written(jobs, tmp_path, BOOK, seed=0)
    worker.run_unit(*unit.args)
    assert plan_written(jobs, tmp_path, BOOK, seed=0) == []
    target = Path(unit.args[2])
    assert {row.prompt_id for row in read_shard(target, Generation)} == {"q0", "q1", "q2"}
    answers = {"q0": " 1852.", "q2": "\n 1901 it was \nbuilt"}  # q1 was refused
    write_shard(target, Generation, [Generation(name, text, "stop", 3) for name, text in answers.items()])
    found = collect_written(jobs, tmp_path, BOOK, seed=0)
    assert {row.question_id: row.correct for row in found.outcomes} == {"q0": 1.0, "q2": 1.0}
    assert found.texts["lights", BASE.name, "q2"] == "1901 it was"
    write_shard(target, Generation, [Generation("q0", " 1901", "stop", 3)])
    (outcome,) = collect_written(jobs, tmp_path, BOOK, seed=0).outcomes
    assert (outcome.correct, outcome.chance, outcome.split) == (0.0, 0.0, "test")
