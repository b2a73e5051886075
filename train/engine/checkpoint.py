"""Finished checkpoints and their keys. Reads: `checkpoint.json` of checkpoint folders. Writes nothing."""

import json
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.records import CheckpointRef
from data.weights import weights_fingerprint

RECORD = "checkpoint.json"
WORK = ".unfinished"
METRICS = "metrics.jsonl"  # a line for each step


def read_ref(folder: Path) -> CheckpointRef:
    """The reference of a finished checkpoint; its path is the folder as given. Raises InputError.

    The fingerprint is that of the weights in the folder, whatever the reference says.
    """
    try:
        content = json.loads((folder / RECORD).read_text())
    except FileNotFoundError:
        raise InputError(
            f"no finished checkpoint here ({RECORD} is missing)",
            where=str(folder),
            hint="name a folder that `train` wrote, or run the training command again",
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"this is not JSON: {error}", where=str(folder / RECORD), hint="copy it again") from error
    try:
        name, base, num_steps = str(content["name"]), str(content["base"]), int(content["num_steps"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("this records no checkpoint", where=str(folder / RECORD), hint="copy it again") from error
    return CheckpointRef(name, str(folder), weights_fingerprint(folder), base, num_steps)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` in a folder, one for each step."""
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def how_computed(folder: Path) -> str:
    """The precision and number of ranks of a checkpoint's last start, as a phrase."""
    start = json.loads((folder / RECORD).read_text())["starts"][-1]
    return f"{start['precision']} on {start['ranks']} rank{'s' * (start['ranks'] > 1)}"


def find_finished(folder: Path, key: str) -> CheckpointRef | None:
    """The finished checkpoint of the run with this key in `folder`, if it is there.

    Raises InputError if the folder has another run's checkpoint or anything else.
    """
    if (folder / RECORD).exists():
        found = json.loads((folder / RECORD).read_text())["key"]
        if found == key:
            return read_ref(folder)
        problem = f"the checkpoint here has other settings, texts or weights (key {found}, expected {key})"
    elif folder.exists() and any(folder.iterdir()):
        problem = "the output folder has files that are not a checkpoint"
    else:
        return None
    raise InputError(problem, where=str(folder), hint="choose another output folder, or delete this one")


def steps_folder(out: Path) -> Path:
    """The folder of a run's checkpoints between its first step and its last: beside `out`."""
    return out.with_name(f"{out.name}.steps")


def find_steps(out: Path) -> list[CheckpointRef]:
    """The finished checkpoints of a run between its first step and its last, in their order."""
    return [read_ref(folder.parent) for folder in sorted(steps_folder(out).glob(f"*/{RECORD}"))]


def work_folder(out: Path) -> Path:
    """The folder of a run's files until it is finished: beside `out`, so that a rename completes it."""
    return out.with_name(f".{out.name}{WORK}")
