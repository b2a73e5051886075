"""From a checked request to OpenAI's answer: texts to tokens, rows to the engines, answers to choices. No files.

It reaches the engines through a router, so it depends neither on Ray nor on vLLM.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from augment_service.http.batcher import Batcher
from augment_service.http.requests import DEFAULT_ANSWER, Chat, Completion, Request, RequestError
from augment_service.http.tokenization import ModelTokenizer, TokenizedText
from data.records import Echo, Generation, Prompt, Refusal
from data.seeds import derive_seed

if TYPE_CHECKING:
    from augment_service.http.router import PoolRouter

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
        self._answers = Batcher(partial(router.ask, "answer"), width=router.width)
        self._echoes = Batcher(partial(router.ask, "echo"), width=router.width)
        # one thread: tokenizers are not thread-safe, and long texts must not block the event loop
        self._tokenizer_thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    @property
    def num_waiting(self) -> int:
        """Rows that no engine has yet."""
        return self._answers.num_waiting + self._echoes.num_waiting

    def models(self) -> dict[str, Any]:
        """The list of the one model."""
        entry = {"id": self.model, "object": "model", "created": 0, "owned_by": "entail", "max_model_len": self._window}
        return {"object": "list", "data": [entry]}

    async def complete(self, body: Completion) -> dict[str, Any]:
        """The answer of `/v1/completions`. Raises RequestError, InputError, ResumableError."""
        self._check_model(body)
        self._check_lengths(body.prompts(), "prompt")
        if body.logprobs is not None:
            return await self._score(body)
        prompts = [await self._read(prompt) for prompt in body.prompts()]
        texts = [text for text, _ in prompts]
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
        return self._response("text_completion", choices, [len(ids) for _, ids in prompts], rows)

    async def chat(self, body: Chat) -> dict[str, Any]:
        """The answer of `/v1/chat/completions`. Raises as `complete`."""
        self._check_model(body)
        turns = [{"role": message.role, "content": message.text()} for message in body.messages]
        self._check_lengths(["".join(turn["content"] for turn in turns)], "messages")
        text = await self._in_thread(self._texts.chat, turns)
        ids = await self._in_thread(self._texts.read, text)
        room = DEFAULT_ANSWER if self._window is None else max(min(self._window - len(ids), DEFAULT_ANSWER), 1)
        written = await self._write(body, [text], body.max_completion_tokens or body.max_tokens or room)
        message = {"role": "assistant", "content": written[0].text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": written[0].finish_reason}
        return self._response("chat.completion", [choice], [len(ids)], written)

    async def _score(self, body: Completion) -> dict[str, Any]:
        """An echo with the log-probability of every token of the prompt; and of one greedy token after it."""
        if not body.echo or body.max_tokens > 1 or (body.max_tokens and body.temperature > 0):
            raise RequestError(
                400,
                "log-probabilities are of the prompt: set echo, and max_tokens 0, or 1 at temperature 0",
                code="unsupported",
                param="logprobs",
            )
        tokenized = [await self._tokenize(prompt) for prompt in body.prompts()]
        empty = next((at for at, row in enumerate(tokenized) if not row.ids), None)
        if empty is not None:
            raise RequestError(400, f"prompt {empty} is empty", code="empty", param="prompt")
        echoes: list[Echo] = await self._ask(self._echoes, [row.ids for row in tokenized])
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
        seed = secrets.randbits(63) if body.seed is None else body.seed
        # else equal prompts of one request would get equal texts
        seeds = [seed, *(derive_seed(seed, at) for at in range(1, len(texts)))]
        stop = body.stop_text()
        prompts = [
            Prompt(str(at), "http", "", "", "", length, body.temperature, own, stop, before=text)
            for at, (text, own) in enumerate(zip(texts, seeds, strict=True))
        ]
        return await self._ask(self._answers, prompts)

    async def _ask(self, gatherer: Batcher, rows: Sequence[Any]) -> list[Any]:
        """The answers to all rows; the first refusal among them refuses the request."""
        answers = await gatherer.submit(rows)
        for at, answer in enumerate(answers):
            if isinstance(answer, Refusal):
                code = "context_length_exceeded" if answer.kind == "window" else answer.kind
                raise RequestError(400, f"prompt {at}: {answer.what}; {answer.hint}", code=code, param="prompt")
        return answers

    async def _read(self, prompt: str | list[int]) -> tuple[str, list[int]]:
        """The text of a prompt, and its ids."""
        text = prompt if isinstance(prompt, str) else await self._in_thread(self._texts.text_of, prompt)
        return text, await self._in_thread(self._texts.read, text)

    async def _tokenize(self, prompt: str | list[int]) -> TokenizedText:
        return await self._in_thread(self._texts.tokenize if isinstance(prompt, str) else self._texts.from_ids, prompt)

    async def _in_thread(self, work: Callable[..., Result], *args: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._tokenizer_thread, work, *args)

    def _check_lengths(self, prompts: Sequence[str | list[int]], param: str) -> None:
        """Refuse what no window holds before it is tokenized: that takes seconds, in which all others would wait."""
        if self._window is None:
            return
        for at, prompt in enumerate(prompts):
            is_text = isinstance(prompt, str)
            most = self._window * (self._texts.longest_token if is_text else 1)
            if len(prompt) > most:
                unit = "characters" if is_text else "tokens"
                what = f"prompt {at} has {len(prompt)} {unit}, a window of {self._window} tokens holds at most {most}"
                raise RequestError(400, what, code="context_length_exceeded", param=param)

    def _check_model(self, body: Request) -> None:
        if body.model != self.model:
            message = f'"{body.model}" is not served, but "{self.model}" is'
            raise RequestError(404, message, code="model_not_found", param="model")

    def _response(
        self, kind: str, choices: list[dict[str, Any]], sizes: Sequence[int], rows: Sequence[Generation]
    ) -> dict[str, Any]:
        num_read, num_written = sum(sizes), sum(row.num_tokens for row in rows)
        usage = {"prompt_tokens": num_read, "completion_tokens": num_written, "total_tokens": num_read + num_written}
        prefix = "chatcmpl" if kind == "chat.completion" else "cmpl"
        return {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": self._weights,
            "choices": choices,
            "usage": usage,
        }


def _finite(value: float | None) -> float | None:
    # JSON has no infinity
    return value if value is None or math.isfinite(value) else None
