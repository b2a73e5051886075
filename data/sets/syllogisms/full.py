"""Simple syllogisms at full size: each document names three entities and gives two premises about them.

Ten forms have a conclusion among All, Some and No statements; they are labelled by their traditional names. S and P are
the subject and the predicate of the conclusion, M the term that both premises share. Splits: `trained` (the end of a
document's first premise, 4 options) and `statement` (the paper's test: {All, Some, No} x 2 directions, 6 options, the
strongest conclusion from S to P is right).

The other direction of "No" and "Some" is right as well (`also_right`); what follows but is weaker than the answer is
`also_true`.
"""

from data.seeds import stream
from data.sets.blocks import Item, list_truths, make_blocks
from data.sets.derivation import PLAIN, derive, list_other_truths
from data.sets.forms import FORMS, make_premise
from data.sets.language import QUANTIFIERS, Statement
from data.sets.words import WordMaker
from data.sets.world import World, new_world

# In barbara, camestres and darii the words of the conclusion follow each other as in the premises ("All S are", "are
# P"): pairs of words alone give the answer away. They are rarer, so that on the whole this scores at chance.
_OFTEN = ("celarent", "camenes", "cesare", "dimaris", "darapti", "datisi", "disamis")
_CYCLE = (*FORMS, *_OFTEN, "celarent", "camenes", "cesare", "dimaris", "darapti", "barbara")


def make_world(seed: int, index: int, *, syllogisms: int) -> World:
    """One world of `syllogisms` documents; ten or more have every form."""
    world = new_world("syllogisms", seed, index, "english")
    rng = world.rng
    words = WordMaker(stream(seed, "syllogisms", "english", index, "words"))
    names = [_CYCLE[number % len(_CYCLE)] for number in range(syllogisms)]
    made = []
    for name in rng.sample(names, len(names)):
        terms = {term: words.noun() for term in "SMP"}
        premises = tuple(make_premise(text, terms) for text in FORMS[name][:2])
        premises = (premises[0], premises[1]) if rng.random() < 0.5 else (premises[1], premises[0])
        head = _head(rng.sample(sorted(terms.values()), 3))
        world.facts += premises
        world.add_document(f"{head} {' '.join(premise.text().capitalize() + '.' for premise in premises)}", *premises)
        made.append((name, terms, premises))
    items = [Item(premises[0], (premises[0],), "recall", premises[0].form) for _, _, premises in made]
    for block in make_blocks(items, list_truths(derive(world.facts, PLAIN)), rng, keep_all=True):
        for choice in block:
            world.ask("trained", choice.item.statement.prompt().capitalize(), choice.options, choice.item)
    for number, (name, terms, premises) in enumerate(made):
        _ask_conclusion(world, name, terms, premises, turned=number % 2 == 1)
    return world


def _head(names: list[str]) -> str:
    *others, last = names
    verb = "relationships" if len(names) > 2 else "relationship"
    return f"The {verb} between {', '.join(others)} and {last} {'are' if len(names) > 2 else 'is'}:"


def _ask_conclusion(
    world: World, name: str, terms: dict[str, str], premises: tuple[Statement, ...], *, turned: bool
) -> None:
    """The question about a conclusion; `turned` names P before S, which half of the questions do."""
    subject, predicate = terms["S"], terms["P"]
    conclusion = Statement(FORMS[name][2], "", subject, predicate)
    item = Item(conclusion, premises, name)
    forward = [Statement(form, "", subject, predicate) for form in QUANTIFIERS]
    backward = [Statement(form, "", predicate, subject) for form in QUANTIFIERS]
    options = [conclusion, *(s for s in (*forward, *backward) if s != conclusion)]
    texts = [statement.text().capitalize() for statement in options]
    named = [predicate, subject] if turned else [subject, predicate]
    same, less = ([s.text().capitalize() for s in found] for found in list_other_truths(conclusion))
    world.ask("statement", _head(named), texts, item, also_right=same, also_true=less)
