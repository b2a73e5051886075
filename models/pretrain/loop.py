"""The pretraining loop: a curriculum over length, Muon + AdamW, one seed decides everything.

Reads nothing. Writes a model folder (safetensors, tokenizer, config) and `metrics.jsonl` beside it.
"""

import ctypes
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from data.seeds import stream
from models.pretrain.documents import Weighted, world_document
from models.pretrain.initialise import build_model
from models.pretrain.linked import hierarchy_document, process_document
from models.pretrain.lookups import lookup_document
from models.pretrain.muon import Muon
from models.pretrain.syllogisms import syllogism_document
from models.pretrain.tokenizer import BOS, save_tokenizer, vocabulary

LINKED = (hierarchy_document, process_document, syllogism_document)


@dataclass(frozen=True)
class PretrainPlan:
    """The settings of a pretraining; all durations are in steps."""

    seed: int = 0
    num_steps: int = 12000
    tokens_per_step: int = 2048
    lengths: tuple[int, ...] = (48, 96, 192, 384, 768, 1536)
    lookup_shares: tuple[float, ...] = (0.4, 0.3, 0.3, 0.2, 0.1, 0.03)
    chained_from: int = 2  # the stage from which half of the look-ups chain two pairs; earlier they slow down the rest
    advance_accuracy: float = 0.78
    min_stage_steps: int = 30
    revisit_share: float = 0.65  # shorter lengths hold more worlds a step, which is what deductions are learned from
    learning_rate: float = 2e-3  # at 3e-3 one seed of three made no progress at its first lengths until the rate fell
    warmup_steps: int = 30
    decay_from: float = 0.3
    linked_steps: int = 4000  # the last ones: with linked worlds, fresh optimisers and their own rate
    linked_shares: tuple[float, ...] = (0.15, 0.2, 0.3)  # of LINKED, among the documents that are no look-ups
    linked_rate: float = 1e-3
    window: int = 2048
    width: int = 128
    layers: int = 3
    heads: int = 4

    @property
    def total_steps(self) -> int:
        """All steps, those with linked worlds among them."""
        return self.num_steps + self.linked_steps


@dataclass
class Curriculum:
    """The length of the next documents: it grows when the answers at the current one are mostly right."""

    plan: PretrainPlan
    stage: int = 0
    steps_in_stage: int = 0
    accuracy: float = 0.0

    def observe(self, accuracy: float) -> None:
        """Record the answer accuracy of a step at the current stage's length."""
        self.accuracy = 0.9 * self.accuracy + 0.1 * accuracy
        self.steps_in_stage += 1
        ready = self.steps_in_stage >= self.plan.min_stage_steps and self.accuracy > self.plan.advance_accuracy
        if ready and self.stage + 1 < len(self.plan.lengths):
            self.stage, self.steps_in_stage, self.accuracy = self.stage + 1, 0, 0.0


def learning_rate(plan: PretrainPlan, step: int) -> float:
    """Linear warmup, constant, then linear to zero after the share `decay_from`; again for linked steps."""
    peak, num_steps = plan.learning_rate, plan.num_steps
    if step >= plan.num_steps:
        peak, num_steps, step = plan.linked_rate, plan.linked_steps, step - plan.num_steps
    warm = min(1.0, (step + 1) / plan.warmup_steps)
    left = (num_steps - step) / (num_steps * (1 - plan.decay_from))
    return peak * warm * min(1.0, left)


def pretrain(plan: PretrainPlan, folder: Path, on_step: Callable[[dict[str, float]], None]) -> LlamaForCausalLM:
    """Train from scratch and write the model folder; returns the model in eval mode."""
    torch.set_flush_denormal(True)
    _keep_freed_memory()
    model = build_model(plan.seed, window=plan.window, width=plan.width, layers=plan.layers, heads=plan.heads)
    model.to("cuda" if torch.cuda.is_available() else "cpu").train()
    curriculum = Curriculum(plan)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with (folder / "metrics.jsonl").open("w") as log:

        def record(metrics: dict[str, float]) -> None:
            log.write(json.dumps({**metrics, "seconds": round(time.monotonic() - started, 1)}) + "\n")
            on_step({**metrics, "running": curriculum.accuracy})

        learn(model, plan, curriculum, range(plan.num_steps), record)
        learn(model, plan, curriculum, range(plan.num_steps, plan.total_steps), record)
    model.eval()
    model.save_pretrained(folder)
    save_tokenizer(folder, plan.window)
    return model


def learn(
    model: LlamaForCausalLM,
    plan: PretrainPlan,
    curriculum: Curriculum,
    steps: range,
    record: Callable[[dict[str, float]], None],
) -> None:
    """Take these steps of the plan, with fresh optimisers; a step's documents depend on its number alone."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    inner = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in inner]
    muon = Muon(matrices, lr=plan.learning_rate)
    adamw = torch.optim.AdamW(others, lr=plan.learning_rate / 2, betas=(0.9, 0.95), weight_decay=0.0)
    for step in steps:
        stage = _choose_stage(plan, curriculum, step)
        ids, targets, weights = _batch(plan, step, stage, curriculum.stage, str(model.device))
        loss, accuracy = _weighted_loss(model, ids, targets, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = learning_rate(plan, step)
        muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"] = rate, rate / 2
        muon.step()
        adamw.step()
        model.zero_grad(set_to_none=True)
        if stage == curriculum.stage:
            curriculum.observe(accuracy)
        record({"step": step, "length": plan.lengths[stage], "loss": loss.item(), "accuracy": accuracy})


def _keep_freed_memory() -> None:
    """Keep glibc from returning large buffers to the kernel: page faults took a third of each step."""
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _choose_stage(plan: PretrainPlan, curriculum: Curriculum, step: int) -> int:
    rng = stream(plan.seed, "stage", step)
    if curriculum.stage and rng.random() < plan.revisit_share:
        return rng.randrange(curriculum.stage)
    return curriculum.stage


def _batch(
    plan: PretrainPlan, step: int, stage: int, learned: int, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, targets and loss weights, each [documents, length]; `learned` is the highest stage reached so far."""
    words = vocabulary()
    rng = stream(plan.seed, "documents", step)
    length = plan.lengths[stage]
    documents: list[Weighted] = []
    for _ in range(max(1, plan.tokens_per_step // length)):
        if rng.random() < plan.lookup_shares[stage]:
            chained = learned >= plan.chained_from and rng.random() < 0.5
            document = lookup_document(rng, length, chained=chained)
        elif step >= plan.num_steps:
            shares = (1 - sum(plan.linked_shares), *plan.linked_shares)
            document = rng.choices((world_document, *LINKED), shares)[0](rng, length)
        else:
            document = world_document(rng, length)
        documents.append([(BOS, 0.0), *document])
    ids = torch.tensor([[words[word] for word, _ in document] for document in documents], device=device)
    weights = torch.tensor([[weight for _, weight in document] for document in documents], device=device)
    return ids[:, :-1], ids[:, 1:], weights[:, 1:]


def _weighted_loss(
    model: LlamaForCausalLM, ids: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Weighted mean cross-entropy in nats, and the accuracy on tokens of weight 1 and more, over all words."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden)
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    flat = weights.flatten()
    answers = flat >= 1.0
    right = (logits.detach().flatten(0, 1)[answers].argmax(-1) == targets.flatten()[answers]).float()
    return (losses * flat).sum() / flat.sum(), right.mean().item() if len(right) else 0.0
