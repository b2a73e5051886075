"""The question writer's work, step by step: facts, drafts, options, checks, and the folders of the result.

Reads a sealed folder of documents twice, shard by shard; what is kept of it is bounded by the number of questions.
Writes `facts/`, `work/` (what engines are asked, and what they answered), `questions/`, `dropped/` and
`questions.jsonl`. Every step is found again by what it was asked.
"""

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count, groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from augment_service.augment import frame_of
from augment_service.jobs import ShardedJob, rewrite_folder, row_ranges
from augment_service.questions.answers import Frequencies, anchors_of, uses_of
from augment_service.questions.checks import CheckTask, PriorTask, judge, split_of, without_duplicates
from augment_service.questions.cloze import cloze, subject_of, turned_by_rule
from augment_service.questions.distractors import FEW, pools_of, with_options
from augment_service.questions.drafts import BUNDLE, CLOZE, QA, REVERSAL, Answer, Draft, Margins, Passage
from augment_service.questions.written import VERSION, WriteTask
from data.errors import InputError
from data.facts import TRAIN, Fact, Shares, facts_of, fold, original_of, sections_of
from data.records import Document, Question, Refusal, Score
from data.rendering import DOCUMENT, DOCUMENTS, SENTENCE, PromptBook
from data.seeds import fingerprint
from data.store import content_of, is_sealed, list_shards, read_folder, read_shard, schema_of, write_folder, write_text

FACTS, QUESTIONS, DROPPED, WORK, LISTING = "facts", "questions", "dropped", "work", "questions.jsonl"
ROWS_PER_UNIT = 64
PASSAGE = 1500  # characters of a document that stand around a fact
MOST_IN_POOL = 4096  # answers of which wrong options are taken
_PROBE = "\x00"
# What the templates of a writer are about; those of the writers without a model have none.
ASKED_WITH = {QA: DOCUMENT, BUNDLE: DOCUMENTS, REVERSAL: SENTENCE}
MOST_OF_OTHER = 12  # sentences of a related document
Related = Callable[[Document], Sequence[Document]]  # documents that share something with one


@dataclass(frozen=True)
class QuestionPlan:
    """What to write.

    `most` bounds the facts that each writer is asked about, `per_document` those of one document, whose chunks count
    together. `margin` is in nats; `shuffles` is the number of orders in which the options alone are listed.
    """

    writers: tuple[str, ...]
    shares: Shares
    options: int = 4
    most: int = 500
    per_document: int = 8
    margin: float = 0.7
    shuffles: int = 2
    temperature: float = 0.7


@dataclass
class Written:
    """What is written without a model: questions, what models are to be asked, and answers of other facts."""

    num_facts: Counter[str] = field(default_factory=Counter)
    drafts: list[Draft] = field(default_factory=list)
    others: list[Draft] = field(default_factory=list)
    uses: dict[str, set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set))
    passages: dict[str, list[Passage]] = field(default_factory=lambda: {QA: [], BUNDLE: [], REVERSAL: []})


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A fact with what stands around it."""

    fact: Fact
    sentences: tuple[str, ...]
    language: str
    document: Document


class _First:
    """The rows with the smallest keys, at most so many."""

    def __init__(self, most: int) -> None:
        self._most, self._heap, self._number = most, list[tuple[int, int, Any]](), count()

    def add(self, key: int, row: Any) -> None:
        entry = (-key, next(self._number), row)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def rows(self) -> list[Any]:
        """In the order in which they came."""
        return [row for _, _, row in sorted(self._heap, key=lambda entry: entry[1])]


def part_facts(documents: Path, out: Path, shares: Shares) -> tuple[Counter[str], Frequencies]:
    """Write `facts/`, and count words and the facts of each part. Raises InputError where there are none."""
    frequencies, counts = Frequencies(), Counter[str]()
    key = fingerprint("facts", content_of(documents), shares)
    with rewrite_folder(out / FACTS, Fact, key=key) as writer:
        for shard in list_shards(documents, Document):
            rows: list[Fact] = []
            for document in read_shard(shard, Document):
                frequencies.add(document.text)
                rows += facts_of(document, shares)
            counts.update(fact.part for fact in rows)
            if rows:
                writer.write(pa.Table.from_pylist([asdict(row) for row in rows], schema_of(Fact)))
            writer.end_if_full()
    if not frequencies.num_documents or not counts:
        what = "the documents have no sentences" if frequencies.num_documents else "there are no documents"
        raise InputError(what, where=str(documents), hint="name documents with text")
    return counts, frequencies


def write_drafts(
    documents: Path, plan: QuestionPlan, frequencies: Frequencies, related: Related | None = None
) -> Written:
    """What can be written without a model, and what models are to be asked about.

    Of too many facts those are taken whose hash is smallest, so that a widened corpus keeps most of them. The
    writer of bundles is asked about each document together with those of `related`.
    """
    chosen, others, written = _First(plan.most), _First(MOST_IN_POOL), Written()
    read = read_folder(documents, Document)
    for _, chunks in groupby(read, key=lambda document: (document.corpus, original_of(document.doc_id))):
        own = [one for document in chunks for one in _chosen(document, plan.shares)]
        written.num_facts.update(one.fact.part for one in own)
        asked = sorted(
            (one for one in own if one.fact.part != TRAIN), key=lambda one: plan.shares.rank(one.fact.sentence)
        )
        taken = {id(one) for one in asked[: plan.per_document]}
        for one in own:
            target = chosen if id(one) in taken else others
            target.add(plan.shares.rank(one.fact.sentence), one)
    for one in (*others.rows(), *chosen.rows()):
        written.uses[one.fact.corpus].update(uses_of(one.fact.sentence, frequencies))
    for one in others.rows():
        if draft := cloze(one.fact, _source(one), frequencies):
            written.others.append(draft)
    seen: set[str] = set()
    for one in chosen.rows():
        if one.fact.fact_id not in seen:  # a sentence that occurs twice is one fact
            seen.add(one.fact.fact_id)
            _write(one, plan, frequencies, written, related)
    return written


def _chosen(document: Document, shares: Shares) -> Iterator[_Chosen]:
    facts = facts_of(document, shares)
    for _, sentences in sections_of(document):
        kept = [sentence for sentence in sentences if fold(sentence)]
        for window in _windows(kept):
            for _ in window:
                yield _Chosen(next(facts), window, document.language, document)


def _windows(sentences: Sequence[str]) -> Iterator[tuple[str, ...]]:
    window: list[str] = []
    size = 0
    for sentence in sentences:
        if window and size + len(sentence) > PASSAGE:
            yield tuple(window)
            window, size = [], 0
        window.append(sentence)
        size += len(sentence) + 1
    if window:
        yield tuple(window)


def _source(one: _Chosen) -> str:
    text = " ".join(one.sentences)
    return f"{one.fact.heading}\n{text}" if one.fact.heading else text


def _write(
    one: _Chosen, plan: QuestionPlan, frequencies: Frequencies, written: Written, related: Related | None
) -> None:
    fact, source = one.fact, _source(one)
    draft = cloze(fact, source, frequencies)
    if draft:
        (written.drafts if CLOZE in plan.writers else written.others).append(draft)
    if REVERSAL in plan.writers:
        subject = subject_of(fact.sentence, frequencies)
        if turned := turned_by_rule(fact, source, one.language, frequencies):
            written.drafts.append(turned)
        elif subject:
            passage = _passage(one, REVERSAL, source, (fact.sentence,), (fact.doc_id,))
            passage = replace(passage, subject=subject.text, kind=subject.kind, classes=subject.classes)
            written.passages[REVERSAL].append(passage)
    owners = (fact.doc_id,) * len(one.sentences)
    if QA in plan.writers:
        _add(written, _passage(one, QA, " ".join(one.sentences), one.sentences, owners))
    for other in related(one.document) if related and BUNDLE in plan.writers else ():
        sections = sections_of(other)
        more = [sentence for _, sentences in sections for sentence in sentences if fold(sentence)][:MOST_OF_OTHER]
        text = "\n".join(filter(None, (other.heading, " ".join(more))))
        both = (*owners, *[other.doc_id] * len(more))
        _add(written, _passage(one, BUNDLE, f"{source}\n\n{text}", (*one.sentences, *more), both))


def _add(written: Written, passage: Passage) -> None:
    """Add a passage unless it is there: several facts have one."""
    rows = written.passages[passage.writer]
    if all(passage.passage_id != row.passage_id for row in rows):
        rows.append(passage)


def _passage(one: _Chosen, writer: str, text: str, sentences: Sequence[str], owners: Sequence[str]) -> Passage:
    fact = one.fact
    return Passage(
        fingerprint(writer, fact.corpus, fact.heading, text, *owners, *(sentences if writer == REVERSAL else ())),
        fact.corpus,
        writer,
        text,
        fact.heading,
        one.language,
        tuple(sentences),
        tuple(owners),
    )


def writing_jobs(
    written: Written, out: Path, book: PromptBook, plan: QuestionPlan, *, model: str, tokenizer: str
) -> list[ShardedJob]:
    """What models are asked to write, a job for each template. `tokenizer` is the model's folder, "" without one."""
    jobs = []
    for writer, placeholder in ASKED_WITH.items():
        rows = written.passages[writer]
        for template in book.asking(placeholder) if rows else ():
            task = WriteTask(
                template=template,
                check=book.check,
                nothing=book.nothing,
                shares=plan.shares,
                temperature=plan.temperature,
                seed=plan.shares.seed,
                model=model,
                frame=frame_of(template, book, tokenizer),
            )
            jobs.append(_job(f"write {writer}", task, _stored(out, Passage, rows), out, task.key))
    return jobs


def collect_drafts(written: Written, jobs: Sequence[ShardedJob], frequencies: Frequencies) -> list[Draft]:
    """All drafts of all writers, in a fixed order; those that repeat others are dropped."""
    drafts = list(written.drafts)
    for job in jobs:
        for target in job.targets:
            drafts += [
                replace(draft, anchors=anchors_of(draft.sentence, frequencies)) if not draft.anchors else draft
                for draft in read_shard(target, Draft)
            ]
    unique = {draft.draft_id: draft for draft in drafts}
    ordered = sorted(unique.values(), key=lambda draft: (draft.corpus, draft.requires))
    both = without_duplicates([*ordered, *written.others])
    return both[: len(ordered)]


@dataclass(frozen=True)
class Candidates:
    """Drafts with texts that could be their wrong options."""

    drafts: list[Draft]
    texts: dict[str, dict[str, float]]

    @property
    def answers(self) -> list[Answer]:
        """All texts whose priors are needed, each once, by corpus."""
        found: dict[tuple[str, str, str], None] = {}
        for draft in self.drafts:
            for text in (draft.answer, *self.texts[draft.draft_id]) if self.texts.get(draft.draft_id) else ():
                found[draft.corpus, draft.joiner, text] = None
        return [Answer(fingerprint(*one), one[0], one[2], one[1]) for one in sorted(found)]


def find_candidates(drafts: Sequence[Draft], written: Written, plan: QuestionPlan) -> Candidates:
    """For each draft that is not dropped, answers of other facts; dropped if there are too few."""
    # What a model has made up, or copied from the worked examples, is no answer of the corpus.
    pools = pools_of([*written.others, *(draft for draft in drafts if fold(draft.answer) in fold(draft.sentence))])
    for corpus, uses in written.uses.items():
        pools[corpus].note_uses(uses)
    texts: dict[str, dict[str, float]] = {}
    result = []
    for draft in drafts:
        if not draft.reason:
            found = pools[draft.corpus].candidates(draft, plan.options - 1, seed=plan.shares.seed)
            if len(found) < plan.options - 1:
                draft = replace(draft, reason=FEW)
            else:
                texts[draft.draft_id] = found
        result.append(draft)
    return Candidates(result, texts)


def prior_job(candidates: Candidates, out: Path, book: PromptBook, *, weights: str) -> ShardedJob | None:
    """The priors that are needed to choose options; `weights` is the scoring key. None where nothing is asked."""
    rows = candidates.answers
    key = fingerprint("priors", weights, book.check.neutral)
    return _job("priors", PriorTask(book.check), _stored(out, Answer, rows), out, key) if rows else None


def choose_options(candidates: Candidates, job: ShardedJob | None, plan: QuestionPlan) -> list[Draft]:
    """The drafts with options, those of likely and of unlikely answers alike."""
    names = {answer.answer_id: answer for answer in candidates.answers}
    priors: dict[str, dict[str, float]] = defaultdict(dict)
    for target in job.targets if job else ():
        for score in read_shard(target, Score):
            answer = names[score.item_id]
            priors[answer.corpus][answer.joiner + answer.text] = score.log_likelihoods[0]
    return [
        draft
        if draft.reason
        else with_options(
            draft, candidates.texts[draft.draft_id], priors[draft.corpus], plan.options, seed=plan.shares.seed
        )
        for draft in candidates.drafts
    ]


def check_job(
    drafts: Sequence[Draft], out: Path, book: PromptBook, plan: QuestionPlan, *, weights: str
) -> ShardedJob | None:
    """The checks of the drafts that have options; None where there are none."""
    before, _, after = book.in_context([_PROBE]).partition(_PROBE)
    task = CheckTask(book.check, (before, after), plan.shuffles, plan.shares.seed)
    rows = [draft for draft in drafts if not draft.reason]
    return _job("check", task, _stored(out, Draft, rows), out, fingerprint(task.key, weights)) if rows else None


def judge_drafts(drafts: Sequence[Draft], job: ShardedJob | None, plan: QuestionPlan) -> list[Draft]:
    """The drafts with margins and, where they are dropped, the reasons."""
    margins = {row.draft_id: row for target in (job.targets if job else ()) for row in read_shard(target, Margins)}
    return [draft if draft.reason else judge(draft, margins.get(draft.draft_id), plan.margin) for draft in drafts]


def seal_questions(drafts: Sequence[Draft], out: Path, least: float) -> None:
    """Write `questions/`, `dropped/` and the listing for people; `least` as in `split_of`."""
    kept = [draft for draft in drafts if not draft.reason]
    _rewrite(out / QUESTIONS, Question, [draft.question(split_of(draft, least)) for draft in kept])
    _rewrite(out / DROPPED, Draft, [draft for draft in drafts if draft.reason])
    write_text(out / LISTING, "".join(json.dumps(_listed(draft, least), ensure_ascii=False) + "\n" for draft in kept))


def _listed(draft: Draft, least: float) -> dict[str, object]:
    question = draft.question(split_of(draft, least))
    margins = {name: round(getattr(draft, name), 3) for name in ("source_margin", "closed_margin", "alone_margin")}
    return {
        "id": question.question_id,
        "split": question.split,
        "inference": question.inference,
        "prompt": question.prompt,
        "options": question.options,
        "answer": question.options[question.answer],
        "joiner": question.joiner,
        "corpus": question.corpus,
        "fact_id": question.fact_id,
        "requires": question.requires,
        "sentence": draft.sentence,
        **margins,
    }


def refusals_of(jobs: Iterable[ShardedJob | None]) -> list[Refusal]:
    """The requests that have no answer."""
    return [refusal for job in jobs if job for refusal in job.refusals()]


def _rewrite(folder: Path, record: type, rows: Sequence[Any]) -> None:
    with rewrite_folder(folder, record) as writer:
        writer.write(pa.Table.from_pylist([asdict(row) for row in rows], schema_of(record)))


def _stored(out: Path, record: type, rows: Iterable[Any]) -> Path:
    """A sealed folder of rows, named by their content."""
    ordered: list[Any] = sorted(rows, key=lambda row: str(row.corpus))
    folder = out / WORK / f"{record.__name__.lower()}s-{fingerprint(VERSION, *ordered)[:16]}"
    if not is_sealed(folder):
        write_folder(folder, record, ordered)
    return folder


def _job(name: str, task: Any, rows: Path, out: Path, key: str) -> ShardedJob:
    return ShardedJob(name, task, tuple(row_ranges(rows, rows_per_unit=ROWS_PER_UNIT)), out / WORK / "answers", key)
