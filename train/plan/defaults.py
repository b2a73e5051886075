"""Default settings of a finetuning by the model's size. Reads: a model's `config.json`, or its weights' headers."""

from dataclasses import dataclass
from math import log, prod
from pathlib import Path

from data.errors import InputError
from data.weights import tensor_shapes
from train.plan.shapes import read_shape

SMALL = 10_000_000  # parameters; below is the scale of the embedded model
MIN_STEPS = 100
# Two points of the rate for larger models, between and beyond which it is a power of the size.
_POINTS = ((135e6, 1e-4), (8e9, 1e-5))


@dataclass(frozen=True, slots=True)
class Defaults:
    """Settings that the user did not give. Producer: `default_training`. Consumer: `pipeline`.

    Either `steps` or `epochs` is above 0. `min_steps` is the minimum number of steps if the budget is in epochs.
    """

    learning_rate: float
    batch_size: int
    steps: int
    epochs: float
    warmup_steps: int
    min_steps: int = 0


def default_training(parameters: int) -> Defaults:
    """The defaults for full finetuning of a model with that many parameters."""
    if parameters < SMALL:
        rate, batch, steps, epochs = 3e-3, 32, 240, 0.0
    else:
        (small, high), (large, low) = _POINTS
        # The larger the model, the smaller the rate that keeps what it has learned; one significant digit.
        exponent = log(low / high) / log(large / small)
        rate = float(f"{high * (parameters / small) ** exponent:.0e}")
        batch, steps, epochs = 16, 0, 3.0
    # Three epochs of a few documents are a handful of steps.
    return Defaults(rate, batch, steps, epochs, warmup_steps=10, min_steps=MIN_STEPS if epochs else 0)


def parameters_of(folder: Path) -> int:
    """The number of parameters of a model: by its configuration, or by its weights if the architecture is unknown.

    Raises InputError where neither is known.
    """
    try:
        return read_shape(folder).parameters
    except (InputError, KeyError):
        if not any(folder.glob("*.safetensors")):
            raise
        return sum(map(prod, tensor_shapes(folder).values()))
