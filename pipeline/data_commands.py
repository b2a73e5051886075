"""The `data` commands: make, import, inspect, audit, export. Everything heavy is imported where it is needed."""

import argparse
import time
from itertools import chain

from data.errors import InputError
from pipeline.data_section import SETS
from pipeline.recipe import parse_section


def make(flags: argparse.Namespace) -> None:
    """`data make SET`: generate a set at the paper's size, or at the sizes that are given."""
    overrides = {("set", "lexicon"): ("--lexicon", "open"), **flags.overrides}
    section = parse_section(SETS[flags.set], "set", overrides, command=f"data make {flags.set}")
    from data.sets.registry import make_set, set_key
    from data.store import is_claimed
    from pipeline.workspace import Workspace

    # A folder of something else is refused before the lock file is written into it.
    is_claimed(flags.out, set_key(flags.set, section.lexicon, section.worlds, section.sizes(), flags.seed))
    with Workspace(flags.out).locked():
        is_new = make_set(
            flags.set, section.lexicon, section.worlds, section.sizes(), seed=flags.seed, folder=flags.out
        )
    print(f"{flags.out}: documents/, questions/, manifest.json{'' if is_new else ' (finished before)'}")


def import_files(flags: argparse.Namespace) -> None:
    """`data import`: your own files become documents."""
    from rich.console import Console

    from data.corpora.importer import find_summary, import_corpus, import_key
    from data.corpora.reading import ImportSettings
    from data.corpora.sources import find_sources
    from pipeline.data_report import LABEL, show_import, tell
    from pipeline.models import local_model
    from pipeline.progress import bar
    from pipeline.workspace import Workspace

    settings = ImportSettings(
        text_column=flags.text_column,
        messages_column=flags.messages_column,
        id_column=flags.id_column,
        corpus=flags.corpus,
        similarity=flags.similarity if flags.dedup else 0.0,
        chunk_tokens=flags.chunk_tokens,
        tokenizer=local_model(flags.model, weights=False) if flags.model else "",
        split=flags.split_sentences,
        html=flags.html,
        code=flags.code,
        drop_repeated_lines=flags.drop_repeated_lines,
        max_bytes=flags.max_mib << 20,
    )
    console = Console()
    found = find_sources(flags.paths, out=flags.out, code=settings.code)
    summary = find_summary(flags.out, import_key(found, settings))
    is_new, started = summary is None, time.monotonic()
    if summary is None:
        passes = 2 if settings.drop_repeated_lines else 1  # the first one counts lines
        total, done = passes * sum(source.size for source in found.sources), 0
        with Workspace(flags.out).locked(), bar(console, "import", total, is_bytes=True) as shown:

            def advance(count: int) -> None:
                nonlocal done
                done += count
                shown.update(min(done, total))

            summary = import_corpus(found, flags.out, settings, on_bytes=advance)
    else:
        tell(console, f"this import is already finished, in {flags.out}")
    noun = "conversations" if settings.messages_column else "documents"
    show_import(summary, flags.out, time.monotonic() - started if is_new else 0.0, console, noun)
    if settings.chunk_tokens and not settings.tokenizer:
        tell(console, f"{'':<{LABEL}}chunks hold at most {settings.chunk_tokens} words; --model counts tokens instead")


def inspect(flags: argparse.Namespace) -> None:
    """`data inspect`: what a folder holds."""
    from rich.console import Console

    from data.preview import counts_of, preview, rejected_rows
    from pipeline.data_report import show_preview, show_rejected, tell

    console = Console()
    if not flags.folder.is_dir():
        raise InputError("no folder here", where=str(flags.folder), hint="name a made set, or an import")
    if flags.rows < 1:
        raise InputError(f"{flags.rows} rows cannot be shown", where="--rows", hint="give 1 or more")
    from pipeline.data_augmentations import inspect_origin, inspected_folders

    if inspect_origin(flags, console):
        return
    rejected = rejected_rows(flags.folder, num_rows=flags.rows if flags.rejected else 1)
    if flags.rejected:
        if rejected is None:
            raise InputError("no rejected rows here", where=str(flags.folder), hint="name an import that rejected rows")
        show_rejected(rejected, console, whole=True)
        return
    previews = [preview(folder, num_rows=flags.rows, seed=flags.seed) for folder in inspected_folders(flags.folder)]
    for key, value in counts_of(flags.folder).items():
        tell(console, f"{key:<28} {value}")
    for one in chain.from_iterable(previews):
        show_preview(one, console)
    if rejected:
        console.print()
        show_rejected(rejected, console)


def audit(flags: argparse.Namespace) -> None:
    """`data audit`: leaks, the soundness of questions, and baselines that know nothing."""
    from data.audit import audit_folder

    found = audit_folder(flags.folder)
    print("\n".join(found.lines))
    if not found.sound:
        raise InputError("the audit found faults", where=str(flags.folder), hint="generate or correct the questions")


def export(flags: argparse.Namespace) -> None:
    """`data export`: rows for others."""
    from data.export import export as write

    for part in write(flags.folder, flags.out, flags.to):
        for split, path in part.files.items():
            print(f"{path}: {part.num_rows[split]:,} rows of {part.name}")
    print(f"{flags.out / 'README.md'}: the card")
