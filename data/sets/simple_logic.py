"""How the simple sets are read: comparisons and quantified statements, after any preamble."""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from data.sets.derivation import PLAIN
from data.sets.grammar import Grammar
from data.sets.language import Statement, read_plain
from data.sets.oracle import by_sentence, by_theory

NOISE = ("the", "also", "ever", "always", "much", "far", "really", "indeed", "even")
# "The relationships between glon, troff and yomp are:" names entities and states nothing.
_HEADER = re.compile(r"\bthe relationships? between [^:.]*(?::|\bis|\bare)\s*", re.IGNORECASE)
_SLOT = re.compile(r"\{[sS]\}.*")


@cache
def load_wordings() -> dict[str, Any]:
    """Preambles, and wordings by form."""
    return tomllib.loads(Path(__file__).with_name("wordings.toml").read_text())


@cache
def grammar() -> Grammar:
    """The reader of comparisons and quantified statements."""
    wordings = load_wordings()
    openings = [_SLOT.sub("", preamble) for preamble in wordings["preambles"]]
    return Grammar(wordings["forms"], noise=NOISE, kept=("no", "if"), openings=openings)


def _read_sentence(sentence: str) -> tuple[Statement, ...] | None:
    return read_plain(sentence) or grammar().read_sentence(sentence)


# For both sets, whether in English or in the embedded model's lexicon.
LOGIC = by_theory(lambda text: by_sentence(_read_sentence, _HEADER.sub("", text)), PLAIN)
