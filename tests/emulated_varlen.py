"""torch's variable-length attention, whose kernels need a GPU, in plain torch."""

from itertools import pairwise

import torch


def emulated_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What `torch.nn.attention.varlen.varlen_attn` documents, text by text; what its kernels need is asserted."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and torch.equal(cu_seq_q, cu_seq_k)
    assert query.dim() == 3 and cu_seq_q[0] == 0 and cu_seq_q[-1] == len(query) == len(key) == len(value)
    assert max_q == max_k == int(cu_seq_q.diff().max()) and int(cu_seq_q.diff().min()) > 0
    assert enable_gqa or query.shape[1] == key.shape[1]
    left, right = window_size
    outputs = []
    for start, end in pairwise(cu_seq_q.tolist()):
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)[None, :]
        seen = (distance >= -right if right >= 0 else True) & (distance <= left if left >= 0 else distance == distance)
        parts = [part[start:end].transpose(0, 1) for part in (query, key, value)]
        parts[1:] = [part.repeat_interleave(query.shape[1] // key.shape[1], dim=0) for part in parts[1:]]
        scores = (parts[0] @ parts[1].transpose(1, 2)) * (scale or query.shape[-1] ** -0.5)
        outputs.append((scores.masked_fill(~seen, -torch.inf).softmax(-1) @ parts[2]).transpose(0, 1))
    return torch.cat(outputs)
