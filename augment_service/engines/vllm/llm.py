"""The `vllm.LLM` of this process: started, handed requests in bounded numbers, given other weights, ended.

Reads a folder of HF safetensors with its tokenizer, and adapters' folders.
"""

import gc
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from transformers.utils.logging import disable_progress_bar
from vllm import LLM, ModelRegistry, RequestOutput, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.lora.request import LoRARequest

from augment_service.engines.protocol import EngineSpec
from augment_service.engines.vllm.checkpoints import Anatomy
from data.errors import InputError, ResumableError

ON_CPU = not torch.cuda.is_available()
CPU_BLOCK_SIZE = 32  # tokens; the smallest that the CPU kernels take, so that the cache shares the most
# What bounds the memory, for windows and vocabularies of any size: how much vLLM is handed at once, and the bytes of
# float32 logits (rows x vocabulary) of one step, which decide how many requests run side by side.
MOST_REQUESTS, MOST_TOKENS = 1024, 2**22
LOGITS_BYTES, MOST_ROWS, LEAST_ROWS = (2**27, 256, 8) if ON_CPU else (2**29, 1024, 8)
About = TypeVar("About")


@dataclass(frozen=True, slots=True)
class Request(Generic[About]):
    """Token ids to read, how to go on, and what the one who asks wants to remember."""

    prompt: list[int]
    params: SamplingParams
    about: About


@dataclass
class Work:
    """What has been done: tokens read, those of them found in the prefix cache, positions computed, seconds."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    seconds: float = 0.0

    def count(self, outputs: Iterable[RequestOutput]) -> None:
        """Add finished requests; the last token that a request writes is not read, so it costs nothing."""
        for output in outputs:
            num_read, num_cached = len(output.prompt_token_ids), output.num_cached_tokens or 0
            self.prompt_tokens += num_read
            self.cached_tokens += num_cached
            self.computed_tokens += num_read - num_cached + len(output.outputs[0].token_ids) - 1


@dataclass
class Host:
    """Holds the model. `options` are further arguments of `vllm.LLM`, `folder` is where its weights are from."""

    spec: EngineSpec
    anatomy: Anatomy
    window: int
    dtype: torch.dtype
    v2_runner: bool
    options: dict[str, Any]
    folder: str = ""
    adapter: LoRARequest | None = None
    work: Work = field(default_factory=Work)
    _llm: Any = None
    _num_adapters: int = 0

    def start(self, folder: str) -> None:
        """Start vLLM with the weights in `folder`, instead of a model that may be there. Raises InputError."""
        self.close()
        disable_progress_bar()
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = str(int(self.v2_runner))
        if ON_CPU:
            _register(self.anatomy.architecture)
        gc.freeze()  # vLLM collects garbage five times as it starts; nothing that was imported is any
        try:
            self._llm = LLM(model=folder, tokenizer=self.spec.model, **self._settings())
        except ValueError as error:
            what = str(error).strip()
            raise InputError(
                f"vLLM does not start: {what}", where=folder, hint="change the engine's settings"
            ) from error
        if self.v2_runner != self._llm.llm_engine.vllm_config.use_v2_model_runner:
            raise InputError(
                "vLLM has taken another model runner than the way of scoring needs", where="scoring", hint="auto"
            )
        self.folder = folder

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._llm.get_tokenizer()

    def run(self, requests: Iterable[Request[About]]) -> Iterator[tuple[Request[About], RequestOutput]]:
        """Each request with its output, in order; taken and handed to vLLM by and by."""
        for batch in _batches(requests):
            started = time.perf_counter()
            outputs = self._llm.generate(
                [{"prompt_token_ids": request.prompt} for request in batch],
                [request.params for request in batch],
                use_tqdm=False,
                lora_request=self.adapter,
            )
            self.work.seconds += time.perf_counter() - started
            self.work.count(outputs)
            yield from zip(batch, outputs, strict=True)

    def load(self, folder: str) -> None:
        """Put the weights in `folder` in the place of those that are there. They must fit: nothing is checked here."""
        started = time.perf_counter()
        self.folder = ""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        if ON_CPU:
            self._llm.apply_model(rebuild_tied_head)
        if not self._llm.reset_prefix_cache():
            raise ResumableError("vLLM did not drop its prefix cache, which belongs to other weights")
        self.folder = folder
        self.work.seconds += time.perf_counter() - started

    def read_adapter(self, name: str, folder: str) -> LoRARequest:
        """Read an adapter, to be laid over the weights by `self.adapter = ...`. Raises InputError if vLLM cannot."""
        self._num_adapters += 1  # an id of its own each time: the folder's content may be another one by now
        adapter = LoRARequest(f"{name} {self._num_adapters}", self._num_adapters, folder)
        try:
            self._llm.llm_engine.add_lora(adapter)
        except ValueError as error:
            raise InputError(
                f"vLLM does not serve this adapter: {error}", where=folder, hint="merge the adapter into its model"
            ) from error
        return adapter

    def close(self) -> None:
        """Give back the model's memory, so that another can be started in this process."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            self.folder, self.adapter = "", None
            cleanup_dist_env_and_memory()
            gc.collect()

    def _settings(self) -> dict[str, Any]:
        spec = self.spec
        settings = {
            "dtype": str(self.dtype).removeprefix("torch."),
            "max_model_len": self.window,
            "max_num_seqs": max(LEAST_ROWS, min(LOGITS_BYTES // (4 * self.anatomy.num_ids), MOST_ROWS)),
            "seed": spec.seed,
            "tensor_parallel_size": spec.tensor_parallel,
            "pipeline_parallel_size": spec.pipeline_parallel,
            "enforce_eager": ON_CPU,
            "enable_prefix_caching": True,
            "logprobs_mode": "raw_logprobs",
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
        }
        if ON_CPU:
            settings |= {"block_size": CPU_BLOCK_SIZE, "kv_cache_memory_bytes": int(spec.kv_cache_gib * 2**30)}
        if spec.max_lora_rank:
            settings |= {"enable_lora": True, "max_lora_rank": spec.max_lora_rank}
        return settings | self.options


def rebuild_tied_head(model: torch.nn.Module) -> None:
    """Make the packed copy of a tied output layer anew: a reload does not, and the scores would be silently wrong."""
    if getattr(model.config, "tie_word_embeddings", False) and hasattr(model, "lm_head"):
        model.lm_head.quant_method.process_weights_after_loading(model.lm_head)


def _register(architecture: str) -> None:
    # vLLM would import itself again in a process of its own, only to look at the model's class: 10 s the first time
    known = ModelRegistry.models.get(architecture)
    if known is not None:
        ModelRegistry.register_model(architecture, known.load_model_cls())


def _batches(requests: Iterable[Request[About]]) -> Iterator[list[Request[About]]]:
    """Requests in their order, in lists of at most `MOST_REQUESTS` and not many more than `MOST_TOKENS` tokens."""
    batch: list[Request[About]] = []
    num_tokens = 0
    for request in requests:
        batch.append(request)
        num_tokens += len(request.prompt)
        if len(batch) == MOST_REQUESTS or num_tokens >= MOST_TOKENS:
            yield batch
            batch, num_tokens = [], 0
    if batch:
        yield batch
