"""One engine's start, taken apart: the imports, vLLM itself, the tokenizer, the comparison with the reference."""

import functools
import importlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.settings import KV_CACHE_GIB
from benchmarks.side import serve

Seconds = tuple[float, float]  # by the clock, of the processor
UP, MODEL_CODE, LLM = "vllm up", "of which code of the model", "of which vllm.LLM()"
TOKENIZER, FORWARD, REST = "of which the tokenizer", "finding the reference", "parity with it, and checks"


class StartSide:
    """A fresh process in which nothing heavy has been imported yet."""

    def imports(self) -> dict[str, Any]:
        """Seconds of each import, by what it is of; each finds what those before it have brought in."""
        return {
            "import torch": _timed(lambda: importlib.import_module("torch")),
            "import transformers": _timed(lambda: importlib.import_module("transformers").AutoModelForCausalLM),
            "import vllm": _timed(lambda: importlib.import_module("vllm").LLM),
            "import our engine": _timed(lambda: importlib.import_module("augment_service.engines.vllm")),
        }

    def engine(self, model: str) -> dict[str, Any]:
        """Seconds of the parts of `start_engine`."""
        import transformers

        from augment_service.engines.protocol import EngineSpec
        from augment_service.engines.start import start_engine
        from augment_service.engines.vllm import engine
        from augment_service.engines.vllm import llm as host

        spent: dict[str, list[Seconds]] = {name: [] for name in (UP, LLM, TOKENIZER, FORWARD)}
        _watch(host.EngineHost, "start", spent[UP])
        _watch(host, "LLM", spent[LLM])
        _watch(transformers.AutoTokenizer, "from_pretrained", spent[TOKENIZER])
        _watch(engine, "find_reference", spent[FORWARD])
        whole = _timed(lambda: start_engine(EngineSpec(kind="vllm", model=model, kv_cache_gib=KV_CACHE_GIB)))
        parts = {name: _sum(rows) for name, rows in spent.items()}
        return {
            UP: parts[UP],
            MODEL_CODE: _difference(parts[UP], parts[LLM]),
            LLM: parts[LLM],
            TOKENIZER: parts[TOKENIZER],
            FORWARD: parts[FORWARD],
            REST: _difference(whole, _sum([parts[UP], parts[FORWARD]])),
        }


def _sum(rows: Sequence[Seconds]) -> Seconds:
    return sum(clock for clock, _ in rows), sum(processor for _, processor in rows)


def _difference(whole: Seconds, part: Seconds) -> Seconds:
    return whole[0] - part[0], whole[1] - part[1]


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
