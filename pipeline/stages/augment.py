"""The augmentation stage: the model writes down, in context, what follows from documents; some methods need none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from augment_service.augment import (
    AUGMENTATIONS,
    PARTS,
    UNVERIFIED,
    AugmentTask,
    is_augmented,
    plan_augmentation,
    request_key,
    seal_augmentations,
    tests_key,
)
from augment_service.contexts import ALL, ContextSpec, parse_context
from augment_service.distillation import TEACHER, check_distillable, is_distilled, plan_distillation, seal_distillation
from augment_service.engines.protocol import check_scoring
from augment_service.jobs import RowRange, ShardedJob
from augment_service.methods import AugmentPlan
from augment_service.provenance import note_origin
from augment_service.verify import (
    AUTO,
    MEASURED,
    VerifyPlan,
    parse_verifiers,
    plan_verification,
    restating_methods,
    seal_verification,
    verified_methods,
)
from cluster.pool import Unit
from data.errors import InputError
from data.seeds import fingerprint
from data.store import list_shards
from pipeline.models import Model
from pipeline.progress import waiting
from pipeline.sections import AUTO_CONTEXT, Augment, AugmentCommand
from pipeline.stages.resources import LazyEngines, Setting, do_units

NEAREST = ContextSpec("nearest", 8)  # where the documents do not fit
_MOST_BYTES = 8 << 20  # of documents that are rendered and counted to see whether they fit


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of one folder of documents into `out`: its jobs, none where it is finished.

    `all_jobs` are those of a finished one, too; `parts` is the folder of their shards. `verification` is what rejects
    inferences afterwards; `measured` is the folder of the measurements. `tests` is the folder of questions that must
    not be trained.
    """

    documents: Path
    out: Path
    jobs: tuple[ShardedJob, ...]
    all_jobs: tuple[ShardedJob, ...]
    parts: Path
    context: ContextSpec = ALL
    verification: VerifyPlan | None = None
    measured: Path | None = None
    tests: Path | None = None

    @property
    def asking(self) -> list[ShardedJob]:
        """The jobs that ask a model, whether finished or not."""
        return [job for job in self.all_jobs if isinstance(job.task, AugmentTask)]

    @property
    def units(self) -> list[Unit]:
        """What is left to be done."""
        return [unit for job in self.jobs for unit in job.units()]


def check(model: Model, section: Augment) -> None:
    """Raise InputError for unknown methods, contexts and verifiers, and for rows that a teacher cannot read."""
    templates = model.book.select(section.methods)
    is_global = any(template.is_global for template in templates)
    if section.context != AUTO_CONTEXT and _context(section) != ALL and not is_global:
        raise InputError(
            f'the context "{section.context}" has no effect: local methods have no documents in context',
            where="augment.context",
            hint="leave it out, or add a global method",
        )
    if isinstance(section, AugmentCommand) and section.teacher_top_k:
        check_distillable(model.book, section.methods)
    parse_verifiers(section.verify, where="augment.verify")
    verified_methods(model.book, section.methods, section.verify_methods)


def _verification(setting: Setting, model: Model, section: Augment) -> VerifyPlan | None:
    """What rejects inferences, if anything does. Raises InputError where that cannot be measured."""
    thresholds = parse_verifiers(section.verify, where="augment.verify")
    asked = model.book, section.methods, section.verify_methods
    found = VerifyPlan(thresholds, verified_methods(*asked), restating_methods(*asked))
    if section.verify == AUTO and setting.engine.kind == "fake":
        return None  # what a dry run writes means nothing
    if found.asked:
        check_scoring(setting.engine.endpoint_api)
    return found if any(map(found.verified_by, found.thresholds)) else None


def plan(
    setting: Setting,
    model: Model,
    documents: Path,
    out: Path,
    section: Augment,
    parts: Path | None = None,
    ranges: Sequence[RowRange] | None = None,
    tests: Path | None = None,
) -> Augmentation:
    """What is left to be done; `parts` is the folder of the ledger (default: in `out`), `ranges` as in the service.

    `tests` is the folder of questions that must not be trained.

    Raises InputError before anything starts.
    """
    check(model, section)
    wanted = AugmentPlan(
        section.methods,
        section.samples,
        section.temperature,
        setting.seed,
        section.per_document,
        section.long_documents,
    )
    window, tokenizer = (setting.window(model), model.path) if model.folder else (None, "")
    plan_with = partial(
        plan_augmentation,
        documents,
        out,
        model.book,
        wanted,
        model=fingerprint(model.fingerprint, setting.engine.kind, setting.engine.dtype),
        window=window,
        tokenizer=tokenizer,
        parts=parts,
        ranges=ranges,
    )
    verification = _verification(setting, model, section)
    measured = parts.with_name(MEASURED) if parts else out / MEASURED
    with waiting(setting.console, "reading documents and contexts"):
        context, jobs = _plan_with_context(setting, section, documents, plan_with)
    note_origin(out, documents, [job for job in jobs if isinstance(job.task, AugmentTask)], model.name)
    all_jobs = jobs
    if section.retry_refused:
        for job in jobs:
            job.retry()
    elif is_augmented(out, jobs, tests_key(tests), verification.key if verification else ""):
        jobs = []
    return Augmentation(
        documents, out, tuple(jobs), tuple(all_jobs), parts or out / PARTS, context, verification, measured, tests
    )


def _plan_with_context(
    setting: Setting, section: Augment, documents: Path, plan_with: Callable[..., list[ShardedJob]]
) -> tuple[ContextSpec, list[ShardedJob]]:
    """The jobs, and the context that their global methods have: with "auto", all documents if they fit."""
    if section.context != AUTO_CONTEXT:
        context = _context(section)
        return context, plan_with(context=context)
    num_bytes = sum(shard.stat().st_size for shard in list_shards(documents))
    if num_bytes <= _MOST_BYTES:  # otherwise they fit no window
        try:
            return ALL, plan_with(context=ALL)
        except InputError:
            pass  # what is wrong besides is found once more
    jobs = plan_with(context=NEAREST)
    if any(job.task.template.is_global for job in jobs if isinstance(job.task, AugmentTask)):
        setting.say("context", f"{NEAREST}: the documents do not fit into the window together")
    return NEAREST, jobs


def _context(section: Augment) -> ContextSpec:
    return parse_context(section.context, where="augment.context", kinds=("all", "sample", "nearest", "bundle"))


def finish(
    setting: Setting, model: Model, plans: Sequence[Augmentation], section: Augment, engines: LazyEngines
) -> None:
    """Seal what the units have written, verify it, and report refusals. Raises InputError if all prompts were refused.

    All verifications together are one stage of the engines.
    """
    measuring: list[tuple[Augmentation, VerifyPlan, list[ShardedJob]]] = []
    for planned in (one for one in plans if one.jobs):
        name = UNVERIFIED if planned.verification else AUGMENTATIONS
        with waiting(setting.console, "sealing the augmentations"):
            refused = seal_augmentations(planned.documents, planned.out, planned.jobs, name, tests=planned.tests)
        _report_refused(setting, refused, "prompts", planned.out)
        if planned.verification:
            jobs = _plan_verification(setting, model, planned, planned.verification, section)
            measuring.append((planned, planned.verification, jobs))
    do_units(setting, engines, [unit for *_, jobs in measuring for job in jobs for unit in job.units()], "verify")
    for planned, verification, jobs in measuring:
        key = request_key(planned.jobs, tests_key(planned.tests), verification.key)
        found = seal_verification(
            planned.documents, planned.out, model.book, verification, jobs, key=key, context=planned.context
        )
        shown = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(found.rejected.items())) or "none"
        setting.say("verify", f"of {found.num_verified:,} inferences rejected: {shown}")
        _report_refused(setting, found.num_refused, "measurements", planned.measured or planned.out)


def _plan_verification(
    setting: Setting, model: Model, planned: Augmentation, verification: VerifyPlan, section: Augment
) -> list[ShardedJob]:
    jobs = plan_verification(
        planned.documents,
        planned.out,
        model.book,
        verification,
        model=fingerprint(model.fingerprint, setting.engine.kind, setting.engine.dtype),
        context=planned.context,
        seed=setting.seed,
        tokenizer=model.path if model.folder else "",
        measured=planned.measured,
    )
    for job in jobs if section.retry_refused else ():
        job.retry()
    return jobs


def distill(
    setting: Setting, model: Model, planned: Augmentation, section: AugmentCommand, engines: LazyEngines
) -> None:
    """Store the likeliest tokens in each place of the kept inferences, for `train --teacher`."""
    out, num_top = planned.out, section.teacher_top_k
    context = planned.context
    if context.kind not in ("all", "sample"):
        what, hint = f"the context {context} is not kept, and a teacher needs it again", "use --context all or sample:K"
        raise InputError(what, where="--teacher-top-k", hint=hint)
    jobs = plan_distillation(
        planned.documents,
        out,
        model.book,
        num_top=num_top,
        model=model.fingerprint,
        context=context,
        seed=setting.seed,
        tokenizer=model.path if model.folder else "",
    )
    if is_distilled(out):
        return
    do_units(setting, engines, [unit for job in jobs for unit in job.units()], "distill")
    _report_refused(setting, seal_distillation(out, jobs), "examples", out / TEACHER)


def _report_refused(setting: Setting, count: int, what: str, folder: Path) -> None:
    if count:
        setting.console.print(f"          {count:,} {what} refused, see {folder}", highlight=False)
