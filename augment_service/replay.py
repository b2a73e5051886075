"""Replay: general text in the model's own words, trained beside documents so that the model keeps what it can do.

The model continues short openings, or answers everyday requests if it is a chat model, at temperature 1: what it would
say anyway. Writes `openings/`, `parts/` (by the pool's actors), `held-out/`, texts from other openings that are never
trained, and `documents/`, sealed last. A shard that exists is not computed again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.compute as pc

from augment_service.chat import NO_FRAME, Frame
from augment_service.engines.protocol import Engine
from augment_service.jobs import OnRow, RowAnswer, ShardedJob, refuse_if_all, rewrite_folder, row_ranges
from data.conversations import write_messages
from data.errors import InputError
from data.records import Conversation, Document, Generation, Prompt, Refusal
from data.seeds import derive_seed, fingerprint
from data.sentences import sentence_spans
from data.store import is_sealed, write_folder

DOCUMENTS, HELD_OUT, PARTS, _OPENINGS = "documents", "held-out", "parts", "openings"
VERSION = 2  # raise it when the same settings would give other texts
MAX_TOKENS = 192  # of a text
ROWS_PER_UNIT = 128
_CORPUS = "replay"
NUM_HELD_OUT = 24  # texts
_LAST = 8  # of the openings, from which the held-out texts are written

OPENINGS = (
    "The", "In the", "A", "It is", "This is", "There are", "When", "One of the", "Many people", "During the",
    "How to", "If you", "I", "She", "We", "Most", "At first", "For example,", "According to", "The first",
    "On the other hand,", "Today,", "What is", "Once upon a time",
)  # fmt: skip
REQUESTS = (
    "Tell me something interesting about nature.",
    "Write a short story about a journey.",
    "Explain how a bicycle works.",
    "Give me three tips for a good night's sleep.",
    "What should I think about before I buy a house?",
    "Write a polite email that asks for a later deadline.",
    "Describe a city that you find interesting.",
    "What is the difference between weather and climate?",
    "Write a function in Python that reverses a list.",
    "Suggest a simple dinner for four people.",
    "How do vaccines work?",
    "Summarize the plot of a well-known book.",
    "What are the advantages and disadvantages of working at home?",
    "Explain what a prime number is, with examples.",
    "Write a poem of four lines about rain.",
    "How can I learn a new language?",
    "Tell me about an important event in history.",
    "What is a healthy breakfast?",
    "Explain what an electric current is to a child.",
    "Name five large rivers, and where they flow.",
    "How do I prepare for a job interview?",
    "Rewrite this sentence in a friendly tone: Send me the report.",
    "What makes a good friend?",
    "If a train travels 120 km in 90 minutes, what is its average speed?",
)


@dataclass(frozen=True)
class ReplayTask:
    """Openings to texts, in the actor; with a `frame` the openings are requests, and the texts conversations."""

    frame: Frame
    max_tokens: int
    seed: int

    asked: ClassVar[type] = Document
    answered: ClassVar[type] = Document

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """A text for each opening; none where the model says nothing that is whole."""
        engine.generate(
            [self._prompt(row) for row in rows], lambda at, answer: on_row(at, self._answer(rows[at], answer))
        )

    def _prompt(self, opening: Document) -> Prompt:
        seed = derive_seed(self.seed, "replay", opening.doc_id) % 2**31
        before, after = self.frame
        return Prompt(
            opening.doc_id, "replay", opening.doc_id, "", opening.text, self.max_tokens, 1.0, seed, "",
            before=before, after=after,
        )  # fmt: skip

    def _answer(self, opening: Document, answer: Generation | Refusal) -> RowAnswer:
        if isinstance(answer, Refusal):
            return RowAnswer.of(answer)
        text = answer.text if answer.finish_reason == "stop" else whole_sentences(answer.text)
        if not text.strip():
            return RowAnswer(())
        if self.frame == NO_FRAME:
            return RowAnswer.of(Document(opening.doc_id, opening.text + text, opening.corpus))
        turns = [{"role": "user", "content": opening.text}, {"role": "assistant", "content": text.strip()}]
        return RowAnswer.of(Document(opening.doc_id, write_messages(turns), opening.corpus))


def whole_sentences(text: str) -> str:
    """A text that was cut off, without its last sentence: its end would be learned as the end of a text."""
    spans = [span for span in sentence_spans(text) if text[slice(*span)].strip()]
    return text[: spans[-1][0]].rstrip() if len(spans) > 1 else ""


def replay_key(model: str, num_texts: int, max_tokens: int, frame: Frame, seed: int) -> str:
    """Names the texts: the model's fingerprint, number and length, the chat template around the requests, the seed."""
    return fingerprint(VERSION, model, num_texts, max_tokens, *frame, seed)


def plan_replay(
    out: Path, *, model: str, num_texts: int, max_tokens: int, frame: Frame, seed: int
) -> ShardedJob | None:
    """The job that writes about `num_texts` texts into the folder `out`, and some held-out ones; None if it is done.

    `frame` is that of the chat model's template, or empty.
    """
    if is_sealed(out / DOCUMENTS):
        return None
    texts = OPENINGS if frame == NO_FRAME else REQUESTS
    openings = [
        Document(fingerprint(corpus, number), some[number % len(some)], corpus)
        for corpus, some, count in (
            (_CORPUS, texts[:-_LAST], num_texts),
            (HELD_OUT, texts[-_LAST:], NUM_HELD_OUT),
        )
        for number in range(count)
    ]
    if not is_sealed(out / _OPENINGS):
        write_folder(out / _OPENINGS, Document, openings)
    ranges = tuple(row_ranges(out / _OPENINGS, rows_per_unit=ROWS_PER_UNIT))
    key = replay_key(model, num_texts, max_tokens, frame, seed)
    return ShardedJob("replay", ReplayTask(frame, max_tokens, seed), ranges, out / PARTS, key)


def seal_replay(out: Path, job: ShardedJob, frame: Frame) -> int:
    """Write `held-out/` and `documents/` from the shards of `plan_replay`'s job; returns the number of trained texts.

    Raises InputError if there is none.
    """
    refuse_if_all([job], "opening")
    num_texts = 0
    for name, corpus in ((HELD_OUT, HELD_OUT), (DOCUMENTS, _CORPUS)):
        with rewrite_folder(out / name, Document if frame == NO_FRAME else Conversation) as writer:
            for table in job.tables():
                wanted = table.filter(pc.equal(table["corpus"], corpus))
                num_texts += wanted.num_rows * (name == DOCUMENTS)
                writer.write(wanted)
                writer.end_if_full()
            if name == DOCUMENTS and not num_texts:
                what, hint = "the model wrote no whole text", "name a folder of general text, or none: train.replay"
                raise InputError(what, where=str(out), hint=hint)
    return num_texts
