"""A process world within the embedded model's lexicon: two steps, each with a table of its own.

"the maker of femp is glon" is an entry of a first step, "the ruler of glon is zusu" one of a second step, and "the
ruler of the maker of femp is zusu" a worked example of both. Of each first step one second step is held out: no
worked example combines the two. Splits are those of the full set: `rephrased` (a worked example in a phrasing
that no document uses), and, about nouns that have no worked example, `instances` (the pair of steps is shown for other
nouns) and `combinations` (a held-out pair). Each noun goes through one first step, and then through either second.
"""

from collections.abc import Mapping, Sequence

from data.baselines import NgramModel
from data.errors import InputError
from data.sets.balancer import Balancer
from data.sets.blocks import NUM_OPTIONS, Item, choose_evenly, list_truths, make_blocks
from data.sets.derivation import STEPS, Derivation, derive
from data.sets.language import Statement
from data.sets.lexicon import ROLES
from data.sets.process.full import COMBINATIONS, INSTANCES, REPHRASED
from data.sets.world import World, new_world

NUM_STEPS = 2  # first steps, and as many second ones
TEST_PHRASING = 2  # of PHRASINGS: no document uses it
SHOWN_SHARE = 1 / 3  # of the nouns of each first step have worked examples
_MIN_FUNCTIONS = 2 * NUM_STEPS * NUM_OPTIONS  # for each first step, four nouns are shown and four are asked for


def make_world(seed: int, index: int, *, functions: int, documents_per_fact: int, questions_per_split: int) -> World:
    """One world with entries for `functions` nouns in its first steps; each fact in `documents_per_fact` documents."""
    if functions < _MIN_FUNCTIONS:
        raise InputError(
            f"{functions} nouns are too few for worked examples and questions",
            where="data.process.functions",
            hint=f"ask for {_MIN_FUNCTIONS} or more",
        )
    world = new_world("process-tiny", seed, index)
    rng = world.rng
    roles = rng.sample(ROLES, 2 * NUM_STEPS)
    firsts, seconds = roles[:NUM_STEPS], roles[NUM_STEPS:]
    held_out = [f"{second} of the {first}" for first, second in zip(firsts, seconds, strict=True)]
    entries, shown = [], set()
    for first in firsts:
        names = [world.noun() for _ in range(functions // NUM_STEPS)]
        shown |= set(names[: max(NUM_OPTIONS, round(SHOWN_SHARE * len(names)))])
        entries += [Statement("of", first, name, world.noun()) for name in names]
    entries += [Statement("of", role, entry.second, world.noun()) for entry in entries for role in seconds]
    results = [statement.reversed() for statement in derive(entries, STEPS) if " " in statement.relation]
    worked = [s for s in results if s.first in shown and s.relation not in held_out]
    facts = [*entries, *worked]
    for fact in rng.sample(facts, len(facts)):
        world.state(fact, times=documents_per_fact)
    derived = derive(facts, STEPS)
    unshown = [s for s in results if s.first not in shown]
    asked = {
        REPHRASED: worked,
        INSTANCES: [s for s in unshown if s.relation not in held_out],
        COMBINATIONS: [s for s in unshown if s.relation in held_out],
    }
    for split, statements in asked.items():
        _ask(world, split, statements, derived, questions_per_split)
    world.notes["held_out"] = held_out
    return world


def _ask(
    world: World, split: str, statements: Sequence[Statement], derived: Mapping[Statement, Derivation], count: int
) -> None:
    """Blocks of four questions whose options all come from one second step: its word must not give them away."""
    balancer = Balancer(NgramModel(document.text for document in world.documents), world.rng)
    phrasing = TEST_PHRASING if split == REPHRASED else 0
    truths = list_truths(statement.reversed() for statement in derived)
    items = []
    for statement in statements:
        derivation = derived[statement.canonical()]
        inference = REPHRASED if split == REPHRASED else derivation.inference
        items.append(Item(statement, derivation.proof, inference, statement.relation.split()[0]))

    blocks = make_blocks(items, truths, world.rng, choose=balancer.choose_entities)
    chosen = choose_evenly([block for block in blocks if len(block) == NUM_OPTIONS], count)
    world.ask_blocks(split, chosen, lambda statement: statement.prompt(phrasing))
