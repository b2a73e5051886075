"""The embedded model before its first step: a small Llama whose heads start close to a look-up.

Every weight stays trainable. Keys start near queries and output projections near transposed values, so that a head
starts by matching equal tokens and copying what it finds; three heads of the first layer start by attending to the
previous noun, the previous token and the one before, which give a look-up its position.
"""

import math
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from data.sets.lexicon import NOUNS
from models.pretrain.tokenizer import BOS, EOS, vocabulary

MARK = 0.5  # size of two constant embedding coordinates: 0 marks every token, 1 marks nouns


@dataclass(frozen=True)
class PositionalHead:
    """A head that attends `offset` tokens back; `column` 0: to any token, 1: to nouns; `band` in radians a token."""

    column: int
    offset: float
    sharpness: float
    band: tuple[float, float]


FIRST_LAYER_HEADS = (
    PositionalHead(column=1, offset=3.5, sharpness=2.6, band=(0.09, 0.6)),
    PositionalHead(column=0, offset=1.0, sharpness=4.5, band=(0.17, 1.01)),
    PositionalHead(column=0, offset=2.0, sharpness=4.5, band=(0.17, 1.01)),
)


def build_model(seed: int, *, window: int, width: int = 128, layers: int = 3, heads: int = 4) -> LlamaForCausalLM:
    """A fresh model in fp32 whose window is `window` tokens."""
    torch.manual_seed(seed)
    words = vocabulary()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=words[BOS],
        eos_token_id=words[EOS],
        pad_token_id=words[EOS],
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        _initialise(model, [words[noun] for noun in NOUNS])
    return model


def _initialise(model: LlamaForCausalLM, noun_ids: list[int]) -> None:
    width = model.config.hidden_size
    embedding = model.model.embed_tokens.weight
    embedding.normal_(0, width**-0.5)
    embedding[:, 0] = MARK
    embedding[:, 1] = 0.0
    embedding[noun_ids, 1] = MARK
    model.model.norm.weight.fill_(0.5)
    for layer in model.model.layers:
        for matrix in (layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight):
            matrix.normal_(0, 0.5 / math.sqrt(matrix.shape[1]))
        layer.mlp.down_proj.weight.normal_(0, 0.2 / math.sqrt(layer.mlp.down_proj.weight.shape[1]))
        attention = layer.self_attn
        attention.q_proj.weight.normal_(0, width**-0.5)
        noise = torch.randn_like(attention.k_proj.weight) * width**-0.5
        attention.k_proj.weight.copy_(0.8 * attention.q_proj.weight + 0.2 * noise)
        torch.nn.init.orthogonal_(attention.v_proj.weight, gain=0.7)
        attention.o_proj.weight.copy_(0.7 * attention.v_proj.weight.T)
    for index, head in enumerate(FIRST_LAYER_HEADS):
        _set_positional_head(model, index, head)


def _set_positional_head(model: LlamaForCausalLM, index: int, head: PositionalHead) -> None:
    """Set query and key of a first-layer head so that its score peaks `offset` tokens back under rotary embeddings."""
    config = model.config
    width, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    half = size // 2
    rows = slice(index * size, (index + 1) * size)
    attention = model.model.layers[0].self_attn
    query, key = attention.q_proj.weight[rows], attention.k_proj.weight[rows]
    query.normal_(0, 0.1 * width**-0.5)
    key.normal_(0, 0.1 * width**-0.5)
    after_norm = MARK * math.sqrt(width) / math.sqrt(1 + 2 * MARK**2)
    scale = math.sqrt(head.sharpness * math.sqrt(size)) / after_norm
    frequencies = [config.rope_parameters["rope_theta"] ** (-i / half) for i in range(half)]
    for i, frequency in enumerate(frequencies):
        if head.band[0] <= frequency <= head.band[1]:
            query[i, 0] = scale
            key[i, head.column] = scale * math.cos(head.offset * frequency)
            key[i + half, head.column] = scale * math.sin(head.offset * frequency)
