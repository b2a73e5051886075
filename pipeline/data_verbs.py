"""The `data` verbs: make, import, inspect, export. Everything heavy is imported inside the verb that needs it."""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from data.corpora.importer import Summary
    from data.preview import Preview

SETS = ("reversals", "syllogisms", "reversal-curse", "semantic", "process")
SECONDS_BETWEEN_LINES = 15.0
_SHOWN_CHARACTERS = 240


def add_data_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`data` and its actions."""
    data = verbs.add_parser("data", help="make, import, look at and export documents and questions")
    actions = data.add_subparsers(required=True, metavar="ACTION")

    make = actions.add_parser("make", help="write documents/, questions/ and a manifest")
    make.add_argument("set", choices=SETS)
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--out", type=Path, required=True)
    make.set_defaults(run=_make, takes_overrides=True)

    _add_import(actions.add_parser("import", help="files of your own (txt md html pdf jsonl csv parquet arrow)"))

    inspect = actions.add_parser("inspect", help="counts, columns, lengths and the first rows of a folder")
    inspect.add_argument("folder", type=Path, help="a made set, an import, augmentations, any folder of shards")
    inspect.set_defaults(run=_inspect)

    export = actions.add_parser("export", help="Parquet or JSON lines, with a card that `load_dataset` reads")
    export.add_argument("folder", type=Path, help="a made set, an import, or what `augment` wrote")
    export.add_argument("--to", choices=("parquet", "jsonl", "card"), required=True)
    export.add_argument("--out", type=Path, required=True)
    export.set_defaults(run=_export)


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, folders, or patterns in quotes")
    parser.add_argument("--out", type=Path, required=True, help="gets documents/, rejected/ and a manifest")
    parser.add_argument("--text-column", default="text", help="of tables and JSON lines (default: text)")
    parser.add_argument("--id-column", default="", help="of tables and JSON lines (default: ids from the content)")
    parser.add_argument("--corpus", default="corpus", help="the world that all documents belong to (default: corpus)")
    parser.add_argument("--dedup", action="store_true", help="leave out near-duplicates (MinHash)")
    parser.add_argument("--similarity", type=float, default=0.8, help="from which --dedup counts (default: 0.8)")
    parser.add_argument("--chunk-tokens", type=int, default=0, metavar="N", help="cut at sentence ends to N tokens")
    parser.add_argument("--model", default="", help="whose tokenizer counts tokens (default: words are counted)")
    parser.add_argument(
        "--split-sentences", choices=("none", "independent", "cumulative"), default="none", help="a document each"
    )
    parser.add_argument("--max-mb", type=int, default=16, help="longest line and document, in MiB (default: 16)")
    parser.set_defaults(run=_import)


def _make(flags: argparse.Namespace, overrides: list[str]) -> None:
    from pipeline.recipe import default_section
    from pipeline.sets import make_set

    make_set(flags.set, default_section(flags.set, overrides), flags.seed, flags.out)
    print(f"{flags.out}: documents/, questions/, manifest.json")


def _import(flags: argparse.Namespace, _: list[str]) -> None:
    from rich.console import Console

    from data.corpora.importer import find_summary, import_corpus, import_key
    from data.corpora.reading import ImportSettings
    from data.corpora.sources import find_sources
    from pipeline.workspace import Workspace

    settings = ImportSettings(
        text_column=flags.text_column,
        id_column=flags.id_column,
        corpus=flags.corpus,
        similarity=flags.similarity if flags.dedup else 0.0,
        chunk_tokens=flags.chunk_tokens,
        tokenizer=_tokenizer(flags.model),
        split=flags.split_sentences,
        max_bytes=flags.max_mb << 20,
    )
    console = Console()
    found = find_sources(flags.paths, out=flags.out)
    summary = find_summary(flags.out, import_key(found, settings))
    is_new, started = summary is None, time.monotonic()
    if summary is None:
        with (
            Workspace(flags.out).locked(),
            _byte_bar(console, sum(source.size for source in found.sources)) as advance,
        ):
            summary = import_corpus(found, flags.out, settings, on_bytes=advance)
    else:
        console.print(f"this import is done already, in {flags.out}", highlight=False)
    _tell(summary, flags.out, time.monotonic() - started if is_new else 0.0, console)
    if settings.chunk_tokens and not settings.tokenizer:
        console.print(f"          chunks hold at most {settings.chunk_tokens} words; --model would count its tokens")


def _tokenizer(model: str) -> str:
    if not model:
        return ""
    from pipeline.recipe import local_model

    return local_model(model)


def _tell(summary: "Summary", out: Path, seconds: float, console: "Console") -> None:
    """What came of an import, in a few lines."""
    from data.preview import rejected_rows

    megabytes = summary.num_bytes / 1e6
    speed = f", {megabytes / seconds:,.0f} MB/s" if megabytes > 10 and seconds else ""
    lines = [
        f"read      {summary.num_files:,} files, {megabytes:,.1f} MB{speed}",
        f"documents {summary.num_documents:,} with {summary.num_words:,} words, in {out / 'documents'}",
    ]
    total = sum(summary.num_rejected.values())
    aside = rejected_rows(out)
    if aside:
        lines.append(f"set aside {total:,}, in {aside.path}")
        firsts = aside.firsts
        lines += [
            f"{count:>9,} {reason}; first {firsts.get(reason, '')}" for reason, count in summary.num_rejected.items()
        ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _byte_bar(console: "Console", total: int) -> Iterator[Callable[[int], None]]:
    """A bar over the bytes of all files; in a log file a line now and then."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    done, printed = 0, time.monotonic()
    columns = (TextColumn("import"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("import", total=total)

        def advance(count: int) -> None:
            nonlocal done, printed
            done += count
            progress.update(task, completed=min(done, total))
            if not console.is_terminal and time.monotonic() - printed > SECONDS_BETWEEN_LINES:
                printed = time.monotonic()
                console.print(f"  import: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", highlight=False)

        yield advance


def _inspect(flags: argparse.Namespace, _: list[str]) -> None:
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
    if aside := rejected_rows(flags.folder):
        console.print(f"\n[bold]set aside[/bold]  {aside.path}", highlight=False)
        for reason, count in aside.counts.items():
            console.print(
                f"  {count:>9,} {reason}; first {aside.firsts[reason]}", highlight=False, markup=False, soft_wrap=True
            )


def _show(found: "Preview", console: "Console") -> None:
    """One folder of shards."""
    from rich.markup import escape
    from rich.table import Table

    state = "complete" if found.is_complete else "unfinished: no manifest"
    console.print(f"\n[bold]{escape(str(found.folder))}[/bold]  {found.record}, {state}", highlight=False)
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


def _export(flags: argparse.Namespace, _: list[str]) -> None:
    from data.export import export

    for part in export(flags.folder, flags.out, flags.to):
        for split, path in part.files.items():
            print(f"{path}: {part.num_rows[split]:,} rows of {part.name}")
    print(f"{flags.out / 'README.md'}: the card")
