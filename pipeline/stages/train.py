"""The training stage: from the section [train] and text sources to finetuning runs, and the runs to checkpoints."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cluster.placement import Placement
from data.errors import InputError
from data.records import CheckpointRef
from data.rendering import has_chat_template
from data.store import is_sealed
from pipeline.models import Model, local_model
from pipeline.progress import Bar, bar, training_note
from pipeline.sections import Train, TrainRun
from pipeline.stages.resources import LazyCluster, Setting
from train.engine.checkpoint import find_finished, how_computed, read_ref
from train.plan.defaults import SMALL, default_training, parameters_of
from train.plan.fit import first_stage, fit_runs, machine_of
from train.run.finetune_run import FinetuneRun, Lora
from train.run.keys import key_of
from train.run.launch import MAX_RESTARTS, LostPlacesError, Progress, finetune_all, ranks_for
from train.run.training_plan import read_plan
from train.texts.sources import TextSource, has_turns, is_conversation

DOCUMENTS, AUGMENTATIONS, TEACHER = "documents", "augmentations", "teacher"
# Settings that a run takes over as they are.
_SAME = (
    "batch_tokens schedule weight_decay max_grad_norm precision layout max_text_tokens long_texts accumulation "
    "activation_checkpointing offload offload_folder checkpoint_every checkpoint_minutes keep_last keep_every "
    "export_every trackers"
).split()


def resolve(section: TrainRun, model: Model, say: Callable[[str, str], None]) -> Any:
    """The section with the rate, budget and batch that were not given: by the model's size, and reported."""
    assert model.folder is not None
    parameters = parameters_of(model.folder)
    defaults = default_training(parameters)
    changes: dict[str, Any] = {}
    if section.learning_rate is None:
        changes["learning_rate"] = defaults.learning_rate
    if not (section.steps or section.tokens or section.epochs):
        changes |= {"steps": defaults.steps} if defaults.steps else {"epochs": defaults.epochs}
        if defaults.min_steps and section.min_steps is None:
            changes["min_steps"] = defaults.min_steps
    if not (section.batch_size or section.batch_tokens):
        changes["batch_size"] = defaults.batch_size
    if changes:
        given = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in changes.items())
        say("defaults", f"{given}: by the size of the model, {parameters:,} parameters")
    if section.warmup_steps is None:
        steps = section.steps or changes.get("steps", 0)
        changes["warmup_steps"] = min(defaults.warmup_steps, steps) if steps else defaults.warmup_steps
    return section.model_copy(update=changes)


def takes_whole_nodes(section: TrainRun, model: Model) -> bool:
    """Whether a rank on CPUs should have all cores of its node.

    More ranks on the same cores do not compute faster, and send all gradients to each other in every step. Only models
    of the embedded model's size gain, for their products are too small for several threads.
    """
    assert model.folder is not None
    one_each = isinstance(section, Train) and section.ranks_per_run > 0
    return not one_each and parameters_of(model.folder) >= SMALL


def build_run(
    section: TrainRun,
    model: Model,
    sources: tuple[TextSource, ...],
    *,
    name: str,
    out: Path,
    seed: int,
    matched_to: tuple[TextSource, ...] = (),
    objective: Literal["text", "distillation"] = "text",
    tokens: Path | None = None,
) -> FinetuneRun:
    """One finetuning run of a resolved section; `tokens` is a folder for tokenized texts that other runs share.

    Raises InputError for written chat rows that the model has no template for.
    """
    for source in sources:
        if is_sealed(Path(source.folder)) and has_turns(source) and not is_conversation(source):
            check_chat(model, where=source.folder)
    lora, same = section.lora, {name: getattr(section, name) for name in _SAME}
    alpha = 2.0 * lora.rank if lora.alpha is None else lora.alpha
    match: Literal["", "steps", "tokens"] = ""
    if matched_to and isinstance(section, Train):
        wanted = section.match or ("tokens" if section.tokens else "steps")
        match = wanted if getattr(section, wanted) == 0 else ""  # a budget in that unit needs no other run
    return FinetuneRun(
        name=name,
        base=model.path,
        sources=sources,
        out=str(out),
        num_steps=section.steps,
        num_tokens=section.tokens,
        num_epochs=section.epochs,
        min_steps=section.min_steps or 0,
        match=match,
        matched_to=matched_to if match else (),
        batch_size=max(1, section.batch_size),
        learning_rate=section.learning_rate or 0.0,
        warmup_steps=section.warmup_steps or 0,
        seed=seed,
        stage=first_stage(section.stage, section.offload),
        objective=objective,
        tokens=str(tokens or ""),
        instruct_twin=local_model(section.instruct_twin) if section.instruct_twin else "",
        lora=Lora(lora.rank, alpha, lora.dropout, lora.targets, lora.merged) if lora.rank else None,
        **same,
    )


def documents_source(folder: Path, section: TrainRun, corpus: str = "", **columns: Any) -> TextSource:
    """The documents of a corpus, split as the section says; `columns` as in `TextSource`."""
    return TextSource(str(inner(folder, DOCUMENTS)), corpus, split=section.split_sentences, **columns)


def check_chat(model: Model, *, where: str) -> None:
    """Raise InputError if the model cannot be trained on turns of a chat."""
    if model.folder is None or not has_chat_template(model.folder):
        raise InputError(
            "some training rows are turns of a chat, and this model has no chat template",
            where=where,
            hint="use a chat model, or a prompt book whose questions have a row, as data/templates/english.toml",
        )


def weigh(sources: Mapping[str, TextSource], mix: Mapping[str, float], *, where: str) -> tuple[TextSource, ...]:
    """Named sources with their weights; without a mix all texts occur equally often. Raises InputError."""
    if not mix:
        return tuple(sources.values())
    if set(mix) != set(sources):
        raise InputError(
            f"the mix names {', '.join(mix)}; the sources are {', '.join(sources)}",
            where=where,
            hint=f"give each a weight: {','.join(f'{name}=1' for name in sources)}",
        )
    return tuple(dataclasses.replace(source, weight=mix[name]) for name, source in sources.items())


def arm_sources(
    documents: TextSource, inferences: TextSource, methods: Sequence[str], section: Train
) -> tuple[TextSource, ...]:
    """The texts of an arm: documents, and the kept inferences of its methods; weighted if there is a mix."""
    if not section.mix:
        return (documents, dataclasses.replace(inferences, methods=tuple(methods))) if methods else (documents,)
    by_weight: dict[str, list[str]] = {}
    for method in methods:
        family = method.partition("/")[0]
        key = method if method in section.mix else family
        if key not in section.mix:
            raise InputError(
                f'the mix has no weight for "{method}"',
                where="train.mix",
                hint=f'give "{family}" or "{method}" a share of the tokens, or 0',
            )
        by_weight.setdefault(key, []).append(method)
    sources = {DOCUMENTS: documents}
    sources |= {key: dataclasses.replace(inferences, methods=tuple(some)) for key, some in by_weight.items()}
    return weigh(sources, {key: section.mix[key] for key in sources}, where="train.mix")


def train_all(
    setting: Setting, section: TrainRun, runs: Sequence[FinetuneRun], cluster: LazyCluster, storage: Path
) -> list[CheckpointRef]:
    """Train runs on one worker group; finished ones are skipped, even without Ray. Their checkpoints, in order."""
    if any(find_finished(Path(run.out), key_of(run)) is None for run in runs):
        _train_all(setting, section, runs, cluster, storage)
    refs = [read_ref(Path(run.out)) for run in runs]
    found = [read_plan(Path(ref.path)) for ref in refs]
    plans = describe_plans(found)
    hows = sorted({how_computed(Path(ref.path)) for ref in refs})
    setting.say("train", f"{len(runs)} run{'s' * (len(runs) > 1)} of {plans}, {', '.join(hows)}")
    with_turns = any(has_turns(source) for run in runs for source in run.sources)
    if left_out := describe_left_out([plan.get("texts", {}) for plan in found], with_turns=with_turns):
        setting.say("texts", left_out)
    return refs


def _train_all(
    setting: Setting, section: TrainRun, runs: Sequence[FinetuneRun], cluster: LazyCluster, storage: Path
) -> None:
    """Train the runs, from their last states with other ranks where nodes were lost for good."""
    steps = section.steps or 100  # of a run whose steps are not known yet, hundredths are counted
    placement, done, losses = cluster.placement, -1.0, 0
    group = (section.ranks_per_run or 1) if isinstance(section, Train) else 1
    while True:
        fitted = fit(setting, section, runs, placement)
        reached = 0.0
        with bar(setting.console, "train", len(runs) * steps, eta=True) as shown:

            def show(progress: Progress, shown: Bar = shown) -> None:
                nonlocal reached
                reached = progress.done
                shown.update(int(progress.done * steps), f"{progress.run}  {training_note(progress)}")

            try:
                _train_on(setting, section, fitted, placement, storage, show)
                return
            except LostPlacesError:
                losses = losses + 1 if reached <= done else 1
                done = max(done, reached)
                if losses > MAX_RESTARTS:
                    raise
        if setting.cluster.address:  # a session of our own has the room, but a busy machine takes its time
            placement = cluster.after_loss(placement, group)


def _train_on(
    setting: Setting,
    section: TrainRun,
    runs: Sequence[FinetuneRun],
    placement: Placement,
    storage: Path,
    on_progress: Callable[[Progress], None],
) -> None:
    finetune_all(
        runs,
        num_workers=placement.ranks,
        cpus_per_worker=placement.cpus_per_rank,
        threads_per_worker=section.threads or placement.cpus_per_rank,
        use_gpu=placement.gpus_per_rank > 0,
        storage=storage,
        on_progress=on_progress,
        stall_seconds=section.stall_seconds,
        ranks_per_run=section.ranks_per_run if isinstance(section, Train) else 0,
        exact_ranks=section.ranks is not None,
        on_error=lambda error: setting.say("failed", str(error)),
        grace_seconds=setting.cluster.grace_seconds,
    )


def fit(
    setting: Setting, section: TrainRun, runs: Sequence[FinetuneRun], placement: Placement, *, before: bool = False
) -> list[FinetuneRun]:
    """The runs with their ZeRO stage. Raises InputError for what cannot fit into a rank's memory.

    With `before`, texts that are not written yet are left out, and nothing but an error is reported.
    """
    auto = section.stage == "auto"
    if not (auto or section.memory_check):
        return list(runs)
    ranks = section.ranks_per_run if isinstance(section, Train) else 0
    if not (ranks or section.ranks):
        ranks = ranks_for(runs, placement.ranks)
    machine = machine_of(placement, setting.cluster.address, ranks)
    say: Callable[[str], None] = (
        (lambda _: None) if before else lambda line: setting.console.print(line, highlight=False)
    )
    return fit_runs(runs, machine, auto=auto, check=section.memory_check, say=say, skip_missing=before)


def describe_plans(plans: Sequence[Mapping[str, Any]]) -> str:
    """Steps, tokens and layouts of finished runs in a phrase."""
    layouts = {f"{of['name']} texts": of["why"] for of in (plan["layout"] for plan in plans)}
    named = f"{next(iter(layouts))} ({next(iter(layouts.values()))})" if len(layouts) == 1 else ", ".join(layouts)
    spans = (_span([plan[key] for plan in plans]) for key in ("num_steps", "num_tokens"))
    return "{} steps, {} tokens, {}".format(*spans, named)


def describe_left_out(counts: Sequence[Mapping[str, int]], *, with_turns: bool = False) -> str:
    """How many training texts were cut, skipped or empty, over all runs, in a phrase; "" if none was.

    `with_turns`: some of them are turns of conversations.
    """
    names = {
        "cut": "were too long and were cut",
        "skipped": "were too long and were left out",
        "empty": "had nothing to learn and were left out",
    }
    totals = {phrase: sum(of.get(name, 0) for of in counts) for name, phrase in names.items()}
    found = "; ".join(f"{total:,} {phrase}" for phrase, total in totals.items() if total)
    unit = "training texts (each turn of the assistant is one)" if with_turns else "training texts"
    return f"of the {unit}, {found}" if found else ""


def read_losses(checkpoint: Path) -> list[tuple[int, float]]:
    """The loss curve (step, nats per token) that a run left beside its weights."""
    rows = [json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def inner(folder: Path, name: str) -> Path:
    """The part `name` of a made set or of a stage's output, or the folder itself."""
    return folder / name if (folder / name).is_dir() else folder


def _span(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
