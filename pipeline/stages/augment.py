"""The augmentation stage: the model writes down, in context, what follows from documents."""

from dataclasses import dataclass
from pathlib import Path

from augment_service.augment import is_augmented, plan_augmentation, seal_augmentations
from augment_service.contexts import parse_context
from augment_service.distillation import TEACHER, is_distilled, plan_distillation, seal_distillation
from augment_service.jobs import ShardedJob
from augment_service.methods import AugmentPlan
from cluster.pool import Unit
from pipeline.models import Model
from pipeline.progress import report_refused
from pipeline.sections import Augment
from pipeline.stages.resources import LazyCluster, Setting, do_units, open_engines


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of one folder of documents into `out`: its jobs, none where it is finished."""

    documents: Path
    out: Path
    jobs: tuple[ShardedJob, ...]

    @property
    def units(self) -> list[Unit]:
        """What is left to be done."""
        return [unit for job in self.jobs for unit in job.units()]


def plan(setting: Setting, model: Model, documents: Path, out: Path, section: Augment) -> Augmentation:
    """Check the methods and their contexts, and plan what is left. Raises InputError before anything starts."""
    model.book.select(section.methods)
    if is_augmented(out) and not section.retry_refused:
        return Augmentation(documents, out, ())
    wanted = AugmentPlan(section.methods, section.samples, section.temperature, setting.seed)
    context = parse_context(section.context, where="augment.context")
    window, tokenizer = (setting.window(model), model.path) if model.folder else (None, "")
    jobs = plan_augmentation(
        documents, out, model.book, wanted, model=model.fingerprint, context=context, window=window, tokenizer=tokenizer
    )
    if section.retry_refused:
        for job in jobs:
            job.retry()
    return Augmentation(documents, out, tuple(jobs))


def finish(setting: Setting, planned: Augmentation) -> None:
    """Seal what the units have written, and report refusals. Raises InputError if all prompts were refused."""
    if planned.jobs:
        refusals = seal_augmentations(planned.documents, planned.out, planned.jobs)
        report_refused(refusals, "prompts", planned.out, setting.console)


def distill(setting: Setting, model: Model, planned: Augmentation, section: Augment, cluster: LazyCluster) -> None:
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
    )
    if is_distilled(out):
        return
    units = [unit for job in jobs for unit in job.units()]
    if units:
        with open_engines(setting, model, cluster.placement) as pool, setting.space.timed("distill"):
            do_units(setting, pool, units, "distill")
    report_refused(seal_distillation(out, jobs), "examples", out / TEACHER, setting.console)
