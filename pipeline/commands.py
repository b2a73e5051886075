"""What the commands do: compositions of the stages. Each works on folders and resumes in its `--out`."""

import json
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console

from augment_service.engines.protocol import check_scoring
from data.errors import InputError, ResumableError
from data.seeds import fingerprint
from pipeline.augment_request import read_request
from pipeline.models import find_model, local_model, plan_model
from pipeline.recipe import load_recipe, parse_section
from pipeline.sections import AugmentCommand, Cluster, Engine, EvaluateSuite, Questions, TrainRun

if TYPE_CHECKING:
    from train.texts.sources import TextSource

CONSOLE = Console()


def run_recipe(flags: Namespace) -> None:
    """`run`: a study from a recipe; `demo`: the bundled one."""
    recipe = load_recipe(flags.recipe, flags.overrides)
    if recipe.engine.kind == "vllm":
        local_model(recipe.model)  # a missing model is reported before the heavy imports
    CONSOLE.print(f"[bold]entail {recipe.study}[/bold]  {flags.recipe}", highlight=False)
    started = time.monotonic()
    with CONSOLE.status("importing ray, torch, deepspeed"):
        from pipeline.study import run_study
    seconds = time.monotonic() - started
    run_study(recipe, flags.out or Path("runs") / recipe.study, CONSOLE, command=flags.command, import_seconds=seconds)


def learn(flags: Namespace) -> None:
    """`learn`: from documents to a model that knows them, and the evidence, into `OUT`."""
    CONSOLE.print(f"[bold]entail learn[/bold]  {flags.out}", highlight=False)
    with CONSOLE.status("importing ray, torch, deepspeed"):
        from pipeline.learn import learn as run
    run(flags, CONSOLE)


def augment(flags: Namespace) -> None:
    """`augment`: the model writes down what follows from documents, into `OUT/augmentations/`.

    With `--teacher-top-k`, its distributions over these inferences go into `OUT/teacher/`. `--plan` says what it would
    cost, `--preview` shows what would be written; both end before anything is sealed.
    """
    section = parse_section(AugmentCommand, "augment", flags.overrides, command="augment")
    engine, cluster = engine_and_cluster(flags, "augment")
    request = read_request(flags, section)
    if request.plan and not request.measure:
        is_begun = any((flags.out / "parts").glob("*.arrow"))
        model = plan_model(flags.model, engine, section.prompts, identified=is_begun)
    else:
        model = find_model(flags.model, engine, section.prompts, address=cluster.address)
    from augment_service.augment import AUGMENTATIONS
    from augment_service.distillation import TEACHER
    from data.store import claim
    from pipeline.stages import augment as stage
    from pipeline.stages import augment_preview
    from pipeline.stages.augment_plan import choose, plan_and_show, summarize
    from pipeline.stages.data import find_documents
    from pipeline.stages.resources import LazyCluster, LazyEngines, Setting, check_service, do_units
    from pipeline.workspace import Workspace

    setting = Setting(Workspace(flags.out), CONSOLE, engine, cluster, flags.seed)
    if not request.plan or request.measure:
        check_service(engine, [model.path])
    root = setting.space.root
    with setting.space.locked(), LazyCluster(setting, models=[model.path]) as lazy:
        stage.check(model, section)
        documents = find_documents(flags.documents, root / "import", setting.say)
        claim(root, fingerprint("augment"))  # any inputs: what is there is looked up by what was asked
        if request.plan:
            section = section.model_copy(update={"retry_refused": False})  # a plan removes nothing
        chosen = choose(setting, model, documents, section, root, request.preview)
        planned = stage.plan(setting, model, documents, root, section, ranges=chosen)
        with LazyEngines(setting, model, lazy) as engines:
            if request.plan:
                plan_and_show(setting, model, section, planned, request, lazy, engines)
                return
            if request.preview:
                planned = augment_preview.keeping_raw(planned)
            work = do_units(setting, engines, planned.units, "augment")
            if request.preview:
                augment_preview.show(setting, planned, work)
                return
            stage.finish(setting, model, [planned], section, engines)
            summarize(setting, planned, work)
            setting.say("augment", str(root / AUGMENTATIONS))
            if section.teacher_top_k:
                stage.distill(setting, model, planned, section, engines)
                setting.say("teacher", str(root / TEACHER))


def questions(flags: Namespace) -> None:
    """`questions`: a suite of questions that are written from documents, into `OUT`, which `evaluate --suite` reads."""
    section = parse_section(Questions, "questions", flags.overrides, command="questions")
    engine, cluster = engine_and_cluster(flags, "questions")
    check_scoring(engine.endpoint_api)
    model = find_model(flags.model, engine, section.prompts, address=cluster.address)
    from data.store import claim
    from pipeline.stages import questions as stage
    from pipeline.stages.data import find_documents
    from pipeline.stages.resources import LazyCluster, LazyEngines, Setting, check_service
    from pipeline.workspace import Workspace

    setting = Setting(Workspace(flags.out), CONSOLE, engine, cluster, flags.seed)
    check_service(engine, [model.path])
    root = setting.space.root
    with setting.space.locked(), LazyCluster(setting) as lazy, LazyEngines(setting, model, lazy) as engines:
        documents = find_documents(flags.documents, root / "import", setting.say)
        claim(root, fingerprint("questions"))  # any inputs: what is there is looked up by what was asked
        stage.write_questions(setting, model, documents, root, section, engines)


def train(flags: Namespace) -> None:
    """`train`: finetune a model on documents, and on kept augmentations where given, into the folder `OUT`."""
    section = parse_section(TrainRun, "train", flags.overrides, command="train")
    cluster = parse_section(Cluster, "cluster", flags.overrides, command="train")
    if not flags.plan and (flags.gpu_gib or flags.row_tokens):
        name = "--gpu-gib" if flags.gpu_gib else "--row-tokens"
        raise InputError(f"{name} has no effect without --plan", where=name, hint="add --plan, or leave it out")
    if flags.plan and flags.messages_column:
        hint = "import them with `entail data import --messages-column`, and plan with the import"
        raise InputError("a plan imports no conversations", where="--messages-column", hint=hint)
    out = flags.out.resolve()
    # A plan needs the config alone: a hub model's weights are not downloaded for it.
    model = plan_model(flags.model) if flags.plan else find_model(flags.model, None)
    from pipeline.stages import replay
    from pipeline.stages import train as stage
    from pipeline.stages.resources import LazyCluster, Setting
    from pipeline.workspace import Workspace
    from train.plan.fit import planned_machine, print_plan

    work = out.with_name(f".{out.name}.work")
    setting = Setting(Workspace(work), CONSOLE, Engine(), cluster, 0)
    section = stage.resolve(section, model, setting.say)
    if flags.plan:  # a twin needs no memory beside the training, and its weights would be downloaded
        section = section.model_copy(update={"instruct_twin": ""})
    weighed = stage.weigh(_sources(flags, section, work, setting.say), section.mix, where="--mix")
    general = replay.plan(
        setting, section, model, weighed, out.with_name(".replay"), alone=bool(flags.teacher), read_only=flags.plan
    )
    if general:
        weighed += (general.source,)
    several, whole_nodes = len(section.seeds) > 1, stage.takes_whole_nodes(section, model)
    runs = [
        stage.build_run(
            section,
            model,
            weighed,
            name=f"{out.name}/seed-{seed}" if several else out.name,
            out=out / f"seed-{seed}" if several else out,
            seed=seed,
            objective="distillation" if flags.teacher else "text",
            tokens=out.with_name(".tokens"),
        )
        for seed in section.seeds
    ]
    if flags.plan:
        machine = planned_machine(section.ranks, flags.gpu_gib, whole_node=whole_nodes)
        print_plan(runs[0], machine, CONSOLE, stage=section.stage, row_tokens=flags.row_tokens or 0)
        return
    with setting.space.locked(), LazyCluster(setting, section, whole_nodes=whole_nodes, models=[model.path]) as lazy:
        if general and (job := general.job(model, setting.seed)):
            stage.fit(setting, section, runs, lazy.placement, before=True)
            replay.write(setting, model, general, job, lazy)
        refs = stage.train_all(setting, section, runs, lazy, work)
    for ref in refs:
        setting.say("checkpoint", f"{ref.fingerprint} in {ref.path}")


def _sources(
    flags: Namespace, section: TrainRun, work: Path, say: Callable[[str, str], None]
) -> "dict[str, TextSource]":
    """The texts that `train` was given, by name; a plan writes nothing, so it takes finished documents alone."""
    from pipeline.stages import train as stage
    from pipeline.stages.data import find_texts
    from train.texts.sources import TextSource

    columns = {"text_column": flags.text_column, "prompt_column": flags.prompt_column}
    documents = flags.documents
    if not flags.plan:
        documents = find_texts(documents, work / "import", say, messages_column=flags.messages_column)
    sources = {stage.DOCUMENTS: stage.documents_source(documents, section, **columns)}
    if flags.augmentations:
        folder = stage.inner(flags.augmentations, stage.AUGMENTATIONS)
        sources[stage.AUGMENTATIONS] = TextSource(str(folder), verdict_kept_only=True)
    if flags.teacher:
        sources[stage.TEACHER] = TextSource(str(stage.inner(flags.teacher, stage.TEACHER)))
    return sources


def evaluate(flags: Namespace) -> None:
    """`evaluate`: score a suite with a model and with checkpoints; the report goes into `OUT/report/`."""
    section = parse_section(EvaluateSuite, "evaluate", flags.overrides, command="evaluate")
    engine, cluster = engine_and_cluster(flags, "evaluate")
    check_scoring(engine.endpoint_api)
    if not flags.model and not flags.checkpoints:
        raise InputError("nothing to evaluate", where="evaluate", hint="give --model, --checkpoints, or both")
    from data.records import CheckpointRef
    from evaluate.conditions import BASE, condition_name
    from evaluate.fanout import open_suite
    from pipeline.stages import evaluate as stage
    from pipeline.stages.data import find_documents
    from pipeline.stages.resources import LazyCluster, LazyEngines, Setting, check_service, do_units, find_running
    from pipeline.workspace import Workspace

    setting = Setting(Workspace(flags.out), CONSOLE, engine, cluster, flags.seed)
    refs, damaged, left_out = stage.find_checkpoints(flags.checkpoints)
    for name, reason in left_out.items():
        setting.say("skipped", f"{name}: {reason}")
    setting = stage.with_adapters(setting, refs)
    engine = setting.engine
    resident = find_running(engine.service).model if engine.service else stage.resident_of(refs)
    model = find_model(flags.model or resident, engine, flags.prompts, address=cluster.address)
    if flags.model:
        refs = [CheckpointRef(BASE, model.path, model.fingerprint, "", 0), *refs]
    check_service(engine, [model.path, *(ref.base for ref in refs if ref.base)])
    frame = stage.question_frame(setting, model, section)
    asked, out = stage.parse_contexts(section.contexts, where="--contexts"), setting.space.root
    if section.repeats > 1 and not any(context.kind == "sample" for context in asked):
        raise InputError("--repeats has no effect without a sampled context", where="--repeats", hint="add sample:K")
    lazy = LazyCluster(setting, models=[model.path, *(ref.path for ref in refs)])
    with setting.space.locked(), lazy, LazyEngines(setting, model, lazy) as engines:
        documents = find_documents(flags.documents, out / "import", setting.say) if flags.documents else None
        suite = open_suite(flags.suite, out, documents)
        contexts, unfit = stage.fitting(setting, model, suite, asked, section, frame)
        jobs = stage.plan_suite(setting, section, suite, contexts, refs, model, frame)
        units = stage.plan_answers(setting, section, jobs, model.book)
        failed: dict[str, InputError | ResumableError] = {}
        do_units(setting, engines, units, "score", failed)
        jobs, excluded = stage.exclude_failed(setting, jobs, damaged, failed)
        left_out |= {name: stage.reason_of(error) for name, error in excluded.items()}
        left_out |= {condition_name(ref.name, spec): reason for ref in refs for spec, reason in unfit.items()}
        stage.report(
            setting,
            model,
            jobs,
            {suite: None},
            {suite.name: left_out},
            section,
            study=f"evaluation of {suite.name}",
            model=flags.model or refs[0].name,
            recipe={
                **section.model_dump(mode="json", include={"contexts", "chat_template", "normalize", "written"}),
                "weights": {ref.name: ref.path for ref in refs},
            },
            losses={},
            command=flags.command,
        )
    stage.raise_excluded(excluded)


def export(flags: Namespace) -> None:
    """`export`: write a checkpoint for other programs."""
    if flags.to != "gguf" and (flags.converter or flags.type != "auto" or flags.suite):
        name = "--converter" if flags.converter else "--suite" if flags.suite else "--type"
        raise InputError(
            f"{name} has no effect with --to {flags.to}", where=name, hint="leave it out, or use --to gguf"
        )
    from pipeline.export_model import MODEL_FILE, export_model

    if flags.suite:
        from pipeline.check_export import check_before, compare

        check_before(flags.suite)
    base = Path(local_model(flags.model)) if flags.model else None
    export_model(flags.checkpoint, flags.to, flags.out, base=base, converter=flags.converter, gguf_type=flags.type)
    CONSOLE.print(f"model     {flags.out}", highlight=False, markup=False, soft_wrap=True)
    if flags.suite:
        compare(flags.checkpoint, flags.model, flags.out / MODEL_FILE, flags.suite, CONSOLE)


def show_reports(flags: Namespace) -> None:
    """`report`: print the table of finished studies."""
    from evaluate.report.table import print_report

    for folder in flags.runs:
        path = folder / "report" / "report.json"
        if not path.exists():
            raise InputError("no finished report here", where=str(folder), hint="run it to the end first")
        print_report(json.loads(path.read_text()), CONSOLE)


def check_machine(flags: Namespace) -> None:
    """`doctor`: check this machine, or the nodes of a cluster."""
    if flags.address is None:
        if flags.folder:
            hint = "add --address, or leave it out"
            raise InputError("--folder has no effect without --address", where="--folder", hint=hint)
        from cluster.probe import check_environment

        check_environment(CONSOLE)
        return
    from cluster.inspection import check_cluster

    with TemporaryDirectory() as logs:
        check_cluster(flags.address, flags.folder, Path(logs), CONSOLE)


def collect_logs(flags: Namespace) -> None:
    """`logs`: what Ray and our processes printed on each node of a cluster."""
    from cluster.logs import collect
    from cluster.session import connect

    with TemporaryDirectory() as own, connect(address=flags.address, log_dir=Path(own)):
        for node, count in sorted(collect(flags.out).items()):
            CONSOLE.print(f"{node:<10}{count:3} files in {flags.out / node}", highlight=False, soft_wrap=True)


def engine_and_cluster(flags: Namespace, command: str) -> tuple[Engine, Cluster]:
    """The sections of a command that uses engines. Raises InputError."""
    engine = parse_section(Engine, "engine", flags.overrides, command=command)
    cluster = parse_section(Cluster, "cluster", flags.overrides, command=command)
    if engine.service and cluster.address:
        hint = "leave one of the two out: a service has a cluster of its own"
        raise InputError("--address has no effect with --service", where="--address", hint=hint)
    return engine, cluster
