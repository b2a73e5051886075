"""Pretraining documents: each is a *fresh world*, whose bindings no other document shares.

Such a document can be predicted only by look-ups in the context, so that is all there is to learn. A document states
its facts, then a separator, then lines that follow from them: restatements, reversals, conclusions, and instruction
lines (`reverse : F => R`). Every token has a loss weight: high where the context decides it, low elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from data.sets import lexicon
from data.sets.derivation import SYLLOGISMS
from data.sets.language import PHRASINGS, Statement

# The kinds of fact of a world; single kinds are frequent, since in a mix a model can match on the relation word instead
# of the entity.
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
REVERSE, REPHRASE, DEDUCE = lexicon.TASKS
_DIRECTION = frozenset("more less all some no nothing follows".split())
_RELATION = frozenset(lexicon.FEATURES + lexicon.ROLES)
_ENTITY = frozenset(lexicon.NOUNS)

Weighted = list[tuple[str, float]]


@dataclass
class World:
    """The facts of one document; `partners` links the premises that share a middle term, both ways.

    `conclusions` maps a premise to the conclusion from it and its partner, if there is one.
    """

    facts: list[Statement]
    partners: dict[Statement, Statement] = field(default_factory=dict)
    conclusions: dict[Statement, Statement] = field(default_factory=dict)


def sample_world(rng: Random, num_facts: int) -> World:
    """A world of about `num_facts` facts: fresh entities, relations and bindings."""
    kinds = rng.choice(WORLD_MIXES)
    distinct = rng.choice((1, 2, 6, 28))
    features = rng.sample(lexicon.FEATURES, distinct)
    roles = rng.sample(lexicon.ROLES, min(distinct, len(lexicon.ROLES)))
    reuse = rng.random() < 0.3
    quantifiers = (("all", 1.0),) if rng.random() < 0.4 else (("all", 0.5), ("some", 0.25), ("no", 0.25))
    less_share, backward_share = rng.choice((0.0, 0.3, 0.5)), rng.choice((0.0, 0.5, 1.0))
    pools = {kind: rng.sample(lexicon.NOUNS, len(lexicon.NOUNS)) for kind in kinds}
    if not reuse:
        shared = rng.sample(lexicon.NOUNS, len(lexicon.NOUNS))
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
    """Loss weights by the role of a word in its line."""

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
    world = sample_world(rng, draw_num_facts(rng, length))

    def task_line(preambles: float) -> Weighted:
        fact = rng.choice(world.facts)
        task = draw_task(rng)
        if task == DEDUCE and world.conclusions and rng.random() < 0.7:
            fact = rng.choice(list(world.conclusions))
        return write_task(rng, task, fact, _deduction(world, fact) if task == DEDUCE else [], preambles)

    return compose(rng, length, world.facts, lambda: _plain_line(rng, world), task_line)


def draw_num_facts(rng: Random, length: int) -> int:
    """The number of facts in a document of `length` words; sometimes a single one, as in local tasks."""
    share = rng.uniform(0.25, 0.6)
    if length < 200 and rng.random() < 0.15:
        return 1
    return max(1, round(length * share / TOKENS_PER_FACT))


def compose(
    rng: Random,
    length: int,
    facts: Sequence[Statement],
    plain_line: Callable[[], Weighted],
    task_line: Callable[[float], Weighted],
) -> Weighted:
    """Facts, a separator, and lines of both kinds up to `length` words; `task_line` takes the share of preambles."""
    preambles, phrasings = rng.choice((0.0, 0.3, 1.0)), rng.choice((0.0, 0.5))
    words: Weighted = []
    for fact in facts:
        words += [*weigh(_dress(rng, fact, preambles, phrasings), FACT), (lexicon.END_OF_LINE, 0.02)]
    words += [(lexicon.SEPARATOR, 0.02), (lexicon.END_OF_LINE, 0.02)]
    tasks = rng.choices((0.0, 0.5, 1.0), (0.3, 0.4, 0.3))[0]
    while len(words) < length:
        words += task_line(preambles) if rng.random() < tasks else plain_line()
    return words[:length]


def _dress(rng: Random, fact: Statement, preambles: float, phrasings: float) -> str:
    """A fact as a document phrases it."""
    phrasing = rng.randrange(len(PHRASINGS[fact.form])) if rng.random() < phrasings else 0
    preamble = rng.choice(lexicon.PREAMBLES) + " " if rng.random() < preambles else ""
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
    return write_plain(rng, statement, PLAIN, concludes=statement in world.conclusions.values())


def write_plain(rng: Random, statement: Statement, weights: LineWeights, *, concludes: bool) -> Weighted:
    """A statement as a line of its own, in some phrasing; half of the conclusions are introduced as such."""
    phrasing = 0 if rng.random() < 0.8 else rng.randrange(3)
    opening = f"{lexicon.CONCLUSION} " if concludes and rng.random() < 0.5 else ""
    return [*weigh(opening + statement.text(phrasing), weights, opening=0.05), (lexicon.END_OF_LINE, 0.1)]


def draw_task(rng: Random) -> str:
    """One of the three instructions."""
    return rng.choices((REVERSE, REPHRASE, DEDUCE), (0.25, 0.2, 0.55))[0]


def write_task(rng: Random, task: str, fact: Statement, deduction: Weighted, preambles: float) -> Weighted:
    """An instruction line about a fact; `deduction` is its answer where the task is to deduce."""
    given = weigh(_dress(rng, fact, preambles, 0.1), GIVEN)
    if task == REVERSE:
        answer = weigh(fact.reversed().text(), ANSWER)
    elif task == REPHRASE:
        phrasing = rng.randrange(1, 3)
        preamble = rng.choice(lexicon.PREAMBLES) + " " if rng.random() < 0.3 else ""
        answer = weigh(preamble + fact.text(phrasing), REPHRASED, opening=0.3)
    else:
        answer = deduction
    return [(task, 0.02), (":", 0.1), *given, (lexicon.ARROW, 0.2), *answer, (lexicon.END_OF_LINE, 0.3)]


def _deduction(world: World, fact: Statement) -> Weighted:
    """The answer to a deduction: the shared term, the other premise, then the conclusion."""
    if fact not in world.partners:
        return weigh(lexicon.NOTHING, ANSWER)
    partner, conclusion = world.partners[fact], world.conclusions.get(fact)
    shared = fact.second if fact.second == partner.first else fact.first
    trace = [(shared, 1.0), (":", 0.2), *weigh(partner.text(), ANSWER), *weigh(lexicon.THEREFORE, ANSWER)]
    return [*trace, *weigh(conclusion.text() if conclusion else lexicon.NOTHING, ANSWER)]
