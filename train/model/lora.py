"""Low-rank adapters by peft: added to a model before training, merged into the base after it. Touches no files."""

import copy

import torch
from transformers import PreTrainedModel

from data.errors import InputError
from train.run.finetune_run import Lora


def wrap(model: PreTrainedModel, lora: Lora, *, where: str) -> PreTrainedModel:
    """The model with fresh adapters; all other weights are frozen. Raises InputError if no layer matches."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        # One dtype for all weights: the engine flattens them together.
        return get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        layers = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if hasattr(part, "weight")})
        raise InputError(
            f"train.lora.targets {list(lora.targets)}: {error}",
            where=where,
            hint=f"name linear layers among {', '.join(layers)}, or leave targets out",
        ) from error


def merge(base: PreTrainedModel, lora: Lora, adapters: dict[str, torch.Tensor]) -> PreTrainedModel:
    """A model like `base` with the trained adapters merged in, computed in fp32, in the base's dtype.

    `adapters` are the trained parameters by their names in the wrapped model. `base` is not changed.
    """
    wrapped = wrap(copy.deepcopy(base).float(), lora, where="lora")
    parameters = dict(wrapped.named_parameters())
    with torch.no_grad():
        for name, value in adapters.items():
            parameters[name].copy_(value)
    return wrapped.merge_and_unload().to(base.dtype)
