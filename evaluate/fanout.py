"""The evaluation stage: score items as shards, spread over the pool's engines by checkpoint.

Reads `documents/` and `questions/`. Writes `items/` (a shard for each world, with and without its documents) and
`scores/FINGERPRINT/`: results are keyed by the weights' content, never by a path, so nothing is scored twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.pool import ActorPool, Unit
from data.records import CheckpointRef, Document, Question, Score, ScoreItem, ShardReceipt
from data.rendering import PromptBook
from data.seeds import fingerprint
from data.store import read_folder, read_shard, write_shard
from evaluate.items import Condition, build_items, to_outcomes
from evaluate.statistics import Outcome


@dataclass(frozen=True)
class Job:
    """One world under one condition, answered by one set of weights (`ref` None: the base model `base`)."""

    suite: str
    world: str
    condition: Condition
    ref: CheckpointRef | None
    weights: str

    def item_name(self) -> str:
        """The shard of items: the same for every checkpoint that is asked the same way."""
        context = "with" if self.condition.documents_in_context else "without"
        return f"{fingerprint(self.world)}-{context}.arrow"


@dataclass(frozen=True)
class Suite:
    """A made set, read into memory: the documents and questions of each world."""

    name: str
    documents: dict[str, list[Document]]
    questions: dict[str, list[Question]]


def read_suite(name: str, folder: Path) -> Suite:
    """Read a set from its `documents/` and `questions/`."""
    suite = Suite(name, {}, {})
    for document in read_folder(folder / "documents", Document):
        suite.documents.setdefault(document.world, []).append(document)
    for question in read_folder(folder / "questions", Question):
        suite.questions.setdefault(question.world, []).append(question)
    return suite


def score_path(out: Path, job: Job) -> Path:
    """Where the scores of a job rest."""
    return out / "scores" / job.weights / job.item_name()


def score_jobs(
    jobs: Sequence[Job],
    suites: Sequence[Suite],
    out: Path,
    book: PromptBook,
    *,
    pool: ActorPool,
    on_receipt: Callable[[ShardReceipt], None],
) -> None:
    """Score what is not scored yet; jobs of one checkpoint go to one engine, which loads it once."""
    by_name = {suite.name: suite for suite in suites}
    units = []
    for job in jobs:
        target = score_path(out, job)
        if target.exists():
            continue
        source = out / "items" / job.item_name()
        if not source.exists():
            suite = by_name[job.suite]
            items = build_items(suite.questions[job.world], suite.documents[job.world], job.condition, book)
            write_shard(source, ScoreItem, items)
        name = f"{job.world} {job.condition.name}"
        units.append(Unit(name, "score_shard", (str(source), str(target), name, job.ref), affinity=job.weights))
    pool.run(units, on_receipt)


def collect_outcomes(
    jobs: Sequence[Job], suites: Sequence[Suite], out: Path
) -> tuple[list[Outcome], dict[tuple[str, str], int]]:
    """All outcomes, and the option chosen by (condition, question id)."""
    by_name = {suite.name: suite for suite in suites}
    outcomes: list[Outcome] = []
    chosen: dict[tuple[str, str], int] = {}
    for job in jobs:
        scores = read_shard(score_path(out, job), Score)
        questions = by_name[job.suite].questions[job.world]
        for outcome, option in to_outcomes(job.suite, job.condition.name, questions, scores):
            outcomes.append(outcome)
            chosen[job.condition.name, outcome.question_id] = option
    return outcomes, chosen
