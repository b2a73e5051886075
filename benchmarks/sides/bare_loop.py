"""A training loop without any of it: transformers' model, torch's optimizer, a `for`.

Either as one writes it by hand, on shuffled batches that are padded to their longest text; or on the very batches that
our loop trains on, so that what our loop adds to the arithmetic can be seen.
"""

import json
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.clock import Clock
from benchmarks.side import serve


class BareSide:
    """A process with torch and transformers in it."""

    def __init__(self) -> None:
        self._clock: Any = None

    def open(self, threads: int = 1) -> dict[str, Any]:
        """Import everything; returns versions."""
        import torch

        torch.set_num_threads(threads)
        self._clock = Clock()
        return {"versions": {name: version(name) for name in ("torch", "transformers")}}

    def train(
        self, texts: str, documents: str, model: str, settings: dict[str, Any], same_batches: bool
    ) -> dict[str, Any]:
        """One training; returns what the clock saw, and the losses of all steps (nats per token).

        `documents` are the same texts as `texts`, in a folder as our loop reads it.
        """
        import torch
        from torch.nn.utils import clip_grad_norm_
        from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

        self._clock.reset()
        torch.manual_seed(settings["seed"])
        rows = json.loads(Path(texts).read_text())
        tokenizer = AutoTokenizer.from_pretrained(model)
        net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train()
        # Who writes a loop by hand takes the optimizer as it comes; with the same batches all else is the same, too.
        optimizer = torch.optim.AdamW(
            net.parameters(),
            lr=settings["learning_rate"],
            weight_decay=settings["weight_decay"],
            fused=same_batches or None,
        )
        schedule = get_linear_schedule_with_warmup(optimizer, settings["warmup_steps"], settings["num_steps"])
        if same_batches:
            # ours warms up from the first step on, not from a rate of 0
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _our_rate(step, settings))
        batches = our_batches(documents, model, net, settings) if same_batches else None
        losses = []
        for batch, num_labels in batches or self._padded_batches(rows, tokenizer, settings):
            loss = _loss(net, batch, num_labels)
            loss.backward()
            clip_grad_norm_(net.parameters(), settings["max_grad_norm"])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        seen: dict[str, Any] = self._clock.read()
        return seen | {"losses": torch.stack(losses).tolist()}

    def _padded_batches(
        self, texts: list[str], tokenizer: Any, settings: dict[str, Any]
    ) -> Iterator[tuple[dict[str, Any], int]]:
        """Shuffled batches by torch's own loader, padded by the tokenizer to the longest text of each."""
        from torch.utils.data import DataLoader

        def collate(rows: list[str]) -> Any:
            ended = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(rows)["input_ids"]]
            batch = dict(tokenizer.pad({"input_ids": ended}, return_tensors="pt"))
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            return batch

        options = {"batch_size": settings["batch_size"], "shuffle": True}
        for batch in DataLoader(texts, **options, collate_fn=self._clock.counted(collate)):
            yield batch, 0


def our_batches(documents: str, model: str, net: Any, settings: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """The batches of our own loop on one rank, and how many labels they have; the net gets their layout's attention."""
    import torch

    from train.model.objective import model_inputs
    from train.model.packed_attention import NAME
    from train.model.traits import arithmetic_of, traits_of
    from train.run.finetune_run import FinetuneRun, TextSource
    from train.run.training_plan import open_plan, write_texts

    with tempfile.TemporaryDirectory() as folder:
        run = FinetuneRun("same", model, (TextSource(documents),), str(Path(folder) / "out"), **settings)
        write_texts(run)
        refusal = traits_of(net.config).packing_refusal
        plan = open_plan(run, refusal, arithmetic_of(net.config), world_size=1)
        if plan.layout.name == "packed":
            net.set_attn_implementation(NAME)
        for batch in plan.batches(0, 1):
            yield {"targets": torch.from_numpy(batch.labels), **model_inputs(batch, "cpu")}, batch.global_labels


def _loss(net: Any, batch: dict[str, Any], num_labels: int) -> Any:
    """The model's own loss where there are labels, else the sum over the targets by their number."""
    from torch.nn.functional import cross_entropy

    if "labels" in batch:
        return net(**batch, use_cache=False).loss
    targets = batch.pop("targets")
    logits = net(**batch).logits
    return cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum") / num_labels


def _our_rate(step: int, settings: dict[str, Any]) -> float:
    warmup, num_steps = settings["warmup_steps"], settings["num_steps"]
    return (step + 1) / warmup if step < warmup else 1 - (step - warmup) / max(1, num_steps - warmup)


if __name__ == "__main__":
    serve(BareSide())
