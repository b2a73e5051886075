"""`data inspect` of what `augment` wrote: a summary by method, where a row comes from, what a document gave."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from data.errors import InputError
from data.records import Augmentation, Document
from data.store import MANIFEST

AUGMENTATIONS, PARTS, TEACHER = "augmentations", "parts", "teacher"  # as `augment_service` names them


def inspected_folders(folder: Path) -> list[Path]:
    """What is shown of a folder: of an augmentation what is sealed, or else its ledger; else the folder itself."""
    if not _is_augmentation(folder):
        return [folder]
    sealed = [folder / name for name in (AUGMENTATIONS, TEACHER) if (folder / name / MANIFEST).exists()]
    return sealed or [folder / PARTS]


def inspect_origin(flags: argparse.Namespace, console: Console) -> bool:
    """Print what the flags ask about inferences; whether that is all. Raises InputError for flags without effect.

    Without `--row` and `--document`, the summary of an augmentation precedes the overview.
    """
    if flags.row and flags.document:
        raise InputError("--row and --document exclude each other", where="--document", hint="give one of them")
    for name, given, needs in (
        ("--runs", flags.runs, flags.row),
        ("--documents", flags.documents, flags.row or flags.document),
    ):
        if given and not needs:
            raise InputError(f"{name} has no effect without --row", where=name, hint="add --row ID, or leave it out")
    if flags.row or flags.document:
        (_show_row if flags.row else _show_document)(flags, console)
        return True
    if _is_augmentation(flags.folder):
        from augment_service.provenance import count_methods, rows_folder
        from pipeline.augment_report import show_methods

        show_methods(count_methods(rows_folder(flags.folder)[1]), console)
    return False


def _is_augmentation(folder: Path) -> bool:
    """Whether `augment` wrote the folder: it has a ledger, or sealed rows beside no documents."""
    has_rows = (folder / AUGMENTATIONS / MANIFEST).exists() or any((folder / PARTS).glob("*.arrow"))
    return has_rows and not (folder / "documents").is_dir()


def _show_row(flags: argparse.Namespace, console: Console) -> None:
    from augment_service.provenance import AskedPrompt, find_row, model_name, rebuild_prompt, rows_folder
    from pipeline.augment_report import show_row

    root, _ = rows_folder(flags.folder)
    row = find_row(flags.folder, flags.row)
    sources = _read_sources(root, row.sources, flags.documents)
    first = sources[0]
    prompt = AskedPrompt(missing="its document is not there any more")
    if isinstance(first, Document):
        prompt = rebuild_prompt(root, row, first)
    show_row(row, sources, prompt, _fate(row, flags.runs), console, model_name(root, row.model))


def _show_document(flags: argparse.Namespace, console: Console) -> None:
    from augment_service.provenance import rows_folder, rows_of_document
    from pipeline.augment_report import show_document

    root, _ = rows_folder(flags.folder)
    rows = rows_of_document(flags.folder, flags.document)
    (document,) = _read_sources(root, (flags.document,), flags.documents)
    show_document(document, rows, console)


def _read_sources(root: Path, doc_ids: Sequence[str], documents: Path | None) -> list[Document | str]:
    """The documents of these ids; the id alone of one that is not there any more."""
    from augment_service.provenance import open_sources

    inner = documents / "documents" if documents and (documents / "documents").is_dir() else documents
    found: list[Document | str] = []
    try:
        reader = open_sources(root, inner)
    except InputError:
        if documents is not None:
            raise
        return list(doc_ids)
    for doc_id in doc_ids:
        try:
            found.append(reader.read(doc_id))
        except InputError:
            found.append(doc_id)
    return found


def _fate(row: Augmentation, runs: Sequence[Path]) -> Iterator[str]:
    """A line for each finetuning run: whether the row was trained in it, and how often."""
    if not runs:
        return
    from train.run.scheduled import count_scheduled, find_checkpoints

    for checkpoint in (one for folder in runs for one in find_checkpoints(folder)):
        try:
            counts = count_scheduled(checkpoint, [row.augmentation_id])
        except InputError as error:
            yield f"{checkpoint}: unknown, {error.what}"
            continue
        times = counts.get(row.augmentation_id)
        if times is None:
            yield f"{checkpoint}: it is not among the texts of this run"
        else:
            yield f"{checkpoint}: scheduled {times:,} time{'s' * (times != 1)}"
