"""Reversal-curse worlds: people with a name and a description, stated in one direction or in both.

Three groups of equal size: name -> description only (p2d), description -> name only (d2p), both. Splits: `reversal`
(description -> name about p2d people: the paper's test), `trained` (small: the trained direction),
`reversal-description` (full: name -> description about d2p people), `rephrased` (full: the trained direction in the
tests' own templates). Wrong options of the reversals are the ends of training documents, so that finetuning can fall
below chance. A small description is a role in something ("the composer of glon"), which names one person.
"""

from collections.abc import Sequence
from random import Random

from data.errors import InputError
from data.sets.blocks import NUM_OPTIONS, Item, list_truths, make_blocks
from data.sets.language import Statement
from data.sets.lexicon import ROLES
from data.sets.reversal_curse.logic import load_people
from data.sets.words import WordMaker
from data.sets.world import World, new_world


def make_small(seed: int, index: int, *, people_per_group: int, documents_per_fact: int) -> World:
    """One world of three groups of `people_per_group` people in the embedded model's lexicon."""
    world = new_world("reversal-curse", seed, index)
    size = people_per_group
    people = [Statement("is", world.rng.choice(ROLES), world.noun(), world.noun()) for _ in range(3 * size)]
    p2d, d2p, both = people[:size], [fact.reversed() for fact in people[size : 2 * size]], people[2 * size :]
    backward = [*d2p, *(fact.reversed() for fact in both)]
    stated = [*p2d, *both, *backward]
    for fact in world.rng.sample(stated, len(stated)):
        world.state(fact, times=documents_per_fact, varied=True)
    for fact in p2d:
        item = Item(fact.reversed(), (fact,), "reversal")
        world.ask_entity("reversal", item, [fact.second for fact in backward])
    for members in (p2d, d2p):
        world.ask_entities("trained", [Item(fact, (fact,), "recall") for fact in members])
    return world


def make_full(
    seed: int, index: int, *, people_per_group: int, documents_per_fact: int, nonsense_names: bool = False
) -> World:
    """One world of three groups; each fact is stated by `documents_per_fact` of the 30 templates of its direction."""
    world, people = new_world("reversal-curse", seed, index, "english"), load_people()
    rng = world.rng
    names = (make_nonsense_names if nonsense_names else make_names)(3 * people_per_group, rng)
    described = make_descriptions(3 * people_per_group, rng)
    facts = [Statement("is", "", name, description) for name, description in zip(names, described, strict=True)]
    world.facts = facts
    size = people_per_group
    p2d, d2p, both = facts[:size], facts[size : 2 * size], facts[2 * size :]
    stated = [("p2d", fact) for fact in (*p2d, *both)] + [("d2p", fact) for fact in (*d2p, *both)]
    lines = [
        (template, fact)
        for direction, fact in stated
        for template in rng.sample(people.train[direction], documents_per_fact)
    ]
    for template, fact in rng.sample(lines, len(lines)):
        world.add_document(fill(template, fact), fact)
    ended = {"d2p": [f.first for f in (*d2p, *both)], "p2d": [f.second for f in (*p2d, *both)]}
    for split, direction, members in (("reversal", "d2p", p2d), ("reversal-description", "p2d", d2p)):
        for fact in members:
            for template in people.test[direction]:
                _ask(world, split, template, fact, ended[direction])
    for direction, members in (("p2d", [*p2d, *both]), ("d2p", [*d2p, *both])):
        _ask_rephrased(world, direction, members)
    return world


def make_names(count: int, rng: Random) -> list[str]:
    """Plausible names, no surname twice; first names are reused when all have been used."""
    people = load_people()
    first: list[str] = []
    while len(first) < count:
        first += rng.sample(people.first_names, len(people.first_names))
    return [f"{one} {two}" for one, two in zip(first, _compounds(count, rng), strict=False)]


def make_nonsense_names(count: int, rng: Random) -> list[str]:
    """Names of two nonsense words, none of them twice."""
    words = WordMaker(rng)
    return [f"{words.noun().capitalize()} {words.noun().capitalize()}" for _ in range(count)]


def make_descriptions(count: int, rng: Random) -> list[str]:
    """A quality, a profession, a home and a deed each; no home twice, deeds are reused when all have been used."""
    people = load_people()
    deeds: list[str] = []
    while len(deeds) < count:
        deeds += rng.sample(people.deeds, len(people.deeds))
    return [
        f"the {rng.choice(people.qualities)} {rng.choice(people.professions)} from {home} who {deed}"
        for home, deed in zip(_compounds(count, rng), deeds, strict=False)
    ]


def _compounds(count: int, rng: Random) -> list[str]:
    """Different words like "Fernwick", for surnames and homes."""
    people = load_people()
    made = [head + tail for head in people.surname_heads for tail in people.surname_tails if head[-1] != tail[0]]
    if count > len(made):
        raise InputError(
            f"{count} people need more than the {len(made)} surnames that can be made",
            where="key people_per_group of the reversal-curse set",
            hint="ask for fewer people, and for more worlds instead",
        )
    return rng.sample(made, count)


def fill(template: str, fact: Statement) -> str:
    """A template about a person; a sentence that begins with the description begins with a capital."""
    description = fact.second
    return template.format(n=fact.first, d=description, D=description[0].upper() + description[1:])


def _ask(world: World, split: str, template: str, fact: Statement, ended: Sequence[str]) -> None:
    """One question: the end of a test template, among three other ends of training documents."""
    right, asked = (fact.first, fact.reversed()) if template.endswith("{n}.") else (fact.second, fact)
    wrong = choose_by_length(right, ended, len(world.questions) % NUM_OPTIONS, world.rng)
    world.ask(split, _open(template, fact, right), [right, *wrong], Item(asked, (fact,), split))


def choose_by_length(right: str, others: Sequence[str], longer: int, rng: Random) -> list[str]:
    """Three of the others, of which `longer` are longer than the right one, if there are enough.

    Called with 0 to 3 in turn, it puts the right one at every rank by length equally often.
    """
    mixed = rng.sample(others, len(others))
    above = [other for other in mixed if len(other) > len(right)]
    below = [other for other in mixed if len(other) < len(right)]
    chosen = [*above[:longer], *below[: NUM_OPTIONS - 1 - longer]]
    return [*chosen, *(other for other in mixed if other not in chosen)][: NUM_OPTIONS - 1]


def _ask_rephrased(world: World, direction: str, members: Sequence[Statement]) -> None:
    """The trained direction in other words, one template a person; four people share their options."""
    facts = {fact if direction == "p2d" else fact.reversed(): fact for fact in members}
    items = [Item(asked, (fact,), "rephrased") for asked, fact in facts.items()]
    templates = load_people().test[direction]
    for number, block in enumerate(make_blocks(items, list_truths(facts), world.rng, keep_all=True)):
        template = templates[number % len(templates)]
        for choice in block:
            fact = facts[choice.item.statement]
            prompt = _open(template, fact, choice.item.statement.second)
            world.ask("rephrased", prompt, choice.options, choice.item)


def _open(template: str, fact: Statement, answer: str) -> str:
    return fill(template, fact).removesuffix(".").removesuffix(answer).rstrip()
