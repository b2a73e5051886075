"""Pretraining documents about linked worlds, whose facts combine into conclusions.

Three kinds, each fresh in every document. Hierarchies: "all skug are vaff", "vaff are more curious than zusu", so all
skug are more curious than zusu. Processes: "the maker of femp is glon", "the ruler of glon is zusu", so the ruler of
the maker of femp is zusu. Syllogisms: `models.pretrain.syllogisms`. Deductions name the shared term and the other
premise before they conclude.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from data.sets.language import QUANTIFIERS, Statement
from data.sets.lexicon import ABOUT, END_OF_LINE, FEATURES, NOTHING, NOUNS, ROLES, THEREFORE
from models.pretrain.documents import (
    ANSWER,
    DEDUCE,
    LineWeights,
    Weighted,
    compose,
    draw_num_facts,
    draw_task,
    weigh,
    write_plain,
    write_task,
)

LINE = LineWeights(0.02, 1.0, 0.5, 0.1, 0.1)
ONE_OF_SEVERAL = LineWeights(0.02, 0.2, 0.5, 0.1, 0.1)  # "some vaff are ...": each member would do
NAMED = LineWeights(1.0, 1.0, 1.5, 0.7, 0.1)  # after both terms were named
# Of the other premise in a deduction: often one of several possible ones; a step, which its role identifies.
MEMBERSHIP = LineWeights(0.3, 0.9, 0.5, 0.3, 0.2)
STEP = LineWeights(1.0, 1.0, 0.5, 1.0, 0.2)


@dataclass(frozen=True, slots=True)
class Link:
    """A premise's partner and conclusion; `shared` is the term that links the two, `weights` are the partner's.

    `conclusion` is None where nothing follows from the two.
    """

    shared: str
    partner: Statement
    conclusion: Statement | None
    weights: LineWeights


@dataclass
class LinkedWorld:
    """The facts of one document; `links` maps a premise to all of its links."""

    facts: list[Statement] = field(default_factory=list)
    links: dict[Statement, list[Link]] = field(default_factory=dict)
    conclusions: list[Statement] = field(default_factory=list)

    def link(self, premise: Statement, link: Link) -> None:
        """Add a link of a premise."""
        self.links.setdefault(premise, []).append(link)


def write_linked(rng: Random, length: int, world: LinkedWorld) -> Weighted:
    """A document about a world, of exactly `length` words (without the leading <s>)."""

    def task_line(preambles: float) -> Weighted:
        task = draw_task(rng)
        fact = rng.choice(world.facts)
        if task == DEDUCE and world.links and rng.random() < 0.5:
            fact = rng.choice(list(world.links))
        return write_task(rng, task, fact, _deduction(rng, world, fact) if task == DEDUCE else [], preambles)

    return compose(rng, length, world.facts, lambda: _plain_line(rng, world), task_line)


def hierarchy_document(rng: Random, length: int) -> Weighted:
    """A fresh hierarchy and what follows from it."""
    return write_linked(rng, length, sample_hierarchy(rng, draw_num_facts(rng, length)))


def process_document(rng: Random, length: int) -> Weighted:
    """A fresh process and what follows from it."""
    return write_linked(rng, length, sample_process(rng, draw_num_facts(rng, length)))


def sample_hierarchy(rng: Random, num_facts: int) -> LinkedWorld:
    """Categories with members and properties, and members with properties of their own, about `num_facts` facts."""
    world, nouns = LinkedWorld(), iter(rng.sample(NOUNS, len(NOUNS)))
    features = rng.sample(FEATURES, rng.choice((3, 6, 12, 28)))
    most_members, most_properties, own_share = rng.randint(1, 4), rng.randint(1, 3), rng.choice((0.0, 0.5, 1.0))
    while len(world.facts) < num_facts:
        category = next(nouns)
        chosen = rng.sample(features, rng.randint(min(1, most_properties), most_properties))
        properties = [Statement("more", feature, category, next(nouns)) for feature in chosen]
        others = [feature for feature in features if feature not in chosen] or features[:1]
        # Sometimes a category has no members, or no stated properties.
        members = [next(nouns) for _ in range(rng.randint(0, most_members))]
        stated = properties if rng.random() < 0.9 or not members else []
        world.facts += stated
        for member in members:
            belongs = Statement("all", "", member, category)
            world.facts.append(belongs)
            for owned in stated:
                inherited = replace(owned, first=member)
                world.link(belongs, Link(category, owned, inherited, MEMBERSHIP))
                world.link(owned, Link(category, belongs, inherited, MEMBERSHIP))
                world.conclusions.append(inherited)
            if rng.random() < own_share:
                world.facts.append(Statement("more", rng.choice(others), member, next(nouns)))
    return cut(rng, world, num_facts)


def sample_process(rng: Random, num_facts: int) -> LinkedWorld:
    """Entries of first and second steps and some worked examples of both, about `num_facts` facts."""
    world, nouns = LinkedWorld(), iter(rng.sample(NOUNS, len(NOUNS)))
    most = 1 if num_facts < 6 else 3
    num_firsts, num_seconds = rng.randint(1, most), rng.randint(1, most)
    roles = rng.sample(ROLES, num_firsts + num_seconds)
    firsts, seconds = roles[:num_firsts], roles[num_firsts:]
    example_share, missing_share = rng.choice((0.0, 0.2, 0.5)), rng.choice((0.0, 0.2))
    while len(world.facts) < num_facts:
        name, first = next(nouns), rng.choice(firsts)
        entry = Statement("of", first, name, next(nouns))
        world.facts.append(entry)
        for second in seconds:
            if rng.random() < missing_share:
                continue
            onward = Statement("of", second, entry.second, next(nouns))
            world.facts.append(onward)
            both = Statement("of", f"{second} of the {first}", name, onward.second)
            world.link(entry, Link(entry.second, onward, both, STEP))
            # Reversed, it begins with the shared term: the model could not look back for "the maker of femp".
            world.link(onward, Link(entry.second, entry.reversed(), both, STEP))
            world.conclusions.append(both)
            if rng.random() < example_share:
                world.facts.append(both)
    return cut(rng, world, num_facts)


def cut(rng: Random, world: LinkedWorld, num_facts: int) -> LinkedWorld:
    """The world in a random order; for a single fact, any one of them, from which nothing follows."""
    if num_facts == 1:
        return LinkedWorld([rng.choice([*world.facts, *world.conclusions])])
    rng.shuffle(world.facts)
    return world


def _plain_line(rng: Random, world: LinkedWorld) -> Weighted:
    draw = rng.random()
    if world.conclusions and draw < 0.5:
        statement = rng.choice(world.conclusions)
        if statement.form in QUANTIFIERS and draw < 0.3:
            return _write_named(rng, statement)
        return write_plain(rng, statement, LINE, concludes=True)
    fact = rng.choice(world.facts)
    if draw < 0.8 and " " not in fact.relation:
        return write_plain(rng, fact.reversed(), ONE_OF_SEVERAL if fact.form == "all" else LINE, concludes=False)
    return write_plain(rng, fact, LINE, concludes=False)


def _write_named(rng: Random, statement: Statement) -> Weighted:
    """Both terms in either order, then what follows about them: "skug , zusu : it follows that no zusu are skug"."""
    one, two = rng.sample((statement.first, statement.second), 2)
    introduction = [(word, 0.02) for word in ABOUT.format(a=one, b=two).split()]
    return [*introduction, *weigh(statement.text(), NAMED), (END_OF_LINE, 0.1)]


def _deduction(rng: Random, world: LinkedWorld, fact: Statement) -> Weighted:
    links: Sequence[Link] = world.links.get(fact, ())
    if not links:
        return weigh(NOTHING, ANSWER)
    link = rng.choice(links)
    trace = [(link.shared, 1.0), (":", 0.2), *weigh(link.partner.text(), link.weights), *weigh(THEREFORE, ANSWER)]
    return [*trace, *weigh(link.conclusion.text() if link.conclusion else NOTHING, ANSWER)]
