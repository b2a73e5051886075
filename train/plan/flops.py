"""Model FLOPs utilisation (MFU) of a training. Pure.

The peaks are those of dense bfloat16 matrix products in the vendors' data sheets, without sparsity.
"""

import re
from collections.abc import Mapping
from typing import Any

from data.errors import InputError
from train.plan.shapes import Shape, shape_of

# FLOP/s by a pattern in the device's name; the first match counts.
PEAKS: tuple[tuple[str, float], ...] = (
    (r"\bB200\b", 2250e12),
    (r"\b(H100|H200) NVL\b", 836e12),
    (r"\bH100 PCIe\b", 756e12),
    (r"\b(H100|H200|GH200)\b", 989e12),
    (r"\bA100\b", 312e12),
    (r"\bL40S\b", 362e12),
    (r"\bL4\b", 121e12),
    (r"\bA10G\b", 70e12),
    (r"\bA10\b", 125e12),
)


def peak_flops(device: str) -> float | None:
    """FLOP/s of a device by the driver's name for it; None for a MIG slice and for unknown devices."""
    if "MIG" in device:
        return None
    return next((peak for pattern, peak in PEAKS if re.search(pattern, device.replace("-", " "))), None)


def flops_per_token(shape: Shape, row_tokens: float) -> float:
    """FLOPs of a forward and a backward pass for each token, in rows of `row_tokens`.

    Two for each weight that the token is multiplied with and twice that backward; attention likewise, to half of the
    row on average. Recomputed activations do not count.
    """
    attention = 2 * shape.layers * shape.queries * row_tokens / 2  # products with the keys and with the values
    return 6 * (multiplied_weights(shape) + attention)


def multiplied_weights(shape: Shape) -> int:
    """Weights that every token is multiplied with: all but an embedding that is only looked up."""
    return shape.layers * sum(linear.inputs * linear.outputs for linear in shape.linears) + shape.embedding


def utilisation(
    config: Mapping[str, Any], device: str, num_devices: int, tokens_per_second: float, row_tokens: float = 0
) -> float | None:
    """The MFU, from 0 to 1; None for unknown devices and architectures.

    `config` is the content of `config.json`, `tokens_per_second` that of all devices together.
    """
    peak = peak_flops(device)
    if peak is None:
        return None
    try:
        shape = shape_of(config)
    except InputError:
        return None
    return tokens_per_second * flops_per_token(shape, row_tokens) / (peak * num_devices)
