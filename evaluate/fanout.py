"""The evaluation stage: score items as shards, spread over the pool's engines by checkpoint.

Reads `documents/` and `questions/`. Writes `items/` (for each world, with and without its documents) and
`scores/FINGERPRINT/`: results are keyed by the weights' content, never by a path, so nothing is scored twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoTokenizer

from augment_service.engines.protocol import EngineSpec, model_window
from augment_service.tokens import TextReader, Tokenizer
from cluster.pool import Unit
from data.errors import InputError
from data.records import CheckpointRef, Document, Question, Refusal, Score, ScoreItem
from data.rendering import PromptBook
from data.seeds import fingerprint
from data.store import ROWS_PER_SHARD, read_folder, read_refusals, read_shard, write_shard
from evaluate.items import ICL, Condition, build_items, to_outcomes
from evaluate.statistics import Outcome


@dataclass(frozen=True)
class Suite:
    """A made set, read into memory: the documents and questions of each world."""

    name: str
    documents: dict[str, list[Document]]
    questions: dict[str, list[Question]]


@dataclass(frozen=True)
class Job:
    """One world under one condition, answered by one set of weights (`ref` None: the base model `base`)."""

    suite: str
    corpus: str
    condition: Condition
    ref: CheckpointRef | None
    weights: str


@dataclass(frozen=True)
class Scored:
    """All outcomes, the option chosen by (condition, question id), and the questions that have no answer."""

    outcomes: list[Outcome] = field(default_factory=list)
    chosen: dict[tuple[str, str], int] = field(default_factory=dict)
    refusals: list[tuple[str, Refusal]] = field(default_factory=list)  # with the condition's name


def read_suite(name: str, folder: Path) -> Suite:
    """Read a set from its `documents/` and `questions/`."""
    suite = Suite(name, {}, {})
    for document in read_folder(folder / "documents", Document):
        suite.documents.setdefault(document.corpus, []).append(document)
    for question in read_folder(folder / "questions", Question):
        suite.questions.setdefault(question.corpus, []).append(question)
    return suite


def score_paths(out: Path, job: Job, suite: Suite) -> list[Path]:
    """Where the scores of a job rest: one shard for every few hundred questions."""
    return [out / "scores" / job.weights / name for name in _shard_names(job, suite)]


def unscored(jobs: Sequence[Job], suites: Sequence[Suite], out: Path) -> list[Job]:
    """The jobs of which some shard is not there yet."""
    by_name = {suite.name: suite for suite in suites}
    return [job for job in jobs if not all(path.exists() for path in score_paths(out, job, by_name[job.suite]))]


def check_contexts(suites: Sequence[Suite], model: str, book: PromptBook) -> None:
    """Raise InputError if the documents of some world and a question about them are too long for the model's window.

    A look at one question of each world: a study of hours should not learn at its end that the model cannot read it.
    """
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(model)
    reader = TextReader(tokenizer, window=model_window(EngineSpec("vllm", model)))
    for suite in suites:
        for world, questions in suite.questions.items():
            (answer,) = reader.items(build_items(questions[:1], suite.documents[world], ICL, book))
            if isinstance(answer, Refusal):
                raise InputError(answer.what, where=f"the documents of {world} in context", hint=answer.hint)


def plan_units(jobs: Sequence[Job], suites: Sequence[Suite], out: Path, book: PromptBook) -> list[Unit]:
    """What is not scored yet, as units; those of one checkpoint prefer one engine, which loads it once."""
    by_name = {suite.name: suite for suite in suites}
    return [unit for job in jobs for unit in _units(job, by_name[job.suite], out, book)]


def collect_outcomes(jobs: Sequence[Job], suites: Sequence[Suite], out: Path) -> Scored:
    """What the scores of all jobs say. Raises InputError where a condition has no answer to any question of a set."""
    by_name = {suite.name: suite for suite in suites}
    found = Scored()
    answered: dict[tuple[str, str], int] = {}
    for job in jobs:
        suite = by_name[job.suite]
        paths = score_paths(out, job, suite)
        scores = [score for path in paths for score in read_shard(path, Score)]
        found.refusals.extend((job.condition.name, refusal) for path in paths for refusal in read_refusals(path))
        key = job.suite, job.condition.name
        answered[key] = answered.get(key, 0) + len(scores)
        for outcome, option in to_outcomes(job.suite, job.condition.name, suite.questions[job.corpus], scores):
            found.outcomes.append(outcome)
            found.chosen[job.condition.name, outcome.question_id] = option
    for (suite_name, condition), count in answered.items():
        if not count:
            refusal = next(refusal for name, refusal in found.refusals if name == condition)
            where = f"{suite_name}, condition {condition}, question {refusal.item_id}; the others alike"
            raise InputError(refusal.what, where=where, hint=refusal.hint)
    return found


def _units(job: Job, suite: Suite, out: Path, book: PromptBook) -> list[Unit]:
    """What is left to do of a job; its items are written if no checkpoint was asked them before."""
    targets = score_paths(out, job, suite)
    sources = [out / "items" / target.name for target in targets]
    if not all(source.exists() for source in sources):
        items = build_items(suite.questions[job.corpus], suite.documents[job.corpus], job.condition, book)
        for number, source in enumerate(sources):
            write_shard(source, ScoreItem, items[number * ROWS_PER_SHARD : (number + 1) * ROWS_PER_SHARD])
    count = len(suite.questions[job.corpus])
    units = []
    for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
        name = f"{job.corpus} {job.condition.name}" + (f" {number + 1}/{len(targets)}" if len(targets) > 1 else "")
        rows = min(ROWS_PER_SHARD, count - number * ROWS_PER_SHARD)
        args = (str(source), str(target), name, job.ref)
        units.append(Unit(name, "score_shard", args, affinity=job.weights, num_rows=rows))
    return [unit for unit, target in zip(units, targets, strict=True) if not target.exists()]


def _shard_names(job: Job, suite: Suite) -> list[str]:
    """The same for every checkpoint that is asked the same way."""
    context = "with" if job.condition.documents_in_context else "without"
    count = -(-len(suite.questions[job.corpus]) // ROWS_PER_SHARD)
    return [f"{fingerprint(job.corpus)}-{context}-{number:05d}.arrow" for number in range(count)]
