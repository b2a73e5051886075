"""Finished checkpoints: how they are recognised. Reads: `checkpoint.json` of checkpoint folders. Writes nothing."""

import json
from pathlib import Path

from data.errors import InputError
from data.records import CheckpointRef

REFERENCE = "checkpoint.json"
METRICS = "metrics.jsonl"  # a line for each step


def read_ref(folder: Path) -> CheckpointRef:
    """The reference of a finished checkpoint; its path is where the folder stands now. Raises InputError."""
    try:
        content = json.loads((folder / REFERENCE).read_text())
    except FileNotFoundError:
        raise InputError(
            f"no finished checkpoint here ({REFERENCE} is missing)",
            where=str(folder),
            hint="name a folder that `train` made, or give the training command again",
        ) from None
    return CheckpointRef(
        name=content["name"],
        path=str(folder),
        fingerprint=content["fingerprint"],
        base=content["base"],
        num_steps=content["num_steps"],
    )


def how_computed(folder: Path) -> str:
    """In what precision and on how many ranks a checkpoint was trained, for people; the last start counts."""
    start = json.loads((folder / REFERENCE).read_text())["starts"][-1]
    return f"{start['precision']} on {start['ranks']} rank{'s' * (start['ranks'] > 1)}"


def find_finished(folder: Path, key: str) -> CheckpointRef | None:
    """The checkpoint that a run of this key left in `folder`, if it did.

    Raises InputError if another run's checkpoint or anything else stands there.
    """
    if (folder / REFERENCE).exists():
        found = json.loads((folder / REFERENCE).read_text())["key"]
        if found == key:
            return read_ref(folder)
        trouble = f"the checkpoint here comes from other settings, texts or weights (key {found}, wanted {key})"
    elif folder.exists() and any(folder.iterdir()):
        trouble = "the output folder holds files that are no checkpoint"
    else:
        return None
    raise InputError(trouble, where=str(folder), hint="choose another output folder, or delete this one")


def work_folder(out: Path) -> Path:
    """Where a run's files gather until it is finished: beside `out`, for the rename."""
    return out.with_name(f".{out.name}.unfinished")
