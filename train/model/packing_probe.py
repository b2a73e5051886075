"""Whether a model keeps packed texts separate, measured on the model itself. Reads and writes nothing.

Architectures differ in this, and a leak raises no error: attention reaches into other texts, and the loss is wrong.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from train.model.objective import model_inputs
from train.model.packed_attention import NAME
from train.texts.batches import IGNORED, Batch, batches_of
from train.texts.mix import Budget, make_schedule
from train.texts.packing import Layout
from train.texts.tokens import TokenRows

_TEXT_TOKENS = (13, 9, 11)  # inputs of the probe's texts
_WINDOW = 4  # tokens
_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-4}  # nats a token
_TOLERANCE_16_BIT = 0.1


def packing_refusal(model: Any) -> str | None:
    """Why the model cannot be trained on packed rows; None if it can.

    Three short texts must have the same losses packed as padded: to 1e-4 nats for every token in fp32, to 0.1 in 16
    bits.
    """
    name = type(model).__name__
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return f"{name} takes no position ids"
    try:
        difference = packing_difference(model)
    except (TypeError, ValueError) as error:
        return f"{name}: {error}"
    if difference <= _TOLERANCES.get(model.dtype, _TOLERANCE_16_BIT):
        return None
    return f"in {name} packed texts attend to each other: losses differ by {difference:.2g} nats"


def packing_difference(model: Any, text_tokens: Sequence[int] = _TEXT_TOKENS) -> float:
    """The largest difference of a token's loss (nats) between texts in one packed row and in padded rows.

    The texts are random, of `text_tokens` inputs each, all different. They are short, so the model's attention windows
    are shortened further: if the packed attention ignored them, the losses would differ.
    """
    rng = np.random.default_rng(0)
    vocab_size = model.config.get_text_config().vocab_size
    rows = TokenRows.of([rng.integers(vocab_size, size=size + 1).tolist() for size in text_tokens])
    schedule = make_schedule(rows.lengths, [], budget=Budget(steps=1), batch_size=len(rows), seed=0)
    was_training, own_attention = model.training, model.config._attn_implementation
    model.eval()
    losses = []
    try:
        with _short_windows(model):
            for name, attention in (("packed", NAME), ("padded", own_attention)):
                model.set_attn_implementation(attention)
                if model.config._attn_implementation != attention:
                    raise ValueError("its attention cannot be replaced")
                (batch,) = batches_of(rows, schedule, Layout(name), rank=0, world_size=1)
                losses.append(_label_losses(model, batch))
    finally:
        model.set_attn_implementation(own_attention)
        model.train(was_training)
    # Both layouts put the longest text first, so the labels are in the same order.
    return float((losses[0] - losses[1]).abs().max())


@contextmanager
def _short_windows(model: Any) -> Iterator[None]:
    """Shorten the attention windows of a model that has any, in its configuration and in its layers."""
    changed = [
        (holder, name, getattr(holder, name))
        for holder in (model.config.get_text_config(), *model.modules())
        for name in ("sliding_window", "attention_chunk_size")
        if isinstance(getattr(holder, name, None), int)
    ]
    for holder, name, _ in changed:
        setattr(holder, name, _WINDOW)
    try:
        yield
    finally:
        for holder, name, value in changed:
            setattr(holder, name, value)


def _label_losses(model: Any, batch: Batch) -> torch.Tensor:
    labels = torch.from_numpy(batch.labels).to(model.device)
    with torch.no_grad():
        logits = model(**model_inputs(batch, model.device)).logits
    learned = labels != IGNORED
    return cross_entropy(logits[learned].float(), labels[learned], reduction="none")
