"""An engine without a model, for tests and dry runs: seeded, instant, the same on every machine.

It has the protocol and the refusals of a real engine; its texts and scores mean nothing.
"""

import time
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from augment_service.engines.protocol import EngineSpec
from augment_service.tokens import TextReader
from data.records import (
    CheckpointRef,
    DistillationExample,
    Distribution,
    Echo,
    Generation,
    Prompt,
    Refusal,
    Score,
    ScoreItem,
)
from data.seeds import derive_seed, stream

COUNTS = (
    "prompt_tokens", "cached_tokens", "computed_tokens", "generated_tokens", "scored_tokens", "swaps", "cold_restarts"
)  # fmt: skip


class WordTokenizer:
    """Words stand for tokens, checksums for their ids; no word is unknown."""

    is_fast = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    unk_token_id: int | None = None

    def __call__(self, text: str | list[str], **options: Any) -> dict[str, Any]:
        """As a tokenizer of `transformers`."""
        rows = [
            [zlib.crc32(word.encode()) for word in row.split()] for row in ([text] if isinstance(text, str) else text)
        ]
        return {"input_ids": rows[0] if isinstance(text, str) else rows}


class FakeEngine:
    """Texts are drawn from the words of the prompt, scores from a hash. Contexts are "cached" after their first row."""

    def __init__(self, spec: EngineSpec) -> None:
        self.window = spec.window
        self._seed = spec.seed
        self._weights = spec.model
        self._reader = TextReader(WordTokenizer(), window=spec.window)
        self._counts = dict.fromkeys(COUNTS, 0)
        self._seconds = 0.0

    def generate(self, prompts: Sequence[Prompt]) -> list[Generation | Refusal]:
        """As `Engine.generate`: the words of the prompt in an order that the prompt and its seed decide."""
        started = time.perf_counter()
        rows = self._reader.prompts(prompts)
        answers = [row if isinstance(row, Refusal) else self._write(p) for p, row in zip(prompts, rows, strict=True)]
        num_written = sum(row.num_tokens for row in answers if isinstance(row, Generation))
        answered = [p for p, row in zip(prompts, answers, strict=True) if isinstance(row, Generation)]
        self._count(((p.context, p.text) for p in answered), "generated_tokens", num_written)
        self._seconds += time.perf_counter() - started
        return answers

    def score(self, items: Sequence[ScoreItem]) -> list[Score | Refusal]:
        """As `Engine.score`: between -0.1 and -10 nats per word, decided by the weights and the text."""
        started = time.perf_counter()
        rows = self._reader.items(items)
        answers = [
            row if isinstance(row, Refusal) else self._judge(item) for item, row in zip(items, rows, strict=True)
        ]
        num_scored = sum(sum(row.num_tokens) for row in answers if isinstance(row, Score))
        answered = [item for item, row in zip(items, answers, strict=True) if isinstance(row, Score)]
        self._count(((item.context, item.prompt) for item in answered), "scored_tokens", num_scored)
        self._seconds += time.perf_counter() - started
        return answers

    def echo(self, rows: Sequence[Sequence[int]]) -> list[Echo | Refusal]:
        """As `EchoEngine.echo`: every other token is the likeliest, as its neighbours decide."""
        checked = self._reader.ids(rows, num_more=1)
        self._counts["prompt_tokens"] += sum(len(row) for row in checked if not isinstance(row, Refusal))
        return [row if isinstance(row, Refusal) else self._listen(row) for row in checked]

    def distill(self, lessons: Sequence[DistillationExample]) -> list[Distribution | Refusal]:
        """As `DistillationEngine.distill`: each token is itself the likeliest, and its neighbours follow."""
        rows = self._reader.lessons(lessons)
        asked = [lesson for lesson, row in zip(lessons, rows, strict=True) if not isinstance(row, Refusal)]
        num_asked = sum(len(row.path) for row in rows if not isinstance(row, Refusal))
        self._count(((lesson.context, lesson.prompt) for lesson in asked), "scored_tokens", num_asked)
        return [
            row if isinstance(row, Refusal) else _expect(lesson, row.row)
            for lesson, row in zip(lessons, rows, strict=True)
        ]

    def load_weights(self, ref: CheckpointRef) -> None:
        """Other weights are another hash."""
        self._weights = ref.fingerprint or ref.path
        self._counts["swaps"] += 1

    def stats(self) -> dict[str, float]:
        """As `Engine.stats`."""
        return {**self._counts, "seconds": self._seconds, "parity_difference": 0.0}

    def _write(self, prompt: Prompt) -> Generation:
        words = (prompt.context + prompt.text).split()
        noise = prompt.seed if prompt.temperature > 0 else "greedy"
        draw = stream(self._seed, "fake", self._weights, prompt.context, prompt.text, noise)
        wanted = draw.randint(1, 2 * prompt.max_tokens)
        chosen = [draw.choice(words) for _ in range(min(wanted, prompt.max_tokens))]
        text, found, _ = " ".join(chosen).partition(prompt.stop) if prompt.stop else (" ".join(chosen), "", "")
        stopped = bool(found) or wanted <= prompt.max_tokens
        return Generation(prompt.prompt_id, text, "stop" if stopped else "length", len(chosen))

    def _judge(self, item: ScoreItem) -> Score:
        values = [self._value(item.context, item.prompt, continuation) for continuation in item.continuations]
        sizes = tuple(len(continuation.split()) for continuation in item.continuations)
        pairs = list(zip(values, sizes, strict=True))
        alone = item.continuations if item.unconditional else ()
        return Score(
            item.item_id,
            log_likelihoods=tuple(value * size for value, size in pairs),
            num_tokens=sizes,
            greedy=tuple(value > -0.5 for value in values),
            token_log_likelihoods=tuple(value for value, size in pairs for _ in range(size)),
            unconditional=tuple(self._value("", item.unconditional, text) * len(text.split()) for text in alone),
        )

    def _listen(self, row: Sequence[int]) -> Echo:
        draws = [derive_seed(self._seed, "fake", self._weights, *row[:end]) for end in range(1, len(row) + 1)]
        likeliest = [-(draw % 1000) / 1000 for draw in draws]
        hits = [draw % 2 == 0 for draw in draws[:-1]]
        values = tuple(most if hit else most - 1.0 for most, hit in zip(likeliest, hits, strict=False))
        best = tuple(token if hit else token ^ 1 for token, hit in zip(row[1:], hits, strict=True))
        return Echo(values, (*best, row[-1]), tuple(likeliest))

    def _value(self, context: str, prompt: str, continuation: str) -> float:
        """Nats of each word of a continuation."""
        return -0.1 - 9.9 * derive_seed(self._seed, "fake", self._weights, context, prompt, continuation) / 2**63

    def _count(self, texts: Iterable[tuple[str, str]], name: str, num_answered: int) -> None:
        last = ""
        for context, text in texts:
            num_read, num_cached = len((context + text).split()), len(context.split()) if context == last else 0
            last = context
            self._counts["prompt_tokens"] += num_read
            self._counts["cached_tokens"] += num_cached
            self._counts["computed_tokens"] += num_read - num_cached
        self._counts["computed_tokens"] += num_answered
        self._counts[name] += num_answered


def _expect(lesson: DistillationExample, row: Sequence[int]) -> Distribution:
    ranks = range(lesson.num_top)
    top_ids = tuple(token ^ rank for token in row[1:] for rank in ranks)
    halves = tuple(-0.7 * (rank + 1) for _ in row[1:] for rank in ranks)  # about 1/2, 1/4, ...
    return Distribution(lesson.text_id, lesson.text, tuple(row), top_ids, halves, lesson.num_top, vocabulary="fake")
