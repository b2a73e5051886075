"""How the semantic worlds are read: every wording of documents and tests, and likely paraphrases of both."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from data.sets.derivation import SEMANTIC
from data.sets.grammar import Grammar
from data.sets.oracle import by_sentence, by_theory

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
    groups = (*styles["style"].values(), styles["answers"], styles["test"], paraphrases)
    listed = [(form, text) for group in groups for form, texts in group.items() for text in texts]
    templates: dict[str, list[str]] = {}
    fillers: list[str] = []
    for form, text in listed:
        question, _, answer = text.rpartition(ANSWER)
        fillers += [question.removeprefix("Q: ")] if question else []
        if form == "openings":
            fillers.append(text)
        else:
            templates.setdefault(form, []).append(answer)
    return Grammar(templates, noise=NOISE, inflected=True, fillers=fillers)


# The templates are read when they are first needed.
LOGIC = by_theory(lambda text: by_sentence(grammar().read_sentence, text), SEMANTIC)
