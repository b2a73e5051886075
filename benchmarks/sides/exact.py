"""The judge of rounding: plain forward passes in float64, one continuation at a time, without any cache.

Reads a JSON file of [context, continuation] pairs.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.side import serve


class ExactSide:
    """A Llama in float64 throughout; in transformers' own the norms fall back to float32."""

    def open(self, model: str) -> None:
        """Load the model."""
        import torch
        from transformers import AutoTokenizer, LlamaForCausalLM

        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._model = LlamaForCausalLM.from_pretrained(model, dtype=torch.float64).eval()
        for module in self._model.modules():
            if type(module).__name__ == "LlamaRMSNorm":
                module.forward = _norm(module)

    def score(self, pairs: str) -> list[float]:
        """The summed log-likelihood (nats) of each continuation."""
        import torch

        sums = []
        with torch.inference_mode():
            for context, continuation in json.loads(Path(pairs).read_text()):
                start = len(self._tokenizer(context)["input_ids"])
                ids = torch.tensor(self._tokenizer(context + continuation)["input_ids"])
                hidden = self._model.model(input_ids=ids[None, :-1], use_cache=False).last_hidden_state[0, start - 1 :]
                values = self._model.lm_head(hidden).log_softmax(-1)
                sums.append(values.gather(1, ids[start:, None]).sum().item())
        return sums


def _norm(module: Any) -> Any:
    def forward(hidden: Any) -> Any:
        return module.weight * hidden * (hidden.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()

    return forward


if __name__ == "__main__":
    serve(ExactSide())
