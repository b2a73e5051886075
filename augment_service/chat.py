"""Conversations by a model's own chat template: rendered whole, or as a frame around one user turn.

Reads nothing: the tokenizer has the template. Special tokens come from templates only, see `augment_service.tokens`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from data.errors import InputError

_CONTENT = "[content of the user's turn]"  # a marker: the rendered template is split at it


class Frame(NamedTuple):
    """The rendered text before and after the content of a user turn; the answer follows. Empty without a template."""

    before: str = ""
    after: str = ""


NO_FRAME = Frame()


def render(tokenizer: Any, messages: Sequence[dict[str, str]], *, where: str) -> str:
    """A conversation up to the answer, without the start token that is added to every text.

    Templates that can leave out a thinking part are asked to. Raises InputError without a template, and for messages
    that it refuses.
    """
    if not tokenizer.chat_template:
        raise InputError("this model has no chat template", where=where, hint="use a chat model, or plain prompts")
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except TemplateError as error:
        what = f"the model's chat template refuses these messages: {error}"
        raise InputError(what, where=where, hint="see its model card") from error
    begins = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return text.removeprefix(tokenizer.bos_token) if begins and tokenizer.bos_token else text


def frame(tokenizer: Any, system: str, *, where: str) -> Frame:
    """The frame of a user turn after a system turn; where the template has none, `system` begins the user turn.

    Raises InputError as `render`, and for a template that does not render the content once and unchanged.
    """
    user = {"role": "user", "content": _CONTENT}
    try:
        text = render(tokenizer, [{"role": "system", "content": system}] * bool(system) + [user], where=where)
    except InputError:
        if not system:
            raise
        text = ""
    if system and system not in text:  # refused or dropped
        text = render(tokenizer, [{**user, "content": f"{system}\n\n{_CONTENT}"}], where=where)
    parts = text.split(_CONTENT)
    if len(parts) != 2:
        what = f"the chat template renders the user's turn {len(parts) - 1} times"
        raise InputError(what, where=where, hint="use plain prompts (--prompts)")
    return Frame(*parts)
