"""Whether a checkpoint fits the model that an engine holds; checked before the engine is touched.

Reads `config.json` and the headers of safetensors, and an adapter's `adapter_config.json`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augment_service.model_folder import load_config
from data.errors import InputError
from data.weights import ADAPTER_CONFIG, tensor_shapes

# Keys of a configuration that decide neither the shape nor the arithmetic of the model.
_IGNORED = (
    "architectures", "bos_token_id", "dtype", "eos_token_id", "initializer_range", "pad_token_id", "torch_dtype",
    "transformers_version", "use_cache",
)  # fmt: skip
_BUFFERS = (".inv_freq", ".attn.bias", ".attn.masked_bias")  # written by some versions, read by none
_HEAD = "lm_head.weight"
_MAX_SHOWN = 4


@dataclass(frozen=True)
class ModelShape:
    """What two checkpoints must share for one to replace the other; `num_ids` tokens have embeddings."""

    architecture: str
    num_ids: int
    settings: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]

    @property
    def tied(self) -> bool:
        """Whether the output layer is the input embedding, so that it need not be in the file."""
        return bool(self.settings.get("tie_word_embeddings"))


def read_shape(folder: Path) -> ModelShape:
    """The shape of a folder of HF safetensors. Raises InputError if it is not one."""
    shapes = _read_shapes(folder)
    config = load_config(folder)
    architecture = (config.architectures or [config.model_type])[0]
    return ModelShape(architecture, config.get_text_config().vocab_size, _settings(config.to_dict()), shapes)


def check_fit(resident: ModelShape, folder: Path) -> None:
    """Raise InputError unless the weights in `folder` can take the place of the resident ones."""
    found = read_shape(folder)
    if found.architecture != resident.architecture:
        _refuse(folder, f"it is a {found.architecture}, the engine holds a {resident.architecture}")
    if other := _differences(found.settings, resident.settings, resident.settings.keys() | found.settings.keys()):
        _refuse(folder, f"it has another shape: {_shown(other)}")
    needless = {_HEAD} if resident.tied else set()
    if missing := sorted(resident.shapes.keys() - found.shapes.keys() - needless):
        _refuse(folder, f"{len(missing)} of its tensors are missing: {_shown(missing)}")
    if more := sorted(found.shapes.keys() - resident.shapes.keys() - needless):
        _refuse(folder, f"it has {len(more)} tensors that the model does not have: {_shown(more)}")
    if other := _differences(found.shapes, resident.shapes, found.shapes.keys() - needless):
        _refuse(folder, f"{len(other)} of its tensors have another shape: {_shown(other)}")


def _differences(found: Mapping[str, Any], resident: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """What differs between a checkpoint and the resident model, in words."""
    other = (name for name in sorted(names) if found.get(name) != resident.get(name))
    return [f"{name} is {found.get(name)}, not {resident.get(name)}" for name in other]


def check_adapter(resident: ModelShape, folder: Path, most_rank: int) -> None:
    """Raise InputError unless the adapter adapts layers of the resident model, and the engine accepts its rank.

    vLLM itself refuses what it has no kernel for.
    """
    try:
        rank = int(json.loads((folder / ADAPTER_CONFIG).read_text())["r"])
    except (ValueError, KeyError) as error:
        raise InputError(
            "this file describes no LoRA adapter", where=str(folder / ADAPTER_CONFIG), hint="save it again with peft"
        ) from error
    if rank > most_rank:
        what = "adapters" if not most_rank else f"adapters of a rank above {most_rank}"
        raise InputError(
            f"the engine was not started for {what}, and this one has rank {rank}",
            where=str(folder),
            hint=f"start the engine with max_lora_rank={rank} or more, or merge the adapter into its model",
        )
    layers = {name.partition(".lora_")[0] for name in _read_shapes(folder) if ".lora_" in name}
    strange = sorted(layer for layer in layers if f"{layer}.weight" not in {*resident.shapes, _HEAD})
    if strange:
        _refuse(folder, f"it adapts {len(strange)} layers that the model does not have: {_shown(strange)}")


def _read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a folder, buffers left out."""
    return {_plain(name): shape for name, shape in tensor_shapes(folder).items() if not name.endswith(_BUFFERS)}


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _settings(value) if isinstance(value, dict) else value
        for name, value in json.loads(json.dumps(config, default=str)).items()
        if name not in _IGNORED and not name.startswith("_") and "drop" not in name
    }


def _plain(name: str) -> str:
    # the same tensor is saved with and without the name of the model's body, and by peft with two more before it
    return name.removeprefix("base_model.model.").removeprefix("model.").removeprefix("transformer.")


def _refuse(folder: Path, what: str) -> None:
    raise InputError(
        f"this checkpoint does not fit the engine: {what}",
        where=str(folder),
        hint="name a checkpoint that was trained from the engine's own model, --model",
    )


def _shown(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _MAX_SHOWN} more" if len(shown) > _MAX_SHOWN else ""
    return ", ".join(shown[:_MAX_SHOWN]) + more
