"""What `data import` and `data inspect` print. Texts and names of files have no markup, and controls are escaped."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.corpora.sources import list_others
from data.corpora.summary import Summary
from data.preview import Preview, RejectedRows, place_of, rejected_rows
from data.unicode import printable

LABEL = 14  # columns of what a line is about
_SHOWN_CHARACTERS = 240
_SHOWN_LANGUAGES = 12
_SHOWN_LINES = 5
_SHOWN_FILES = 10
_UNKNOWN = "unknown"  # a language that could not be told


def tell(console: Console, line: object, style: str = "") -> None:
    """Print a line as it is, however long."""
    console.print(Text(printable(line), style=style), soft_wrap=True)


def show_import(summary: Summary, out: Path, seconds: float, console: Console, noun: str) -> None:
    """The result of an import."""
    megabytes = summary.num_bytes / 1e6
    speed = f", {megabytes / seconds:,.0f} MB/s" if megabytes > 10 and seconds else ""
    _labelled(console, "read", f"{summary.num_files:,} files, {megabytes:,.1f} MB{speed}")
    counts = f"{summary.num_documents:,} with {summary.num_words:,} words, in {out / 'documents'}"
    _labelled(console, noun, counts)
    for label, found in (("longest", summary.longest), ("shortest", summary.shortest)):
        if found:
            size = f"{found['words']:,} words, {found['characters']:,} characters"
            _labelled(console, label, f"{size}: {found['id']}, of {found['source']}")
    _tables(summary, console, noun)
    rejected = rejected_rows(out, files=summary.fruitless)
    if rejected:
        show_rejected(rejected, console)
    if near := summary.num_rejected.get("near-duplicate"):
        _labelled(console, "alike", f"{near:,} near-duplicates of other documents were left out")
    _repeated(summary, console)
    if summary.num_fruitless:
        reasons = rejected.of_files if rejected else {}
        _labelled(console, "nothing", f"{summary.num_fruitless:,} files gave no document:")
        for name in summary.fruitless[:_SHOWN_FILES]:
            row = reasons.get(name)
            _labelled(console, "", f"{name}: {row['reason']}" if row else name)
        if summary.num_fruitless > _SHOWN_FILES:
            _labelled(console, "", f"and {summary.num_fruitless - _SHOWN_FILES:,} more")
    if summary.others:
        _labelled(console, "not read", list_others(summary.others))


def show_rejected(rejected: RejectedRows, console: Console, *, whole: bool = False) -> None:
    """The rejected rows: by reason, their number and the first; with `whole` all rows that were asked for."""
    _labelled(console, "rejected", f"{sum(rejected.counts.values()):,}, in {rejected.path}")
    for reason, count in rejected.counts.items():
        first, *_ = rows = rejected.firsts[reason]
        if not whole:
            tell(console, f"{count:>9,} {reason}; first {place_of(first)}: {first['detail']}")
            continue
        tell(console, f"{count:>9,} {reason}", style="bold")
        for row in rows:
            tell(console, f"{'':<{LABEL}}{place_of(row)}: {row['detail']}")
            if row["excerpt"]:
                tell(console, f"{'':<{LABEL + 2}}{_short(row['excerpt'])}")


def show_preview(found: Preview, console: Console) -> None:
    """One folder of shards."""
    state = "complete" if found.is_complete else "unfinished: no manifest"
    console.print()
    tell(console, f"{found.folder}  {found.record}, {state}", style="bold")
    size = f"{found.num_rows:,} rows in {found.num_shards} shards, {found.num_bytes / 1e6:,.1f} MB"
    tell(console, f"  {size}{'  content ' + found.content if found.content else ''}")
    rows = []
    for name, kind in found.columns.items():
        lengths = found.lengths.get(name)
        sizes = (lengths.least, lengths.median, round(lengths.mean), lengths.most) if lengths else ()
        rows.append([name, kind, *(f"{size:,}" for size in sizes)])
    console.print(_table(("column", "type", "least", "median", "mean", "most characters"), rows, num_texts=2))
    for name, counts in found.kinds.items():
        tell(console, f"  {name}: {', '.join(f'{value or _UNKNOWN} {count:,}' for value, count in counts.items())}")
    for row in found.rows:
        console.print()
        for name, value in row.items():
            tell(console, f"  {name:<12} {_short(value)}")


def _tables(summary: Summary, console: Console, noun: str) -> None:
    """Files and documents by kind, documents by language."""
    kinds = [[kind, f"{count:,}", f"{summary.documents.get(kind, 0):,}"] for kind, count in _ranked(summary.files)]
    console.print(_table(("kind", "files", noun), kinds, num_texts=1))
    languages = _ranked(summary.languages)
    rows = [[code or _UNKNOWN, f"{count:,}"] for code, count in languages[:_SHOWN_LANGUAGES]]
    if len(languages) > _SHOWN_LANGUAGES:
        left = languages[_SHOWN_LANGUAGES:]
        rows.append([f"{len(left)} more", f"{sum(count for _, count in left):,}"])
    console.print(_table(("language", noun), rows, num_texts=1))


def _repeated(summary: Summary, console: Console) -> None:
    """The repeated lines, removed or found in a sample."""
    if not summary.repeated:
        return
    if summary.num_dropped_lines:
        what = f"{summary.num_dropped_lines:,} lines removed, {summary.num_repeated:,} different; the commonest:"
    else:
        sample = f"{summary.num_repeated:,} lines in a sample of {summary.num_compared:,} documents"
        what = f"{sample}; --drop-repeated-lines removes such lines. The commonest:"
    _labelled(console, "repeated", what)
    for line, count in _ranked(summary.repeated)[:_SHOWN_LINES]:
        tell(console, f"{count:>9,} documents: {_short(line)}")


def _table(names: Sequence[str], rows: Iterable[Sequence[str]], *, num_texts: int) -> Table:
    """A plain table; the columns after the first `num_texts` hold numbers."""
    table = Table(box=None, padding=(0, 2))
    for number, name in enumerate(names):
        table.add_column(Text(name), justify="left" if number < num_texts else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _labelled(console: Console, label: str, text: str) -> None:
    tell(console, f"{label:<{LABEL}}{text}")


def _ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The largest counts first."""
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


def _short(value: object) -> str:
    """A value on one line, cut if it is long."""
    text = " ".join(str(value).split())
    return f"{text[:_SHOWN_CHARACTERS]} ..." if len(text) > _SHOWN_CHARACTERS else text
