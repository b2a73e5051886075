"""General text: what a training made a model forget.

Measured are bits per byte that it needs for texts, before and after, and of a chat model whether it still ends its
answers by itself. Reads a sealed folder of documents, or of conversations. Writes `general/` (the texts that are
scored, once), and shards of scores and of answers beside those of questions.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from augment_service.chat import NO_FRAME, Frame
from augment_service.engines.protocol import Engine
from augment_service.jobs import OnRow, RowAnswer, ShardedJob, row_ranges
from cluster.pool import Unit
from data.conversations import read_messages
from data.errors import InputError
from data.records import CheckpointRef, Conversation, Document, Generation, Prompt, Question, Score, ScoreItem
from data.seeds import derive_seed, fingerprint
from data.sentences import sentence_spans
from data.store import (
    content_of,
    is_sealed,
    list_shards,
    read_folder,
    read_manifest,
    read_refusals,
    read_shard,
    write_folder,
)
from evaluate.statistics import Z95

FOLDER = "general"
MAX_TEXTS, MAX_CHARACTERS = 256, 2000
MAX_REQUESTS, MOST_ANSWER_TOKENS = 24, 256
ROWS_PER_UNIT = 64
VERSION = 1  # raise it when the same text would be asked otherwise


@dataclass(frozen=True)
class GeneralText:
    """Texts as questions with one option, which is what is measured: a sealed folder. `frame` is around the prompts.

    `requests` has some of the different prompts of conversations, to be answered; None where there are none.
    """

    folder: Path
    frame: Frame = NO_FRAME
    requests: Path | None = None


@dataclass(frozen=True)
class TextTask:
    """Texts to log-likelihoods, in the actor."""

    frame: Frame

    asked: ClassVar[type] = Question
    answered: ClassVar[type] = Score

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """The score of each text."""
        before, after = self.frame
        items = [
            ScoreItem(
                row.question_id, "", row.prompt, row.options, joiner=row.joiner if self.frame == NO_FRAME else "",
                before=before, after=after,
            )
            for row in rows
        ]  # fmt: skip
        engine.score(items, lambda at, answer: on_row(at, RowAnswer.of(answer)))


@dataclass(frozen=True)
class EndTask:
    """General requests to greedy answers of at most `MOST_ANSWER_TOKENS`, in the actor."""

    frame: Frame

    asked: ClassVar[type] = Question
    answered: ClassVar[type] = Generation

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """An answer for each request."""
        before, after = self.frame
        prompts = [
            Prompt(
                row.question_id, FOLDER, "", "", row.prompt, MOST_ANSWER_TOKENS, 0.0, 0, "", before=before, after=after
            )
            for row in rows
        ]
        engine.generate(prompts, lambda at, answer: on_row(at, RowAnswer.of(answer)))


@dataclass(frozen=True)
class TextJob:
    """General text that one set of weights reads; `condition` names it in the report, `run` the training seed."""

    condition: str
    ref: CheckpointRef | None
    weights: str
    run: str = ""

    def sharded(self, text: GeneralText, out: Path) -> list[ShardedJob]:
        """The job as rows to score, then for a chat model as rows to answer; `weights` is the scoring key."""
        asked: list[tuple[str, TextTask | EndTask, Path, str]] = [
            ("general text", TextTask(text.frame), text.folder, "scores")
        ]
        if text.requests:
            asked.append(("general requests", EndTask(text.frame), text.requests, "written"))
        return [
            ShardedJob(
                name=f"{name} {self.condition} {self.run}".rstrip(),
                task=task,
                ranges=tuple(row_ranges(rows, rows_per_unit=ROWS_PER_UNIT)),
                out=out / folder / fingerprint(self.weights),
                key=fingerprint(FOLDER, VERSION, self.weights, *text.frame),
                ref=self.ref,
                affinity=self.weights,
            )
            for name, task, rows, folder in asked
        ]


def choose_texts(source: Path, out: Path, *, frame: Frame = NO_FRAME, seed: int = 0) -> GeneralText:
    """At most `MAX_TEXTS` texts of a sealed folder, of each at most `MAX_CHARACTERS`, written under `out`.

    Of a document all is measured but the first word, of a conversation the answer to its first request, inside the
    `frame` of a user's turn. Raises InputError if nothing is left.
    """
    folder = out / FOLDER / fingerprint(VERSION, content_of(source), seed)
    requests = out / FOLDER / fingerprint(VERSION, content_of(source), seed, "requests") if frame != NO_FRAME else None
    if not is_sealed(folder):
        is_chat = read_manifest(source).get("record") == Conversation.__name__
        rows = _sample(source, seed)
        asked = [question for row in rows if (question := (_of_turns if is_chat else _of_text)(row))]
        if not asked:
            hint = "name a folder with texts of at least two words"
            raise InputError("no general text can be measured here", where=str(source), hint=hint)
        write_folder(folder, Question, asked)
    if requests and not is_sealed(requests):
        different = {row.prompt: row for row in read_folder(folder, Question)}
        write_folder(requests, Question, list(different.values())[:MAX_REQUESTS])
    return GeneralText(folder, frame, requests)


def _sample(source: Path, seed: int) -> list[Document]:
    """The documents with the least hashes: the same ones whatever their order."""
    ranked = (
        (derive_seed(seed, FOLDER, row.doc_id), row.doc_id, row)
        for shard in list_shards(source)
        for row in read_shard(shard, Document)
    )
    best: list[tuple[int, str, Document]] = []
    for one in ranked:
        best.append(one)
        if len(best) >= 2 * MAX_TEXTS:
            best = sorted(best, key=lambda found: found[:2])[:MAX_TEXTS]
    return [row for _, _, row in sorted(best, key=lambda found: found[:2])[:MAX_TEXTS]]


def _of_text(row: Document) -> Question | None:
    head, _, rest = _cut(row.text.strip()).partition(" ")
    joiner = " "
    if not rest.strip() and len(head) > 1:  # a script without spaces
        head, rest, joiner = head[:1], head[1:], ""
    return _question(row.doc_id, head, rest.strip(), joiner) if rest.strip() else None


def _of_turns(row: Document) -> Question | None:
    turns = [turn["content"].strip() for turn in read_messages(row.text) if turn["role"] != "system"]
    request, answer = turns[0], _cut(turns[1]) if len(turns) > 1 else ""
    return _question(row.doc_id, request, answer, "\n") if request and answer else None


def _question(name: str, prompt: str, text: str, joiner: str) -> Question:
    return Question(name, FOLDER, FOLDER, "", prompt, (text,), 0, name, (), joiner=joiner)


def _cut(text: str) -> str:
    """The beginning of a text, up to the end of a sentence where there is one."""
    if len(text) <= MAX_CHARACTERS:
        return text
    ends = [end for _, end in sentence_spans(text[:MAX_CHARACTERS])][:-1]
    return text[: ends[-1] if ends else MAX_CHARACTERS].rstrip()


def plan(text: GeneralText, jobs: Sequence[TextJob], out: Path) -> list[Unit]:
    """What is not scored or answered yet, as units."""
    return [unit for job in jobs for sharded in job.sharded(text, out) for unit in sharded.units()]


def measure(text: GeneralText, jobs: Sequence[TextJob], out: Path) -> dict[str, Any]:
    """What `report.json` says of general text, from the shards of all jobs, of which the first is the base model's.

    `bits_per_byte` has for each condition the `value`, and what it is more than the base model's on the same texts:
    `change`, with its 95% interval over texts. Runs of a condition are averaged. `refused` counts texts without a
    score under any condition; they are left out of all. Of chat models `ends` has the share of the answers to the
    different requests that end by themselves, and their number.
    """
    sizes = {row.question_id: len(row.options[0].encode()) for row in read_folder(text.folder, Question)}
    found: dict[str, dict[str, list[float]]] = {}
    ended: dict[str, list[bool]] = defaultdict(list)
    refused: set[str] = set()
    for job in jobs:
        of_condition = found.setdefault(job.condition, defaultdict(list))
        scores, *answers = job.sharded(text, out)
        for target in scores.targets:
            for score in read_shard(target, Score):
                of_condition[score.item_id].append(-score.log_likelihoods[0] / math.log(2))
            refused |= {refusal.item_id for refusal in read_refusals(target)}
        for target in chain.from_iterable(sharded.targets for sharded in answers):
            ended[job.condition] += [answer.finish_reason == "stop" for answer in read_shard(target, Generation)]
    names = [name for name in sizes if name not in refused]
    if not names:
        return {}
    lengths = np.array([sizes[name] for name in names], float)
    bits = {condition: np.array([np.mean(by[name]) for name in names]) for condition, by in found.items()}
    return {
        "texts": len(names),
        "bytes": int(lengths.sum()),
        "refused": len(refused),
        "bits_per_byte": dict(_compare(bits, lengths)),
        "ends": {name: {"share": round(sum(rows) / len(rows), 6), "n": len(rows)} for name, rows in ended.items()},
    }


def _compare(bits: Mapping[str, Any], lengths: Any) -> Iterator[tuple[str, dict[str, float]]]:
    """Ratios of sums; the intervals of their differences by the linearised standard error over texts."""
    base = next(iter(bits.values()))
    for at, (condition, values) in enumerate(bits.items()):
        cell = {"value": round(float(values.sum() / lengths.sum()), 6)}
        if at:
            more = values - base
            change = float(more.sum() / lengths.sum())
            residuals, n = more - change * lengths, len(lengths)
            half = Z95 * float(np.sqrt((residuals**2).sum() * n / max(1, n - 1)) / lengths.sum())
            cell |= {name: round(number, 6) for name, number in zip(
                ("change", "low", "high"), (change, change - half, change + half), strict=True
            )}  # fmt: skip
        yield condition, cell
