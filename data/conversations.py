"""Conversations: the spellings of messages in common data sets, and the one form that a `Conversation` record holds.

That form is a JSON list of `{"role": ..., "content": ...}`. Reads and writes nothing.
"""

import msgspec

Message = dict[str, str]  # with the keys role and content
SPELLINGS = (("role", "content"), ("from", "value"))  # the second is that of ShareGPT
_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
USER, ASSISTANT = "user", "assistant"
_NAMES = {str: "a text", dict: "an object", bool: "a truth value", type(None): "null"}


def read_messages(value: object) -> list[Message]:
    """The messages of a row: a list of messages in one of the `SPELLINGS`, or the JSON of such a list.

    Other keys of a message are dropped. Raises ValueError if it is no conversation with a turn of the assistant.
    """
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"a text that is no JSON: {error}") from error
    if not isinstance(value, list):
        raise ValueError(f"{_NAMES.get(type(value), 'a number')} in place of a list of messages")
    messages = [_read_message(number, message) for number, message in enumerate(value, 1)]
    if not any(message["role"] == ASSISTANT for message in messages):
        raise ValueError("no turn of the assistant")
    return messages


def write_messages(messages: list[Message]) -> str:
    """The text of a `Conversation` record."""
    return msgspec.json.encode(messages).decode()


def _read_message(number: int, message: object) -> Message:
    """One message; in a table, the keys of the spelling that it does not use are null."""
    if not isinstance(message, dict):
        raise ValueError(f"message {number} is no object")
    keys = next((keys for keys in SPELLINGS if message.get(keys[0]) is not None), None)
    if keys is None:
        raise ValueError(f"message {number} has no role")
    role, content = (message.get(key) for key in keys)
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError(f"message {number} has the unknown role {str(role)[:40]!r}; known are {', '.join(_ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"the content of message {number} is {'missing' if content is None else 'not text'}")
    return {"role": _ROLES[role], "content": content}
