"""Pretraining documents about syllogisms whose premises share their middle term in any position.

The plain worlds only have "all skug are vaff", "no vaff are zusu": the middle ends one premise and begins the other.
Here it may also begin both, or end both.
"""

from random import Random

from data.sets.forms import make_premise
from data.sets.language import QUANTIFIERS, Statement
from data.sets.lexicon import NOUNS
from models.pretrain.documents import ANSWER, Weighted, draw_num_facts
from models.pretrain.linked import Link, LinkedWorld, cut, write_linked

# Premises about a, the middle m and b; the quantifier of the conclusion about a and b ("": none); their frequency.
PAIRS: tuple[tuple[str, str, str, float], ...] = (
    ("all am", "all mb", "all", 3.0),
    ("all am", "no mb", "no", 3.0),
    ("some am", "all mb", "some", 2.0),
    ("some ma", "all mb", "some", 3.0),
    ("all am", "no bm", "no", 2.0),
    ("some am", "some mb", "", 0.4),
    ("no am", "no mb", "", 0.4),
    ("all am", "some mb", "", 0.4),
)
ALONE = 0.1  # of the draws are a single statement, from which nothing follows


def syllogism_document(rng: Random, length: int) -> Weighted:
    """Fresh syllogisms and what follows from them."""
    return write_linked(rng, length, sample_syllogisms(rng, draw_num_facts(rng, length)))


def sample_syllogisms(rng: Random, num_facts: int) -> LinkedWorld:
    """Pairs of premises, about `num_facts` of them."""
    world, nouns = LinkedWorld(), iter(rng.sample(NOUNS, len(NOUNS)))
    weights = [weight for *_, weight in PAIRS]
    while len(world.facts) < num_facts:
        if rng.random() < ALONE:
            world.facts.append(Statement(rng.choice(QUANTIFIERS), "", next(nouns), next(nouns)))
            continue
        one, two, quantifier, _ = rng.choices(PAIRS, weights)[0]
        terms = {term: next(nouns) for term in "amb"}
        premises = tuple(make_premise(text, terms) for text in (one, two))
        world.facts += premises
        forward = Statement(quantifier, "", terms["a"], terms["b"]) if quantifier else None
        # A symmetric conclusion begins with the term of the given premise.
        backward = forward.reversed() if forward and quantifier != "all" else forward
        world.link(premises[0], Link(terms["m"], premises[1], forward, ANSWER))
        world.link(premises[1], Link(terms["m"], premises[0], backward, ANSWER))
        if forward and backward:
            world.conclusions.append(rng.choice((forward, backward)))
    return cut(rng, world, num_facts)
