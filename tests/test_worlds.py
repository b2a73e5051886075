"""Statements, the oracle and the made sets."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.sets import reversals, syllogisms
from data.sets.derivation import PLAIN, derive
from data.sets.language import PHRASINGS, QUANTIFIERS, Statement, parse
from data.sets.lexicon import FEATURES, NOUNS, PREAMBLES, ROLES
from data.sets.reversal_curse import worlds as reversal_curse
from data.sets.world import World

SETS = {
    "reversals": lambda seed: reversals.make_small(seed, 0, facts=40, documents_per_fact=2),
    "syllogisms": lambda seed: syllogisms.make_small(seed, 0, syllogisms=20),
    "reversal-curse": lambda seed: reversal_curse.make_small(seed, 0, people_per_group=10, documents_per_fact=2),
}


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    form = draw(st.sampled_from(sorted(PHRASINGS)))
    relations = {"more": FEATURES, "less": FEATURES, "is": ROLES, "of": ROLES}.get(form, ("",))
    first, second = draw(st.lists(st.sampled_from(NOUNS), min_size=2, max_size=2, unique=True))
    return Statement(form, draw(st.sampled_from(relations)), first, second)


@given(statements(), st.integers(0, 2), st.sampled_from(["", *PREAMBLES]))
def test_every_phrasing_parses_back(statement: Statement, phrasing: int, preamble: str) -> None:
    text = f"{preamble} {statement.text(phrasing)}".strip()
    assert parse(text) == statement
    assert parse(text.capitalize() + ".") == statement


@given(statements())
def test_prompts_end_before_the_second_entity(statement: Statement) -> None:
    assert f"{statement.prompt()} {statement.second}" == statement.text()


@given(statements())
def test_reversals_name_the_entities_in_the_other_order_and_follow(statement: Statement) -> None:
    reverse = statement.reversed()
    assert (reverse.first, reverse.second) == (statement.second, statement.first)
    assert reverse.canonical() in derive([statement], PLAIN)


def test_text_that_states_nothing_is_no_statement() -> None:
    assert parse("femp are more dangerous") is None
    assert parse("nothing follows") is None
    assert parse("femp are more dangerous than glon than glon") is None


def _models(names: tuple[str, ...]) -> itertools.product:
    """All interpretations of three terms as non-empty sets of two individuals."""
    extensions = [frozenset(s) for n in (1, 2) for s in itertools.combinations(range(2), n)]
    return itertools.product(extensions, repeat=len(names))


def _holds(statement: Statement, meaning: dict[str, frozenset[int]]) -> bool:
    one, two = meaning[statement.first], meaning[statement.second]
    return {"all": one <= two, "some": bool(one & two), "no": not one & two}[statement.form]


@pytest.mark.parametrize("forms", list(itertools.product(QUANTIFIERS, repeat=2)))
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=2)))
def test_the_oracle_agrees_with_set_theory(forms: tuple[str, str], flips: tuple[bool, bool]) -> None:
    """Every figure of two premises: what the oracle derives holds in all models, and nothing that does is missed."""
    pairs = [("a", "b") if not flips[0] else ("b", "a"), ("b", "c") if not flips[1] else ("c", "b")]
    premises = [Statement(form, "", *pair) for form, pair in zip(forms, pairs, strict=True)]
    names = ("a", "b", "c")
    meanings = [dict(zip(names, sets, strict=True)) for sets in _models(names)]
    # Two individuals are too few to tell all non-consequences apart, three would be enough: add one that is outside.
    meanings += [dict(zip(names, sets, strict=True)) for sets in itertools.product(_subsets(3), repeat=3)]
    possible = [meaning for meaning in meanings if all(_holds(premise, meaning) for premise in premises)]
    derived = derive(premises, PLAIN)
    for form in QUANTIFIERS:
        for first, second in itertools.permutations(names, 2):
            statement = Statement(form, "", first, second)
            assert (statement in derived) == all(_holds(statement, meaning) for meaning in possible), statement


def _subsets(size: int) -> list[frozenset[int]]:
    return [frozenset(s) for n in range(1, size + 1) for s in itertools.combinations(range(size), n)]


def test_comparisons_are_transitive_on_one_feature_only() -> None:
    known = derive([Statement("more", "shiny", "a", "b"), Statement("less", "shiny", "c", "b")], PLAIN)
    assert Statement("less", "shiny", "c", "a").canonical() in known
    mixed = derive([Statement("more", "shiny", "a", "b"), Statement("more", "rare", "b", "c")], PLAIN)
    assert not any({s.first, s.second} == {"a", "c"} for s in mixed)


@pytest.mark.parametrize("name", SETS)
def test_worlds_are_the_same_from_the_same_seed_and_differ_otherwise(name: str) -> None:
    assert SETS[name](3) == SETS[name](3)
    assert SETS[name](3).documents != SETS[name](4).documents


@pytest.mark.parametrize("name", SETS)
def test_exactly_the_right_options_are_true(name: str) -> None:
    world: World = SETS[name](0)
    known = derive(world.facts, PLAIN)
    texts = {document.text for document in world.documents}
    ids = {document.doc_id for document in world.documents}
    for question in world.questions:
        statements = [parse(f"{question.prompt} {option}") for option in question.options]
        assert statements[question.answer].canonical() in known, question
        true = {index for index, statement in enumerate(statements) if statement.canonical() in known}
        assert true == {question.answer, *question.also_right, *question.also_true}, question
        if question.split.startswith(
            "statement"
        ):  # "no" and "some" say the same in both directions, "all" implies "some"
            is_all = statements[question.answer].form == "all"
            assert (len(question.also_right), len(question.also_true)) == ((0, 2) if is_all else (1, 0))
        assert len(set(question.options)) == len(question.options)
        assert ids.issuperset(question.requires) and question.requires
        stated = f"{question.prompt} {question.options[question.answer]}" in texts
        assert stated == (question.inference == "recall"), question


@pytest.mark.parametrize("name", SETS)
def test_right_answers_stand_at_every_position(name: str) -> None:
    questions = [question for seed in range(8) for question in SETS[name](seed).questions]
    for split in {question.split for question in questions}:
        asked = [question for question in questions if question.split == split]
        assert {question.answer for question in asked} == set(range(len(asked[0].options)))


@pytest.mark.parametrize(
    ("name", "split"), [("reversals", "reversal"), ("reversals", "trained"), ("syllogisms", "deduction")]
)
def test_liking_a_word_for_itself_is_worth_chance(name: str, split: str) -> None:
    """Whatever the order of preference among words, a quarter of the answers comes out right, no more, no less."""
    asked = [question for question in SETS[name](0).questions if question.split == split]
    for preference in (sorted, lambda names: sorted(names, reverse=True), lambda names: sorted(names, key=hash)):
        right = [preference(question.options)[0] == question.options[question.answer] for question in asked]
        assert sum(right) == len(asked) / 4


def test_more_and_less_are_right_equally_often() -> None:
    asked = [question for question in SETS["reversals"](0).questions if question.split == "contradiction"]
    assert sum(question.options[question.answer].startswith("more") for question in asked) == len(asked) / 2


def test_nouns_are_distinct_and_short() -> None:
    assert len(set(NOUNS)) == len(NOUNS) == 600
    assert {len(noun) for noun in NOUNS} == {4, 5}
    assert not set(NOUNS) & {word for group in PHRASINGS.values() for text in group for word in text.split()}
