"""The course of a run: its tokens, which of them are learned in which step, and how they share rows.

Reads: the texts of a run's sources; their token folders. Writes: token folders, shared by the runs of a study or beside
the run's output folder; all but one process only read them.
"""

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError
from train.run.finetune_run import FinetuneRun
from train.texts.batches import Batch, batches_of
from train.texts.encode import Reader, load_reader
from train.texts.mix import Budget, Schedule, make_schedule, match_budget, source_shares
from train.texts.packing import Arithmetic, Layout, choose_layout
from train.texts.sources import TextSource, name_rows
from train.texts.token_rows import TokenRows
from train.texts.tokens import open_tokens, write_tokens

COURSE = "course.json"
_ROWS_TOLD = 64  # of a batch that went wrong


@dataclass(frozen=True)
class Course:
    """What a run goes through. Producer: `open_course`. Consumer: `train.run.loop`.

    `run` has its budget in steps, whatever it was given in.
    """

    run: FinetuneRun
    rows: TokenRows
    schedule: Schedule
    layout: Layout

    def batches(self, rank: int, world_size: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one rank from step `start` on."""
        taught = self.run.objective == "distillation"
        ranks = {"rank": rank, "world_size": world_size}
        return batches_of(self.rows, self.schedule, self.layout, **ranks, start=start, taught=taught)

    def name_rows(self, indices: Sequence[int]) -> str:
        """What some of the texts are called, by folder, for messages."""
        by_source: dict[int, list[int]] = {}
        for index in indices[:_ROWS_TOLD]:
            source, local = self.rows.locate(index)
            by_source.setdefault(source, []).append(local)
        more = f", and {len(indices) - _ROWS_TOLD} more rows" if len(indices) > _ROWS_TOLD else ""
        sources = ((self.run.sources[at], places) for at, places in by_source.items())
        return "; ".join(f"{', '.join(name_rows(*of))} in {of[0].folder}" for of in sources) + more

    def summary(self) -> dict[str, object]:
        """What people ask of a course: how long it is, what it consists of, how it was laid out and why."""
        return {
            "num_steps": self.schedule.num_steps,
            "num_tokens": self.schedule.num_tokens,
            "num_texts": len(self.rows),
            "epochs": len(self.schedule.rows) / len(self.rows),
            "source_shares": source_shares(self.schedule, self.rows.lengths, len(self.run.sources)),
            "layout": dataclasses.asdict(self.layout),
        }


def check_ranks(run: FinetuneRun, world_size: int) -> None:
    """Refuse a batch that leaves ranks, or parts of their batches, without work in every step."""
    size, unit = (run.batch_tokens, "tokens") if run.batch_tokens else (run.batch_size, "texts")
    if size < world_size * run.accumulation:
        parts = f" in {run.accumulation} parts each" * (run.accumulation > 1)
        raise InputError(
            f"a batch of {size} {unit} cannot be shared by {world_size} workers{parts}",
            where=f"run {run.name}",
            hint=f"raise batch_{'tokens' if run.batch_tokens else 'size'}, or use fewer workers or parts",
        )


def write_course(run: FinetuneRun) -> None:
    """Tokenise what the run needs, unless that is done. One process at a time; raises InputError for wrong input."""
    _write(run.sources, run)
    _write(run.matched_to, run)
    # Only a plan of the whole run shows an empty mix or a source without texts.
    _plan(run, load_reader(run.base))


def open_course(run: FinetuneRun, refusal: str | None, arithmetic: Arithmetic, *, world_size: int) -> Course:
    """The course of a run whose tokens are written.

    `refusal` says why the model cannot be trained on packed rows, if it cannot.
    """
    reader = load_reader(run.base)
    rows, schedule = _plan(run, reader)
    layout = choose_layout(
        run.layout,
        refusal=refusal,
        schedule=schedule,
        num_inputs=rows.lengths.num_inputs,
        world_size=world_size,
        arithmetic=arithmetic,
        where=f"run {run.name}",
        accumulation=run.accumulation,
    )
    resolved = dataclasses.replace(
        run,
        num_steps=schedule.num_steps,
        num_tokens=0,
        num_epochs=0,
        match="",
        matched_to=(),
        warmup_steps=min(run.warmup_steps, schedule.num_steps),
    )
    return Course(resolved, rows, schedule, layout)


def forget_tokens(run: FinetuneRun) -> None:
    """Delete the tokens of a run that is finished, unless other runs share them."""
    if not run.tokens:
        shutil.rmtree(_root(run), ignore_errors=True)


def _write(sources: Sequence[TextSource], run: FinetuneRun) -> None:
    write_tokens(sources, _root(run), load_reader(run.base), where=f"the texts of run {run.name}")


def _plan(run: FinetuneRun, reader: Reader) -> tuple[TokenRows, Schedule]:
    budget = Budget(run.num_steps, run.num_tokens, run.num_epochs)
    if run.match:
        reference = open_tokens(run.matched_to, _root(run), reader)
        budget = match_budget(run.match, _schedule(run, run.matched_to, reference, budget))
    rows = open_tokens(run.sources, _root(run), reader)
    if run.objective == "distillation" and not rows.num_top:
        raise InputError(
            "distillation needs a teacher's distributions, and no source holds any",
            where=f"run {run.name}",
            hint='name a folder of Distribution records, or use the objective "text"',
        )
    return rows, _schedule(run, run.sources, rows, budget)


def _schedule(run: FinetuneRun, sources: Sequence[TextSource], rows: TokenRows, budget: Budget) -> Schedule:
    return make_schedule(
        rows.lengths,
        _weights(run, sources, rows),
        budget=budget,
        batch_size=run.batch_size,
        batch_tokens=run.batch_tokens,
        seed=run.seed,
    )


def _weights(run: FinetuneRun, sources: Sequence[TextSource], rows: TokenRows) -> list[float]:
    """The sources' weights, or none. Inferences of which none was kept leave their share to the others.

    That may happen in any world; a folder of documents without texts is a mistake.
    """
    weights = [source.weight for source in sources if source.weight is not None]
    for index, (source, weight) in enumerate(zip(sources, weights, strict=False)):
        if weight > 0 and not (rows.lengths.sources == index).any():
            if not source.verdict_kept_only or sum(weights) == weight:
                raise InputError(
                    "a source of the mix has a weight but no texts",
                    where=f"run {run.name}: {source}",
                    hint="check its folder, world and methods, or give it a weight of 0",
                )
            weights[index] = 0.0
    return weights


def _root(run: FinetuneRun) -> Path:
    out = Path(run.out)
    return Path(run.tokens) if run.tokens else out.with_name(f".{out.name}.tokens")
