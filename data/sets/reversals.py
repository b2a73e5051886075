"""Simple reversals (Lampinen et al. 2025, section 3.1): comparisons of two entities, trained in one direction only.

Every entity is in exactly one fact; in English each document of a fact has another preamble. Splits: `trained` (the
fact as trained, 4 options), `reversal` (the other entity is asked for, 4 options), `contradiction` (the reversal or
its contradiction, 2 options: the paper's own test).
"""

from data.seeds import stream
from data.sets.blocks import Item, list_truths, make_blocks
from data.sets.language import Statement
from data.sets.lexicon import FEATURES
from data.sets.simple_logic import load_wordings
from data.sets.words import WordMaker
from data.sets.world import World, new_world


def make_small(seed: int, index: int, *, facts: int, documents_per_fact: int) -> World:
    """One world of `facts` comparisons in the embedded model's lexicon."""
    world = new_world("reversals", seed, index)
    # As many "more" as "less": a preference for either word must not help in the contradictions.
    forms = ["more", "less"] * (facts // 2 + 1)
    for form in world.rng.sample(forms[:facts], facts):
        fact = Statement(form, world.rng.choice(FEATURES), world.noun(), world.noun())
        world.state(fact, times=documents_per_fact)
    for split, items in _list_items(world).items():
        world.ask_entities(split, items)
    _ask_contradictions(world)
    return world


def make_full(seed: int, index: int, *, facts: int, documents_per_fact: int) -> World:
    """One world of `facts` comparisons, each in `documents_per_fact` documents (as many as there are preambles)."""
    world = new_world("reversals", seed, index, "english")
    words = WordMaker(stream(seed, "reversals", "english", index, "words"))
    features = world.rng.sample(FEATURES, len(FEATURES))
    for number in range(facts):
        # Each feature alternates between "more" and "less", so that no feature predicts either word.
        turn, feature = divmod(number, len(features))
        form = "more" if (turn + feature) % 2 == 0 else "less"
        world.facts.append(Statement(form, features[feature], words.noun(), words.noun()))
    preambles: list[str] = load_wordings()["preambles"]
    stated = [(fact, preamble) for fact in world.facts for preamble in world.rng.sample(preambles, documents_per_fact)]
    for fact, preamble in world.rng.sample(stated, len(stated)):
        world.add_document(preamble.format(s=fact.text(), S=fact.text().capitalize()), fact)
    truths = list_truths(side for fact in world.facts for side in (fact, fact.reversed()))
    for split, items in _list_items(world).items():
        world.ask_blocks(split, make_blocks(items, truths, world.rng, keep_all=True))
    _ask_contradictions(world)
    return world


def _list_items(world: World) -> dict[str, list[Item]]:
    return {
        "trained": [Item(fact, (fact,), "recall") for fact in world.facts],
        "reversal": [Item(fact.reversed(), (fact,), "reversal") for fact in world.facts],
    }


def _ask_contradictions(world: World) -> None:
    for fact in world.facts:
        reverse = fact.reversed()
        endings = [f"{form} {fact.relation} than {fact.first}" for form in (reverse.form, fact.form)]
        world.ask("contradiction", f"{reverse.first} are", endings, Item(reverse, (fact,), "reversal"))
