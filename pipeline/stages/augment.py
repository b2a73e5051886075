"""The augmentation stage: the model writes down, in context, what follows from documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from augment_service.augment import (
    AUGMENTATIONS,
    UNVERIFIED,
    is_augmented,
    plan_augmentation,
    request_key,
    seal_augmentations,
)
from augment_service.contexts import ALL, parse_context
from augment_service.distillation import TEACHER, is_distilled, plan_distillation, seal_distillation
from augment_service.engines.protocol import check_scoring
from augment_service.jobs import ShardedJob
from augment_service.methods import AugmentPlan
from augment_service.verify import (
    AUTO,
    MEASURED,
    VerifyPlan,
    parse_verifiers,
    plan_verification,
    seal_verification,
    verified_methods,
)
from cluster.pool import Unit
from data.errors import InputError
from data.seeds import fingerprint
from pipeline.models import Model
from pipeline.sections import Augment, AugmentCommand
from pipeline.stages.resources import LazyEngines, Setting, do_units


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of one folder of documents into `out`: its jobs, none where it is finished.

    `verification` is what rejects inferences afterwards; `measured` is the folder of the measurements.
    """

    documents: Path
    out: Path
    jobs: tuple[ShardedJob, ...]
    verification: VerifyPlan | None = None
    measured: Path | None = None

    @property
    def units(self) -> list[Unit]:
        """What is left to be done."""
        return [unit for job in self.jobs for unit in job.units()]


def check(model: Model, section: Augment) -> None:
    """Raise InputError for unknown methods, contexts and verifiers."""
    templates = model.book.select(section.methods)
    context = parse_context(section.context, where="augment.context")
    if context != ALL and not any(template.is_global for template in templates):
        raise InputError(
            f'the context "{context}" has no effect: local methods have no documents in context',
            where="augment.context",
            hint="leave it out, or add a global method",
        )
    parse_verifiers(section.verify, where="augment.verify")
    verified_methods(model.book, section.methods, section.verify_methods)


def _verification(setting: Setting, model: Model, section: Augment) -> VerifyPlan | None:
    """What rejects inferences, if anything does. Raises InputError where that cannot be measured."""
    thresholds = parse_verifiers(section.verify, where="augment.verify")
    found = VerifyPlan(thresholds, verified_methods(model.book, section.methods, section.verify_methods))
    if section.verify == AUTO and setting.engine.kind == "fake":
        return None  # what a dry run writes means nothing
    if found.asked:
        check_scoring(setting.engine.endpoint_api)
    return found if found.thresholds and found.methods else None


def plan(
    setting: Setting, model: Model, documents: Path, out: Path, section: Augment, parts: Path | None = None
) -> Augmentation:
    """What is left to be done; `parts` is the folder of the ledger (default: in `out`).

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
    context = parse_context(section.context, where="augment.context")
    window, tokenizer = (setting.window(model), model.path) if model.folder else (None, "")
    jobs = plan_augmentation(
        documents,
        out,
        model.book,
        wanted,
        model=fingerprint(model.fingerprint, setting.engine.kind, setting.engine.dtype),
        context=context,
        window=window,
        tokenizer=tokenizer,
        parts=parts,
    )
    verification = _verification(setting, model, section)
    measured = parts.with_name(MEASURED) if parts else out / MEASURED
    if section.retry_refused:
        for job in jobs:
            job.retry()
    elif is_augmented(out, jobs, verification.key if verification else ""):
        jobs = []
    return Augmentation(documents, out, tuple(jobs), verification, measured)


def finish(
    setting: Setting, model: Model, plans: Sequence[Augmentation], section: Augment, engines: LazyEngines
) -> None:
    """Seal what the units have written, verify it, and report refusals. Raises InputError if all prompts were refused.

    All verifications together are one stage of the engines.
    """
    measuring: list[tuple[Augmentation, VerifyPlan, list[ShardedJob]]] = []
    for planned in (one for one in plans if one.jobs):
        name = UNVERIFIED if planned.verification else AUGMENTATIONS
        refused = seal_augmentations(planned.documents, planned.out, planned.jobs, name)
        _report_refused(setting, refused, "prompts", planned.out)
        if planned.verification:
            jobs = _plan_verification(setting, model, planned, planned.verification, section)
            measuring.append((planned, planned.verification, jobs))
    do_units(setting, engines, [unit for *_, jobs in measuring for job in jobs for unit in job.units()], "verify")
    for planned, verification, jobs in measuring:
        key = request_key(planned.jobs, verification.key)
        found = seal_verification(planned.documents, planned.out, model.book, verification, jobs, key=key)
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
        context=parse_context(section.context, where="augment.context"),
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
    context = parse_context(section.context, where="augment.context")
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
