"""Attention for packed rows: each text attends to itself only. Reads and writes nothing.

transformers separates packed texts by a mask over all pairs of a row. That is quadratic in the row and needs slower
kernels, so here attention is computed for texts and not for rows. On a GPU in 16 bits that is one call of torch's
variable-length attention. Elsewhere, texts of similar lengths are padded to a small batch that needs no mask, since a
causal model never attends to the padding on the right.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from train.texts.packing import group_similar

NAME = "packed_sdpa"  # of the attention implementation, in transformers
# What transformers' fused attention acts on, and arguments that pass through every attention call.
_OPTIONS = frozenset({"dropout", "scaling", "is_causal"})
_WITHOUT_EFFECT = frozenset({"position_ids", "cache_position", "use_cache", "position_embeddings"})
_FLASH_MULTIPLE = 8  # of channels of a head; SDPA pads others, variable-length attention does not


@dataclass(frozen=True, slots=True)
class TextSlots:
    """The texts of packed rows, and their positions in the padded attention calls. Producer: `text_slots`.

    A call pads `texts` texts to `tokens` slots each, for every (texts, tokens) of `calls`; `slots`, int64 [tokens of
    all rows], is the slot of each token, counted through all calls. `starts`, int32 [texts + 1], is the first token of
    each text, counted through all rows, and the number of all tokens; `longest` is the most tokens of a text.
    """

    calls: tuple[tuple[int, int], ...]
    slots: torch.Tensor
    starts: torch.Tensor
    longest: int


def text_slots(position_ids: np.ndarray, device: torch.device | str) -> TextSlots:
    """The slots of the tokens of rows [rows, tokens], whose positions restart with each text and with each row."""
    starts = np.flatnonzero(position_ids.ravel() == 0)
    lengths = np.diff(starts, append=position_ids.size)
    calls, slots, used = [], np.empty(position_ids.size, np.int64), 0
    for group in group_similar(lengths):
        longest = int(lengths[group[0]])
        for text in group:
            slots[starts[text] : starts[text] + lengths[text]] = used + np.arange(lengths[text])
            used += longest
        calls.append((len(group), longest))
    ends = torch.from_numpy(np.append(starts, position_ids.size).astype(np.int32))
    return TextSlots(tuple(calls), torch.from_numpy(slots).to(device), ends.to(device), int(lengths.max()))


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    slots: TextSlots,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention [rows, tokens, heads, channels] of queries, keys and values [rows, heads, tokens, channels].

    The signature is that of transformers' attention functions; `slots` is passed through the model's forward call.
    Raises ValueError for options that would change the result and are not known.
    """
    options = known_options(options)
    rows, _, width, _ = query.shape
    tokens = [part.transpose(1, 2).flatten(0, 1) for part in (query, key, value)]
    if _has_varlen(module, query, key, value, options):
        output = _in_one_call(tokens, slots, sliding_window, options.get("scaling"))
    else:
        output = _in_groups(module, tokens, slots, sliding_window, options)
    return output.unflatten(0, (rows, width)), None


def known_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of an attention call that fused attention acts on.

    Raises ValueError for options that it would ignore: a soft cap, sinks, and whatever else is not known.
    """
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    unknown = sorted(name for name in given.keys() - _OPTIONS - _WITHOUT_EFFECT if not name.startswith("output_"))
    if unknown:
        raise ValueError(f"its attention has the option {', '.join(unknown)}")
    return {name: options[name] for name in options.keys() & _OPTIONS}


def _has_varlen(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]
) -> bool:
    """Whether torch's variable-length attention can compute this: causal, without dropout, where FlashAttention runs.

    That is in 16 bits on a GPU that has it. Queries, keys and values are [rows, heads, tokens, channels].
    """
    causal = options.get("is_causal")  # as transformers' fused attention decides it
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if not causal or options.get("dropout") or query.shape[-1] % _FLASH_MULTIPLE:
        return False
    return bool(can_use_flash_attention(SDPAParams(query, key, value, None, 0.0, True, True)))


def _in_one_call(
    parts: list[torch.Tensor], slots: TextSlots, sliding_window: int | None, scale: float | None
) -> torch.Tensor:
    """Attention [tokens, heads, channels] by one call for all texts; `parts` are queries, keys and values likewise."""
    query, key, value = parts
    # A query attends to itself and to `left` tokens before it (-1: to all).
    left = sliding_window - 1 if sliding_window else -1
    output: torch.Tensor = varlen_attn(
        query,
        key,
        value,
        slots.starts,
        slots.starts,
        slots.longest,
        slots.longest,
        scale=scale,
        window_size=(left, 0),
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return output


def _in_groups(
    module: torch.nn.Module,
    parts: list[torch.Tensor],
    slots: TextSlots,
    sliding_window: int | None,
    options: dict[str, Any],
) -> torch.Tensor:
    """The same by a padded call for each group of texts of similar lengths."""
    num_slots = sum(texts * tokens for texts, tokens in slots.calls)
    spread = [_Spread.apply(part, slots.slots, num_slots) for part in parts]
    outputs, start = [], 0
    for texts, tokens in slots.calls:
        end = start + texts * tokens
        group = [part[start:end].unflatten(0, (texts, tokens)).transpose(1, 2) for part in spread]
        mask = None
        if sliding_window and tokens > sliding_window:
            mask = _window(tokens, sliding_window, group[0].device)
        outputs.append(sdpa_attention_forward(module, *group, mask, **options)[0].flatten(0, 1))
        start = end
    return torch.cat(outputs).index_select(0, slots.slots)


class _Spread(torch.autograd.Function):
    """Tokens in their slots, zeros in the others. Plain indexing would keep the tokens for the backward pass."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, slots: torch.Tensor, num_slots: int) -> torch.Tensor:
        ctx.save_for_backward(slots)
        # index_add rather than index_copy: its kernel is twice as fast, and no slot gets more than one token.
        return tokens.new_zeros(num_slots, *tokens.shape[1:]).index_add_(0, slots, tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return gradients[0].index_select(0, slots), None, None


def _window(tokens: int, sliding_window: int, device: torch.device) -> torch.Tensor:
    """The keys (columns) that a query (row) attends to in a window of tokens that includes itself."""
    return torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril().triu(1 - sliding_window)


AttentionInterface.register(NAME, packed_attention)
