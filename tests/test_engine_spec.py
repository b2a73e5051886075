"""Engine settings and windows, without an engine: what is refused, what fits, what vLLM is given."""

import json
from pathlib import Path
from typing import Any

import pytest

from augment_service.engines.protocol import CPU_CACHE_GIB, EngineSpec
from augment_service.engines.window import fit_window
from data.errors import InputError

LLAMA = {
    "max_position_embeddings": 131072,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 2048,
}


def spec_of(folder: Path, config: object, **settings: Any) -> EngineSpec:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return EngineSpec(kind="vllm", model=str(folder), **settings)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("vllm", {"url": "http://127.0.0.1/v1"}),
        ("vllm", {"connections": 3}),
        ("fake", {"tensor_parallel": 2}),
        ("fake", {"dtype": "bfloat16"}),
        ("endpoint", {"url": "http://127.0.0.1/v1", "window": 5}),
        ("endpoint", {"url": "http://127.0.0.1/v1", "kv_cache_gib": 0.25}),
        ("endpoint", {}),
        ("vllm", {"window": 0}),
        ("vllm", {"window": -1}),
        ("vllm", {"kv_cache_gib": 0.0}),
        ("vllm", {"gpu_memory_share": 1.5}),
        ("vllm", {"dtype": "fp7"}),
        ("vllm", {"max_lora_rank": -1}),
    ],
    ids=str,
)
def test_a_setting_that_is_wrong_or_ignored_is_refused_by_name(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError) as raised:
        EngineSpec(kind=kind, model="m", **settings)
    assert raised.value.where.removeprefix("engine setting ") in {*settings, "url"}


def test_the_window_is_what_the_cache_holds(tmp_path: Path) -> None:
    """Case 27: 64 KiB a token, so half a GiB holds 8,192 tokens, one block of 32 of which vLLM keeps back."""
    assert CPU_CACHE_GIB == 0.5
    tokens, sentence = fit_window(spec_of(tmp_path, LLAMA))
    assert tokens == 8192 - 32
    assert "8,160" in sentence and "131,072" in sentence
    assert fit_window(spec_of(tmp_path, LLAMA, dtype="bfloat16")).tokens == 16384 - 32
    assert fit_window(spec_of(tmp_path, LLAMA, kv_cache_gib=64.0)).tokens == 131072
    assert fit_window(spec_of(tmp_path, LLAMA, window=500)).tokens == 500
    assert fit_window(spec_of(tmp_path, LLAMA), on_cpu=False).tokens == 131072
    with pytest.raises(InputError) as raised:
        fit_window(spec_of(tmp_path, LLAMA, kv_cache_gib=1e-6))
    assert raised.value.where == "engine setting kv_cache_gib"


@pytest.mark.parametrize(
    "more",
    [{"sliding_window": 4096}, {"layer_types": ["full_attention", "sliding_attention"]}, {"hidden_size": None}],
    ids=str,
)
def test_unknown_layers_leave_the_window_to_vllm(tmp_path: Path, more: dict[str, Any]) -> None:
    assert fit_window(spec_of(tmp_path, LLAMA | more)).tokens == 131072


def test_a_sliding_window_that_is_switched_off_is_none(tmp_path: Path) -> None:
    qwen = LLAMA | {"sliding_window": 4096, "use_sliding_window": False, "layer_types": ["full_attention"] * 16}
    assert fit_window(spec_of(tmp_path, qwen)).tokens == 8160
    assert fit_window(spec_of(tmp_path, {"text_config": LLAMA, "model_type": "vision"})).tokens == 8160


def test_a_window_above_the_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="131072") as raised:
        fit_window(spec_of(tmp_path, LLAMA, window=200_000))
    assert raised.value.where == "engine setting window"


@pytest.mark.parametrize(
    "config", ["{", "[]", '"x"', '{"text_config": 3}', '{"max_position_embeddings": "long"}', "\x00"]
)
def test_a_configuration_that_is_none_is_an_input_error(tmp_path: Path, config: str) -> None:
    with pytest.raises(InputError) as raised:
        fit_window(spec_of(tmp_path, config))
    assert raised.value.where == str(tmp_path / "config.json")
    with pytest.raises(InputError):
        fit_window(EngineSpec(kind="vllm", model=str(tmp_path / "nowhere")))


def test_no_nested_configuration_is_none(tmp_path: Path) -> None:
    assert fit_window(spec_of(tmp_path, LLAMA | {"text_config": None})).tokens == 8160


def test_parallel_engines_use_processes_and_not_ray(tmp_path: Path) -> None:
    """Because vLLM's Ray executor refuses the bundle of several GPUs that an engine is placed in."""
    import torch

    from augment_service.engines.vllm.llm import engine_settings

    def settings_of(**changes: Any) -> dict[str, Any]:
        return engine_settings(spec_of(tmp_path, LLAMA, **changes), 1000, torch.float32)

    assert settings_of(tensor_parallel=2)["distributed_executor_backend"] == "mp"
    assert settings_of(pipeline_parallel=2)["distributed_executor_backend"] == "mp"
    alone = settings_of(window=77, kv_cache_gib=2.0)
    assert "distributed_executor_backend" not in alone
    assert (alone["max_model_len"], alone["kv_cache_memory_bytes"]) == (77, 2**31)
    assert settings_of()["max_model_len"] == -1
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="GPU"):
            settings_of(gpu_memory_share=0.5)
