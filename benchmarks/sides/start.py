"""One engine's start, taken apart: the imports, vLLM itself, the tokenizer, the probe."""

import functools
import importlib
import time
from collections.abc import Callable
from typing import Any

from benchmarks.settings import KV_CACHE_GIB
from benchmarks.side import serve

Seconds = tuple[float, float]  # by the clock, of the processor


class StartSide:
    """A fresh process in which nothing heavy has been imported yet."""

    def imports(self) -> dict[str, Any]:
        """Seconds of each import, by what it is of; each finds what those before it have brought in."""
        return {
            "import torch": _timed(lambda: importlib.import_module("torch")),
            "import transformers": _timed(lambda: importlib.import_module("transformers").AutoModelForCausalLM),
            "import vllm": _timed(lambda: importlib.import_module("vllm").LLM),
            "import our engine": _timed(lambda: importlib.import_module("augment_service.vllm_engine")),
        }

    def engine(self, model: str) -> dict[str, Any]:
        """Seconds of the parts of `start_engine`; "the rest" is our side of the probe and the checks."""
        import transformers

        from augment_service.engine import EngineSpec, start_engine
        from augment_service.vllm_engine import engine, host

        spent: dict[str, list[Seconds]] = {"vllm.LLM()": [], "of which the tokenizer": [], "plain forward pass": []}
        _watch(host, "LLM", spent["vllm.LLM()"])
        _watch(transformers.AutoTokenizer, "from_pretrained", spent["of which the tokenizer"])
        _watch(engine, "plain_log_probabilities", spent["plain forward pass"])
        whole = _timed(lambda: start_engine(EngineSpec(kind="vllm", model=model, kv_cache_gib=KV_CACHE_GIB)))
        parts = {name: [sum(column) for column in zip(*rows, strict=True)] for name, rows in spent.items() if rows}
        named = [parts[name] for name in ("vllm.LLM()", "plain forward pass") if name in parts]
        rest = [total - sum(part[at] for part in named) for at, total in enumerate(whole)]
        return {**parts, "the rest": rest}


def _timed(work: Callable[[], object]) -> Seconds:
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def _watch(owner: Any, name: str, spent: list[Seconds]) -> None:
    """Note the seconds of every call of `owner.NAME` from now on."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def watched(*args: Any, **options: Any) -> Any:
        result: list[Any] = []
        spent.append(_timed(lambda: result.append(original(*args, **options))))
        return result[0]

    setattr(owner, name, watched)


if __name__ == "__main__":
    serve(StartSide())
