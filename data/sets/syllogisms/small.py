"""Simple syllogisms (section 3.2), two premises each; here every premise is a document of its own.

Five of the traditional forms (`data.sets.forms`). Splits: `trained` (a premise as trained), `deduction` (what the
conclusion ends in, 4 options: ends of other syllogisms), `statement` (the paper's test: the two outer terms are named,
then {All, Some, No} x 2 directions are the options; the strongest valid conclusion is the right one) and
`statement-unnamed` (the same options, without the terms before them).
"""

from data.sets.blocks import Item
from data.sets.derivation import list_other_truths
from data.sets.forms import FORMS, make_premise
from data.sets.language import QUANTIFIERS, Statement
from data.sets.lexicon import ABOUT, CONCLUSION
from data.sets.world import World, new_world

# In the premises of barbara and darii the words of the conclusion follow each other ("all S are", "are P"): pairs of
# words give it away. They are rarer than the others, so that on the whole this scores at chance.
_CYCLE = tuple("datisi celarent barbara cesare datisi celarent datisi darii celarent datisi".split())
_CYCLE += tuple("barbara datisi celarent cesare datisi celarent barbara datisi cesare datisi".split())


def make_world(seed: int, index: int, *, syllogisms: int) -> World:
    """One world of `syllogisms` pairs of premises; eight or more have all five forms."""
    world = new_world("syllogisms", seed, index)
    made = []
    for number in range(syllogisms):
        name = _CYCLE[number % len(_CYCLE)]
        terms = {term: world.noun() for term in "SMP"}
        major, minor, quantifier = FORMS[name]
        conclusion = Statement(quantifier, "", terms["S"], terms["P"])
        made.append((name, (make_premise(minor, terms), make_premise(major, terms)), conclusion))
    premises = [premise for _, pair, _ in made for premise in pair]
    for premise in world.rng.sample(premises, len(premises)):
        world.state(premise)
    for position in (0, 1):
        world.ask_entities("trained", [Item(pair[position], (pair[position],), "recall") for _, pair, _ in made])
    world.ask_entities("deduction", [Item(conclusion, pair, name) for name, pair, conclusion in made])
    for name, pair, conclusion in made:
        _ask_statement(world, Item(conclusion, pair, name))
    return world


def _ask_statement(world: World, item: Item) -> None:
    conclusion = item.statement
    directions = ((conclusion.first, conclusion.second), (conclusion.second, conclusion.first))
    statements = [Statement(form, "", first, second) for first, second in directions for form in QUANTIFIERS]
    wrong = [statement.text() for statement in statements if statement != conclusion]
    # In either order: which of the two is named first must not reveal which one the conclusion begins with.
    first, second = world.rng.sample(directions[0], 2)
    same, less = ([statement.text() for statement in found] for found in list_other_truths(conclusion))
    for split, prompt in (("statement", ABOUT.format(a=first, b=second)), ("statement-unnamed", CONCLUSION)):
        world.ask(
            split,
            prompt,
            [conclusion.text(), *wrong],
            item,
            also_right=same,
            also_true=less,
        )
