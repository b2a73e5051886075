"""Conversations become token ids through the model's chat template; the assistant's turns are learned.

Reads and writes nothing. Message contents are text: a control token in one is encoded as its characters.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from augment_service.chat import render
from data.conversations import ASSISTANT, USER, Message, read_messages
from data.errors import InputError
from data.seeds import fingerprint
from train.texts.encode import EncodedRows, TextLimits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLACEHOLDER = "[turn {}]"
_VERSION = 2  # raise it when the same conversation would become other tokens


def conversations_key(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Names what decides the rows of a conversation beside its text, the tokenizer's vocabulary and the limits."""
    return fingerprint(_VERSION, str(tokenizer.chat_template))


def encode_conversations(
    conversations: Sequence[str], tokenizer: "PreTrainedTokenizerBase", limits: TextLimits, *, where: str
) -> EncodedRows:
    """A row for each assistant's turn of each conversation, which is the text of a `Conversation` record.

    What precedes the turn is context; the turn and its end token are the labels. A row that is longer than
    `limits.window` loses its earliest turns, or is skipped; it is skipped, too, if the turn with the user's turn before
    it is longer. A turn that nothing precedes answers nothing and counts as empty. Raises InputError for a text that is
    no conversation or that the template refuses.
    """
    _refuse_slow(tokenizer, where)
    found = EncodedRows()
    for index, text in enumerate(conversations):
        here = f"{where}: {text[:80]}"
        try:
            messages = read_messages(text)
        except ValueError as error:
            hint = "import conversations with `entail data import --messages-column`"
            raise InputError(f"no conversation: {error}", where=here, hint=hint) from error
        for turn in [at for at, message in enumerate(messages) if message["role"] == ASSISTANT]:
            _add_turn(found, index, messages[: turn + 1], tokenizer, limits, here)
    return found


def encode_answers(
    answers: Sequence[str],
    questions: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    limits: TextLimits,
    *,
    where: str,
) -> EncodedRows:
    """As `encode_conversations`, of conversations of two turns: a question of the user and its answer."""
    _refuse_slow(tokenizer, where)
    found = EncodedRows()
    for index, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        messages = [{"role": USER, "content": question}, {"role": ASSISTANT, "content": answer}]
        _add_turn(found, index, messages, tokenizer, limits, f"{where}: {answer[:80]}")
    return found


def _refuse_slow(tokenizer: "PreTrainedTokenizerBase", where: str) -> None:
    if not tokenizer.is_fast:
        what = "turns cannot be told apart: this tokenizer gives no offsets"
        raise InputError(what, where=where, hint="name a model with a fast tokenizer (tokenizer.json)")


def _add_turn(
    found: EncodedRows, index: int, messages: list[Message], tokenizer: Any, limits: TextLimits, where: str
) -> None:
    """Add the row of the last turn of `messages`, or count it."""
    if len(messages) == 1:  # templates do not render an empty conversation
        found.empty += 1
        return
    row, first = _encode(messages, tokenizer, where)
    is_long = len(row) > limits.window
    if is_long and limits.long == "cut":
        row, first = _without_earliest(messages, tokenizer, limits.window, where)
    if len(row) > limits.window:
        found.skipped += 1
    elif first < len(row):
        found.cut += is_long
        found.add(index, row, first)
    else:
        found.empty += 1


def _without_earliest(messages: list[Message], tokenizer: Any, window: int, where: str) -> tuple[list[int], int]:
    """As `_encode`, without as many of the earliest turns as it takes to fit the window, if that is possible.

    System turns at the beginning are kept. The turns that follow begin with the user's, as templates demand.
    """
    num_system = next((at for at, message in enumerate(messages) if message["role"] != "system"), 0)
    begins = [at for at, message in enumerate(messages) if message["role"] == "user"] or [num_system]

    def encode(begin: int) -> tuple[list[int], int]:
        return _encode([*messages[:num_system], *messages[begin:]], tokenizer, where)

    kept = bisect_left(begins[:-1], True, key=lambda begin: len(encode(begin)[0]) <= window)
    return encode(begins[kept])


def _encode(messages: list[Message], tokenizer: Any, where: str) -> tuple[list[int], int]:
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


def _split(part: str, messages: Sequence[Message], where: str) -> Iterator[tuple[str, bool]]:
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
