"""`entail learn`: from documents to a model that knows them, and the evidence.

A composition of the stages: an import, questions about the documents, and a study of two arms on both, the documents
alone and documents with inferences. Writes into OUT what they write, `recipe.toml` which `entail run` accepts, and
`model/`, the checkpoint of the better arm. The same command resumes.
"""

import json
import math
import shutil
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from augment_service.engines.protocol import check_scoring
from augment_service.questions.drafts import KNOWN
from data.corpora.importer import import_corpus
from data.corpora.reading import REJECTED, ROWS_FILE, ImportSettings
from data.corpora.sources import find_sources
from data.errors import InputError
from data.facts import DEV, TEST
from data.rendering import PromptBook
from data.store import is_sealed, write_text
from pipeline.models import Model, find_model
from pipeline.recipe import Recipe, parse_recipe, parse_section, to_toml
from pipeline.sections import Cluster, Engine, Questions
from pipeline.stages import augment as augment_stage
from pipeline.stages import questions as question_stage
from pipeline.stages import train as train_stage
from pipeline.stages.augment_plan import make_plan
from pipeline.stages.data import find_documents
from pipeline.stages.resources import LazyCluster, LazyEngines, Setting, check_service
from pipeline.study import CHECKPOINTS, run_study
from pipeline.workspace import Workspace
from train.engine.export import merge_checkpoint
from train.plan.fit import planned_machine, print_plan

STUDY, SUITE = "learn", "documents"
IMPORT, QUESTIONS, MODEL, RECIPE = "import", "questions", "model", "recipe.toml"
METHODS = ("local", "global", "self_qa")  # as far as the model's prompt book has them
ALONE, WITH_INFERENCES = "documents", "inferences"
WRITTEN = 100  # questions of each split
ALL_SPLITS = "mean over the splits"
_ROUNDING = 1e-9  # of a difference of two accuracies


def learn(flags: Namespace, console: Console) -> None:
    """Everything, or with `--plan` what it costs, or with `--until questions` whether it is needed."""
    engine = parse_section(Engine, "engine", flags.overrides, command="learn")
    cluster = parse_section(Cluster, "cluster", flags.overrides, command="learn")
    written = parse_section(Questions, "questions", flags.overrides, command="learn")
    check_scoring(engine.endpoint_api)
    model = find_model(flags.model, engine, address=cluster.address)
    if model.folder is None:
        what, hint = "a model is trained, so it must be a folder or a hub model", "name a model folder"
        raise InputError(what, where=f"--model {flags.model}", hint=hint)
    check_service(engine, [model.path])
    out = flags.out.absolute()
    setting = Setting(Workspace(out), console, engine, cluster, flags.seed)
    documents = _documents(flags, setting, out)
    recipe = _recipe(flags, model, documents, out)
    write_text(out / RECIPE, to_toml(recipe))
    if flags.plan:
        if not flags.suite:
            question_stage.prepare(setting, model, documents, out / QUESTIONS, written)
        _show_plan(setting, model, documents, recipe, out)
        return
    whole_nodes = train_stage.takes_whole_nodes(recipe.train, model)
    with (
        LazyCluster(setting, recipe.train, whole_nodes=whole_nodes, models=[model.path]) as lazy,
        LazyEngines(setting, model, lazy) as engines,
    ):
        if not flags.suite and not is_sealed(out / QUESTIONS / QUESTIONS):
            with setting.space.locked():
                question_stage.write_questions(setting, model, documents, out / QUESTIONS, written, engines)
        if flags.until == QUESTIONS:
            return
        report = run_study(recipe, out, console, command=flags.command, running=(lazy, engines))
    chosen, split, accuracy = choose_arm(report, flags.max_retention_loss)
    _copy_model(out, model, chosen)
    setting.say("model", f"{out / MODEL}: {chosen}, right on {accuracy:.0%} of the questions ({split})")


def choose_arm(report: dict[str, Any], max_loss: float | None = None) -> tuple[str, str, float]:
    """The arm with the highest accuracy, the split that decides, and the accuracy.

    The arms are both, and where checkpoints between steps were exported, those too, as ARM@STEP. The split is dev, test
    if there is no dev, or the mean over all splits of a suite that has neither. Of equal arms it is the one without
    inferences, of equal steps the last. `max_loss` bounds what an arm may have lost of the accuracy on known questions.
    Raises InputError if no arm is within it, or if there are no such questions.
    """
    splits: dict[str, Any] = report["suites"][SUITE]
    split = next((name for name in (DEV, TEST) if name in splits), "")
    chosen = [splits[split]] if split else list(splits.values())
    known = [name for name in chosen[0] if name.partition("@")[0] in (ALONE, WITH_INFERENCES)]
    scores = {
        arm: sum(conditions[arm]["accuracy"] for conditions in chosen) / len(chosen)
        for arm in sorted(known, key=_place)
        if all(arm in conditions for conditions in chosen)
    }
    if max_loss is not None:
        scores = _within(scores, splits, max_loss)
    best = max(scores, key=scores.__getitem__)
    return best, split or ALL_SPLITS, scores[best]


def _place(arm: str) -> tuple[bool, float]:
    """Documents alone first, then later steps before earlier ones; the end of a training has no step."""
    name, _, step = arm.partition("@")
    return name != ALONE, -float(step) if step else -math.inf


def _within(scores: dict[str, float], splits: Mapping[str, Any], max_loss: float) -> dict[str, float]:
    """The arms that have lost at most so much of the questions that the base model knew."""
    where = "--max-retention-loss"
    if KNOWN not in splits:
        hint = "leave it out, or bring a suite with a split of that name"
        raise InputError(
            f'the suite has no questions that the base model knows (split "{KNOWN}")', where=where, hint=hint
        )
    known = splits[KNOWN]
    lost = {arm: known["pretrained"]["accuracy"] - known[arm]["accuracy"] for arm in scores}
    if min(lost.values()) > max_loss + _ROUNDING:
        shown = ", ".join(f"{arm} lost {loss:.0%}" for arm, loss in lost.items())
        hint = "train less, raise --replay-share, or allow more; the report is written"
        raise InputError(f"of {known['pretrained']['n']} known questions {shown}", where=where, hint=hint)
    return {arm: score for arm, score in scores.items() if lost[arm] <= max_loss + _ROUNDING}


def _documents(flags: Namespace, setting: Setting, out: Path) -> Path:
    """The sealed documents of the paths: an import of ours, or files that are imported now."""
    if len(flags.paths) == 1 and flags.paths[0].is_dir():
        return find_documents(flags.paths[0], out / IMPORT, setting.say)
    sources = find_sources([str(path) for path in flags.paths], out=out / IMPORT)
    summary = import_corpus(sources, out / IMPORT, ImportSettings())
    if summary.num_rejected:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary.num_rejected.items())
        setting.say("rejected", f"{reasons}, in {out / IMPORT / REJECTED / ROWS_FILE}")
    return find_documents(out / IMPORT, out / IMPORT, setting.say)


def _recipe(flags: Namespace, model: Model, documents: Path, out: Path) -> Recipe:
    """The study, with what the flags say."""
    _, given = flags.overrides.get(("augment", "methods"), ("", ""))
    methods = [name.strip() for name in given.split(",")] if given else methods_of(model.book)  # the arm learns them
    suite = str(flags.suite.absolute()) if flags.suite else str(out / QUESTIONS)
    content: dict[str, Any] = {
        "study": STUDY,
        "model": flags.model,
        "seed": flags.seed,
        "data": {SUITE: {"documents": str(documents.absolute()), "questions": suite}},
        "augment": {"methods": methods},
        "train": {"arms": {ALONE: [], WITH_INFERENCES: methods}, "match": "tokens"},
        "evaluate": {"icl": ["nearest:4"], "written": WRITTEN},
    }
    overrides = {keys: found for keys, found in flags.overrides.items() if keys[0] != QUESTIONS}
    return parse_recipe(content, overrides, where="learn")


def methods_of(book: PromptBook) -> list[str]:
    """The methods that a model's prompt book has, of those that are asked for."""
    families = {template.method.partition("/")[0] for template in book.templates}
    return [method for method in METHODS if method in families]


def _show_plan(setting: Setting, model: Model, documents: Path, recipe: Recipe, out: Path) -> None:
    """What the augmentation would ask, and what a training needs; engines do not start."""
    planned = augment_stage.plan(setting, model, documents, out, recipe.augment)
    found = make_plan(setting, model, planned)
    total = found.total
    setting.say(
        "plan",
        f"{total.prompts:,} prompts, {total.prompt_tokens:,} tokens read, at most {total.max_new_tokens:,} written",
    )
    section = train_stage.resolve(recipe.train, model, setting.say)
    source = train_stage.documents_source(documents, section)
    run = train_stage.build_run(section, model, (source,), name=ALONE, out=out / "train", seed=section.seeds[0])
    count = len(section.arms) * len(section.seeds)
    setting.say("train", f"{count} runs of the tokens of one on the documents, each of which needs:")
    whole = train_stage.takes_whole_nodes(section, model)
    print_plan(run, planned_machine(section.ranks, whole_node=whole), setting.console, stage=section.stage)
    setting.say("recipe", f"{out / RECIPE}")


def _copy_model(out: Path, model: Model, arm: str) -> None:
    """Put the arm's checkpoint into `OUT/model`, whole, with its base merged into adapters."""
    runs: dict[str, str] = json.loads((out / CHECKPOINTS).read_text())
    folder = next(Path(path) for name, path in sorted(runs.items()) if name.endswith(f"/{arm}"))
    target = out / MODEL
    shutil.rmtree(target, ignore_errors=True)
    if (folder / "adapter_config.json").exists():
        merge_checkpoint(folder, model.folder, target)
    else:
        shutil.copytree(folder, target)
