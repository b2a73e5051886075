"""The oracle: what follows, with the shortest proof, against brute force; every wording reads back as written."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.records import Document
from data.sets import simple_logic as simple
from data.sets.derivation import PLAIN, PROPERTIES, SEMANTIC, STEPS, derive
from data.sets.grammar import fill, print_statement
from data.sets.language import SEMANTIC_FORMS, Statement
from data.sets.oracle import CONTRADICTION, DERIVED, REVERSAL, STATED, UNREAD, UNSUPPORTED, Oracle
from data.sets.process import logic as process
from data.sets.process import rules as transform
from data.sets.process.terms import X, call, number, power, read, show
from data.sets.reversal_curse import logic as curse_logic
from data.sets.reversal_curse.logic import load_people
from data.sets.reversal_curse.worlds import fill as fill_person
from data.sets.semantic import logic as semantic
from data.sets.words import WordMaker, shapes

ENTITIES = ("grud", "abmef", "yomp", "troff")
nouns, verbs, adjectives = (st.sampled_from(shapes(kind)) for kind in ("noun", "verb", "adjective"))


def statements(forms: dict[str, tuple[str, ...]]) -> st.SearchStrategy[list[Statement]]:
    """A few statements about four entities; `forms` maps each form to its relations."""

    @st.composite
    def one(draw: st.DrawFn) -> Statement:
        form = draw(st.sampled_from(sorted(forms)))
        first, second = draw(st.permutations(ENTITIES))[:2]
        return Statement(form, draw(st.sampled_from(forms[form])), first, second)

    return st.lists(one(), min_size=1, max_size=5, unique=True)


def brute_force(facts: Iterable[Statement], step: Callable[[set[Statement]], set[Statement]]) -> set[Statement]:
    """Apply every rule to everything until nothing new comes."""
    known = set(facts)
    while new := step(known) - known:
        known |= new
    return known


def semantic_step(known: set[Statement]) -> set[Statement]:
    """Whatever a kind is, its members are: written down without the code under test."""
    return {
        Statement(two.form, two.relation, one.first, two.second)
        for one, two in itertools.product(known, known)
        if one.form == "kind" and one.second == two.first and one.first != two.second
    }


def assert_shortest(facts: list[Statement], derived: dict, close: Callable[[Iterable[Statement]], set]) -> None:
    """Exactly what brute force finds, and no proof that a smaller set of facts could replace."""
    assert set(derived) == close(facts)
    sizes: dict[Statement, int] = {}
    for size in range(1, len(facts) + 1):
        for subset in itertools.combinations(facts, size):
            for statement in close(subset):
                sizes.setdefault(statement, size)
    for statement, derivation in derived.items():
        assert statement in close(derivation.proof)
        assert len(derivation.proof) == sizes[statement], derivation


@given(statements({"kind": ("",), "trait": ("",), "link": ("flimp", "dask")}))
@settings(max_examples=150)
def test_inheritance_is_what_brute_force_finds(facts: list[Statement]) -> None:
    assert_shortest(facts, derive(facts, SEMANTIC), lambda some: brute_force(some, semantic_step))


def plain_step(known: set[Statement]) -> set[Statement]:
    """Conversion, "all" to "some", transitive comparisons and three syllogisms: written without the code under test."""
    new = {Statement(one.form, "", one.second, one.first) for one in known if one.form in ("some", "no")}
    for one in known:
        if one.form == "all":
            new |= {Statement("some", "", one.first, one.second), Statement("some", "", one.second, one.first)}
    for one, two in itertools.product(known, known):
        if one.second == two.first and one.first != two.second and one.relation == two.relation:
            forms = {("more", "more"): "more", ("all", "all"): "all", ("all", "no"): "no", ("some", "all"): "some"}
            if form := forms.get((one.form, two.form)):
                new.add(Statement(form, one.relation, one.first, two.second))
    return new


@given(statements({"all": ("",), "some": ("",), "no": ("",), "more": ("rare", "kind"), "less": ("rare",)}))
@settings(max_examples=150)
def test_syllogisms_and_comparisons_have_shortest_proofs(facts: list[Statement]) -> None:
    canonical = list(dict.fromkeys(fact.canonical() for fact in facts))
    assert_shortest(canonical, derive(facts, PLAIN), lambda some: brute_force(some, plain_step))


def properties_step(known: set[Statement]) -> set[Statement]:
    """The plain rules, and members that inherit what their category is compared with."""
    return plain_step(known) | {
        Statement("more", two.relation, one.first, two.second)
        for one, two in itertools.product(known, known)
        if (one.form, two.form) == ("all", "more") and one.second == two.first and one.first != two.second
    }


@given(statements({"all": ("",), "no": ("",), "more": ("rare", "kind")}))
@settings(max_examples=150)
def test_properties_of_the_small_sets_are_what_brute_force_finds(facts: list[Statement]) -> None:
    assert_shortest(facts, derive(facts, PROPERTIES), lambda some: brute_force(some, properties_step))


def steps_step(known: set[Statement]) -> set[Statement]:
    """Of two single steps, one after the other, a double one."""
    return {
        Statement("is", f"{one.relation} of the {two.relation}", one.first, two.second)
        for one, two in itertools.product(known, known)
        if one.second == two.first and one.first != two.second and {one.relation, two.relation} <= {"maker", "ruler"}
    }


@given(statements({"is": ("maker", "ruler", "ruler of the maker")}))
@settings(max_examples=150)
def test_steps_of_the_small_sets_are_what_brute_force_finds(facts: list[Statement]) -> None:
    assert_shortest(facts, derive(facts, STEPS), lambda some: brute_force(some, steps_step))


@given(st.permutations(range(5)), statements({"kind": ("",), "trait": ("",)}))
def test_the_order_of_facts_changes_nothing(order: list[int], facts: list[Statement]) -> None:
    shuffled = [facts[index] for index in order if index < len(facts)]
    assert derive(shuffled, SEMANTIC) == derive(facts, SEMANTIC)


def semantic_templates() -> list[tuple[str, str]]:
    styles = semantic.load_styles()
    groups = [*styles["style"].values(), styles["answers"], styles["test"]]
    listed = [(form, text) for group in groups for form, texts in group.items() for text in texts if form != "openings"]
    return [(form, text.rpartition(semantic.ANSWER)[2]) for form, text in listed]


@pytest.mark.parametrize(("form", "template"), semantic_templates())
@given(nouns=st.lists(nouns, min_size=3, max_size=3, unique=True), verb=verbs, adjective=adjectives)
@settings(max_examples=5)
def test_every_semantic_template_reads_back(
    form: str, template: str, nouns: list[str], verb: str, adjective: str
) -> None:
    words = {"trait": (nouns[0], adjective), "traits": (adjective, nouns[0]), "able": (nouns[0], verb)}
    words["ables"] = (verb, nouns[0])
    parts = form.split("+")
    pairs = [words.get(part, (nouns[0], nouns[1 + index])) for index, part in enumerate(parts)]
    relation = "" if "{r}" not in template else verb if form in ("link", "linked") else ""
    text = fill(template, a=pairs[0][0], b=pairs[0][1], c=pairs[-1][1], r=relation)
    made = tuple(Statement(part, relation, *pair) for part, pair in zip(parts, pairs, strict=True))
    assert semantic.grammar().read_sentence(text) == made
    assert semantic.grammar().read_sentence(f"Therefore, {text[0].lower()}{text[1:]}") == made


@given(st.sampled_from(sorted(simple.load_wordings()["forms"])), nouns, nouns, st.data())
def test_every_wording_of_the_simple_sets_reads_back(form: str, one: str, two: str, data: st.DataObject) -> None:
    wordings = simple.load_wordings()
    relation = data.draw(st.sampled_from(("dangerous", "famous", "kind"))) if form in ("more", "less") else ""
    statement = Statement(form, relation, one, two)
    text = print_statement(data.draw(st.sampled_from(wordings["forms"][form])), statement)
    told = data.draw(st.sampled_from(wordings["preambles"])).format(s=text[0].lower() + text[1:], S=text)
    assert simple.LOGIC.read(told) == [(told, (statement,))]


@pytest.mark.parametrize("direction", ["p2d", "d2p"])
def test_every_template_about_people_reads_back(direction: str) -> None:
    fact = Statement("is", "", "Uma Thornfield", "the shy potter from Otterby who won a duel with a feather")
    made = fact if direction == "p2d" else fact.reversed()
    for group in (load_people().train, load_people().test):
        for template in group[direction]:
            found = [statements for _, statements in curse_logic.LOGIC.read(fill_person(template, fact)) if statements]
            assert found == [(made,)], template


@st.composite
def terms(draw: st.DrawFn, depth: int = 3) -> tuple:
    kind = draw(st.sampled_from(("x", "number", "call", "power", "+", "-", "*") if depth else ("x", "number")))
    if kind == "x":
        return X
    if kind == "number":
        return number(draw(st.integers(0, 20)))
    if kind == "call":
        return call(draw(st.sampled_from(("blim", "trof"))), draw(terms(depth - 1)))
    if kind == "power":
        return power(draw(terms(depth - 1)), draw(st.integers(1, 9)))
    return (kind, draw(terms(depth - 1)), draw(terms(depth - 1)))


@given(terms())
def test_terms_read_back_however_they_are_spaced(term: tuple) -> None:
    assert read(show(term)) == term
    assert read(show(term).replace(" ", "")) == term


def test_what_is_no_term_is_none() -> None:
    assert [read(text) for text in ("", "x +", "(x", "x^y", "3 4", "x?", "blim(x")] == [None] * 7


RULES = transform.Rules(
    plus="D(v) - D(u)",
    times="u * D(v)",
    inside=True,
    raised=(1, 2),
    power=(2, 1),
    table={"blim": (3, "trof"), "trof": (5, "blim")},
)


def test_the_rules_of_the_process() -> None:
    asked = {
        "x^3": "5*x^4",
        "blim(x)": "3*trof(x)",
        "blim(x) + x^3": "5*x^4 - 3*trof(x)",
        "blim(x) * x^3": "blim(x) * (5*x^4)",
        "blim(trof(x))": "3*trof(5*blim(x))",
        "trof(x)^2": "3*(5*blim(x))^4",
    }
    for term, result in asked.items():
        assert show(transform.apply(RULES, read(term))) == result
        wrong = {show(answer) for answer in transform.wrong_answers(RULES, read(term))}
        assert result not in wrong and len(wrong) >= 3


def test_process_proofs_suffice_and_need_each_fact() -> None:
    told = [*process.rule_statements("drelf", RULES).values()]
    told += [
        process.value_statement("drelf", term, transform.apply(RULES, term))
        for term in (call("blim", X), call("trof", X), power(X, 3), ("+", power(X, 4), call("blim", X)))
    ]
    derived = process.derive_values(told)
    universe = list(process.universe(["blim", "trof"], powers=True))
    assert {s.first: s.second for s in derived if s.form == "value"} == {
        show(term): show(transform.apply(RULES, term)) for term in universe
    }
    for statement, derivation in list(derived.items())[::7]:
        assert statement in process.derive_values(derivation.proof)
        for fact in derivation.proof:
            assert statement not in process.derive_values(set(derivation.proof) - {fact})


@pytest.mark.parametrize("template", [*process.TEMPLATES, *process.TESTS, *process.PARAPHRASES])
def test_every_wording_of_the_process_reads_back(template: str) -> None:
    for fact in (
        *process.rule_statements("drelf", RULES).values(),
        Statement("value", "drelf", "x^3 + blim(x)", "5*x^4 - 3*trof(x)"),
    ):
        text = template.format(o="drelf", t=fact.first, r=fact.second)
        if fact.first == "f(u)" and not template.endswith(("{r}.", "{r}")):
            continue  # the rule ends in a clause of its own, which only the end of a sentence can hold
        assert process.LOGIC.read(text) == [(text, (fact,))]


DOCUMENTS = [
    Document("d1", "Gruds are abmefs. Abmefs include yomps.", "semantic/w0"),
    Document("d2", "Abmefs are rony. The abmefs flimp troffs. Troffs are flimped by abmefs.", "semantic/w0"),
]


@pytest.fixture
def oracle() -> Oracle:
    return Oracle(DOCUMENTS, semantic.LOGIC)


def test_what_follows_and_is_not_stated(oracle: Oracle) -> None:
    assert not oracle.unread and len(oracle.derived) == 8
    grud_is_rony = Statement("trait", "", "grud", "rony")
    assert oracle.proof(grud_is_rony) == (
        Statement("kind", "", "grud", "abmef"),
        Statement("trait", "", "abmef", "rony"),
    )


@pytest.mark.parametrize(
    ("text", "verdict", "inference"),
    [
        ("All gruds are abmefs.", STATED, STATED),
        ("Abmefs include gruds.", REVERSAL, "reversal-kind"),
        ("It follows that every yomp is rony.", DERIVED, "trait-2"),
        ("Rony things include the gruds.", DERIVED, "trait-2"),
        ("Troffs are flimped by gruds.", DERIVED, "link-2"),
        ("Gruds are yomps.", UNSUPPORTED, ""),
        ("Abmefs are gruds.", CONTRADICTION, ""),
        ("Gruds are not rony.", CONTRADICTION, ""),
        ("Gruds are fond of music and of tea.", UNREAD, ""),
    ],
)
def test_texts_are_judged(oracle: Oracle, text: str, verdict: str, inference: str) -> None:
    (finding,) = oracle.judge(text)
    assert (finding.verdict, finding.inference) == (verdict, inference)


def test_a_chain_in_one_sentence_gives_each_of_its_statements(oracle: Oracle) -> None:
    findings = oracle.judge("Since gruds are abmefs and abmefs are rony, gruds are rony.")
    assert [finding.verdict for finding in findings] == [STATED, STATED, DERIVED]


@given(st.sampled_from(sorted(SEMANTIC_FORMS)), nouns, nouns)
def test_semantic_reversals_say_the_same(form: str, one: str, two: str) -> None:
    statement = Statement(form, "flimp" if form == "link" else "", one, two)
    assert statement.reversed() != statement and statement.reversed().canonical() == statement
    assert replace(statement.reversed(), first=one, second=two).form == SEMANTIC_FORMS[form]


def test_words_are_no_words_and_inflect_back() -> None:
    from random import Random

    from data.sets.words import english

    maker = WordMaker(Random(0))
    made = [
        *(maker.noun() for _ in range(300)),
        *(maker.verb() for _ in range(100)),
        *(maker.adjective() for _ in range(100)),
    ]
    assert len(set(made)) == len(made) == 500
    assert {len(word) for word in made} == {4, 5}
    assert not english() & {*made, *(word + "s" for word in made)}
    assert {"house", "dogma", "table", "blog", "frog"} <= english()
    assert not [word for word in made if word.endswith(("s", "ed", "ing", "x", "z"))]
