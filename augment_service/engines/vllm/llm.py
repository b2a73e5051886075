"""The `vllm.LLM` of this process: start it, run requests, replace its weights, close it.

Reads a folder of HF safetensors with its tokenizer, and adapters' folders.
"""

import gc
import glob
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers.utils.logging import disable_progress_bar
from vllm import LLM, ModelRegistry, RequestOutput
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.lora.request import LoRARequest

from augment_service.engines.protocol import CPU_CACHE_GIB, GPU_MEMORY_SHARE, EngineSpec
from augment_service.engines.vllm.checkpoints import ModelShape
from augment_service.engines.vllm.stream import EngineThread, Request, RequestStream
from augment_service.engines.window import BLOCK
from data.errors import InputError, ResumableError
from data.weights import weight_files

ON_CPU = not torch.cuda.is_available()
# The bytes of float32 logits (rows x vocabulary) of one step decide how many requests run concurrently.
LOGITS_BYTES, MAX_ROWS, MIN_ROWS = (2**27, 256, 8) if ON_CPU else (2**29, 1024, 8)
COUNTS = ("prompt_tokens", "cached_tokens", "computed_tokens", "seconds")
Tag = TypeVar("Tag")


@dataclass
class EngineHost:
    """Holds the model. `options` are further arguments of `vllm.LLM`, `folder` holds the resident weights.

    `run` may be called by several threads at once; all other methods while none of them runs. `counts`: tokens read, of
    them from the prefix cache, positions computed, seconds of starts and loads.
    """

    spec: EngineSpec
    shape: ModelShape
    dtype: torch.dtype
    v2_runner: bool
    options: dict[str, Any]
    folder: str = ""
    adapter: LoRARequest | None = None
    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    _llm: Any = None
    _thread: Any = None  # an EngineThread and a RequestStream while a model is resident
    _stream: Any = None
    _num_adapters: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, folder: str) -> None:
        """Start vLLM with the weights in `folder`, after closing a model that is resident. Raises InputError."""
        self.close()
        self._thread = EngineThread()
        try:
            self._thread.do(partial(self._start, folder))
        except BaseException:
            self.close()
            raise
        self._stream = RequestStream(self._thread, self._llm.llm_engine.vllm_config.scheduler_config.max_num_seqs)
        self.folder = folder

    def _start(self, folder: str) -> None:
        disable_progress_bar()
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = str(int(self.v2_runner))
        known = ModelRegistry.models.get(self.shape.architecture) if ON_CPU else None
        if known is not None:
            # else vLLM imports itself in a subprocess to inspect the model's class, which takes 10 s the first time
            ModelRegistry.register_model(self.shape.architecture, known.load_model_cls())
        workers = self.spec.tensor_parallel * self.spec.pipeline_parallel
        if ON_CPU and workers > 1:  # processes of their own, which divide the threads of this one
            os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // workers))
        gc.freeze()  # vLLM collects garbage five times as it starts; imported modules are no garbage
        try:
            settings = engine_settings(self.spec, self.shape.num_ids, self.dtype) | self.options
            self._llm = LLM(model=plain_path(folder), tokenizer=plain_path(self.spec.model), **settings)
        except ValueError as error:
            raise InputError(
                f"vLLM does not start: {str(error).strip()}",
                where=folder,
                hint="change the engine's settings: window, kv_cache_gib, gpu_memory_share, dtype, tensor_parallel",
            ) from error
        if self.v2_runner != self._llm.llm_engine.vllm_config.use_v2_model_runner:
            raise InputError(
                "vLLM chose another model runner than this scoring strategy needs",
                where="engine setting scoring",
                hint="set it to auto",
            )
        self._thread.set_engine(self._llm.llm_engine)

    @property
    def seconds(self) -> float:
        """Time in vLLM."""
        return self.counts["seconds"] + (self._thread.seconds if self._thread else 0.0)

    @property
    def window(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return int(self._llm.llm_engine.vllm_config.model_config.max_model_len)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._llm.get_tokenizer()

    def run(
        self, requests: Iterable[Request[Tag]], more: deque[Request[Tag]] | None = None
    ) -> Generator[tuple[Request[Tag], RequestOutput]]:
        """As `RequestStream.run`; close it to drop the requests that are left."""
        for request, output in self._stream.run(requests, more, self.adapter):
            if output.finished:
                self._count(output)
            yield request, output

    def _count(self, output: RequestOutput) -> None:
        num_read, num_cached = len(output.prompt_token_ids), output.num_cached_tokens or 0
        with self._lock:
            self.counts["prompt_tokens"] += num_read
            self.counts["cached_tokens"] += num_cached
            # the last token that a request writes is never read back, so it is not computed
            self.counts["computed_tokens"] += num_read - num_cached + len(output.outputs[0].token_ids) - 1

    def load(self, folder: str) -> None:
        """Replace the resident weights by those in `folder`, which must fit; nothing is checked here."""
        if self._llm is None:  # an earlier start failed
            self.start(folder)
            return
        started = time.perf_counter()
        self.folder = ""
        self._thread.do(partial(self._load, folder))
        self.folder = folder
        self.counts["seconds"] += time.perf_counter() - started

    def _load(self, folder: str) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": plain_path(folder)})
        if ON_CPU:
            self._llm.apply_model(rebuild_tied_head)
        if not self._llm.reset_prefix_cache():
            raise ResumableError("vLLM did not drop its prefix cache, which belongs to the previous weights")

    def read_adapter(self, name: str, folder: str) -> LoRARequest:
        """Load an adapter; `self.adapter = ...` applies it. Raises InputError if vLLM does not support it."""
        if self._llm is None:  # an earlier start failed
            self.start(self.spec.model)
        self._num_adapters += 1  # a new id each time: the folder's content may have changed
        adapter = LoRARequest(f"{name} {self._num_adapters}", self._num_adapters, plain_path(folder))
        try:
            self._thread.do(partial(self._llm.llm_engine.add_lora, adapter))
        except ValueError as error:
            raise InputError(
                f"vLLM does not support this adapter: {error}", where=folder, hint="merge the adapter into its model"
            ) from error
        return adapter

    def close(self) -> None:
        """Release the model's memory, so that another can be started in this process."""
        if self._thread is not None:
            self._thread.do(self._close)
            self._thread.end()
            self._thread = self._stream = None

    def _close(self) -> None:
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._thread.set_engine(None)
            self._llm = None
            self.folder, self.adapter = "", None
            cleanup_dist_env_and_memory()
            gc.collect()


def engine_settings(spec: EngineSpec, num_ids: int, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for a model of `num_ids` tokens. Raises InputError for settings that need a GPU."""
    settings: dict[str, Any] = {
        "dtype": str(dtype).removeprefix("torch."),
        "max_model_len": spec.window or -1,  # -1: what fits the cache
        "max_num_seqs": max(MIN_ROWS, min(LOGITS_BYTES // (4 * num_ids), MAX_ROWS)),
        "seed": spec.seed,
        "tensor_parallel_size": spec.tensor_parallel,
        "pipeline_parallel_size": spec.pipeline_parallel,
        "enforce_eager": ON_CPU,
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if spec.tensor_parallel * spec.pipeline_parallel > 1:
        # Inside an actor vLLM would choose its Ray executor, which refuses a bundle of several GPUs
        settings["distributed_executor_backend"] = "mp"
    if not ON_CPU:
        settings["gpu_memory_utilization"] = spec.gpu_memory_share
    elif spec.gpu_memory_share != GPU_MEMORY_SHARE:
        raise InputError(
            "this machine has no GPU", where="engine setting gpu_memory_share", hint="set kv_cache_gib instead"
        )
    cache_gib = CPU_CACHE_GIB if ON_CPU and spec.kv_cache_gib is None else spec.kv_cache_gib
    if cache_gib is not None:
        settings["kv_cache_memory_bytes"] = int(cache_gib * 2**30)
    if ON_CPU:
        settings["block_size"] = BLOCK
    if spec.max_lora_rank:
        settings |= {"enable_lora": True, "max_lora_rank": spec.max_lora_rank}
    return settings


def plain_path(folder: str) -> str:
    """The folder as vLLM must see it: the folder itself, or one of links to its files.

    vLLM takes every path for a pattern, and prefers a `consolidated.safetensors` to the weights that all others read.
    """
    read = {*weight_files(Path(folder))}
    names = {path.name for path in Path(folder).iterdir() if path.suffix != ".safetensors" or path in read}
    is_whole = len(names) == len(list(Path(folder).iterdir()))
    return folder if is_whole and glob.escape(folder) == folder else _linked(folder, frozenset(names))


@cache  # one folder of links for each set of files
def _linked(folder: str, names: frozenset[str]) -> str:
    links = Path(tempfile.mkdtemp(prefix="entail-"))
    for name in names:
        (links / name).symlink_to(Path(folder).resolve() / name)
    return str(links)


def rebuild_tied_head(model: torch.nn.Module) -> None:
    """Rebuild the packed copy of a tied output layer: a reload does not, and scores would be silently wrong."""
    if getattr(model.config, "tie_word_embeddings", False) and hasattr(model, "lm_head"):
        model.lm_head.quant_method.process_weights_after_loading(model.lm_head)
