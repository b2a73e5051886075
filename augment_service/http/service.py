"""From a checked request to OpenAI's answer: texts to tokens, rows to the engines, answers to choices. No files.

Engines take any number of requests at once, so each request is sent as it comes; a large one is shared among engines.

It reaches the engines through a router, so it depends neither on Ray nor on vLLM.
"""

import asyncio
import logging
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from augment_service.http.requests import DEFAULT_ANSWER, RETRY_SECONDS, Chat, Completion, Request, RequestError
from augment_service.http.tokenization import ModelTokenizer, TokenizedText
from data.errors import InputError, ResumableError
from data.records import Echo, Generation, Prompt, Refusal
from data.seeds import derive_seed

if TYPE_CHECKING:
    from augment_service.http.router import PoolRouter

LOG = logging.getLogger(__name__)
MAX_WAITING = 2048  # rows without an answer; requests beyond them are refused
MIN_SHARE = 16  # rows of one request that are not worth another engine
Result = TypeVar("Result")


class Service:
    """Answers for one model. `model` is the name that clients use, `weights` a fingerprint of what is served.

    `window` is in tokens; None is unbounded.
    """

    def __init__(
        self, router: "PoolRouter", texts: ModelTokenizer, *, model: str, weights: str, window: int | None
    ) -> None:
        self.model = model
        self._texts, self._weights, self._window = texts, weights, window
        self._router = router
        self.num_waiting = 0  # rows without an answer
        # one thread: tokenizers are not thread-safe, and long texts must not block the event loop
        self._tokenizer_thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    def models(self) -> dict[str, Any]:
        """The list of the one model."""
        entry = {"id": self.model, "object": "model", "created": 0, "owned_by": "entail", "max_model_len": self._window}
        return {"object": "list", "data": [entry]}

    async def complete(self, body: Completion) -> dict[str, Any]:
        """The answer of `/v1/completions`. Raises RequestError, InputError, ResumableError."""
        if body.logprobs is not None:
            return await self._score(body)
        texts, sizes = await self._read_prompts(body)
        written: list[Generation] = []
        if body.max_tokens:
            written = await self._write(body, texts, body.max_tokens)
        elif not body.echo:
            raise RequestError(400, "max_tokens 0 needs echo", code="invalid", param="max_tokens")
        heads = texts if body.echo else [""] * len(texts)
        rows = written or [Generation("", "", "length", 0) for _ in texts]
        choices = [
            {"index": at, "text": head + row.text, "logprobs": None, "finish_reason": row.finish_reason}
            for at, (head, row) in enumerate(zip(heads, rows, strict=True))
        ]
        return self._response("text_completion", choices, sizes, rows)

    async def chat(self, body: Chat) -> dict[str, Any]:
        """The answer of `/v1/chat/completions`. Raises as `complete`."""
        text, ids = await self._read_chat(body)
        written = await self._write(body, [text], self._chat_length(body, ids))
        message = {"role": "assistant", "content": written[0].text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": written[0].finish_reason}
        return self._response("chat.completion", [choice], [len(ids)], written)

    async def stream(self, body: Completion | Chat) -> AsyncGenerator[dict[str, Any]]:
        """The same answer in chunks, as it is written; the last one has the usage and no choices. Raises as `complete`.

        What has no text to write, scores among it, is one chunk.
        """
        if isinstance(body, Chat):
            text, ids = await self._read_chat(body)
            prompts = self._prompts(body, [text], self._chat_length(body, ids))
            chunks = self._chunks("chat.completion.chunk", prompts, [""], [len(ids)])
        elif body.logprobs is not None or not body.max_tokens:
            whole = await self.complete(body)
            usage = whole.pop("usage")
            yield whole
            yield {**whole, "choices": [], "usage": usage}
            return
        else:
            texts, sizes = await self._read_prompts(body)
            heads = texts if body.echo else [""] * len(texts)
            chunks = self._chunks("text_completion", self._prompts(body, texts, body.max_tokens), heads, sizes)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def _chunks(
        self, kind: str, prompts: Sequence[Prompt], heads: Sequence[str], sizes: Sequence[int]
    ) -> AsyncGenerator[dict[str, Any]]:
        whole = self._response(kind, [], [], [])
        del whole["usage"]
        rows: list[Generation] = []
        begun: set[int] = set()
        with self._counted(len(prompts)):
            async for at, item in _merged([self._router.stream("stream", prompt) for prompt in prompts]):
                if isinstance(item, Refusal):
                    raise _refused(at, item)
                is_end = isinstance(item, Generation)
                text = ("" if at in begun else heads[at]) + ("" if is_end else item)
                part: dict[str, Any] = {"text": text}
                if kind == "chat.completion.chunk":
                    role = {} if at in begun else {"role": "assistant"}
                    part = {"delta": {**role, **({"content": text} if text or role else {})}}
                choice = {
                    "index": at,
                    **part,
                    "logprobs": None,
                    "finish_reason": item.finish_reason if is_end else None,
                }
                yield {**whole, "choices": [choice]}
                begun.add(at)
                rows += [item] if is_end else []
        yield {**self._response(kind, [], sizes, rows), "id": whole["id"]}

    async def _score(self, body: Completion) -> dict[str, Any]:
        """An echo with the log-probability of every token of the prompt; and of one greedy token after it."""
        if not body.echo or body.max_tokens > 1 or (body.max_tokens and body.temperature > 0):
            raise RequestError(
                400,
                "log-probabilities are of the prompt: set echo, and max_tokens 0, or 1 at temperature 0",
                code="unsupported",
                param="logprobs",
            )
        self._check(body, body.prompts(), "prompt")
        tokenized = [await self._tokenize(prompt) for prompt in body.prompts()]
        empty = next((at for at, row in enumerate(tokenized) if not row.ids), None)
        if empty is not None:
            raise RequestError(400, f"prompt {empty} is empty", code="empty", param="prompt")
        echoes: list[Echo] = await self._ask("echo", [row.ids for row in tokenized])
        pairs = list(zip(tokenized, echoes, strict=True))
        choices = [self._scored_choice(at, row, echo, body) for at, (row, echo) in enumerate(pairs)]
        rows = [Generation("", "", "length", body.max_tokens) for _ in tokenized]
        return self._response("text_completion", choices, [len(row.ids) for row in tokenized], rows)

    def _scored_choice(self, index: int, row: TokenizedText, echo: Echo, body: Completion) -> dict[str, Any]:
        best = [self._texts.piece(token) for token in echo.best_tokens]
        tokens, offsets, ids = list(row.pieces), list(row.offsets), row.ids
        values = [None, *echo.log_likelihoods]
        if body.max_tokens:
            tokens, offsets = [*tokens, best[-1]], [*offsets, len(row.text)]
            values, ids = [*values, echo.best_log_likelihoods[-1]], [*ids, echo.best_tokens[-1]]
        tops: list[dict[str, float | None] | None] = [None]
        steps = zip(best, echo.best_tokens, echo.best_log_likelihoods, strict=True)
        for token, token_id, value, (piece, best_id, most) in zip(tokens[1:], ids[1:], values[1:], steps, strict=False):
            own = {token: _finite(value)}
            # the likeliest token is added under its own spelling, unless it is the same token
            tops.append(own if token_id == best_id or not body.logprobs else own | {piece: _finite(most)})
        logprobs = {
            "tokens": tokens,
            "token_logprobs": [_finite(value) for value in values],
            "top_logprobs": tops,
            "text_offset": offsets,
        }
        text = row.text + (best[-1] if body.max_tokens else "")
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": "length"}

    async def _write(self, body: Request, texts: Sequence[str], length: int) -> list[Generation]:
        return await self._ask("answer", self._prompts(body, texts, length))

    def _prompts(self, body: Request, texts: Sequence[str], length: int) -> list[Prompt]:
        seed = secrets.randbits(63) if body.seed is None else body.seed
        # else equal prompts of one request would get equal texts
        seeds = [seed, *(derive_seed(seed, at) for at in range(1, len(texts)))]
        stop = body.stop_text()
        return [
            Prompt(str(at), "http", "", "", "", length, body.temperature, own, stop, before=text)
            for at, (text, own) in enumerate(zip(texts, seeds, strict=True))
        ]

    async def _ask(self, method: str, rows: Sequence[Any]) -> list[Any]:
        """The answers to all rows; the first refusal among them refuses the request."""
        size = max(math.ceil(len(rows) / self._router.width), MIN_SHARE)
        shares = [rows[start : start + size] for start in range(0, len(rows), size)]
        with self._counted(len(rows)):
            calls = [asyncio.create_task(self._router.ask(method, list(share))) for share in shares]
            try:
                answers = [answer for share in await asyncio.gather(*calls) for answer in share]
            except (RequestError, InputError, ResumableError):
                raise
            except Exception as error:
                LOG.exception("a call of the engines failed", exc_info=error)
                raise RequestError(500, "the engines failed, see the server's log", code="internal") from error
            finally:
                for call in calls:
                    call.cancel()
        for at, answer in enumerate(answers):
            if isinstance(answer, Refusal):
                raise _refused(at, answer)
        return answers

    @contextmanager
    def _counted(self, num_rows: int) -> Iterator[None]:
        """A block in which these rows have no answer. Raises RequestError if there are too many such rows."""
        if self.num_waiting + num_rows > MAX_WAITING:
            what = f"{self.num_waiting} rows are waiting already"
            raise RequestError(503, what, code="overloaded", wait=RETRY_SECONDS)
        self.num_waiting += num_rows
        try:
            yield
        finally:
            self.num_waiting -= num_rows

    async def _read_prompts(self, body: Completion) -> tuple[list[str], list[int]]:
        """The texts of the prompts, and how many tokens each has."""
        self._check(body, body.prompts(), "prompt")
        texts, sizes = [], []
        for prompt in body.prompts():
            text = prompt if isinstance(prompt, str) else await self._in_thread(self._texts.text_of, prompt)
            texts.append(text)
            sizes.append(len(await self._in_thread(self._texts.read, text)))
        return texts, sizes

    async def _read_chat(self, body: Chat) -> tuple[str, list[int]]:
        """The conversation as the model's template writes it, and its tokens."""
        turns = [{"role": message.role, "content": message.text()} for message in body.messages]
        self._check(body, ["".join(turn["content"] for turn in turns)], "messages")
        text = await self._in_thread(self._texts.chat, turns)
        return text, await self._in_thread(self._texts.read, text)

    def _chat_length(self, body: Chat, ids: Sequence[int]) -> int:
        room = DEFAULT_ANSWER if self._window is None else max(min(self._window - len(ids), DEFAULT_ANSWER), 1)
        return body.max_completion_tokens or body.max_tokens or room

    async def _tokenize(self, prompt: str | list[int]) -> TokenizedText:
        return await self._in_thread(self._texts.tokenize if isinstance(prompt, str) else self._texts.from_ids, prompt)

    async def _in_thread(self, work: Callable[..., Result], *args: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._tokenizer_thread, work, *args)

    def _check(self, body: Request, prompts: Sequence[str | list[int]], param: str) -> None:
        """Refuse another model, and what no window holds before it is tokenized: that takes seconds."""
        if body.model != self.model:
            message = f'"{body.model}" is not served, but "{self.model}" is'
            raise RequestError(404, message, code="model_not_found", param="model")
        for at, prompt in enumerate(prompts):
            is_text = isinstance(prompt, str)
            most = math.inf if self._window is None else self._window * (self._texts.longest_token if is_text else 1)
            if len(prompt) > most:
                unit = "characters" if is_text else "tokens"
                what = f"prompt {at} has {len(prompt)} {unit}, a window of {self._window} tokens holds at most {most}"
                raise RequestError(400, what, code="context_length_exceeded", param=param)

    def _response(
        self, kind: str, choices: list[dict[str, Any]], sizes: Sequence[int], rows: Sequence[Generation]
    ) -> dict[str, Any]:
        num_read, num_written = sum(sizes), sum(row.num_tokens for row in rows)
        usage = {"prompt_tokens": num_read, "completion_tokens": num_written, "total_tokens": num_read + num_written}
        prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
        return {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": self._weights,
            "choices": choices,
            "usage": usage,
        }


async def _merged(streams: Sequence[AsyncIterator[Any]]) -> AsyncIterator[tuple[int, Any]]:
    """The items of several streams as they come, each with the number of its stream."""
    items: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()

    async def forward(number: int, stream: AsyncIterator[Any]) -> None:
        try:
            async for item in stream:
                items.put_nowait((number, item))
        finally:
            items.put_nowait((number, items))  # the end

    tasks = [asyncio.create_task(forward(number, stream)) for number, stream in enumerate(streams)]
    try:
        num_open = len(tasks)
        while num_open:
            number, item = await items.get()
            if item is items:
                num_open -= 1
                await tasks[number]  # raises what ended it
            else:
                yield number, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _refused(at: int, refusal: Refusal) -> RequestError:
    code = "context_length_exceeded" if refusal.kind == "window" else refusal.kind
    return RequestError(400, f"prompt {at}: {refusal.what}; {refusal.hint}", code=code, param="prompt")


def _finite(value: float | None) -> float | None:
    # JSON has no infinity
    return value if value is None or math.isfinite(value) else None
