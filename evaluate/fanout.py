"""The evaluation stage: questions x contexts x weights as units of work, spread over the pool's engines by checkpoint.

Reads sealed folders of documents and questions. Writes `contexts/` (each stored once, referred to by id) and
`scores/WEIGHTS/`: shards named by what decides a score: weights, questions and contexts by content, never a path.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple

import pyarrow.compute as pc

from augment_service.chat import NO_ANSWER_FRAME, AnswerFrame
from augment_service.contexts import ContextReader, ContextSpec, write_contexts
from augment_service.engines.protocol import Engine
from augment_service.jobs import OnRow, RowAnswer, ShardedJob, row_ranges
from augment_service.model_folder import load_tokenizer
from augment_service.related.build import VERSION as INDEX_VERSION
from augment_service.related.index import INDEX, Index, open_index
from augment_service.tokens import TextReader
from cluster.pool import Unit
from data.errors import InputError
from data.facts import DEV
from data.records import CheckpointRef, Document, Question, Refusal, Retrieval, Score, ScoreItem
from data.rendering import PromptBook
from data.seeds import fingerprint
from data.store import (
    MANIFEST,
    content_of,
    is_sealed,
    list_shards,
    read_manifest,
    read_refusals,
    read_shard,
    read_table,
    write_folder,
    write_shard,
)
from data.suites import read_suite_file
from evaluate.conditions import Condition
from evaluate.statistics import Normalize, Outcome, fit_exponent, judge

CONTEXTS, SCORES = "contexts", "scores"
ROWS_PER_UNIT = 512
_NUM_TRIED = 8  # questions per corpus that decide whether a context fits
_MAX_BYTES = 64  # of documents per token of the window; longer contexts are not tokenised to find out
_NUM_MISSED = 20  # wrong answers kept for the report, per condition and split
_NUM_CHOSEN = 2  # choices kept for the report's examples, per condition, corpus, split


@dataclass(frozen=True)
class Suite:
    """Questions and the documents that they are about: sealed folders, nothing in memory."""

    name: str
    questions: Path
    documents: Path | None = None


@dataclass(frozen=True)
class ScoreJob:
    """A suite (or one corpus of it; "" means all) under one condition, answered by one set of weights.

    `ref` None is the engine's base model. `weights` is the scoring key: a hash of weights, config.json, tokenizer and
    dtype. `run` labels the training seed or the draw ("seed 1", "draw 0"); `draw` selects the subset of `sample:k`.
    `frame` is the chat template around the questions, empty for plain text. With `prior` options are also scored
    without the question.
    """

    suite: Suite
    corpus: str
    condition: Condition
    ref: CheckpointRef | None
    weights: str
    run: str = ""
    draw: int = 0
    frame: AnswerFrame = NO_ANSWER_FRAME
    prior: bool = False

    @property
    def name(self) -> str:
        """What progress and errors call it."""
        return " ".join(filter(None, (self.suite.name, self.corpus, self.condition.name, self.run)))


class Refused(NamedTuple):
    """A question that has no answer under a condition; it is in no accuracy."""

    suite: str
    condition: str
    refusal: Refusal


# By suite and condition, and then by split: questions with the option that was chosen.
Missed = dict[tuple[str, str], dict[str, list[tuple[Question, int]]]]


@dataclass(frozen=True)
class Scored:
    """Outcomes of all jobs, some choices for the report's examples, refusals, and conditions without any answer.

    `chosen` maps (suite, condition, question id) to an option, for the first few questions of each split. `missed` has
    the first questions that checkpoints answered wrong without documents. `left_out`
    maps suite and condition to the reason. `exponent` is that of "fitted".
    """

    outcomes: list[Outcome] = field(default_factory=list)
    chosen: dict[tuple[str, str, str], int] = field(default_factory=dict)
    missed: Missed = field(default_factory=dict)
    refusals: list[Refused] = field(default_factory=list)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    exponent: float | None = None


@dataclass(frozen=True)
class ScoreTask:
    """Questions to scores, in the actor. `contexts` has a shard of contexts per corpus; empty: no documents precede.

    With several contexts in a shard, each question has that of the documents that it requires, or of those that were
    found for it, which are listed in the shard `retrieved`.
    """

    contexts: Mapping[str, str]
    required: bool = False
    frame: AnswerFrame = NO_ANSWER_FRAME
    retrieved: str = ""
    prior: bool = False

    asked: ClassVar[type] = Question
    answered: ClassVar[type] = Score
    label: ClassVar[str] = ""  # of its units, after the job's name
    key: ClassVar[tuple[object, ...]] = ()  # what decides the answers besides weights, questions, contexts and frame

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """One answer per question. A question that names no documents cannot be asked with the required ones."""
        asked: dict[int, ScoreItem] = {}
        for row, question in enumerate(rows):
            item = self._item(question)
            if isinstance(item, Refusal):
                on_row(row, RowAnswer.of(item))
            else:
                asked[row] = item
        places = list(asked)
        self._ask(engine, list(asked.values()), lambda at, answer: on_row(places[at], RowAnswer.of(answer)))

    def _ask(self, engine: Engine, items: Sequence[ScoreItem], on_answer: Any) -> None:
        engine.score(items, on_answer)

    def _item(self, question: Question) -> ScoreItem | Refusal:
        text = ""
        doc_ids: tuple[str, ...] = ()
        if self.required:
            doc_ids = question.requires
            if not doc_ids:
                hint = 'list the documents under "requires"'
                return Refusal(question.question_id, "empty", "the question names no documents", hint)
        elif self.retrieved:
            doc_ids = _retrieved(self.retrieved)[question.question_id]
            if not doc_ids:
                hint = "see that the question and the documents have the same corpus"
                return Refusal(question.question_id, "empty", "no document has a word of the question", hint)
        if self.contexts:
            reader = ContextReader(Path(self.contexts[question.corpus]))
            try:
                text = reader.text_for(doc_ids).text
            except KeyError:
                return Refusal(question.question_id, "empty", "a required document is missing", 'check "requires"')
        return score_item(question, text, self.frame, prior=self.prior)


def open_suite(path: Path, out: Path, documents: Path | None = None) -> Suite:
    """The suite at a path: a folder with `questions/` and perhaps `documents/`, a folder of questions, or a JSONL file.

    `documents` replaces the suite's own. A JSONL file is stored under `out`. Raises InputError for anything else, and
    for documents that are unfinished, or conversations.
    """
    if path.is_file():
        suite = suite_from_file(path, out)
    elif is_sealed(path / "questions"):
        name = read_manifest(path).get("set") if (path / MANIFEST).exists() else None
        own = path / "documents"
        suite = Suite(name or path.name, path / "questions", own if own.is_dir() else None)
    elif is_sealed(path) and read_manifest(path).get("record") == Question.__name__:
        suite = Suite(path.name, path)
    else:
        what = "no finished suite here" if path.exists() else "there is no such file or folder"
        raise InputError(what, where=str(path), hint="pass a folder that `data make` wrote, or a .jsonl file")
    suite = Suite(suite.name, suite.questions, documents) if documents else suite
    if suite.documents:
        list_shards(suite.documents, Document)
    return suite


def suite_from_file(path: Path, out: Path) -> Suite:
    """Store the questions of a JSONL file as a sealed folder under `out`, named by content."""
    questions = read_suite_file(path)
    folder = out / f"questions-{fingerprint(*questions)}"
    if not is_sealed(folder):
        write_folder(folder, Question, questions)
    return Suite(path.stem, folder)


def suite_corpora(suite: Suite) -> list[str]:
    """The corpora that the questions are about, sorted."""
    columns = (pc.unique(table.column("corpus")) for table in _tables(suite.questions))
    return sorted({corpus for column in columns for corpus in column.to_pylist()})


def contexts_that_fit(
    suite: Suite,
    contexts: Sequence[ContextSpec],
    model: str,
    window: int | None,
    book: PromptBook,
    *,
    seed: int = 0,
    draws: int = 1,
    frame: AnswerFrame = NO_ANSWER_FRAME,
    out: Path | None = None,
) -> dict[ContextSpec, str]:
    """For each context "" if the model can read it with a question, else the reason why it is left out.

    `window` is in tokens, None if unknown: nothing is left out then. With "required" documents each question has a
    context of its own, so only a suite without any is left out; with the "nearest" ones, too, of which some are tried.
    An index of the documents is written if one is needed, under `out` where it cannot be beside them. Raises InputError
    where a corpus has no documents.
    """
    found = dict.fromkeys(contexts, "")
    reader = TextReader(load_tokenizer(Path(model)), window=window) if window else None
    with TemporaryDirectory() as folder:
        for spec in (spec for spec in found if spec.kind != "none"):
            if spec.kind == "nearest":
                found[spec] = _why_not_nearest(suite, spec, out or Path(folder), book, reader, frame)
                continue
            num_bytes = sum(path.stat().st_size for path in list_shards(_documents_of(suite)))
            num_bytes //= max(1, len(suite_corpora(suite))) * (spec.k if spec.kind == "sample" else 1)
            if spec.kind != "required" and window and num_bytes > _MAX_BYTES * window:
                found[spec] = f"{num_bytes} bytes of documents do not fit into {window} tokens"
                continue
            for draw in range(draws if spec.kind == "sample" else 1):
                shards = _write_contexts(suite, spec, draw, Path(folder), book, seed).shards
                if spec.kind == "required":
                    named = any(read_table(path).num_rows for path in shards.values())
                    found[spec] = "" if named else "no question names the documents that it requires"
                elif reader and not found[spec]:
                    texts = {corpus: ContextReader(path).text_for().text for corpus, path in shards.items()}
                    reasons = (_reason(suite, corpus, text, reader, frame) for corpus, text in texts.items())
                    found[spec] = next(filter(None, reasons), "")
    return found


def _why_not_nearest(
    suite: Suite, spec: ContextSpec, out: Path, book: PromptBook, reader: TextReader | None, frame: AnswerFrame
) -> str:
    """Why no question can be asked with the most related documents, "" if some can."""
    documents = _documents_of(suite)
    index = open_index(documents, out / INDEX)
    reason = ""
    for corpus in suite_corpora(suite):
        if corpus not in index.corpora:
            hint = "choose a folder that has documents of that corpus"
            raise InputError(f'no documents of the corpus "{corpus}"', where=str(documents), hint=hint)
        tried = _first_questions(suite, corpus)
        found = index.search([question.prompt for question in tried], spec.k, corpus=corpus)
        texts = [book.in_context(index.documents.texts(sorted(rows))) for rows in found]
        items = [score_item(*one, frame) for one in zip(tried, texts, strict=True)]
        if reader and not reason:
            reason = _refused(corpus, items, reader)
    return reason


def plan_scores(jobs: Sequence[ScoreJob], out: Path, book: PromptBook, *, seed: int, retry: bool = False) -> list[Unit]:
    """What is not scored yet, as units; those of one checkpoint prefer one engine, which loads it once.

    With `retry`, what was refused for a reason that may pass is asked again. Raises InputError where two jobs would be
    one bar of the report.
    """
    places = Counter((job.suite.name, job.condition.name, job.corpus, job.run) for job in jobs)
    for (suite, condition, _, run), count in places.items():
        if count > 1:
            where = f"{suite}{', ' * bool(run)}{run}"
            raise InputError(f'{count} conditions are named "{condition}"', where=where, hint="rename all but one")
    planned = list(shard_jobs(jobs, out, book, seed))
    for sharded in planned if retry else ():
        sharded.retry()
    return [unit for sharded in planned for unit in sharded.units()]


def collect_outcomes(
    jobs: Sequence[ScoreJob], out: Path, book: PromptBook, *, seed: int, normalize: Normalize = "none"
) -> Scored:
    """The outcomes of all jobs, read shard by shard; arguments as for `plan_scores` and `judge`.

    A condition of which no question has an answer is left out if it has a context, else it is an InputError. The length
    is fitted on the questions of the split "dev", under all conditions together.
    """
    scored = Scored(exponent=_fit(jobs, out, book, seed) if normalize == "fitted" else None)
    answered: Counter[tuple[str, Condition]] = Counter()
    first: dict[tuple[str, Condition], Refusal] = {}
    shown: Counter[tuple[str, str, str, str]] = Counter()
    for job, sharded in zip(jobs, shard_jobs(jobs, out, book, seed), strict=True):
        place = job.suite.name, job.condition
        answered[place] += 0
        for rows, target in zip(sharded.ranges, sharded.targets, strict=True):
            scores = {score.item_id: score for score in read_shard(target, Score)}
            for refusal in read_refusals(target):
                scored.refusals.append(Refused(job.suite.name, job.condition.name, refusal))
                first.setdefault(place, refusal)
            answered[place] += len(scores)
            for question in questions_of(rows.shard)[rows.start : rows.stop]:
                if question.question_id not in scores:  # refused: counted as such, never as wrong
                    continue
                score = scores[question.question_id]
                outcome, option = judge(
                    job.suite.name, job.condition.name, job.run, question, score, normalize, scored.exponent or 0.0
                )
                scored.outcomes.append(outcome)
                if job.ref and job.condition.context.kind == "none" and not outcome.correct:
                    missed = scored.missed.setdefault((job.suite.name, job.condition.name), {})
                    found = missed.setdefault(question.split, [])
                    if len(found) < _NUM_MISSED and all(one != question for one, _ in found):  # several runs may
                        found.append((question, option))
                bar = job.suite.name, job.condition.name, question.corpus, question.split
                if shown[bar] < _NUM_CHOSEN:
                    shown[bar] += 1
                    scored.chosen[job.suite.name, job.condition.name, question.question_id] = option
    for (suite, condition), count in answered.items():
        if not count:
            refusal = first.get((suite, condition)) or Refusal("", "empty", "there are no questions", "check the suite")
            if condition.context.kind == "none":
                where = f"{suite}, condition {condition.name}, question {refusal.item_id or '-'} and all others"
                raise InputError(refusal.what, where=where, hint=refusal.hint)
            scored.left_out.setdefault(suite, {})[condition.name] = refusal.what
    return scored


def _fit(jobs: Sequence[ScoreJob], out: Path, book: PromptBook, seed: int) -> float:
    def answered() -> Iterator[tuple[Question, Score]]:
        for sharded in shard_jobs(jobs, out, book, seed):
            for rows, target in zip(sharded.ranges, sharded.targets, strict=True):
                scores = {score.item_id: score for score in read_shard(target, Score)}
                for question in questions_of(rows.shard)[rows.start : rows.stop]:
                    if question.split == DEV and question.question_id in scores:
                        yield question, scores[question.question_id]

    exponent = fit_exponent(answered())
    if exponent is None:
        what, hint = f'there are no questions of the split "{DEV}" to fit the length on', "use token, or byte"
        raise InputError(what, where="evaluate.normalize, flag --normalize", hint=hint)
    return exponent


def shard_jobs(
    jobs: Sequence[ScoreJob],
    out: Path,
    book: PromptBook,
    seed: int,
    *,
    task: type[ScoreTask] = ScoreTask,
    folder: str = SCORES,
) -> Iterator[ShardedJob]:
    """Each job as rows to answer, in `out/folder`. Contexts are written once for all jobs that share them."""
    corpora = {suite: suite_corpora(suite) for suite in {job.suite for job in jobs}}
    contexts: dict[tuple[Suite, ContextSpec, int], _Written] = {}
    for job in jobs:
        place = job.suite, job.condition.context, job.draw
        if place not in contexts:
            contexts[place] = _write_contexts(*place, out / CONTEXTS, book, seed)
        wanted, written = [job.corpus] if job.corpus else corpora[job.suite], contexts[place]
        shards = {corpus: str(path) for corpus, path in written.shards.items() if corpus in wanted}
        stems = [Path(shards[corpus]).stem for corpus in sorted(shards)]
        stems += [written.retrieved.stem] if written.retrieved else []
        retrieved = str(written.retrieved or "")
        yield ShardedJob(
            name=" ".join(filter(None, (job.name, task.label))),
            task=task(shards, job.condition.context.kind == "required", job.frame, retrieved, job.prior),
            ranges=tuple(row_ranges(job.suite.questions, rows_per_unit=ROWS_PER_UNIT, corpora=wanted)),
            out=out / folder / fingerprint(job.weights),
            key=fingerprint(
                job.weights,
                job.condition.context,
                *stems,
                *(job.frame if any(job.frame) else ()),
                *["prior"] * job.prior,
                *task.key,
            ),
            ref=job.ref,
            affinity=job.weights,
        )


class _Written(NamedTuple):
    """The shards of contexts by corpus, and for retrieved documents the shard that lists them."""

    shards: dict[str, Path]
    retrieved: Path | None = None


def _write_contexts(suite: Suite, spec: ContextSpec, draw: int, out: Path, book: PromptBook, seed: int) -> _Written:
    if spec.kind == "none":
        return _Written({})
    documents, corpora = _documents_of(suite), suite_corpora(suite)
    requires: dict[tuple[str, ...], None] = {}  # distinct, in their order
    retrieved = None
    if spec.kind == "required":
        for table in _tables(suite.questions):
            requires |= dict.fromkeys(tuple(doc_ids) for doc_ids in table.column("requires").to_pylist() if doc_ids)
    elif spec.kind == "nearest":
        retrieved = _retrieve(suite, documents, spec, out)
        requires = dict.fromkeys(row.doc_ids for row in read_shard(retrieved, Retrieval))
    shards = write_contexts(documents, corpora, spec, book.in_context, out, seed=seed, draw=draw, requires=requires)
    return _Written(shards, retrieved)


def _retrieve(suite: Suite, documents: Path, spec: ContextSpec, out: Path) -> Path:
    """A shard with the most related documents of each question, by its prompt; one that exists is not written again.

    The options do not count: a document that has the words of one would be found for the option's sake, and the context
    would tell which option the documents speak of, before the model has read them.
    """
    path = out / f"{fingerprint(INDEX_VERSION, content_of(documents), content_of(suite.questions), spec.k)}.found.arrow"
    if not path.exists():
        index = open_index(documents, out.parent / INDEX)
        write_shard(path, Retrieval, _retrievals(suite, index, spec.k))
    return path


def _retrievals(suite: Suite, index: Index, count: int) -> Iterator[Retrieval]:
    for table in _tables(suite.questions):
        columns = (table.column(name).to_pylist() for name in ("question_id", "prompt", "corpus"))
        for question_id, prompt, corpus in zip(*columns, strict=True):
            (rows,) = index.search([prompt], count, corpus=corpus)
            yield Retrieval(question_id, tuple(index.documents.ids(rows)))


def score_item(question: Question, context: str, frame: AnswerFrame, *, prior: bool = False) -> ScoreItem:
    """A question in its frame: there the option begins a turn, with no space between it and the prompt.

    With `prior` the options are also scored after the end of the prompt alone, see `_end_of`.
    """
    joiner = frame.joiner if any(frame) and question.joiner == " " else question.joiner
    return ScoreItem(
        question.question_id,
        context,
        question.prompt,
        question.options,
        unconditional=_end_of(question.prompt) if prior else "",
        joiner=joiner,
        before=frame.before,
        after=frame.after,
    )


def _end_of(prompt: str) -> str:
    """The last word of a prompt: "Answer:", where it ends so. Of a single word, as without spaces, the last character.

    The whole prompt would leave nothing of a likelihood when it is subtracted.
    """
    words = prompt.split()
    return words[-1] if len(words) > 1 else prompt.strip()[-1:]


def _reason(suite: Suite, corpus: str, text: str, reader: TextReader, frame: AnswerFrame) -> str:
    """Why a context cannot be read with any of a few questions about it, "" if it can."""
    return _refused(corpus, [score_item(one, text, frame) for one in _first_questions(suite, corpus)], reader)


def _first_questions(suite: Suite, corpus: str) -> list[Question]:
    (rows, *_) = row_ranges(suite.questions, rows_per_unit=_NUM_TRIED, corpora=[corpus])
    return questions_of(rows.shard)[rows.start : rows.stop]


def _refused(corpus: str, items: Sequence[ScoreItem], reader: TextReader) -> str:
    """Why none of some questions can be read, "" if one can."""
    refusals = [answer for answer in reader.items(items) if isinstance(answer, Refusal)]
    return f"the documents of {corpus} in context: {refusals[0].what}" if len(refusals) == len(items) else ""


def _documents_of(suite: Suite) -> Path:
    if suite.documents is None:
        raise InputError("no documents for the context", where="--documents", hint="pass the documents' folder")
    return suite.documents


def _tables(folder: Path) -> Iterator[Any]:
    return map(read_table, list_shards(folder))


@lru_cache(maxsize=4)  # the ranges of a shard, and the checkpoints that answered it, come one after the other
def questions_of(shard: str) -> list[Question]:
    """The questions of a shard."""
    return read_shard(Path(shard), Question)


@lru_cache(maxsize=4)
def _retrieved(shard: str) -> dict[str, tuple[str, ...]]:
    return {row.question_id: row.doc_ids for row in read_shard(Path(shard), Retrieval)}
