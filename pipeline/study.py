"""A study, top to bottom: data, augmentation, scores of the base model, finetuning, scores of every checkpoint, report.

Each stage writes one folder that is named by the hash of its inputs; a finished one is not made again, an
unfinished one goes on where it stopped. Order by residency: the engines come up once before training and once after.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from augment_service.augment import AUGMENTATIONS, collect, is_augmented, write_prompts
from augment_service.methods import AugmentPlan
from cluster.placement import Placement
from cluster.pool import ActorPool, Unit
from data.records import Augmentation, CheckpointRef
from data.rendering import PromptBook, load_book
from data.store import read_folder
from data.weights import weights_fingerprint
from evaluate.fanout import Job, Suite, check_contexts, collect_outcomes, plan_units, read_suite, unscored
from evaluate.items import ICL, PRETRAINED, finetuned_condition
from evaluate.report.content import ReportInput, print_report, write_report
from evaluate.report.evidence import audit_suite, installed_versions, read_losses
from pipeline.mixing import arm_sources, describe_courses, training_fields
from pipeline.progress import bar, run_units, tell_refusals, training_note
from pipeline.recipe import Recipe, local_model
from pipeline.residency import open_cluster, open_engines
from pipeline.sets import make_set
from pipeline.workspace import Workspace
from train.engine.checkpoint import how_computed
from train.plan.fit import AUTO, first_stage, fit_runs, machine_of
from train.run.finetune_run import FinetuneRun, TextSource
from train.run.launch import Progress, finetune_all
from train.run.training_plan import read_plan


@dataclass(frozen=True)
class Study:
    """A recipe with everything that its stages share."""

    recipe: Recipe
    space: Workspace
    console: Console
    model: str
    weights: str
    book: PromptBook
    data: Path
    augmented: Path
    trained: Path
    scored: Path

    def say(self, text: str) -> None:
        """One line for the person in front of it."""
        self.console.print(text, highlight=False)


def open_study(recipe: Recipe, space: Workspace, console: Console) -> Study:
    """Resolve the model and name the stages' folders: each hash takes in the hashes before it."""
    model = local_model(recipe.model)
    weights, book = weights_fingerprint(Path(model)), load_book(Path(model))
    data = space.stage("data", recipe.seed, recipe.data.model_dump_json())
    augmented = space.stage("augment", data.name, weights, book, recipe.augment.model_dump_json())
    trained = space.stage("train", augmented.name, recipe.train.model_dump_json())
    scored = space.stage("evaluate", data.name, book)
    return Study(recipe, space, console, model, weights, book, data, augmented, trained, scored)


def run_study(recipe: Recipe, out: Path, console: Console, *, import_seconds: float = 0.0) -> dict[str, Any]:
    """Run or resume a study in `out`; returns the content of `report.json`.

    `import_seconds` is what importing this module took: it counts as a stage, for it is felt as one.
    """
    space = Workspace(out)
    study = open_study(recipe, space, console)  # reads alone: wrong input leaves nothing behind
    with space.locked():
        space.record("imports", import_seconds)
        with space.timed("data"):
            suites = make_data(study)
            check_contexts(suites, study.model, study.book)
        runs = plan_runs(study, suites)
        base_jobs = plan_base_jobs(study, suites)
        with open_cluster(recipe.cluster, space, console) as placement:
            before_training(study, suites, base_jobs, placement)
            with space.timed("train"):
                refs = train_all(study, runs, placement)
            tuned_jobs = [_tuned_job(suites, run, ref) for run, ref in zip(runs, refs, strict=True)]
            after_training(study, suites, tuned_jobs, placement)
        jobs = [*base_jobs, *tuned_jobs]
        scored = collect_outcomes(jobs, suites, study.scored)
        tell_refusals(scored.refusals, study.scored, console)
        content = ReportInput(
            study=recipe.study,
            model=recipe.model,
            fingerprint=study.weights,
            outcomes=scored.outcomes,
            stage_seconds=space.seconds(),
            wall_seconds=sum(space.seconds().values()),
            audit={
                suite.name: audit_suite(suite, augmentations_of(study, suite.name), scored.chosen) for suite in suites
            },
            recipe=recipe.model_dump(mode="json", by_alias=True),
            versions=installed_versions(),
            losses={
                f"{job.suite}/{run.name}": read_losses(Path(run.out)) for job, run in zip(tuned_jobs, runs, strict=True)
            },
            courses={run.name: read_plan(Path(run.out)) for run in runs},
            command=f"python -m pipeline run {recipe.study}",
        )
        report = write_report(content, space.root / "report")
    print_report(report, console)
    study.say(f"\n[bold]{space.root / 'report' / 'report.html'}[/bold]  (figures and report.json beside it)")
    return report


def make_data(study: Study) -> list[Suite]:
    """The sets of the recipe, made or found."""
    for name, section in study.recipe.data.sets().items():
        make_set(name, section, study.recipe.seed, study.data / name)
    suites = [read_suite(name, study.data / name) for name in study.recipe.data.sets()]
    questions = sum(len(asked) for suite in suites for asked in suite.questions.values())
    documents = sum(len(members) for suite in suites for members in suite.documents.values())
    study.say(f"data      {len(suites)} sets, {documents} documents, {questions} questions")
    return suites


def before_training(study: Study, suites: list[Suite], jobs: list[Job], placement: Placement) -> None:
    """What needs engines with the base model: augmentation, then the base model's own scores."""
    needed = [study.augmented / suite.name for suite in suites if not is_augmented(study.augmented / suite.name)]
    if needed or unscored(jobs, suites, study.scored):
        with _engines(study, placement) as pool:
            with study.space.timed("augment"):
                augment_all(study, suites, pool)
            with study.space.timed("score base model"):
                score(study, suites, jobs, pool, "score base")
    collect_outcomes(jobs, suites, study.scored)  # a condition without any answer is told before the training
    kept = [row for suite in suites for row in augmentations_of(study, suite.name) if row.verdict == "kept"]
    study.say(f"augment   {len(kept)} inferences kept, in the model's own words")


def after_training(study: Study, suites: list[Suite], jobs: list[Job], placement: Placement) -> None:
    """Scores of every checkpoint: the engines start once and swap weights."""
    if unscored(jobs, suites, study.scored):
        with _engines(study, placement) as pool, study.space.timed("score checkpoints"):
            score(study, suites, jobs, pool, "score checkpoints")
    study.say(f"evaluate  {len(jobs)} checkpoints scored")


def augment_all(study: Study, suites: list[Suite], pool: ActorPool) -> None:
    """Local and global augmentation of every set, by the base model itself."""
    settings = study.recipe.augment
    wanted = AugmentPlan(settings.methods, settings.samples, settings.temperature, study.recipe.seed)
    units = {
        suite.name: write_prompts(
            study.data / suite.name / "documents", study.augmented / suite.name, study.book, wanted
        )
        for suite in suites
        if not is_augmented(study.augmented / suite.name)
    }
    do_units(study, pool, [unit for of_suite in units.values() for unit in of_suite], "augment")
    for name, of_suite in units.items():
        out = study.augmented / name
        refused = collect(study.data / name / "documents", out, study.book, of_suite, model=study.weights)
        if refused:
            study.say(f"          {refused} prompts refused, see {out / 'generations' / 'refused'}")


def score(study: Study, suites: list[Suite], jobs: list[Job], pool: ActorPool, label: str) -> None:
    """Score jobs with a progress bar; what is scored already is left out."""
    do_units(study, pool, plan_units(jobs, suites, study.scored, study.book), label)


def do_units(study: Study, pool: ActorPool, units: list[Unit], label: str) -> None:
    """Let the engines do the units, seen as the recipe wants it."""
    run_units(pool, units, study.console, label, metrics_port=study.recipe.cluster.metrics_port)


def plan_base_jobs(study: Study, suites: list[Suite]) -> list[Job]:
    """The base model, with and without the documents in its context, on every world."""
    return [
        Job(suite.name, world, condition, None, study.weights)
        for suite in suites
        for condition in (PRETRAINED, ICL)
        for world in suite.documents
    ]


def plan_runs(study: Study, suites: list[Suite]) -> list[FinetuneRun]:
    """One finetuning for each world and arm; arms differ in their texts alone, and are matched in steps or tokens."""
    settings = study.recipe.train
    return [
        FinetuneRun(
            name=f"{world}/{arm}",
            base=study.model,
            sources=sources,
            out=str(study.trained / world / arm),
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            schedule=settings.schedule,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.clip,
            seed=study.recipe.seed,
            stage=first_stage(settings.stage, settings.offload),
            trackers=settings.trackers,
            **training_fields(settings, next(iter(arms.values()))),
            **settings.engine_settings(),
        )
        for suite in suites
        for world in suite.documents
        for arms in [_arms(study, suite.name, world)]
        for arm, sources in arms.items()
    ]


def _arms(study: Study, suite: str, world: str) -> dict[str, tuple[TextSource, ...]]:
    """What each arm learns of a world."""
    documents = TextSource(str(study.data / suite / "documents"), world)
    inferences = TextSource(str(study.augmented / suite / AUGMENTATIONS), world, verdict_kept_only=True)
    settings = study.recipe.train
    return {
        arm: arm_sources(documents, inferences, [t.method for t in study.book.select(methods)], settings)
        for arm, methods in settings.arms.items()
    }


def train_all(study: Study, runs: list[FinetuneRun], placement: Placement) -> list[CheckpointRef]:
    """All runs of the study on one worker group."""
    settings, auto = study.recipe.train, study.recipe.train.stage == AUTO
    if auto or settings.memory_check:
        machine = machine_of(placement, study.recipe.cluster.address, settings.ranks_per_run)
        runs = fit_runs(runs, machine, auto=auto, say=study.say)
    steps = settings.steps or 100  # of a run whose steps are not known yet, hundredths are counted
    with bar(study.console, "train", len(runs) * steps, eta=True) as shown:

        def show(progress: Progress) -> None:
            shown.update(int(progress.done * steps), f"{progress.run}  {training_note(progress)}")

        refs = finetune_all(
            runs,
            num_workers=placement.ranks,
            cpus_per_worker=placement.cpus_per_rank,
            use_gpu=placement.gpus_per_rank > 0,
            storage=study.trained / "ray",
            on_progress=show,
            stall_seconds=settings.stall_seconds,
            ranks_per_run=settings.ranks_per_run,
        )
    courses = describe_courses([read_plan(Path(run.out)) for run in runs])
    stages = ", ".join(str(stage) for stage in sorted({run.stage for run in runs}))
    side_by_side = placement.ranks // (settings.ranks_per_run or placement.ranks)
    how = how_computed(Path(refs[-1].path)) + (f", {side_by_side} side by side" if side_by_side > 1 else "")
    study.say(f"train     {len(runs)} runs of {courses}, ZeRO stage {stages}, {how}")
    return refs


def _tuned_job(suites: list[Suite], run: FinetuneRun, ref: CheckpointRef) -> Job:
    world, _, arm = run.name.rpartition("/")
    suite = next(suite.name for suite in suites if world in suite.documents)
    return Job(suite, world, finetuned_condition(arm), ref, ref.fingerprint)


def augmentations_of(study: Study, suite: str) -> list[Augmentation]:
    """All rows that the model wrote for a set, those set aside among them."""
    return list(read_folder(study.augmented / suite / AUGMENTATIONS, Augmentation))


def _engines(study: Study, placement: Placement) -> AbstractContextManager[ActorPool]:
    recipe = study.recipe
    return open_engines(study.model, recipe.cluster, recipe.seed, placement, study.space, study.console)
