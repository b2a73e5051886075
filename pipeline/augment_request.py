"""What `augment` is asked besides augmenting: to plan, to measure, to show a few documents. Reads no files."""

from argparse import Namespace
from dataclasses import dataclass

from data.errors import InputError
from pipeline.sections import AugmentCommand


@dataclass(frozen=True)
class Request:
    """What a command is asked besides augmenting: only to plan, with measurements, or to show N documents."""

    plan: bool
    measure: bool
    preview: int | None


def read_request(flags: Namespace, section: AugmentCommand) -> Request:
    """The request of a command line. Raises InputError for flags that exclude each other or have no effect."""
    request = Request(flags.plan, flags.measure, flags.preview)
    if request.preview is not None and request.preview < 1:
        raise InputError(f"{request.preview} documents cannot be shown", where="--preview", hint="give 1 or more")
    if request.plan and request.preview is not None:
        hint = "leave one of the two out: a plan asks nothing, a preview does"
        raise InputError("--plan and --preview exclude each other", where="--preview", hint=hint)
    if request.measure and not request.plan:
        raise InputError("--measure has no effect without --plan", where="--measure", hint="add --plan")
    if section.teacher_top_k and (request.plan or request.preview is not None):
        name = "--plan" if request.plan else "--preview"
        hint = f"leave it out: {name} asks for no distributions"
        raise InputError(f"--teacher-top-k has no effect with {name}", where="--teacher-top-k", hint=hint)
    return request
