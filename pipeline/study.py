"""A study, top to bottom: data, augmentation, scores of the base model, training, scores of every checkpoint, report.

Each stage writes a folder named by the hash of its inputs, each training run one named by its own key; finished work
is not repeated, unfinished work resumes. Order by residency: the engines start once before the training and once after.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from augment_service.augment import AUGMENTATIONS, PARTS
from augment_service.chat import AnswerFrame
from augment_service.contexts import ContextSpec
from augment_service.engines.protocol import check_scoring
from augment_service.model_free import chat_methods
from cluster.placement import Placement
from data.errors import InputError
from data.records import CheckpointRef
from data.store import content_of, write_json, write_text
from evaluate import general
from evaluate.conditions import BASE, NO_CONTEXT, study_condition
from evaluate.fanout import ScoreJob, Suite, collect_outcomes, suite_corpora
from evaluate.general import GeneralText, TextJob
from pipeline.models import Model, find_model
from pipeline.recipe import Recipe, to_toml
from pipeline.stages import augment, data, evaluate, replay, train
from pipeline.stages.replay import Replay
from pipeline.stages.resources import LazyCluster, LazyEngines, Setting, check_service, do_units
from pipeline.workspace import Workspace
from train.engine.checkpoint import find_steps
from train.run.finetune_run import FinetuneRun
from train.run.keys import key_of
from train.run.training_plan import read_plan
from train.texts.sources import TextSource

CHECKPOINTS = "checkpoints.json"  # the folder of each run's checkpoint


@dataclass(frozen=True)
class Study:
    """A recipe with everything that its stages share. In `recipe` [train] is resolved, `given` is as it was read.

    `data` are the folders of the entries of [data], each named by what decides its content. `frame` is the chat
    template around the questions, empty for plain text.
    """

    recipe: Recipe
    given: Recipe
    setting: Setting
    model: Model
    data: Mapping[str, Path]
    frame: AnswerFrame

    def augment_folder(self, suite: Suite) -> Path:
        """The folder of what the model writes about a suite's documents, named by their content."""
        assert suite.documents is not None
        recipe, documents = self.recipe, content_of(suite.documents)
        settings = recipe.augment.model_dump(exclude={"retry_refused", "prompts"})
        inputs = (documents, self.model.fingerprint, self.model.book, settings, recipe.seed)
        return self.setting.space.stage(f"augment/{suite.name}", *inputs, recipe.engine.kind, recipe.engine.dtype)

    @property
    def ledger(self) -> Path:
        """The shards of all that the model wrote in this study, whatever the settings."""
        return self.setting.space.root / "augment" / PARTS

    @property
    def trained(self) -> Path:
        """The training runs, each in a folder named by its own key."""
        return self.setting.space.root / "train"


@dataclass(frozen=True)
class TrainedRun:
    """What one training run of a study is for."""

    suite: Suite
    corpus: str
    arm: str
    seed: int
    run: FinetuneRun


def run_study(
    recipe: Recipe,
    out: Path,
    console: Console,
    *,
    command: str = "",
    import_seconds: float = 0.0,
    running: tuple[LazyCluster, LazyEngines] | None = None,
) -> dict[str, Any]:
    """Run or resume a study in `out`; returns the content of `report.json`.

    `import_seconds` is what importing this module took; it is reported as a stage because the user waits for it.
    `running` are a cluster and engines of the base model that the caller has started, or may have; both end here.
    """
    study = open_study(recipe, out, console)  # only reads: wrong input leaves nothing behind
    setting, space = study.setting, study.setting.space
    with space.locked():
        space.record("imports", import_seconds)
        with space.timed("data"):
            suites = make_data(study)
        contexts, left_out = plan_contexts(study, suites)
        base_jobs = plan_base_jobs(study, suites, contexts)
        beside = find_replay(study, suites)
        whole_nodes = train.takes_whole_nodes(study.recipe.train, study.model)
        if running is None:
            section, models = study.recipe.train, [study.model.path]
            own = LazyCluster(setting, section, whole_nodes=whole_nodes, models=models)
            running = own, LazyEngines(setting, study.model, own)
        with running[0] as cluster:
            with running[1] as engines:
                text = before_training(study, suites, base_jobs, beside, engines)
            with space.timed("train"):
                trained, refs = train_all(study, suites, beside, cluster)
            scored = [*zip(trained, refs, strict=True), *find_all_steps(study, trained)]
            tuned_jobs = [plan_tuned_job(study, one, ref) for one, ref in scored]
            texts = plan_texts(study, tuned_jobs) if text else []
            after_training(study, tuned_jobs, text, texts, cluster)
        write_json(space.root / CHECKPOINTS, {one.run.name: ref.path for one, ref in scored})
        report = report_study(
            study,
            suites,
            [*base_jobs, *tuned_jobs],
            {one.run.name: Path(ref.path) for one, ref in zip(trained, refs, strict=True)},
            left_out,
            command,
            general.measure(text, texts, space.root) if text else {},
        )
    console.print(f"\n[bold]{space.root / 'report' / 'report.html'}[/bold]  (figures and report.json beside it)")
    return report


def open_study(recipe: Recipe, out: Path, console: Console) -> Study:
    """Resolve the model and the defaults, check names, and name the stages' folders. Only reads."""
    space = Workspace(out)
    setting = Setting(space, console, recipe.engine, recipe.cluster, recipe.seed)
    check_scoring(recipe.engine.endpoint_api)
    model = find_model(recipe.model, recipe.engine, recipe.augment.prompts, address=recipe.cluster.address)
    if model.folder is None:
        raise InputError(
            "a study trains the model, so it must be a folder or a hub model",
            where=f"model = {recipe.model}",
            hint="name a model folder; a model behind an endpoint can be augmented and evaluated with, not trained",
        )
    check_service(recipe.engine, [model.path])
    frame = evaluate.question_frame(setting, model, recipe.evaluate)
    asked = set(model.book.names(recipe.augment.methods))
    for arm, methods in recipe.train.arms.items():
        missing = sorted(set(model.book.names(methods)) - asked)
        if missing:
            raise InputError(
                f'the arm "{arm}" learns {missing[0]}, which is not generated',
                where=f"train.arms.{arm}",
                hint=f"add it to augment.methods, which has {', '.join(recipe.augment.methods)}",
            )
    if chat_methods(model.book, recipe.augment.methods):
        train.check_chat(model, where="augment.methods")
    evaluate.parse_contexts(recipe.evaluate.icl, where="evaluate.icl")
    resolved = recipe.model_copy(update={"train": train.resolve(recipe.train, model, setting.say)})
    folders = {
        name: space.stage(f"data/{name}", data.data_key(name, section, recipe.seed))
        for name, section in recipe.data.items()
    }
    return Study(resolved, recipe, setting, model, folders, frame)


def make_data(study: Study) -> list[Suite]:
    """The sets and corpora of the recipe, made or found."""
    suites = []
    for name, section in study.recipe.data.items():
        suite = data.make_corpus(name, section, study.recipe.seed, study.data[name], study.setting.say)
        data.check_corpora(suite)
        suites.append(suite)
    documents = sum(data.count_rows(suite.documents) for suite in suites)
    questions = sum(data.count_rows(suite.questions) for suite in suites)
    study.setting.say("data", f"{len(suites)} suites, {documents:,} documents, {questions:,} questions")
    return suites


def plan_contexts(study: Study, suites: list[Suite]) -> tuple[dict[str, list[ContextSpec]], dict[str, dict[str, str]]]:
    """By suite the contexts of in-context learning that fit the window, and why the others are left out."""
    asked = evaluate.parse_contexts(study.recipe.evaluate.icl, where="evaluate.icl")
    section = study.recipe.evaluate
    found = {
        suite.name: evaluate.fitting(study.setting, study.model, suite, asked, section, study.frame) for suite in suites
    }
    left_out = {
        name: {study_condition(BASE, spec).name: reason for spec, reason in reasons.items()}
        for name, (_, reasons) in found.items()
    }
    return {name: fit for name, (fit, _) in found.items()}, left_out


def plan_base_jobs(study: Study, suites: list[Suite], contexts: dict[str, list[ContextSpec]]) -> list[ScoreJob]:
    """The base model, with and without documents in its context."""
    answers = evaluate.scoring_key(study.setting, study.model.fingerprint)
    section = study.recipe.evaluate
    prior = section.normalize == "pmi"
    return [
        ScoreJob(suite, "", study_condition(BASE, context), None, answers, run, draw, study.frame, prior)
        for suite in suites
        for context in (NO_CONTEXT, *contexts[suite.name])
        for draw, run in evaluate.draws(section, context)
    ]


def find_replay(study: Study, suites: list[Suite]) -> Replay | None:
    """The general text that every arm learns, too: the user's, or what the model is to write."""
    setting = study.setting
    largest = max((suite.documents for suite in suites if suite.documents), key=data.count_rows)
    root = setting.space.root / "replay"
    return replay.plan(setting, study.recipe.train, study.model, [TextSource(str(largest))], root)


def before_training(
    study: Study, suites: list[Suite], jobs: list[ScoreJob], beside: Replay | None, engines: LazyEngines
) -> GeneralText | None:
    """What needs engines with the base model: augmentation, replay, and the base model's own scores.

    Returns the general text that is measured, if any.
    """
    setting, section = study.setting, study.recipe.augment
    plans = [
        augment.plan(
            setting,
            study.model,
            suite.documents,
            study.augment_folder(suite),
            section,
            study.ledger,
            tests=suite.questions,
        )
        for suite in suites
        if suite.documents is not None
    ]
    writing = [unit for plan in plans for unit in plan.units]
    scoring = evaluate.plan_answers(setting, study.recipe.evaluate, jobs, study.model.book)
    own = beside.job(study.model, setting.seed) if beside else None
    if writing or scoring or own:
        check_memory(study, suites, beside, engines.placement)
    do_units(setting, engines, writing, "augment")
    augment.finish(setting, study.model, plans, section, engines)
    do_units(setting, engines, own.units() if own else [], "replay")
    if beside:
        replay.finish(setting, beside, own)
    text = evaluate.general_text(setting, study.recipe.evaluate.general, beside)
    if text:
        scoring += general.plan(text, plan_texts(study, ()), setting.space.root)
    do_units(setting, engines, scoring, "score base model")
    # A condition without any answer is reported before the training.
    collect_outcomes(jobs, setting.space.root, study.model.book, seed=study.recipe.seed)
    kept = sum(data.count_rows(plan.out / AUGMENTATIONS, verdict="kept") for plan in plans)
    setting.say("augment", f"{kept:,} training rows kept")
    return text


def plan_texts(study: Study, jobs: Sequence[ScoreJob]) -> list[TextJob]:
    """General text for the base model and for the checkpoints of these jobs, each once."""
    answers = evaluate.scoring_key(study.setting, study.model.fingerprint)
    tuned = {job.weights: TextJob(job.condition.name, job.ref, job.weights, job.run) for job in jobs}
    return [TextJob(study_condition(BASE).name, None, answers), *tuned.values()]


def check_memory(study: Study, suites: list[Suite], beside: Replay | None, placement: Placement) -> None:
    """Refuse what cannot be trained before engines start: by the documents, for inferences are not written yet."""
    runs = [one.run for one in plan_runs(study, suites, beside)]
    train.fit(study.setting, study.recipe.train, runs, placement, before=True)


def plan_runs(study: Study, suites: list[Suite], beside: Replay | None) -> list[TrainedRun]:
    """One training run for each corpus, seed and arm; arms differ in their texts alone."""
    section = study.recipe.train
    replayed = (beside.source,) if beside else ()
    planned: list[TrainedRun] = []
    for suite in suites:
        assert suite.documents is not None
        written = str(study.augment_folder(suite) / AUGMENTATIONS)
        for corpus in suite_corpora(suite):
            documents = train.documents_source(suite.documents, section, corpus)
            inferences = TextSource(written, corpus, verdict_kept_only=True)
            arms = {
                arm: train.arm_sources(documents, inferences, study.model.book.names(methods), section) + replayed
                for arm, methods in section.arms.items()
            }
            first = next(iter(arms.values()))
            for seed, (arm, sources) in itertools.product(section.seeds, arms.items()):
                name = "/".join([_label(suite, corpus), *[f"s{seed}"] * (len(section.seeds) > 1), arm])
                run = train.build_run(
                    section, study.model, sources, name=name, out=study.trained, seed=seed, matched_to=first
                )
                planned.append(TrainedRun(suite, corpus, arm, seed, run))
    return planned


def train_all(
    study: Study, suites: list[Suite], beside: Replay | None, cluster: LazyCluster
) -> tuple[list[TrainedRun], list[CheckpointRef]]:
    """All runs of the study on one worker group, each in the folder that its key names, for other arms and recipes."""
    section, planned = study.recipe.train, plan_runs(study, suites, beside)
    planned = [replace(one, run=replace(one.run, out=str(study.trained / key_of(one.run)[:24]))) for one in planned]
    refs = train.train_all(study.setting, section, [one.run for one in planned], cluster, study.trained / ".work")
    return planned, refs


def find_all_steps(study: Study, trained: Sequence[TrainedRun]) -> list[tuple[TrainedRun, CheckpointRef]]:
    """The checkpoints that finished runs have left on their way, as arms ARM@STEP; none unless they were asked for."""
    if not study.recipe.train.export_every:
        return []
    return [
        (
            replace(
                one, arm=f"{one.arm}@{ref.num_steps}", run=replace(one.run, name=f"{one.run.name}@{ref.num_steps}")
            ),
            ref,
        )
        for one in trained
        for ref in find_steps(Path(one.run.out))
    ]


def plan_tuned_job(study: Study, one: TrainedRun, ref: CheckpointRef) -> ScoreJob:
    """A checkpoint answers the questions about the corpus that it learned, without context."""
    answers = evaluate.scoring_key(study.setting, evaluate.fingerprint_of(ref, study.model))
    run = f"seed {one.seed}" if len(study.recipe.train.seeds) > 1 else ""
    prior = study.recipe.evaluate.normalize == "pmi"
    return ScoreJob(one.suite, one.corpus, study_condition(one.arm), ref, answers, run, 0, study.frame, prior)


def after_training(
    study: Study, jobs: list[ScoreJob], text: GeneralText | None, texts: Sequence[TextJob], cluster: LazyCluster
) -> None:
    """Scores of every checkpoint: the engines start once and swap weights."""
    setting = evaluate.with_adapters(study.setting, [job.ref for job in jobs if job.ref])
    units = evaluate.plan_answers(setting, study.recipe.evaluate, jobs, study.model.book)
    if text:
        units += general.plan(text, texts, setting.space.root)
    with LazyEngines(setting, study.model, cluster) as engines:
        do_units(setting, engines, units, "score checkpoints")
    setting.say("evaluate", f"{len(jobs)} checkpoints scored")


def report_study(
    study: Study,
    suites: list[Suite],
    jobs: list[ScoreJob],
    checkpoints: dict[str, Path],
    left_out: dict[str, dict[str, str]],
    command: str,
    kept: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the report and, beside it, the recipe with its overrides; `checkpoints` are by the runs' names.

    `kept` is what was measured of general text.
    """
    written = {suite: study.augment_folder(suite) / AUGMENTATIONS for suite in suites}
    report = evaluate.report(
        study.setting,
        study.model,
        jobs,
        written,
        left_out,
        study.recipe.evaluate,
        study=study.recipe.study,
        model=study.recipe.model,
        recipe=study.recipe.model_dump(mode="json"),
        losses={name: train.read_losses(path) for name, path in checkpoints.items()},
        command=command,
        courses={name: read_plan(path) for name, path in checkpoints.items()},
        general=kept,
    )
    write_text(study.setting.space.root / "report" / "recipe.toml", to_toml(study.given))
    return report


def _label(suite: Suite, corpus: str) -> str:
    """A corpus under its suite's name; the generated sets' corpora bear it already."""
    return corpus if corpus.startswith(f"{suite.name}/") or corpus == suite.name else f"{suite.name}/{corpus}"
