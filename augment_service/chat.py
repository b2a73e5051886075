"""Conversations by a model's own chat template: rendered whole, or as a frame around one user turn.

Reads nothing: the tokenizer has the template. Special tokens come from templates only, see `augment_service.tokens`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from jinja2 import TemplateError

from data.errors import InputError

_CONTENT, _ANSWER = "[content of the user's turn]", "[the answer]"  # the rendered template is split at these
# Some templates tell the date. A frame must be the same on the day that work resumes; Llama 3's has this day, too.
_DAY: dict[str, Any] = {"strftime_now": datetime(2024, 7, 26).strftime}


class Frame(NamedTuple):
    """The rendered text before and after the content of a user turn; the answer follows. Empty without a template."""

    before: str = ""
    after: str = ""


class AnswerFrame(NamedTuple):
    """As `Frame`, for an answer that is given: `joiner` is the space that the template sets before it."""

    before: str = ""
    after: str = ""
    joiner: str = ""


NO_FRAME, NO_ANSWER_FRAME = Frame(), AnswerFrame()


def render(
    tokenizer: Any, messages: Sequence[dict[str, str]], *, where: str, answered: bool = False, **variables: Any
) -> str:
    """A conversation up to the answer, without the start token that is added to every text.

    With `answered` the last message is the answer, and nothing follows it. Templates that can leave out a thinking part
    are asked to; they get the `variables`, too. Raises InputError without a template, and for messages that it refuses.
    """
    if not tokenizer.chat_template:
        raise InputError("this model has no chat template", where=where, hint="use a chat model, or plain prompts")
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=not answered, enable_thinking=False, **variables
        )
    except TemplateError as error:
        what = f"the model's chat template refuses these messages: {error}"
        raise InputError(what, where=where, hint="see its model card") from error
    begins = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return text.removeprefix(tokenizer.bos_token) if begins and tokenizer.bos_token else text


def frame(tokenizer: Any, system: str, turns: Sequence[tuple[str, str]] = (), *, where: str) -> Frame:
    """The frame of a user turn after a system turn and other `turns` of user and assistant.

    Where the template has no system turn, `system` begins the first user turn. Where a template tells the date, it is
    always the same one. Raises InputError as `render`, and for a template that does not render the content once and
    unchanged.
    """
    messages = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    messages.append({"role": "user", "content": _CONTENT})
    try:
        head = [{"role": "system", "content": system}] * bool(system)
        text = render(tokenizer, head + messages, where=where, **_DAY)
    except InputError:
        if not system:
            raise
        text = ""
    if system and system not in text:  # refused or dropped
        messages[0] = {**messages[0], "content": f"{system}\n\n{messages[0]['content']}"}
        text = render(tokenizer, messages, where=where, **_DAY)
    parts = text.split(_CONTENT)
    if len(parts) != 2:
        what = f"the chat template renders the user's turn {len(parts) - 1} times"
        raise InputError(what, where=where, hint="use plain prompts")
    return Frame(*parts)


def answer_frame(tokenizer: Any, *, where: str) -> AnswerFrame:
    """As `frame` without a system turn. The joiner is "" in most templates.

    Llama 2 and Mistral have a space between the mark of the answer and its text, and know no answers without it.
    """
    around = frame(tokenizer, "", where=where)
    said = [{"role": "user", "content": _CONTENT}, {"role": "assistant", "content": _ANSWER}]
    try:
        text: str = tokenizer.apply_chat_template(said, tokenize=False, enable_thinking=False, **_DAY)
    except TemplateError:
        return AnswerFrame(*around)
    before, _, _ = text.partition(_ANSWER)
    _, found, space = before.rpartition(around.after or _CONTENT)
    return AnswerFrame(*around, space if found and space.isspace() else "")
