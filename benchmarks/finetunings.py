"""What checks and tests of training share: a plain loop, a batch, several ranks, and a run that needs too much memory.

Writes models, texts and runs into the folders that it is given.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig

from benchmarks.side import ROOT
from data.records import Document
from data.store import write_folder
from train.model.objective import model_inputs, targets_of
from train.run.finetune_run import FinetuneRun, TextSource
from train.run.loop import learning_rate
from train.texts.batches import Batch, batches_of
from train.texts.mix import Budget, make_schedule
from train.texts.packing import Layout
from train.texts.tokens import TokenRows

SECONDS_OF_RANKS = 240
LONG_WORDS, MANY_HEADS = 12_000, 1024


def token_rows(base: str, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of texts, each with the end token, as transformers' tokenizer gives them."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    return [[*tokenizer(text, split_special_tokens=True)["input_ids"], tokenizer.eos_token_id] for text in texts]


def plain_losses(run: FinetuneRun, texts: Sequence[str], dtype: torch.dtype) -> list[float]:
    """The losses (nats per token) of transformers and torch alone on the CPU."""
    model = AutoModelForCausalLM.from_pretrained(run.base, dtype=dtype).train()
    rows = token_rows(run.base, texts)
    labels = sum(len(row) - 1 for row in rows)
    parameters = list(model.parameters())
    trained = [torch.nn.Parameter(parameter.detach().float().clone()) for parameter in parameters]
    optimizer = torch.optim.AdamW(trained, lr=run.learning_rate, weight_decay=run.weight_decay, fused=True)
    found = []
    for step in range(run.num_steps):
        optimizer.param_groups[0]["lr"] = learning_rate(run, step)
        for master in trained:
            master.grad = torch.zeros_like(master)
        total = 0.0
        for row in rows:
            ids = torch.tensor([row])
            logits = model(ids[:, :-1]).logits[0].float()
            loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum") / labels
            loss.backward()
            total += loss.item()
            for master, parameter in zip(trained, parameters, strict=True):
                master.grad += parameter.grad
                parameter.grad = None
        torch.nn.utils.clip_grad_norm_(trained, run.max_grad_norm)
        optimizer.step()
        with torch.no_grad():
            for master, parameter in zip(trained, parameters, strict=True):
                parameter.copy_(master)
        found.append(total)
    return found


def batch_of(rows: Sequence[Sequence[int]], layout: str) -> Batch:
    """All rows of tokens as the batch of one rank."""
    held = TokenRows.of([list(row) for row in rows])
    schedule = make_schedule(held.lengths, [], budget=Budget(steps=1), batch_size=len(held), seed=0)
    return next(batches_of(held, schedule, Layout(layout), rank=0, world_size=1))


def loss_and_gradients(model: Any, batch: Batch) -> tuple[float, torch.Tensor]:
    """The summed loss of a model with an attached loss, and all gradients in one fp32 tensor [numbers] on the host."""
    model.zero_grad()
    loss = model(**model_inputs(batch, model.device), targets=targets_of(batch, model.device))
    loss.backward()
    found = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return loss.item(), torch.cat(found).float().cpu()


def torchrun(
    runs: Sequence[FinetuneRun], folder: Path, *, num_ranks: int, environment: Mapping[str, str] | None = None
) -> str:
    """Train runs on ranks of this machine; returns what they printed. Raises AssertionError with its end if one fails.

    `environment` replaces that of this process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "runs.json"
    path.write_text(json.dumps([dataclasses.asdict(run) for run in runs]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    done = subprocess.run(
        [*command, "-m", "train", str(path)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_OF_RANKS,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def needs_too_much(run: FinetuneRun, word: str, folder: Path) -> FinetuneRun:
    """The run with a small model whose attention needs 300 GB and more: 1,024 x 12,000 x 12,000 weights at once.

    `word` is one that the tokenizer of the run's base knows. All else needs little: a mask of that text, weights.
    """
    tokenizer = AutoTokenizer.from_pretrained(run.base)
    tokenizer.save_pretrained(folder / "base")
    sizes = {"hidden_size": MANY_HEADS, "n_head": MANY_HEADS, "n_layer": 1}
    config = BloomConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    write_folder(folder / "documents", Document, [Document("d", " ".join([word] * LONG_WORDS), "w")])
    return dataclasses.replace(
        run,
        name="much",
        base=str(folder / "base"),
        sources=(TextSource(str(folder / "documents")),),
        out=str(folder / "much"),
        batch_size=1,
        layout="auto",
    )
