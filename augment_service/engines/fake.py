"""An engine without a model, for tests and dry runs: seeded, instant, the same on every machine.

It has the protocol and the refusals of a real engine; its texts and scores mean nothing. Words stand for tokens. A
context is split and hashed once, so the cost of a shard is linear in what it holds.
"""

import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from augment_service.engines.protocol import Answers, EngineSpec, OnAnswer
from augment_service.tokens import HINTS
from data import records
from data.seeds import derive_seed, stream

COUNTS = (
    "prompt_tokens", "cached_tokens", "computed_tokens", "generated_tokens", "scored_tokens", "swaps", "cold_restarts"
)  # fmt: skip
_LINE_WORDS = 8
Row = TypeVar("Row")
Answer = TypeVar("Answer")


class FakeEngine:
    """Texts are drawn from the words of the prompt, scores from a hash. Contexts are "cached" after their first row."""

    def __init__(self, spec: EngineSpec) -> None:
        self.window = spec.window
        self._seed = spec.seed
        self._weights = spec.model
        self._counts = dict.fromkeys(COUNTS, 0)
        self._seconds = 0.0
        self._last = ""
        self._read_last: tuple[str, tuple[list[str], int]] = ("", ([], 0))
        self._lock = threading.Lock()

    def generate(
        self, prompts: Sequence[records.Prompt], on_answer: OnAnswer = None
    ) -> list[records.Generation | records.Refusal]:
        """As `Engine.generate`: words of the prompt in an order that the prompt and its seed decide."""
        return self._each(prompts, self._write, on_answer)

    def stream(self, prompt: records.Prompt) -> Iterator[str | records.Generation | records.Refusal]:
        """As `Engine.stream`, word by word."""
        (answer,) = self.generate([prompt])
        if isinstance(answer, records.Generation):
            yield from re.findall(r"\s*\S+", answer.text)
        yield answer

    def score(
        self, items: Sequence[records.ScoreItem], on_answer: OnAnswer = None
    ) -> list[records.Score | records.Refusal]:
        """As `Engine.score`: between -0.1 and -10 nats per word, decided by the weights and the text."""
        return self._each(items, self._judge, on_answer)

    def echo(self, rows: Sequence[Sequence[int]]) -> list[records.Echo | records.Refusal]:
        """As `TokenEngine.echo`: every other token is the likeliest, as its neighbours decide."""
        answers: list[records.Echo | records.Refusal] = []
        for place, row in enumerate(rows):
            refusal = self._refuse(str(place), len(row), len(row) + 1)
            answers.append(refusal or self._listen(row))
            self._counts["prompt_tokens"] += 0 if refusal else len(row)
        return answers

    def distill(
        self, examples: Sequence[records.DistillationExample], on_answer: OnAnswer = None
    ) -> list[records.Distribution | records.Refusal]:
        """As `TokenEngine.distill`: each token is itself the likeliest, and its neighbours follow."""
        return self._each(examples, self._expect, on_answer)

    def _each(
        self, rows: Sequence[Row], answer: Callable[[Row], Answer | records.Refusal], on_answer: OnAnswer
    ) -> list[Answer | records.Refusal]:
        started, answers = time.perf_counter(), Answers[Answer](rows, on_answer)
        with self._lock:  # for all rows: threads that take turns at every one of them are four times as slow
            for at, row in enumerate(rows):
                answers.add(at, answer(row))
        self._seconds += time.perf_counter() - started
        return answers.rows

    def load_weights(self, ref: records.CheckpointRef) -> None:
        """Other weights are another hash."""
        self._weights = ref.fingerprint or ref.path
        self._counts["swaps"] += 1

    def stats(self) -> dict[str, float]:
        """As `Engine.stats`."""
        return {**self._counts, "seconds": self._seconds, "parity_difference": 0.0}

    def _write(self, prompt: records.Prompt) -> records.Generation | records.Refusal:
        own = prompt.before + prompt.text + prompt.after
        (before, digest), words = self._read(prompt.context), own.split()
        size = len(before) + len(words)
        refusal = self._refuse(prompt.prompt_id, size if prompt.max_tokens > 0 else 0, size + prompt.max_tokens)
        if refusal:
            return refusal
        noise = prompt.seed if prompt.temperature > 0 else "greedy"
        draw = stream(self._seed, "fake", self._weights, digest, own, noise)
        wanted = draw.randint(1, 2 * prompt.max_tokens)
        places = draw.choices(range(size), k=min(wanted, prompt.max_tokens))
        chosen = [before[place] if place < len(before) else words[place - len(before)] for place in places]
        # Where an answer may have several lines it has, so that all ways of reading one are exercised.
        size_of_line = len(chosen) if prompt.stop == "\n" else _LINE_WORDS
        lines = [" ".join(chosen[start : start + size_of_line]) for start in range(0, len(chosen), size_of_line)]
        written = "\n".join(lines)
        text, found, _ = written.partition(prompt.stop) if prompt.stop else (written, "", "")
        self._count(prompt.context, len(before), len(words), "generated_tokens", len(chosen))
        reason = "stop" if found or wanted <= prompt.max_tokens else "length"
        return records.Generation(prompt.prompt_id, text, reason, len(chosen), size)

    def _judge(self, item: records.ScoreItem) -> records.Score | records.Refusal:
        own, alone_own = (item.before + text + item.after for text in (item.prompt, item.unconditional))
        (before, digest), words = self._read(item.context), own.split()
        sizes = tuple(len(continuation.split()) for continuation in item.continuations)
        size = len(before) + len(words)
        is_empty = not sizes or not all(sizes)
        refusal = self._refuse(item.item_id, 0 if is_empty else size, size + max(sizes, default=0))
        if refusal:
            return refusal
        values = [self._value(digest, own, continuation) for continuation in item.continuations]
        pairs = list(zip(values, sizes, strict=True))
        alone = item.continuations if item.unconditional else ()
        self._count(item.context, len(before), len(words), "scored_tokens", sum(sizes))
        return records.Score(
            item.item_id,
            log_likelihoods=tuple(value * size for value, size in pairs),
            num_tokens=sizes,
            greedy=tuple(value > -0.5 for value in values),
            token_log_likelihoods=tuple(value for value, size in pairs for _ in range(size)),
            unconditional=tuple(self._value(0, alone_own, text) * len(text.split()) for text in alone),
        )

    def _expect(self, example: records.DistillationExample) -> records.Distribution | records.Refusal:
        row = [zlib.crc32(word.encode()) for word in example.text.split()]
        own = example.before + example.prompt + example.after + example.reasoning
        num_shared, num_own = len(self._read(example.context)[0]), len(own.split())
        before = num_shared + num_own
        refusal = self._refuse(example.text_id, before if len(row) > 1 else 0, before + len(row))
        if refusal:
            return refusal
        ranks = range(example.num_top)
        top_ids = tuple(token ^ rank for token in row[1:] for rank in ranks)
        halves = tuple(-0.7 * (rank + 1) for _ in row[1:] for rank in ranks)  # about 1/2, 1/4, ...
        self._count(example.context, num_shared, before, "scored_tokens", len(row) - 1)
        return records.Distribution(example.text_id, example.text, tuple(row), top_ids, halves, example.num_top, "fake")

    def _listen(self, row: Sequence[int]) -> records.Echo:
        draws = [derive_seed(self._seed, "fake", self._weights, *row[:end]) for end in range(1, len(row) + 1)]
        likeliest = [-(draw % 1000) / 1000 for draw in draws]
        hits = [draw % 2 == 0 for draw in draws[:-1]]
        values = tuple(top if hit else top - 1.0 for top, hit in zip(likeliest, hits, strict=False))
        best = tuple(token if hit else token ^ 1 for token, hit in zip(row[1:], hits, strict=True))
        return records.Echo(values, (*best, row[-1]), tuple(likeliest))

    def _read(self, context: str) -> tuple[list[str], int]:
        """A context's words and hash. Rows share the very string: a cache would compare megabytes for each row."""
        if context is not self._read_last[0]:
            self._read_last = context, (context.split(), zlib.crc32(context.encode("utf-8", "surrogatepass")))
        return self._read_last[1]

    def _refuse(self, row_id: str, size: int, needed: int) -> records.Refusal | None:
        """As a real engine: nothing to read, or more than the window holds."""
        if not size:
            return records.Refusal(row_id, "empty", "there is nothing to read or to write", HINTS["empty"])
        if self.window is not None and needed > self.window:
            what = f"{needed} tokens are needed, the model's window has {self.window}"
            return records.Refusal(row_id, "window", what, HINTS["window"])
        return None

    def _value(self, digest: int, prompt: str, continuation: str) -> float:
        """Nats of each word of a continuation."""
        return -0.1 - 9.9 * derive_seed(self._seed, "fake", self._weights, digest, prompt, continuation) / 2**63

    def _count(self, context: str, num_shared: int, num_own: int, name: str, num_answered: int) -> None:
        num_cached = num_shared if context is self._last or context == self._last else 0
        self._last = context
        self._counts["prompt_tokens"] += num_shared + num_own
        self._counts["cached_tokens"] += num_cached
        self._counts["computed_tokens"] += num_shared + num_own - num_cached + num_answered
        self._counts[name] += num_answered
