"""What trains one model in `benchmarks.training`: its texts, its sides, and what each side does in a round.

Writes texts, checkpoints and the logs of the sides below the benchmark's folder.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks import harness
from benchmarks.corpora import Load, make_model, make_passages, make_texts, words_of, write_texts
from benchmarks.harness import OURS, Bench
from benchmarks.real_models import SMOLLM2, real_model
from benchmarks.side import Side
from train.engine.zero_config import zero_config

BARE, SAME, HF, TRL = "bare_loop", "same_batches", "hf_trainer", "trl"
# Nats, ours and a bare loop on the same batches: in the first steps, and in all of them, for rounding grows with each.
EARLY_STEPS, EARLY_GOAL, LOSS_GOAL = 20, 1e-4, 1e-3
TINY = {"words": 700, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
WARMUP = 2


@dataclass(frozen=True)
class Spec:
    """What a scene trains, and how.

    `loads` are one epoch each of a round, `smoke` those of a smoke run. `make_model` gets the folder that it may write.
    `texts` are those of a load and a name, in words that the model of a folder knows. `threads` 0 means all cores. With
    `deepspeed` HF's Trainer has the configuration of ours, else none. `row_tokens` are tried for TRL after a warm-up;
    the fastest is measured. `stage` is ours of ZeRO: `auto` chooses 0 for one rank without a GPU. With `releases` a
    side returns its memory after each round: all sides at once would need more than the machine has.
    """

    loads: tuple[Load, ...]
    smoke: tuple[Load, ...]
    make_model: Callable[[Path], Path]
    texts: Callable[[Load, str, Path], list[str]] = lambda load, name, model: make_texts(load, name, words_of(model))
    threads: int = 1
    learning_rate: float = 1e-3
    deepspeed: bool = True
    stage: int = 1
    row_tokens: tuple[int, ...] = (64, 256, 1024)
    releases: bool = False

    @property
    def num_threads(self) -> int:
        """The number of threads of each side."""
        return self.threads or len(os.sched_getaffinity(0))


SPECS = {
    "tiny": Spec(
        (Load("sentences", 32, 120), Load("documents", 8, 30)),
        (Load("sentences", 8, 4), Load("documents", 4, 3)),
        lambda folder: make_model(folder, **TINY),
    ),
    "25M": Spec(
        (Load("sentences", 32, 20), Load("documents", 8, 10)),
        (Load("sentences", 4, 2), Load("documents", 2, 2)),
        make_model,
    ),
    "smollm2": Spec(
        (Load("sentences", 8, 4), Load("documents", 8, 2)),
        (Load("sentences", 1, 2),),
        lambda folder: real_model(SMOLLM2),
        lambda load, name, model: make_passages(load, name),
        threads=0,
        learning_rate=5e-5,
        deepspeed=False,
        stage=0,
        row_tokens=(1024,),
        releases=True,
    ),
}


@dataclass
class Scene:
    """The sides of one model, and what each round found."""

    bench: Bench
    name: str
    model: Path
    spec: Spec
    sides: dict[str, Side] = field(default_factory=dict)
    row_tokens: int = 0  # of TRL, once they are chosen
    seen: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # by round and side

    def texts(self, load: Load, number: int) -> Path:
        """The folder of a round's texts, made when it is first asked for."""
        folder = self.bench.folder / "texts" / f"{self.name}-{load.kind}-{number}"
        if not (folder / "texts.json").exists():
            write_texts(self.spec.texts(load, folder.name, self.model), folder)
        return folder

    def settings(self, load: Load) -> dict[str, Any]:
        """The optimizer's settings, the same for all sides."""
        sizes = {"num_steps": load.num_steps, "batch_size": load.batch_size, "seed": 0}
        rate = self.spec.learning_rate
        return sizes | {"learning_rate": rate, "warmup_steps": WARMUP, "weight_decay": 0.0, "max_grad_norm": 1.0}

    def ours(self, load: Load, number: int, names: Sequence[str] = (OURS,)) -> float:
        """A round of our loop, on one rank or several at once."""
        folder = self.texts(load, number)
        out = self.bench.folder / "trained" / f"{folder.name}-{len(names)}-{time.time_ns()}"
        job = self.settings(load) | {
            "name": folder.name,
            "base": str(self.model),
            "out": str(out),
            "stage": self.spec.stage,
        }
        with ThreadPoolExecutor(len(names)) as pool:
            calls = [
                pool.submit(self.sides[name].call, "train", documents=str(folder / "documents"), **job)
                for name in names
            ]
            found = [call.result().value for call in calls]
        shutil.rmtree(out, ignore_errors=True)  # a checkpoint of each round would fill the disk
        return self.note(folder.name, names[0], found[0])

    def bare(self, load: Load, number: int, name: str) -> float:
        """A round of a bare loop."""
        folder, settings = self.texts(load, number), self.settings(load)
        words: dict[str, Any] = {"texts": str(folder / "texts.json"), "documents": str(folder / "documents")}
        words |= {"model": str(self.model), "settings": settings}
        found = self.sides[name].call("train", same_batches=name == SAME, **words).value
        seconds = self.note(folder.name, name, found)
        if name == SAME:
            ours = self.seen[folder.name, OURS]
            self.hold_losses(f"{folder.name}: losses of ours and of the bare loop", ours["losses"], found["losses"])
            computed = abs(ours["positions"] - found["positions"])
            self.bench.hold(f"{folder.name}: positions of ours and of the bare loop", computed, 0)
        return seconds

    def trainer(self, load: Load, number: int, name: str, row_tokens: int | None = None) -> float:
        """A round of HF's Trainer or TRL's."""
        folder, settings = self.texts(load, number), self.settings(load)
        words = {"texts": str(folder / "texts.json"), "model": str(self.model), "settings": settings}
        words["out"] = str(self.bench.folder / name)
        if name == TRL:
            found = self.sides[name].call("train_trl", row_tokens=row_tokens or self.row_tokens, **words)
        else:
            found = self.sides[name].call("train_hf", config=self.deepspeed_config(load), **words)
        return self.note(folder.name, name, found.value)

    def deepspeed_config(self, load: Load) -> str | None:
        """The file of the configuration that HF's Trainer shares with ours, if it has one."""
        if not self.spec.deepspeed:
            return None
        path, on_gpu = self.bench.folder / f"deepspeed-{load.batch_size}.json", self.bench.on_gpu
        path.write_text(json.dumps(zero_config(self.spec.stage, load.batch_size, 1.0, bf16=on_gpu, on_gpu=on_gpu)))
        return str(path)

    def note(self, round_name: str, side: str, found: dict[str, Any]) -> float:
        """Keep what a side's clock saw, and check that it trained on every token."""
        self.seen[round_name, side] = found
        if self.spec.releases:
            self.sides[side].release_memory()
        if found["labels"]:
            wanted = self.tokens(round_name)
            self.bench.hold(f"{round_name}: tokens learned, {wanted} and {found['labels']} by {side},",
                            abs(wanted - found["labels"]), 0)  # fmt: skip
        return float(found["seconds"])

    def hold_losses(self, what: str, first: Sequence[float], second: Sequence[float]) -> None:
        """Check that two sides learned alike, and keep the largest difference."""
        early = harness.largest_difference(first[:EARLY_STEPS], second[:EARLY_STEPS])
        difference = harness.largest_difference(first, second)
        for name, value in (("max_early_loss_difference", early), ("max_loss_difference", difference)):
            self.bench.report[name] = max(self.bench.report.get(name, 0.0), value)
        self.bench.hold(f"{what} in the first {EARLY_STEPS} steps", early, EARLY_GOAL)
        self.bench.hold(what, difference, LOSS_GOAL)

    def lengths(self, round_name: str) -> list[int]:
        """Tokens that are learned of each text of a round: all but its first one, and its end."""
        texts = json.loads((self.bench.folder / "texts" / round_name / "texts.json").read_text())
        tokenizer = Tokenizer.from_file(str(self.model / "tokenizer.json"))
        return [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]

    def tokens(self, round_name: str) -> int:
        """Tokens that are learned in a round."""
        return sum(self.lengths(round_name))

    def choose_rows(self, load: Load) -> None:
        """TRL's fastest length of rows, each tried warm."""
        longest = max(self.lengths(self.texts(load, -1).name)) + 1
        candidates = self.spec.row_tokens
        fitting = [tokens for tokens in candidates if tokens >= longest] or [candidates[-1]]
        if len(fitting) == 1:
            self.row_tokens = fitting[0]
            return
        tried = {}
        for tokens in fitting:
            self.trainer(load, -1, TRL, tokens)
            tried[tokens] = self.trainer(load, -1, TRL, tokens)
        self.row_tokens = min(tried, key=lambda tokens: tried[tokens])
        self.bench.tell(f"{TRL}: rows of {self.row_tokens} tokens, of {tried}")
