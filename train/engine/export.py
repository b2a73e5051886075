"""A trained model as an HF folder that transformers and vLLM load.

Reads: the engine's weights; of the base model, its tokenizer files, chat template, generation settings and prompt book.
Writes: `model*.safetensors`, `config.json`, copies of those files, a model card and, last, `checkpoint.json`, in a work
folder that a rename makes the checkpoint.
"""

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from data.records import CheckpointRef
from data.rendering import BOOK_NAME
from data.store import write_json
from data.weights import weights_fingerprint
from train.engine.card import CARD, model_card
from train.engine.checkpoint import METRICS, REFERENCE, read_ref, work_folder
from train.engine.state import Start
from train.engine.zero_engine import WEIGHT, full_tensors, write_together
from train.model.lora import merge
from train.run.finetune_run import FinetuneRun

_TAKEN_ALONG = (
    BOOK_NAME,
    "tokenizer*",
    "special_tokens*",
    "added_tokens*",
    "vocab*",
    "merges*",
    "chat_template*",
    "generation_config.json",
    "*.model",
)


@dataclass(frozen=True)
class Made:
    """What a checkpoint was made from; `base` holds the base's weights. Producer: `train.run.loop`."""

    run: FinetuneRun
    key: str
    base: PreTrainedModel
    starts: tuple[Start, ...]
    num_texts: int


def export(engine: Any, made: Made) -> CheckpointRef:
    """Write the engine's weights as the run's checkpoint, whole or not at all. All ranks call, rank 0 writes.

    Adapters are merged into the base. Raises ResumableError on every rank if rank 0 cannot write.
    """
    run, out = made.run, Path(made.run.out)
    weights = _gather(engine, adapters_alone=run.lora is not None)

    def write() -> None:
        if dist.get_rank() == 0:
            work = work_folder(out)
            work.mkdir(parents=True, exist_ok=True)
            if run.lora is None:
                engine.module.save_pretrained(work, state_dict=weights)
            else:
                merge(made.base, run.lora, weights).save_pretrained(work)
            _complete(work, made)
            os.replace(work, out)

    write_together(write)
    return read_ref(out)


def _gather(engine: Any, *, adapters_alone: bool) -> dict[str, torch.Tensor]:
    """The weights that are written; at stage 3 on rank 0 only. Their shards are gathered together by all ranks."""
    if adapters_alone:
        return {name: tensor.to("cpu", copy=True) for name, _, tensor in full_tensors(engine, kinds=(WEIGHT,))}
    if engine.zero_optimization_stage() == 3:
        return engine._zero3_consolidated_16bit_state_dict() or {}
    return engine.module.state_dict()


def _complete(work: Path, made: Made) -> None:
    """Add to the weights what goes with them; the reference comes last."""
    run = made.run
    for pattern in _TAKEN_ALONG:
        for path in Path(run.base).glob(pattern):
            shutil.copyfile(path, work / path.name)
    fingerprint = weights_fingerprint(work)
    metrics = [json.loads(line) for line in (work / METRICS).read_text().splitlines()]
    card = model_card(run, metrics, num_texts=made.num_texts, fingerprint=fingerprint)
    (work / CARD).write_text(card)
    content = {"name": run.name, "base": run.base, "num_steps": run.num_steps, "key": made.key}
    starts = [dataclasses.asdict(start) for start in made.starts]
    write_json(work / REFERENCE, {**content, "fingerprint": fingerprint, "starts": starts})
