"""Documents to sentences: the unit of local augmentation."""

import re

_LATIN_END = re.compile(r"([.!?][\"')\]]*)\s+")  # a mark, closing quotes, then space
_CJK_END = re.compile(r"([。！？][」』”]*)")  # no space follows there


def split_sentences(text: str) -> list[str]:
    """The sentences of a text in order, stripped, none empty; a line end always ends one."""
    marked = _CJK_END.sub(r"\1\n", _LATIN_END.sub(r"\1\n", text))
    return [line.strip() for line in marked.splitlines() if line.strip()]
