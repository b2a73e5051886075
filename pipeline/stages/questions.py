"""The question stage: questions are written from documents, given options, and checked by likelihood."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from augment_service.jobs import ShardedJob
from augment_service.questions import job as work
from augment_service.questions.answers import Frequencies
from augment_service.questions.checks import NOT_WITH_SOURCE, REFUSED, split_of
from augment_service.questions.drafts import BUNDLE, CLOZE, KNOWN, QA, REVERSAL, Draft
from augment_service.questions.job import ASKED_WITH, QuestionPlan, Related, Written
from augment_service.questions.written import NO_EVIDENCE, NOT_IN_EVIDENCE, UNREAD
from augment_service.related.index import INDEX, open_index
from data.errors import InputError
from data.facts import DEV, TEST, TRAIN, Shares, original_of
from data.records import Document
from data.seeds import fingerprint
from pipeline.models import Model
from pipeline.sections import Questions
from pipeline.stages.evaluate import scoring_key
from pipeline.stages.related import find_index
from pipeline.stages.resources import LazyEngines, Setting, do_units

STAGE = "questions"
NUM_TRIED = 8  # related documents, among them parts of the same one


def write_questions(
    setting: Setting,
    model: Model,
    documents: Path,
    out: Path,
    section: Questions,
    engines: LazyEngines,
) -> None:
    """Write `OUT/questions` and all beside it; what is there already is not asked again.

    Raises InputError where nothing is left, with the reason; the folders are written first.
    """
    plan, frequencies, written, jobs = prepare(setting, model, documents, out, section)
    weights = scoring_key(setting, model.fingerprint)

    def run(these: Sequence[ShardedJob | None]) -> None:
        for one in these:
            if one and section.retry_refused:
                one.retry()
        do_units(setting, engines, [unit for one in these if one for unit in one.units()], STAGE)

    run(jobs)
    drafts = work.collect_drafts(written, jobs, frequencies)
    candidates = work.find_candidates(drafts, written, plan)
    priors = work.prior_job(candidates, out, model.book, weights=weights)
    run([priors])
    drafts = work.choose_options(candidates, priors, plan)
    checks = work.check_job(drafts, out, model.book, plan, weights=weights)
    run([checks])
    drafts = work.judge_drafts(drafts, checks, plan)
    work.seal_questions(drafts, out, plan.margin)
    setting.console.print(table_of(drafts, plan.margin))
    if refusals := work.refusals_of([*jobs, priors, checks]):
        setting.say("refused", f"{len(refusals):,} requests, the first: {refusals[0].what}")
    _conclude(setting, drafts, out, plan)


class Prepared(NamedTuple):
    """What is asked of models, and what was written without one. Producer: `prepare`."""

    plan: QuestionPlan
    frequencies: Frequencies
    written: Written
    jobs: list[ShardedJob]


def prepare(setting: Setting, model: Model, documents: Path, out: Path, section: Questions) -> Prepared:
    """Part the facts, write what needs no model, and report what engines will be asked; none starts."""
    plan = _plan(setting, model, section)
    counts, frequencies = work.part_facts(documents, out, plan.shares)
    related = _related(setting, documents) if BUNDLE in plan.writers else None
    written = work.write_drafts(documents, plan, frequencies, related)
    key = fingerprint(model.fingerprint, setting.engine.kind, setting.engine.dtype)
    tokenizer = model.path if model.folder else ""
    jobs = work.writing_jobs(written, out, model.book, plan, model=key, tokenizer=tokenizer)
    _announce(setting, counts, written, jobs, plan)
    return Prepared(plan, frequencies, written, jobs)


def _plan(setting: Setting, model: Model, section: Questions) -> QuestionPlan:
    """The plan of a section. Writers for which the book has no templates are left out, which is reported."""
    writers = []
    for writer in dict.fromkeys(section.writers):
        if writer in (CLOZE, REVERSAL) or model.book.asking(ASKED_WITH[writer]):
            writers.append(writer)
        else:
            setting.say(
                "left out", f"{writer}: the prompt book has no table [questions.NAME] with {{{ASKED_WITH[writer]}}}"
            )
    if not writers:
        hint = "add the writer cloze, or use a book with such a table (--prompts english)"
        raise InputError("no writer is left", where="questions.writers, flag --writers", hint=hint)
    return QuestionPlan(
        tuple(writers),
        Shares(section.test_share, section.dev_share, setting.seed),
        section.options,
        section.most,
        section.per_document,
        section.margin,
        section.shuffles,
        section.temperature,
    )


def _related(setting: Setting, documents: Path) -> Related:
    """The document that is most related to one, by the index, which is built if need be.

    Rather one of another original than a further part of the same.
    """
    find_index(setting, documents)
    index = open_index(documents, setting.space.root / INDEX)

    @lru_cache(maxsize=256)  # the facts of a document follow each other
    def nearest(doc_id: str) -> list[Document]:
        (rows,) = index.nearest(index.rows_of([doc_id]), NUM_TRIED)
        found = index.documents.read(rows)
        others = [one for one in found if original_of(one.doc_id) != original_of(doc_id)]
        return (others or found)[:1]

    return lambda document: nearest(document.doc_id)


def _announce(
    setting: Setting, counts: Counter[str], written: Written, jobs: Sequence[ShardedJob], plan: QuestionPlan
) -> None:
    """What is going to be asked, before engines start."""
    total = sum(counts.values())
    setting.say("facts", f"{total:,}: {counts[TEST]:,} test, {counts[DEV]:,} dev, {counts[TRAIN]:,} for training only")
    by_writer = Counter(draft.writer for draft in written.drafts)
    parts = [f"{count:,} {name}" for name, count in by_writer.items()]
    setting.say("written", f"without a model: {', '.join(parts) or 'none'}")
    prompts = sum(rows.stop - rows.start for job in jobs for rows in job.ranges)
    asked = [f"{len(rows):,} {name}" for name, rows in written.passages.items() if rows]
    listed = f" ({', '.join(asked)})" if asked else ""
    setting.say("to write", f"{prompts:,} prompts{listed}")
    least = len(written.drafts)
    passages = {name: len(rows) for name, rows in written.passages.items()}
    most = least + 3 * (passages[QA] + passages[BUNDLE]) + passages[REVERSAL]
    checks = 2 + plan.shuffles
    setting.say("to score", f"up to about {most:,} questions, {checks} requests each, and a prior for each option")


def table_of(drafts: Sequence[Draft], least: float) -> Table:
    """Written, kept by split, and dropped by reason, for each writer; `least` as in `split_of`."""
    writers = list(dict.fromkeys(draft.writer for draft in drafts))
    table = Table("", *writers, "all", title="questions", title_justify="left")

    def row(name: str, these: Sequence[Draft]) -> None:
        counts = Counter(draft.writer for draft in these)
        table.add_row(name, *(f"{counts[writer]:,}" for writer in writers), f"{len(these):,}")

    row("written", drafts)
    kept = [draft for draft in drafts if not draft.reason]
    for split in (TEST, DEV, KNOWN):
        row(f"kept: {split}", [draft for draft in kept if split_of(draft, least) == split])
    for reason in dict.fromkeys(draft.reason for draft in drafts if draft.reason):
        row(f"dropped: {reason}", [draft for draft in drafts if draft.reason == reason])
    return table


def _conclude(setting: Setting, drafts: Sequence[Draft], out: Path, plan: QuestionPlan) -> None:
    """Say what there is. Raises InputError where no question is kept."""
    kept = [draft for draft in drafts if not draft.reason]
    checked = [draft for draft in drafts if not math.isnan(draft.source_margin)]
    if checked:
        read = sum(draft.source_margin > 0 for draft in checked)
        closed = sum(draft.closed_margin > 0 for draft in checked)
        shares = f"{read / len(checked):.0%}, without it {closed / len(checked):.0%}; chance {1 / plan.options:.0%}"
        setting.say("measured", f"of {len(checked):,} questions right with the source {shares}")
    if not kept:
        raise _nothing_kept(drafts, checked, out, plan)
    splits = Counter(split_of(draft, plan.margin) for draft in kept)
    if set(splits) == {KNOWN}:
        setting.say("known", "the model is right without the documents on all questions: there is nothing to learn")
    setting.say("questions", f"{len(kept):,} in {out / work.QUESTIONS}; to read them: {out / work.LISTING}")
    setting.say("dropped", f"{len(drafts) - len(kept):,} in {out / work.DROPPED}")


def _nothing_kept(drafts: Sequence[Draft], checked: Sequence[Draft], out: Path, plan: QuestionPlan) -> InputError:
    """Why there is no question."""
    if not drafts:
        hint = "give longer documents: a question needs a name, number, date or rare word late in a sentence"
        return InputError("no question could be written", where=str(out / work.FACTS), hint=hint)
    where = f"{out / work.DROPPED} has all {len(drafts):,} with their reasons"
    reason, count = Counter(draft.reason for draft in drafts).most_common(1)[0]
    if reason == NOT_WITH_SOURCE:
        read = sum(draft.source_margin > 0 for draft in checked)
        what = f"no question is kept: with its source in context the model prefers the right option for {read:,} of"
        what += f" {len(checked):,} questions, and never by {plan.margin} nats"
        return InputError(what, where=where, hint="use a model that can read, or lower --margin")
    hint = "give more documents"
    if reason in (REFUSED, UNREAD):
        hint = "use another model, or a longer --window"
    elif reason in (NO_EVIDENCE, NOT_IN_EVIDENCE):
        hint = "let a larger model write, or use --writers cloze, which needs none"
    return InputError(f"no question is kept; most often: {reason} ({count:,} times)", where=where, hint=hint)
