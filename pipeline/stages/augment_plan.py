"""Planning an augmentation: which documents are asked about, what that costs, how long it takes.

Writes `OUT/plan.json` and, when a few prompts are asked to measure the time, `OUT/speed.json`; both beside the ledger.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from augment_service.augment import DOCUMENTS_PER_UNIT, PARTS
from augment_service.engines.window import cache_shape
from augment_service.jobs import RowRange, ShardedJob, row_ranges
from augment_service.measured import measure_answers
from augment_service.plan import MethodPlan, Plan, plan_cost
from augment_service.provenance import count_methods, rows_folder
from augment_service.selection import choose_few, choose_named, choose_within, first_rows
from cluster.memory import gpu_bytes
from data.errors import InputError
from data.facts import TEST
from data.seeds import fingerprint
from data.store import write_json
from pipeline.augment_report import context_note, show_methods, show_plan
from pipeline.augment_request import Request
from pipeline.models import Model
from pipeline.progress import bar
from pipeline.sections import AugmentCommand
from pipeline.stages import augment
from pipeline.stages.augment import Augmentation
from pipeline.stages.resources import LazyCluster, LazyEngines, Setting, Work, do_units

PLAN, SPEED = "plan.json", "speed.json"
_MEASURED_DOCUMENTS, _MEASURED_PROMPTS = 32, 2  # documents, and prompts of each method about each
Speed = dict[str, float]  # seconds of an engine and tokens that it computed in them; of the machine, what an engine has


def choose(
    setting: Setting, model: Model, documents: Path, section: AugmentCommand, out: Path, preview: int | None
) -> list[RowRange] | None:
    """The rows to ask about; None for all. Raises InputError if a budget is smaller than one document."""
    if section.limit is None and section.budget_tokens is None and preview is None and not section.about:
        return None
    folder, ranges = documents, row_ranges(documents, rows_per_unit=DOCUMENTS_PER_UNIT)
    if section.about:
        missed, ids = find_missed(Path(section.about))
        folder = choose_named(documents, ranges, ids, out)
        ranges = row_ranges(folder, rows_per_unit=DOCUMENTS_PER_UNIT)
        setting.say("about", f"{num_rows(ranges):,} documents of {missed:,} questions that are still wrong")
    ranges = first_rows(ranges, section.limit)
    if section.budget_tokens is not None:
        jobs = augment.plan(setting, model, documents, out, _without_retry(section), ranges=ranges).asking
        measured = measure_answers(out / PARTS, templates_of(jobs), {task_of(job).model for job in jobs})
        expected = {method: answers.new_tokens for method, answers in measured.items()}
        with bar(setting.console, "choose documents", section.budget_tokens) as shown:
            folder = choose_within(
                documents,
                ranges,
                jobs,
                section.budget_tokens,
                out,
                seed=setting.seed,
                expected=expected,
                on_tokens=shown.update,
            )
        total = num_rows(ranges)
        ranges = row_ranges(folder, rows_per_unit=DOCUMENTS_PER_UNIT)
        setting.say("budget", f"{section.budget_tokens:,} tokens: {num_rows(ranges):,} of {total:,} documents")
    if preview is not None and ranges:
        folder = choose_few(folder, ranges, preview, out, seed=setting.seed)
        ranges = row_ranges(folder, rows_per_unit=DOCUMENTS_PER_UNIT)
    return ranges


def find_missed(study: Path) -> tuple[int, set[str]]:
    """How many questions a study got wrong, but for tests, and the documents that they require. Raises InputError.

    What is written about the documents of wrong test questions would be chosen by the test.
    """
    path = study / "report" / "report.json"
    if not path.exists():
        raise InputError("no finished report here", where=f"--about {study}", hint="run the study to the end first")
    report = json.loads(path.read_text())
    asked = [row for found in report.get("mistakes", {}).values() for row in found["questions"] if row["split"] != TEST]
    ids = {doc_id for row in asked for doc_id in row["requires"]}
    if not ids:
        what = "of its questions none is wrong that names its documents and is no test"
        raise InputError(what, where=f"--about {study}", hint='list documents under "requires", in another split')
    return len(asked), ids


def make_plan(setting: Setting, model: Model, planned: Augmentation) -> Plan:
    """What is left to be asked, with the time where it has been measured; also written to `OUT/plan.json`."""
    jobs = planned.asking
    spec, on_cpu = setting.spec(model), gpu_bytes() is None
    with bar(setting.console, "plan", 1) as shown:

        def show(done: int, total: int) -> None:
            shown.total(total)
            shown.update(done)

        found = plan_cost(jobs, planned.parts, cache_shape(spec, on_cpu=on_cpu), seed=setting.seed, on_document=show)
    found = _with_seconds(found, jobs, _read_speeds(planned.out))
    content: dict[str, Any] = asdict(found.total) | {"documents": found.documents, "sampled": found.sampled}
    content |= {"methods": {method: asdict(one) for method, one in found.methods.items()}}
    content |= {"unit": "tokens" if model.folder else "words", "machine": _read_speeds(planned.out).get("machine")}
    write_json(planned.out / PLAN, content)
    return found


def measure(setting: Setting, planned: Augmentation, cluster: LazyCluster, engines: LazyEngines) -> None:
    """Ask a few prompts of each method about documents from all over the corpus, one method after the other.

    The answers go into the ledger. Writes `OUT/speed.json`.
    """
    ranges = list(dict.fromkeys(rows for job in planned.all_jobs for rows in job.ranges))
    folder = choose_few(Path(ranges[0].shard).parent, ranges, _MEASURED_DOCUMENTS, planned.out, seed=setting.seed)
    few = row_ranges(folder, rows_per_unit=DOCUMENTS_PER_UNIT)
    speeds = _read_speeds(planned.out)
    by_method: dict[str, list[ShardedJob]] = {}
    for job in planned.asking:
        by_method.setdefault(task_of(job).template.method, []).append(job)
    for method, jobs in by_method.items():
        units = [unit for job in jobs for unit in _shortened(job, few).units()]
        work = do_units(setting, engines, units, f"measure {method}")
        if work.answer_tokens:
            seconds = work.engine_seconds or work.seconds * work.engines
            speeds[_speed_name(jobs[0])] = {"seconds": seconds, "tokens": float(work.computed_tokens)}
    placed = cluster.placement
    per_engine = {"cpus": float(placed.cpus_per_engine), "gpus": float(placed.gpus_per_engine)}
    speeds["machine"] = {"engines": float(placed.engines), **per_engine}
    write_json(planned.out / SPEED, speeds)


def plan_and_show(
    setting: Setting,
    model: Model,
    section: AugmentCommand,
    planned: Augmentation,
    request: Request,
    cluster: LazyCluster,
    engines: LazyEngines,
) -> None:
    """Print the plan of an augmentation, after measurements if they are wanted."""
    if request.measure:
        measure(setting, planned, cluster, engines)
        ranges = list(dict.fromkeys(rows for job in planned.all_jobs for rows in job.ranges))
        planned = augment.plan(setting, model, planned.documents, planned.out, section, ranges=ranges)
    found = make_plan(setting, model, planned)
    notes = context_note(planned.asking, str(planned.context))
    if not model.folder:
        notes.append(("tokens", "are words: the tokenizer is not known here"))
    show_plan(found, notes, _read_speeds(planned.out).get("machine"), setting.console)
    setting.say("plan", f"{planned.out / PLAN}; nothing was asked" + " but to measure" * request.measure)


def summarize(setting: Setting, planned: Augmentation, work: Work) -> None:
    """Print what there is by method in the sealed folder, and what this run took."""
    _, shards = rows_folder(planned.out)
    refused = sum(1 for job in planned.all_jobs for _ in job.refusals())
    show_methods(count_methods(shards), setting.console, work, refused)


def templates_of(jobs: Sequence[ShardedJob]) -> list[Any]:
    """The templates of some jobs, those of proposals among them."""
    found = [one for job in jobs for one in (task_of(job).proposal, task_of(job).template) if one]
    return list({one.method: one for one in found}.values())


def task_of(job: ShardedJob) -> Any:
    """The `AugmentTask` of a job."""
    return job.task


def num_rows(ranges: Sequence[RowRange]) -> int:
    """The rows of all ranges."""
    return sum(rows.stop - rows.start for rows in ranges)


def _without_retry(section: AugmentCommand) -> AugmentCommand:
    return section.model_copy(update={"retry_refused": False})


def _shortened(job: ShardedJob, few: Sequence[RowRange]) -> ShardedJob:
    """A job that asks only some prompts about a few documents of its corpora."""
    corpora = {rows.corpus for rows in job.ranges}
    ranges = tuple(rows for rows in few if rows.corpus in corpora)
    task = replace(task_of(job), most=_MEASURED_PROMPTS)
    return replace(job, task=task, ranges=ranges, key=fingerprint(job.key, "measure", _MEASURED_PROMPTS))


def _speed_name(job: ShardedJob) -> str:
    return f"{task_of(job).template.method} {fingerprint(task_of(job).key)}"


def _read_speeds(out: Path) -> dict[str, Speed]:
    path = out / SPEED
    found: dict[str, Speed] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _with_seconds(plan: Plan, jobs: Sequence[ShardedJob], speeds: dict[str, Speed]) -> Plan:
    """The plan with the seconds of an engine, where all that is asked has been measured."""
    methods = dict(plan.methods)
    for job in jobs:
        speed = speeds.get(_speed_name(job))
        for template in templates_of([job]) if speed else ():
            one = methods.get(template.method)
            if one is not None and speed:
                methods[template.method] = replace(one, seconds=_computed(one) * speed["seconds"] / speed["tokens"])
    known = [one.seconds for one in methods.values() if one.prompts]
    seconds = None if None in known else sum(one or 0.0 for one in known)
    return replace(plan, methods=methods, total=replace(plan.total, seconds=seconds))


def _computed(one: MethodPlan) -> int:
    """Tokens that an engine computes: read without those of its cache, and written."""
    written = one.max_new_tokens if one.new_tokens is None else one.new_tokens
    return one.prompt_tokens - one.cached_tokens + written
