"""How the reversal-curse set is read: a sentence that names a person and a description equates them.

A description is "the QUALITY PROFESSION from HOME who DEED" of our lists; a name is two capitalised words in a row.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from data.sets.derivation import PLAIN, Derivation, derive
from data.sets.language import Statement
from data.sets.oracle import Logic, Reading, by_sentence

_CAPITALS = re.compile(r"[A-Z][\w'’-]+(?: [A-Z][\w'’-]+)+")
_DENIAL = re.compile(r"\b(?:not|never|no longer)\b|n't\b", re.IGNORECASE)


@dataclass(frozen=True)
class People:
    """The parts of names, descriptions and documents; templates by direction."""

    first_names: tuple[str, ...]
    surname_heads: tuple[str, ...]
    surname_tails: tuple[str, ...]
    qualities: tuple[str, ...]
    professions: tuple[str, ...]
    deeds: tuple[str, ...]
    train: dict[str, list[str]]
    test: dict[str, list[str]]


@cache
def load_people() -> People:
    """The content of `people.toml`."""
    content = tomllib.loads(Path(__file__).with_name("people.toml").read_text())
    for key, text in content.items():
        if isinstance(text, str):  # phrases are divided by semicolons, words by spaces
            content[key] = tuple(" ".join(part.split()) for part in (text.split(";") if ";" in text else text.split()))
    return People(**content)


@cache
def _description() -> re.Pattern[str]:
    people = load_people()
    quality, profession, deed = (
        "|".join(map(re.escape, words)) for words in (people.qualities, people.professions, people.deeds)
    )
    return re.compile(rf"\bthe (?:{quality}) (?:{profession}) from [A-Z][a-z]+ who (?:{deed})", re.IGNORECASE)


def _read(text: str) -> Reading:
    # Some templates use two sentences, so the text is read as a whole if none of its sentences states anything.
    found = by_sentence(_read_part, text)
    if any(statements for _, statements in found):
        return [(part, statements or ()) for part, statements in found]
    return [(text, _read_part(text))]


def _read_part(text: str) -> tuple[Statement, ...] | None:
    described = _description().search(text)
    if not described:
        return None
    before, what, after = text[: described.start()], described.group(), text[described.end() :]
    named = [*_CAPITALS.findall(before), *_CAPITALS.findall(after)]
    if len(named) != 1:
        return None
    name, description = " ".join(named[0].split()[-2:]), what[0].lower() + what[1:]
    if _DENIAL.search(before + after):
        return (Statement("not-is", "", name, description),)
    forward = named[0] in before
    return (Statement("is", "", name, description) if forward else Statement("of", "", description, name),)


def _contradicts(statement: Statement, derived: Mapping[Statement, Derivation]) -> bool:
    """A denial of what holds, another description of a person, or another person of a description."""
    canonical = statement.canonical()
    if canonical.form == "not-is":
        return Statement("is", "", canonical.first, canonical.second) in derived
    return any(
        known.form == "is" and (known.first == canonical.first) != (known.second == canonical.second)
        for known in derived
    )


# A description names one person, a person has one description.
LOGIC = Logic(_read, partial(derive, theory=PLAIN), _contradicts)
