"""The terminal's table: one block per suite, splits by conditions. Reads the content of `report.json`, prints."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluate.report.claims import state_claim
from evaluate.report.legend import (
    TRAINED,
    label_split,
    order_conditions,
    order_splits,
    plain,
    rank_conditions,
    style_conditions,
)

COLUMNS = 5  # cells of 14 characters that fit into 100 beside a name
MAX_COLUMNS = 6  # conditions; more are rows, best first


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print the accuracies of every suite and what they say; fits 100 columns with the five usual conditions."""
    for suite in report["suites"]:
        console.print()
        for table in _build_tables(suite, report["suites"][suite]):
            console.print(table)
        console.print(Text(state_claim(report, suite), style="italic"), soft_wrap=False)
        for split, cells in report["written"].get(suite, {}).items():
            console.print(Text(f"written answers, {label_split(split)}: {describe_written(cells)}"), soft_wrap=False)
        for name, reason in report["left_out"].get(suite, {}).items():
            console.print(Text(f"left out: {name}: {reason}", style="dim"), soft_wrap=False)
    if cells := report["general"].get("bits_per_byte"):
        console.print()
        console.print(Text(f"general text: bits per byte {describe_bits(cells)}"), soft_wrap=True)
    if cells := report["general"].get("ends"):
        ends = "; ".join(f"{name} {cells[name]['share']:.0%}" for name in order_conditions(cells))
        console.print(Text(f"answers to general requests that end by themselves: {ends}"), soft_wrap=True)


def describe_written(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """Shares of answers that begin with the right option: `pretrained 0.02; finetuned 0.41`."""
    return "; ".join(f"{name} {cells[name]['accuracy']:.2f}" for name in order_conditions(cells))


def describe_bits(cells: Mapping[str, Mapping[str, float]]) -> str:
    """Bits per byte of every condition, with the change: `pretrained 0.912; finetuned 0.934 (+0.022)`."""
    return "; ".join(
        f"{name} {cells[name]['value']:.3f}" + (f" ({cells[name]['change']:+.3f})" if "change" in cells[name] else "")
        for name in order_conditions(cells)
    )


def format_cell(cell: Mapping[str, Any]) -> str:
    """Accuracy and 95% interval in 14 characters: `0.97 [.95,.99]`."""
    return f"{cell['accuracy']:.2f} [{_bound(cell['low'])},{_bound(cell['high'])}]"


def _build_tables(suite: str, splits: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Table]:
    """Splits by conditions; where these are many, a ranking: conditions by splits, in blocks of a few splits."""
    styles = style_conditions(name for cells in splits.values() for name in cells)
    ordered = order_splits(splits)
    if len(styles) <= MAX_COLUMNS:
        table = _table(suite, "split")
        table.add_column("chance", header_style="dim", justify="right")
        for name, style in styles.items():
            table.add_column(Text(name), header_style=f"bold {style.colour}")
        for split in ordered:
            cells = (_cell(splits[split].get(name), style.colour) for name, style in styles.items())
            table.add_row(_name(split), _chance(splits[split]), *cells)
        return [table]
    tables = []
    for start in range(0, len(ordered), COLUMNS):
        table = _table(suite if not start else "", "condition")
        block = ordered[start : start + COLUMNS]
        for split in block:
            table.add_column(Text(label_split(split)), header_style="bold")
        for name in rank_conditions(splits):
            cells = (_cell(splits[split].get(name), styles[name].colour) for split in block)
            table.add_row(Text(name, style=styles[name].colour), *cells)
        table.add_row(Text("chance", style="dim"), *(_chance(splits[split]) for split in block))
        tables.append(table)
    return tables


def _table(suite: str, first: str) -> Table:
    title = Text(plain(suite), style="bold") if suite else None
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, header_style="dim", no_wrap=first == "split", overflow="fold")
    return table


def _name(split: str) -> Text:
    # Its full name would cost the columns that the intervals need.
    return Text("trained" if split == TRAINED else label_split(split), style="dim" if split == TRAINED else "")


def _chance(cells: Mapping[str, Mapping[str, Any]]) -> Text:
    return Text(f"{max(cell['chance'] for cell in cells.values()):.2f}", style="dim")


def _cell(cell: Mapping[str, Any] | None, colour: str) -> Text:
    if cell is None:
        return Text("–", style="dim")
    accuracy, interval = format_cell(cell).split(" ")
    return Text.assemble((accuracy, f"bold {colour}"), " ", (interval, "dim"))


def _bound(value: float) -> str:
    return "1.0" if value >= 0.995 else f"{value:.2f}"[1:]
