"""A model's size from its `config.json`: parameters, matrices, bytes that a token keeps for the backward pass.

Reads that file; imports no torch, so that a plan is cheap.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import InputError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt2")
BF16, FP32 = 2, 4  # bytes
# Of logits in float32 that are computed at once: large enough for their matrix product to be efficient on a GPU.
LOGITS_AT_ONCE = 256 * 2**20
_GPT2_NAMES = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "attention_dropout": "attn_pdrop",
}


@dataclass(frozen=True, slots=True)
class Linear:
    """One matrix of a layer, by the name of its module."""

    name: str
    inputs: int
    outputs: int
    biased: bool = False

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.inputs * self.outputs + self.outputs * self.biased


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a decoder. Producer: `read_shape`. Consumers: `train.plan.sizing`, `train.plan.flops`.

    `inner` is the width of the feed-forward part, `head_size` that of one head, `window` the longest row in tokens;
    `tied`: the output layer is the embedding. `dropout`: attention has dropout, for which CPUs have no fused kernel.
    """

    family: str
    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    window: int
    tied: bool
    dropout: bool
    linears: tuple[Linear, ...]

    @property
    def queries(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Width of all keys of a token, or of all values."""
        return self.key_value_heads * self.head_size

    @property
    def normed_heads(self) -> bool:
        """Whether queries and keys have norms of their own."""
        return self.family in ("qwen3", "gemma3_text")

    @property
    def embedding(self) -> int:
        """Parameters of the embedding of tokens."""
        return self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All parameters; a tied output layer counts once."""
        outside = self.embedding * (1 if self.tied else 2)
        layer = sum(linear.parameters for linear in self.linears)
        if self.family == "gpt2":  # positions are learned, and norms have weights and biases
            return outside + self.window * self.width + self.layers * (layer + 4 * self.width) + 2 * self.width
        norms = 4 if self.family == "gemma3_text" else 2
        layer += norms * self.width + 2 * self.head_size * self.normed_heads
        return outside + self.layers * layer + self.width

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of low-rank adapters of that rank on every linear layer but the output layer."""
        return self.layers * sum(rank * (linear.inputs + linear.outputs) for linear in self.linears)

    def layer_bytes(self, row_tokens: int, size: int, *, packed: bool, on_gpu: bool) -> int:
        """Bytes that one layer keeps of a token for the backward pass, as implemented in transformers.

        `size` is that of a number (2: bfloat16, 4: float32), `row_tokens` the length of the token's text, `packed` or
        padded. Every term is a tensor that some operation's backward reads.
        """
        # Queries and outputs, keys and values, and the log-sum of each head; if packed, the outputs in two orders
        # (fewer on a GPU, where one call may compute all texts).
        attention = (2 + packed) * size * self.queries + 2 * size * self.keys + FP32 * self.heads
        if self.dropout and not on_gpu:  # the weights three times in float32, and the dropout mask
            attention += self.heads * row_tokens * (3 * FP32 + 1)
        if self.family == "gpt2":
            norms = 2 * size * self.width + 2 * 2 * FP32
            dropped = 2 * self.width * self.dropout
            return attention + norms + dropped + 2 * size * self.width + 5 * size * self.inner
        norms = (4 if self.family == "gemma3_text" else 2) * self._norm_bytes(self.width, size)
        if self.normed_heads:
            norms += self._norm_bytes(self.queries + self.keys, size)
        return attention + norms + 2 * size * self.width + 4 * size * self.inner

    def outer_bytes(self, size: int) -> int:
        """Bytes kept of a token after the last layer: its norm, and what the output layer reads."""
        return self._norm_bytes(self.width, size) + size * self.width

    def logit_bytes(self, size: int) -> int:
        """Bytes of a label's logits at their peak: the logits, in float32 if they are not, and their exponentials."""
        return self.vocabulary * (2 * FP32 + size * (size < FP32))

    def _norm_bytes(self, features: int, size: int) -> int:
        if self.family == "gpt2":
            return size * features
        # the input in float32, and the factor of the weights: float32 in Gemma, else in the model's precision
        return features * (FP32 + (FP32 if self.family == "gemma3_text" else size))


def read_shape(folder: Path) -> Shape:
    """The shape of the model in a folder with a `config.json`. Raises InputError for an unknown architecture."""
    path = folder / "config.json"
    if not path.exists():
        raise InputError("no model here (config.json is missing)", where=str(folder), hint="name a model's folder")
    return shape_of(json.loads(path.read_text()), where=str(path))


def shape_of(config: Mapping[str, Any], where: str = "config.json") -> Shape:
    """The shape that a configuration describes. Raises InputError for an unknown architecture."""
    family = config.get("model_type", "")
    if family not in FAMILIES:
        raise InputError(
            f'no memory plan for the architecture "{family}"', where=where, hint=f"supported: {', '.join(FAMILIES)}"
        )
    if family == "gpt2":
        config = {"attn_pdrop": 0.1, "tie_word_embeddings": True, **config}
        config["n_inner"] = config.get("n_inner") or 4 * config["n_embd"]
        config |= {name: config[own] for name, own in _GPT2_NAMES.items()}
    width, heads = config["hidden_size"], config["num_attention_heads"]
    head_size = config.get("head_dim") or width // heads
    key_value_heads = config.get("num_key_value_heads") or heads
    return Shape(
        family=family,
        vocabulary=config["vocab_size"],
        width=width,
        inner=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        key_value_heads=key_value_heads,
        head_size=head_size,
        window=config.get("max_position_embeddings", 1 << 30),
        tied=config.get("tie_word_embeddings", family == "gemma3_text"),
        dropout=config.get("attention_dropout", 0.0) > 0,
        linears=_linears(config, family, width, heads * head_size, key_value_heads * head_size),
    )


def _linears(config: Mapping[str, Any], family: str, width: int, queries: int, keys: int) -> tuple[Linear, ...]:
    """The matrices of a layer."""
    inner = config["intermediate_size"]
    if family == "gpt2":
        sizes = {"c_attn": (width, 3 * width), "attn.c_proj": (width, width)}
        sizes |= {"c_fc": (width, inner), "mlp.c_proj": (inner, width)}
        return tuple(Linear(name, *size, biased=True) for name, size in sizes.items())
    biased, inner_biased = config.get("attention_bias", False), config.get("mlp_bias", False)
    input_biased = biased or family == "qwen2"
    return (
        Linear("q_proj", width, queries, input_biased),
        Linear("k_proj", width, keys, input_biased),
        Linear("v_proj", width, keys, input_biased),
        Linear("o_proj", queries, width, biased),
        Linear("gate_proj", width, inner, inner_biased),
        Linear("up_proj", width, inner, inner_biased),
        Linear("down_proj", inner, width, inner_biased),
    )
