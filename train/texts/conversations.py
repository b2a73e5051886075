"""Conversations become token ids through the model's chat template; the assistant's turns are learned.

Reads and writes nothing. Message contents are text: a control token in one is encoded as its characters.
"""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from augment_service.chat import render
from data.errors import InputError
from train.texts.encode import EncodedRows, TextLimits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLACEHOLDER = "[turn {}]"
_ROLES = ("system", "user", "assistant")


def encode_conversations(
    conversations: Sequence[str], tokenizer: "PreTrainedTokenizerBase", limits: TextLimits, *, where: str
) -> EncodedRows:
    """A row for each assistant's turn of each conversation.

    What precedes the turn is context; the turn and its end token are the labels.
    A conversation is a JSON list of `{"role": ..., "content": ...}`. A row that is longer than the window is skipped.
    Raises InputError for a conversation in another form, without an assistant's turn, or that the template refuses.
    """
    if not tokenizer.is_fast:
        what = "turns cannot be told apart: this tokenizer gives no offsets"
        raise InputError(what, where=where, hint="name a model with a fast tokenizer (tokenizer.json)")
    found = EncodedRows()
    for index, text in enumerate(conversations):
        messages = _read(text, where)
        for turn in [at for at, message in enumerate(messages) if message["role"] == "assistant"]:
            row, first = _encode(messages[: turn + 1], tokenizer, where)
            if len(row) > limits.window:
                found.skipped += 1
            elif first < len(row):
                found.add(index, row, first)
            else:
                found.empty += 1
    return found


def _encode(messages: list[dict[str, str]], tokenizer: Any, where: str) -> tuple[list[int], int]:
    """The tokens of a conversation that ends in an assistant's turn, and the index of the turn's first one."""
    has_control_tokens = any(
        token in message["content"] for message in messages for token in _control_tokens(tokenizer)
    )
    shown = messages
    if has_control_tokens:  # placeholders for the contents leave only the template's own control tokens
        shown = [{**message, "content": _PLACEHOLDER.format(at)} for at, message in enumerate(messages)]
    before = render(tokenizer, shown[:-1], where=where)
    whole = render(tokenizer, shown, where=where, answered=True).rstrip()
    if not whole.startswith(before):
        what = "the chat template renders an assistant's turn otherwise than it asks for one"
        raise InputError(what, where=where, hint="train on plain documents, or use another template")
    start = [tokenizer.bos_token_id] if tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id] else []
    if not has_control_tokens:
        encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in encoded["offset_mapping"]]
        first = next((at for at, end in enumerate(ends) if end > len(before)), len(ends))
        return [*start, *encoded["input_ids"]], len(start) + first
    rows: list[list[int]] = []
    for part in (before, whole[len(before) :]):
        pieces = [
            tokenizer(text, add_special_tokens=False, split_special_tokens=is_content)["input_ids"]
            for text, is_content in _split(part, messages, where)
        ]
        rows.append([token for piece in pieces for token in piece])
    return [*start, *rows[0], *rows[1]], len(start) + len(rows[0])


def _control_tokens(tokenizer: Any) -> set[str]:
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)


def _split(part: str, messages: Sequence[dict[str, str]], where: str) -> Iterator[tuple[str, bool]]:
    """The template's own text and the messages' contents, in order: each text, and whether it is content."""
    for at, message in enumerate(messages):
        own, mark, rest = part.partition(_PLACEHOLDER.format(at))
        if mark:
            yield own, False
            yield message["content"], True
            part = rest
    if any(_PLACEHOLDER.format(at) in part for at in range(len(messages))):
        raise InputError("the chat template renders a turn twice", where=where, hint="train on plain documents")
    yield part, False


def _read(text: str, where: str) -> list[dict[str, str]]:
    try:
        messages = json.loads(text)
    except ValueError:
        messages = None
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        what, hint = f"no conversations: {text[:80]!r}", "each row is a list of messages with a role and a content"
        raise InputError(what, where=where, hint=hint)
    for message in messages:
        if message.get("role") not in _ROLES or not isinstance(message.get("content"), str):
            what = f"a message needs a role ({', '.join(_ROLES)}) and its content as text: {str(message)[:80]}"
            raise InputError(what, where=where, hint="drop tool calls and parts that are not text")
    if not any(message["role"] == "assistant" for message in messages):
        what = f"a conversation without a turn of the assistant: {text[:80]}"
        raise InputError(what, where=where, hint="drop it: there is nothing to learn")
    return [{"role": message["role"], "content": message["content"]} for message in messages]
