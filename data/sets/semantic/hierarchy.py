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
    verbs: dict[str, str] = {}
    for copy in copies:
        # Verbs of relations are shared by all copies: each needs several facts to make choices among.
        word = _Dictionary({"category": words.noun, "trait": words.adjective, "able": words.verb, "part": words.noun})
        present = {category.name for category in copy}
        for category in copy:
            name = word("category", category.name)
            names.append(name)
            if category.parent:
                parents[name] = word("category", category.parent)
                facts.append(Statement("kind", "", name, parents[name]))
            facts += [Statement(form, "", name, word(form, what)) for form, what in category.properties]
            for verb, what in category.relations:
                if what in present and what != category.name:
                    if verb not in verbs:
                        verbs[verb] = words.verb()
                    facts.append(Statement("link", verbs[verb], name, word("category", what)))
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


class _Dictionary:
    """English word and its part in a sentence -> nonsense word, created at first use."""

    def __init__(self, makers: dict[str, Callable[[], str]]) -> None:
        self._makers = makers
        self._words: dict[tuple[str, str], str] = {}

    def __call__(self, part: str, word: str) -> str:
        if (part, word) not in self._words:
            self._words[part, word] = self._makers[part]()
        return self._words[part, word]
