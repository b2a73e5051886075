"""An engine without a model, for tests and dry runs: seeded, instant, the same on every machine.

It has the protocol and the refusals of a real engine; its texts and scores mean nothing.
"""

import time
from collections.abc import Sequence

from augment_service.engine import EngineSpec
from data.errors import InputError
from data.records import CheckpointRef, Generation, Prompt, Score, ScoreItem
from data.seeds import derive_seed, stream


class FakeEngine:
    """Words stand for tokens. Texts are drawn from the words of the prompt, scores from a hash."""

    def __init__(self, spec: EngineSpec) -> None:
        self._seed = spec.seed
        self._window = spec.max_model_len
        self._weights = spec.model
        self._counts = dict.fromkeys(("prompt_tokens", "cached_tokens", "generated_tokens", "scored_tokens"), 0)
        self._seconds = 0.0

    def generate(self, prompts: Sequence[Prompt]) -> list[Generation]:
        """As `Engine.generate`: the words of the prompt in an order that the prompt and its seed decide."""
        started = time.perf_counter()
        rows = [self._write(prompt) for prompt in prompts]
        self._counts["generated_tokens"] += sum(row.num_tokens for row in rows)
        self._seconds += time.perf_counter() - started
        return rows

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """As `Engine.score`: between -0.1 and -10 nats per word, decided by the weights and the text."""
        started = time.perf_counter()
        rows = [self._judge(item) for item in items]
        self._counts["scored_tokens"] += sum(sum(row.num_tokens) for row in rows)
        self._seconds += time.perf_counter() - started
        return rows

    def load_weights(self, ref: CheckpointRef) -> None:
        """Other weights are another hash."""
        self._weights = ref.fingerprint or ref.path

    def stats(self) -> dict[str, float]:
        """As `Engine.stats`."""
        return {**self._counts, "seconds": self._seconds, "parity_difference": 0.0}

    def _write(self, prompt: Prompt) -> Generation:
        words = (prompt.context + prompt.text).split()
        if not words:
            raise InputError("the prompt is empty", where=f"prompt {prompt.prompt_id}", mend="give it a text")
        self._read(f"prompt {prompt.prompt_id}", len(words), len(words) + prompt.max_tokens)
        noise = prompt.seed if prompt.temperature > 0 else "greedy"
        draw = stream(self._seed, "fake", self._weights, prompt.context, prompt.text, noise)
        wanted = draw.randint(1, 2 * prompt.max_tokens)
        chosen = [draw.choice(words) for _ in range(min(wanted, prompt.max_tokens))]
        text, found, _ = " ".join(chosen).partition(prompt.stop) if prompt.stop else (" ".join(chosen), "", "")
        stopped = bool(found) or wanted <= prompt.max_tokens
        return Generation(prompt.prompt_id, text, "stop" if stopped else "length", len(chosen))

    def _judge(self, item: ScoreItem) -> Score:
        sizes = tuple(len(continuation.split()) for continuation in item.continuations)
        if not sizes or not all(sizes):
            raise InputError(
                "an empty continuation has no likelihood", where=f"item {item.item_id}", mend="give each option a text"
            )
        num_read = len((item.context + item.prompt).split())
        self._read(f"item {item.item_id}", num_read, num_read + max(sizes))
        likelihoods = tuple(
            size * (-0.1 - 9.9 * self._uniform(item, continuation))
            for size, continuation in zip(sizes, item.continuations, strict=True)
        )
        greedy = tuple(likelihood > -0.5 * size for likelihood, size in zip(likelihoods, sizes, strict=True))
        return Score(item.item_id, likelihoods, sizes, greedy)

    def _uniform(self, item: ScoreItem, continuation: str) -> float:
        return derive_seed(self._seed, "fake", self._weights, item.context, item.prompt, continuation) / 2**63

    def _read(self, name: str, num_read: int, needed: int) -> None:
        if self._window and needed > self._window:
            raise InputError(
                f"{needed} tokens are needed, the engine's window has {self._window}",
                where=name,
                mend="give it fewer documents in context, or a longer window",
            )
        self._counts["prompt_tokens"] += num_read
