"""Verification: inferences are measured by the model that wrote them, before anything is trained on them.

Reads the sealed `unverified/` and the documents. Writes `contexts/`, `measured/` (shards of measurements, by the pool's
actors, and an index of them) and `augmentations/`, sealed last: every row of `unverified/` with its numbers, and
rejected ones with the reason in `verdict`. What was measured of an inference before is not measured again.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, groupby, repeat
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from augment_service import alternatives
from augment_service.answers.folding import fold
from augment_service.answers.verdicts import KEPT, REPEATED
from augment_service.augment import AUGMENTATIONS, CONTEXTS, ROWS_PER_BATCH, UNVERIFIED, frame_of
from augment_service.chat import Frame
from augment_service.contexts import ALL, ContextReader, ContextSpec, write_contexts
from augment_service.distillation import prompt_fields
from augment_service.documents import open_documents
from augment_service.engines.protocol import Engine
from augment_service.jobs import OnRow, RowAnswer, ShardedJob, rewrite_folder, row_ranges
from augment_service.ledger import Ledger, index_shards
from augment_service.verifiers import (
    CONTRADICTED,
    ENGINE_VERIFIERS,
    NUM_ORDERS,
    RESTATING,
    VERDICTS,
    Evidence,
    Sentences,
    Value,
    distinct,
    grounded,
    overlap,
    premises,
    premises_of,
    words_of,
)
from data.errors import InputError
from data.records import Augmentation, Document, Measurement, Refusal, ScoreItem
from data.rendering import DOCUMENT, SENTENCE, PromptBook, Template
from data.seeds import fingerprint, stream
from data.sentences import split_sentences
from data.store import list_shards, read_records, read_table

MEASURED = "measured"
ROWS_PER_UNIT = 512
_DOCUMENTS_HELD = 4096  # of which the words of sentences are kept
AUTO, NONE = "auto", "none"
# Of "auto", which lost no true inference that was seen: docs/verification.md.
DEFAULTS = "premises=0.7,grounded=0.8,distinct=1,overlap=0.4"
VERSION = 1  # of what is asked and of the values: raise it when the same inference would get other ones
_ALL = "an inference is rejected if its number is below the threshold"


@dataclass(frozen=True, slots=True)
class Threshold:
    """The least value of what is kept: a number, or the quantile of all that was measured of a method."""

    number: float
    is_quantile: bool = False

    def bound(self, values: Sequence[float]) -> float:
        """The least value that is kept of these; NaN does not count. A quantile is one of the values."""
        known = np.asarray([value for value in values if not math.isnan(value)])
        if not self.is_quantile or not len(known):
            return self.number if not self.is_quantile else -math.inf
        return float(np.quantile(known, self.number, method="lower"))

    def __str__(self) -> str:
        return f"{'q' * self.is_quantile}{self.number:g}"


@dataclass(frozen=True)
class VerifyPlan:
    """Which verifiers reject what, by name, and the methods whose inferences are verified.

    `restating` are those that say one sentence in other words: the verifiers of `RESTATING` are for them alone.
    """

    thresholds: Mapping[str, Threshold]
    methods: tuple[str, ...]
    restating: tuple[str, ...] = ()

    def verified_by(self, name: str) -> tuple[str, ...]:
        """The methods whose inferences a verifier measures."""
        return self.restating if name in RESTATING else self.methods

    @property
    def asked(self) -> tuple[str, ...]:
        """The verifiers that an engine is asked for."""
        return tuple(name for name in ENGINE_VERIFIERS if name in self.thresholds)

    @property
    def key(self) -> str:
        """Names everything that decides the verdicts, but for the measurements."""
        found = [f"{name}={threshold}" for name, threshold in sorted(self.thresholds.items())]
        return fingerprint("verify", VERSION, alternatives.VERSION, *found, "", *self.methods, "", *self.restating)


def parse_verifiers(text: str, *, where: str) -> dict[str, Threshold]:
    """The thresholds in "support=0.1,agreement=q0.2" by verifier; none for "none". Raises InputError."""
    if text == NONE:
        return {}
    found: dict[str, Threshold] = {}
    for part in (DEFAULTS if text == AUTO else text).split(","):
        name, _, number = map(str.strip, part.partition("="))
        is_quantile = number.startswith("q")
        try:
            threshold = Threshold(float(number.removeprefix("q")), is_quantile)
        except ValueError:
            threshold = Threshold(math.nan)
        if name not in VERDICTS or name in found:
            what = f'"{name}" is given twice' if name in found else f'unknown verifier "{name}"'
            hint = f"choose among {', '.join(VERDICTS)}, each as NAME=NUMBER; or auto, or none"
            raise InputError(what, where=where, hint=hint)
        if not math.isfinite(threshold.number) or (is_quantile and not 0 <= threshold.number <= 1):
            hint = f"write {name}=0.5, or {name}=q0.2 for the fifth with the least; {_ALL}"
            raise InputError(f'"{number}" is no threshold', where=where, hint=hint)
        found[name] = threshold
    return found


def verified_methods(book: PromptBook, asked: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """The methods among `asked` that are verified: the `wanted` ones, or those with documents in context."""
    selected = book.select(asked)
    chosen = {one.method for one in book.select(wanted)} if wanted else None
    return tuple(one.method for one in selected if (one.family.in_context if chosen is None else one.method in chosen))


def restating_methods(book: PromptBook, asked: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """The methods among `asked`, and among the `wanted` ones if there are any, that see nothing but one sentence."""
    chosen = {one.method for one in book.select(wanted or asked)}
    return tuple(
        one.method
        for one in book.select(asked)
        if one.method in chosen and SENTENCE in one.placeholders and DOCUMENT not in one.placeholders
        if not one.family.in_context
    )


@dataclass(frozen=True)
class VerifyTask:
    """Kept inferences of some methods to measurements, in the actor.

    `shared` has the contexts in which documents of a corpus precede statements, `prompted` those of (method, corpus)
    in which they precede prompts. `documents` is the folder of the documents, `ledger` the index of what is measured.
    """

    verifiers: tuple[str, ...]
    templates: Mapping[str, Template]
    frames: Mapping[str, Frame]
    book: PromptBook
    shared: Mapping[str, str]
    prompted: Mapping[tuple[str, str], str]
    documents: str
    model: str
    ledger: str = ""

    asked: ClassVar[type] = Augmentation
    answered: ClassVar[type] = Measurement

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """The measurements of each kept row of the methods, nothing for the others."""
        ledger = _open_ledger(self.ledger)
        found: list[dict[str, Measurement | Refusal]] = [{} for _ in rows]
        items: list[ScoreItem] = []
        places: list[tuple[int, str, int]] = []  # of each item: its row, its verifier, its number there
        answers: dict[tuple[int, str], list[Any]] = {}
        for at, row in enumerate(rows):
            wanted = self.verifiers if row.verdict == KEPT and row.method in self.templates else ()
            evidence = self._evidence(row) if wanted else None
            for name in wanted:
                if known := ledger.find(self._id(row, name)):
                    found[at][name] = known[0]
                    continue
                assert evidence is not None
                own = ENGINE_VERIFIERS[name].items(evidence)
                answers[at, name] = [None] * len(own)
                places += [(at, name, number) for number in range(len(own))]
                items += own
        left = Counter(at for at, _, _ in places)

        def end(at: int) -> None:
            values = found[at].values()
            measured = tuple(value for value in values if isinstance(value, Measurement))
            on_row(at, RowAnswer(measured, tuple(value for value in values if isinstance(value, Refusal))))

        def on_answer(number: int, answer: Any) -> None:
            at, name, place = places[number]
            answers[at, name][place] = answer
            left[at] -= 1
            if not left[at]:
                for verifier in self.verifiers:
                    if (at, verifier) in answers:
                        found[at][verifier] = self._measurement(rows[at], verifier, answers.pop((at, verifier)))
                end(at)

        for at in range(len(rows)):
            if not left[at]:
                end(at)
        engine.score(items, on_answer)

    def _measurement(self, row: Augmentation, name: str, answers: Sequence[Any]) -> Measurement | Refusal:
        value = ENGINE_VERIFIERS[name].value(answers)
        if isinstance(value, Value):
            return Measurement(self._id(row, name), row.augmentation_id, name, value.value, value.log_likelihood)
        return value

    def _id(self, row: Augmentation, name: str) -> str:
        """Names all that decides a measurement."""
        is_global = self.templates[row.method].is_global
        prompted = name == "confidence"
        path = self.prompted.get((row.method, row.corpus)) if prompted else self.shared.get(row.corpus)
        read = [Path(path).stem] if path and is_global else self._texts(row)
        how = (VERSION, alternatives.VERSION, NUM_ORDERS, name, self.model, self.book.in_context(["\x00"]))
        return fingerprint("measure", *how, row.augmentation_id, row.prompt, row.text, *read, *self.frames[row.method])

    def _evidence(self, row: Augmentation) -> Evidence:
        """The documents of an inference: the whole context that it was written with, or its own sources.

        Where all documents of a corpus were in context, any of them may be what the inference follows from.
        """
        template, texts = self.templates[row.method], self._texts(row)
        prompts: list[tuple[str, str]] = []
        if "confidence" in self.verifiers:
            filled = prompt_fields(row, template, self.documents)
            path = self.prompted.get((row.method, row.corpus))
            orders = _orders(path, self.documents, row.corpus) if path else ()
            contexts = [template.shared_context(order) for order in orders]
            if not contexts:
                own = template.family.in_context
                contexts = [template.shared_context(texts) if own else template.own_context(filled)]
            prompts = [(context, template.prompt(filled)) for context in contexts]
        shared = self.shared.get(row.corpus) if template.is_global else None
        context = ContextReader(Path(shared)).text_for().text if shared else self.book.in_context(texts)
        joiner = "\n" if row.form == "chat" else " "
        return Evidence(
            row,
            context,
            self.book.in_context([]),
            tuple(prompts),
            self.frames[row.method],
            joiner if row.prompt else "",
        )

    def _texts(self, row: Augmentation) -> list[str]:
        """The sources of a row; of the first one the part that was asked about."""
        texts = [open_documents(self.documents).read(doc_id).text for doc_id in row.sources]
        if row.span and texts:
            texts[0] = texts[0][slice(*row.span)].strip()
        return texts


@lru_cache(maxsize=8)
def _orders(path: str, documents: str, corpus: str) -> tuple[tuple[str, ...], ...]:
    """The documents of a context as they stand there, and in other orders."""
    context = ContextReader(Path(path)).text_for()
    texts = tuple(open_documents(documents).read(doc_id).text for doc_id in context.doc_ids)
    rng = stream(0, "orders", corpus, context.context_id)
    return (texts, *(tuple(rng.sample(texts, len(texts))) for _ in range(NUM_ORDERS - 1)))


@lru_cache(maxsize=2)
def _open_ledger(index: str) -> Ledger[Measurement]:
    return Ledger.open(index, Measurement, "measurement_id")


def plan_verification(
    documents: Path,
    out: Path,
    book: PromptBook,
    plan: VerifyPlan,
    *,
    model: str,
    context: ContextSpec,
    seed: int,
    tokenizer: str = "",
    measured: Path | None = None,
) -> list[ShardedJob]:
    """The job that measures the rows of `unverified/`; none if no verifier needs an engine.

    `model` is the scoring model's fingerprint, `context` and `seed` those of the augmentation. `measured` is the folder
    of the shards (default: in `out`), which other verifications may share.
    """
    ranges = row_ranges(out / UNVERIFIED, rows_per_unit=ROWS_PER_UNIT)
    if not plan.asked or not ranges:
        return []
    corpora = list(dict.fromkeys(rows.corpus for rows in ranges))
    templates = {one.method: one for one in book.templates if one.method in plan.methods}

    def write(render: Any) -> dict[str, Path]:
        return write_contexts(documents, corpora, context, render, out / CONTEXTS, seed=seed)

    # A context of related documents is not kept: those rows have the documents among their sources.
    shared = [one for one in templates.values() if one.is_global and context.kind in ("all", "sample")]
    prompted = {
        (one.method, corpus): str(path)
        for one in shared
        if "confidence" in plan.asked
        for corpus, path in write(one.shared_context).items()
    }
    folder = measured or out / MEASURED
    task = VerifyTask(
        verifiers=plan.asked,
        templates=templates,
        frames={name: frame_of(one, book, tokenizer) for name, one in templates.items()},
        book=book,
        shared={corpus: str(path) for corpus, path in write(book.in_context).items()} if shared else {},
        prompted=prompted,
        documents=str(documents),
        model=model,
    )
    how = (VERSION, alternatives.VERSION, NUM_ORDERS, model, str(context), seed, book.in_context(["\x00"]))
    key = fingerprint("verify", *how, *plan.asked, *(one.fingerprint for one in templates.values()))
    job = ShardedJob("verify", task, tuple(ranges), folder, key)
    if not job.units():
        return [job]
    index = index_shards(folder, leave_out=job.targets, column="measurement_id")
    return [replace(job, task=replace(task, ledger=index))]


@dataclass(frozen=True)
class Verified:
    """What came of a verification: the rows that were verified, those rejected by verdict, and refused measurements."""

    num_verified: int
    rejected: Mapping[str, int]
    num_refused: int


def seal_verification(
    documents: Path,
    out: Path,
    book: PromptBook,
    plan: VerifyPlan,
    jobs: Sequence[ShardedJob],
    *,
    key: str,
    context: ContextSpec = ALL,
) -> Verified:
    """Write `augmentations/` from `unverified/` and the measurements; `key` names the request.

    `context` is that of the augmentation. Premises are looked for in all documents of a corpus where those, or a sample
    of them, were in context, else in the sources of a row.

    A row that could not be measured, or of which a verifier says nothing, keeps its verdict, with NaN. In memory: for
    each row 8 bytes a verifier, and for `margin` the texts of the verified rows.
    """
    values = _collect(out / UNVERIFIED, book, plan, jobs, _Premises(documents, context))
    rejected = Counter[str]()
    index = 0
    with rewrite_folder(out / AUGMENTATIONS, Augmentation, key=key) as writer:
        for table in _batches(out / UNVERIFIED):
            rows = slice(index, index + table.num_rows)
            index += table.num_rows
            verdicts = table["verdict"].to_pylist()
            for at, verdict in enumerate(values.verdicts[rows]):
                if verdict:
                    verdicts[at] = verdict
                    rejected[verdict] += 1
            for name in plan.thresholds:
                table = _set(table, name, pa.array(values.columns[name][rows]))
            writer.write(_set(table, "verdict", pa.array(verdicts, pa.string())))
            writer.end_if_full()
    return Verified(values.num_verified, rejected, sum(1 for job in jobs for _ in job.refusals()))


def _set(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.append_column(name, column) if place < 0 else table.set_column(place, name, column)


def _batches(folder: Path) -> Iterator[pa.Table]:
    for shard in list_shards(folder):
        table = read_table(shard)
        yield from (table.slice(start, ROWS_PER_BATCH) for start in range(0, table.num_rows, ROWS_PER_BATCH))


def _rows(folder: Path) -> Iterator[Augmentation]:
    return (row for table in _batches(folder) for row in read_records(table, Augmentation))


@dataclass(frozen=True)
class _Values:
    """A number of every row for each verifier, and the verdict of those that are rejected, else ""."""

    columns: Mapping[str, Any]
    verdicts: Sequence[str]
    num_verified: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement at a place among the rows, and how likely it is given its documents (nats per token)."""

    place: int
    text: str
    log_likelihood: float


def contradicted(claims: Sequence[Claim]) -> list[int]:
    """The places of the statements of one corpus that are not in its most probable consistent subset.

    Statements are taken from the likeliest to the least likely, each unless it contradicts one that was taken. Only
    what `augment_service.alternatives` recognises is a contradiction.
    """
    taken: set[str] = set()
    numbers: dict[str, set[str]] = {}
    opposed: set[str] = set()  # all that contradicts what was taken
    rejected = []
    for claim in sorted(claims, key=lambda claim: (-claim.log_likelihood, claim.place)):
        texts, numbered = alternatives.contradictions(claim.text)
        frame, values = numbered or ("", "")
        is_other = bool(frame) and bool(numbers.get(frame, {values}) - {values})
        if fold(claim.text) in opposed or not taken.isdisjoint(texts) or is_other:
            rejected.append(claim.place)
            continue
        taken.add(fold(claim.text))
        opposed |= texts
        numbers.setdefault(frame, set()).add(values)
    return sorted(rejected)


class _Premises:
    """What premises are looked for in: the sentences of a corpus, or those of the documents that a row names."""

    def __init__(self, documents: Path, context: ContextSpec) -> None:
        self._documents, self._context = documents, context
        self._corpus, self._of_corpus = "", Sentences(())
        self._of_document = lru_cache(maxsize=_DOCUMENTS_HELD)(self._read)

    def share(self, found: Sequence[str], row: Augmentation, template: Template) -> float:
        """The least share of a premise's words that one sentence has."""
        if template.family.about or self._context.kind not in ("all", "sample"):
            return premises(found, Sentences(chain.from_iterable(map(self._of_document, row.sources))))
        if self._corpus != row.corpus or not self._corpus:  # one corpus is in memory at a time
            self._corpus, self._of_corpus = row.corpus, Sentences(self._sentences_of(row.corpus))
        return premises(found, self._of_corpus)

    def _read(self, doc_id: str) -> list[frozenset[str]]:
        document = open_documents(str(self._documents)).read(doc_id)
        return list(map(words_of, split_sentences(document.text, document.outline)))

    def _sentences_of(self, corpus: str) -> Iterator[frozenset[str]]:
        for rows in row_ranges(self._documents, rows_per_unit=ROWS_PER_BATCH, corpora=[corpus]):
            table = read_table(Path(rows.shard)).slice(rows.start, rows.stop - rows.start)
            for document in read_records(table, Document):
                yield from map(words_of, split_sentences(document.text, document.outline))


def _collect(
    folder: Path, book: PromptBook, plan: VerifyPlan, jobs: Sequence[ShardedJob], evidence: _Premises
) -> _Values:
    verified = {*plan.methods, *plan.restating}
    templates = {one.method: one for one in book.templates if one.method in verified}
    columns: dict[str, list[float]] = {name: [] for name in plan.thresholds}
    members: dict[str, list[int]] = {}
    claims: dict[str, list[Claim]] = {}
    shares = agreements(_rows(folder)) if "agreement" in columns else repeat(math.nan)
    num_rows = 0
    for at, ((row, own), share) in enumerate(zip(_measured(folder, jobs), shares, strict=False)):
        num_rows += 1
        template = templates.get(row.method) if row.verdict == KEPT else None
        for name, column in columns.items():
            is_for = row.method in plan.verified_by(name)
            column.append(_value(name, row, own, share, template if is_for else None, evidence))
        if template is not None:
            members.setdefault(row.method, []).append(at)
        if template is not None and "margin" in own:
            claims.setdefault(row.corpus, []).append(Claim(at, row.text, own["margin"].log_likelihood))
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    verdicts = [""] * num_rows
    for name in (name for name in VERDICTS if name in arrays):
        for places in members.values():
            bound = plan.thresholds[name].bound(arrays[name][places].tolist())
            for at in places:
                if arrays[name][at] < bound:  # never NaN
                    verdicts[at] = verdicts[at] or VERDICTS[name]
    for found in claims.values():
        for at in contradicted([claim for claim in found if not verdicts[claim.place]]):
            verdicts[at] = CONTRADICTED
    return _Values(arrays, verdicts, sum(map(len, members.values())))


def _value(
    name: str,
    row: Augmentation,
    own: Mapping[str, Measurement],
    share: float,
    template: Template | None,
    evidence: _Premises,
) -> float:
    """The number of one row; NaN if the row is not verified, or a verifier says nothing of it."""
    if template is None:
        return math.nan
    if name in ENGINE_VERIFIERS:
        return own[name].value if name in own else math.nan
    if name == "agreement":
        return share
    if name == "distinct":
        return distinct(row.text)
    if name == "overlap":
        return overlap(row.text, row.sentence)
    found = premises_of(row.reasoning, template.answer_after)
    if not found:
        return math.nan
    if name == "grounded":
        return grounded(row.text, [row.sentence, *row.about, *found]) if row.sentence else math.nan
    return evidence.share(found, row, template)


def _measured(folder: Path, jobs: Sequence[ShardedJob]) -> Iterator[tuple[Augmentation, dict[str, Measurement]]]:
    """Every row with its measurements, range by range."""
    if not jobs:
        yield from ((row, {}) for row in _rows(folder))
    for job in jobs:
        for rows, table in zip(job.ranges, job.tables(), strict=True):
            found: dict[str, dict[str, Measurement]] = {}
            for one in read_records(table, Measurement):
                found.setdefault(one.augmentation_id, {})[one.verifier] = one
            shard = read_table(Path(rows.shard)).slice(rows.start, rows.stop - rows.start)
            for row in read_records(shard, Augmentation):
                yield row, found.get(row.augmentation_id, {})


def agreements(rows: Iterable[Augmentation]) -> Iterator[float]:
    """For each row the share of its target's samples that contain its text, case and marks at the ends apart.

    The rows of a target, the same method, documents and place, follow each other, as they are written. A sample that
    was refused is none; one that was rejected, unless as a repetition, contains nothing.
    """

    def target(row: Augmentation) -> tuple[Any, ...]:
        return row.corpus, row.method, row.sources, row.sentence, row.about, row.span

    for _, group in groupby(rows, target):
        members = list(group)
        samples: dict[str, set[str]] = {}
        for row in members:
            texts = samples.setdefault(row.prompt_id, set())
            if row.verdict in (KEPT, REPEATED):
                texts.add(fold(row.text))
        counts = Counter(text for texts in samples.values() for text in texts)
        yield from (counts[fold(row.text)] / len(samples) for row in members)
