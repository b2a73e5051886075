"""The loss of a batch: cross-entropy on its tokens, or the divergence from a teacher's distributions.

Reads and writes nothing. Losses are sums over labels, in nats. Logits are computed for the labels alone and a chunk of
them at a time, so that their memory is bounded whatever the batch and the vocabulary.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPast

from train.model.packed_attention import text_slots
from train.plan.shapes import FP32, LOGITS_AT_ONCE
from train.texts.batches import IGNORED, Batch


class Targets(NamedTuple):
    """What the n labels of a batch are. Producer: `targets_of`. Consumer: the model's forward call.

    `positions` [n] are those of the hidden states that predict them, counted over all rows. `has_teacher` [n] marks
    labels with a teacher, whose `top_ids` and `top_log_probs` are [n, k]; without any teacher these are None.
    """

    positions: torch.Tensor
    labels: torch.Tensor
    has_teacher: torch.Tensor | None = None
    top_ids: torch.Tensor | None = None
    top_log_probs: torch.Tensor | None = None

    def split(self, size: int) -> list["Targets"]:
        """The targets in parts of `size` labels, in order."""
        parts = [[None] * -(-max(1, len(self.labels)) // size) if of is None else of.split(size) for of in self]
        return [Targets(*part) for part in zip(*parts, strict=True)]


def model_inputs(batch: Batch, device: torch.device | str) -> dict[str, Any]:
    """The arguments of the model's forward call, without mask and cache: neither is needed or aware of texts."""
    inputs: dict[str, Any] = {"input_ids": torch.from_numpy(batch.input_ids).to(device)}
    if batch.position_ids is not None:
        inputs["position_ids"] = torch.from_numpy(batch.position_ids).to(device)
        inputs["slots"] = text_slots(batch.position_ids, device)
    return {**inputs, "use_cache": False}


def targets_of(batch: Batch, device: torch.device | str) -> Targets:
    """The labels of a batch that are learned."""
    labels = torch.from_numpy(batch.labels).flatten()
    positions = (labels != IGNORED).nonzero().squeeze(1)
    found = [positions, labels[positions]]
    if batch.teacher is not None:
        arrays = batch.teacher.mask, batch.teacher.ids, batch.teacher.log_probs
        found += [torch.from_numpy(array).flatten(0, 1)[positions] for array in arrays]
    return Targets(*(part.to(device) for part in found))


def attach_loss(model: Any, *, chunked: bool = True) -> None:
    """Make the forward call of a causal LM return the summed loss of its argument `targets`, in place of logits.

    `model` may be wrapped by peft. `chunked` needs a model for which `logits_of` has been verified; without it all
    logits are computed at once.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    causal.forward = partial(_chunked_loss if chunked else _whole_loss, causal)


def logits_of(causal: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The logits [n, vocabulary] of final hidden states [n, width], by the model's own code.

    The model's forward call runs with its decoder replaced by these states, so that whatever it does to logits (soft
    caps, scales) is done.
    """
    name = causal.base_model_prefix
    decoder = causal._modules[name]
    causal._modules[name] = _GivenStates(hidden.unsqueeze(0))
    try:
        ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        logits: torch.Tensor = type(causal).forward(causal, input_ids=ids, use_cache=False).logits
    finally:
        causal._modules[name] = decoder
    return logits.squeeze(0)


def summed_loss(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """The loss of the logits [n, vocabulary] of targets, summed.

    The loss of a label with a teacher is the divergence from the teacher's distribution, of any other its
    cross-entropy. The backward pass may overwrite the logits.
    """
    taught = targets.has_teacher
    if taught is None:
        return _SummedCrossEntropy.apply(logits, targets.labels)
    assert targets.top_ids is not None and targets.top_log_probs is not None
    divergence = top_k_divergence(logits[taught], targets.top_ids[taught], targets.top_log_probs[taught]).sum()
    return _SummedCrossEntropy.apply(logits[~taught], targets.labels[~taught]) + divergence


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


def _chunked_loss(causal: Any, *, targets: Targets, **inputs: Any) -> torch.Tensor:
    """The loss of a forward pass; if there are several chunks, the backward pass computes their logits again."""
    given = {name: value for name, value in inputs.items() if value is not None}  # peft adds empty arguments
    hidden = getattr(causal, causal.base_model_prefix)(**given)[0].flatten(0, 1)[targets.positions]
    size = max(1, LOGITS_AT_ONCE // (FP32 * causal.config.get_text_config().vocab_size))

    def loss(states: torch.Tensor, part: Targets) -> torch.Tensor:
        return summed_loss(logits_of(causal, states), part)

    if len(hidden) <= size:
        return loss(hidden, targets)
    parts = zip(hidden.split(size), targets.split(size), strict=True)
    return torch.stack([checkpoint(loss, *part, use_reentrant=False) for part in parts]).sum()


def _whole_loss(causal: Any, *, targets: Targets, **inputs: Any) -> torch.Tensor:
    given = {name: value for name, value in inputs.items() if value is not None}
    logits = type(causal).forward(causal, **given).logits
    return summed_loss(logits.flatten(0, 1)[targets.positions], targets)


class _GivenStates:
    """Stands in for a decoder, and for a decoder's decoder, and returns hidden states that have been computed."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self._hidden = hidden

    def __call__(self, *words: Any, **options: Any) -> BaseModelOutputWithPast:
        return _Output(last_hidden_state=self._hidden)

    def __getattr__(self, name: str) -> "_GivenStates":
        return self


class _Output(BaseModelOutputWithPast):
    """Decoders return more than this, which a loss does not need."""

    def __getattr__(self, name: str) -> None:
        return None


class _SummedCrossEntropy(torch.autograd.Function):
    """Cross-entropy in fp32, summed; logits [n, vocabulary] in fp32 become their own gradient.

    torch's keeps the log-probabilities, too, and makes a third tensor of that size for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        log_total = logits.float().logsumexp(-1)
        ctx.save_for_backward(logits, labels, log_total)
        return (log_total - logits.gather(1, labels.unsqueeze(1)).squeeze(1).float()).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, labels, log_total = ctx.saved_tensors
        probabilities = logits.float().sub_(log_total.unsqueeze(1)).exp_()
        probabilities[torch.arange(len(labels), device=labels.device), labels] -= 1.0
        return probabilities.mul_(gradients[0]).to(logits.dtype), None
