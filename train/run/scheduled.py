"""How often a finished run was given a text: from the run's own record, its sources and its schedule.

Reads `checkpoint.json`, the sources, and tokens that are kept; where they are not, the texts are tokenized again, into
a temporary folder.
"""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from data.errors import InputError
from train.engine.checkpoint import RECORD
from train.run.finetune_run import FinetuneRun
from train.run.keys import key_of
from train.run.training_plan import schedule_texts, write_texts
from train.texts.encode import load_encoder
from train.texts.sources import find_ids


def find_checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in a folder: itself, or those below it. Raises InputError if there are none."""
    found = sorted(path.parent for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}{RECORD}"))
    if not found:
        hint = "name a folder that `train` or a study wrote"
        raise InputError("no finished checkpoint here", where=str(folder), hint=hint)
    return found


def count_scheduled(checkpoint: Path, ids: Sequence[str]) -> dict[str, int]:
    """How many times a run was given the texts with these ids; without those that its sources do not have.

    Raises InputError if the run does not say what it learned, or if its model or texts have changed since.
    """
    where = str(checkpoint / RECORD)
    content = json.loads((checkpoint / RECORD).read_text())
    try:
        run = TypeAdapter(FinetuneRun).validate_python(content.get("run"), strict=False)
    except ValidationError as error:
        hint = "train it again with this version, which records it"
        raise InputError("this run did not record its texts", where=where, hint=hint) from error
    if key_of(run) != content.get("key"):
        hint = "look into the checkpoint of a run on the present texts"
        raise InputError("the texts or the base model of this run have changed since", where=where, hint=hint)
    with tempfile.TemporaryDirectory() as work:
        if not (run.tokens and Path(run.tokens).is_dir()):
            run = dataclasses.replace(run, tokens=work)
        write_texts(run)
        rows, schedule = schedule_texts(run, load_encoder(run.base))
        times = np.bincount(schedule.rows, minlength=len(rows))
        counts: dict[str, int] = {}
        for number, source in enumerate(run.sources):
            for name, position in find_ids(source, ids).items():
                own = rows.rows_of(number, position)
                counts[name] = counts.get(name, 0) + (int(times[own].max()) if len(own) else 0)
        return counts
