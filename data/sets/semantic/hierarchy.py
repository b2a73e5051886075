"""The skeleton of a semantic world: categories, their parents, properties and relations, all in nonsense words.

Reads `hierarchy.txt`, real categories in a natural order. A smaller world takes those nearest to the roots, a larger
one has several copies of the whole, each with words of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from data.sets.language import Statement
from data.sets.words import WordMaker

_FILE = Path(__file__).with_name("hierarchy.txt")
_PROPERTY_FORMS = ("trait", "able", "part")


@dataclass(frozen=True, slots=True)
class Category:
    """One line of the file: `properties` are (form, word), `relations` (verb, category); words are English here."""

    name: str
    parent: str
    depth: int
    properties: tuple[tuple[str, str], ...]
    relations: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Hierarchy:
    """A world's facts, canonical, and its categories in order; `parents` maps each category to the one above."""

    categories: tuple[str, ...]
    parents: dict[str, str]
    facts: tuple[Statement, ...]

    def children(self, category: str) -> list[str]:
        """The categories right below one."""
        return [child for child in self.categories if self.parents.get(child) == category]


@cache
def load_categories() -> tuple[Category, ...]:
    """The categories of the file, those nearest to the roots first."""
    above: list[str] = []
    found = []
    for line in _FILE.read_text().splitlines():
        if line.startswith("#"):
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, rest = line.strip().partition(":")
        *properties, relations = (part.split() for part in rest.replace(",", " ").split("|"))
        above[depth:] = [name]
        found.append(
            Category(
                name=name,
                parent=above[depth - 1] if depth else "",
                depth=depth,
                properties=tuple((f, w) for f, words in zip(_PROPERTY_FORMS, properties, strict=True) for w in words),
                relations=tuple(zip(relations[::2], relations[1::2], strict=True)),
            )
        )
    return tuple(sorted(found, key=lambda category: category.depth))


def make_hierarchy(categories: int, words: WordMaker) -> Hierarchy:
    """A world of that many categories; every English word of the file becomes one nonsense word."""
    source = load_categories()
    copies = [source[: min(len(source), categories - start)] for start in range(0, categories, len(source))]
    names: list[str] = []
    parents: dict[str, str] = {}
    facts: list[Statement] = []
    # Verbs of relations are shared by all copies: each needs several facts to make choices among.
    verb_of = cache(lambda verb: words.verb())
    for copy in copies:
        word = _make_dictionary(words)
        present = {category.name for category in copy}
        for category in copy:
            name = word("category", category.name)
            names.append(name)
            if category.parent:
                parents[name] = word("category", category.parent)
                facts.append(Statement("kind", "", name, parents[name]))
            facts += [Statement(form, "", name, word(form, what)) for form, what in category.properties]
            facts += [
                Statement("link", verb_of(verb), name, word("category", what))
                for verb, what in category.relations
                if what in present and what != category.name
            ]
    return Hierarchy(tuple(names), parents, tuple(facts))


def hold_out(hierarchy: Hierarchy, share: float, rng: Random) -> tuple[str, ...]:
    """Categories of which only the parent will be stated: leaves, at most one per parent, object of no relation.

    Their number is the share of all categories, or fewer if there are not enough.
    """
    objects = {fact.second for fact in hierarchy.facts if fact.form == "link"}
    members: dict[str, list[str]] = {}
    inner = set(hierarchy.parents.values())
    for category in hierarchy.categories:
        if category in hierarchy.parents and category not in inner:
            members.setdefault(hierarchy.parents[category], []).append(category)
    chosen = []
    for leaves in members.values():
        free = [leaf for leaf in leaves if leaf not in objects]
        if len(leaves) > 1 and free:
            chosen.append(rng.choice(free))
    return tuple(sorted(rng.sample(chosen, min(len(chosen), round(share * len(hierarchy.categories))))))


def _make_dictionary(words: WordMaker) -> Callable[[str, str], str]:
    """English word and its part in a sentence -> nonsense word, created at first use."""
    makers = {"category": words.noun, "trait": words.adjective, "able": words.verb, "part": words.noun}
    return cache(lambda part, word: makers[part]())
