"""The augmentation stage: documents in, inferences out.

Reads a sealed folder of documents. Writes `contexts/`, `parts/` (a shard for each method and range of documents, by the
pool's actors, and an index of all prompts that are answered there) and `augmentations/`, sealed last. A shard that
exists is not computed again, and a prompt that any shard answers is not asked again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from augment_service.answers.verdicts import ASKED, EMPTY, KEPT, REPEATED, UNPARSED
from augment_service.chat import NO_FRAME, Frame, frame
from augment_service.contexts import (
    ALL,
    ContextReader,
    ContextSpec,
    fit_documents,
    related_context,
    write_contexts,
)
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
    document_fields,
    document_targets,
    parse_generation,
    sentence_targets,
)
from augment_service.model_free import plan_model_free
from augment_service.related.index import INDEX, open_index, opened
from augment_service.repeats import RepeatFinder
from augment_service.tokens import check_context, load_once, token_counter
from data.chunks import chunk_spans
from data.errors import InputError
from data.facts import QuestionFinder
from data.records import Augmentation, Context, Document, Generation, Prompt, Question, Refusal
from data.rendering import DOCUMENT, MODEL_FREE, SENTENCE, PromptBook, Template
from data.seeds import fingerprint
from data.store import content_of, list_shards, read_folder, read_manifest, read_table, write_shard

AUGMENTATIONS, CONTEXTS, PARTS = "augmentations", "contexts", "parts"
UNVERIFIED = "unverified"  # all rows before the verification, where one follows
DOCUMENTS_PER_UNIT = 128
ROWS_PER_BATCH = 1024  # of the final pass: what it has in memory
_SEAM = 8  # tokens by which parts that are counted one by one may differ from their whole
_FEW_ROWS = 50  # of fewer rows nothing follows about the model
_LEAST_READABLE = 0.01
_LEAST_ROOM = 16  # tokens
_MARKS = frozenset("?？؟")

Written = Generation | Refusal | tuple[Augmentation, ...]
Asked = tuple[Prompt, Target]


@dataclass(frozen=True)
class AugmentTask:
    """Documents to inferences by one template, in the actor. `contexts` has a shard per corpus for global templates.

    `frame` is the chat template around each prompt; `proposal` and its frame are asked first, where the template is
    asked with what they answer. Documents are cut to what fits `window` tokens of the tokenizer in the folder
    `tokenizer`. `ledger` is the index of prompts that are answered already. `related` has the folders of an index of
    related documents and of these documents, for contexts that depend on the document. Of each document `most` prompts
    are asked (0: all), spread over it. What the model writes is kept in the folder `raw`, if there is one, as it is.
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
    context: ContextSpec = ALL
    related: tuple[str, str] = ("", "")
    most: int = 0
    raw: str = ""

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

    def stages(
        self, document: Document, propose: Callable[[Sequence[Asked]], Iterable[Augmentation]]
    ) -> Iterator[tuple[Template, list[Asked]]]:
        """The prompts about a document, by template; `propose` has the answers to those that are asked first."""
        if self.proposal is None:
            yield self.template, self._prompts(document, self.targets(document))
            return
        asked = self._prompts(document, self.targets(document), self.proposal, self.proposal_frame)
        yield self.proposal, asked
        yield self.template, self._prompts(document, self._chosen(document, propose(asked)))

    def targets(self, document: Document) -> Iterator[Target]:
        """What the prompts of a document are about, without what has to be proposed first."""
        if self.template.family.in_context and self.template.family.about:
            return self._groups(document)
        if SENTENCE in self.template.placeholders:
            found = sentence_targets(document)
        else:
            found = document_targets(document, self._spans(document))
        if not self._has_own_context:
            shared = self._shared(document.corpus) or NO_CONTEXT
            return (replace(target, context=shared) for target in found)
        return self._linked(document, list(found))

    @property
    def _has_own_context(self) -> bool:
        """Whether the documents in context depend on the one that is asked about."""
        return self.template.family.in_context and bool(self.related[0])

    def _linked(self, document: Document, targets: Sequence[Target]) -> Iterator[Target]:
        """The targets with the documents in context that are related to theirs; none where no document is."""
        index = opened(*self.related)
        (row,) = index.rows_of([document.doc_id])
        budget, count = None, token_counter(self.tokenizer)
        if self.window is not None and self.tokenizer:
            longest = max(count([target.fields[DOCUMENT] for target in targets]), default=0)
            budget = self.window - self._overhead(document.corpus) - longest
        context = related_context(
            index,
            row,
            self.context,
            self.template.shared_context,
            budget=budget,
            count_tokens=count,
            seed=self.plan.seed,
        )
        others = tuple(doc_id for doc_id in context.doc_ids if doc_id != document.doc_id)
        if others:
            for target in targets:
                yield replace(target, context=context, sources=(document.doc_id, *others))

    def _groups(self, document: Document) -> Iterator[Target]:
        """A target for each group of entities of the document, with the documents that hold them in context."""
        index, names = opened(*self.related), self.template.family.about
        (row,) = index.rows_of([document.doc_id])
        budget = self.window - self._overhead(document.corpus) if self.window is not None and self.tokenizer else None
        for group in index.groups(row, len(names), self.plan.per_document, self.plan.seed):
            texts, ids = index.documents.texts(group.rows), index.documents.ids(group.rows)
            if budget is not None:
                texts = fit_documents(texts, budget, token_counter(self.tokenizer))
            text = self.template.shared_context(texts)
            context = Context(fingerprint("context", text), text, tuple(ids[: len(texts)]))
            fields = document_fields(document) | dict(zip(names, group.entities, strict=True))
            yield Target(0, fields, document.text, context.doc_ids, about=group.entities, context=context)

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
        asked = [
            (prompt, target)
            for target in targets
            for prompt in build_prompts(document, target, template, self.plan, self.model, around)
        ]
        if not self.most or len(asked) <= self.most:
            return asked
        return [asked[len(asked) * number // self.most] for number in range(self.most)]

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
        answers = engine.generate(prompts, on_answer)
        if self.raw and answers:
            keep_raw(Path(self.raw), answers)

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
        if self._has_own_context:  # the other half is for the documents that it is linked with
            budget //= 2
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
        number = (self.plan.per_document,) if self.template.family.about else ()
        most = (f"at most {self.most}",) if self.most else ()
        return fingerprint(VERSION, *(part.fingerprint for part in parts), *asked, *limits, *number, *most)

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
def _open_ledger(index: str) -> Ledger[Augmentation]:
    return Ledger.open(index, Augmentation)


def keep_raw(folder: Path, answers: Sequence[Generation | Refusal]) -> None:
    """Write what the model wrote as a shard of the folder."""
    written = [answer for answer in answers if isinstance(answer, Generation)]
    name = fingerprint(*(answer.prompt_id for answer in written))
    write_shard(folder / f"{name}.arrow", Generation, written)


def is_augmented(out: Path, jobs: Sequence[ShardedJob], *checks: str) -> bool:
    """Whether the stage's output is complete, and that of these jobs; `checks` name what rejects rows besides."""
    return read_manifest(out / AUGMENTATIONS).get("key") == request_key(jobs, *checks)


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
    ranges: Sequence[RowRange] | None = None,
    on_index: Callable[[int], None] = lambda _: None,
) -> list[ShardedJob]:
    """One job for each method and, for global ones with a shared context, each corpus.

    Writes contexts, the ledger's index, and an index of related documents if the context needs one (`on_index` is
    called with the number of documents indexed so far).

    `model` is the model's fingerprint. `parts` is the folder of the shards (default: in `out`), which other
    augmentations may share. `ranges` are the rows to ask about (default: all); contexts are of all documents in any
    case. Raises InputError where a context does not fit into `window` tokens of the tokenizer in the
    folder `tokenizer` (None, "": not checked).
    """
    ranges = row_ranges(documents, rows_per_unit=DOCUMENTS_PER_UNIT) if ranges is None else ranges
    if not ranges:
        hint = "name a folder with at least one document"
        raise InputError("there are no documents", where=str(documents), hint=hint)
    if context.kind not in ("all", "sample", "nearest", "bundle"):
        hint = "use all, sample:K, nearest:N or bundle:N"
        raise InputError(f'global methods cannot use the context "{context}"', where="--context", hint=hint)
    by_corpus: dict[str, list[RowRange]] = {}
    for rows in ranges:
        by_corpus.setdefault(rows.corpus, []).append(rows)
    parts, jobs = parts or out / PARTS, []
    for template in book.select(plan.methods):
        task = make_task(template, book, plan, model=model, window=window, tokenizer=tokenizer)
        if template.family.in_context and (template.family.about or context.kind in ("nearest", "bundle")):
            index = open_index(documents, out / INDEX, on_index)
            task = replace(task, context=context, related=(str(index.folder), str(documents)))
            task.check_room("")
            key = fingerprint(task.key, content_of(documents), "" if template.family.about else context)
            jobs.append(ShardedJob(template.method, task, tuple(ranges), parts, key))
            continue
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
    """The jobs with an index of the prompts that other shards answer; unchanged if no unit is left."""
    if not any(job.units() for job in jobs):
        return list(jobs)
    index = index_shards(parts, leave_out=[target for job in jobs for target in job.targets])
    return [replace(job, task=replace(job.task, ledger=index)) for job in jobs]  # type: ignore[type-var]


def frame_of(template: Template, book: PromptBook, tokenizer: str) -> Frame:
    """What is around the prompts of a template: worked examples, and in a book for chats the chat template.

    That is the one of the `tokenizer` in a folder; with "", at an endpoint that has its own, all is text of one turn.
    """
    if book.chat and tokenizer:
        where = f"method {template.method}"
        return frame(load_once(Path(tokenizer)), template.system, template.turns, where=where)
    return Frame(template.worked_examples)


def seal_augmentations(
    documents: Path, out: Path, jobs: Sequence[ShardedJob], name: str = AUGMENTATIONS, *, tests: Path | None = None
) -> int:
    """Write the folder `name` from the jobs' shards, whose units are all done; returns the number of refused prompts.

    Of rows in a corpus that say the same the first stays kept, unless a document says it; the verdict of the others
    becomes "repeated", as `augment_service.repeats` finds it. Rows of a family without a model are compared with each
    other alone, so that an arm that learns it has all of them. A row that asks a question of the sealed folder `tests`,
    or was written around it, becomes a "test question". Raises InputError if every prompt was refused,
    or if next to nothing could be read.
    """
    refused = refuse_if_all(jobs, "prompt")
    with TemporaryDirectory(dir=out, prefix=".repeats-") as scratch:
        finder = RepeatFinder(Path(scratch) / "signatures")
        for batch in (batch for shard in list_shards(documents) for batch in _batches(read_table(shard))):
            finder.find(batch.select(["corpus", "text"]))
        asked = _TestQuestions(tests, documents)
        with rewrite_folder(out / name, Augmentation, key=request_key(jobs, tests_key(tests))) as writer:
            for table in (batch for job in jobs for shard in job.tables() for batch in _batches(shard)):
                again = pa.array(finder.find(_compared(table)))
                verdicts = pc.if_else(again, REPEATED, pc.if_else(asked.are_in(table), ASKED, table["verdict"]))
                writer.write(table.set_column(table.schema.get_field_index("verdict"), "verdict", verdicts))
                writer.end_if_full()
    _refuse_unreadable(out / name)
    return refused


class _TestQuestions:
    """Finds rows that ask a test's question. Questions and documents are read when the first row asks anything."""

    def __init__(self, tests: Path | None, documents: Path) -> None:
        self._tests, self._documents = tests, documents

    @cached_property
    def _finders(self) -> tuple[QuestionFinder, QuestionFinder]:
        """One of all questions, and one of those with a question mark."""
        assert self._tests is not None
        texts = [text for shard in list_shards(self._documents) for text in read_table(shard)["text"].to_pylist()]
        questions = list(read_folder(self._tests, Question))
        marked = [question for question in questions if not _MARKS.isdisjoint(question.prompt)]
        return QuestionFinder(questions, texts), QuestionFinder(marked, texts)

    def are_in(self, table: pa.Table) -> pa.Array:
        """Of each row, whether it is kept so far and asks such a question.

        Questions without a question mark ("The mill was built in") are beginnings of statements. A text that contains
        one is a statement and does not count.
        """
        if self._tests is None:
            return pa.array([False] * table.num_rows)
        columns = (table[name].to_pylist() for name in ("verdict", "prompt", "about", "text"))
        return pa.array([row[0] in (KEPT, PROPOSED) and self._asks(*row[1:]) for row in zip(*columns, strict=True)])

    def _asks(self, prompt: str, about: Sequence[str], text: str) -> bool:
        if any(self._finders[0].find(one) for one in (prompt, *about) if one):
            return True
        return not _MARKS.isdisjoint(text) and bool(self._finders[1].find(text))


def tests_key(tests: Path | None) -> str:
    """Names the questions of a sealed folder, "" for none."""
    return content_of(tests) if tests else ""


def _compared(table: pa.Table) -> pa.Table:
    """What rows are compared by. Rows of a family without a model have a corpus of their own, after each prompt."""
    family = pc.replace_substring_regex(table["method"], "/.*", "")
    own = pc.binary_join_element_wise(table["corpus"], family, table["prompt"], "\x1f")
    is_free = pc.is_in(table["method"], value_set=pa.array(MODEL_FREE))
    columns = [pc.if_else(is_free, own, table["corpus"]), table["text"], table["verdict"], table["prompt"]]
    return pa.table(columns, names=["corpus", "text", "verdict", "question"])


def request_key(jobs: Sequence[ShardedJob], *checks: str) -> str:
    """Names the rows of some jobs, and what rejects rows besides; empty names do not count."""
    return fingerprint(*(target.name for job in jobs for target in job.targets), *filter(None, checks))


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
