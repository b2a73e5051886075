"""`augment_service.engines.protocol.Engine` over any server of OpenAI's form. Reads and writes no files.

Every row is a request of its own, so a bad row costs only its own `Refusal`. Texts are written by `/v1/completions`, or
by `/v1/chat/completions`, where a prompt with its context is the one message of a user. Scoring needs a server that
answers `/v1/completions` with `echo` and `logprobs` (vLLM and `entail serve` do).
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple, TypeVar

from augment_service.engines.endpoint.answers import ScoredText, model_names, read_scored, read_written, usage_of
from augment_service.engines.endpoint.client import EndpointClient, RetryPolicy, RowError
from augment_service.engines.protocol import Answers, EngineSpec, OnAnswer, check_scoring
from cluster.cancellation import check_cancelled
from data.errors import InputError
from data.records import CheckpointRef, Generation, Prompt, Refusal, Score, ScoreItem

COUNTS = (
    "prompt_tokens", "cached_tokens", "generated_tokens", "scored_tokens",
    "requests", "retries", "rate_limited", "malformed_answers",
)  # fmt: skip
HINTS = {
    "window": "give it fewer documents in context, or use an endpoint with a longer window",
    "empty": "give the item a prompt and each option a text",
    "endpoint": "read the message of the server, and its log",
}
Row = TypeVar("Row")
Answer = TypeVar("Answer")


class _Pair(NamedTuple):
    """A text to score: the tokens that reach past `before` count."""

    before: str
    after: str


class EndpointEngine:
    """Generates and scores at an endpoint. Raises InputError and `endpoint.client.EndpointError`."""

    def __init__(self, spec: EngineSpec, retry: RetryPolicy | None = None) -> None:
        """Asks the server for its models, so that a wrong URL, key or name is reported at once."""
        self.window: int | None = None
        self._model, self._width, self._api = spec.model, spec.connections, spec.endpoint_api
        self._client = EndpointClient(
            spec.url, key_variable=spec.key_variable, connections=self._width, retry=retry or RetryPolicy()
        )
        self._threads = ThreadPoolExecutor(self._width, thread_name_prefix="endpoint")
        self._seconds = 0.0
        served = self._client.ask("/models", None, "its list of models", model_names)
        if self._model not in served:
            raise InputError(
                f'the endpoint does not serve "{self._model}" but {", ".join(served) or "nothing"}',
                where=self._client.url,
                hint="name one of its models",
            )

    def generate(self, prompts: Sequence[Prompt], on_answer: OnAnswer = None) -> list[Generation | Refusal]:
        """As `Engine.generate`. The seed is sent along; whether it is honoured is up to the server."""
        answers = Answers[Generation](prompts, on_answer)
        for at, answer in self._each(prompts, lambda prompt: prompt.prompt_id, self._write):
            answers.add(at, answer)
        return answers.rows

    def stream(self, prompt: Prompt) -> Iterator[str | Generation | Refusal]:
        """As `Engine.stream`, in one part."""
        (answer,) = self.generate([prompt])
        if isinstance(answer, Generation):
            yield answer.text
        yield answer

    def score(self, items: Sequence[ScoreItem], on_answer: OnAnswer = None) -> list[Score | Refusal]:
        """As `Engine.score`: the joined text is sent, so the server tokenises it as a whole.

        The continuation's tokens are those that reach past the end of `context + prompt`; a token that crosses this
        boundary counts as the continuation's. Equal pairs of text and continuation are sent once. Raises InputError
        for a chat, which has no likelihood of a given text.
        """
        check_scoring(self._api)
        answers = Answers[Score](items, on_answer)
        asked: dict[_Pair, str] = {}
        waiting: dict[_Pair, list[int]] = {}
        left = [0] * len(items)
        for at, item in enumerate(items):
            pairs = dict.fromkeys(_pairs(item)) if _has_texts(item) else {}
            left[at] = len(pairs)
            for pair in pairs:
                asked.setdefault(pair, item.item_id)
                waiting.setdefault(pair, []).append(at)
            if not pairs:
                answers.add(at, self._assemble(item, {}))
        scored: dict[_Pair, ScoredText | Refusal] = {}
        entries = list(asked.items())
        for number, answer in self._each(entries, lambda entry: entry[1], lambda entry: self._score_pair(*entry)):
            pair = entries[number][0]
            scored[pair] = answer
            for at in waiting[pair]:
                left[at] -= 1
                if not left[at]:
                    answers.add(at, self._assemble(items[at], scored))
        return answers.rows

    def load_weights(self, ref: CheckpointRef) -> None:
        """Raises InputError unless `ref` is the served model: an endpoint's weights cannot be replaced."""
        if self._model not in (ref.path, ref.name):
            raise InputError(
                f"the weights of an endpoint cannot be replaced: it serves {self._model}, not {ref.name}",
                where=self._client.url,
                hint="score checkpoints with the vllm engine, or at an endpoint of their own",
            )

    def stats(self) -> dict[str, float]:
        """As `Engine.stats`, and the requests by outcome; no `parity_difference`, for there are no weights here."""
        return {**{name: float(self._client.counts[name]) for name in COUNTS}, "seconds": self._seconds}

    def close(self) -> None:
        """Drop the connections."""
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def _each(
        self, rows: Sequence[Row], name: Callable[[Row], str], ask: Callable[[Row], Answer]
    ) -> Iterator[tuple[int, Answer | Refusal]]:
        """The index and answer of each row as it comes, one per connection at a time; an error but a RowError ends it.

        Calls of several threads share the connections.
        """

        def one(row: Row) -> Answer | Refusal:
            try:
                return ask(row)
            except RowError as error:
                return Refusal(name(row), error.kind, error.what, HINTS[error.kind])

        started = time.perf_counter()
        places = {self._threads.submit(one, row): at for at, row in enumerate(rows)}
        try:
            for future in as_completed(places):
                check_cancelled()
                yield places[future], future.result()
        finally:
            for future in places:
                future.cancel()
            self._seconds += time.perf_counter() - started

    def _write(self, prompt: Prompt) -> Generation:
        text = prompt.before + prompt.context + prompt.text + prompt.after
        if not text:
            raise RowError("the prompt is empty", "empty")
        is_chat = self._api == "chat"
        body: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if is_chat else {"prompt": text}
        body |= {"max_tokens": prompt.max_tokens, "temperature": prompt.temperature, "seed": prompt.seed}
        if prompt.stop:
            body["stop"] = [prompt.stop]
        path = "/chat/completions" if is_chat else "/completions"
        written = self._complete(body, prompt.prompt_id, lambda content: read_written(content, prompt.prompt_id), path)
        self._client.count("generated_tokens", written.num_tokens)
        return written

    def _score_pair(self, pair: _Pair, item_id: str) -> ScoredText:
        text = pair.before + pair.after
        body = {"prompt": text, "echo": True, "max_tokens": 0, "logprobs": 1, "temperature": 0.0}
        scored = self._complete(body, item_id, lambda content: read_scored(content, text, len(pair.before)))
        self._client.count("scored_tokens", len(scored.values))
        return scored

    def _complete(
        self, body: dict[str, Any], item_id: str, read: Callable[[dict[str, Any]], Answer], path: str = "/completions"
    ) -> Answer:
        def read_and_count(content: dict[str, Any]) -> tuple[Answer, tuple[int, int, int]]:
            return read(content), usage_of(content)

        answer, (num_read, num_cached, _) = self._client.ask(
            path, {"model": self._model, **body}, item_id, read_and_count
        )
        self._client.count("prompt_tokens", num_read)
        self._client.count("cached_tokens", num_cached)
        return answer

    def _assemble(self, item: ScoreItem, scored: dict[_Pair, ScoredText | Refusal]) -> Score | Refusal:
        """The item's score; the first refusal of one of its pairs is the item's."""
        if not _has_texts(item):
            return Refusal(item.item_id, "empty", "an empty continuation has no likelihood", HINTS["empty"])
        found: list[ScoredText] = []
        for answer in [scored[pair] for pair in _pairs(item)]:
            if isinstance(answer, Refusal):
                return Refusal(item.item_id, answer.kind, answer.what, answer.hint)
            found.append(answer)
        asked, free = found[: len(item.continuations)], found[len(item.continuations) :]
        return Score(
            item.item_id,
            log_likelihoods=tuple(math.fsum(answer.values) for answer in asked),
            num_tokens=tuple(len(answer.values) for answer in asked),
            greedy=tuple(answer.greedy for answer in asked),
            token_log_likelihoods=tuple(value for answer in asked for value in answer.values),
            unconditional=tuple(math.fsum(answer.values) for answer in free),
        )


def _has_texts(item: ScoreItem) -> bool:
    return bool(item.continuations) and all(continuation.strip() for continuation in item.continuations)


def _pairs(item: ScoreItem) -> list[_Pair]:
    """The item's continuations after `context + prompt`, then after `unconditional` if it has one; all framed."""
    texts = [item.context + item.prompt, *filter(None, [item.unconditional])]
    befores = [item.before + text + item.after for text in texts]
    return [_Pair(before, item.joiner + continuation) for before in befores for continuation in item.continuations]
