"""What an architecture supports in training, measured on a small random model of the same configuration.

Reads and writes nothing. Architectures differ in ways that raise no error: a fused attention ignores a soft cap, packed
texts attend to each other, and the loss is wrong.
"""

import copy
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from data.errors import InputError
from train.model.objective import logits_of
from train.model.packed_attention import known_options
from train.model.packing_probe import packing_refusal
from train.texts.packing import Arithmetic

_FUSED, _STRICT = "sdpa", "strict_sdpa"
_VOCABULARY, _INNER = 128, 64  # of the small model
_TOLERANCE = 1e-5  # of logits, relative to the largest


@dataclass(frozen=True, slots=True)
class Traits:
    """How a model is trained. Producer: `traits_of`. Consumer: `train.run.loop`.

    `attention` is transformers' name of an implementation that computes what the model defines. `packing_refusal` says
    why its texts cannot share rows; None if they can. `chunked`: logits can be computed from hidden states in parts.
    """

    attention: str
    packing_refusal: str | None
    chunked: bool


def traits_of(config: Any) -> Traits:
    """The traits of the architecture that a configuration describes. Raises InputError for one without a causal LM."""
    return _traits_of(json.dumps(config.to_diff_dict() | {"model_type": config.model_type}, sort_keys=True))


@lru_cache(maxsize=8)
def _traits_of(content: str) -> Traits:
    settings = json.loads(content)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = _small_model(config)
    with torch.no_grad():
        attention = _attention_of(model)
        refusal = packing_refusal(model) if attention == _FUSED else f"{type(model).__name__} needs eager attention"
        return Traits(attention, refusal, _is_chunked(model))


def arithmetic_of(config: Any) -> Arithmetic:
    """Operations of a forward pass: two for each weight and token, four for each pair and attention channel.

    An embedding that is only looked up is not counted.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config = config.get_text_config()
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    if not config.tie_word_embeddings:
        num_weights -= model.get_input_embeddings().weight.numel()
    heads = getattr(config, "num_attention_heads", 0)  # none in recurrent models
    channels = getattr(config, "head_dim", 0) or config.hidden_size // max(1, heads)
    return Arithmetic(2.0 * num_weights, 4.0 * channels * heads * config.num_hidden_layers)


def _small_model(config: Any) -> Any:
    """A random model in fp32 with few layers, one of each kind at least, and a small vocabulary."""
    small = copy.deepcopy(config)
    of_text = small.get_text_config()
    layers = of_text.num_hidden_layers
    # Lists with an entry for each layer say of which kind it is.
    lists = [name for name, value in vars(of_text).items() if isinstance(value, list) and len(value) == layers]
    kinds = list(zip(*(map(str, getattr(of_text, name)) for name in lists), strict=True)) or [()] * layers
    kept = min(layers, max(2, *(kinds.index(kind) + 1 for kind in set(kinds))))
    changes = {name: getattr(of_text, name)[:kept] for name in lists} | {"num_hidden_layers": kept}
    changes |= {"vocab_size": _VOCABULARY, "dtype": torch.float32}
    changes |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    if isinstance(getattr(of_text, "intermediate_size", None), int):
        changes["intermediate_size"] = _INNER
    for name, value in changes.items():
        setattr(of_text, name, value)
    generator = torch.get_rng_state()
    torch.manual_seed(0)
    try:
        return AutoModelForCausalLM.from_config(small, dtype=torch.float32).eval()
    except ValueError as error:
        what = f"transformers has no causal language model for this: {str(error).splitlines()[0]}"
        raise InputError(what, where="config.json of the base model", hint="use a causal language model") from error
    finally:
        torch.set_rng_state(generator)


def _attention_of(model: Any) -> str:
    """The model's own choice, or eager attention where that would ignore one of the model's options."""
    chosen = model.config._attn_implementation
    if chosen != _FUSED:
        return "eager"
    try:
        model.set_attn_implementation(_STRICT)
        if model.config._attn_implementation == _STRICT:  # otherwise it has functions of its own
            model(torch.zeros(1, 2, dtype=torch.long), use_cache=False)
        model.set_attn_implementation(_FUSED)
    except ValueError:  # an option that is not known, or no fused attention at all
        model.set_attn_implementation("eager")
        return "eager"
    return _FUSED


def _is_chunked(model: Any) -> bool:
    ids = torch.arange(8).unsqueeze(0) % _VOCABULARY
    try:
        whole = model(ids, use_cache=False).logits.flatten(0, 1)
        hidden = getattr(model, model.base_model_prefix)(input_ids=ids, use_cache=False)[0].flatten(0, 1)
        difference = (logits_of(model, hidden) - whole).abs().max()
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
        return False
    return bool(difference <= _TOLERANCE * whole.abs().max())


def _strict(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> tuple[torch.Tensor, None]:
    options.pop("sliding_window", None)  # part of the masks of padded rows
    return sdpa_attention_forward(module, query, key, value, mask, **known_options(options))


AttentionInterface.register(_STRICT, _strict)
