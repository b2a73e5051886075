"""The augmentation stage: documents in, inferences out.

Reads a sealed folder of documents. Writes `contexts/`, `parts/` (a shard for each method and range of documents, by the
pool's actors) and `augmentations/`, sealed last. A shard that exists is not computed again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from augment_service.contexts import ContextReader, ContextSpec, write_contexts
from augment_service.engines.protocol import Engine
from augment_service.jobs import RowAnswer, ShardedJob, refuse_if_all, row_ranges
from augment_service.methods import KEPT, REPEATED, AugmentPlan, build_prompts, parse_generation
from augment_service.tokens import check_context
from data.errors import InputError
from data.records import Augmentation, Document, Refusal
from data.rendering import PromptBook, Template
from data.seeds import fingerprint
from data.store import ShardWriter, is_sealed, list_shards, read_table, seal

AUGMENTATIONS, CONTEXTS, PARTS = "augmentations", "contexts", "parts"
DOCUMENTS_PER_UNIT = 128
VERSION = 1  # of the parsing: raise it when the same text would give other rows


@dataclass(frozen=True)
class AugmentTask:
    """Documents to inferences by one template, in the actor. `contexts` has a shard per corpus for global templates."""

    template: Template
    plan: AugmentPlan
    nothing: str
    model: str
    contexts: Mapping[str, str]

    asked: ClassVar[type] = Document
    answered: ClassVar[type] = Augmentation

    def compute(self, engine: Engine, rows: Sequence[Any]) -> list[RowAnswer]:
        """The inferences about each document, in the order of its sentences and samples."""
        prompts, owners = [], []
        for row, document in enumerate(rows):
            found = list(build_prompts(document, self.template, self.plan, self.model, self._shared(document.corpus)))
            prompts += found
            owners += [row] * len(found)
        answers: list[list[Augmentation]] = [[] for _ in rows]
        refusals: list[list[Refusal]] = [[] for _ in rows]
        for row, prompt, written in zip(owners, prompts, engine.generate(prompts), strict=True):
            if isinstance(written, Refusal):
                refusals[row].append(written)
            else:
                corpus = rows[row].corpus
                answers[row].append(parse_generation(prompt, written, corpus, self.template, self.nothing, self.model))
        return [RowAnswer(tuple(some), tuple(other)) for some, other in zip(answers, refusals, strict=True)]

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
        raise InputError(
            "there are no documents", where=str(documents), hint="name a folder with at least one document"
        )
    jobs = []
    for template in book.select(plan.methods):
        key = (VERSION, template.fingerprint, plan.samples, plan.temperature, plan.seed, book.nothing, model)
        if not template.is_global:
            task = AugmentTask(template, plan, book.nothing, model, {})
            jobs.append(ShardedJob(template.method, task, tuple(ranges), out / PARTS, fingerprint(*key)))
            continue
        for corpus in dict.fromkeys(rows.corpus for rows in ranges):
            (path,) = write_contexts(
                documents, [corpus], context, template.shared_context, out / CONTEXTS, seed=plan.seed
            ).values()
            check_context(
                ContextReader(path).text_for().text, window, tokenizer, room=template.max_tokens,
                where=f"the documents of {corpus} in context, method {template.method}",
            )  # fmt: skip
            task = AugmentTask(template, plan, book.nothing, model, {corpus: str(path)})
            mine = tuple(rows for rows in ranges if rows.corpus == corpus)
            name = f"{corpus} {template.method}"
            jobs.append(
                ShardedJob(name, task, mine, out / PARTS, fingerprint(*key, path.stem), affinity=fingerprint(path.stem))
            )
    return jobs


def seal_augmentations(documents: Path, out: Path, jobs: Sequence[ShardedJob]) -> int:
    """Write `augmentations/` from the jobs' shards, whose units are all done; returns the number of refused prompts.

    Of equal texts in a corpus the first stays kept, unless a document says it; the verdict of the others becomes
    "repeated". Raises InputError if every prompt was refused.
    """
    refused = refuse_if_all(jobs, "prompt")
    keys = [_keys(read_table(shard)) for shard in list_shards(documents)]
    num_known = sum(map(len, keys))
    for job in jobs:
        keys += [_keys(table, kept_only=True) for table in job.tables()]
    is_first = _first_places(np.concatenate(keys)) if keys else np.zeros(0, bool)
    place = num_known
    folder = out / AUGMENTATIONS
    for leftover in folder.glob("*.arrow"):  # of a seal that was interrupted
        leftover.unlink()
    with ShardWriter(folder, Augmentation) as writer:
        for job in jobs:
            for table in job.tables():
                again = pa.array(~is_first[place : place + table.num_rows])
                place += table.num_rows
                kept = pc.equal(table["verdict"], KEPT)
                verdicts = pc.if_else(pc.and_(kept, again), REPEATED, table["verdict"])
                writer.write(table.set_column(table.schema.get_field_index("verdict"), "verdict", verdicts))
                writer.end_if_full()
    seal(folder, Augmentation)
    return refused


def _keys(table: pa.Table, *, kept_only: bool = False) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A 64-bit hash of corpus and text for each row; rows that are not kept have random ones, equal to nothing."""
    corpora, texts = table["corpus"].to_pylist(), table["text"].to_pylist()
    kept = pc.equal(table["verdict"], KEPT).to_pylist() if kept_only else [True] * len(texts)
    ids = table["augmentation_id"].to_pylist() if kept_only else texts
    digests = (
        blake2b(f"{corpus}\x1f{text}".encode() if is_kept else f"\x1f{own}".encode(), digest_size=8).digest()
        for corpus, text, is_kept, own in zip(corpora, texts, kept, ids, strict=True)
    )
    return np.frombuffer(b"".join(digests), np.uint64)


def _first_places(keys: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of the keys are the first of their value."""
    is_first = np.zeros(len(keys), bool)
    is_first[np.unique(keys, return_index=True)[1]] = True
    return is_first
