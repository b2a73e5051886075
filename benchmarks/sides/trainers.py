"""HF's Trainer under DeepSpeed, and TRL's SFTTrainer with packed rows; runs in the peers' environment.

Reads a JSON file of texts and a model folder.
"""

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.clock import Clock
from benchmarks.side import serve


class TrainerSide:
    """A process that trains with one of the two, again and again."""

    def __init__(self) -> None:
        self._clock: Any = None

    def open(self, threads: int = 1) -> dict[str, Any]:
        """Import everything; returns versions."""
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        os.environ.update(alone)
        import deepspeed
        import torch

        deepspeed.ops.__compatible_ops__ = {}  # as in our loop: nothing is compiled
        torch.set_num_threads(threads)
        self._clock = Clock()
        names = ("torch", "transformers", "deepspeed", "accelerate", "trl")
        return {"versions": {name: version(name) for name in names}}

    def train_hf(
        self, texts: str, model: str, out: str, settings: dict[str, Any], config: str | None = None
    ) -> dict[str, Any]:
        """`transformers.Trainer`, with a DeepSpeed configuration if one is given, and the tokenizer's own padding."""
        from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

        self._clock.reset()
        net, tokenizer, rows = _load(model, texts)
        trainer = Trainer(
            model=net,
            args=TrainingArguments(**_arguments(out, settings), deepspeed=config),
            train_dataset=rows.add_column("labels", rows["input_ids"]),
            # Not the collator for language models: where a model pads with its end token, it learns none.
            data_collator=self._clock.counted(DataCollatorForSeq2Seq(tokenizer)),
        )
        trainer.train()
        seen: dict[str, Any] = self._clock.read()
        return seen

    def train_trl(self, texts: str, model: str, out: str, settings: dict[str, Any], row_tokens: int) -> dict[str, Any]:
        """`trl.SFTTrainer` with packing into rows of so many tokens; a step has about as many tokens as elsewhere."""
        from trl import SFTConfig, SFTTrainer

        self._clock.reset()
        net, tokenizer, rows = _load(model, texts)
        per_step = sum(map(len, rows["input_ids"])) / settings["num_steps"]
        arguments = _arguments(out, settings) | {"per_device_train_batch_size": max(1, round(per_step / row_tokens))}
        trainer = SFTTrainer(
            model=net,
            args=SFTConfig(**arguments, packing=True, max_length=row_tokens, gradient_checkpointing=False),
            train_dataset=rows,
            processing_class=tokenizer,
        )
        trainer.data_collator = self._clock.counted(trainer.data_collator)
        trainer.train()
        seen: dict[str, Any] = self._clock.read()
        return seen


def _load(model: str, texts: str) -> tuple[Any, Any, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    encoded = tokenizer(json.loads(Path(texts).read_text()))["input_ids"]
    rows = Dataset.from_dict({"input_ids": [[*ids, tokenizer.eos_token_id] for ids in encoded]})
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), tokenizer, rows


def _arguments(out: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of our run, by the names that both know."""
    import torch

    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": out,
        "per_device_train_batch_size": settings["batch_size"],
        "num_train_epochs": 1,
        "learning_rate": settings["learning_rate"],
        "warmup_steps": settings["warmup_steps"],
        "lr_scheduler_type": "linear",
        "weight_decay": settings["weight_decay"],
        "max_grad_norm": settings["max_grad_norm"],
        "seed": settings["seed"],
        "optim": "adamw_torch_fused",
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


if __name__ == "__main__":
    serve(TrainerSide())
