"""The augmentation stage: documents in, inferences out.

Reads a sealed folder of documents. Writes `contexts/`, `parts/` (a shard for each method and range of documents, by the
pool's actors, and an index of all prompts that are answered there) and `augmentations/`, sealed last. A shard that
exists is not computed again, and a prompt that any shard answers is not asked again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from augment_service.chat import NO_FRAME, Frame, frame
from augment_service.contexts import ContextReader, ContextSpec, write_contexts
from augment_service.engines.protocol import Engine
from augment_service.jobs import OnRow, RowAnswer, RowRange, ShardedJob, refuse_if_all, rewrite_folder, row_ranges
from augment_service.ledger import Ledger, index_shards
from augment_service.methods import (
    NO_CONTEXT,
    PROPOSED,
    VERSION,
    AugmentPlan,
    Target,
    build_prompts,
    document_targets,
    fold_column,
    parse_generation,
    sentence_targets,
)
from augment_service.model_folder import load_tokenizer
from augment_service.model_free import plan_model_free
from augment_service.parsing import EMPTY, KEPT, REPEATED, UNPARSED
from augment_service.tokens import check_context, token_counter
from data.chunks import chunk_spans
from data.errors import InputError
from data.records import Augmentation, Context, Document, Generation, Prompt, Refusal
from data.rendering import DOCUMENT, MODEL_FREE, SENTENCE, PromptBook, Template
from data.seeds import fingerprint
from data.store import list_shards, read_manifest, read_table

AUGMENTATIONS, CONTEXTS, PARTS = "augmentations", "contexts", "parts"
DOCUMENTS_PER_UNIT = 128
ROWS_PER_BATCH = 1024  # of the final pass: what it has in memory
_NOT_TEXT = "\x1f"
_SEAM = 8  # tokens by which parts that are counted one by one may differ from their whole
_FEW_ROWS = 50  # of fewer rows nothing follows about the model
_LEAST_READABLE = 0.01
_LEAST_ROOM = 16  # tokens

Written = Generation | Refusal | tuple[Augmentation, ...]
Asked = tuple[Prompt, Target]


@dataclass(frozen=True)
class AugmentTask:
    """Documents to inferences by one template, in the actor. `contexts` has a shard per corpus for global templates.

    `frame` is the chat template around each prompt; `proposal` and its frame are asked first, where the template is
    asked with what they answer. Documents are cut to what fits `window` tokens of the tokenizer in the folder
    `tokenizer`. `ledger` is the index of prompts that are answered already.
    """

    template: Template
    plan: AugmentPlan
    nothing: str
    model: str
    contexts: Mapping[str, str]
    frame: Frame = NO_FRAME
    proposal: Template | None = None
    proposal_frame: Frame = NO_FRAME
    window: int | None = None
    tokenizer: str = ""
    ledger: str = ""

    asked: ClassVar[type] = Document
    answered: ClassVar[type] = Augmentation

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """The inferences about each document, in the order of its targets and samples."""
        if self.proposal is None:
            self._ask(engine, rows, [self._prompts(row, self.targets(row)) for row in rows], self.template, on_row)
            return
        proposed: dict[int, RowAnswer] = {}
        around = self.proposal_frame
        asked = [self._prompts(row, self.targets(row), self.proposal, around) for row in rows]
        self._ask(engine, rows, asked, self.proposal, proposed.__setitem__)
        asked = [self._prompts(row, self._chosen(row, proposed[at].answers)) for at, row in enumerate(rows)]

        def on_answer(at: int, answer: RowAnswer) -> None:
            both = proposed.pop(at)
            on_row(at, RowAnswer(both.answers + answer.answers, both.refusals + answer.refusals))

        self._ask(engine, rows, asked, self.template, on_answer)

    def targets(self, document: Document) -> Iterator[Target]:
        """What the prompts of a document are about, without what has to be proposed first."""
        shared = self._shared(document.corpus) or NO_CONTEXT
        if SENTENCE in self.template.placeholders:
            found = sentence_targets(document)
        else:
            found = document_targets(document, self._spans(document))
        return (replace(target, context=shared) for target in found)

    def _chosen(self, document: Document, proposals: Iterable[Augmentation]) -> Iterator[Target]:
        """A target for each of the first proposals about each part of the document."""
        (name,) = self.template.family.about
        rows = list(proposals)
        for target in self.targets(document):
            texts = dict.fromkeys(row.text for row in rows if row.span == target.span and row.verdict == PROPOSED)
            for text in list(texts)[: self.plan.per_document]:
                yield replace(target, fields={**target.fields, name: text}, about=(text,))

    def _prompts(
        self,
        document: Document,
        targets: Iterable[Target],
        template: Template | None = None,
        around: Frame | None = None,
    ) -> list[Asked]:
        template, around = template or self.template, around or self.frame
        return [
            (prompt, target)
            for target in targets
            for prompt in build_prompts(document, target, template, self.plan, self.model, around)
        ]

    def _ask(
        self,
        engine: Engine,
        rows: Sequence[Document],
        asked: Sequence[list[Asked]],
        template: Template,
        on_row: Callable[[int, RowAnswer], None],
    ) -> None:
        """Let the engine answer what the ledger does not, and report each document as soon as all of it is there."""
        ledger = _open_ledger(self.ledger)
        written: list[list[Any]] = [[ledger.find(prompt.prompt_id) or None for prompt, _ in one] for one in asked]
        missing = [(row, at) for row, texts in enumerate(written) for at, text in enumerate(texts) if text is None]
        left = [sum(text is None for text in texts) for texts in written]
        prompts = [asked[row][at][0] for row, at in missing]

        def end(row: int) -> None:
            on_row(row, self._answer(rows[row], asked[row], written[row], template))
            written[row] = []  # answered rows take no memory while others are
            asked[row].clear()

        def on_answer(number: int, text: Any) -> None:
            row, at = missing[number]
            written[row][at] = text
            left[row] -= 1
            if not left[row]:
                end(row)

        for row, count in enumerate(left):
            if not count:
                end(row)
        engine.generate(prompts, on_answer)

    def _answer(
        self, document: Document, asked: Sequence[Asked], written: Sequence[Written], template: Template
    ) -> RowAnswer:
        answers: list[Augmentation] = []
        refusals = []
        for (prompt, target), text in zip(asked, written, strict=True):
            if isinstance(text, Refusal):
                refusals.append(text)
            elif isinstance(text, tuple):
                answers += text
            else:
                answers += parse_generation(
                    prompt, text, document, target, template, nothing=self.nothing, model=self.model
                )
        return RowAnswer(tuple(answers), tuple(refusals))

    def _shared(self, corpus: str) -> Context | None:
        return ContextReader(Path(self.contexts[corpus])).text_for() if self.contexts else None

    def _spans(self, document: Document) -> Sequence[tuple[int, int]]:
        """The parts of a document that fit into the window beside what surrounds them; none if it is to be skipped."""
        whole = [(0, len(document.text))]
        if not document.text.strip():
            return []
        if self.window is None or not self.tokenizer:
            return whole
        count = token_counter(self.tokenizer)
        budget = self.window - self._overhead(document.corpus)
        if count([document.text])[0] <= budget:
            return whole
        if self.plan.long_documents == "skip" or budget < 1:
            return []
        return chunk_spans(document.text, budget, count, document.outline)

    @property
    def key(self) -> str:
        """Names all that decides the answers, but for the contexts and the documents."""
        parts = (self.template, self.proposal) if self.proposal else (self.template,)
        frames = filter(None, (*self.frame, *self.proposal_frame))
        asked = (self.plan.samples, self.plan.temperature, self.plan.seed, self.nothing, self.model, *frames)
        limits = (self.window, self.plan.long_documents) if DOCUMENT in self.template.placeholders else ()
        number = (self.plan.per_document,) if self.proposal else ()
        return fingerprint(VERSION, *(part.fingerprint for part in parts), *asked, *limits, *number)

    def check_room(self, corpus: str) -> None:
        """Raise InputError if what surrounds the documents leaves no room for them in the window."""
        if self.window is None or not self.tokenizer:
            return
        where = f"method {self.template.method}"
        if shared := self._shared(corpus):
            where = f"the documents of {corpus} in context, method {self.template.method}"
            check_context(shared.text, self.window, self.tokenizer, room=self.template.max_tokens, where=where)
        room = self.window - self._overhead(corpus)
        if room < _LEAST_ROOM:
            what = f"the prompt and its answer leave {room} of {self.window} tokens for what it is about"
            raise InputError(what, where=where, hint="use a longer --window, or a shorter context or template")

    def _overhead(self, corpus: str) -> int:
        """Tokens of a prompt that are not the document's, and of the answer."""
        shared = self._shared(corpus)
        parts = [
            (one, around) for one, around in ((self.template, self.frame), (self.proposal, self.proposal_frame)) if one
        ]
        return max(
            _tokens(self.tokenizer, shared.text if shared else one.context, one.text, *around) + one.max_tokens
            for one, around in parts
        )


@lru_cache(maxsize=64)
def _tokens(tokenizer: str, *texts: str) -> int:
    """Tokens of texts that stand together, with room for what differs at their seams."""
    return sum(token_counter(tokenizer)(texts)) + _SEAM * len(texts)


@lru_cache(maxsize=2)
def _open_ledger(index: str) -> Ledger:
    return Ledger.open(index)


def is_augmented(out: Path, jobs: Sequence[ShardedJob]) -> bool:
    """Whether the stage's output is complete, and that of these jobs."""
    return read_manifest(out / AUGMENTATIONS).get("key") == _request(jobs)


def plan_augmentation(
    documents: Path,
    out: Path,
    book: PromptBook,
    plan: AugmentPlan,
    *,
    model: str,
    context: ContextSpec,
    window: int | None = None,
    tokenizer: str = "",
    parts: Path | None = None,
) -> list[ShardedJob]:
    """One job for each method and, for global ones, each corpus; contexts and the ledger's index are written here.

    `model` is the model's fingerprint. `parts` is the folder of the shards (default: in `out`), which other
    augmentations may share. Raises InputError where a context does not fit into `window` tokens of the tokenizer in the
    folder `tokenizer` (None, "": not checked).
    """
    ranges = row_ranges(documents, rows_per_unit=DOCUMENTS_PER_UNIT)
    if not ranges:
        hint = "name a folder with at least one document"
        raise InputError("there are no documents", where=str(documents), hint=hint)
    if context.kind not in ("all", "sample"):
        hint = "use all or sample:K; local methods have no documents in context"
        raise InputError(f'global methods cannot use the context "{context}"', where="--context", hint=hint)
    by_corpus: dict[str, list[RowRange]] = {}
    for rows in ranges:
        by_corpus.setdefault(rows.corpus, []).append(rows)
    parts, jobs = parts or out / PARTS, []
    for template in book.select(plan.methods):
        task = make_task(template, book, plan, model=model, window=window, tokenizer=tokenizer)
        if not template.is_global:
            task.check_room("")
            jobs.append(ShardedJob(template.method, task, tuple(ranges), parts, task.key))
            continue
        contexts = write_contexts(
            documents, list(by_corpus), context, template.shared_context, out / CONTEXTS, seed=plan.seed, window=window
        )
        for corpus, path in contexts.items():
            own = replace(task, contexts={corpus: str(path)})
            own.check_room(corpus)
            key, name = fingerprint(task.key, path.stem), f"{corpus} {template.method}"
            jobs.append(ShardedJob(name, own, tuple(by_corpus[corpus]), parts, key, affinity=path.stem))
    return _with_ledger(jobs, parts) + plan_model_free(
        documents, ranges, book, plan, parts, model=model, window=window, tokenizer=tokenizer
    )


def make_task(
    template: Template, book: PromptBook, plan: AugmentPlan, *, model: str, window: int | None, tokenizer: str
) -> AugmentTask:
    """The task of a template, without its contexts. `tokenizer` is the model's folder, "" if there is none."""
    proposal = book.proposal(template)
    return AugmentTask(
        template,
        plan,
        book.nothing,
        model,
        {},
        frame_of(template, book, tokenizer),
        proposal,
        frame_of(proposal, book, tokenizer) if proposal else NO_FRAME,
        window,
        tokenizer,
    )


def _with_ledger(jobs: Sequence[ShardedJob], parts: Path) -> list[ShardedJob]:
    """The jobs, which are told what other shards answer already; if nothing is left to do, they need not know."""
    if not any(job.units() for job in jobs):
        return list(jobs)
    index = index_shards(parts, leave_out=[target for job in jobs for target in job.targets])
    return [replace(job, task=replace(job.task, ledger=index)) for job in jobs]  # type: ignore[type-var]


def frame_of(template: Template, book: PromptBook, tokenizer: str) -> Frame:
    """What is around the prompts of a template: in a book for chats, the chat template of the `tokenizer` in a folder.

    With "", at an endpoint that has a chat template of its own, only the system turn's text precedes them.
    """
    if book.chat and tokenizer:
        return frame(load_tokenizer(Path(tokenizer)), template.system, where=f"method {template.method}")
    return Frame(f"{template.system}\n\n" if template.system else "")


def seal_augmentations(documents: Path, out: Path, jobs: Sequence[ShardedJob]) -> int:
    """Write `augmentations/` from the jobs' shards, whose units are all done; returns the number of refused prompts.

    Of equal texts in a corpus the first stays kept, unless a document says it; the verdict of the others becomes
    "repeated"; case, quotes and marks at the ends do not count, and after other prompts a text is another one.
    Rows of a family without a model are compared with each other alone, so that an arm that learns it has all of them.
    Texts are compared by a 64-bit hash, so memory is some 40 bytes a row. Raises InputError if every prompt was
    refused, or if next to nothing could be read.
    """
    refused = refuse_if_all(jobs, "prompt")
    keys = [_keys(batch) for shard in list_shards(documents) for batch in _batches(read_table(shard))]
    place = sum(map(len, keys))
    keys += [_keys(batch) for job in jobs for table in job.tables() for batch in _batches(table)]
    joined = np.concatenate(keys) if keys else np.zeros(0, np.uint64)
    del keys
    is_first = np.zeros(len(joined), bool)
    is_first[np.unique(joined, return_index=True)[1]] = True
    with rewrite_folder(out / AUGMENTATIONS, Augmentation, key=_request(jobs)) as writer:
        for table in (batch for job in jobs for shard in job.tables() for batch in _batches(shard)):
            again = pa.array(~is_first[place : place + table.num_rows])
            place += table.num_rows
            kept = pc.equal(table["verdict"], KEPT)
            verdicts = pc.if_else(pc.and_(kept, again), REPEATED, table["verdict"])
            writer.write(table.set_column(table.schema.get_field_index("verdict"), "verdict", verdicts))
            writer.end_if_full()
    _refuse_unreadable(out / AUGMENTATIONS)
    return refused


def _request(jobs: Sequence[ShardedJob]) -> str:
    """Names the rows of some jobs."""
    return fingerprint(*(target.name for job in jobs for target in job.targets))


def _refuse_unreadable(folder: Path) -> None:
    """Raise InputError with samples if under 1% of the rows could be read."""
    tables = [read_table(shard).select(["verdict", "text", "method"]) for shard in list_shards(folder)]
    rows = pa.concat_tables(tables) if tables else pa.table({"verdict": [], "text": [], "method": []})
    lost = pc.is_in(rows["verdict"], value_set=pa.array([UNPARSED, EMPTY]))
    num_lost = pc.sum(lost).as_py() or 0
    if rows.num_rows < _FEW_ROWS or rows.num_rows - num_lost >= _LEAST_READABLE * rows.num_rows:
        return
    samples = " | ".join(f"{row['method']}: {row['text'][:80]!r}" for row in rows.filter(lost).slice(0, 3).to_pylist())
    raise InputError(
        f"{num_lost:,} of {rows.num_rows:,} answers could not be read, e.g. {samples}",
        where=str(folder),
        hint="try --preview 3 with another book (--prompts english, english-chat or a file), or another model",
    )


def _batches(table: pa.Table) -> Iterator[pa.Table]:
    return (table.slice(start, ROWS_PER_BATCH) for start in range(0, table.num_rows, ROWS_PER_BATCH))


def _keys(table: pa.Table) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A hash of corpus and folded text for each row. Rows that are not kept get that of their id: equal to no text."""
    texts = fold_column(table["text"])
    if "prompt" in table.column_names:  # the answer to another question, the text after another one
        joined = pc.binary_join_element_wise(table["prompt"], texts, _NOT_TEXT)
        texts = pc.if_else(pc.equal(table["prompt"], ""), texts, joined)
    if "method" in table.column_names:  # what a model wrote, too, is no repetition of what needs none
        family = pc.binary_join_element_wise(pc.replace_substring_regex(table["method"], "/.*", ""), texts, _NOT_TEXT)
        texts = pc.if_else(pc.is_in(table["method"], value_set=pa.array(MODEL_FREE)), family, texts)
    if "verdict" in table.column_names:
        own = pc.binary_join_element_wise(_NOT_TEXT, table["augmentation_id"], "")
        texts = pc.if_else(pc.equal(table["verdict"], KEPT), texts, own)
    named = zip(table["corpus"].to_pylist(), texts.to_pylist(), strict=True)
    return np.fromiter((_hash(f"{corpus}{_NOT_TEXT}{text}") for corpus, text in named), np.uint64, len(texts))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
