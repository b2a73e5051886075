"""How many tokens an engine can hold: the model's own window, or less where its key-value cache is smaller.

Reads a model's `config.json`; imports neither vLLM nor torch, so that a plan can be made before anything starts.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from augment_service.engines.protocol import CPU_CACHE_GIB, EngineSpec
from data.errors import InputError

BLOCK = 32  # tokens; the smallest block that vLLM's CPU kernels accept, so that most of a prefix is shared
_GPU_BLOCK = 16  # tokens; vLLM's own
_GUESSED_TOKENS = 2**18  # of a cache whose size only the engine knows
_BYTES = {"float32": 4, "auto": 4, "bfloat16": 2, "float16": 2}  # of a value of the cache; "auto" is float32 on a CPU
_SHAPE = (
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("num_key_value_heads",),
    ("hidden_size", "n_embd"),
    ("head_dim",),
)
_OTHER_LAYERS = ("attention_chunk_size", "kv_lora_rank", "layers_block_type", "mamba_d_state", "cache_implementation")


class FittedWindow(NamedTuple):
    """A window in tokens (None: no bound is known before the engine starts), and a sentence that explains it."""

    tokens: int | None
    sentence: str


class CacheShape(NamedTuple):
    """The prefix cache of an engine: tokens of a block, and blocks."""

    block: int
    num_blocks: int


def cache_shape(spec: EngineSpec, *, on_cpu: bool = True) -> CacheShape:
    """The prefix cache of an engine of this spec; on a GPU, and at an endpoint, a guess at its size."""
    if not on_cpu or spec.kind == "endpoint":
        return CacheShape(_GPU_BLOCK, _GUESSED_TOKENS // _GPU_BLOCK)
    held = _cache_tokens(spec) if (Path(spec.model) / "config.json").exists() else None
    return CacheShape(BLOCK, max(held or _GUESSED_TOKENS, BLOCK) // BLOCK)


def fit_window(spec: EngineSpec, *, on_cpu: bool = True) -> FittedWindow:
    """The window that an engine of this spec will have.

    Without an explicit one: the model's, or on a CPU what the cache holds if that is less. On a GPU, and for layers
    of another kind than full attention, only vLLM knows what fits: then this is the model's, an upper bound, and the
    engine reports its own. Raises InputError for a window above the model's, and a `config.json` that is no model's.
    """
    if spec.kind == "endpoint":
        return FittedWindow(None, "window: the endpoint's")
    longest = model_window(spec.model)
    if spec.window is not None:
        if longest is not None and spec.window > longest:
            raise InputError(
                f"a window of {spec.window} tokens exceeds the {longest} of the model",
                where="engine setting window",
                hint=f"give at most {longest}, or leave it out",
            )
        return FittedWindow(spec.window, f"window: {spec.window:,} tokens, as set")
    held = _cache_tokens(spec) if on_cpu and spec.kind == "vllm" else None
    if held is None or (longest is not None and longest <= held):
        known = f"{longest:,} tokens, the model's own" if longest else "the model has no limit"
        return FittedWindow(longest, f"window: {known}")
    if held <= 0:
        raise InputError(
            f"a cache of {_cache_gib(spec):g} GiB holds no block of {BLOCK} tokens of this model",
            where="engine setting kv_cache_gib",
            hint="give more",
        )
    limit = f" of the model's {longest:,}" if longest else ""
    cache = f"what a cache of {_cache_gib(spec):g} GiB holds (kv_cache_gib)"
    return FittedWindow(held, f"window: {held:,} tokens{limit}, {cache}")


def model_window(folder: str) -> int | None:
    """The model's own window in tokens; None if its `config.json` names none. Raises InputError without a model."""
    settings = read_config(Path(folder))
    longest = settings.get("max_position_embeddings") or settings.get("n_positions")
    if longest is not None and (not isinstance(longest, int) or longest < 1):
        raise InputError(
            f"max_position_embeddings is {longest!r}", where=f"{folder}/config.json", hint="restore the file"
        )
    return longest


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of a model's language part, from its `config.json`. Raises InputError unless that is one object."""
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_bytes())
    except OSError as error:
        hint = "name a folder that holds config.json, safetensors and a tokenizer, on a disk that all nodes share"
        raise InputError(f"no model here: {error.strerror}", where=str(path), hint=hint) from error
    except ValueError as error:
        raise InputError(f"this is not JSON: {error}", where=str(path), hint="restore the file") from error
    nested = settings.get("text_config") if isinstance(settings, dict) else ""
    if not isinstance(nested, dict | None):
        raise InputError("this describes no model", where=str(path), hint="restore the file")
    return {**settings, **(nested or {})}


def _cache_gib(spec: EngineSpec) -> float:
    return CPU_CACHE_GIB if spec.kv_cache_gib is None else spec.kv_cache_gib


def _cache_tokens(spec: EngineSpec) -> int | None:
    """Tokens that the cache holds, in whole blocks, one of which vLLM keeps back; None where layers are unknown."""
    settings = read_config(Path(spec.model))
    is_sliding = settings.get("sliding_window") and settings.get("use_sliding_window", True)
    is_mixed = {*(settings.get("layer_types") or ())} - {"full_attention"}
    if is_sliding or is_mixed or any(settings.get(name) for name in _OTHER_LAYERS):
        return None
    layers, heads, kv_heads, width, head_size = (
        next((settings[name] for name in names if isinstance(settings.get(name), int) and settings[name] > 0), 0)
        for names in _SHAPE
    )
    if not (layers and heads and (head_size or width)):
        return None
    head_size = head_size or width // heads
    kv_heads = kv_heads or heads
    per_token = layers * kv_heads * head_size * 2 * _BYTES[spec.dtype]
    return (int(_cache_gib(spec) * 2**30) // (per_token * BLOCK) - 1) * BLOCK
