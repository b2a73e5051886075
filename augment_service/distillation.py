"""Context distillation: the distributions of the model that wrote an inference, given all that preceded it.

Reads the sealed `augmentations/` of `augment_service.augment`. Writes `teacher/` (shards of distributions, by the
pool's actors), sealed last. A shard that exists is not computed again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from augment_service.answers.verdicts import KEPT
from augment_service.augment import AUGMENTATIONS, CONTEXTS, frame_of
from augment_service.chat import Frame
from augment_service.contexts import ContextReader, ContextSpec, write_contexts
from augment_service.documents import open_documents
from augment_service.engines.protocol import Engine, TokenEngine
from augment_service.jobs import OnRow, RowAnswer, ShardedJob, refuse_if_all, rewrite_folder, row_ranges
from augment_service.methods import document_fields
from augment_service.model_free import chat_methods
from data.errors import InputError
from data.records import Augmentation, DistillationExample, Distribution
from data.rendering import (
    DOCUMENT,
    HEADING,
    LANGUAGE,
    MODEL_FREE,
    SENTENCE,
    PromptBook,
    Template,
    select_model_free,
)
from data.seeds import fingerprint
from data.store import claim, is_sealed

TEACHER, PARTS = "teacher", "teacher-parts"
ROWS_PER_UNIT = 512


@dataclass(frozen=True)
class DistillationTask:
    """Kept inferences to distributions, in the actor. `contexts` has a shard for each (global method, corpus).

    `frames` has what is around the prompts of each method; `documents` is the folder of the documents.
    """

    templates: Mapping[str, Template]
    frames: Mapping[str, Frame]
    contexts: Mapping[tuple[str, str], str]
    num_top: int
    documents: str = ""

    asked: ClassVar[type] = Augmentation
    answered: ClassVar[type] = Distribution

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """A distribution for each kept row, nothing for the others."""
        if not isinstance(engine, TokenEngine):
            raise InputError("this engine has no distributions", where="--engine", hint="use a vllm engine")
        kept = [row for row, inference in enumerate(rows) if inference.verdict == KEPT]
        for row in set(range(len(rows))) - set(kept):
            on_row(row, RowAnswer(()))
        engine.distill(
            [self._example(rows[row]) for row in kept], lambda at, answer: on_row(kept[at], RowAnswer.of(answer))
        )

    def _example(self, row: Augmentation) -> DistillationExample:
        if row.prompt or row.form == "chat" or row.method in MODEL_FREE:
            raise _not_written(f"{row.method}, of inference {row.augmentation_id}")
        template, path = self.templates.get(row.method), self.contexts.get((row.method, row.corpus))
        shared = ContextReader(Path(path)).text_for() if path else None
        if template is None or template.fingerprint != row.template or (shared and shared.context_id != row.context_id):
            raise InputError(
                f"the prompt of {row.method} was another one when the inference was written",
                where=f"inference {row.augmentation_id}",
                hint="use the prompts, --context and --seed of that augmentation",
            )
        fields = prompt_fields(row, template, self.documents)
        before, after = self.frames[row.method]
        return DistillationExample(
            row.augmentation_id,
            shared.text if shared else template.own_context(fields),
            template.prompt(fields),
            row.text,
            self.num_top,
            reasoning=row.reasoning if after else f" {row.reasoning}".rstrip(),
            before=before,
            after=after,
        )


def prompt_fields(row: Augmentation, template: Template, documents: str) -> dict[str, str]:
    """What the prompt of an inference was filled with; `documents` is the folder of the documents."""
    fields = {SENTENCE: row.sentence} | dict(zip(template.family.about, row.about, strict=True))
    if template.placeholders & {DOCUMENT, HEADING, LANGUAGE}:
        document = open_documents(documents).read(row.sources[0])
        text = document.text[slice(*row.span)] if row.span else document.text
        fields |= document_fields(document) | {DOCUMENT: document.text if row.sentence else text.strip()}
    return fields


def check_distillable(book: PromptBook, methods: Sequence[str]) -> None:
    """Raise InputError for methods whose rows are no plain text that a model has written."""
    if unfit := chat_methods(book, methods) + select_model_free(methods):
        raise _not_written(", ".join(dict.fromkeys(unfit)))


def _not_written(methods: str) -> InputError:
    return InputError(
        f"distributions are those of plain texts that the model wrote; these rows are none: {methods}",
        where="--teacher-top-k",
        hint="leave these methods out; answers to questions are plain texts with a prompt book that gives them a row",
    )


def is_distilled(out: Path) -> bool:
    """Whether the distributions are complete."""
    return is_sealed(out / TEACHER)


def plan_distillation(
    documents: Path,
    out: Path,
    book: PromptBook,
    *,
    num_top: int,
    model: str,
    context: ContextSpec,
    seed: int,
    tokenizer: str = "",
) -> list[ShardedJob]:
    """The job that asks for the `num_top` likeliest tokens at each position of every kept inference.

    `tokenizer` is a folder with the chat template for a book for chats. Raises InputError if the folder's distributions
    have another `num_top`.
    """
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    claim(out / PARTS, fingerprint("distillation", num_top))
    ranges = row_ranges(out / AUGMENTATIONS, rows_per_unit=ROWS_PER_UNIT)
    corpora = list(dict.fromkeys(rows.corpus for rows in ranges))
    templates = {template.method: template for template in book.templates}
    frames = {name: frame_of(template, book, tokenizer) for name, template in templates.items()}
    contexts = {
        (template.method, corpus): str(path)
        for template in book.templates
        if template.is_global and corpora
        for corpus, path in write_contexts(
            documents, corpora, context, template.shared_context, out / CONTEXTS, seed=seed
        ).items()
    }
    task = DistillationTask(templates, frames, contexts, num_top, str(documents))
    key = ("distillation", num_top, model, *chain.from_iterable(frame for frame in frames.values() if any(frame)))
    return [ShardedJob("distill", task, tuple(ranges), out / PARTS, fingerprint(*key))]


def seal_distillation(out: Path, jobs: Sequence[ShardedJob]) -> int:
    """Write `teacher/` from the jobs' shards; returns how many examples were refused.

    Raises InputError if there is no distribution at all.
    """
    refused = refuse_if_all(jobs, "inference")
    if not any(table.num_rows for job in jobs for table in job.tables()):
        raise InputError(
            "no inference was kept, so there is nothing to distill",
            where=str(out / AUGMENTATIONS),
            hint="see the verdicts there; try other methods or more samples",
        )
    with rewrite_folder(out / TEACHER, Distribution) as writer:
        for job in jobs:
            for table in job.tables():
                if table.num_rows:
                    writer.write(table)
                    writer.end_if_full()
    return refused
