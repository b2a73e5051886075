"""Conditions: which weights answer, and which documents precede the question. A condition is data, not a branch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from augment_service.contexts import ContextSpec
from data.errors import InputError

BASE = "base"
NO_CONTEXT = ContextSpec("none")


@dataclass(frozen=True, slots=True)
class Condition:
    """How questions are asked. `weights` is "base" or the name of a checkpoint or arm."""

    name: str
    weights: str
    context: ContextSpec


def name_weights(paths: Sequence[str]) -> list[str]:
    """A name for each checkpoint folder: the shortest end of its path that no other one has, and that is not "base".

    Raises InputError where a folder is given twice, by whatever path.
    """
    first: dict[Path, str] = {}
    for path in paths:
        folder = Path(path).resolve()
        if folder in first:
            where = path if path == first[folder] else f"{first[folder]} and {path}"
            raise InputError("the same checkpoint twice", where=where, hint="give each checkpoint once")
        first[folder] = path
    parts = [Path(os.path.abspath(path)).parts[1:] for path in paths]  # noqa: PTH100 - a link keeps its own name
    names = []
    for own in parts:
        others = [other for other in parts if other is not own]
        lengths = (n for n in range(1, len(own)) if own[-n:] != (BASE,) and all(o[-n:] != own[-n:] for o in others))
        names.append("/".join(own[-next(lengths, len(own)) :]))
    return names


def condition_name(weights: str, context: ContextSpec) -> str:
    """`base`, `tuned`, `base+all`, `tuned+sample:8`."""
    return weights if context.kind == "none" else f"{weights}+{context}"


def study_condition(weights: str, context: ContextSpec = NO_CONTEXT) -> Condition:
    """A condition under the names of a study: `pretrained`, `icl`, `icl+sample:8`, or the name of an arm."""
    if weights != BASE:
        return Condition(condition_name(weights, context), weights, context)
    known = {"none": "pretrained", "all": "icl"}
    return Condition(known.get(str(context), f"icl+{context}"), weights, context)
