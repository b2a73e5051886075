"""A semantic world: hierarchy, documents, and questions in four splits from easy to hard.

`rephrased`: a trained fact in the tests' own words. `reversals`: a fact that was told in one direction, asked for in
the other. `syllogisms`: what follows from two facts or more. `category-holdout`: what follows about categories of
which only the parent was told.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from data.baselines import NgramModel
from data.records import Document, Question
from data.seeds import fingerprint, stream
from data.sets.balancer import Leveller
from data.sets.blocks import Choice, Chooser, Item, choose_evenly, list_truths, make_blocks
from data.sets.derivation import SEMANTIC, Derivation, derive
from data.sets.grammar import print_statement
from data.sets.language import Statement
from data.sets.semantic.documents import Writer, allow_directions, turn
from data.sets.semantic.hierarchy import Hierarchy, hold_out, make_hierarchy
from data.sets.semantic.logic import load_styles
from data.sets.words import WordMaker

HOLDOUT_SHARE = 0.1
REPHRASED, REVERSALS, SYLLOGISMS, HOLDOUT = "rephrased", "reversals", "syllogisms", "category-holdout"


@dataclass
class SemanticWorld:
    """One world: its facts (canonical), the documents that tell them, the questions about it."""

    name: str
    facts: tuple[Statement, ...]
    documents: list[Document]
    questions: list[Question] = field(default_factory=list)
    notes: dict[str, object] = field(default_factory=dict)

    def fact_texts(self) -> list[str]:
        """The facts in plain words."""
        plain = load_styles()["style"]["article"]
        return [print_statement(plain[fact.form][0], fact) for fact in self.facts]


def make_world(seed: int, index: int, *, categories: int, documents: int, questions_per_split: int) -> SemanticWorld:
    """One world of so many categories, told in so many documents.

    Two questions of a split never ask for the same statement; `questions_per_split` bounds their number, except in
    `category-holdout`, which asks for all that is inherited.
    """
    name = f"semantic/w{index}"
    rng = stream(seed, "semantic", index)
    hierarchy = make_hierarchy(categories, WordMaker(stream(seed, "semantic", index, "words")))
    held_out = hold_out(hierarchy, HOLDOUT_SHARE, rng)
    facts = tuple(f for f in hierarchy.facts if f.form == "kind" or f.first not in held_out)
    allowed = allow_directions(facts, held_out, rng)
    tellings: dict[str, list[Statement]] = defaultdict(list)
    for fact, direction in allowed.items():
        tellings[fact.first] += turn(fact, direction)
    near = {c: [] if c in held_out else find_neighbours(c, hierarchy, facts, rng) for c in hierarchy.categories}
    writer = Writer(name, stream(seed, "semantic", index, "documents"), tellings, near)
    writer.write(documents)
    derived = derive(facts, SEMANTIC)
    truths = list_truths(turned for statement in derived for turned in (statement, statement.reversed()))
    model = NgramModel(document.text for document in writer.documents)
    world = SemanticWorld(name, facts, writer.documents, notes={"held_out": list(held_out)})
    for split, items in list_items(derived, writer.stated_in, held_out).items():
        choose = level_options(Leveller(model, rng))
        blocks = make_blocks(items, truths, rng, keep_all=split == HOLDOUT, choose=choose)
        chosen = blocks if split == HOLDOUT else choose_evenly(blocks, questions_per_split)
        world.questions += ask(split, chosen, writer, rng)
    return world


def find_neighbours(category: str, hierarchy: Hierarchy, facts: Sequence[Statement], rng: Random) -> list[str]:
    """Whose facts may stand in a document about a category, the nearest first.

    Itself, what it is related to, its siblings, then anything that is neither above nor below it: a document must not
    hold both premises of a deduction about its own subject.
    """
    kin = {category, *_above(category, hierarchy)}
    kin |= {other for other in hierarchy.categories if category in _above(other, hierarchy)}
    related = [fact.second for fact in facts if fact.form == "link" and fact.first == category]
    siblings = hierarchy.children(hierarchy.parents.get(category, ""))
    others = rng.sample(hierarchy.categories, len(hierarchy.categories))
    ordered = dict.fromkeys((*rng.sample(siblings, len(siblings)), *related, *others))
    return [category, *(other for other in ordered if other not in kin)]


def list_items(
    derived: dict[Statement, Derivation], stated_in: dict[Statement, list[str]], held_out: Sequence[str]
) -> dict[str, list[Item]]:
    """All statements that each split can ask for."""
    items: dict[str, list[Item]] = {split: [] for split in (REPHRASED, REVERSALS, SYLLOGISMS, HOLDOUT)}
    for statement, derivation in derived.items():
        if derivation.inference != "stated":
            split = HOLDOUT if statement.first in held_out else SYLLOGISMS
            items[split].append(_item(statement, derivation.proof, derivation.inference))
        elif statement.first not in held_out:
            turned = statement.reversed()
            told, untold = (statement, turned) if statement in stated_in else (turned, statement)
            items[REPHRASED].append(_item(told, (told,), REPHRASED))
            if untold not in stated_in:
                items[REVERSALS].append(_item(untold, (told,), f"reversal-{statement.form}"))
    return items


def ask(split: str, blocks: Sequence[Sequence[Choice]], writer: Writer, rng: Random) -> list[Question]:
    """The questions of a split: each block in one wording, options in a random order."""
    questions = []
    for block in blocks:
        template = rng.choice(load_styles()["test"][block[0].item.statement.form])
        for choice in block:
            item, options = choice.item, choice.options
            prompt, ending = cut(template, item.statement)
            order = rng.sample(range(len(options)), len(options))
            texts = tuple(options[position] + ending for position in order)
            requires = tuple(dict.fromkeys(first_document(fact, writer) for fact in item.proof))
            questions.append(
                Question(
                    question_id=fingerprint(writer.corpus, split, prompt, *texts),
                    corpus=writer.corpus,
                    split=split,
                    inference=item.inference,
                    prompt=prompt,
                    options=texts,
                    answer=order.index(0),
                    fact_id=fingerprint(writer.corpus, item.statement.canonical()),
                    requires=requires,
                )
            )
    return questions


def cut(template: str, statement: Statement) -> tuple[str, str]:
    """A test template up to its last slot, filled, and what ends the word in that slot."""
    head, _, ending = template.rpartition("{b}")
    return print_statement(head.rstrip(), statement), ending


def level_options(leveller: Leveller) -> Chooser:
    """Chooses wrong options as they will be spelled, after the tests' first template of the form."""

    def choose(item: Item, words: Sequence[str]) -> Sequence[str]:
        prompt, ending = cut(load_styles()["test"][item.statement.form][0], item.statement)
        chosen = leveller.choose(prompt, item.statement.second + ending, [word + ending for word in words])
        return [word.removesuffix(ending) for word in chosen]

    return choose


def first_document(fact: Statement, writer: Writer) -> str:
    """One document that states a fact, in whatever direction."""
    turned = fact.reversed()
    return next(writer.stated_in[told][0] for told in (fact, turned) if told in writer.stated_in)


def _item(statement: Statement, proof: tuple[Statement, ...], inference: str) -> Item:
    return Item(statement, proof, inference, (statement.form, statement.relation))


def _above(category: str, hierarchy: Hierarchy) -> list[str]:
    above = []
    while category in hierarchy.parents:
        category = hierarchy.parents[category]
        above.append(category)
    return above
