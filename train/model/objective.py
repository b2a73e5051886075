"""The loss of a batch: cross-entropy on its tokens, or the divergence from a teacher's distributions.

Reads and writes nothing. Losses are sums over labels, in nats.
"""

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from train.model.packed_attention import text_slots
from train.texts.batches import IGNORED, Batch


def model_inputs(batch: Batch, device: torch.device | str) -> dict[str, Any]:
    """The arguments of the model's forward call, without mask and cache: neither is needed or aware of texts."""
    inputs: dict[str, Any] = {"input_ids": torch.from_numpy(batch.input_ids).to(device)}
    if batch.position_ids is not None:
        inputs["position_ids"] = torch.from_numpy(batch.position_ids).to(device)
        inputs["slots"] = text_slots(batch.position_ids, device)
    return {**inputs, "use_cache": False}


def summed_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The loss of a batch's logits [rows, tokens, vocabulary], summed over its labels.

    The loss of a label with a teacher is the divergence from the teacher's distribution, of any other its
    cross-entropy.
    """
    labels = torch.from_numpy(batch.labels).to(logits.device)
    if batch.teacher is None:
        return _cross_entropy(logits, labels)
    mask = torch.from_numpy(batch.teacher.mask).to(logits.device) & (labels != IGNORED)
    top_ids = torch.from_numpy(batch.teacher.ids).to(logits.device)[mask]
    top_log_probs = torch.from_numpy(batch.teacher.log_probs).to(logits.device)[mask]
    divergence = top_k_divergence(logits[mask], top_ids, top_log_probs).sum()
    return _cross_entropy(logits, labels.masked_fill(mask, IGNORED)) + divergence


def top_k_divergence(logits: torch.Tensor, top_ids: torch.Tensor, top_log_probs: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) in nats [n], with all tokens but the teacher's k most likely ones merged into one.

    `logits` are the student's [n, vocabulary], `top_ids` and `top_log_probs` the teacher's [n, k]. It is a lower bound
    of the full divergence, and equal to it if k is the whole vocabulary.
    """
    logits = logits.float()
    log_total = logits.logsumexp(-1, keepdim=True)
    student = logits.gather(-1, top_ids) - log_total
    teacher = top_log_probs.exp()
    divergence = (teacher * (top_log_probs - student)).sum(-1)
    if top_ids.shape[-1] == logits.shape[-1]:
        return divergence
    others = logits.scatter(-1, top_ids, -torch.inf).logsumexp(-1) - log_total.squeeze(-1)
    # Rounding may make this slightly negative.
    rest = (1.0 - teacher.sum(-1)).clamp_min(0.0)
    return divergence + torch.xlogy(rest, rest) - rest * others


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
