"""A run's model with the weights of its base, or of a training state. Reads their safetensors; writes nothing.

Below ZeRO stage 3 each rank reads the model onto its device. At stage 3 it reads its own part of every tensor, so that
no process ever has a whole copy.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from augment_service.model_folder import LOAD_ERRORS, load_config
from data.errors import InputError
from data.weights import weight_files
from train.engine.zero_engine import partitioned

# The part [start, stop) of a flattened tensor, by name; None if there is no such tensor.
Read = Callable[[str, int, int], torch.Tensor | None]


def read_config(folder: Path) -> Any:
    """The configuration of a model folder. Raises InputError if it cannot be read."""
    return load_config(folder)


def load_whole(folder: Path, dtype: torch.dtype, attention: str | None = None) -> PreTrainedModel:
    """The model of a folder on this rank's device. Raises InputError if it cannot be read."""
    options: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    if torch.cuda.is_available():
        options["device_map"] = {"": _device()}  # from the file to the device, not through the host
    with _refusals(folder):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, **options)


def load_sharded(
    folder: Path, dtype: torch.dtype, attention: str, zero_config: Mapping[str, object], state: Read | None = None
) -> PreTrainedModel:
    """The model of a folder with each parameter partitioned over the ranks, as ZeRO stage 3 does; all ranks call.

    A tensor that the training state has is read from there. Raises InputError if the files lack one.
    """
    with _refusals(folder):
        config = read_config(folder)
        with no_init_weights(), partitioned(zero_config):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
        model.tie_weights()
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(_device())
        base = read_weights(folder, model.base_model_prefix)
    missing = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shard = parameter.ds_tensor
            start = min(shard.numel() * dist.get_rank(), parameter.ds_numel)
            stop = min(start + shard.numel(), parameter.ds_numel)
            part = state(name, start, stop) if state else None
            part = base(name, start, stop) if part is None else part
            if part is None:
                missing.append(name)
                continue
            shard[: stop - start].copy_(part)
            shard[stop - start :].zero_()
        for name in model.state_dict().keys() - {name for name, _ in model.named_parameters(remove_duplicate=False)}:
            buffer = model.get_buffer(name)
            if (part := base(name, 0, buffer.numel())) is not None:
                buffer.copy_(part.view_as(buffer))
    if missing:
        what = f"{len(missing)} tensors of the model are stored under other names, {missing[0]} among them"
        raise InputError(what, where=str(folder), hint="use a ZeRO stage below 3 for this architecture")
    return model


def read_part(file: Any, name: str, start: int, stop: int) -> torch.Tensor:
    """The numbers [start, stop) of a flattened tensor in an open safetensors file; only their rows are read."""
    stored = file.get_slice(name)
    shape = stored.get_shape()
    if not shape:
        return file.get_tensor(name).reshape(1)[start:stop]
    width = max(1, prod(shape[1:]))
    first = start // width
    rows: torch.Tensor = stored[first : -(-stop // width)]
    return rows.flatten()[start - first * width : stop - first * width]


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def read_weights(folder: Path, prefix: str = "model") -> Read:
    """Reads a model folder's tensors by the causal LM's names; files may lack the decoder's prefix, or add it."""
    files: list[Any] = [safe_open(path, framework="pt") for path in weight_files(folder)]
    index: dict[str, Any] = {name: file for file in files for name in file.keys()}  # noqa: SIM118 (not a mapping)

    def read(name: str, start: int, stop: int) -> torch.Tensor | None:
        names = name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"
        found = next((stored for stored in names if stored in index), None)
        return read_part(index[found], found, start, stop) if found else None

    return read


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """Whatever transformers raises for a folder becomes an InputError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except LOAD_ERRORS as error:
        what = f"the model cannot be loaded: {' '.join(str(error).split())[:240]}"
        raise InputError(what, where=str(folder), hint="copy or download the model again") from error
