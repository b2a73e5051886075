"""The base model of a list of runs, loaded once per process. Reads: a model folder. Writes: nothing."""

from functools import lru_cache

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from train.engine.zero_engine import precision
from train.model.packing_probe import packing_refusal
from train.texts.encode import load_encoder


@lru_cache(maxsize=1)
def load_base(folder: str) -> PreTrainedModel:
    """The model of a folder in the precision of this machine. Raises InputError if the folder has no model."""
    load_encoder(folder)  # refuses a folder without a model
    dtype = torch.bfloat16 if precision() == "bf16" else torch.float32
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")


@lru_cache(maxsize=1)
def base_packing_refusal(folder: str) -> str | None:
    """`packing_refusal` of the base model in a folder."""
    return packing_refusal(load_base(folder))
