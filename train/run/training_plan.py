"""The plan of a run: its tokens, which of them are learned in which step, and how they share rows.

Reads: the texts of a run's sources; token folders. Writes: token folders, shared by the runs of a list or beside the
run's output folder; all processes but one only read them.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.seeds import fingerprint
from train.run.finetune_run import FinetuneRun
from train.texts.batches import Batch, batches_of
from train.texts.encode import TextEncoder, TextLimits, load_encoder
from train.texts.mix import (
    Budget,
    Schedule,
    load_schedule,
    make_schedule,
    match_budget,
    save_schedule,
    source_shares,
)
from train.texts.packing import Arithmetic, Layout, choose_layout
from train.texts.sources import TextSource, name_texts, replay_shares, weights_of
from train.texts.tokens import TokenRows, count_left_out, open_tokens, tokens_folder, write_tokens

PLAN = "plan.json"
_TEXTS_NAMED = 64  # in an error message


@dataclass(frozen=True)
class TrainingPlan:
    """The texts of every step and their layout. Producer: `open_plan`. Consumer: `train.run.loop`.

    `run` has its budget in steps, in whatever unit it was given. `left_out` counts training texts (each of the
    assistant's turns in a conversation is one): those that were cut, skipped for their length, and empty.
    """

    run: FinetuneRun
    rows: TokenRows
    schedule: Schedule
    layout: Layout
    left_out: Mapping[str, int]

    def batches(self, rank: int, world_size: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one rank from step `start` on."""
        with_teacher = self.run.objective == "distillation"
        ranks = {"rank": rank, "world_size": world_size}
        return batches_of(self.rows, self.schedule, self.layout, **ranks, start=start, with_teacher=with_teacher)

    def name_texts(self, indices: Sequence[int]) -> str:
        """Names of some of the texts, by folder, for messages."""
        by_source: dict[int, list[int]] = {}
        for index in indices[:_TEXTS_NAMED]:
            source, local = self.rows.locate(index)
            by_source.setdefault(source, []).append(local)
        more = f", and {len(indices) - _TEXTS_NAMED} more" if len(indices) > _TEXTS_NAMED else ""
        sources = ((self.run.sources[index], positions) for index, positions in by_source.items())
        return "; ".join(f"{', '.join(name_texts(*of))} in {of[0].folder}" for of in sources) + more

    def summary(self) -> dict[str, object]:
        """The content of `plan.json`: the run's length, the shares of its sources, and its layout with the reason."""
        return {
            "num_steps": self.schedule.num_steps,
            "num_tokens": self.schedule.num_tokens,
            "num_texts": len(self.rows),
            "epochs": len(self.schedule.rows) / len(self.rows),
            "source_shares": source_shares(self.schedule, self.rows.lengths, len(self.run.sources)),
            "layout": dataclasses.asdict(self.layout),
            "texts": dict(self.left_out),
        }


def read_plan(checkpoint: Path) -> dict[str, Any]:
    """The `TrainingPlan.summary` of a finished run."""
    content: dict[str, Any] = json.loads((checkpoint / PLAN).read_text())
    return content


def check_ranks(run: FinetuneRun, ranks: int, *, flag: str = "--ranks") -> None:
    """Refuse a batch that leaves ranks or micro-batches without work in every step."""
    size, unit = (run.batch_tokens, "tokens") if run.batch_tokens else (run.batch_size, "texts")
    if size < ranks * run.accumulation:
        each = f" with {run.accumulation} micro-batches each" * (run.accumulation > 1)
        raise InputError(
            f"a batch of {size} {unit} cannot be shared by {ranks} ranks{each}",
            where=f"{flag} of run {run.name}",
            hint=f"raise train.batch_{'tokens' if run.batch_tokens else 'size'}, or lower {flag} or train.accumulation",
        )


def write_texts(run: FinetuneRun) -> None:
    """Tokenize the run's texts, unless that is done. One process at a time; raises InputError for wrong input."""
    encoder = load_encoder(run.base)
    for sources in (run.sources, run.matched_to):
        write_tokens(sources, _tokens_folder(run), encoder, _limits(run, encoder), where=f"the texts of run {run.name}")
    schedule_texts(run, encoder)  # an empty mix or a source without texts shows only here


def open_plan(run: FinetuneRun, refusal: str | None, arithmetic: Arithmetic, *, world_size: int) -> TrainingPlan:
    """The plan of a run whose tokens are written.

    `refusal` is the reason why the model cannot be trained on packed rows, if it cannot.
    """
    encoder = load_encoder(run.base)
    rows, schedule = schedule_texts(run, encoder)
    layout = choose_layout(
        run.layout,
        refusal=refusal,
        schedule=schedule,
        num_inputs=rows.lengths.num_inputs,
        world_size=world_size,
        arithmetic=arithmetic,
        where=f"train.layout of run {run.name}",
        accumulation=run.accumulation,
    )
    resolved = dataclasses.replace(
        run,
        num_steps=schedule.num_steps,
        num_tokens=0,
        num_epochs=0,
        min_steps=0,
        match="",
        matched_to=(),
        warmup_steps=min(run.warmup_steps, schedule.num_steps),
    )
    left_out = count_left_out(run.sources, _tokens_folder(run), encoder, _limits(run, encoder))
    return TrainingPlan(resolved, rows, schedule, layout, left_out)


def delete_tokens(run: FinetuneRun) -> None:
    """Delete the tokens of a run that is finished, unless other runs share them."""
    if not run.tokens:
        shutil.rmtree(_tokens_folder(run), ignore_errors=True)


def schedule_texts(run: FinetuneRun, encoder: TextEncoder) -> tuple[TokenRows, Schedule]:
    """The texts of a run whose tokens are written, and which of them are learned in which step."""
    budget = Budget(run.num_steps, run.num_tokens, run.num_epochs)
    if run.match:
        reference = open_tokens(run.matched_to, _tokens_folder(run), encoder, _limits(run, encoder))
        budget = match_budget(run.match, _schedule(run, run.matched_to, reference, budget, encoder))
    rows = open_tokens(run.sources, _tokens_folder(run), encoder, _limits(run, encoder))
    if run.objective == "distillation":
        _check_teachers(run, rows)
    return rows, _schedule(run, run.sources, rows, budget, encoder)


def _limits(run: FinetuneRun, encoder: TextEncoder) -> TextLimits:
    return TextLimits(min(run.max_text_tokens or encoder.window, encoder.window), run.long_texts)


def _check_teachers(run: FinetuneRun, rows: TokenRows) -> None:
    """Refuse a distillation without a teacher, or by teachers that stored different numbers of tokens."""
    found = sorted(set(rows.num_top) - {0})
    if len(found) != 1:
        raise InputError(
            f"the teachers' distributions hold different numbers of tokens: {', '.join(map(str, found))}"
            if found
            else "no source has a teacher's distributions",
            where=f"--teacher of run {run.name}",
            hint="name folders that `augment` wrote with one value of augment.teacher_top_k",
        )


def _schedule(
    run: FinetuneRun, sources: Sequence[TextSource], rows: TokenRows, budget: Budget, encoder: TextEncoder
) -> Schedule:
    """The schedule of a run; a budget in epochs is extended to `min_steps`."""
    found = _load_schedule(run, sources, rows, budget, encoder)
    if budget.epochs and found.num_steps < run.min_steps:
        found = _load_schedule(run, sources, rows, Budget(steps=run.min_steps), encoder)
    return found


def _load_schedule(
    run: FinetuneRun, sources: Sequence[TextSource], rows: TokenRows, budget: Budget, encoder: TextEncoder
) -> Schedule:
    """A schedule, made once and then mapped by every rank and every later start."""
    weights, replay = _weights(run, sources, rows), replay_shares(sources)
    root, limits = _tokens_folder(run), _limits(run, encoder)
    names = [tokens_folder(source, root, encoder, limits).name for source in sources]
    settings = {"batch_size": run.batch_size, "batch_tokens": run.batch_tokens, "seed": run.seed}
    folder = root / "schedules" / fingerprint(names, weights, sorted(replay.items()), budget, sorted(settings.items()))
    if not folder.exists():
        save_schedule(make_schedule(rows.lengths, weights, replay=replay, budget=budget, **settings), folder)
    return load_schedule(folder)


def _weights(run: FinetuneRun, sources: Sequence[TextSource], rows: TokenRows) -> list[float]:
    """The sources' weights, or none. If no augmentation of a source was kept, the others get its share.

    An empty folder of documents is an error, and so is replay without texts.
    """
    weights = weights_of(sources)
    for index, source in enumerate(sources):
        weight = weights[index] if weights else 0.0
        if (weight > 0 or source.share) and not (rows.lengths.sources == index).any():
            if source.share or not source.verdict_kept_only or sum(weights) == weight:
                raise InputError(
                    "a source of the mix has a weight but no texts",
                    where=f"{'train.replay' if source.share else 'train.mix'} of run {run.name}: {source}",
                    hint="check its folder, corpus and methods, or leave it out",
                )
            weights[index] = 0.0
    return weights


def _tokens_folder(run: FinetuneRun) -> Path:
    out = Path(run.out)
    return Path(run.tokens) if run.tokens else out.with_name(f".{out.name}.tokens")
