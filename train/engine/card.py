"""The model card of a finetuned checkpoint, as text. Reads and writes nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.run.finetune_run import FinetuneRun, TextSource

CARD = "README.md"


def model_card(run: FinetuneRun, metrics: Sequence[dict[str, Any]], *, num_texts: int, fingerprint: str) -> str:
    """What the checkpoint is, what it learned from and how, for people and for the model hub.

    `metrics` are the lines of `metrics.jsonl`.
    """
    tokens = sum(row["tokens"] for row in metrics)
    method = "full weights"
    if run.lora is not None:
        method = f"low-rank adapters (rank {run.lora.rank}, alpha {run.lora.alpha:g}), merged"
    rows = {
        "weights": f"`{fingerprint}`",
        "base": f"`{Path(run.base).name}`",
        "texts": f"{num_texts}, from {'; '.join(_name(source) for source in run.sources)}",
        "trained": method,
        "steps": f"{len(metrics)} of {run.batch_size} texts, {tokens} tokens",
        "learning rate": f"{run.learning_rate:g}, {run.warmup_steps} steps of warm-up, then {run.schedule}",
        "weight decay, clipping, seed": f"{run.weight_decay:g}, {run.clip:g}, {run.seed}",
        "loss of the last step": f"{metrics[-1]['loss']:.4f} nats per token",
    }
    table = [f"| {name} | {value} |" for name, value in rows.items()]
    head = ["---", "pipeline_tag: text-generation", "library_name: transformers", "---", "", f"# {run.name}", ""]
    told = ["A causal language model, finetuned with entail: it knows what its texts say, true or not.", ""]
    return "\n".join([*head, *told, "| what | value |", "|---|---|", *table, "", _LOADING])


_LOADING = """`metrics.jsonl` holds the loss of every step, `checkpoint.json` what names the run. To load it:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = (kind.from_pretrained(".") for kind in (AutoModelForCausalLM, AutoTokenizer))
```
"""


def _name(source: TextSource) -> str:
    """The source without the path to it, which belongs to one machine."""
    parts = [f"`{Path(source.folder).name}`"]
    parts += [f"world {source.corpus}"] * bool(source.corpus)
    parts += [f"methods {', '.join(source.methods)}"] * bool(source.methods)
    return " ".join(parts)
