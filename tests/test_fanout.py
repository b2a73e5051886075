"""Scoring without a model: what is asked, stored and left out. Refusals are counted, never scored as zero."""

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from augment_service.contexts import ContextSpec
from augment_service.engines.fake import FakeEngine
from augment_service.engines.protocol import Answers, EngineSpec, OnAnswer
from augment_service.jobs import RowAnswer
from cluster.pool import Unit
from data.errors import InputError
from data.records import Context, Document, Question, Refusal, Retrieval, Score, ScoreItem
from data.rendering import load_book
from data.store import read_folder, read_shard, refusals_path, write_folder, write_shard
from evaluate.conditions import study_condition
from evaluate.fanout import (
    ROWS_PER_UNIT,
    ScoreJob,
    ScoreTask,
    Suite,
    _end_of,
    collect_outcomes,
    contexts_that_fit,
    open_suite,
    plan_scores,
    suite_corpora,
)
from pipeline.data_section import SETS
from tests.generated import make_set

MODEL = "models/tiny"
BOOK = load_book(Path(MODEL))
TOO_LONG = "3000 tokens are needed, the model's window has 2048"
NONE, ALL, REQUIRED = ContextSpec("none"), ContextSpec("all"), ContextSpec("required")
NEAREST = ContextSpec("nearest", 2)
PRETRAINED, ICL = study_condition("base"), study_condition("base", ALL)


def computed(task: Any, engine: Any, rows: Sequence[Any]) -> list[RowAnswer]:
    """The answer to each row, in their order."""
    found: dict[int, RowAnswer] = {}
    task.compute(engine, rows, found.__setitem__)
    return [found[row] for row in range(len(rows))]


def make_suite(folder: Path, sizes: dict[str, int], *, num_documents: int = 3, name: str = "small") -> Suite:
    """Questions by corpus; each names one document."""
    questions = [
        Question(f"{corpus} q{i}", corpus, "reversal", "reversal", f"who {i}", ("a", "b"), i % 2, f"f{i}",
                 (f"{corpus} d{i % num_documents}",))
        for corpus, size in sizes.items() for i in range(size)
    ]  # fmt: skip
    numbers = range(num_documents)
    documents = [Document(f"{corpus} d{i}", f"{corpus} doma {i}", corpus) for corpus in sizes for i in numbers]
    write_folder(folder / "questions", Question, questions)
    write_folder(folder / "documents", Document, documents)
    return Suite(name, folder / "questions", folder / "documents")


def answer(units: Sequence[Unit], refused: Sequence[str] = (), kind: str = "window") -> list[ScoreItem]:
    """Do the units as an actor would, with an engine that chooses the first option; returns what it was asked."""
    asked: list[ScoreItem] = []

    class Engine(FakeEngine):
        def score(self, items: Sequence[ScoreItem], on_answer: OnAnswer = None) -> list[Score | Refusal]:
            asked.extend(items)
            answers = Answers[Score](items, on_answer)
            for at, item in enumerate(items):
                refusal = Refusal(item.item_id, kind, TOO_LONG, "less context")
                score = Score(item.item_id, (-1.0, -2.5), (1, 1), (True, False), parity=1.6)
                answers.add(at, refusal if item.item_id in refused else score)
            return answers.rows

    engine = Engine(EngineSpec("fake", MODEL))
    for unit in units:
        task, rows, target = (pickle.loads(pickle.dumps(arg)) for arg in unit.args[:3])
        questions = read_shard(Path(rows.shard), Question)[rows.start : rows.stop]
        answers = computed(task, engine, questions)
        write_shard(refusals_path(Path(target)), Refusal, [row for one in answers for row in one.refusals])
        write_shard(Path(target), Score, [row for one in answers for row in one.answers])
    return asked


def test_a_large_suite_is_many_units_and_only_missing_ones_are_planned_again(tmp_path: Path) -> None:
    suite = make_suite(tmp_path, {"w0": 2 * ROWS_PER_UNIT + 1, "w1": 3})
    jobs = [ScoreJob(suite, "", condition, None, "weights") for condition in (PRETRAINED, ICL)]
    units = plan_scores(jobs, tmp_path, BOOK, seed=0)
    assert [unit.num_rows for unit in units] == 2 * [ROWS_PER_UNIT, ROWS_PER_UNIT, 1, 3]
    assert len({unit.name for unit in units}) == len(units) and {unit.affinity for unit in units} == {"weights"}
    assert max(len(pickle.dumps(unit.args)) for unit in units) < 4096  # the driver sends names, not rows
    answer(units[:4])
    assert plan_scores(jobs, tmp_path, BOOK, seed=0) == units[4:]
    (one,) = plan_scores([replace(jobs[0], corpus="w1", weights="other")], tmp_path, BOOK, seed=0)
    assert one.num_rows == 3


def test_options_are_also_scored_without_the_question_where_that_is_subtracted(tmp_path: Path) -> None:
    suite = make_suite(tmp_path, {"w0": 3})
    plain = ScoreJob(suite, "", PRETRAINED, None, "weights")
    assert {item.unconditional for item in answer(plan_scores([plain], tmp_path, BOOK, seed=0))} == {""}
    asked = answer(plan_scores([replace(plain, prior=True)], tmp_path, BOOK, seed=0))  # other scores than before
    assert [item.unconditional for item in asked] == ["0", "1", "2"]  # of "who 0" and so on
    assert (_end_of("Question: Who?\nAnswer:"), _end_of("東京の川は"), _end_of("  "), _end_of("glon ")) == (
        "Answer:",
        "は",
        "",
        "n",
    )


def test_the_length_is_fitted_on_the_development_questions_alone(tmp_path: Path) -> None:
    suite = make_suite(tmp_path, {"w0": 2})
    jobs = [ScoreJob(suite, "", PRETRAINED, None, "weights")]
    answer(plan_scores(jobs, tmp_path, BOOK, seed=0))
    with pytest.raises(InputError, match='no questions of the split "dev"'):
        collect_outcomes(jobs, tmp_path, BOOK, seed=0, normalize="fitted")
    rows = [replace(row, split="dev") for row in read_folder(suite.questions, Question)]
    write_folder(tmp_path / "dev", Question, rows)
    jobs = [ScoreJob(Suite("dev", tmp_path / "dev"), "", PRETRAINED, None, "weights")]
    answer(plan_scores(jobs, tmp_path, BOOK, seed=0))
    assert collect_outcomes(jobs, tmp_path, BOOK, seed=0, normalize="fitted").exponent == 0.0
    assert collect_outcomes(jobs, tmp_path, BOOK, seed=0).exponent is None


def test_scores_are_keyed_by_weights_questions_and_documents(tmp_path: Path) -> None:
    """Old code kept scores for other documents of the same corpus and for other questions of the same number."""
    suite = make_suite(tmp_path / "a", {"w0": 4})
    job = ScoreJob(suite, "", ICL, None, "weights")

    def num_units(changed: ScoreJob) -> int:
        return len(plan_scores([changed], tmp_path, BOOK, seed=0))

    answer(plan_scores([job], tmp_path, BOOK, seed=0))
    assert num_units(job) == 0
    copy = make_suite(tmp_path / "b", {"w0": 4}, name="small")
    assert num_units(replace(job, suite=copy)) == 0  # content decides, not the path
    assert num_units(replace(job, weights="others")) == num_units(replace(job, condition=PRETRAINED)) == 1
    assert num_units(replace(job, suite=make_suite(tmp_path / "c", {"w0": 4}, num_documents=2))) == 1
    other = replace(job, condition=PRETRAINED)
    answer(plan_scores([other], tmp_path, BOOK, seed=0))
    assert num_units(replace(other, suite=make_suite(tmp_path / "d", {"w0": 5}))) == 1


def test_a_context_is_stored_once_however_many_questions_share_it(tmp_path: Path) -> None:
    suite = make_suite(tmp_path, {"w0": 600}, num_documents=400)
    jobs = [ScoreJob(suite, "", ICL, None, f"weights {number}", run=f"seed {number}") for number in range(3)]
    asked = answer(plan_scores(jobs, tmp_path, BOOK, seed=0))
    assert len(asked) == 1800 and len({item.context for item in asked}) == 1
    stored = list((tmp_path / "contexts").rglob("*.arrow"))
    assert sum(len(read_shard(path, Context)) for path in stored) == 1
    assert sum(path.stat().st_size for path in tmp_path.rglob("scores/**/*.arrow")) < 1800 * 400


def test_required_documents_are_those_that_the_question_names(tmp_path: Path) -> None:
    suite = make_suite(tmp_path, {"w0": 6, "w1": 3})
    job = ScoreJob(suite, "", study_condition("base", REQUIRED), None, "weights")
    asked = {item.item_id: item.context for item in answer(plan_scores([job], tmp_path, BOOK, seed=0))}
    assert all(f"{name[:2]} doma {int(name[-1]) % 3}" in context for name, context in asked.items())
    assert all(context.count("doma") == 1 for context in asked.values())
    assert sum(len(read_shard(path, Context)) for path in (tmp_path / "contexts").rglob("*.arrow")) == 6


def test_a_question_that_names_no_documents_is_refused_under_required(tmp_path: Path) -> None:
    suite = make_suite(tmp_path, {"w0": 3})
    task = ScoreTask({"w0": "unused"}, required=True)
    (question, *_) = read_shard(suite.questions / "part-00000.arrow", Question)
    (found,) = computed(task, FakeEngine(EngineSpec("fake", MODEL)), [replace(question, requires=())])
    assert not found.answers and found.refusals[0].item_id == question.question_id


def write_towns(folder: Path, *, options: tuple[str, str] = ("slate", "bread")) -> Suite:
    """Two corpora with the same names; questions about one of three towns."""
    towns = ("Harrowgate", "Stonebeck", "Millford")
    documents = [
        Document(f"{corpus} {town}{at}", f"{town} sold {thing} in {corpus}.", corpus)
        for corpus in ("w0", "w1")
        for town in towns
        for at, thing in enumerate(("slate", "wool", "oats"))
    ]
    questions = [
        Question(f"{corpus} {town}", corpus, "test", "recall", f"What did {town} sell?", options, 0, town, ())
        for corpus in ("w0", "w1")
        for town in (*towns, "zzz")
    ]
    write_folder(folder / "documents", Document, documents)
    write_folder(folder / "questions", Question, questions)
    return Suite("towns", folder / "questions", folder / "documents")


def test_a_question_is_asked_with_the_documents_nearest_to_its_prompt(tmp_path: Path) -> None:
    job = ScoreJob(write_towns(tmp_path), "", study_condition("base", NEAREST), None, "weights")
    units = plan_scores([job], tmp_path, BOOK, seed=0)
    asked = {item.item_id: item.context for item in answer(units)}
    assert set(asked) == {
        f"{corpus} {town}" for corpus in ("w0", "w1") for town in ("Harrowgate", "Stonebeck", "Millford")
    }
    for name, context in asked.items():
        corpus, town = name.split()
        assert context.count(town) == context.count(corpus) == 2 and context.count("sold") == 2
    scored = collect_outcomes([job], tmp_path, BOOK, seed=0)
    assert {row.condition for row in scored.outcomes} == {"icl+nearest:2"}
    assert {(refused.refusal.item_id, refused.refusal.kind) for refused in scored.refusals} == {
        ("w0 zzz", "empty"), ("w1 zzz", "empty"),
    }  # fmt: skip
    assert plan_scores([job], tmp_path, BOOK, seed=0) == []
    assert (tmp_path / "index").is_dir()  # beside the documents
    more = replace(job, condition=study_condition("base", ContextSpec("nearest", 3)))
    assert len(plan_scores([more], tmp_path, BOOK, seed=0)) == 2


def test_options_do_not_choose_the_documents(tmp_path: Path) -> None:
    contexts = set()
    for name, options in (("a", ("slate", "bread")), ("b", ("oats", "wool"))):
        suite = write_towns(tmp_path / name, options=options)
        job = ScoreJob(suite, "w0", study_condition("base", NEAREST), None, "weights")
        asked = answer(plan_scores([job], tmp_path / name, BOOK, seed=0))
        contexts.add(tuple(sorted((item.item_id, item.context) for item in asked)))
    assert len(contexts) == 1


@pytest.mark.parametrize(
    ("name", "least"),
    [("reversals", 1.0), ("syllogisms", 0.7)],  # a second premise may share no word with the question
)
def test_the_nearest_documents_are_mostly_those_that_a_question_requires(
    tmp_path: Path, name: str, least: float
) -> None:
    make_set(name, SETS[name].model_validate({"worlds": 2}), 0, tmp_path)
    suite = open_suite(tmp_path, tmp_path / "out")
    job = ScoreJob(suite, "", study_condition("base", ContextSpec("nearest", 4)), None, "weights")
    answer(plan_scores([job], tmp_path / "out", BOOK, seed=0))
    (shard,) = (tmp_path / "out" / "contexts").glob("*.found.arrow")
    found = {row.question_id: set(row.doc_ids) for row in read_shard(shard, Retrieval)}
    questions = list(read_folder(suite.questions, Question))
    shares = [
        len(found[one.question_id] & set(one.requires)) / min(4, len(one.requires)) for one in questions if one.requires
    ]
    assert len(shares) > 50 and sum(shares) / len(shares) >= least


def test_samples_are_seeded_and_another_draw_is_another_subset(tmp_path: Path) -> None:
    suite = make_suite(tmp_path, {"w0": 2}, num_documents=64)
    condition = study_condition("base", ContextSpec("sample", 8))

    def context(out: str, seed: int, draw: int) -> str:
        job = ScoreJob(suite, "", condition, None, "weights", run=f"draw {draw}", draw=draw)
        (text,) = {item.context for item in answer(plan_scores([job], tmp_path / out, BOOK, seed=seed))}
        return text

    first = context("a", 0, 0)
    assert first.count("doma") == 8 and first == context("b", 0, 0)
    assert len({first, context("a", 0, 1), context("a", 1, 0)}) == 3


def test_refused_questions_are_in_no_accuracy_and_are_counted(tmp_path: Path) -> None:
    suite = make_suite(tmp_path, {"w0": 4})
    job = ScoreJob(suite, "", ICL, None, "weights", run="draw 0")
    answer(plan_scores([job], tmp_path, BOOK, seed=0), refused=["w0 q1"])
    scored = collect_outcomes([job], tmp_path, BOOK, seed=0)
    assert [(row.question_id, row.correct) for row in scored.outcomes] == [
        ("w0 q0", 1.0), ("w0 q2", 1.0), ("w0 q3", 0.0),
    ]  # fmt: skip
    assert {(row.run, row.is_close) for row in scored.outcomes} == {("draw 0", True)}
    refused = [(suite, name, refusal.kind, refusal.item_id) for suite, name, refusal in scored.refusals]
    assert refused == [("small", "icl", "window", "w0 q1")]
    assert scored.chosen == {("small", "icl", "w0 q0"): 0, ("small", "icl", "w0 q2"): 0}


@pytest.mark.parametrize(("kind", "num_units"), [("crash", 1), ("endpoint", 1), ("window", 0)])
def test_refusals_that_may_pass_are_asked_again_on_request(tmp_path: Path, kind: str, num_units: int) -> None:
    job = ScoreJob(make_suite(tmp_path, {"w0": 3}), "", PRETRAINED, None, "weights")
    answer(plan_scores([job], tmp_path, BOOK, seed=0), refused=["w0 q1"], kind=kind)
    assert plan_scores([job], tmp_path, BOOK, seed=0) == []
    units = plan_scores([job], tmp_path, BOOK, seed=0, retry=True)
    assert len(units) == num_units
    answer(units)
    assert len(collect_outcomes([job], tmp_path, BOOK, seed=0).refusals) == 1 - num_units


def test_a_condition_without_answers_is_an_error_of_its_own_suite(tmp_path: Path) -> None:
    """Old code named the first refusal of the condition in any suite."""
    suites = [make_suite(tmp_path / name, {name: 3}, name=name) for name in ("one", "two")]
    jobs = [ScoreJob(suite, "", PRETRAINED, None, "weights") for suite in suites]
    answer(plan_scores(jobs, tmp_path, BOOK, seed=0), refused=["one q0", "two q0", "two q1", "two q2"])
    with pytest.raises(InputError, match=TOO_LONG) as caught:
        collect_outcomes(jobs, tmp_path, BOOK, seed=0)
    assert "two q0" in caught.value.where and "pretrained" in caught.value.where


def test_a_context_that_no_question_can_be_asked_with_is_left_out(tmp_path: Path) -> None:
    suite = make_suite(tmp_path, {"w0": 2})
    jobs = [ScoreJob(suite, "", condition, None, "weights") for condition in (ICL, PRETRAINED)]
    answer(plan_scores(jobs[:1], tmp_path, BOOK, seed=0), refused=["w0 q0", "w0 q1"])
    answer(plan_scores(jobs[1:], tmp_path, BOOK, seed=0))
    scored = collect_outcomes(jobs, tmp_path, BOOK, seed=0)
    assert {row.condition for row in scored.outcomes} == {"pretrained"} and len(scored.refusals) == 2
    assert scored.left_out == {"small": {"icl": TOO_LONG}}


def test_a_suite_without_rows_is_no_traceback(tmp_path: Path) -> None:
    write_folder(tmp_path / "questions", Question, [])
    job = ScoreJob(Suite("empty", tmp_path / "questions"), "", PRETRAINED, None, "weights")
    assert plan_scores([job], tmp_path, BOOK, seed=0) == []
    with pytest.raises(InputError):
        collect_outcomes([job], tmp_path, BOOK, seed=0)


def test_two_weights_of_one_name_are_refused_before_scoring(tmp_path: Path) -> None:
    """Old code scored everything and then ended with a ValueError."""
    suite = make_suite(tmp_path, {"w0": 2})
    jobs = [ScoreJob(suite, "", PRETRAINED, None, weights) for weights in ("one", "two")]
    with pytest.raises(InputError, match="pretrained"):
        plan_scores(jobs, tmp_path, BOOK, seed=0)
    seeds = [replace(job, run=f"seed {number}") for number, job in enumerate(jobs)]
    assert len(plan_scores(seeds, tmp_path, BOOK, seed=0)) == 2


def known_words(suite: Suite) -> Suite:
    """The suite in words that the embedded model knows."""
    folder = suite.questions.parent / "known"
    prompt = "bamp are"
    question = Question("q", "w0", "reversal", "reversal", prompt, ("femp", "blaff"), 0, "f", ("d0",))
    documents = [Document(f"d{i}", "bamp are also called femp .", "w0") for i in range(160)]
    write_folder(folder / "questions", Question, [question])
    write_folder(folder / "documents", Document, documents)
    return Suite("known", folder / "questions", folder / "documents")


def test_a_context_longer_than_the_window_is_left_out_and_a_sample_of_it_fits(tmp_path: Path) -> None:
    suite = known_words(make_suite(tmp_path, {"w0": 1}))
    specs = [NONE, ALL, ContextSpec("sample", 2), ContextSpec("sample", 16), REQUIRED]
    found = contexts_that_fit(suite, specs, MODEL, 256, BOOK)
    assert [bool(reason) for reason in found.values()] == [False, True, True, False, False]
    assert "window" in found[ALL]
    assert not any(contexts_that_fit(suite, specs, MODEL, None, BOOK).values())  # nothing is known, all is tried
    assert contexts_that_fit(suite, [ALL], MODEL, 1, BOOK)[ALL]  # not even tokenised


def test_nearest_documents_are_left_out_if_no_question_can_be_asked_with_them(tmp_path: Path) -> None:
    suite = known_words(make_suite(tmp_path, {"w0": 1}))
    specs = [ContextSpec("nearest", 1), ContextSpec("nearest", 100)]
    assert suite.documents
    rows = [Document(f"d{i}", f"bamp are also called femp {'also ' * i}.", "w0") for i in range(1, 160)]
    write_folder(suite.documents, Document, rows)
    found = contexts_that_fit(suite, specs, MODEL, 256, BOOK, out=tmp_path / "out")
    assert [bool(reason) for reason in found.values()] == [False, True] and "window" in found[specs[1]]
    assert not any(contexts_that_fit(suite, specs, MODEL, None, BOOK).values())
    other = make_suite(tmp_path / "other", {"w1": 2})
    with pytest.raises(InputError, match="w0"):
        contexts_that_fit(replace(suite, documents=other.documents), specs, MODEL, None, BOOK)


def test_required_documents_need_questions_that_name_some(tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "a", {"w0": 2})
    (shard,) = suite.questions.glob("*.arrow")
    write_folder(tmp_path / "questions", Question, [replace(q, requires=()) for q in read_shard(shard, Question)])
    bare = Suite("bare", tmp_path / "questions", suite.documents)
    assert contexts_that_fit(suite, [REQUIRED], MODEL, 2048, BOOK) == {REQUIRED: ""}
    assert contexts_that_fit(bare, [REQUIRED], MODEL, 2048, BOOK)[REQUIRED]


def test_a_context_needs_documents_of_the_questions_corpus(tmp_path: Path) -> None:
    suite, other = make_suite(tmp_path / "a", {"w0": 2}), make_suite(tmp_path / "b", {"w1": 2})
    for documents, shown in ((other.documents, "w0"), (None, "documents")):
        with pytest.raises(InputError) as caught:
            contexts_that_fit(replace(suite, documents=documents), [ALL], MODEL, None, BOOK)
        assert shown in caught.value.what
    assert contexts_that_fit(replace(suite, documents=None), [NONE], MODEL, 10, BOOK) == {NONE: ""}


def test_suites_are_folders_or_files(tmp_path: Path) -> None:
    made = make_suite(tmp_path / "made", {"w0": 2, "w1": 1})
    assert open_suite(tmp_path / "made", tmp_path / "out") == replace(made, name="made")
    assert suite_corpora(made) == ["w0", "w1"]
    assert open_suite(made.questions, tmp_path / "out", made.documents) == replace(made, name="questions")
    line = {"prompt": "glon are", "options": ["femp", "troff"], "answer": "troff", "split": "reversal"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(line))
    mine = open_suite(tmp_path / "mine.jsonl", tmp_path / "out")
    assert mine == open_suite(tmp_path / "mine.jsonl", tmp_path / "out") and mine.name == "mine"
    assert suite_corpora(mine) == ["corpus"]
    (tmp_path / "mine.jsonl").write_text(json.dumps(line | {"answer": "femp"}))
    assert open_suite(tmp_path / "mine.jsonl", tmp_path / "out").questions != mine.questions


def test_what_is_no_suite_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "half" / "questions").mkdir(parents=True)
    write_shard(tmp_path / "half" / "questions" / "part-00000.arrow", Question, [])
    for name in ("folder.jsonl", "half", "nowhere"):
        with pytest.raises(InputError) as caught:
            open_suite(tmp_path / name, tmp_path / "out")
        assert name in caught.value.where
