"""A semantic world within the embedded model's lexicon.

Categories and properties alike are nouns and every fact is "all a are b", so that the statements and the deductions are
those that the model has learned. The splits are those of the full set. `rephrased` asks in a phrasing that no document
uses; the reversal of "all a are b" is "some b are a", the strongest statement that follows the other way round.
"""

from collections.abc import Sequence
from random import Random

from data.baselines import NgramModel
from data.seeds import stream
from data.worlds.blocks import NUM_OPTIONS, Item, Truths, list_truths, make_blocks
from data.worlds.builder import World
from data.worlds.derivation import PLAIN, derive
from data.worlds.language import PHRASINGS, Statement
from data.worlds.leveller import Leveller
from data.worlds.semantic.hierarchy import hold_out, make_hierarchy
from data.worlds.semantic.world import HOLDOUT, HOLDOUT_SHARE, REPHRASED, REVERSALS, SYLLOGISMS

UNUSED_PHRASING = 2  # of PHRASINGS: kept for the tests


def make_world(seed: int, index: int, *, categories: int, documents_per_fact: int) -> World:
    """One world; each fact stands in `documents_per_fact` documents of one sentence."""
    rng = stream(seed, "semantic-tiny", index)
    world = World(f"semantic-tiny/w{index}", rng)
    hierarchy = make_hierarchy(categories, _Nouns(world))
    held_out = hold_out(hierarchy, HOLDOUT_SHARE, rng)
    told = [f for f in hierarchy.facts if f.form != "link" and (f.form == "kind" or f.first not in held_out)]
    facts = [Statement("all", "", fact.first, fact.second) for fact in told]
    for fact in rng.sample(facts, len(facts)):
        world.state(fact, times=documents_per_fact)
    derived = derive(facts, PLAIN)
    items: dict[str, list[Item]] = {split: [] for split in (REPHRASED, REVERSALS, SYLLOGISMS, HOLDOUT)}
    for statement, derivation in derived.items():
        if statement.form != "all":
            continue
        # Categories stand in more documents than properties do: mixed among options, they would be told by frequency.
        kind = "category" if statement.second in hierarchy.categories else "property"
        if derivation.inference != "stated":
            split = HOLDOUT if statement.first in held_out else SYLLOGISMS
            items[split].append(Item(statement, derivation.proof, derivation.inference, kind))
        elif statement.first not in held_out:
            items[REPHRASED].append(Item(statement, derivation.proof, REPHRASED, kind))
            items[REVERSALS].append(Item(statement.reversed(), derivation.proof, "reversal", kind))
    _ask(world, items, list_truths(derived), rng)
    world.notes["held_out"] = list(held_out)
    return world


def _ask(world: World, items: dict[str, list[Item]], truths: Truths, rng: Random) -> None:
    model = NgramModel(document.text for document in world.documents)
    for split, members in items.items():
        leveller = Leveller(model, rng)

        def choose(item: Item, words: Sequence[str], leveller: Leveller = leveller) -> Sequence[str]:
            return leveller.choose(_prompt(item.statement, 0), item.statement.second, words)

        blocks = make_blocks(members, truths, rng, keep_all=split == HOLDOUT, choose=choose)
        # So few nouns leave little to choose from: but for the held-out, only whole blocks are asked.
        for block in blocks if split == HOLDOUT else [block for block in blocks if len(block) == NUM_OPTIONS]:
            for choice in block:
                prompt = _prompt(choice.item.statement, UNUSED_PHRASING if split == REPHRASED else 0)
                world.ask(split, prompt, choice.options, about=choice.item.proof, inference=choice.item.inference)


def _prompt(statement: Statement, phrasing: int) -> str:
    return PHRASINGS[statement.form][phrasing].removesuffix("{b}").format(a=statement.first).rstrip()


class _Nouns:
    """The lexicon's nouns, for whatever the hierarchy needs a word for."""

    def __init__(self, world: World) -> None:
        self.noun = self.verb = self.adjective = world.noun
