"""Simple syllogisms (section 3.2), two premises each; here every premise is a document of its own.

Splits: `trained` (a premise as trained), `deduction` (what the conclusion ends in, 4 options: ends of other
syllogisms) and `statement` (the paper's test: {All, Some, No} x 2 directions about the two outer terms, chance 1/6,
the strongest valid conclusion is the right one).
"""

from data.worlds.builder import Asked, World, new_world
from data.worlds.closure import SYLLOGISMS, conclude
from data.worlds.language import QUANTIFIERS, Statement
from data.worlds.lexicon import CONCLUSION


def make_world(seed: int, index: int, *, syllogisms: int) -> World:
    """One world of `syllogisms` pairs of premises; the valid forms take turns."""
    world = new_world("syllogisms", seed, index)
    forms = sorted(SYLLOGISMS)
    pairs = []
    for number in range(syllogisms):
        one_form, two_form = forms[number % len(forms)]
        low, middle, high = world.noun(), world.noun(), world.noun()
        pairs.append((Statement(one_form, "", low, middle), Statement(two_form, "", middle, high)))
    premises = [premise for pair in pairs for premise in pair]
    for premise in world.rng.sample(premises, len(premises)):
        world.state(premise)
    for position in (0, 1):
        world.ask_entities("trained", [Asked(pair[position], (pair[position],), "recall") for pair in pairs])
    world.ask_entities("deduction", [Asked(conclude(*pair)[0], pair, _name(pair)) for pair in pairs])
    for pair in pairs:
        _ask_statement(world, conclude(*pair)[0], about=pair, inference=_name(pair))
    return world


def _name(pair: tuple[Statement, Statement]) -> str:
    """The form of a syllogism, e.g. `all-no`."""
    return "-".join(premise.form for premise in pair)


def _ask_statement(world: World, conclusion: Statement, *, about: tuple[Statement, ...], inference: str) -> None:
    directions = ((conclusion.first, conclusion.second), (conclusion.second, conclusion.first))
    statements = [Statement(form, "", first, second) for first, second in directions for form in QUANTIFIERS]
    wrong = [statement.text() for statement in statements if statement != conclusion]
    world.ask("statement", CONCLUSION, [conclusion.text(), *wrong], about=about, inference=inference)
