"""Bare vLLM: `LLM.generate` in its own process, with nothing of ours around it.

Reads a JSON file of prompts: `text`, `num_tokens` (that many are written, no more and no fewer), `temperature`.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.side import serve


class BareSide:
    """One warm `vllm.LLM`, with the prompts of one round at hand."""

    def __init__(self) -> None:
        self._model: Any = None
        self._texts: list[str] = []
        self._params: list[Any] = []

    def open(self, model: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Load the model; `settings` are arguments of `vllm.LLM`."""
        from vllm import LLM
        from vllm import __version__ as vllm_version

        self._model = LLM(model=model, use_tqdm_on_load=False, **settings)
        return {"versions": {"vllm": vllm_version, "torch": version("torch")}}

    def prepare(self, prompts: str) -> None:
        """Read the prompts of a round."""
        from vllm import SamplingParams

        rows = json.loads(Path(prompts).read_text())
        self._texts = [row["text"] for row in rows]
        self._params = [
            SamplingParams(
                max_tokens=row["num_tokens"],
                min_tokens=row["num_tokens"],
                ignore_eos=True,
                temperature=row["temperature"],
            )
            for row in rows
        ]

    def round(self) -> dict[str, Any]:
        """Write all texts of the round."""
        outputs = self._model.generate(self._texts, self._params, use_tqdm=False)
        return {
            "texts": [output.outputs[0].text for output in outputs],
            "num_tokens": sum(len(output.outputs[0].token_ids) for output in outputs),
        }


if __name__ == "__main__":
    serve(BareSide())
