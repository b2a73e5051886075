"""Simple syllogisms (section 3.2), two premises each; here every premise is a document of its own.

Splits: `trained` (a premise as trained), `deduction` (what the conclusion ends in, 4 options: ends of other
syllogisms) and `statement` (the paper's test: {All, Some, No} x 2 directions about the two outer terms, chance 1/6,
the strongest valid conclusion is the right one).
"""

from data.worlds.builder import World, new_world
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
    ends = [two.second for _, two in pairs]
    for one, two in pairs:
        (conclusion,) = conclude(one, two)
        inference = f"{one.form}-{two.form}"
        world.ask_entity("trained", one, [p.second for p, _ in pairs], about=[one], inference="recall")
        world.ask_entity("trained", two, ends, about=[two], inference="recall")
        world.ask_entity("deduction", conclusion, ends, about=[one, two], inference=inference)
        _ask_statement(world, conclusion, about=[one, two], inference=inference)
    return world


def _ask_statement(world: World, conclusion: Statement, *, about: list[Statement], inference: str) -> None:
    directions = ((conclusion.first, conclusion.second), (conclusion.second, conclusion.first))
    statements = [Statement(form, "", first, second) for first, second in directions for form in QUANTIFIERS]
    wrong = [statement.text() for statement in statements if statement != conclusion]
    world.ask("statement", CONCLUSION, [conclusion.text(), *wrong], about=about, inference=inference)
