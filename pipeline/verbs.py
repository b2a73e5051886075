"""The stages as commands of their own: augment, train, evaluate. Each works on folders and resumes in its `--out`."""

import glob
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.console import Console

from augment_service.augment import collect, group_by_world, is_augmented, write_prompts
from augment_service.distillation import TEACHER, collect_lessons, is_taught, write_lessons
from augment_service.methods import AugmentPlan
from data.errors import InputError
from data.records import CheckpointRef, Document
from data.rendering import load_book
from data.seeds import fingerprint
from data.store import MANIFEST, claim, read_folder
from data.suites import read_suite_file
from data.weights import weights_fingerprint
from evaluate.fanout import Job, Suite, check_contexts, collect_outcomes, plan_units, read_suite
from evaluate.items import Condition
from evaluate.report.content import ReportInput, print_report, write_report
from evaluate.report.evidence import audit_suite, installed_versions
from pipeline.mixing import describe_courses, fields_of_flags, inner
from pipeline.progress import bar, run_units, tell_refusals, training_note
from pipeline.recipe import Cluster, local_model
from pipeline.residency import open_cluster, open_engines, wanted_service
from pipeline.workspace import Workspace
from train.engine.checkpoint import how_computed, read_ref
from train.plan.fit import AUTO, first_stage, fit_runs, machine_of, planned_machine, print_plan
from train.run.finetune_run import FinetuneRun, Lora
from train.run.launch import Progress, finetune_all
from train.run.training_plan import read_plan

CONSOLE = Console()
WARMUP_STEPS = 10
WITH_DOCUMENTS = {"pretrained": False, "finetuned": False, "icl": True}


def augment_documents(flags: Namespace) -> None:
    """`augment`: the model writes down what follows from documents, into `OUT/augmentations/`.

    If it is asked for, what the model expects in each place of these inferences goes into `OUT/teacher/`.
    """
    space, model, folder = Workspace(flags.out), local_model(flags.model), inner(flags.documents, "documents")
    service = wanted_service(flags.service, [model])
    wanted = Cluster(address=service.address if service else flags.address)
    plan = AugmentPlan(tuple(flags.methods.split(",")), flags.samples, flags.temperature, flags.seed)
    book, weights = load_book(Path(model)), weights_fingerprint(Path(model))
    book.select(plan.methods)  # an unknown method is told before anything starts
    documents = list(read_folder(folder, Document))
    with space.locked():
        claim(space.root, fingerprint(*documents, weights, book, plan))
        taught = not flags.teacher_top or is_taught(space.root, num_top=flags.teacher_top)
        if not (taught and is_augmented(space.root)):
            with (
                open_cluster(wanted, space, CONSOLE) as placement,
                open_engines(model, wanted, flags.seed, placement, space, CONSOLE, service) as pool,
            ):
                if not is_augmented(space.root):
                    units = write_prompts(folder, space.root, book, plan)
                    run_units(pool, units, CONSOLE, "augment", metrics_port=flags.metrics_port)
                    refused = collect(folder, space.root, book, units, model=weights)
                    _tell_refused(refused, "prompts", space.root / "generations")
                if not taught:
                    units = write_lessons(space.root, book, num_top=flags.teacher_top)
                    run_units(pool, units, CONSOLE, "teach", metrics_port=flags.metrics_port)
                    _tell_refused(collect_lessons(space.root, units), "lessons", space.root / TEACHER)
    CONSOLE.print(f"augmentations in {space.root / 'augmentations'}", highlight=False)
    if flags.teacher_top:
        CONSOLE.print(f"teacher   in {space.root / TEACHER}", highlight=False)


def train_model(flags: Namespace) -> None:
    """`train`: finetune a model on documents, and on kept augmentations where given, into the folder `OUT`."""
    space, wanted = Workspace(flags.out.with_name(f".{flags.out.name}.work")), Cluster(address=flags.address)
    fields = fields_of_flags(flags)
    run = FinetuneRun(
        name=flags.out.name,
        base=local_model(flags.model),
        out=str(flags.out),
        batch_size=flags.batch_size,
        learning_rate=flags.learning_rate,
        warmup_steps=min(fields["num_steps"] or WARMUP_STEPS, WARMUP_STEPS),
        seed=flags.seed,
        stage=first_stage(flags.stage, flags.offload),
        trackers=tuple(filter(None, flags.trackers.split(","))),
        **fields,
        accumulation=flags.accumulation,
        activation_checkpointing=flags.activation_checkpointing,
        offload=flags.offload,
        offload_folder=flags.offload_folder,
        lora=Lora(rank=flags.lora_rank, alpha=2.0 * flags.lora_rank) if flags.lora_rank else None,
        checkpoint_every=flags.checkpoint_every,
    )
    if flags.plan:
        machine = planned_machine(flags.ranks, flags.gpu_gib)
        print_plan(run, machine, CONSOLE, stage=flags.stage, row_tokens=flags.row_tokens or 0)
        return
    total, auto = run.num_steps or 100, flags.stage == AUTO  # steps that are not known yet are counted in hundredths
    with space.locked(), bar(CONSOLE, "train", total, eta=True) as shown:

        def show(progress: Progress) -> None:
            shown.update(progress.step * total // progress.num_steps, training_note(progress))

        with open_cluster(wanted, space, CONSOLE) as placement:
            runs = [run]
            if auto or not flags.no_memory_check:
                runs = fit_runs(runs, machine_of(placement, flags.address), auto=auto, say=CONSOLE.print)
            (ref,) = finetune_all(
                runs,
                num_workers=placement.ranks,
                cpus_per_worker=placement.cpus_per_rank,
                use_gpu=placement.gpus_per_rank > 0,
                storage=space.root,
                on_progress=show,
            )
    told = f"{describe_courses([read_plan(Path(ref.path))])}, in {how_computed(Path(ref.path))}"
    CONSOLE.print(f"trained   {told}", highlight=False)
    CONSOLE.print(f"checkpoint {ref.fingerprint} in {ref.path}", highlight=False)


def evaluate_suite(flags: Namespace) -> dict[str, Any]:
    """`evaluate`: score a suite by a model or by checkpoints; the report goes into `OUT/report/`."""
    space, suite, refs = Workspace(flags.out), _read_suite(flags), _find_models(flags)
    service = wanted_service(flags.service, sorted({ref.base or ref.path for ref in refs}))
    wanted = Cluster(address=service.address if service else flags.address)
    resident = service.weights if service else refs[0].fingerprint
    jobs = _plan_jobs(suite, refs, flags.conditions.split(","), resident)
    base, book = refs[0].path, load_book(Path(refs[0].path))
    if "icl" in flags.conditions.split(","):
        check_contexts([suite], base, book)
    with space.locked():
        claim(space.root, fingerprint(suite, book))
        units = plan_units(jobs, [suite], space.root, book)
        if units:
            with (
                open_cluster(wanted, space, CONSOLE) as placement,
                open_engines(base, wanted, 0, placement, space, CONSOLE, service) as pool,
            ):
                run_units(pool, units, CONSOLE, "score", metrics_port=flags.metrics_port)
        scored = collect_outcomes(jobs, [suite], space.root)
        tell_refusals(scored.refusals, space.root, CONSOLE)
        content = ReportInput(
            study=f"evaluation of {suite.name}",
            model=refs[0].name,
            fingerprint=refs[0].fingerprint,
            outcomes=scored.outcomes,
            stage_seconds=space.seconds(),
            wall_seconds=sum(space.seconds().values()),
            audit={suite.name: audit_suite(suite, [], scored.chosen)},
            recipe={"conditions": flags.conditions, "models": [ref.name for ref in refs]},
            versions=installed_versions(),
            losses={},
            command="python -m pipeline evaluate",
        )
        report = write_report(content, space.root / "report")
    print_report(report, CONSOLE)
    return report


def _tell_refused(count: int, what: str, folder: Path) -> None:
    if count:
        CONSOLE.print(f"{count} {what} refused, see {folder / 'refused'}", highlight=False)


def _read_suite(flags: Namespace) -> Suite:
    """The suite's questions, and the documents that stand in context: its own, or those of `--documents`."""
    if flags.suite.suffix == ".jsonl":
        suite = _suite_of_file(flags.suite)
    else:
        manifest = flags.suite / MANIFEST
        name = json.loads(manifest.read_text())["set"] if manifest.exists() else flags.suite.name
        suite = read_suite(name, flags.suite)
    if flags.documents:
        rows = list(read_folder(inner(flags.documents, "documents"), Document))
        suite = Suite(suite.name, group_by_world(rows), suite.questions)
    missing = sorted(suite.questions.keys() - {world for world, documents in suite.documents.items() if documents})
    if missing and "icl" in flags.conditions.split(","):
        raise InputError(
            f'no documents of world "{missing[0]}" for the context; there are: {", ".join(suite.documents) or "none"}',
            where="--documents",
            hint='name documents of that world (`data import --corpus`), or give the questions a "corpus"',
        )
    return Suite(suite.name, {world: [] for world in missing} | suite.documents, suite.questions)


def _suite_of_file(path: Path) -> Suite:
    """Questions of the user's, without documents."""
    suite = Suite(path.stem, {}, {})
    for question in read_suite_file(path):
        suite.questions.setdefault(question.corpus, []).append(question)
    return suite


def _find_models(flags: Namespace) -> list[CheckpointRef]:
    """The model, or every finished checkpoint that the patterns name."""
    if flags.model:
        path = local_model(flags.model)
        return [CheckpointRef(flags.model, path, weights_fingerprint(Path(path)), "", 0)]
    # Path.glob takes no absolute pattern
    paths = sorted({path for pattern in flags.checkpoints for path in glob.glob(pattern)})  # noqa: PTH207
    if not paths:
        raise InputError(
            f"no folder matches {' '.join(flags.checkpoints)}",
            where="--checkpoints",
            hint="give folders that `train` made, or a pattern in quotes",
        )
    return [read_ref(Path(path).absolute()) for path in paths]


def _plan_jobs(suite: Suite, refs: list[CheckpointRef], conditions: list[str], resident: str) -> list[Job]:
    """Every model under every condition; with several models a condition is named after its model too.

    `resident` is the fingerprint of the weights that the engines start with.
    """
    unknown = [name for name in conditions if name not in WITH_DOCUMENTS]
    if unknown:
        raise InputError(
            f'unknown condition "{unknown[0]}"', where="--conditions", hint=f"choose among {', '.join(WITH_DOCUMENTS)}"
        )
    return [
        Job(
            suite.name,
            world,
            Condition(name if len(refs) == 1 else f"{name} {ref.name}", WITH_DOCUMENTS[name], ref.name),
            None if ref.fingerprint == resident else ref,
            ref.fingerprint,
        )
        for ref in refs
        for name in conditions
        for world in suite.questions
    ]
