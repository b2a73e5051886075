"""Questions from documents: facts and their parts, writers, wrong options, checks by likelihood, and the command."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from augment_service.engines.fake import FakeEngine
from augment_service.engines.protocol import Answers, EngineSpec, OnAnswer
from augment_service.jobs import ShardedJob
from augment_service.questions.answers import (
    DATE,
    NAME,
    NUMBER,
    Frequencies,
    Span,
    are_equal,
    kind_of,
    spans_of,
    value_of,
)
from augment_service.questions.checks import (
    ALONE,
    DUPLICATE,
    NOT_WITH_SOURCE,
    REFUSED,
    CheckTask,
    judge,
    split_of,
    without_duplicates,
)
from augment_service.questions.cloze import cloze, reversal, turned_by_rule
from augment_service.questions.distractors import FEW, Pool, made_numbers, with_options
from augment_service.questions.drafts import Draft, Margins
from augment_service.questions.job import (
    DROPPED,
    FACTS,
    LISTING,
    QUESTIONS,
    QuestionPlan,
    check_job,
    choose_options,
    collect_drafts,
    find_candidates,
    judge_drafts,
    part_facts,
    prior_job,
    seal_questions,
    write_drafts,
    writing_jobs,
)
from augment_service.questions.written import (
    NAMES_ANSWER,
    NO_EVIDENCE,
    NOT_IN_EVIDENCE,
    ONE_DOCUMENT,
    find_sentence,
    parse_asked,
)
from augment_service.worker import EngineWorker
from data.errors import InputError
from data.facts import (
    DEV,
    TEST,
    TRAIN,
    Fact,
    QuestionFinder,
    Shares,
    facts_of,
    fold,
    most_held_out,
    original_of,
    sections_of,
)
from data.records import Document, Generation, Prompt, Question, Score, ScoreItem
from data.rendering import ENGLISH, ENGLISH_CHAT, NONSENSE, load_book
from data.store import read_folder, write_folder
from data.suites import read_suite_file
from evaluate.fanout import open_suite
from pipeline.cli import main
from pipeline.sections import Cluster, Engine
from pipeline.stages.questions import _related
from pipeline.stages.resources import Setting
from pipeline.workspace import Workspace

BOOK = load_book(None, ENGLISH)
SHARES = Shares(0.5, 0.1, 0)
TOWN = Path(__file__).with_name("sample_town")
PLAN = QuestionPlan(("cloze", "reversal"), SHARES)
MILL = Document(
    "d1",
    "# Hallam\n\nHallam lies on the Tarn. Ada Pell has been the mayor of Hallam since 12 March 1998.\n\n"
    "## The mill\n\nIts wheel is driven by the river Orme. It has 1,200 teeth. Ada Pell is the daughter of Jonas Frey.",
    "c",
    "",
    "en",
)


def counted(*documents: Document) -> Frequencies:
    frequencies = Frequencies()
    for document in documents:
        frequencies.add(document.text)
    return frequencies


def a_fact(sentence: str, heading: str = "", part: str = TEST) -> Fact:
    return Fact("f", "c", "d1", sentence, 0, part, heading)


def a_draft(answer: str = "Orme", prompt: str = "Its wheel is driven by the river", **changes: Any) -> Draft:
    span = Span(0, 1, answer, *kind_of(answer))
    draft = Draft("q", "c", "cloze", TEST, "f", ("d1",), "", "", prompt, " ", answer, span.kind, span.classes)
    return replace(draft, **changes)


# ---- facts


@given(st.text(max_size=80), st.integers(0, 5))
def test_a_sentence_has_one_part_however_it_is_written(sentence: str, seed: int) -> None:
    shares = Shares(0.5, 0.1, seed)
    assert shares.part_of(sentence) == shares.part_of(f"  “{sentence}”. ") == shares.part_of(fold(sentence))


def test_parts_have_their_shares_and_other_seeds_have_other_parts() -> None:
    sentences = [f"Sentence {number} is here." for number in range(2000)]
    parts = [SHARES.part_of(sentence) for sentence in sentences]
    assert 0.45 < parts.count(TEST) / 2000 < 0.55 and 0.07 < parts.count(DEV) / 2000 < 0.13
    assert parts != [Shares(0.5, 0.1, 1).part_of(sentence) for sentence in sentences]
    assert {Shares(1, 0, 0).part_of(one) for one in sentences} == {TEST}


def test_facts_know_the_headings_above_them_and_keep_their_part_in_a_wider_corpus() -> None:
    facts = list(facts_of(MILL, SHARES))
    assert [fact.heading for fact in facts] == ["Hallam", "Hallam", *3 * ["Hallam > The mill"]]
    assert [fact.place for fact in facts] == [0, 1, 2, 3, 4]
    wider = replace(MILL, doc_id="d2", text=f"Something else stands here. {facts[2].sentence}")
    (again,) = [fact for fact in facts_of(wider, SHARES) if fact.fact_id == facts[2].fact_id]
    assert again.part == facts[2].part


def test_a_heading_that_is_the_title_is_named_once() -> None:
    document = replace(MILL, heading="Hallam")
    assert [heading for heading, _ in sections_of(document)] == ["Hallam", "Hallam > The mill"]


def test_bundles_stay_in_the_most_held_out_part() -> None:
    assert most_held_out([TRAIN, TEST, DEV]) == TEST and most_held_out([TRAIN, DEV]) == DEV
    assert original_of("abc/12") == "abc" and original_of("abc") == "abc" and original_of("a/b") == "a/b"


def test_questions_are_found_in_prompts_and_documents_are_none() -> None:
    asked = Question(
        "q1", "c", TEST, "qa", "Question: Who is the mayor of Hallam today?\nAnswer:", ("a", "b"), 0, "f", ()
    )
    ends = Question(
        "q2", "c", TEST, "cloze", "Hallam: Ada Pell has been the mayor of Hallam since", ("a", "b"), 0, "f", ()
    )
    prompts = [f"Text: {MILL.text}", 'Focus on: "who is the mayor of Hallam today"', "Something else"]
    assert list(map(QuestionFinder([asked, ends], [MILL.text]).find, prompts)) == [set(), {"q1"}, set()]
    assert list(map(QuestionFinder([asked, ends]).find, prompts)) == [{"q2"}, {"q1"}, set()]
    assert QuestionFinder([]).find(prompts[1]) == set()


# ---- answers


@pytest.mark.parametrize(
    ("sentence", "text", "kind"),
    [
        ("It was opened on 12 March 1998.", "12 March 1998", DATE),
        ("It was opened on March 12, 1998.", "March 12, 1998", DATE),
        ("Es wurde am 12. März 1998 eröffnet.", "12. März 1998", DATE),
        ("El 3 de mayo de 1998 abrió.", "3 de mayo de 1998", DATE),
        ("They met on 1998-03-12 there.", "1998-03-12", DATE),
        ("橋は1958年3月に建てられた。", "1958年3月", DATE),
        ("It has 1,200 teeth.", "1,200", NUMBER),
        ("Der Turm ist 46,5 Meter hoch.", "46,5", NUMBER),
        ("It was built in 1874 by her.", "1874", NUMBER),
        ("Then Ada Pell-Frey came.", "Ada Pell-Frey", NAME),
        ("彼は『夜の本』を書いた。", "夜の本", NAME),
    ],
)
def test_what_can_be_an_answer(sentence: str, text: str, kind: str) -> None:
    assert (text, kind) in [
        (span.text, span.kind) for span in spans_of(sentence, counted(replace(MILL, text=f"{MILL.text} And then?")))
    ]


def test_first_words_are_names_only_if_they_are_names_elsewhere() -> None:
    frequencies = counted(Document("d", "Visitors come to Hallam. Hallam is old. She met Ada.", "c"))
    assert [span.text for span in spans_of("Hallam grew.", frequencies) if span.kind == NAME] == ["Hallam"]
    for other in ("Visitors grew.", "She grew."):
        assert [span for span in spans_of(other, frequencies) if span.kind == NAME] == []


@given(st.text(max_size=60))
def test_spans_are_parts_of_the_sentence_that_do_not_overlap(sentence: str) -> None:
    spans = spans_of(sentence, Frequencies())
    assert all(sentence[span.start : span.stop] == span.text for span in spans)
    assert all(one.stop <= other.start for one, other in pairwise(spans))


def test_numbers_are_equal_by_value() -> None:
    assert are_equal("1,200", "1200") and are_equal("1.200", "1 200") and are_equal("The Mill", "the mill.")
    assert not are_equal("1,200", "12") and not are_equal("3.5", "35")
    assert value_of("3,5") == 3.5 and value_of("some") is None


@given(st.integers(1, 10**7), st.sampled_from(["{}", "{:,}"]), st.integers(0, 3))
def test_made_numbers_have_the_answers_format(value: int, shape: str, seed: int) -> None:
    answer = shape.format(value)
    for text in made_numbers(answer, seed, "q"):
        assert text != answer and len(text) == len(answer) and value_of(text) is not None
        assert [sign for sign in text if not sign.isdigit()] == [sign for sign in answer if not sign.isdigit()]


# ---- writers


def test_cloze_questions_end_before_the_answer_and_say_what_they_are_about() -> None:
    frequencies = counted(MILL, *(Document(f"o{n}", "the wheel and the river are driven by it", "c") for n in range(4)))
    drafts = [cloze(fact, "", frequencies) for fact in facts_of(MILL, SHARES)]
    assert [(draft.prompt, draft.answer) for draft in drafts if draft] == [
        ("Hallam lies on the", "Tarn"),
        ("Ada Pell has been the mayor of Hallam since", "12 March 1998"),
        ("Hallam > The mill: Its wheel is driven by the river", "Orme"),
        ("Hallam > The mill: It has", "1,200"),
        ("Hallam > The mill: Ada Pell is the daughter of", "Jonas Frey"),
    ]


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        ("Orme is where the Orme begins.", "Orme"),  # said before
        ("In 1874 it was built, and it was very nice, as they all say.", "1874"),  # early in the sentence
        ("It came to them from Tarn.", "Tarn"),  # nothing says what it is about
        ("Ada came here (with Jonas).", "Jonas"),  # an aside
        ("The feast of Ada is on 11 November.", "November"),  # a month after its day: the day is asked for
        ("Ada then went there with them.", "them"),  # a function word of a small corpus
    ],
)
def test_what_is_not_asked_for(sentence: str, wrong: str) -> None:
    draft = cloze(a_fact(sentence), "", counted(Document("d", f"The Orme, Ada, Jonas and Tarn. {sentence}", "c")))
    assert draft is None or draft.answer != wrong


def test_scripts_without_spaces_are_joined_without_one() -> None:
    draft = cloze(a_fact("東京の古い橋は1958年に建てられた。", "橋"), "", Frequencies())
    assert draft is not None and (draft.prompt, draft.answer, draft.joiner) == ("橋: 東京の古い橋は", "1958年", "")


def test_reversals_go_from_the_property_to_the_name() -> None:
    frequencies = counted(MILL)
    draft = turned_by_rule(a_fact("Ada Pell is the daughter of Jonas Frey."), "", "en", frequencies)
    assert draft is not None and (draft.prompt, draft.answer) == ("The daughter of Jonas Frey is", "Ada Pell")
    mill = turned_by_rule(a_fact("The Grey Mill is the last of five mills."), "", "en", counted(MILL))
    assert mill is not None and (mill.prompt, mill.answer) == ("The last of five mills is the", "Grey Mill")
    german = turned_by_rule(a_fact("Ada Pell ist die Tochter von Jonas Frey."), "", "de", frequencies)
    assert german is not None and german.prompt == "Die Tochter von Jonas Frey ist"
    assert turned_by_rule(a_fact("Ada Pell is a daughter of Jonas Frey."), "", "en", frequencies) is None
    assert turned_by_rule(a_fact("Ada Pell loves Jonas Frey."), "", "en", frequencies) is None
    subject = Span(0, 8, "Ada Pell", NAME, (NAME,))
    turned = reversal(a_fact("Ada Pell loves Jonas."), "", "Jonas Frey is loved by Ada Pell.", subject, None)
    assert turned is not None and turned.prompt == "Jonas Frey is loved by" and turned.writer == "reversal"
    for text in ("Ada Pell is loved by Ada Pell.", "Jonas Frey loves her.", "He is Ada Pell"):
        assert reversal(a_fact("x"), "", text, subject, None) is None


def test_asked_questions_are_read_with_their_evidence() -> None:
    text = (
        "Sure!\n**Question 1:** Who built it?\nAnswer: Jonas Frey.\n"
        "Evidence: It was built by Jonas Frey.\nHe was old.\n"
        'Q: And when?\nA: 1874\n\n3. Question: Where?\nAnswer: there\nEvidence: "It stands there."'
    )
    assert list(parse_asked(text)) == [
        ("Who built it?", "Jonas Frey", ("It was built by Jonas Frey.", "He was old.")),
        ("Where?", "there", ("It stands there.",)),
    ]


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    assert all(question and answer and evidence for question, answer, evidence in parse_asked(text))


def test_evidence_is_found_nearly_verbatim_or_not_at_all() -> None:
    sentences = ["The ferry has crossed the Arne since 1911.", "It carries twelve people and runs until dusk."]
    assert find_sentence("it carries twelve people", sentences) == 1
    assert find_sentence("The ferry crossed the Arne since 1911", sentences) == 0
    assert find_sentence("The mayor is Ada Pell.", sentences) is None
    assert find_sentence("", sentences) is None and find_sentence("x", []) is None


# ---- wrong options


def pool_of(*answers: str, **changes: Any) -> Pool:
    pool = Pool()
    for answer in answers:
        pool.add(a_draft(answer, **changes))
    return pool


def test_wrong_options_are_of_the_kind_and_not_also_right() -> None:
    draft = a_draft("Orme", source="Its wheel is driven by the river Orme. The Tarn is near.")
    pool = pool_of("Orme", "the orme", "Tarn", "Arne", "Tesk", "Carse", "1874", "River")
    assert set(pool.candidates(draft, 3, seed=0)) == {"Arne", "Tesk", "Carse"}


def test_what_is_said_of_the_same_thing_is_no_wrong_option() -> None:
    draft = a_draft("Tarn", "Hallam lies on the", anchors=("hallam", "tarn"))
    pool = pool_of("Tesk", anchors=("hallam", "tesk"))
    pool.add(a_draft("Arne", anchors=("castrel", "arne")))
    assert set(pool.candidates(draft, 1, seed=0)) == {"Arne"}


def test_options_are_near_in_prior_and_the_answer_has_no_place_of_its_own() -> None:
    priors = {f" {name}": -float(place) for place, name in enumerate("abcdefghijklmnopq")}
    ranks, places = [0] * 4, [0] * 4
    for number in range(400):
        draft = a_draft("i", draft_id=f"q{number}")
        done = with_options(draft, dict.fromkeys("abcdefghjklmnopq", 0.0), priors, 4, seed=0)
        assert done.options[done.right] == "i" and len(set(done.options)) == 4
        assert all(abs(priors[f" {one}"] + 8) <= 3 for one in done.options)
        ranks[sorted(done.priors, reverse=True).index(done.priors[done.right])] += 1
        places[done.right] += 1
    assert min(ranks) > 60 and min(places) > 60  # chance for the likeliest text, and for any place
    assert with_options(a_draft("i"), {"a": 0.0}, priors, 4, seed=0).reason == FEW


# ---- checks


def test_a_question_is_kept_for_its_margins_alone() -> None:
    draft = a_draft()
    for source, closed, alone in product((-1.0, 0.5, 2.0), (-1.0, 0.5, 1.0), (-1.0, 0.5, 2.0)):
        judged = judge(draft, Margins("q", source, closed, alone), 0.7)
        reason = NOT_WITH_SOURCE if source < 0.7 else ALONE if alone > 0.7 else ""
        assert judged.reason == reason
        assert reason or split_of(judged, 0.7) == ("known" if closed > 0.7 else TEST)
    assert judge(draft, None, 0.7).reason == REFUSED


def test_near_duplicates_and_ambiguous_questions_are_dropped() -> None:
    one = a_draft("Orme", "The wheel of the mill is driven by the river", draft_id="1")
    near = replace(one, draft_id="2", prompt="The wheel of the mill is driven by a river")
    other = replace(one, draft_id="3", prompt="The longest river of the county is the")
    both = a_draft("Tarn", "Two rivers meet: the Tesk and the", draft_id="4")
    again = replace(both, draft_id="5", answer="Arne")
    assert [draft.reason for draft in without_duplicates([one, near, other, both, again])] == [
        "", DUPLICATE, "", DUPLICATE, DUPLICATE,
    ]  # fmt: skip


# ---- the job


class Reader(FakeEngine):
    """Prefers what stands in the context; of the rest it knows what `known` holds. Turns sentences around."""

    known = ""

    def generate(self, prompts: Sequence[Prompt], on_answer: OnAnswer = None) -> list[Any]:
        answers = Answers[Generation](prompts, on_answer)
        for at, prompt in enumerate(prompts):
            if "Ending with" in prompt.text:
                subject = prompt.text.rpartition("Ending with ")[2].rstrip(":")
                fact = prompt.text.splitlines()[0].removeprefix("Fact: ").replace(subject, "it")
                text = f"What is said by {fact.rstrip('.')} is said of {subject}."
            else:
                text = (
                    "Question: Which river drives it?\nAnswer: Orme\nEvidence: Its wheel is driven by the river Orme.\n"
                    "Question: Which one is the Tarn?\nAnswer: Tarn\nEvidence: Hallam lies on the Tarn.\n"
                    "Question: Who?\nAnswer: Nobody\nEvidence: Its wheel is driven by the river Orme.\n"
                    "Question: When?\nAnswer: now\nEvidence: This is said nowhere."
                )
            answers.add(at, Generation(prompt.prompt_id, text, "stop", 5))
        return answers.rows

    def score(self, items: Sequence[ScoreItem], on_answer: OnAnswer = None) -> list[Any]:
        answers = Answers[Score](items, on_answer)
        for at, item in enumerate(items):
            values = tuple(-1.0 if one in item.context or one in self.known else -5.0 for one in item.continuations)
            answers.add(at, Score(item.item_id, values, (1,) * len(values), (False,) * len(values)))
        return answers.rows


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> EngineWorker:
    monkeypatch.setattr("augment_service.worker.start_engine", lambda spec: Reader(spec))
    return EngineWorker(EngineSpec("fake", "m"))


def run(worker: EngineWorker, jobs: Sequence[ShardedJob | None]) -> int:
    units = [unit for job in jobs if job for unit in job.units()]
    for unit in units:
        args: Any = unit.args
        worker.run_unit(*args)
    return len(units)


def write(
    worker: EngineWorker, documents: Path, out: Path, plan: QuestionPlan = PLAN, **named: Any
) -> tuple[list[Draft], int]:
    counts, frequencies = part_facts(documents, out, plan.shares)
    written = write_drafts(documents, plan, frequencies)
    assert counts == written.num_facts
    jobs = writing_jobs(written, out, BOOK, plan, model="m", tokenizer="")
    num_units = run(worker, jobs)
    candidates = find_candidates(collect_drafts(written, jobs, frequencies), written, plan)
    priors = prior_job(candidates, out, BOOK, weights="w")
    num_units += run(worker, [priors])
    drafts = choose_options(candidates, priors, plan)
    checks = check_job(drafts, out, BOOK, plan, weights="w")
    num_units += run(worker, [checks])
    drafts = judge_drafts(drafts, checks, plan)
    seal_questions(drafts, out, plan.margin)
    return drafts, num_units


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("town")
    rows = [Document(path.stem, path.read_text(), "town", "", "en") for path in sorted(TOWN.glob("*.md"))]
    write_folder(folder, Document, rows)
    return folder


def test_questions_of_a_town_are_sound_and_resume(worker: EngineWorker, town: Path, tmp_path: Path) -> None:
    drafts, num_units = write(worker, town, tmp_path)
    kept = [draft for draft in drafts if not draft.reason]
    assert num_units > 2 and len(kept) > 40
    assert {draft.writer for draft in kept} == {"cloze", "reversal"}
    texts = {path.stem: path.read_text() for path in TOWN.glob("*.md")}
    facts = {fact.fact_id: fact for fact in read_folder(tmp_path / FACTS, Fact)}
    for draft in kept:
        (doc_id,) = draft.requires
        assert draft.answer in texts[doc_id] and facts[draft.fact_id].part == draft.part != TRAIN
        wrong = [option for at, option in enumerate(draft.options) if at != draft.right]
        assert not any(option in draft.source for option in wrong)
    again, more = write(worker, town, tmp_path)
    assert again == drafts and more == 0
    questions = list(read_folder(tmp_path / QUESTIONS, Question))
    assert [question.question_id for question in questions] == [draft.draft_id for draft in kept]
    listed = read_suite_file(tmp_path / LISTING)
    assert [(one.prompt, one.options, one.answer, one.split) for one in listed] == [
        (one.prompt, one.options, one.answer, one.split) for one in questions
    ]
    assert len(list(read_folder(tmp_path / DROPPED, Draft))) == len(drafts) - len(kept)


def test_a_wider_corpus_keeps_parts_and_most_options_come_from_it(
    worker: EngineWorker, town: Path, tmp_path: Path
) -> None:
    rows = [*read_folder(town, Document), Document("more", "The bridge of Lower Wick is 31 metres long.", "town")]
    write_folder(tmp_path / "more", Document, rows)
    parts = []
    for documents in (town, tmp_path / "more"):
        part_facts(documents, tmp_path / "out", SHARES)
        parts.append({fact.fact_id: fact.part for fact in read_folder(tmp_path / "out" / FACTS, Fact)})
    assert parts[0].items() <= parts[1].items() and len(parts[1]) > len(parts[0])


def test_what_the_model_knows_is_a_split_of_its_own(
    worker: EngineWorker, town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "known", "1889 Toll Bridge")
    drafts, _ = write(worker, town, tmp_path)
    found = {draft.answer: draft for draft in drafts if draft.answer in Reader.known}
    assert len(found) == 2 and {draft.reason for draft in found.values()} == {ALONE}
    assert not any(split_of(draft, 0.7) == "known" for draft in drafts if not draft.reason)


def test_what_only_the_question_tells_is_known(
    worker: EngineWorker, town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = CheckTask.items

    def with_knowledge(self: CheckTask, draft: Draft) -> Iterator[ScoreItem]:
        for item in alone(self, draft):
            knows = item.item_id.endswith("/closed") and draft.answer == "1889"
            yield replace(item, context="in 1889") if knows else item

    monkeypatch.setattr(CheckTask, "items", with_knowledge)
    drafts, _ = write(worker, town, tmp_path)
    assert [draft.answer for draft in drafts if not draft.reason and split_of(draft, 0.7) == "known"] == ["1889"]
    assert [one.split for one in read_folder(tmp_path / QUESTIONS, Question) if "1889" in one.options[one.answer]] == [
        "known"
    ]


def test_a_models_questions_rest_on_the_text(worker: EngineWorker, tmp_path: Path) -> None:
    write_folder(tmp_path / "docs", Document, [MILL])
    drafts, _ = write(
        worker, tmp_path / "docs", tmp_path / "out", replace(PLAN, writers=("qa",), shares=Shares(1, 0, 0))
    )
    reasons = {(draft.answer, draft.reason) for draft in drafts}
    assert reasons - {(answer, NO_EVIDENCE) for answer, _ in reasons} == {
        ("Orme", FEW), ("Tarn", NAMES_ANSWER), ("Nobody", NOT_IN_EVIDENCE),
    }  # fmt: skip
    assert ("now", NO_EVIDENCE) in reasons
    (orme,) = [draft for draft in drafts if draft.reason == FEW]
    assert orme.requires == ("d1",) and orme.prompt == "Question: Which river drives it?\nAnswer:"


def test_related_documents_are_asked_about_together(worker: EngineWorker, tmp_path: Path) -> None:
    other = Document("d2", "The Orme is 90 kilometres long.", "c")
    write_folder(tmp_path / "docs", Document, [MILL])
    plan = replace(PLAN, writers=("bundle",), shares=Shares(1, 0, 0))
    written = write_drafts(tmp_path / "docs", plan, counted(MILL), lambda _: [other])
    assert not written.passages["qa"] and len(written.passages["bundle"]) == 2  # the mill has two sections
    (both,) = [one for one in written.passages["bundle"] if "the river Orme" in one.text]
    assert "90 kilometres" in both.text and len(both.owners) == len(both.sentences) and set(both.owners) == {"d1", "d2"}
    (job,) = writing_jobs(written, tmp_path / "out", BOOK, plan, model="m", tokenizer="")
    task: Any = job.task
    assert both.text in task._prompt(both).context
    asked = "Question: How long is the river that drives the mill?\nAnswer: 90 kilometres\n"
    mill = next(sentence for sentence in both.sentences if "Orme" in sentence)
    answer = f"{asked}Evidence: {mill}\nEvidence: The Orme is 90 kilometres long."
    (draft,) = task._drafts(both, Generation("p", answer, "stop", 9))
    assert (draft.writer, draft.reason, draft.requires) == ("bundle", "", ("d2", "d1"))
    (draft,) = task._drafts(both, Generation("p", f"{asked}Evidence: The Orme is 90 kilometres long.", "stop", 9))
    assert draft.reason == ONE_DOCUMENT


def test_of_two_documents_the_second_is_rather_no_chunk_of_the_first(tmp_path: Path) -> None:
    texts = {
        "book#0": "The watermill of Tarn grinds rye for Ada Pell, the baker of Hallam.",
        "book#1": "The watermill of Tarn grinds rye for Ada Pell, and also oats.",
        "people": "Ada Pell was born in Kessin.",
    }
    ids = {name: name.replace("#", "/") for name in texts}
    write_folder(tmp_path / "docs", Document, [Document(ids[name], text, "c") for name, text in texts.items()])
    assert original_of(ids["book#0"]) == original_of(ids["book#1"]) != original_of("people")
    setting = Setting(Workspace(tmp_path), Console(file=StringIO()), Engine(kind="fake"), Cluster(), 0)
    related = _related(setting, tmp_path / "docs")
    assert [row.doc_id for row in related(Document(ids["book#0"], texts["book#0"], "c"))] == ["people"]


def test_chunks_of_one_document_share_its_bound(tmp_path: Path) -> None:
    texts = [f"The bridge of Tarn {number} was built in {1800 + number}." for number in range(40)]
    chunks = [Document(f"book/{number}", text, "c") for number, text in enumerate(texts)]
    write_folder(tmp_path / "docs", Document, chunks)
    plan = replace(PLAN, writers=("cloze",), shares=Shares(1, 0, 0), per_document=8)
    frequencies = counted(*chunks)
    assert len(write_drafts(tmp_path / "docs", plan, frequencies).drafts) == 8
    assert len(write_drafts(tmp_path / "docs", replace(plan, per_document=99), frequencies).drafts) == 40
    assert len(write_drafts(tmp_path / "docs", replace(plan, per_document=99, most=5), frequencies).drafts) == 5


def test_documents_without_sentences_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "docs", Document, [Document("d", "  ", "c")])
    with pytest.raises(InputError, match="no sentences"):
        part_facts(tmp_path / "docs", tmp_path / "out", SHARES)


@pytest.mark.parametrize("file", [ENGLISH, ENGLISH_CHAT, NONSENSE])
def test_books_ask_questions_but_never_train_them(file: Path) -> None:
    book = load_book(None, file)
    assert [one.method for one in book.asking("sentence")] == ["questions/turn"]
    assert not [one for one in book.select(["local"]) if one.method.startswith("questions")]
    with pytest.raises(InputError, match="questions"):
        book.select(["questions"])


# ---- the command


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no documents|no sentences|nothing"), ("It is so.", "no question could be written")],
)
def test_nothing_to_ask_is_one_clear_message(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text(text)
    words = ["--documents", str(tmp_path / "docs"), "--model", "models/tiny", "--engine", "fake"]
    assert main(["questions", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and re.search(message, error), error


def test_shares_that_are_too_large_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--documents", str(TOWN), "--model", "models/tiny", "--engine", "fake", "--out", str(tmp_path / "out")]
    assert main(["questions", *words, "--test-share", "0.9", "--dev-share", "0.2"]) == 2
    assert "one whole" in capsys.readouterr().err


def test_the_command_resumes_and_says_that_a_model_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--documents", str(TOWN), "--model", "models/tiny", "--engine", "fake", "--out", str(tmp_path / "out")]
    assert main(["questions", *words, "--writers", "cloze", "--margin", "1000"]) == 2
    assert re.search(r"right option for \d+ of \d+ questions, and never by 1000", capsys.readouterr().err)
    dropped = list(read_folder(tmp_path / "out" / DROPPED, Draft))
    assert dropped and {draft.reason for draft in dropped} == {NOT_WITH_SOURCE}

    def refuse(*_: object) -> None:
        raise AssertionError("all answers are there: no engine is needed")

    monkeypatch.setattr("pipeline.stages.resources.start_pool", refuse)
    assert main(["questions", *words, "--writers", "cloze", "--margin", "0"]) == 0
    suite = open_suite(tmp_path / "out", tmp_path)
    kept = list(read_folder(suite.questions, Question))
    assert kept and len(kept) < len(dropped) and "kept: test" in capsys.readouterr().out
