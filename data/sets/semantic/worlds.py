"""Semantic worlds: hierarchy, documents, and questions in four splits from easy to hard.

`rephrased`: a trained fact in the tests' own words. `reversals`: a fact that is stated in one direction, asked for in
the other. `syllogisms`: what follows from two facts or more. `category-holdout`: what follows about categories of
which only the parent is stated.

The small world has two levels and one step of inheritance: "all skug are vaff" puts a category below another, "vaff are
more curious than zusu" states a property, so all skug are more curious than zusu. `rephrased` uses a phrasing that no
document uses; reversals are "zusu are less curious than vaff", and "some vaff are skug", the strongest statement that
follows the other way round.
"""

from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import replace
from functools import partial
from random import Random

from data.baselines import NgramModel
from data.errors import InputError
from data.seeds import stream
from data.sets.balancer import Balancer
from data.sets.blocks import NUM_OPTIONS, Choice, Chooser, Item, Truths, choose_evenly, list_truths, make_blocks
from data.sets.derivation import PROPERTIES, SEMANTIC, Derivation, derive
from data.sets.grammar import print_statement
from data.sets.language import Statement
from data.sets.lexicon import FEATURES
from data.sets.semantic.documents import Writer, draw_directions
from data.sets.semantic.hierarchy import Hierarchy, hold_out, make_hierarchy
from data.sets.semantic.logic import load_styles
from data.sets.words import WordMaker
from data.sets.world import World, new_world

HOLDOUT_SHARE = 0.1
REPHRASED, REVERSALS, SYLLOGISMS, HOLDOUT = "rephrased", "reversals", "syllogisms", "category-holdout"
MEMBERS = 3  # of each category; the last one is held out: only its category is stated
NUM_PROPERTIES = 2  # of each category; each member that is not held out has one of its own
TEST_PHRASING = 2  # of PHRASINGS: no document uses it


def describe(fact: Statement) -> str:
    """A fact in plain words."""
    return print_statement(load_styles()["style"]["article"][fact.form][0], fact)


def make_full(seed: int, index: int, *, categories: int, documents: int, questions_per_split: int) -> World:
    """One world of `categories` categories, stated in `documents` documents.

    Two questions of a split never ask for the same statement; `questions_per_split` bounds their number, except in
    `category-holdout`, which asks for all that is inherited.
    """
    world = new_world("semantic", seed, index)
    world.describe, rng = describe, world.rng
    hierarchy = make_hierarchy(categories, WordMaker(stream(seed, "semantic", index, "words")))
    held_out = hold_out(hierarchy, HOLDOUT_SHARE, rng)
    world.facts = [f for f in hierarchy.facts if f.form == "kind" or f.first not in held_out]
    world.notes["held_out"] = list(held_out)
    statements: dict[str, list[Statement]] = defaultdict(list)
    for fact in world.facts:
        statements[fact.first] += draw_directions(fact, held_out, rng)
    near = {c: [] if c in held_out else find_neighbours(c, hierarchy, world.facts, rng) for c in hierarchy.categories}
    Writer(world, stream(seed, "semantic", index, "documents"), statements, near).write(documents)
    derived = derive(world.facts, SEMANTIC)
    truths = list_truths(turned for statement in derived for turned in (statement, statement.reversed()))
    model = NgramModel(document.text for document in world.documents)
    for split, items in list_items(derived, world.documents_of, held_out).items():
        choose = balance_options(Balancer(model, rng))
        blocks = make_blocks(items, truths, rng, keep_all=split == HOLDOUT, choose=choose)
        ask(world, split, blocks if split == HOLDOUT else choose_evenly(blocks, questions_per_split))
    return world


def find_neighbours(category: str, hierarchy: Hierarchy, facts: Sequence[Statement], rng: Random) -> list[str]:
    """The categories whose facts may be in a document about a category, the nearest first.

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
    derived: dict[Statement, Derivation], documents_of: Container[Statement], held_out: Sequence[str]
) -> dict[str, list[Item]]:
    """All statements that each split can ask for."""
    items: dict[str, list[Item]] = {split: [] for split in (REPHRASED, REVERSALS, SYLLOGISMS, HOLDOUT)}
    for statement, derivation in derived.items():
        if derivation.inference != "stated":
            split = HOLDOUT if statement.first in held_out else SYLLOGISMS
            items[split].append(_item(statement, derivation.proof, derivation.inference))
        elif statement.first not in held_out:
            turned = statement.reversed()
            stated, other = (statement, turned) if statement in documents_of else (turned, statement)
            items[REPHRASED].append(_item(stated, (stated,), REPHRASED))
            if other not in documents_of:
                items[REVERSALS].append(_item(other, (stated,), f"reversal-{statement.form}"))
    return items


def ask(world: World, split: str, blocks: Sequence[Sequence[Choice]]) -> None:
    """Add the questions of a split: each block in one wording."""
    for block in blocks:
        template = world.rng.choice(load_styles()["test"][block[0].item.statement.form])
        for choice in block:
            prompt, ending = cut(template, choice.item.statement)
            world.ask(split, prompt, [option + ending for option in choice.options], choice.item, one_document=True)


def cut(template: str, statement: Statement) -> tuple[str, str]:
    """A test template up to its last slot, filled, and what ends the word in that slot."""
    head, _, ending = template.rpartition("{b}")
    return print_statement(head.rstrip(), statement), ending


def balance_options(balancer: Balancer) -> Chooser:
    """Chooses wrong options by their spelling in the tests' first template of the form."""

    def choose(item: Item, words: Sequence[str]) -> Sequence[str]:
        prompt, ending = cut(load_styles()["test"][item.statement.form][0], item.statement)
        chosen = balancer.choose(prompt, item.statement.second + ending, [word + ending for word in words])
        return [word.removesuffix(ending) for word in chosen]

    return choose


def _item(statement: Statement, proof: tuple[Statement, ...], inference: str) -> Item:
    # Answers of one kind are in about equally many documents: otherwise frequency would distinguish them.
    return Item(statement, proof, inference, (statement.form, statement.relation))


def _above(category: str, hierarchy: Hierarchy) -> list[str]:
    above = []
    while category in hierarchy.parents:
        category = hierarchy.parents[category]
        above.append(category)
    return above


def make_small(seed: int, index: int, *, categories: int, documents_per_fact: int) -> World:
    """One small world of `categories` categories, members included; each fact is in `documents_per_fact` documents."""
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
    _ask_small(world, items, list_truths(turned for s in derived for turned in (s, s.reversed())))
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


def _ask_small(world: World, items: dict[str, list[Item]], truths: Truths) -> None:
    model = NgramModel(document.text for document in world.documents)
    for split, members in items.items():
        choose = Balancer(model, world.rng).choose_entities
        blocks = make_blocks(members, truths, world.rng, keep_all=split == HOLDOUT, choose=choose)
        # Few nouns leave few wrong options: except for the held-out categories, only whole blocks are asked.
        blocks = [block for block in blocks if split == HOLDOUT or len(block) == NUM_OPTIONS]
        phrasing = TEST_PHRASING if split == REPHRASED else 0
        world.ask_blocks(split, blocks, partial(Statement.prompt, phrasing=phrasing))
