"""A trained model as an HF folder that transformers and vLLM load.

Reads: the engine's weights; of the base model, its tokenizer files, chat template, generation settings and prompt book.
Writes: `model*.safetensors`, `config.json`, copies of those files, `reference.json` (what engines must reproduce), a
model card and, last, `checkpoint.json`, in a work folder that a rename turns into the checkpoint.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import GenerationConfig

from augment_service.reference import FILE as REFERENCE
from augment_service.reference import compute_reference, find_reference, write_reference
from data.errors import InputError
from data.records import CheckpointRef
from data.rendering import BOOK_NAME
from data.store import sync, write_json
from data.weights import weights_fingerprint
from train.engine.checkpoint import METRICS, RECORD, read_ref, work_folder
from train.engine.zero_engine import WEIGHT, dtype_of, full_tensors, write_together
from train.model.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, merge, save_adapter
from train.run.finetune_run import FinetuneRun, TextSource

CARD = "README.md"
_GENERATION = "generation_config.json"
_COPIED = (
    BOOK_NAME,
    "tokenizer*",
    "special_tokens*",
    "added_tokens*",
    "vocab*",
    "merges*",
    "chat_template*",
    _GENERATION,
    "*.model",
)


def export(engine: Any, run: FinetuneRun, num_texts: int, record: Mapping[str, Any]) -> CheckpointRef:
    """Write the engine's weights as the run's checkpoint, whole or not at all. All ranks call, rank 0 writes.

    Adapters are written alone, or merged into the base. `record` is what else `checkpoint.json` says of the run. Raises
    ResumableError on every rank if rank 0 cannot write, and InputError if the weights are not finite.
    """
    out = Path(run.out)
    weights = _gather(engine, adapters_only=run.lora is not None)

    def write() -> None:
        if dist.get_rank() == 0:
            _refuse_infinite(run, weights)
            work = work_folder(out)
            work.mkdir(parents=True, exist_ok=True)
            if run.lora is None:
                # transformers refuses to write generation settings that it reads; the base's file is copied instead.
                engine.module.generation_config = GenerationConfig()
                engine.module.save_pretrained(work, state_dict=weights)
                (work / _GENERATION).unlink(missing_ok=True)
            else:
                save_adapter(engine.module, weights, run.base, work)
                if run.lora.merged:
                    merge(Path(run.base), work, work, dtype_of(run))
                    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
                        (work / name).unlink()
            _complete(work, run, num_texts, record)
            os.replace(work, out)
            sync(out.parent)

    write_together(write)
    return read_ref(out)


def model_card(run: FinetuneRun, metrics: Sequence[dict[str, Any]], *, num_texts: int, fingerprint: str) -> str:
    """The checkpoint's README.md: its base, its texts and its settings. `metrics` are the lines of `metrics.jsonl`."""
    tokens = sum(row["tokens"] for row in metrics)
    method = "full weights"
    if run.lora is not None:
        method = f"low-rank adapters (rank {run.lora.rank}, alpha {run.lora.alpha:g})" + ", merged" * run.lora.merged
    rows = {
        "weights": f"`{fingerprint}`",
        "base": f"`{Path(run.base).name}`",
        "texts": f"{num_texts}, from {'; '.join(_describe(source) for source in run.sources)}",
        "trained": method,
        "steps": f"{len(metrics)} of {run.batch_size} texts, {tokens} tokens",
        "learning rate": f"{run.learning_rate:g}, {run.warmup_steps} steps of warm-up, then {run.schedule}",
        "weight decay, clipping, seed": f"{run.weight_decay:g}, {run.max_grad_norm:g}, {run.seed}",
        "loss of the last step": f"{metrics[-1]['loss']:.4f} nats per token",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return _CARD.format(name=run.name, table=table)


_CARD = """---
pipeline_tag: text-generation
library_name: transformers
---

# {name}

A causal language model, finetuned with entail. It states what its training texts state, true or not.

| what | value |
|---|---|
{table}

`metrics.jsonl` has the loss of every step, `checkpoint.json` the run's key. To load the model:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = (kind.from_pretrained(".") for kind in (AutoModelForCausalLM, AutoTokenizer))
```
"""


def _describe(source: TextSource) -> str:
    """The source without its path, which belongs to one machine."""
    parts = [f"`{Path(source.folder).name}`"]
    parts += [f"corpus {source.corpus}"] * bool(source.corpus)
    parts += [f"methods {', '.join(source.methods)}"] * bool(source.methods)
    return " ".join(parts)


def _refuse_infinite(run: FinetuneRun, weights: dict[str, torch.Tensor]) -> None:
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(
            f"{len(broken)} of the trained tensors are not finite, {broken[0]} among them",
            where=f"run {run.name}",
            hint="lower train.learning_rate, or clip gradients (train.max_grad_norm)",
        )


def _gather(engine: Any, *, adapters_only: bool) -> dict[str, torch.Tensor]:
    """The weights to be written; at stage 3 on rank 0 only, gathered from all ranks."""
    if adapters_only:
        return {name: tensor.to("cpu", copy=True) for name, _, tensor in full_tensors(engine, kinds=(WEIGHT,))}
    if engine.zero_optimization_stage() == 3:
        return engine._zero3_consolidated_16bit_state_dict() or {}
    return engine.module.state_dict()


def _complete(work: Path, run: FinetuneRun, num_texts: int, record: Mapping[str, Any]) -> None:
    """Add the other files to the weights; `checkpoint.json` is last, when the rest has reached the disk."""
    for pattern in _COPIED:
        for path in Path(run.base).glob(pattern):
            shutil.copyfile(path, work / path.name)
    if run.lora is None or run.lora.merged:
        with suppress(InputError, OSError, RuntimeError):  # an engine computes it where it is missing
            rows = find_reference(Path(run.base), torch.float32).rows
            write_reference(work / REFERENCE, compute_reference(work, rows=rows))
    fingerprint = weights_fingerprint(work)
    metrics = [json.loads(line) for line in (work / METRICS).read_text().splitlines()]
    (work / CARD).write_text(model_card(run, metrics, num_texts=num_texts, fingerprint=fingerprint))
    for path in (*work.iterdir(), work):
        sync(path)
    content = {"name": run.name, "base": run.base, "num_steps": run.num_steps, "fingerprint": fingerprint}
    write_json(work / RECORD, {**content, **record}, durable=True)
