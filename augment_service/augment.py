"""The augmentation stage: documents in, inferences out.

Reads a sealed folder of documents. Writes `contexts/`, `parts/` (a shard for each method and range of documents, by the
pool's actors) and `augmentations/`, sealed last. A shard that exists is not computed again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from augment_service.chat import NO_FRAME, Frame, frame
from augment_service.contexts import ContextReader, ContextSpec, write_contexts
from augment_service.engines.protocol import Engine
from augment_service.jobs import OnRow, RowAnswer, RowRange, ShardedJob, refuse_if_all, rewrite_folder, row_ranges
from augment_service.methods import KEPT, REPEATED, AugmentPlan, build_prompts, fold_column, parse_generation
from augment_service.model_folder import load_tokenizer
from augment_service.tokens import check_context
from data.errors import InputError
from data.records import Augmentation, Document, Prompt, Refusal
from data.rendering import PromptBook, Template
from data.seeds import fingerprint
from data.store import is_sealed, list_shards, read_table

AUGMENTATIONS, CONTEXTS, PARTS = "augmentations", "contexts", "parts"
DOCUMENTS_PER_UNIT = 128
ROWS_PER_BATCH = 1024  # of the final pass: what it has in memory
_NOT_TEXT = "\x1f"
VERSION = 1  # of the parsing: raise it when the same text would give other rows


@dataclass(frozen=True)
class AugmentTask:
    """Documents to inferences by one template, in the actor. `contexts` has a shard per corpus for global templates.

    `frame` is the chat template around each prompt.
    """

    template: Template
    plan: AugmentPlan
    nothing: str
    model: str
    contexts: Mapping[str, str]
    frame: Frame = NO_FRAME

    asked: ClassVar[type] = Document
    answered: ClassVar[type] = Augmentation

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """The inferences about each document, in the order of its sentences and samples."""
        asked = [
            list(build_prompts(row, self.template, self.plan, self.model, self._shared(row.corpus), self.frame))
            for row in rows
        ]
        row_of = [row for row, prompts in enumerate(asked) for _ in prompts]
        first = [0, *accumulate(map(len, asked))]
        written: list[list[Any]] = [[None] * len(prompts) for prompts in asked]
        left = list(map(len, asked))

        def on_answer(at: int, text: Any) -> None:
            row = row_of[at]
            written[row][at - first[row]] = text
            left[row] -= 1
            if not left[row]:
                on_row(row, self._answer(rows[row], asked[row], written[row]))
                asked[row], written[row] = [], []  # answered rows take no memory while others are

        for row, prompts in enumerate(asked):
            if not prompts:
                on_row(row, RowAnswer(()))
        engine.generate(list(chain.from_iterable(asked)), on_answer)

    def _answer(self, document: Document, prompts: Sequence[Prompt], written: Sequence[Any]) -> RowAnswer:
        kept = (
            parse_generation(prompt, text, document.corpus, self.template, self.nothing, self.model)
            for prompt, text in zip(prompts, written, strict=True)
            if not isinstance(text, Refusal)
        )
        return RowAnswer(tuple(kept), tuple(text for text in written if isinstance(text, Refusal)))

    def _shared(self, corpus: str) -> Any:
        return ContextReader(Path(self.contexts[corpus])).text_for() if self.contexts else None


def is_augmented(out: Path) -> bool:
    """Whether the stage's output is complete."""
    return is_sealed(out / AUGMENTATIONS)


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
) -> list[ShardedJob]:
    """One job for each method and, for global ones, each corpus; contexts are written here.

    `model` is the model's fingerprint. Raises InputError where a context does not fit into `window` tokens of the
    tokenizer in the folder `tokenizer` (None, "": not checked).
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
    jobs = []
    for template in book.select(plan.methods):
        around = frame_of(template, book, tokenizer)
        asked = (template.fingerprint, plan.samples, plan.temperature, plan.seed, *filter(None, around))
        key = (VERSION, *asked, book.nothing, model)
        if not template.is_global:
            task = AugmentTask(template, plan, book.nothing, model, {}, around)
            jobs.append(ShardedJob(template.method, task, tuple(ranges), out / PARTS, fingerprint(*key)))
            continue
        contexts = write_contexts(
            documents, list(by_corpus), context, template.shared_context, out / CONTEXTS, seed=plan.seed, window=window
        )
        for corpus, path in contexts.items():
            where = f"the documents of {corpus} in context, method {template.method}"
            if window is not None and tokenizer:
                text = ContextReader(path).text_for().text
                check_context(text, window, tokenizer, room=template.max_tokens, where=where)
            task = AugmentTask(template, plan, book.nothing, model, {corpus: str(path)}, around)
            own, name = fingerprint(*key, path.stem), f"{corpus} {template.method}"
            jobs.append(ShardedJob(name, task, tuple(by_corpus[corpus]), out / PARTS, own, affinity=path.stem))
    return jobs


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
    "repeated"; case, quotes and marks at the ends do not count. Texts are compared by a 64-bit hash, so memory is some
    40 bytes a row. Raises InputError if every prompt was refused.
    """
    refused = refuse_if_all(jobs, "prompt")
    keys = [_keys(batch) for shard in list_shards(documents) for batch in _batches(read_table(shard))]
    place = sum(map(len, keys))
    keys += [_keys(batch) for job in jobs for table in job.tables() for batch in _batches(table)]
    joined = np.concatenate(keys) if keys else np.zeros(0, np.uint64)
    del keys
    is_first = np.zeros(len(joined), bool)
    is_first[np.unique(joined, return_index=True)[1]] = True
    with rewrite_folder(out / AUGMENTATIONS, Augmentation) as writer:
        for table in (batch for job in jobs for shard in job.tables() for batch in _batches(shard)):
            again = pa.array(~is_first[place : place + table.num_rows])
            place += table.num_rows
            kept = pc.equal(table["verdict"], KEPT)
            verdicts = pc.if_else(pc.and_(kept, again), REPEATED, table["verdict"])
            writer.write(table.set_column(table.schema.get_field_index("verdict"), "verdict", verdicts))
            writer.end_if_full()
    return refused


def _batches(table: pa.Table) -> Iterator[pa.Table]:
    return (table.slice(start, ROWS_PER_BATCH) for start in range(0, table.num_rows, ROWS_PER_BATCH))


def _keys(table: pa.Table) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A hash of corpus and folded text for each row. Rows that are not kept get that of their id: equal to no text."""
    texts = fold_column(table["text"])
    if "verdict" in table.column_names:
        own = pc.binary_join_element_wise(_NOT_TEXT, table["augmentation_id"], "")
        texts = pc.if_else(pc.equal(table["verdict"], KEPT), texts, own)
    named = zip(table["corpus"].to_pylist(), texts.to_pylist(), strict=True)
    return np.fromiter((_hash(f"{corpus}{_NOT_TEXT}{text}") for corpus, text in named), np.uint64, len(texts))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
