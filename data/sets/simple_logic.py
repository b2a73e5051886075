"""How the simple sets are read: comparisons and quantified statements, after any preamble."""

import re
import tomllib
from functools import cache, partial
from pathlib import Path
from typing import Any

from data.sentences import split_sentences
from data.sets.derivation import PLAIN, contradicts, derive
from data.sets.grammar import Grammar
from data.sets.language import parse
from data.sets.oracle import Logic, Reading

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


@cache
def logic() -> Logic:
    """Reading and deduction for both sets, whether in English or in the embedded model's lexicon."""
    return Logic(_read, partial(derive, theory=PLAIN), partial(contradicts, theory=PLAIN))


def _read(text: str) -> Reading:
    found: Reading = []
    for sentence in split_sentences(_HEADER.sub("", text)):
        statement = parse(sentence)
        found.append((sentence, (statement,) if statement else grammar().read_sentence(sentence)))
    return found
