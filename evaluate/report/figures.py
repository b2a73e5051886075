"""The figures: accuracies laid out like the paper's (a panel per suite, bars per condition) and training losses.

Reads the `suites` and `by_corpus` of a report and the losses of its runs; writes PNG and SVG files, or SVG text for the
page. The same input gives the same bytes: no dates, salted ids, the font that matplotlib ships.
"""

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from evaluate.report import legend

Cells = Mapping[str, Mapping[str, Any]]
Splits = Mapping[str, Cells]
Groups = Mapping[str, Mapping[str, Mapping[str, float]]]  # accuracies by condition, corpus and run
Styles = Mapping[str, legend.Style]
Losses = Mapping[str, Sequence[tuple[int, float]]]

_INK, _MUTED, _RULE, _PAPER = "#1d2329", "#68717b", "#dfe3e8", "#fefefe"
_DASHES = (0, (3, 2))
_SPLITS_PER_ROW = 8
_INCHES_PER_SPLIT = 1.2  # with up to six bars
_USUAL_BARS = 6
_INCHES_PER_ROW = 2.9
_PALE = 0.35
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "xtick.color": _INK,
    "ytick.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "svg.hashsalt": "entail",
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def save_accuracies(suites: Mapping[str, Splits], by_corpus: Mapping[str, Mapping[str, Groups]], folder: Path) -> None:
    """Write `accuracy.png` (200 dots per inch) and `accuracy.svg`, on white."""
    with matplotlib.rc_context(_STYLE):
        figure = _draw_accuracies(suites, by_corpus)
        figure.savefig(folder / "accuracy.png", dpi=200, facecolor="white", metadata={"Software": None})
        figure.savefig(folder / "accuracy.svg", facecolor="white", metadata=_NO_METADATA)


def save_losses(losses: Losses, folder: Path) -> None:
    """Write `losses.png`: one panel per suite, one line per run, coloured by condition."""
    with matplotlib.rc_context(_STYLE):
        _draw_losses(losses).savefig(folder / "losses.png", dpi=200, facecolor="white", metadata={"Software": None})


def embed_panel(suite: str, splits: Splits, groups: Mapping[str, Groups], styles: Styles) -> str:
    """One suite's panel as an SVG element for the page; it takes the page's font and text colour."""
    with matplotlib.rc_context(_STYLE | {"svg.fonttype": "none"}):
        width, height = embedded_inches(splits), 2.5
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0.4 / width, 0.42 / height, 1 - 0.42 / width, 1 - 0.5 / height))
        _draw_panel(axes, suite, splits, groups, styles)
        axes.set(title="", ylabel="")
        return _embed(figure, f"panel-{suite}")


def embedded_inches(splits: Splits) -> float:
    """The natural width of an embedded panel; panels that keep these proportions have bars of one width."""
    return 0.42 + 0.95 * len(splits) * _widening([splits])


def embed_losses(losses: Losses) -> str:
    """The loss curves as an SVG element for the page."""
    with matplotlib.rc_context(_STYLE | {"svg.fonttype": "none"}):
        return _embed(_draw_losses(losses), "losses")


def _widening(suites: Sequence[Splits]) -> float:
    """How much wider panels are because of their many bars."""
    return max(1.0, max(len(legend.shown_conditions(splits)) for splits in suites) / _USUAL_BARS)


def _draw_accuracies(suites: Mapping[str, Splits], by_corpus: Mapping[str, Mapping[str, Groups]]) -> Figure:
    widening = _widening(list(suites.values()))
    rows = _fill_rows(suites, int(_SPLITS_PER_ROW / widening))
    # Panels are as many columns wide as they have splits, so that a bar is equally wide everywhere; a gap is half one.
    num_columns = max(sum(2 * len(suites[name]) + 1 for name in row) - 1 for row in rows)
    width = max(6.4, 0.9 + _INCHES_PER_SPLIT * widening * num_columns / 2)
    styles, shown = legend.style_suites(suites)
    shown_styles = (style for name, style in styles.items() if name in shown)
    handles: list[Patch | Line2D] = [Patch(color=style.colour, label=style.label) for style in shown_styles]
    handles.append(Line2D([], [], color=_INK, linewidth=1, linestyle=_DASHES, label="chance"))
    widths = [0.45 + 0.075 * len(str(handle.get_label())) for handle in handles]  # inches, as the font sets them
    num_in_row = len(handles) if sum(widths) <= width else max(1, int(width / max(widths)))
    top = 0.65 + 0.2 * -(-len(handles) // num_in_row)
    height = top - 0.1 + _INCHES_PER_ROW * len(rows)
    figure = Figure(figsize=(width, height))
    grid = GridSpec(
        len(rows), num_columns, figure=figure, wspace=0, hspace=0.55,
        left=0.62 / width, right=1 - 0.15 / width, bottom=0.5 / height, top=1 - top / height,
    )  # fmt: skip
    for number, row in enumerate(rows):
        column = 0
        for name in row:
            span = 2 * len(suites[name])
            axes = figure.add_subplot(grid[number, column : column + span])
            _draw_panel(axes, name, suites[name], by_corpus.get(name, {}), styles, labelled=column == 0)
            column += span + 1
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.5 / width, 1 - 0.08 / height), frameon=False,
        ncols=num_in_row, handlelength=1.2, handleheight=0.9, columnspacing=1.6,
        borderaxespad=0, borderpad=0.2,
    )  # fmt: skip
    return figure


def _fill_rows(suites: Mapping[str, Splits], splits_per_row: int) -> list[list[str]]:
    rows: list[list[str]] = []
    room = 0
    for name in suites:
        if len(suites[name]) > room:
            rows.append([])
            room = splits_per_row
        rows[-1].append(name)
        room -= len(suites[name])
    return rows


def _draw_panel(
    axes: Axes, suite: str, splits: Splits, groups: Mapping[str, Groups], styles: Styles, *, labelled: bool = True
) -> None:
    styles = {name: styles[name] for name in legend.shown_conditions(splits)}
    ordered = legend.order_splits(splits)
    for centre, split in enumerate(ordered):
        _draw_bars(axes, centre, splits[split], groups.get(split, {}), styles, pale=split == legend.TRAINED)
        chance = max(cell["chance"] for cell in splits[split].values())
        span = (chance, centre - 0.46, centre + 0.46)
        axes.hlines(*span, color=_PAPER, linewidth=1, zorder=5)
        axes.hlines(*span, color=_INK, linewidth=1, linestyle=_DASHES, zorder=5)
    axes.set_title(legend.plain(suite).capitalize())
    axes.set_xlim(-0.5, len(ordered) - 0.5)
    axes.set_xticks(range(len(ordered)), ["\n".join(textwrap.wrap(legend.label_split(name), 13)) for name in ordered])
    axes.tick_params(axis="x", length=0, pad=5)
    for tick, split in zip(axes.get_xticklabels(), ordered, strict=True):
        tick.set_color(_MUTED if split == legend.TRAINED else _INK)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(axis="y", length=0, labelleft=labelled)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    if labelled:
        axes.set_ylabel("accuracy")


def _draw_bars(axes: Axes, centre: float, cells: Cells, groups: Groups, styles: Styles, *, pale: bool) -> None:
    """One group of bars with intervals, and a dot for each corpus (for each run where there is one corpus).

    A rim in the paper's colour keeps each line visible on its bar.
    """
    step = 0.84 / len(styles)
    for position, (condition, style) in enumerate(styles.items()):
        if condition not in cells:
            continue
        cell = cells[condition]
        x = centre + (position - (len(styles) - 1) / 2) * step
        if pale:
            axes.bar(x, cell["accuracy"], 0.9 * step, color=_PAPER, linewidth=0)
        axes.bar(x, cell["accuracy"], 0.9 * step, color=style.colour, alpha=_PALE if pale else 1, linewidth=0)
        axes.vlines(x, cell["low"], cell["high"], color=_PAPER, linewidth=2.6, zorder=4, alpha=0.8)
        axes.vlines(x, cell["low"], cell["high"], color=_MUTED if pale else _INK, linewidth=1.1, zorder=4)
        dots = _list_dots(groups.get(condition, {}))
        places = [x + (at / (len(dots) - 1) - 0.5) * 0.5 * step for at in range(len(dots))]
        axes.scatter(places, dots, s=7, color=_PAPER, edgecolors=_MUTED if pale else _INK, linewidths=0.6, zorder=6)


def _list_dots(groups: Mapping[str, Mapping[str, float]]) -> list[float]:
    """The accuracies of several corpora, or of several runs on one; none where there is one of each."""
    values = [sum(runs.values()) / len(runs) for runs in groups.values()]
    if len(values) == 1:
        values = list(*(runs.values() for runs in groups.values()))
    return values if len(values) > 1 else []


def _draw_losses(losses: Losses) -> Figure:
    suites = sorted({name.split("/")[0] for name in losses})
    styles = legend.style_conditions(name.split("/")[-1] for name in losses)
    figure = Figure(figsize=(max(5.8, 0.6 + 3.0 * len(suites)), 2.5), layout="constrained")
    panels = figure.subplots(1, len(suites), sharey=True, squeeze=False)[0]
    for axes, suite in zip(panels, suites, strict=True):
        for name, curve in losses.items():
            if name.split("/")[0] == suite:
                steps, values = zip(*curve, strict=True)
                axes.plot(steps, values, color=styles[name.split("/")[-1]].colour, linewidth=1, alpha=0.75)
        axes.set_title(legend.plain(suite).capitalize())
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(length=0, labelcolor=_MUTED)
        axes.grid(axis="y", color=_RULE, linewidth=0.8)
        axes.spines["left"].set_visible(False)
    panels[0].set_ylabel("loss (nats per token)")
    handles = [Line2D([], [], color=style.colour, linewidth=2, label=style.label) for style in styles.values()]
    if len(handles) <= legend.MAX_BARS:
        ncols = min(len(handles), 5)
        figure.legend(handles=handles, loc="outside upper left", frameon=False, ncols=ncols, handlelength=1.2)
    return figure


def _embed(figure: Figure, prefix: str) -> str:
    """The figure's `<svg>` element, with ids of its own and colours that follow the page's."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    prefix = re.sub(r"[^\w-]", "-", prefix)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    for fixed, themed in ((_INK, "ink"), (_MUTED, "muted"), (_RULE, "rule"), (_PAPER, "paper")):
        svg = svg.replace(fixed, f"var(--{themed})")
    return svg
