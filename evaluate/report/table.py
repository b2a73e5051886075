"""The terminal's table: one block per suite, splits by conditions. Reads the content of `report.json`, prints."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluate.report.claims import state_claim
from evaluate.report.legend import TRAINED, Style, label_split, order_splits, plain, style_conditions


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print the accuracies of every suite and what they say; fits 100 columns with the five usual conditions."""
    for suite in report["suites"]:
        console.print()
        console.print(_build_table(suite, report["suites"][suite]))
        console.print(Text(state_claim(report, suite), style="italic"), soft_wrap=False)


def format_cell(cell: Mapping[str, float]) -> str:
    """Accuracy and 95% interval in 14 characters: `0.97 [.95,.99]`."""
    return f"{cell['accuracy']:.2f} [{_bound(cell['low'])},{_bound(cell['high'])}]"


def _build_table(suite: str, splits: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    styles = style_conditions(name for cells in splits.values() for name in cells)
    table = Table(
        title=Text(plain(suite), style="bold"), title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("split", header_style="dim", no_wrap=True)
    table.add_column("chance", header_style="dim", justify="right")
    for name, style in styles.items():
        table.add_column(plain(name), header_style=f"bold {style.colour}")
    for split in order_splits(splits):
        table.add_row(*_build_row(split, splits[split], styles))
    return table


def _build_row(split: str, cells: Mapping[str, Mapping[str, float]], styles: Mapping[str, Style]) -> list[Text]:
    chance = max(cell["chance"] for cell in cells.values())
    # Its full name would cost the columns that the intervals need.
    name = "trained" if split == TRAINED else label_split(split)
    row = [Text(name, style="dim" if split == TRAINED else ""), Text(f"{chance:.2f}", style="dim")]
    for condition, style in styles.items():
        if condition not in cells:
            row.append(Text("–", style="dim"))
            continue
        accuracy, interval = format_cell(cells[condition]).split(" ")
        row.append(Text.assemble((accuracy, f"bold {style.colour}"), " ", (interval, "dim")))
    return row


def _bound(value: float) -> str:
    return "1.0" if value >= 0.995 else f"{value:.2f}"[1:]
