"""Documents to sentences: the unit of local augmentation."""

import re

# A full stop, question or exclamation mark of any common script, closing quotes, then space; or a line end.
_BOUNDARY = re.compile(r"(?<=[.!?。！？])[\"')\]]*\s+|\n+")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text in order, stripped, none empty."""
    return [part.strip() for part in _BOUNDARY.split(text) if part.strip()]
