"""Low-rank adapters by peft: added to a model before training, stored as peft does, merged into the base on demand.

Reads a base model's and an adapter's safetensors; writes an adapter's folder, and the tensors of a merged model.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from data.errors import InputError
from data.weights import ADAPTER_CONFIG, INDEX, weight_files
from train.run.finetune_run import Lora

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_WRAPPED = "base_model.model."  # what peft puts before the names of a model's parameters
_HINT = "name linear layers among {}, or leave targets out"


def wrap(model: PreTrainedModel, lora: Lora, *, where: str) -> Any:
    """The model with fresh adapters; all other weights are frozen.

    Raises InputError if no layer matches, or if one shares its weights with another.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    tied = model.config.get_text_config().tie_word_embeddings
    both = (model.get_input_embeddings(), model.get_output_embeddings()) if tied else ()
    shared = {name.rpartition(".")[2] for name, part in model.named_modules() if part in both}
    parts = {name: part for name, part in model.named_modules() if hasattr(part, "weight") and part not in both}
    layers = ", ".join(sorted({name.rpartition(".")[2] for name, part in parts.items() if _is_matrix(part)}))
    try:
        with warnings.catch_warnings():  # what it warns of is refused below, or right as it is
            warnings.simplefilter("ignore", UserWarning)
            # One dtype for all weights: the engine flattens them together.
            wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        what = f"train.lora.targets {list(lora.targets)}: {error}"
        raise InputError(what, where=where, hint=_HINT.format(layers)) from error
    adapted = (name.rpartition(".")[2] for name, part in wrapped.named_modules() if hasattr(part, "base_layer"))
    for name in set(adapted) & shared:
        what = f"train.lora.targets names {name}, whose weights are both the embedding and the output layer"
        raise InputError(what, where=where, hint=_HINT.format(layers))
    return wrapped


def save_adapter(wrapped: Any, weights: Mapping[str, torch.Tensor], base: str, folder: Path) -> None:
    """Write the trained parameters of a wrapped model, by their names there, as peft does."""
    tensors = {name.replace(".default.", "."): tensor.contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = wrapped.peft_config["default"]
    config.inference_mode, config.base_model_name_or_path = True, base
    config.save_pretrained(folder)


def merge(base: Path, adapter: Path, out: Path, dtype: torch.dtype | None = None) -> None:
    """Write the weights of `base` with the adapter added, file by file, into the folder `out`.

    Sums are in fp32; `dtype` is that of the result (None: the base's). Raises InputError if the adapter belongs to
    another model.
    """
    config = json.loads((adapter / ADAPTER_CONFIG).read_text())
    scale = config["lora_alpha"] / config["r"]
    pairs = load_file(adapter / ADAPTER_WEIGHTS)
    deltas = {name.removesuffix(".lora_A.weight"): name for name in pairs if name.endswith(".lora_A.weight")}
    files = weight_files(base)
    used = set()
    for path in files:
        merged = {}
        for name, tensor in _tensors(path):
            layer = name.removesuffix(".weight")
            found = next((of for of in deltas if _same(of, layer)), None)
            kind = dtype or tensor.dtype
            if found is not None:
                delta = pairs[f"{found}.lora_B.weight"].float() @ pairs[deltas[found]].float()
                delta = delta.T if config.get("fan_in_fan_out") else delta
                if delta.shape != tensor.shape:
                    raise _foreign(adapter, base, f"{layer} has another shape")
                tensor = tensor.float() + scale * delta
                used.add(found)
            merged[name] = tensor.to(kind) if tensor.is_floating_point() else tensor
        save_file(merged, out / path.name, metadata={"format": "pt"})
    if left := sorted(deltas.keys() - used):
        raise _foreign(adapter, base, f"the base has no {left[0].removeprefix(_WRAPPED)}")
    if (base / INDEX).exists():
        (out / INDEX).write_bytes((base / INDEX).read_bytes())
    settings = json.loads((base / "config.json").read_text())
    if dtype is not None:
        settings["dtype"] = str(dtype).removeprefix("torch.")
        settings.pop("torch_dtype", None)
    (out / "config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _same(of: str, layer: str) -> bool:
    """Whether an adapter's name is that of a layer; files of weights may lack the decoder's prefix."""
    name = of.removeprefix(_WRAPPED)
    return name == layer or name.partition(".")[2] == layer


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            yield name, file.get_tensor(name)


def _is_matrix(part: Any) -> bool:
    return len(getattr(part.weight, "ds_shape", part.weight.shape)) == 2


def _foreign(adapter: Path, base: Path, problem: str) -> InputError:
    hint = "name the model that the adapter was trained on"
    return InputError(f"the adapter is not one of {base}: {problem}", where=str(adapter), hint=hint)
