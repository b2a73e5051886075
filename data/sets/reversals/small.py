"""Simple reversals (Lampinen et al. 2025, section 3.1): comparisons of two entities, trained in one direction only.

Every entity is in exactly one fact. Splits: `trained` (the fact as trained, 4 options), `reversal` (the other
entity is asked for, 4 options), `contradiction` (less or more, 2 options: the paper's own test).
"""

from data.sets.blocks import Item
from data.sets.language import Statement
from data.sets.lexicon import FEATURES
from data.sets.world import World, new_world


def make_world(seed: int, index: int, *, facts: int, documents_per_fact: int) -> World:
    """One world of `facts` comparisons."""
    world = new_world("reversals", seed, index)
    # As many "more" as "less": a preference for either word must not help in the contradictions.
    forms = ["more", "less"] * (facts // 2 + 1)
    for form in world.rng.sample(forms[:facts], facts):
        fact = Statement(form, world.rng.choice(FEATURES), world.noun(), world.noun())
        world.state(fact, times=documents_per_fact)
    world.ask_entities("trained", [Item(fact, (fact,), "recall") for fact in world.facts])
    world.ask_entities("reversal", [Item(fact.reversed(), (fact,), "reversal") for fact in world.facts])
    for fact in world.facts:
        reverse = fact.reversed()
        subject, _, _ = reverse.text().partition(f" {reverse.form}")
        endings = [f"{form} {fact.relation} than {fact.first}" for form in (reverse.form, fact.form)]
        world.ask("contradiction", subject, endings, Item(reverse, (fact,), "reversal"))
    return world
