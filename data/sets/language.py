"""Statements of the generated sets and their text: printing, parsing, reversing.

A statement keeps the order in which its two entities are named, because that order is what reversal questions test:
`Statement("more", "dangerous", "femp", "glon")` is "femp are more dangerous than glon", and its reversal is
`Statement("less", "dangerous", "glon", "femp")`.
"""

import re
from dataclasses import dataclass
from functools import cache

from data.sets.lexicon import ABOUT, CONCLUSION, PREAMBLES

# Form -> phrasings. The first one is the plain form; {a} always precedes {b}, so no phrasing is a reversal.
PHRASINGS: dict[str, tuple[str, ...]] = {
    "more": ("{a} are more {r} than {b}", "{a} are much more {r} than {b}", "{a} seem more {r} than {b}"),
    "less": ("{a} are less {r} than {b}", "{a} are much less {r} than {b}", "{a} seem less {r} than {b}"),
    "is": ("{a} is the {r} of {b}", "{a} is known as the {r} of {b}", "{a} became the {r} of {b}"),
    "of": ("the {r} of {a} is {b}", "the {r} of {a} is known as {b}", "the {r} of {a} is called {b}"),
    "all": ("all {a} are {b}", "all {a} are also {b}", "all {a} count as {b}"),
    "some": ("some {a} are {b}", "some {a} are also {b}", "some {a} count as {b}"),
    "no": ("no {a} are {b}", "no {a} are ever {b}", "no {a} count as {b}"),
}
QUANTIFIERS = ("all", "some", "no")
# "All" converts only to "some" (with existential import, as in the paper's lenient reading).
_REVERSED_FORM = {"more": "less", "less": "more", "is": "of", "of": "is", "all": "some", "some": "some", "no": "no"}
# What a category is, is like, can do, has, and does to another; the second form names the predicate first.
SEMANTIC_FORMS = {"kind": "kinds", "trait": "traits", "able": "ables", "part": "parts", "link": "linked"}
_REVERSED_FORM |= SEMANTIC_FORMS | {backward: forward for forward, backward in SEMANTIC_FORMS.items()}
_BACKWARD = frozenset(("less", "of", *SEMANTIC_FORMS.values()))
_ABOUT = re.compile(ABOUT.format(a="[a-z]+", b="[a-z]+"))
_ROLE = r"(?P<r>[a-z]+(?: of the [a-z]+)?)"  # a role, or one role after another: "the ruler of the maker of skug"


@dataclass(frozen=True, slots=True, order=True)
class Statement:
    """`form` is a key of PHRASINGS, or a semantic form; `first` is named first.

    `relation` is a feature, a role (or two of them: "ruler of the maker") or a verb, "" where the form needs none.
    """

    form: str
    relation: str
    first: str
    second: str

    def reversed(self) -> "Statement":
        """The statement that follows and names the entities in the other order."""
        return Statement(_REVERSED_FORM[self.form], self.relation, self.second, self.first)

    def canonical(self) -> "Statement":
        """One representative of all statements that say the same: "less" and "of" become "more" and "is"."""
        return self.reversed() if self.form in _BACKWARD else self

    def text(self, phrasing: int = 0) -> str:
        """The statement as a line of text, without a preamble."""
        return PHRASINGS[self.form][phrasing].format(a=self.first, b=self.second, r=self.relation)

    def prompt(self, phrasing: int = 0) -> str:
        """The text up to the second entity: what a question asks to continue."""
        return self.text(phrasing).removesuffix(self.second).rstrip()


def parse(text: str) -> Statement | None:
    """The statement that a line makes, in any phrasing and after any preamble; None if it makes none."""
    line = " ".join(text.lower().replace(",", " , ").rstrip(" .").split())
    line = _ABOUT.sub(CONCLUSION, line)
    for preamble in (*PREAMBLES, CONCLUSION):
        line = line.removeprefix(preamble + " ")
    for form, pattern in _patterns():
        if match := pattern.fullmatch(line):
            found = match.groupdict()
            return Statement(form, found.get("r") or "", found["a"], found["b"])
    return None


def read_plain(sentence: str) -> tuple[Statement] | None:
    """What a sentence of the closed language states."""
    statement = parse(sentence)
    return (statement,) if statement else None


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    words = {name: f"(?P<{name}>[a-z]+)" for name in "abr"}
    roles = words | {"r": _ROLE}
    return tuple(
        (form, re.compile(phrasing.format(**(roles if form in ("is", "of") else words))))
        for form, phrasings in PHRASINGS.items()
        for phrasing in phrasings
    )
