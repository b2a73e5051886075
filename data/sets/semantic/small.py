"""A semantic world within the embedded model's lexicon: categories, their members, and what the members inherit.

"all skug are vaff" puts a category below another, "vaff are more curious than zusu" states a property: so all skug are
more curious than zusu. Two levels, one step of inheritance. The splits are those of the full set. `rephrased` uses
a phrasing that no document uses; reversals are "zusu are less curious than vaff", and "some vaff are skug", the
strongest statement that follows the other way round.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from data.baselines import NgramModel
from data.errors import InputError
from data.sets.balancer import Balancer
from data.sets.blocks import NUM_OPTIONS, Item, Truths, list_truths, make_blocks
from data.sets.derivation import PROPERTIES, derive
from data.sets.language import Statement
from data.sets.lexicon import FEATURES
from data.sets.semantic.full import HOLDOUT, REPHRASED, REVERSALS, list_items
from data.sets.world import World, new_world

MEMBERS = 3  # of each category; the last one is held out: only its category is stated
NUM_PROPERTIES = 2  # of each category; each member that is not held out has one of its own
TEST_PHRASING = 2  # of PHRASINGS: no document uses it


def make_world(seed: int, index: int, *, categories: int, documents_per_fact: int) -> World:
    """One world of `categories` categories, members included; each fact is in `documents_per_fact` documents."""
    world = new_world("semantic-tiny", seed, index)
    rng = world.rng
    num_groups = categories // (MEMBERS + 1)
    if num_groups < NUM_OPTIONS:
        raise InputError(
            f"{categories} categories are too few for questions with {NUM_OPTIONS} options",
            where="data.semantic.categories",
            hint=f"ask for {NUM_OPTIONS * (MEMBERS + 1)} or more",
        )
    groups = [world.noun() for _ in range(num_groups)]
    parents = {world.noun(): groups[number % num_groups] for number in range(categories - num_groups)}
    held_out = tuple(sorted({group: member for member, group in parents.items()}.values()))
    facts = [Statement("all", "", member, group) for member, group in parents.items()]
    features = rng.sample(FEATURES, len(FEATURES))
    facts += _draw_properties(world, groups, NUM_PROPERTIES, features)
    facts += _draw_properties(world, [member for member in parents if member not in held_out], 1, features[::-1])
    for fact in rng.sample(facts, len(facts)):
        world.state(fact, times=documents_per_fact)
    derived = derive(facts, PROPERTIES)
    asked = {s: derivation for s, derivation in derived.items() if s.form == "more" or derivation.inference == "stated"}
    items = list_items(asked, world.documents_of, held_out)
    items[REVERSALS] = [replace(item, inference="reversal") for item in items[REVERSALS]]
    _ask(world, items, list_truths(turned for s in derived for turned in (s, s.reversed())))
    world.notes["held_out"] = list(held_out)
    return world


def _draw_properties(world: World, subjects: Sequence[str], count: int, features: Sequence[str]) -> list[Statement]:
    """`count` properties of each subject, each with a noun of its own.

    Taken from the first half of the features; each applies to four subjects or more, so that questions about it have
    enough wrong options.
    """
    num_features = min(len(features) // 2, max(count, count * len(subjects) // NUM_OPTIONS))
    deck = [features[number % num_features] for number in range(count * len(subjects))]
    drawn = [(subject, deck[count * number + turn]) for number, subject in enumerate(subjects) for turn in range(count)]
    return [Statement("more", feature, subject, world.noun()) for subject, feature in drawn]


def _ask(world: World, items: dict[str, list[Item]], truths: Truths) -> None:
    model = NgramModel(document.text for document in world.documents)
    for split, members in items.items():
        choose = Balancer(model, world.rng).choose_entities
        blocks = make_blocks(members, truths, world.rng, keep_all=split == HOLDOUT, choose=choose)
        # Few nouns leave few wrong options: except for the held-out categories, only whole blocks are asked.
        blocks = [block for block in blocks if split == HOLDOUT or len(block) == NUM_OPTIONS]
        phrasing = TEST_PHRASING if split == REPHRASED else 0
        world.ask_blocks(split, blocks, partial(Statement.prompt, phrasing=phrasing))
