"""Simple syllogisms (Lampinen et al. 2025, section 3.2): pairs of premises with one conclusion.

In the small set every premise is a document of its own; in the full one each document names three entities and gives
two premises about them. The forms are those of `data.sets.forms`, labelled by their traditional names; the small set
has five of the ten. Splits: `trained` (the end of a premise: of each, or of a document's first), `deduction` (small:
what the conclusion ends in, 4 options: ends of other syllogisms), `statement` (the paper's test: the two outer terms
are named, then {All, Some, No} x 2 directions are the options; the strongest conclusion from S to P is right) and
`statement-unnamed` (small: the same options, without the terms before them).

The other direction of "No" and "Some" is right as well (`also_right`); what follows but is weaker than the answer is
`also_true`.
"""

from collections.abc import Callable

from data.seeds import stream
from data.sets.blocks import Item, list_truths, make_blocks
from data.sets.derivation import PLAIN, derive, list_other_truths
from data.sets.forms import FORMS, make_premise
from data.sets.language import QUANTIFIERS, Statement
from data.sets.lexicon import ABOUT, CONCLUSION
from data.sets.words import WordMaker
from data.sets.world import World, new_world

# In the premises of barbara, camestres and darii the words of the conclusion follow each other ("All S are", "are P"):
# pairs of words alone give the answer away. They are rarer, so that on the whole this scores at chance.
_SMALL_CYCLE = tuple("datisi celarent barbara cesare datisi celarent datisi darii celarent datisi".split())
_SMALL_CYCLE += tuple("barbara datisi celarent cesare datisi celarent barbara datisi cesare datisi".split())
_OFTEN = ("celarent", "camenes", "cesare", "dimaris", "darapti", "datisi", "disamis")
_CYCLE = (*FORMS, *_OFTEN, "celarent", "camenes", "cesare", "dimaris", "darapti", "barbara")


def make_small(seed: int, index: int, *, syllogisms: int) -> World:
    """One world of `syllogisms` pairs of premises; eight or more have all five forms."""
    world = new_world("syllogisms", seed, index)
    made = []
    for number in range(syllogisms):
        name = _SMALL_CYCLE[number % len(_SMALL_CYCLE)]
        major, minor, conclusion = _draw(name, world.noun)
        made.append(Item(conclusion, (minor, major), name))
    premises = [premise for item in made for premise in item.proof]
    for premise in world.rng.sample(premises, len(premises)):
        world.state(premise)
    for position in (0, 1):
        told = [item.proof[position] for item in made]
        world.ask_entities("trained", [Item(premise, (premise,), "recall") for premise in told])
    world.ask_entities("deduction", made)
    for item in made:
        # In either order: which of the two is named first must not reveal which one the conclusion begins with.
        first, second = world.rng.sample((item.statement.first, item.statement.second), 2)
        _ask_conclusion(world, "statement", ABOUT.format(a=first, b=second), item, Statement.text)
        _ask_conclusion(world, "statement-unnamed", CONCLUSION, item, Statement.text)
    return world


def make_full(seed: int, index: int, *, syllogisms: int) -> World:
    """One world of `syllogisms` documents; ten or more have every form."""
    world = new_world("syllogisms", seed, index, "english")
    rng = world.rng
    words = WordMaker(stream(seed, "syllogisms", "english", index, "words"))
    names = [_CYCLE[number % len(_CYCLE)] for number in range(syllogisms)]
    made = []
    for name in rng.sample(names, len(names)):
        major, minor, conclusion = _draw(name, words.noun)
        premises = (major, minor) if rng.random() < 0.5 else (minor, major)
        terms = {term for premise in premises for term in (premise.first, premise.second)}
        head = _head(rng.sample(sorted(terms), 3))
        world.facts += premises
        world.add_document(f"{head} {' '.join(premise.text().capitalize() + '.' for premise in premises)}", *premises)
        made.append(Item(conclusion, premises, name))
    told = [item.proof[0] for item in made]
    items = [Item(premise, (premise,), "recall", premise.form) for premise in told]
    blocks = make_blocks(items, list_truths(derive(world.facts, PLAIN)), rng, keep_all=True)
    world.ask_blocks("trained", blocks, lambda statement: statement.prompt().capitalize())
    for number, item in enumerate(made):
        named = [item.statement.first, item.statement.second]
        prompt = _head(named if number % 2 == 0 else named[::-1])  # half of the questions name P before S
        _ask_conclusion(world, "statement", prompt, item, lambda statement: statement.text().capitalize())
    return world


def _draw(name: str, noun: Callable[[], str]) -> tuple[Statement, Statement, Statement]:
    """The premises and the conclusion of a form, about new entities."""
    terms = {term: noun() for term in "SMP"}
    major, minor, quantifier = FORMS[name]
    conclusion = Statement(quantifier, "", terms["S"], terms["P"])
    return make_premise(major, terms), make_premise(minor, terms), conclusion


def _head(names: list[str]) -> str:
    *others, last = names
    verb = "relationships" if len(names) > 2 else "relationship"
    return f"The {verb} between {', '.join(others)} and {last} {'are' if len(names) > 2 else 'is'}:"


def _ask_conclusion(world: World, split: str, prompt: str, item: Item, spell: Callable[[Statement], str]) -> None:
    conclusion = item.statement
    directions = ((conclusion.first, conclusion.second), (conclusion.second, conclusion.first))
    options = [Statement(form, "", first, second) for first, second in directions for form in QUANTIFIERS]
    options = [conclusion, *(statement for statement in options if statement != conclusion)]
    same, less = (list(map(spell, found)) for found in list_other_truths(conclusion))
    world.ask(split, prompt, list(map(spell, options)), item, also_right=same, also_true=less)
