"""What `augment` and `data inspect` print about augmentations: plans, previews, summaries, where a row comes from.

Tables fit into 100 columns. Texts have no markup, and control characters in them are escaped.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from augment_service.plan import MethodPlan, Plan
from augment_service.provenance import AskedPrompt, MethodRows, describe_contexts
from cluster.meter import format_seconds
from data.records import Augmentation, Document
from data.unicode import printable
from pipeline.data_report import LABEL, tell
from pipeline.stages.resources import Work

_METHOD = 22  # columns of a method's name
_MOST_CONTEXT = 480  # characters that are shown of a context
_MOST_TEXT = 2000  # and of what a model writes
_INDENT = " " * 4
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


def show_plan(
    plan: Plan, notes: Iterable[tuple[str, str]], machine: Mapping[str, float] | None, console: Console
) -> None:
    """The cost of an augmentation by method, and `notes` by label."""
    measured = any(one.new_tokens is not None for one in plan.methods.values())
    names = ("method", "prompts", "new in", "cached", "max out", *["expected"] * measured, "disk", "answered")
    rows = [_plan_cells(method, one, measured) for method, one in plan.methods.items()]
    console.print(_table(names, [*rows, _plan_cells("total", plan.total, measured)], total=True))
    total = plan.total
    counted = "every prompt was counted" if plan.is_exact else f"{plan.sampled:,} of them were counted"
    _labelled(console, "documents", f"{plan.documents:,}; {counted}{_margin(plan)}")
    if total.cut or total.skipped:
        parts = f"{total.cut:,} do not fit into the window and are asked about in parts" * bool(total.cut)
        left = f"{total.skipped:,} do not fit into the window and are skipped" * bool(total.skipped)
        _labelled(console, "long", "; ".join(filter(None, (parts, left))))
    if total.refused:
        _labelled(console, "refused", f"{total.refused:,} prompts exceed the window or have unknown words")
    if total.assumed:
        assumed = ", ".join(method for method, one in plan.methods.items() if one.assumed)
        _labelled(console, "at most", f"{assumed}: the prompts depend on what the model proposes first")
    for label, text in notes:
        _labelled(console, label, text)
    if not total.prompts:
        _labelled(console, "time", "none: nothing is left to ask")
    elif total.seconds is not None:
        _labelled(console, "time", _time(total.seconds, machine or {}))
    else:
        _labelled(console, "time", "not measured: --measure asks a few dozen prompts of each method")


def show_preview(
    asked: Mapping[str, Sequence[tuple[AskedPrompt, str | None, Sequence[Augmentation]]]], console: Console
) -> None:
    """By method some prompts as the model saw them, its raw answers, and the rows made of them."""
    for method, found in asked.items():
        for prompt, raw, rows in found:
            console.print()
            tell(console, f"{method}, about {rows[0].sources[0] if rows else '?'}", style="bold")
            show_prompt(prompt, console)
            tell(console, "  answer" if raw is not None else "  answer: it was written earlier and not kept as it was")
            if raw is not None:
                _block(raw, console)
            tell(console, "  rows")
            for row in rows:
                question = f"{row.prompt} -> " if row.form == "chat" and row.prompt else ""
                _block(f"[{row.verdict}] {question}{row.text}", console)


def show_prompt(prompt: AskedPrompt, console: Console) -> None:
    """A prompt as the model saw it, its context shortened in the middle."""
    if prompt.missing:
        tell(console, f"  prompt: {prompt.missing}")
        return
    tell(console, "  prompt")
    _block(prompt.before + _shortened(prompt.context) + prompt.text + prompt.after, console, most=0)


def show_methods(
    methods: Mapping[str, MethodRows], console: Console, work: Work | None = None, refused: int = 0
) -> None:
    """What was written by each method: prompts, rows, tokens, time of the last run; then the verdicts."""
    timed = work is not None and bool(work.by_job)
    names = ("method", "prompts", "rows", "kept", "tokens in", "tokens out", *["seconds"] * timed)
    seconds = _seconds_by_method(work, methods) if work else {}
    rows = []
    for method, one in methods.items():
        cells = [
            one.prompts,
            sum(one.verdicts.values()),
            one.verdicts.get("kept", 0),
            one.read,
            one.written,
        ]
        shown = [f"{seconds[method]:,.1f}" if method in seconds else ""] if timed else []
        rows.append([method, *map(_amount, cells), *shown])
    console.print(_table(names, rows))
    for method, one in methods.items():
        ranked = sorted(one.verdicts.items(), key=lambda entry: -entry[1])
        verdicts = ", ".join(f"{verdict} {count:,}" for verdict, count in ranked)
        for number, line in enumerate(textwrap.wrap(verdicts, max(console.width - _METHOD, _METHOD))):
            _labelled(console, "" if number else method, line, width=_METHOD)
    cut = max((one.cut for one in methods.values()), default=0)
    if cut:
        _labelled(console, "long", f"{cut:,} documents were asked about in parts")
    if refused:
        _labelled(console, "refused", f"{refused:,} prompts have no answer")
    if work is not None and work.busy is not None:
        _labelled(
            console,
            "engines",
            f"{work.engines}, busy for {min(work.busy, 1):.0%} of the time; cache {work.hit_rate:.0%}",
        )


def show_row(
    row: Augmentation,
    sources: Sequence[Document | str],
    prompt: AskedPrompt,
    fate: Iterable[str],
    console: Console,
    model: str,
) -> None:
    """A row: what it says, where it comes from, how the `model` was asked for it, and what became of it."""
    tell(console, f"{row.augmentation_id}  {row.method}", style="bold")
    if row.prompt:
        _labelled(console, "question", row.prompt)
    _labelled(console, "text", row.text)
    if row.reasoning:
        _labelled(console, "reasoning", row.reasoning)
    support = "" if row.support != row.support else f", support {row.support:+.3f} nats a token"
    _labelled(console, "verdict", f"{row.verdict}{support}; the answer ended by {row.finish_reason}")
    for number, source in enumerate(sources):
        if isinstance(source, str):
            _labelled(console, "source" if not number else "", f"{source}, which is not there any more")
            continue
        heading = f"  {source.heading}" if source.heading else ""
        _labelled(console, "source" if not number else "", f"{source.doc_id}{heading}")
    if row.sentence:
        _labelled(console, "sentence", row.sentence)
    if row.span:
        _labelled(console, "span", "characters {:,} to {:,}".format(*row.span))
    if row.about:
        _labelled(console, "about", "; ".join(row.about))
    sampling = "greedy" if row.temperature == 0 else f"temperature {row.temperature:g}, seed {row.seed}"
    _labelled(console, "model", f"{model}, {sampling}")
    _labelled(console, "template", row.template)
    if row.tokens:
        _labelled(console, "tokens", "{:,} read, {:,} written".format(*row.tokens))
    _labelled(console, "asked", f"prompt {row.prompt_id}, place {row.place} in its answer")
    for line in fate:
        _labelled(console, "trained", line)
    show_prompt(prompt, console)
    if not prompt.missing:
        is_same = "it is the prompt that was asked" if prompt.is_exact else "it may differ from what was asked"
        _labelled(console, "  rebuilt", is_same)


def show_document(document: Document | str, rows: Sequence[Augmentation], console: Console) -> None:
    """A document's inferences by method, with their verdicts."""
    if isinstance(document, Document):
        tell(console, f"{document.doc_id}  {document.heading}".rstrip(), style="bold")
        _labelled(console, "text", _shortened(document.text))
    else:
        tell(console, document, style="bold")
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        console.print()
        tell(console, f"{method}: {len(own):,} rows", style="bold")
        for row in own:
            question = f"{row.prompt} -> " if row.prompt else ""
            tell(console, f"  {row.augmentation_id[:12]}  {row.verdict:<16}  {question}{_line(row.text)}")


def _plan_cells(method: str, one: MethodPlan, measured: bool) -> list[str]:
    new = one.prompt_tokens - one.cached_tokens
    counts = [one.prompts, new, one.cached_tokens, one.max_new_tokens]
    expected = ["" if one.new_tokens is None else _amount(one.new_tokens)] if measured else []
    return [method, *map(_amount, counts), *expected, _bytes(one.bytes), _amount(one.answered)]


def _margin(plan: Plan) -> str:
    return "" if plan.is_exact else f"; tokens in are right to {plan.total.margin:.1%} (two standard errors)"


def _time(seconds: float, machine: Mapping[str, float]) -> str:
    """The time of all engines, and what it costs."""
    engines = machine.get("engines", 1)
    unit, number = ("GPU", machine["gpus"]) if machine.get("gpus") else ("core", machine.get("cpus", 1))
    hours = seconds * number / 3600
    return f"about {format_seconds(seconds / engines)} on {engines:.0f} engines, {hours:,.3g} {unit}-hours"


def _seconds_by_method(work: Work, methods: Mapping[str, MethodRows]) -> dict[str, float]:
    """Seconds of the jobs that end in a method's name: global ones are named by their corpus, too."""
    found: dict[str, float] = {}
    for job, seconds in work.by_job.items():
        method = job.rpartition(" ")[2]
        if method in methods:
            found[method] = found.get(method, 0.0) + seconds
    return found


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], *, total: bool = False) -> Table:
    """A plain table of numbers by method; with `total` the last row is one."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for number, name in enumerate(names):
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=True, overflow="fold")
    for number, row in enumerate(rows, 1):
        table.add_row(*(Text(printable(cell)) for cell in row), style="bold" * (total and number == len(rows)))
    return table


def _amount(count: int) -> str:
    """A number that fits into a column."""
    return next((f"{count / size:,.4g}{unit}" for size, unit in _UNITS if count >= size), f"{count:,}")


def _bytes(count: int) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.0f} kB"


def _labelled(console: Console, label: str, text: str, width: int = LABEL) -> None:
    tell(console, f"{label:<{width}}{text}")


def _line(text: str) -> str:
    return " ".join(text.split())


def _shortened(text: str) -> str:
    """A text without its middle, if it is long; it says how long that is."""
    left_out = len(text) - _MOST_CONTEXT
    if left_out <= 0:
        return text
    half = _MOST_CONTEXT // 2
    return f"{text[:half]} [... {left_out:,} characters ...] {text[-half:]}"


def _block(text: str, console: Console, most: int = _MOST_TEXT) -> None:
    """A text of several lines, indented."""
    shown = text if not most or len(text) <= most else f"{text[:most]} [... {len(text) - most:,} characters ...]"
    for line in shown.splitlines() or [""]:
        tell(console, _INDENT + line)


def context_note(jobs: Sequence[Any], spec: str) -> list[tuple[str, str]]:
    """Which documents stand before the prompts of global methods, and how many tokens they are."""
    found = describe_contexts(jobs)
    if not found.num_contexts:
        return []
    span = f"{found.least:,}" if found.least == found.most else f"{found.least:,} to {found.most:,}"
    which = "all documents of the corpus, as they fit" if spec == "all" else f"{spec}, as --context says"
    several = f"{found.num_contexts:,} contexts of" if found.num_contexts > 1 else "one context of"
    return [("context", f"{which}: {several} {span} {found.unit}, each shared by its prompts")]
