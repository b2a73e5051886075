"""Validated answers of an OpenAI-compatible server: what is not certain is a `MalformedAnswerError`, never a number.

Pure functions over decoded JSON.
"""

import math
from dataclasses import dataclass
from typing import Any

from augment_service.engines.endpoint.client import MalformedAnswerError, RowError
from data.records import Generation

MAX_LOG_PROBABILITY = 1e-4  # nats; rounding may lift the log-probability of a certain token slightly above zero


@dataclass(frozen=True, slots=True)
class ScoredText:
    """The log-probability (nats) of each token of a continuation, and whether each was the most likely one."""

    values: tuple[float, ...]
    greedy: bool


def model_names(content: dict[str, Any]) -> list[str]:
    """The models that the server has, from the answer of `/models`."""
    entries = content.get("data")
    if not isinstance(entries, list):
        raise MalformedAnswerError("a list of models without data")
    return [entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def usage_of(content: dict[str, Any]) -> tuple[int, int, int]:
    """Tokens read, those of them from the server's prefix cache (where it says so), and tokens written."""
    usage = content.get("usage")
    if not isinstance(usage, dict):
        raise MalformedAnswerError("it has no usage")
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return _count(usage.get("prompt_tokens")), _count(cached or 0), _count(usage.get("completion_tokens") or 0)


def read_written(content: dict[str, Any], prompt_id: str) -> Generation:
    """The text of a completion, or of a chat's message.

    Raises RowError if the server ended it for another reason than a stop or the length.
    """
    choice = _choice(content)
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    reason = choice.get("finish_reason")
    if not isinstance(text, str) or not isinstance(reason, str):
        raise MalformedAnswerError("it has no text, or no reason for its end")
    if reason not in ("stop", "length"):
        raise RowError(f'the server ended the text: "{reason}"')
    num_read, _, num_written = usage_of(content)
    return Generation(prompt_id, text, reason, num_written, num_read)


def read_scored(content: dict[str, Any], text: str, boundary: int) -> ScoredText:
    """The tokens of the echoed `text` that reach past the character `boundary`.

    A server that counts its start-of-text token shifts all offsets by that token's length, so they are read from the
    text's end. The chosen tokens must spell the rest of the text: otherwise its start among them is unknown.
    """
    logprobs = _choice(content).get("logprobs")
    if not isinstance(logprobs, dict):
        raise MalformedAnswerError("it has no logprobs (does the server allow echo with logprobs?)")
    tokens, values, tops, offsets = _columns(logprobs, "tokens", "token_logprobs", "top_logprobs", "text_offset")
    if not tokens or not all(isinstance(token, str) for token in tokens):
        raise MalformedAnswerError("it has no tokens, or some that are not text")
    ends = [_count(at) + len(token) for at, token in zip(offsets, tokens, strict=True)]
    shift = ends[-1] - len(text)
    first = next(at for at, end in enumerate(ends) if end - shift > boundary)  # the last one ends beyond it
    if offsets != sorted(offsets) or "".join(tokens[first:]) != text[max(offsets[first] - shift, 0) :]:
        raise MalformedAnswerError("its tokens do not spell the text that was sent")
    if first == 0:
        raise RowError("no token precedes the continuation", "empty")
    chosen = tuple(_log_probability(value) for value in values[first:])
    return ScoredText(chosen, all(_is_best(value, top) for value, top in zip(chosen, tops[first:], strict=True)))


def _choice(content: dict[str, Any]) -> dict[str, Any]:
    choices = content.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise MalformedAnswerError("it does not have exactly one choice")
    return choices[0]


def _columns(logprobs: dict[str, Any], *names: str) -> list[list[Any]]:
    columns = [logprobs.get(name) for name in names]
    lists = [column for column in columns if isinstance(column, list)]
    if len(lists) != len(names) or len({len(column) for column in lists}) != 1:
        raise MalformedAnswerError(f"{', '.join(names)} are not lists of one length")
    return lists


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise MalformedAnswerError(f"{value!r} is not a count")
    return value


def _log_probability(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise MalformedAnswerError(f"{value!r} is not a log-probability")
    if not math.isfinite(value) or value > MAX_LOG_PROBABILITY:
        raise MalformedAnswerError(f"{value} is not a log-probability")
    return float(value)


def _is_best(value: float, top: object) -> bool:
    if not isinstance(top, dict) or not top:
        raise MalformedAnswerError("it does not say which token is the most likely")
    return value >= max(_log_probability(other) for other in top.values())
