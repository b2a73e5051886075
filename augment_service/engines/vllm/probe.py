"""The parity probe: log-probabilities of a fixed token sequence by a plain transformers forward pass.

Reads a folder of HF safetensors, and an adapter's folder if there is one.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from augment_service.tokens import TokenPair, TokenRow
from data.errors import InputError

PARITY_LIMIT = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}  # nats per token
NUM_PREFIX, NUM_SCORED = 48, 6  # tokens; the prefix is longer than a block, to probe the cache as well


def probe_pairs(num_ids: int, window: int) -> list[TokenPair]:
    """Two continuations of one prefix, of token ids below `num_ids`: the second finds its prefix in the cache."""
    draw = random.Random(0)
    prefix = TokenRow((), tuple(draw.randrange(num_ids) for _ in range(min(NUM_PREFIX, window - NUM_SCORED))))
    return [TokenPair(prefix, tuple(draw.choices(range(num_ids), k=NUM_SCORED))) for _ in range(2)]


def plain_log_probabilities(
    folder: Path, pairs: Sequence[TokenPair], dtype: torch.dtype, adapter: Path | None = None
) -> torch.Tensor:
    """Log-probabilities of the continuations, shape (pairs, continuation tokens), by transformers on the CPU.

    Raises InputError for weights that transformers cannot load.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
    except (OSError, ValueError, RuntimeError) as error:
        where = folder if adapter is None else adapter
        what = str(error).strip().partition("\n")[0]
        raise InputError(
            f"transformers cannot load this: {what}", where=str(where), hint="save it again with transformers"
        ) from error
    ids = torch.tensor([[*pair.prefix, *pair.continuation] for pair in pairs])
    length = len(pairs[0].continuation)
    with torch.inference_mode():
        logits = model.eval()(ids, use_cache=False).logits[:, -length - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, ids[:, -length:, None])[..., 0]
