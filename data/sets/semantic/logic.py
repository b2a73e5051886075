"""How the semantic worlds are read: every wording of documents and tests, and likely paraphrases of both."""

import tomllib
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from data.sets.derivation import SEMANTIC, contradicts, derive
from data.sets.grammar import Grammar
from data.sets.oracle import Logic

HERE = Path(__file__).parent
NOISE = ("the", "also", "too", "all", "each", "indeed", "certainly")
ANSWER = " A: "  # between a question and its answer in the templates


@cache
def load_styles() -> dict[str, Any]:
    """The templates of documents and tests, by style and form."""
    return tomllib.loads((HERE / "styles.toml").read_text())


@cache
def grammar() -> Grammar:
    """The reader of all texts of the semantic worlds."""
    styles, paraphrases = load_styles(), tomllib.loads((HERE / "paraphrases.toml").read_text())
    templates: dict[str, list[str]] = {}
    fillers: list[str] = []
    for form, text in _listed(styles, paraphrases):
        question, _, answer = text.rpartition(ANSWER)
        fillers += [question.removeprefix("Q: ")] if question else []
        if form == "openings":
            fillers.append(text)
        else:
            templates.setdefault(form, []).append(answer)
    return Grammar(templates, noise=NOISE, inflected=True, fillers=fillers)


@cache
def logic() -> Logic:
    """Reading and deduction for the semantic worlds."""
    return Logic(grammar().read, partial(derive, theory=SEMANTIC), partial(contradicts, theory=SEMANTIC))


def _listed(styles: dict[str, Any], paraphrases: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for group in (*styles["style"].values(), styles["answers"], styles["test"], paraphrases):
        for form, texts in group.items():
            for text in texts:
                yield form, text
