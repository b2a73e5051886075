"""Where an inference comes from: its row, the documents that it is about, the prompt that was asked.

Reads what an augmentation leaves in its folder: rows, contexts, documents. Writes `templates/FINGERPRINT.json`, a
template and what surrounds its prompts for each model, and `origin.json`, the folder of the documents; both when the
work is planned.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from augment_service.augment import AUGMENTATIONS, CONTEXTS, PARTS, AugmentTask
from augment_service.chat import NO_FRAME, Frame
from augment_service.documents import DocumentReader
from augment_service.jobs import ShardedJob
from augment_service.methods import document_fields, name_prompt, place_of, sentence_targets
from augment_service.tokens import token_counter
from data.errors import InputError
from data.records import Augmentation, Context, Document
from data.rendering import DOCUMENT, DOCUMENTS, SENTENCE, Template
from data.seeds import fingerprint
from data.store import is_sealed, list_shards, read_records, read_shard, read_table, write_json

TEMPLATES, ORIGIN = "templates", "origin.json"
_MOST_PARTS, _MOST_SAMPLES = 256, 64  # that are tried, to find out which one a prompt was
_LISTED = 5
Stored = dict[str, Any]


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt as the model saw it, and whether it is known to be exactly the one that was asked.

    Without the template, or without the documents in context, `missing` says so, and the texts are empty.
    """

    before: str = ""
    context: str = ""
    text: str = ""
    after: str = ""
    is_exact: bool = False
    missing: str = ""


def note_origin(out: Path, documents: Path, jobs: Sequence[ShardedJob], model: str) -> None:
    """Store what is needed later to rebuild the prompts of some jobs; `model` is the name of theirs."""
    path = out / ORIGIN
    before: Stored = json.loads(path.read_text()) if path.exists() else {"models": {}}
    models = {**before["models"], **{_task(job).model: model for job in jobs}}
    write_json(path, {"documents": str(documents.absolute()), "models": models})
    for task in map(_task, jobs):
        _store_template(out, task.template, task.frame, task.model)
        if task.proposal:
            _store_template(out, task.proposal, task.proposal_frame, task.model)


def model_name(root: Path, model: str) -> str:
    """The name of the model behind the hash in a row; the hash, if it is not known."""
    path = root / ORIGIN
    stored: Stored = json.loads(path.read_text()) if path.exists() else {"models": {}}
    return str(stored["models"].get(model, model))


def _task(job: ShardedJob) -> AugmentTask:
    task: Any = job.task
    assert isinstance(task, AugmentTask)
    return task


def _store_template(out: Path, template: Template, around: Frame, model: str) -> None:
    path = out / TEMPLATES / f"{template.fingerprint}.json"
    stored: Stored = json.loads(path.read_text()) if path.exists() else {"frames": {}}
    if stored["frames"].get(model) != list(around):
        write_json(path, {"template": template.model_dump(), "frames": {**stored["frames"], model: list(around)}})


def rows_folder(folder: Path) -> tuple[Path, list[Path]]:
    """The folder of an augmentation, given that or the one of its rows, and the shards of its rows.

    Before the folder is sealed they are those of the ledger. Raises InputError if there are none.
    """
    root = folder.absolute().parent if folder.name == AUGMENTATIONS else folder
    if is_sealed(root / AUGMENTATIONS):
        return root, list_shards(root / AUGMENTATIONS, Augmentation)
    shards = sorted((root / PARTS).glob("*.arrow"))
    if not shards:
        raise InputError("no inferences here", where=str(folder), hint="name a folder that `augment` wrote")
    return root, shards


def find_row(folder: Path, prefix: str) -> Augmentation:
    """The row whose id begins so. Raises InputError unless there is exactly one."""
    root, shards = rows_folder(folder)
    found: list[Augmentation] = []
    for shard in shards:
        table = read_table(shard)
        found += read_records(table.filter(pc.starts_with(table["augmentation_id"], prefix)), Augmentation)
    if len(by_id := {row.augmentation_id: row for row in found}) == 1:
        return next(iter(by_id.values()))
    shown = ", ".join(sorted(by_id)[:_LISTED]) + (" ..." if len(by_id) > _LISTED else "")
    what = f"{len(by_id):,} rows begin with {prefix}: {shown}" if by_id else f"no row begins with {prefix}"
    hint = "give more of its id" if by_id else "ids are in the column augmentation_id; `data inspect` shows some"
    raise InputError(what, where=f"--row, {root}", hint=hint)


def rows_of_document(folder: Path, doc_id: str) -> list[Augmentation]:
    """The rows that are about a document. Raises InputError if there are none."""
    root, shards = rows_folder(folder)
    rows: dict[str, Augmentation] = {}
    for shard in shards:
        table = read_table(shard)
        first = pc.list_element(table["sources"], 0)
        own = read_records(table.filter(pc.equal(first, doc_id)), Augmentation)
        rows |= {row.augmentation_id: row for row in own}
    if not rows:
        hint = "name a document by its doc_id, as `data inspect` of the documents shows it"
        raise InputError(f"no inference is about {doc_id}", where=f"--document, {root}", hint=hint)
    return list(rows.values())


def open_sources(root: Path, documents: Path | None = None) -> DocumentReader:
    """The documents that an augmentation is about: those of `documents`, or where they were. Raises InputError."""
    if documents is None:
        path = root / ORIGIN
        if not path.exists():
            raise InputError("it is not known where the documents are", where=str(root), hint="give --documents")
        documents = Path(json.loads(path.read_text())["documents"])
    if not is_sealed(documents):
        hint = "give --documents, if they are elsewhere by now"
        raise InputError("the documents are not here any more", where=str(documents), hint=hint)
    return DocumentReader(documents)


def source_text(row: Augmentation, document: Document) -> str:
    """What of its document an inference is about: the sentence, the span, or all of it."""
    if row.sentence:
        return row.sentence
    return document.text[slice(*row.span)] if row.span else document.text


def rebuild_prompt(root: Path, row: Augmentation, document: Document) -> AskedPrompt:
    """The prompt to which a row is an answer, from its template, its context and its document."""
    path = root / TEMPLATES / f"{row.template}.json"
    if not path.exists():
        return AskedPrompt(missing=f"the template is not stored in {path}")
    stored: Stored = json.loads(path.read_text())
    template = Template.model_validate(stored["template"])
    around = Frame(*stored["frames"].get(row.model, NO_FRAME))
    text = document.text if row.sentence else source_text(row, document).strip()
    fields = {**document_fields(document), DOCUMENT: text, **dict(zip(template.family.about, row.about, strict=False))}
    if row.sentence:
        fields[SENTENCE] = row.sentence
    context = template.own_context(fields)
    if f"{{{DOCUMENTS}}}" in template.context:
        shared = find_context(root / CONTEXTS, row.context_id)
        if shared is None:
            return AskedPrompt(missing=f"the context {row.context_id} is not in {root / CONTEXTS}")
        context = shared.text
    asked = template.prompt(fields)
    is_exact = fingerprint("context", context) == row.context_id and _is_asked(row, document, template, asked, around)
    return AskedPrompt(around.before, context, asked, around.after, is_exact)


def find_context(folder: Path, context_id: str) -> Context | None:
    """The context of that id."""
    for shard in sorted(folder.glob("*.arrow")):
        table = read_table(shard)
        if found := read_records(table.filter(pc.equal(table["context_id"], context_id)), Context):
            return found[0]
    return None


def _is_asked(row: Augmentation, document: Document, template: Template, text: str, around: Frame) -> bool:
    """Whether the id of the row's prompt names this text, as one of the samples about one of the document's parts."""
    asked = (row.context_id, text, row.template, row.temperature, row.seed, row.model)
    places: Iterator[int] = iter(range(_MOST_PARTS))
    if row.sentence:
        places = (target.place for target in sentence_targets(document) if target.sentence == row.sentence)
    return any(
        name_prompt(place_of(template, document, place, row.about, sample), asked, around) == row.prompt_id
        for place in places
        for sample in range(_MOST_SAMPLES)
    )


@dataclass(frozen=True)
class MethodRows:
    """What came of a method: prompts answered, rows by verdict, tokens read and written, documents."""

    prompts: int
    verdicts: dict[str, int]
    read: int
    written: int
    documents: int
    cut: int


def count_methods(shards: Sequence[Path]) -> dict[str, MethodRows]:
    """The rows of some shards by method. One pass over the columns that are counted."""
    found: dict[str, list[Any]] = {}
    for shard in shards:
        table = read_table(shard)
        for method in pc.unique(table["method"]).to_pylist():
            own = table.filter(pc.equal(table["method"], method))
            counts = found.setdefault(method, [0, {}, 0, 0, 0, 0])
            counts[0] += pc.sum(pc.equal(own["place"], 0)).as_py() or 0
            for entry in own["verdict"].value_counts().to_pylist():
                counts[1][entry["values"]] = counts[1].get(entry["values"], 0) + entry["counts"]
            if "tokens" in own.column_names:
                tokens = own.filter(pc.equal(pc.list_value_length(own["tokens"]), 2))["tokens"]
                for number in range(2):
                    counts[2 + number] += pc.sum(pc.list_element(tokens, number)).as_py() or 0
            documents = pc.list_element(own["sources"], 0)
            counts[4] += _num_runs(documents)
            counts[5] += _num_runs(documents.filter(pc.greater(pc.list_value_length(own["span"]), 0)))
    return {method: MethodRows(*counts) for method, counts in found.items()}


def _num_runs(column: pa.ChunkedArray) -> int:
    """Runs of equal neighbours: the rows about a document stand together."""
    return len(pc.run_end_encode(column.combine_chunks()).values) if len(column) else 0


@dataclass(frozen=True)
class Contexts:
    """The shared contexts of some jobs: how many, and their sizes in tokens, or in words without a tokenizer."""

    num_contexts: int
    least: int
    most: int
    unit: str


def describe_contexts(jobs: Sequence[ShardedJob]) -> Contexts:
    """The contexts that prompts of the jobs share, each counted once."""
    paths: dict[str, None] = {}
    tokenizer = ""
    for job in jobs:
        tokenizer = _task(job).tokenizer
        paths |= dict.fromkeys(_task(job).contexts.values())
    texts = (row.text for path in list(paths)[:_MOST_PARTS] for row in read_shard(Path(path), Context))
    sizes = [token_counter(tokenizer)([text])[0] for text in islice(texts, _MOST_PARTS)]
    return Contexts(len(paths), min(sizes, default=0), max(sizes, default=0), "tokens" if tokenizer else "words")
