"""Pretraining documents: each is a *fresh world*, whose bindings no other document shares.

Only looking things up in the context predicts such a document, so that is all there is to learn. A document states
its facts, then a separator, then lines that follow from them: restatements, reversals, conclusions, and instruction
lines (`reverse : F => R`). Every token carries a loss weight: high where the context decides it, low elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from data.worlds.closure import SYLLOGISMS
from data.worlds.language import PHRASINGS, Statement
from data.worlds.lexicon import (
    ARROW,
    CONCLUSION,
    END_OF_LINE,
    FEATURES,
    NOTHING,
    NOUNS,
    PREAMBLES,
    ROLES,
    SEPARATOR,
    THEREFORE,
)

# Kinds of fact that a world draws from; single kinds are frequent, since a mix lets a model match on the relation
# word instead of the entity.
WORLD_MIXES: tuple[tuple[str, ...], ...] = (
    ("comparison",),
    ("role",),
    ("quantified",),
    ("quantified",),
    ("comparison", "role"),
    ("comparison", "quantified"),
    ("role", "quantified"),
    ("comparison", "role", "quantified"),
)
TOKENS_PER_FACT = 7.0
_DIRECTION = frozenset("more less all some no nothing follows".split())
_RELATION = frozenset(FEATURES + ROLES)
_ENTITY = frozenset(NOUNS)

Weighted = list[tuple[str, float]]


@dataclass
class World:
    """The facts of one document; `partners` links the premises that share a middle term, both ways.

    `conclusions` maps a premise to what it yields together with its partner, where anything follows.
    """

    facts: list[Statement]
    partners: dict[Statement, Statement] = field(default_factory=dict)
    conclusions: dict[Statement, Statement] = field(default_factory=dict)


def sample_world(rng: Random, num_facts: int) -> World:
    """A world of about `num_facts` facts: entities, relations and their bindings drawn anew."""
    kinds = rng.choice(WORLD_MIXES)
    distinct = rng.choice((1, 2, 6, 28))
    features, roles = rng.sample(FEATURES, distinct), rng.sample(ROLES, min(distinct, len(ROLES)))
    reuse = rng.random() < 0.3
    quantifiers = (("all", 1.0),) if rng.random() < 0.4 else (("all", 0.5), ("some", 0.25), ("no", 0.25))
    less_share, backward_share = rng.choice((0.0, 0.3, 0.5)), rng.choice((0.0, 0.5, 1.0))
    pools = {kind: rng.sample(NOUNS, len(NOUNS)) for kind in kinds}
    if not reuse:
        shared = rng.sample(NOUNS, len(NOUNS))
        pools = dict.fromkeys(kinds, shared)
    world = World([])
    while len(world.facts) < num_facts:
        kind = rng.choice(kinds)
        pool = pools[kind]
        if len(pool) < 3:
            break
        if kind == "comparison":
            form = "less" if rng.random() < less_share else "more"
            world.facts.append(Statement(form, rng.choice(features), pool.pop(), pool.pop()))
        elif kind == "role":
            fact = Statement("is", rng.choice(roles), pool.pop(), pool.pop())
            world.facts.append(fact.reversed() if rng.random() < backward_share else fact)
        else:
            _add_quantified(world, rng, pool, quantifiers)
    rng.shuffle(world.facts)
    return world


def _add_quantified(world: World, rng: Random, pool: list[str], quantifiers: tuple[tuple[str, float], ...]) -> None:
    """One statement, or (three times of four) two that share their middle term."""

    def draw() -> str:
        return rng.choices([name for name, _ in quantifiers], [weight for _, weight in quantifiers])[0]

    one = Statement(draw(), "", pool.pop(), pool.pop())
    world.facts.append(one)
    if rng.random() < 0.75:
        two = Statement(draw(), "", one.second, pool.pop())
        world.facts.append(two)
        world.partners[one], world.partners[two] = two, one
        if quantifier := SYLLOGISMS.get((one.form, two.form)):
            conclusion = Statement(quantifier, "", one.first, two.second)
            world.conclusions[one] = world.conclusions[two] = conclusion


@dataclass(frozen=True)
class LineWeights:
    """Loss weights by the part that a word plays in its line."""

    first: float
    second: float
    direction: float
    relation: float
    other: float


FACT = LineWeights(0.02, 0.02, 0.02, 0.02, 0.02)
PLAIN = LineWeights(0.02, 1.0, 1.0, 0.7, 0.1)
GIVEN = LineWeights(0.02, 0.3, 0.2, 0.2, 0.05)
ANSWER = LineWeights(1.0, 1.0, 1.5, 0.7, 0.2)
REPHRASED = LineWeights(1.0, 1.0, 1.0, 0.7, 0.6)


def weigh(text: str, weights: LineWeights, *, opening: float | None = None) -> Weighted:
    """The words of a statement with their weights; `opening` overrides those before the first entity."""
    line: Weighted = []
    entities = 0
    for word in text.split():
        if word in _ENTITY:
            entities += 1
            weight = weights.first if entities == 1 else weights.second
        elif entities == 0 and opening is not None:
            weight = opening
        elif word in _DIRECTION:
            weight = weights.direction
        elif word in _RELATION:
            weight = weights.relation
        else:
            weight = weights.other
        line.append((word, weight))
    return line


def world_document(rng: Random, length: int) -> Weighted:
    """A fresh world and what follows from it, of exactly `length` words (without the leading <s>)."""
    share = rng.uniform(0.25, 0.6)
    num_facts = max(1, round(length * share / TOKENS_PER_FACT))
    if length < 200 and rng.random() < 0.15:
        num_facts = 1
    world = sample_world(rng, num_facts)
    preambles, phrasings = rng.choice((0.0, 0.3, 1.0)), rng.choice((0.0, 0.5))
    words: Weighted = []
    for fact in world.facts:
        words += [*weigh(_dress(rng, fact, preambles, phrasings), FACT), (END_OF_LINE, 0.02)]
    words += [(SEPARATOR, 0.02), (END_OF_LINE, 0.02)]
    tasks = rng.choices((0.0, 0.5, 1.0), (0.3, 0.4, 0.3))[0]
    while len(words) < length:
        words += _task_line(rng, world, preambles) if rng.random() < tasks else _plain_line(rng, world)
    return words[:length]


def _dress(rng: Random, fact: Statement, preambles: float, phrasings: float) -> str:
    """A fact as a document would put it."""
    phrasing = rng.randrange(len(PHRASINGS[fact.form])) if rng.random() < phrasings else 0
    preamble = rng.choice(PREAMBLES) + " " if rng.random() < preambles else ""
    return preamble + fact.text(phrasing)


def _plain_line(rng: Random, world: World) -> Weighted:
    fact = rng.choice(world.facts)
    draw = rng.random()
    if world.conclusions and draw < 0.45:
        statement = rng.choice(list(world.conclusions.values()))
    elif draw < 0.75:
        statement = fact.reversed()
    else:
        statement = fact
    phrasing = 0 if rng.random() < 0.8 else rng.randrange(3)
    opening = f"{CONCLUSION} " if statement in world.conclusions.values() and rng.random() < 0.5 else ""
    return [*weigh(opening + statement.text(phrasing), PLAIN, opening=0.05), (END_OF_LINE, 0.1)]


def _task_line(rng: Random, world: World, preambles: float) -> Weighted:
    fact = rng.choice(world.facts)
    task = rng.choices(("reverse", "rephrase", "deduce"), (0.25, 0.2, 0.55))[0]
    if task == "deduce" and world.conclusions and rng.random() < 0.7:
        fact = rng.choice(list(world.conclusions))
    given = weigh(_dress(rng, fact, preambles, 0.1), GIVEN)
    if task == "reverse":
        answer = weigh(fact.reversed().text(), ANSWER)
    elif task == "rephrase":
        phrasing = rng.randrange(1, 3)
        preamble = rng.choice(PREAMBLES) + " " if rng.random() < 0.3 else ""
        answer = weigh(preamble + fact.text(phrasing), REPHRASED, opening=0.3)
    else:
        answer = _deduction(world, fact)
    return [(task, 0.02), (":", 0.1), *given, (ARROW, 0.2), *answer, (END_OF_LINE, 0.3)]


def _deduction(world: World, fact: Statement) -> Weighted:
    """What the model writes: the shared term, the other premise, then what follows. It links before it concludes."""
    if fact not in world.partners:
        return weigh(NOTHING, ANSWER)
    partner, conclusion = world.partners[fact], world.conclusions.get(fact)
    shared = fact.second if fact.second == partner.first else fact.first
    trace = [(shared, 1.0), (":", 0.2), *weigh(partner.text(), ANSWER), *weigh(THEREFORE, ANSWER)]
    return [*trace, *weigh(conclusion.text() if conclusion else NOTHING, ANSWER)]


def lookup_document(rng: Random, length: int, *, chained: bool) -> Weighted:
    """Key-value pairs and their look-ups, forward, backward or over two pairs: the circuits that all else builds on.

    A chained document has pairs (A B, B C) and also asks for the far end of A, marked by a filler word of its own.
    """
    gap, lead = rng.randrange(5), rng.randrange(2)
    *fillers, far = rng.sample(PREAMBLE_WORDS, gap + lead + 1)
    num_pairs = max(2, round(length * rng.uniform(0.3, 0.5) / (3 + gap + lead)))
    names = rng.sample(NOUNS, 2 * num_pairs)
    pairs = list(zip(names[::2], names[1::2], strict=True))
    chains = []
    if chained:
        triples = [names[3 * i : 3 * i + 3] for i in range(max(1, num_pairs // 2))]
        pairs = [pair for a, b, c in triples for pair in ((a, b), (b, c))]
        chains = [(a, c) for a, _, c in triples]
        rng.shuffle(pairs)
    backward = rng.choice((0.0, 0.0, 0.5, 1.0))
    words: Weighted = []

    def line(one: str, two: str, answer: float, between: Sequence[str]) -> Weighted:
        head = [(word, 0.02) for word in (*fillers[:lead], one, *between)]
        return [*head, (two, answer), (END_OF_LINE, 0.02)]

    for one, two in pairs:
        words += line(one, two, 0.0, fillers[lead:])
    words += [(SEPARATOR, 0.02), (END_OF_LINE, 0.02)]
    while len(words) < length:
        if chains and rng.random() < 0.6:
            words += line(*rng.choice(chains), 1.0, [far, *fillers[lead + 1 :]])
            continue
        one, two = rng.choice(pairs)
        words += line(*((two, one) if rng.random() < backward else (one, two)), 1.0, fillers[lead:])
    return words[:length]


PREAMBLE_WORDS = tuple(dict.fromkeys(" ".join(PREAMBLES).replace(",", "").split()))
