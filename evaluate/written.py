"""Written answers: what models answer by themselves, greedily, and whether that begins with the right option.

Reads suites. Writes a sample of each one's questions, and shards of answers in `written/WEIGHTS/`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from pathlib import Path
from typing import Any, ClassVar

from augment_service.chat import AnswerFrame
from augment_service.engines.protocol import Engine
from cluster.pool import Unit
from data.facts import words_of
from data.records import Generation, Prompt, Question, ScoreItem
from data.rendering import PromptBook
from data.seeds import derive_seed, fingerprint
from data.store import content_of, is_sealed, read_folder, read_shard, write_folder
from evaluate.fanout import ScoreJob, ScoreTask, Suite, questions_of, score_item, shard_jobs
from evaluate.statistics import Outcome

FOLDER, QUESTIONS = "written", "questions"
MAX_TOKENS = 1024
VERSION = 3  # raise it when the same question would be asked otherwise
_NUM_SHOWN = 200  # answers kept for the report, per condition and split


@dataclass(frozen=True)
class WrittenTask(ScoreTask):
    """Questions to written answers, in the actor: greedy."""

    answered: ClassVar[type] = Generation
    label: ClassVar[str] = FOLDER
    key: ClassVar[tuple[object, ...]] = (VERSION,)

    def _ask(self, engine: Engine, items: Sequence[ScoreItem], on_answer: Any) -> None:
        engine.generate([_prompt(item) for item in items], on_answer)


@dataclass(frozen=True)
class Written:
    """Outcomes of written answers, and some of the texts by suite, condition and question."""

    outcomes: list[Outcome] = field(default_factory=list)
    texts: dict[tuple[str, str, str], str] = field(default_factory=dict)


def sample_jobs(jobs: Sequence[ScoreJob], count: int, out: Path, *, seed: int) -> list[ScoreJob]:
    """The same jobs with at most `count` questions of each split: those with the least hashes, in their order."""
    suites = {suite: _sample(suite, count, out, seed) for suite in {job.suite for job in jobs}} if count else {}
    return [replace(job, suite=suites[job.suite]) for job in jobs if job.suite in suites]


def plan_written(jobs: Sequence[ScoreJob], out: Path, book: PromptBook, *, seed: int) -> list[Unit]:
    """What is not answered yet, of `sample_jobs`, as units."""
    return [unit for sharded in _shard(jobs, out, book, seed) for unit in sharded.units()]


def collect_written(jobs: Sequence[ScoreJob], out: Path, book: PromptBook, *, seed: int) -> Written:
    """The outcomes of all answers that are there: right if they begin with a right option."""
    written = Written()
    shown: dict[tuple[str, str, str], int] = defaultdict(int)
    for job, sharded in zip(jobs, _shard(jobs, out, book, seed), strict=True):
        for rows, target in zip(sharded.ranges, sharded.targets, strict=True):
            answers = {answer.prompt_id: first_line(answer.text) for answer in read_shard(target, Generation)}
            for question in questions_of(rows.shard)[rows.start : rows.stop]:
                text = answers.get(question.question_id)
                if text is None:  # refused
                    continue
                written.outcomes.append(_outcome(job, question, text))
                place = job.suite.name, job.condition.name, question.split
                if shown[place] < _NUM_SHOWN:
                    shown[place] += 1
                    written.texts[job.suite.name, job.condition.name, question.question_id] = text
    return written


def first_line(text: str) -> str:
    """The answer in what was written: the first line with text, for some models begin a new one."""
    return text.strip().partition("\n")[0].rstrip()


def begins_with(text: str, option: str) -> bool:
    """Whether a text begins with an option, without regard to case, width, quotes and marks."""
    wanted, found = words_of(option), words_of(text)
    if found[: len(wanted)] == wanted:
        return bool(wanted)
    # Scripts without spaces have no words: there the characters are compared.
    joined = "".join(wanted)
    return not joined.isascii() and "".join(found).startswith(joined)


def _outcome(job: ScoreJob, question: Question, text: str) -> Outcome:
    options = [question.options[index] for index in (question.answer, *question.also_right)]
    right = float(any(begins_with(text, option) for option in options))
    return Outcome(
        suite=job.suite.name,
        corpus=question.corpus,
        split=question.split,
        condition=job.condition.name,
        question_id=question.question_id,
        fact_id=question.fact_id,
        inference=question.inference,
        correct=right,
        chance=0.0,
        lenient=right,
        lenient_chance=0.0,
        run=job.run,
    )


def _shard(jobs: Sequence[ScoreJob], out: Path, book: PromptBook, seed: int) -> Iterator[Any]:
    return shard_jobs(jobs, out, book, seed, task=WrittenTask, folder=FOLDER)


def prompt_of(question: Question, frame: AnswerFrame) -> Prompt:
    """What is asked of a question without documents."""
    return _prompt(score_item(question, "", frame))


def _prompt(item: ScoreItem) -> Prompt:
    longest = max(len(option.encode()) for option in item.continuations)
    tokens = min(MAX_TOKENS, 8 + longest)  # an option has at most a token for each of its bytes
    return Prompt(
        item.item_id, FOLDER, "", item.context, item.prompt, tokens, 0.0, 0, "", before=item.before, after=item.after
    )


def _sample(suite: Suite, count: int, out: Path, seed: int) -> Suite:
    folder = out / FOLDER / QUESTIONS / fingerprint(content_of(suite.questions), count, seed)
    if not is_sealed(folder):
        ranks: Mapping[str, list[tuple[int, str]]] = defaultdict(list)
        for row in read_folder(suite.questions, Question):
            best = ranks[row.split]
            best.append((derive_seed(seed, FOLDER, row.question_id), row.question_id))
            if len(best) > 2 * count:
                best[:] = nsmallest(count, best)
        chosen = {name for best in ranks.values() for _, name in nsmallest(count, best)}
        rows = [row for row in read_folder(suite.questions, Question) if row.question_id in chosen]
        write_folder(folder, Question, rows)
    return replace(suite, questions=folder)
