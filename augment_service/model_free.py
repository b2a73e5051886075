"""Methods of augmentation that need no model: reversal, masked passages, and the closure of the generated sets.

Their rows have an empty `model`; `template` names the method and its version. They are computed document by document in
light actors, and their shards are in the ledger's folder like those of the other methods.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from augment_service.answers.verdicts import EMPTY, KEPT
from augment_service.chat import NO_FRAME, Frame, frame
from augment_service.engines.protocol import Engine
from augment_service.jobs import OnRow, RowAnswer, RowRange, ShardedJob
from augment_service.methods import AugmentPlan
from augment_service.model_folder import load_tokenizer
from augment_service.reversal import reverse_entities, reverse_words, word_spans
from augment_service.tokens import token_counter
from cluster.pool import Unit
from data.chunks import chunk_spans
from data.closure import Closure
from data.errors import InputError
from data.records import Augmentation, Document
from data.rendering import CLOSURE, MASKED, REVERSE_ENTITIES, REVERSE_WORDS, PromptBook, select_model_free
from data.seeds import derive_seed, fingerprint, stream
from data.sets.logics import is_generated
from data.sets.registry import GENERATOR_VERSION
from data.store import list_shards, read_shard

VERSION = 1  # raise it when the same document would give other rows
MASKED_SHARE = (0.05, 0.95)  # of a passage's words, drawn anew for each sample
_SEAMS = 16  # tokens by which parts that are counted one by one may differ from their whole
_LEAST_ROOM = 16  # tokens
_REVERSALS: dict[str, Callable[[Document], str]] = {
    REVERSE_WORDS: lambda document: reverse_words(document.text),
    REVERSE_ENTITIES: lambda document: reverse_entities(document.text, document.outline),
}


@dataclass(frozen=True)
class Made:
    """A row that a method makes of a document: what is learned, what precedes it, and what it is about."""

    text: str
    sources: tuple[str, ...]
    prompt: str = ""
    form: Literal["text", "chat"] = "text"
    span: tuple[int, ...] = ()
    sample: int = 0


@dataclass(frozen=True)
class ModelFreeTask:
    """Documents to rows by one method, in an actor without a model."""

    method: str
    plan: AugmentPlan

    asked: ClassVar[type] = Document
    answered: ClassVar[type] = Augmentation

    @abstractmethod
    def make(self, document: Document) -> Iterable[Made]:
        """The rows of a document."""

    @property
    def key(self) -> str:
        """Names all that decides the rows but the documents."""
        return fingerprint("model-free", VERSION, self.method)

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """The rows of each document; the engine is not asked."""
        for at, document in enumerate(rows):
            made = enumerate(self.make(document))
            on_row(at, RowAnswer(tuple(self._row(document, place, one) for place, one in made)))

    def _row(self, document: Document, place: int, made: Made) -> Augmentation:
        template = fingerprint("model-free", VERSION, self.method)
        where = (self.method, document.corpus, document.doc_id, place, made.sample)
        asked = fingerprint(template, *where, made.prompt, made.text)
        return Augmentation(
            augmentation_id=fingerprint(asked, 0),
            corpus=document.corpus,
            method=self.method,
            sources=made.sources,
            sentence="",
            text=made.text,
            reasoning="",
            verdict=KEPT if made.text.strip() else EMPTY,
            support=math.nan,
            finish_reason="stop",
            model="",
            template=template,
            context_id="",
            temperature=0.0,
            seed=derive_seed(self.plan.seed, *where),
            prompt_id=asked,
            span=made.span,
            prompt=made.prompt,
            form=made.form,
        )


@dataclass(frozen=True)
class ReversalTask(ModelFreeTask):
    """The document in reverse order, once: nothing is drawn."""

    def make(self, document: Document) -> Iterable[Made]:
        """One row, the whole document, as in the paper; an empty document has none."""
        if document.text.strip():
            yield Made(_REVERSALS[self.method](document), (document.doc_id,))


@dataclass(frozen=True)
class MaskedTask(ModelFreeTask):
    """Passages with gaps, each followed by the whole passage, which alone is learned.

    `text` and `mark` are the prompt book's. With `chat` the two are turns. A document that does not fit `window` tokens
    of the tokenizer in the folder `tokenizer` together with its copy with gaps is divided, or left out; `model` is the
    fingerprint of that folder's model.
    """

    text: str = ""
    mark: str = ""
    chat: bool = False
    window: int | None = None
    tokenizer: str = ""
    frame: Frame = NO_FRAME
    model: str = ""

    def make(self, document: Document) -> Iterable[Made]:
        """`samples` rows for each passage, each with other gaps."""
        for place, (start, stop) in enumerate(self._spans(document)):
            passage = document.text[start:stop].strip()
            span = () if (start, stop) == (0, len(document.text)) else (start, stop)
            words = word_spans(passage)
            for sample in range(self.plan.samples if words else 0):
                gaps = self._draw(words, document, place, sample)
                prompt = self._prompt(_with_gaps(passage, gaps, self.mark))
                form: Literal["text", "chat"] = "chat" if self.chat else "text"
                yield Made(passage, (document.doc_id,), prompt, form, span, sample)

    @property
    def key(self) -> str:
        """As `ModelFreeTask.key`; the draws, the book and the window decide, too."""
        plan, parts = self.plan, [self.text, self.mark, self.chat, self.plan.samples, self.plan.seed]
        if self._budget is not None:  # the tokenizer decides where documents are cut
            parts += [*self.frame, self.window, plan.long_documents, self.model]
        return fingerprint(super().key, *parts)

    def check_room(self) -> None:
        """Raise InputError if the window has no room for a passage and its copy."""
        if self._budget is not None and self._budget < 2 * _LEAST_ROOM:
            what = f"the prompt leaves {self._budget} of {self.window} tokens for a passage and its copy with gaps"
            raise InputError(
                what, where=f"method {self.method}", hint="use a longer --window, or a shorter [masked] text"
            )

    def _draw(
        self, words: Sequence[tuple[int, int]], document: Document, place: int, sample: int
    ) -> list[tuple[int, int]]:
        """The words that are left out: a share that is drawn, of one word at least."""
        rng = stream(self.plan.seed, self.method, document.corpus, document.doc_id, place, sample)
        count = max(1, round(rng.uniform(*MASKED_SHARE) * len(words)))
        return sorted(rng.sample(words, count))

    def _prompt(self, passage: str) -> str:
        return self.text.replace("{document}", passage)

    def _spans(self, document: Document) -> Sequence[tuple[int, int]]:
        whole = [(0, len(document.text))]
        if not document.text.strip():
            return []
        budget = self._budget
        if budget is None or self._sizes([document.text])[0] <= budget:
            return whole
        return [] if self.plan.long_documents == "skip" else chunk_spans(
            document.text, budget, self._sizes, document.outline
        )  # fmt: skip

    def _sizes(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text and, at most, of its copy with gaps."""
        count = token_counter(self.tokenizer)
        mark = count([self.mark])[0] + 1
        return [size + max(size, mark * len(word_spans(text))) for text, size in zip(texts, count(texts), strict=True)]

    @property
    def _budget(self) -> int | None:
        """Tokens of the window that the prompt leaves; None without a bound."""
        if self.window is None or not self.tokenizer:
            return None
        return self.window - sum(token_counter(self.tokenizer)([self.text, *self.frame])) - _SEAMS


@dataclass(frozen=True)
class ClosureTask(ModelFreeTask):
    """What follows from all documents of a generated corpus but stands in none: see `data.closure`.

    Each document gets up to `per_document` statements, each in `samples` wordings. `documents` is their folder.
    """

    documents: str = ""

    def make(self, document: Document) -> Iterable[Made]:
        """The statements assigned to a document."""
        closure = _closure(self.documents, document.corpus, self.plan.seed)
        limits = {"statements": self.plan.per_document, "wordings": self.plan.samples}
        for text, sources in closure.texts(document.doc_id, **limits):
            yield Made(text, sources)

    @property
    def key(self) -> str:
        """As `ModelFreeTask.key`; the draws and the code of the sets decide, too."""
        plan = self.plan
        return fingerprint(super().key, plan.seed, plan.samples, plan.per_document, GENERATOR_VERSION)


@lru_cache(maxsize=2)  # the units of a corpus follow each other
def _closure(documents: str, corpus: str, seed: int) -> Closure:
    shards = list_shards(Path(documents))
    members = [row for shard in shards for row in read_shard(shard, Document) if row.corpus == corpus]
    return Closure(members, corpus, seed)


def _with_gaps(passage: str, gaps: Sequence[tuple[int, int]], mark: str) -> str:
    parts, at = [], 0
    for start, stop in gaps:
        parts += [passage[at:start], mark]
        at = stop
    return "".join([*parts, passage[at:]])


def plan_model_free(
    documents: Path,
    ranges: Sequence[RowRange],
    book: PromptBook,
    plan: AugmentPlan,
    parts: Path,
    *,
    model: str = "",
    window: int | None = None,
    tokenizer: str = "",
) -> list[ShardedJob]:
    """A job for each method without a model that is asked for; for the closure, one for each corpus.

    `model`, `window` and `tokenizer` as in `augment_service.augment.plan_augmentation`. Raises InputError for the
    closure of documents that were not generated, and for a window without room for a masked passage.
    """
    jobs: list[ShardedJob] = []
    for method in select_model_free(plan.methods):
        if method == CLOSURE:
            jobs += _closure_jobs(documents, ranges, plan, parts)
            continue
        if method == MASKED:
            task: ModelFreeTask = _masked_task(book, plan, window, tokenizer, model)
        else:
            task = ReversalTask(method, plan)
        jobs.append(ShardedJob(method, task, tuple(ranges), parts, task.key))
    return jobs


def _masked_task(book: PromptBook, plan: AugmentPlan, window: int | None, tokenizer: str, model: str) -> MaskedTask:
    around = NO_FRAME
    if book.chat and tokenizer:
        around = frame(load_tokenizer(Path(tokenizer)), "", where=f"method {MASKED}")
    task = MaskedTask(MASKED, plan, book.masked.text, book.masked.mark, book.chat, window, tokenizer, around, model)
    task.check_room()
    return task


def _closure_jobs(documents: Path, ranges: Sequence[RowRange], plan: AugmentPlan, parts: Path) -> Iterator[ShardedJob]:
    corpora = list(dict.fromkeys(rows.corpus for rows in ranges))
    for corpus in corpora:
        if not is_generated(corpus):
            raise InputError(
                "there is no oracle: this is not a generated set",
                where=f"method {CLOSURE}, corpus {corpus} of {documents}",
                hint="leave the closure out; it is an upper bound for sets that `entail data make` wrote",
            )
    for corpus in corpora:
        task = ClosureTask(CLOSURE, plan, str(documents))
        own = tuple(rows for rows in ranges if rows.corpus == corpus)
        yield ShardedJob(f"{corpus} {CLOSURE}", task, own, parts, task.key, affinity=f"{CLOSURE} {corpus}")


def is_model_free(unit: Unit) -> bool:
    """Whether a unit of work needs no engine with a model."""
    return isinstance(unit.args[0], ModelFreeTask)


def chat_methods(book: PromptBook, methods: Sequence[str]) -> list[str]:
    """Those of the methods whose training rows are turns of a chat."""
    masked = [MASKED] if book.chat and MASKED in select_model_free(methods) else []
    return [template.method for template in book.select(methods) if template.makes_chats] + masked
