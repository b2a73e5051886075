"""A reversal-curse set (section 3.3; Berglund et al. 2023) within the small lexicon: names and descriptions.

A description is a role in something ("the composer of glon"); it names one person. Three groups of people: only
name -> description is trained (p2d), only description -> name (d2p), or both. Splits: `trained` (the trained
direction) and `reversal` (description -> name about p2d people; wrong names are those that end a training
document, so that finetuning can fall below chance).
"""

from data.sets.blocks import Item
from data.sets.language import Statement
from data.sets.lexicon import ROLES
from data.sets.world import World, new_world


def make_world(seed: int, index: int, *, people_per_group: int, documents_per_fact: int) -> World:
    """One world of three groups of `people_per_group` people."""
    world = new_world("reversal-curse", seed, index)

    def person() -> Statement:
        return Statement("is", world.rng.choice(ROLES), world.noun(), world.noun())

    groups = {name: [person() for _ in range(people_per_group)] for name in ("p2d", "d2p", "both")}
    stated = [*groups["p2d"], *groups["both"]] + [fact.reversed() for fact in (*groups["d2p"], *groups["both"])]
    for fact in world.rng.sample(stated, len(stated)):
        world.state(fact, times=documents_per_fact, varied=True)
    ended = [fact.first for fact in (*groups["d2p"], *groups["both"])]
    for fact in groups["p2d"]:
        world.ask_entity("reversal", Item(fact.reversed(), (fact,), "reversal"), ended)
    world.ask_entities("trained", [Item(fact, (fact,), "recall") for fact in groups["p2d"]])
    backward = [fact.reversed() for fact in groups["d2p"]]
    world.ask_entities("trained", [Item(fact, (fact,), "recall") for fact in backward])
    return world
