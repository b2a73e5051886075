"""A trained model as an HF folder that transformers and vLLM load.

Reads: the engine's weights; of the base model, its tokenizer files, chat template, generation settings and prompt book.
Writes: `model*.safetensors`, `config.json`, copies of those files, `reference.json` (what engines must reproduce), a
model card and, last, `checkpoint.json`, in a work folder that a rename turns into the checkpoint.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from augment_service.reference import FILE as REFERENCE
from augment_service.reference import compute_reference, find_reference, write_reference
from cluster.memory import host_bytes
from data.errors import InputError, ResumableError
from data.records import CheckpointRef
from data.rendering import BOOK_NAME
from data.store import sync, write_json
from data.weights import ADAPTER_CONFIG, INDEX, is_adapter, tensor_shapes, weights_fingerprint
from train.engine.checkpoint import METRICS, RECORD, read_ref, work_folder
from train.engine.load import read_weights
from train.engine.zero_engine import WEIGHT, dtype_of, full_tensors, gathered_weights, write_together
from train.model.lora import ADAPTER_WEIGHTS, merge, save_adapter
from train.run.finetune_run import FinetuneRun, TextSource

CARD = "README.md"
FILE_BYTES = 4 * 2**30
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


def export(
    engine: Any, run: FinetuneRun, out: Path, num_steps: int, num_texts: int, record: Mapping[str, Any]
) -> CheckpointRef:
    """Write the engine's weights after `num_steps` as a checkpoint, whole or not at all. All ranks call, rank 0 writes.

    The work folder of `out` has the log already. Adapters are written alone, or merged into the base. `record` is what
    else `checkpoint.json` says of the run. Raises ResumableError on every rank if rank 0 cannot write, and InputError
    if the weights are not finite.
    """
    work = work_folder(out)
    write_weights = _gather(engine, run, work)

    def write() -> None:
        if dist.get_rank() == 0:
            write_weights()
            _complete(work, run, num_steps, num_texts, record)
            os.replace(work, out)
            sync(out.parent)

    write_together(write)
    return read_ref(out)


def _gather(engine: Any, run: FinetuneRun, work: Path) -> Callable[[], None]:
    """Take the weights from all ranks; returns what writes them on rank 0, or raises what went wrong meanwhile."""
    if run.lora is not None:
        adapters = {name: tensor.to("cpu", copy=True) for name, _, tensor in full_tensors(engine, kinds=(WEIGHT,))}
        return partial(_write_adapters, engine, run, adapters, work)
    if engine.zero_optimization_stage() < 3:
        return partial(_write_whole, engine, run, work)
    writer = WeightsWriter(work)
    errors: list[Exception] = []
    for name, tensor in gathered_weights(engine):
        if tensor is None or errors:
            continue  # every rank goes through all tensors, whatever happens on one
        try:
            _refuse_infinite(run, {name: tensor})
            writer.add(name, tensor)
        except (OSError, SafetensorError, InputError) as error:
            errors.append(error)

    def finish() -> None:
        if errors:
            raise errors[0]
        writer.close()
        engine.module.config.save_pretrained(work)

    return finish


def _write_whole(engine: Any, run: FinetuneRun, work: Path) -> None:
    weights = engine.module.state_dict()
    _refuse_infinite(run, weights)
    # transformers refuses to write some generation settings that it reads; the base's file is copied instead.
    engine.module.generation_config = GenerationConfig()
    engine.module.save_pretrained(work, state_dict=weights)
    (work / _GENERATION).unlink(missing_ok=True)


def _write_adapters(engine: Any, run: FinetuneRun, adapters: dict[str, torch.Tensor], work: Path) -> None:
    assert run.lora is not None
    _refuse_infinite(run, adapters)
    save_adapter(engine.module, adapters, run.base, work)
    if run.lora.merged:
        merge(Path(run.base), work, work, dtype_of(run))
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            (work / name).unlink()


def check_twin(run: FinetuneRun) -> None:
    """Refuse an instruct twin that has not the tensors of the base, before anything is trained."""
    if not run.instruct_twin:
        return
    base, twin = (tensor_shapes(Path(folder)) for folder in (run.base, run.instruct_twin))
    other = sorted(name for name in base.keys() | twin.keys() if base.get(name) != twin.get(name))
    if other:
        what = f"{len(other)} tensors of the instruct twin are not those of the base, {other[0]} among them"
        where = f"train.instruct_twin of run {run.name}"
        raise InputError(what, where=where, hint="name the instruct model that was made from the base")


def add_difference(folder: Path, more: Path, less: Path) -> None:
    """Add the difference between two models, `more` minus `less`, to the weights of a folder: in fp32, file by file."""
    readers = [read_weights(path) for path in (more, less)]
    for path in sorted(folder.glob("*.safetensors")):
        changed = {}
        for name, tensor in load_file(path).items():
            upper, lower = (read(name, 0, tensor.numel()) for read in readers)
            if upper is None or lower is None:
                raise InputError(f"{more} or {less} has no {name}", where=str(folder), hint="copy the models again")
            difference = (upper.float() - lower.float()).view_as(tensor)
            changed[name] = (tensor.float() + difference).to(tensor.dtype)
        save_file(changed, path, metadata={"format": "pt"})


class WeightsWriter:
    """Writes tensors that come one after another into files of a few GiB, with an index if there are several."""

    def __init__(self, folder: Path, most_bytes: int = FILE_BYTES) -> None:
        self._folder, self._most = folder, most_bytes
        self._tensors: dict[str, torch.Tensor] = {}
        self._files: list[list[str]] = []
        self._bytes = self._total = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take a tensor; a full file is written first."""
        size = tensor.numel() * tensor.element_size()
        if self._tensors and self._bytes + size > self._most:
            self._write()
        self._tensors[name] = tensor.contiguous()
        self._bytes, self._total = self._bytes + size, self._total + size

    def close(self) -> None:
        """Write the last file, and give all of them their names."""
        self._write()
        count = len(self._files)
        if count == 1:
            (self._folder / self._name(0)).rename(self._folder / "model.safetensors")
            return
        index: dict[str, Any] = {"metadata": {"total_size": self._total}, "weight_map": {}}
        for number, names in enumerate(self._files):
            name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            (self._folder / self._name(number)).rename(self._folder / name)
            index["weight_map"] |= dict.fromkeys(names, name)
        write_json(self._folder / INDEX, index)

    def _write(self) -> None:
        save_file(self._tensors, self._folder / self._name(len(self._files)), metadata={"format": "pt"})
        self._files.append(list(self._tensors))
        self._tensors, self._bytes = {}, 0

    def _name(self, number: int) -> str:
        return f"part-{number:05d}.safetensors"


def merge_checkpoint(adapter: Path, base: Path | None, out: Path) -> CheckpointRef:
    """Write a checkpoint of adapters, merged into its base in the base's precision, as a model folder.

    Raises InputError for other folders and where `out` has files, ResumableError where nothing can be written.
    """
    ref = read_ref(adapter)
    if not is_adapter(adapter):
        raise InputError("this checkpoint has whole weights", where=str(adapter), hint="use the folder as it is")
    base = base or Path(ref.base)
    if not (base / "config.json").exists():
        raise InputError("the base model is not there", where=str(base), hint="name its folder: --model DIR")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("there are files already", where=str(out), hint="name a new folder")
    work = work_folder(out)
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        merge(base, adapter, work)
        _copy(base, work)
        for path in (*work.iterdir(), work):
            sync(path)
        content = json.loads((adapter / RECORD).read_text())
        record = {"merged": content["fingerprint"], "fingerprint": weights_fingerprint(work), "base": str(base)}
        write_json(work / RECORD, {**content, **record}, durable=True)
        os.replace(work, out)
    except (OSError, SafetensorError) as error:
        raise ResumableError(f"the merged model could not be written: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
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


def _copy(base: Path, work: Path) -> None:
    for pattern in _COPIED:
        for path in base.glob(pattern):
            shutil.copyfile(path, work / path.name)


def _complete(work: Path, run: FinetuneRun, num_steps: int, num_texts: int, record: Mapping[str, Any]) -> None:
    """Add the other files to the weights; `checkpoint.json` is last, when the rest has reached the disk."""
    _copy(Path(run.base), work)
    whole = run.lora is None or run.lora.merged
    if whole and run.instruct_twin:
        add_difference(work, Path(run.instruct_twin), Path(run.base))
        _copy(Path(run.instruct_twin), work)
    size = sum(path.stat().st_size for path in work.glob("*.safetensors"))
    if whole and 2 * size < host_bytes() / 2:  # it takes the model in fp32
        with suppress(InputError, OSError, RuntimeError):  # an engine computes it where it is missing
            rows = find_reference(Path(run.base), torch.float32).rows
            write_reference(work / REFERENCE, compute_reference(work, rows=rows))
    fingerprint = weights_fingerprint(work)
    metrics = [json.loads(line) for line in (work / METRICS).read_text().splitlines()]
    (work / CARD).write_text(model_card(run, metrics, num_texts=num_texts, fingerprint=fingerprint))
    for path in (*work.iterdir(), work):
        sync(path)
    content = {"name": run.name, "base": run.base, "num_steps": num_steps, "fingerprint": fingerprint}
    write_json(work / RECORD, {**content, **record}, durable=True)
