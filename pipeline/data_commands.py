"""The `data` commands: make, import, inspect, audit, export. Everything heavy is imported where it is needed."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import InputError
from pipeline.data_section import SETS
from pipeline.recipe import parse_section

if TYPE_CHECKING:
    from rich.console import Console

    from data.corpora.importer import Summary
    from data.preview import Preview

_SHOWN_CHARACTERS = 240


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
    found = find_sources(flags.paths, out=flags.out)
    summary = find_summary(flags.out, import_key(found, settings))
    is_new, started = summary is None, time.monotonic()
    if summary is None:
        total, done = sum(source.size for source in found.sources), 0
        with Workspace(flags.out).locked(), bar(console, "import", total, is_bytes=True) as shown:

            def advance(count: int) -> None:
                nonlocal done
                done += count
                shown.update(min(done, total))

            summary = import_corpus(found, flags.out, settings, on_bytes=advance)
    else:
        console.print(f"this import is already finished, in {flags.out}", highlight=False)
    noun = "conversations" if settings.messages_column else "documents"
    _report(summary, flags.out, time.monotonic() - started if is_new else 0.0, console, noun)
    if settings.chunk_tokens and not settings.tokenizer:
        console.print(f"          chunks hold at most {settings.chunk_tokens} words; --model counts tokens instead")


def _report(summary: "Summary", out: Path, seconds: float, console: "Console", noun: str) -> None:
    """The result of an import, in a few lines."""
    from data.preview import rejected_rows

    megabytes = summary.num_bytes / 1e6
    speed = f", {megabytes / seconds:,.0f} MB/s" if megabytes > 10 and seconds else ""
    lines = [
        f"read      {summary.num_files:,} files, {megabytes:,.1f} MB{speed}",
        f"{noun:<9} {summary.num_documents:,} with {summary.num_words:,} words, in {out / 'documents'}",
    ]
    total = sum(summary.num_rejected.values())
    rejected = rejected_rows(out)
    if rejected:
        lines.append(f"rejected  {total:,}, in {rejected.path}")
        firsts = rejected.firsts
        lines += [
            f"{count:>9,} {reason}; first {firsts.get(reason, '')}" for reason, count in summary.num_rejected.items()
        ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def inspect(flags: argparse.Namespace) -> None:
    """`data inspect`: what a folder holds."""
    from rich.console import Console

    from data.preview import counts_of, preview, rejected_rows

    console = Console()
    if not flags.folder.is_dir():
        raise InputError("no folder here", where=str(flags.folder), hint="name a made set, or an import")
    previews = preview(flags.folder)
    for key, value in counts_of(flags.folder).items():
        console.print(f"{key:<28} {value}", highlight=False, markup=False)
    for one in previews:
        _show(one, console)
    if rejected := rejected_rows(flags.folder):
        console.print(f"\n[bold]rejected[/bold]  {rejected.path}", highlight=False)
        for reason, count in rejected.counts.items():
            console.print(
                f"  {count:>9,} {reason}; first {rejected.firsts[reason]}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )


def _show(found: "Preview", console: "Console") -> None:
    """One folder of shards."""
    from rich.markup import escape
    from rich.table import Table

    state = "complete" if found.is_complete else "unfinished: no manifest"
    console.print(
        f"\n[bold]{escape(str(found.folder))}[/bold]  {found.record}, {state}", highlight=False, soft_wrap=True
    )
    size = f"{found.num_rows:,} rows in {found.num_shards} shards, {found.num_bytes / 1e6:,.1f} MB"
    console.print(f"  {size}{'  content ' + found.content if found.content else ''}", highlight=False)
    table = Table("column", "type", "least", "median", "mean", "most characters", box=None, padding=(0, 2))
    for name, kind in found.columns.items():
        lengths = found.lengths.get(name)
        cells = (
            [f"{lengths.least:,}", f"{lengths.median:,}", f"{lengths.mean:,.0f}", f"{lengths.most:,}"]
            if lengths
            else []
        )
        table.add_row(escape(name), escape(kind), *cells)
    console.print(table)
    for name, counts in found.kinds.items():
        shown = ", ".join(f"{value} {count:,}" for value, count in counts.items())
        console.print(f"  {name}: {shown}", highlight=False, markup=False)
    for row in found.rows:
        console.print()
        for name, value in row.items():
            text = " ".join(str(value).split())
            cut = f"{text[:_SHOWN_CHARACTERS]} ..." if len(text) > _SHOWN_CHARACTERS else text
            console.print(f"  {name:<12} {cut}", highlight=False, markup=False)


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
