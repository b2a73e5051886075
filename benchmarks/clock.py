"""One clock for all sides that train: from the first forward pass to the end of the last optimizer step.

What comes before and after (loading, tokenising, an engine's start, writing weights) is paid once, and told apart.
Needs torch and transformers alone, because it runs in the environments of the peers as well.
"""

import functools
import time
from collections.abc import Callable
from typing import Any


class Clock:
    """Watches every Llama and every optimizer of this process from now on."""

    def __init__(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook
        from transformers import LlamaModel  # TRL puts a forward pass of its own around this one

        self.reset()
        register_optimizer_step_post_hook(lambda *_: self._stepped())
        original = LlamaModel.forward

        @functools.wraps(original)
        def forward(model: Any, *words: Any, **options: Any) -> Any:
            if model.training:
                self._began(options["input_ids"].numel())
            return original(model, *words, **options)

        LlamaModel.forward = forward

    def reset(self) -> None:
        """Forget what was seen; what comes next is another job."""
        self.called = self.began = self.ended = time.perf_counter()
        self.steps = self.positions = self.labels = 0

    def read(self) -> dict[str, Any]:
        """Seconds of training, before and after it; steps, positions computed, labels counted (0: nobody counted)."""
        now = time.perf_counter()
        return {
            "seconds": self.ended - self.began,
            "before": self.began - self.called,
            "after": now - self.ended,
            "steps": self.steps,
            "positions": self.positions,
            "labels": self.labels,
        }

    def counted(self, collate: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
        """The same collator; the labels in its batches are counted, but for the first of each row."""

        def collate_and_count(rows: list[Any]) -> Any:
            batch = collate(rows)
            self.labels += int((batch["labels"][:, 1:] != -100).sum())
            return batch

        return collate_and_count

    def _began(self, positions: int) -> None:
        if self.steps == 0:  # whatever runs a model before the training must not start the clock
            self.began = time.perf_counter()
            self.positions = 0
        self.positions += positions

    def _stepped(self) -> None:
        self.steps += 1
        self.ended = time.perf_counter()
