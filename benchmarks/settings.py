"""The settings that every side of a comparison gets alike: threads, memory, and how vLLM is started.

They are those of our own engine, so that no peer pays for a default that happens not to suit the machine.
"""

from typing import Any

KV_CACHE_GIB = 1.0
CPU_BLOCK_SIZE = 32  # tokens


def shared_environment(*, on_gpu: bool, threads: int = 1) -> dict[str, str]:
    """Environment variables of every process that is measured; `threads` is the number that each computes with."""
    from cluster.session import MALLOC  # imports Ray: not for `--help`

    settings = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        **MALLOC,
    }
    return settings if on_gpu else {**settings, "TORCHDYNAMO_DISABLE": "1"}


def vllm_settings(*, on_gpu: bool) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for a peer, without the model."""
    shared: dict[str, Any] = {"enable_prefix_caching": True, "seed": 0}
    if on_gpu:
        return {**shared, "dtype": "bfloat16"}
    return {
        **shared,
        "dtype": "float32",
        "enforce_eager": True,
        "block_size": CPU_BLOCK_SIZE,
        "kv_cache_memory_bytes": int(KV_CACHE_GIB * 2**30),
    }
