"""Which texts, and how many of them, the runs of a study or of `train` learn.

Pure: reads and writes nothing.
"""

import dataclasses
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import InputError
from pipeline.train_section import DOCUMENTS, REPLAY, STEPS, TrainingTexts
from train.run.finetune_run import TextSource

AUGMENTATIONS, TEACHER = "augmentations", "teacher"


def inner(folder: Path, name: str) -> Path:
    """The part `name` of a made set or of a stage's output, or the folder itself."""
    return folder / name if (folder / name).is_dir() else folder


def arm_sources(
    documents: TextSource, inferences: TextSource, methods: Sequence[str], settings: TrainingTexts
) -> tuple[TextSource, ...]:
    """The texts of an arm: documents, the kept inferences of its methods, and replay; weighted if there is a mix."""
    if not settings.mix:
        return (documents, dataclasses.replace(inferences, methods=tuple(methods))) if methods else (documents,)
    by_weight: dict[str, list[str]] = {}
    for method in methods:
        family = method.partition("/")[0]
        if method not in settings.mix and family not in settings.mix:
            raise InputError(
                f'the mix has no weight for "{method}"',
                where="recipe section train.texts.mix",
                hint=f'give "{family}" or "{method}" a share of the tokens, or 0',
            )
        by_weight.setdefault(method if method in settings.mix else family, []).append(method)
    sources = [dataclasses.replace(documents, weight=settings.mix[DOCUMENTS])]
    sources += [
        dataclasses.replace(inferences, methods=tuple(some), weight=settings.mix[key])
        for key, some in by_weight.items()
    ]
    if settings.replay:
        sources.append(TextSource(str(inner(Path(settings.replay), "documents")), weight=settings.mix[REPLAY]))
    return tuple(sources)


def training_fields(settings: TrainingTexts, reference: tuple[TextSource, ...]) -> dict[str, Any]:
    """The fields of a run that say how long it is and how it is laid out; `reference` are the first arm's texts."""
    matched = getattr(settings, settings.match) == 0  # the budget is given in something else
    return {
        "num_steps": settings.steps,
        "num_tokens": settings.tokens,
        "num_epochs": settings.epochs,
        "match": settings.match if matched else "",
        "matched_to": reference if matched else (),
        "batch_tokens": settings.batch_tokens,
        "layout": settings.layout,
    }


def fields_of_flags(flags: Namespace) -> dict[str, Any]:
    """The same fields, and the sources and the objective, as the flags of `train` give them."""
    folders = {
        DOCUMENTS: TextSource(
            str(inner(flags.documents, DOCUMENTS)), text_column=flags.text_column, prompt_column=flags.prompt_column
        )
    }
    if flags.augmentations:
        folders[AUGMENTATIONS] = TextSource(str(inner(flags.augmentations, AUGMENTATIONS)), verdict_kept_only=True)
    if flags.replay:
        folders[REPLAY] = TextSource(str(inner(flags.replay, DOCUMENTS)))
    if flags.teacher:
        folders[TEACHER] = TextSource(str(flags.teacher))
    weights = _parse_mix(flags.mix, list(folders)) if flags.mix else dict.fromkeys(folders)
    budget = (flags.steps or 0, flags.tokens or 0, flags.epochs or 0.0)
    steps, tokens, epochs = budget if any(budget) else (STEPS, 0, 0.0)
    return {
        "sources": tuple(dataclasses.replace(source, weight=weights[name]) for name, source in folders.items()),
        "objective": "distillation" if flags.teacher else "text",
        "num_steps": steps,
        "num_tokens": tokens,
        "num_epochs": epochs,
        "batch_tokens": flags.batch_tokens,
        "layout": flags.layout,
    }


def describe_courses(courses: Sequence[Mapping[str, Any]]) -> str:
    """Steps, tokens and layouts of finished runs in a phrase."""
    layouts = {f"{of['name']} texts": of["why"] for of in (course["layout"] for course in courses)}
    named = f"{next(iter(layouts))} ({next(iter(layouts.values()))})" if len(layouts) == 1 else ", ".join(layouts)
    spans = (_span([course[key] for course in courses]) for key in ("num_steps", "num_tokens"))
    return "{} steps, {} tokens, {}".format(*spans, named)


def _span(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _parse_mix(words: str, names: Sequence[str]) -> dict[str, float]:
    """The weights of "documents=0.5,replay=0.5": one for each folder that is given."""
    pairs = [word.partition("=") for word in words.split(",")]
    try:
        weights = {name.strip(): float(weight) for name, _, weight in pairs}
    except ValueError:
        weights = {}
    if sorted(weights) != sorted(names):
        raise InputError(
            f'"{words}" does not give each of {", ".join(names)} a weight',
            where="--mix",
            hint=f"write --mix {','.join(f'{name}=1' for name in names)}, with shares of your own",
        )
    return weights
