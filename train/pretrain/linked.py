"""Pretraining documents about linked worlds, whose facts lead on from one to the next along named relations.

Two kinds, both fresh in every document. Hierarchies: "all skug are vaff", "vaff are more curious than zusu", so all
skug are more curious than zusu. Processes: "the maker of femp is glon", "the ruler of glon is zusu", so the ruler of
the maker of femp is zusu. Deductions name the shared term and the other premise before they conclude.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from data.worlds.language import Statement
from data.worlds.lexicon import FEATURES, NOTHING, NOUNS, ROLES, THEREFORE
from train.pretrain.documents import (
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

PROCESS_SHARE = 0.5

LINE = LineWeights(0.02, 1.0, 0.5, 0.1, 0.1)
ONE_OF_SEVERAL = LineWeights(0.02, 0.2, 0.5, 0.1, 0.1)  # "some vaff are ...": each member would do
PARTNER = LineWeights(0.3, 0.9, 0.5, 0.3, 0.2)  # often one of several that could stand here


@dataclass(frozen=True, slots=True)
class Step:
    """What a premise yields with a partner; `shared` is the term that links the two."""

    shared: str
    partner: Statement
    conclusion: Statement


@dataclass
class LinkedWorld:
    """The facts of one document; `steps` maps a premise to all that it yields."""

    facts: list[Statement] = field(default_factory=list)
    steps: dict[Statement, list[Step]] = field(default_factory=dict)
    conclusions: list[Statement] = field(default_factory=list)

    def link(self, shared: str, one: Statement, two: Statement, conclusion: Statement) -> None:
        """Add what two premises yield."""
        self.steps.setdefault(one, []).append(Step(shared, two, conclusion))
        self.steps.setdefault(two, []).append(Step(shared, one, conclusion))
        self.conclusions.append(conclusion)


def linked_document(rng: Random, length: int) -> Weighted:
    """A fresh hierarchy or process and what follows from it, of exactly `length` words (without the leading <s>)."""
    sample = sample_process if rng.random() < PROCESS_SHARE else sample_hierarchy
    world = sample(rng, draw_num_facts(rng, length))

    def task_line(preambles: float) -> Weighted:
        task = draw_task(rng)
        fact = rng.choice(world.facts)
        if task == DEDUCE and world.steps and rng.random() < 0.5:
            fact = rng.choice(list(world.steps))
        return write_task(rng, task, fact, _deduction(rng, world, fact) if task == DEDUCE else [], preambles)

    return compose(rng, length, world.facts, lambda: _plain_line(rng, world), task_line)


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
        # A category without members, now and then, and members of a category of which nothing is told.
        members = [next(nouns) for _ in range(rng.randint(0, most_members))]
        told = properties if rng.random() < 0.9 or not members else []
        world.facts += told
        for member in members:
            belongs = Statement("all", "", member, category)
            world.facts.append(belongs)
            for known in told:
                inherited = Statement("more", known.relation, member, known.second)
                world.link(category, belongs, known, inherited)
            if rng.random() < own_share:
                world.facts.append(Statement("more", rng.choice(others), member, next(nouns)))
    return _cut(rng, world, num_facts)


def sample_process(rng: Random, num_facts: int) -> LinkedWorld:
    """Entries of first and second steps and some worked examples of both, about `num_facts` facts."""
    world, nouns = LinkedWorld(), iter(rng.sample(NOUNS, len(NOUNS)))
    most = 1 if num_facts < 6 else 3
    num_firsts, num_seconds = rng.randint(1, most), rng.randint(1, most)
    roles = rng.sample(ROLES, num_firsts + num_seconds)
    firsts, seconds = roles[:num_firsts], roles[num_firsts:]
    told_share, missing_share = rng.choice((0.0, 0.2, 0.5)), rng.choice((0.0, 0.2))
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
            world.link(entry.second, entry, onward, both)
            if rng.random() < told_share:
                world.facts.append(both)
    return _cut(rng, world, num_facts)


def _cut(rng: Random, world: LinkedWorld, num_facts: int) -> LinkedWorld:
    """The world in a random order; where one fact alone is wanted, any one of them, from which nothing follows."""
    if num_facts == 1:
        return LinkedWorld([rng.choice([*world.facts, *world.conclusions])])
    rng.shuffle(world.facts)
    return world


def _plain_line(rng: Random, world: LinkedWorld) -> Weighted:
    draw = rng.random()
    if world.conclusions and draw < 0.5:
        return write_plain(rng, rng.choice(world.conclusions), LINE, concludes=True)
    fact = rng.choice(world.facts)
    if draw < 0.8 and " " not in fact.relation:
        return write_plain(rng, fact.reversed(), ONE_OF_SEVERAL if fact.form == "all" else LINE, concludes=False)
    return write_plain(rng, fact, LINE, concludes=False)


def _deduction(rng: Random, world: LinkedWorld, fact: Statement) -> Weighted:
    steps: Sequence[Step] = world.steps.get(fact, ())
    if not steps:
        return weigh(NOTHING, ANSWER)
    step = rng.choice(steps)
    trace = [(step.shared, 1.0), (":", 0.2), *weigh(step.partner.text(), PARTNER), *weigh(THEREFORE, ANSWER)]
    return [*trace, *weigh(step.conclusion.text(), ANSWER)]
