"""The vLLM engine: the only package that imports vllm. One process holds one engine, and that is the caller's own."""

import gc
import os

# Read by vLLM at import. No thread binding, or all engines of a node share one core.
os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_NO_USAGE_STATS="1",
)
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

# Imports make a million objects and no garbage: to look for some takes a third of their time.
_collects = gc.isenabled()
gc.disable()

import torch

if not torch.cuda.is_available():
    # an eager engine still compiles one line of its sampler: 8 to 27 s of a start-up that takes 4 s without
    os.environ["TORCHDYNAMO_DISABLE"] = "1"

from augment_service.engines.vllm.engine import VllmEngine
from augment_service.engines.vllm.sampling import gumbel_noise

if _collects:
    gc.enable()

__all__ = ["VllmEngine", "gumbel_noise"]
