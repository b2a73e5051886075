"""A trained model as an HF folder that transformers and vLLM load.

Reads: the engine's weights; of the base model, its tokenizer files and prompt book. Writes: `model*.safetensors`,
`config.json`, copies of those files and, last, `checkpoint.json`, in a work folder that a rename makes the checkpoint.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data.errors import InputError
from data.records import CheckpointRef
from data.rendering import BOOK_NAME
from data.store import write_json
from data.weights import weights_fingerprint

REFERENCE = "checkpoint.json"
METRICS = "metrics.jsonl"
_TAKEN_ALONG = (
    BOOK_NAME,
    "tokenizer*",
    "special_tokens*",
    "added_tokens*",
    "vocab*",
    "merges*",
    "chat_template*",
    "*.model",
)


def read_ref(folder: Path) -> CheckpointRef:
    """The reference of a finished checkpoint; its path is where the folder stands now. Raises InputError."""
    try:
        content = json.loads((folder / REFERENCE).read_text())
    except FileNotFoundError:
        raise InputError(
            f"no finished checkpoint here ({REFERENCE} is missing)",
            where=str(folder),
            mend="name a folder that `train` made, or give the training command again",
        ) from None
    return CheckpointRef(
        name=content["name"],
        path=str(folder),
        fingerprint=content["fingerprint"],
        base=content["base"],
        num_steps=content["num_steps"],
    )


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
    raise InputError(trouble, where=str(folder), mend="choose another output folder, or delete this one")


def work_folder(out: Path) -> Path:
    """Where a run's files gather until it is finished: beside `out`, for the rename."""
    return out.with_name(f".{out.name}.unfinished")


def export(engine: Any, *, name: str, base: Path, out: Path, num_steps: int, key: str) -> CheckpointRef:
    """Write the engine's weights as the checkpoint `out`, whole or not at all. All ranks call, rank 0 writes."""
    # Stage 3 gathers the shards in a collective call, so every rank takes part.
    sharded = engine.zero_optimization_stage() == 3
    state = engine._zero3_consolidated_16bit_state_dict() if sharded else engine.module.state_dict()
    if dist.get_rank() == 0:
        work = work_folder(out)
        work.mkdir(parents=True, exist_ok=True)
        engine.module.save_pretrained(work, state_dict=state)
        for pattern in _TAKEN_ALONG:
            for path in base.glob(pattern):
                shutil.copyfile(path, work / path.name)
        content = {"name": name, "base": str(base), "num_steps": num_steps, "key": key}
        write_json(work / REFERENCE, {**content, "fingerprint": weights_fingerprint(work)})
        os.replace(work, out)
    dist.barrier()
    return read_ref(out)
