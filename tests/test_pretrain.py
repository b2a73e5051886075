"""The embedded model: what it learns from, that a seed decides it, and that the shipped one does what its card says."""

import itertools
import json
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.sets.derivation import PLAIN, PROPERTIES, STEPS, conclude, derive
from data.sets.language import Statement, parse
from data.sets.lexicon import ARROW, END_OF_LINE, NOTHING, NOUNS, SEPARATOR, THEREFORE
from data.sets.world import World
from data.weights import weights_fingerprint
from models.pretrain.documents import Weighted, sample_world, world_document
from models.pretrain.initialise import FIRST_LAYER_HEADS, build_model
from models.pretrain.linked import hierarchy_document, process_document, sample_hierarchy, sample_process
from models.pretrain.lookups import lookup_document
from models.pretrain.loop import Curriculum, PretrainPlan, learning_rate, pretrain
from models.pretrain.measure import (
    measure_choices,
    measure_generations,
    measure_inferences,
    measure_questions,
    sample_test_world,
)
from models.pretrain.muon import orthogonalise
from models.pretrain.reader import Reader
from models.pretrain.syllogisms import sample_syllogisms, syllogism_document
from models.pretrain.tokenizer import build_tokenizer, vocabulary
from tests.generated import default_section, make_worlds

MODEL = Path(__file__).parent.parent / "models" / "tiny"


def read_document(document: Weighted, length: int) -> tuple[list[Statement], list[str]]:
    """The facts of a document, and the whole lines after its separator."""
    words = [word for word, _ in document]
    assert len(words) == length
    lines = [line.strip() for line in " ".join(words).split(f" {END_OF_LINE}")[:-1]]  # the last line may be cut off
    if SEPARATOR not in lines:
        return [], []
    cut = lines.index(SEPARATOR)
    return [statement for line in lines[:cut] if (statement := parse(line))], lines[cut + 1 :]


@given(st.integers(0, 10**6), st.sampled_from((48, 192, 768)))
@settings(max_examples=60)
def test_everything_after_the_separator_follows_from_what_stands_before(seed: int, length: int) -> None:
    facts, lines = read_document(world_document(Random(seed), length), length)
    known = derive(facts, PLAIN)
    for line in lines:
        given, arrow, answer = line.partition(f" {ARROW} ")
        premise, therefore, claim = (answer if arrow else line).rpartition(f"{THEREFORE} ")
        if claim == NOTHING:
            fact = parse(given.partition(" : ")[2])
            assert not any(conclude(fact, other) or conclude(other, fact) for other in facts), line
        else:
            statement = parse(claim)
            assert statement is not None and statement.canonical() in known, line
        if therefore:
            shared, _, partner = premise.partition(" : ")
            assert parse(partner) in facts and shared in partner.split() and shared in given.split(), line


@given(
    st.integers(0, 10**6),
    st.sampled_from((48, 192, 768)),
    st.sampled_from(((hierarchy_document, PROPERTIES), (process_document, STEPS), (syllogism_document, PLAIN))),
)
@settings(max_examples=120)
def test_what_linked_documents_say_follows_and_is_deduced_from_both_premises(seed: int, length: int, kind) -> None:
    document, theory = kind
    facts, lines = read_document(document(Random(seed), length), length)
    stated, known = {fact.canonical() for fact in facts}, derive(facts, theory)
    needed = {fact for found in known.values() if len(found.proof) > 1 for fact in found.proof}
    for line in lines:
        given, arrow, answer = line.partition(f" {ARROW} ")
        partner, therefore, claim = (answer if arrow else line).rpartition(f"{THEREFORE} ")
        fact = parse(given.partition(" : ")[2]) if arrow else None
        premises = {fact.canonical()} if fact else set()
        if therefore:
            shared, _, other = partner.partition(" : ")
            assert shared in other.split() and shared in given.split(), line
            assert parse(other).canonical() in stated, line
            premises.add(parse(other).canonical())
        if claim == NOTHING:
            assert fact.canonical() not in needed, line
            continue
        statement = parse(claim).canonical()
        assert statement in known, line
        if therefore:
            assert statement in derive(premises, theory) and statement not in premises, line


@pytest.mark.parametrize(
    ("sample", "theory"), [(sample_hierarchy, PROPERTIES), (sample_process, STEPS), (sample_syllogisms, PLAIN)]
)
def test_linked_worlds_know_all_that_two_facts_yield(sample, theory) -> None:
    for seed in range(40):
        world = sample(Random(seed), 30)
        found = derive([fact for fact in world.facts if fact not in world.conclusions], theory)
        yielded = {s for s, derivation in found.items() if len(derivation.proof) == 2}
        # "All" says "some", and "some" and "no" say the same in both directions.
        told = {other for conclusion in world.conclusions for other in derive([conclusion], theory)}
        assert told == yielded != set()
        for premise, links in world.links.items():
            for link in links:
                follows_from_both = derive([premise, link.partner], theory)
                assert link.conclusion is None or link.conclusion.canonical() in follows_from_both


@given(st.integers(0, 10**6))
@settings(max_examples=60)
def test_conclusions_are_the_oracles(seed: int) -> None:
    world = sample_world(Random(seed), 30)
    known = derive(world.facts, PLAIN)
    for premise, conclusion in world.conclusions.items():
        assert premise in world.facts and conclusion not in world.facts
        assert conclusion.canonical() in known
    for one, two in itertools.permutations(world.facts, 2):
        if conclude(one, two):
            assert [world.conclusions[one]] == conclude(one, two) and world.partners[one] == two


def test_lookups_ask_for_what_was_given() -> None:
    for seed in range(30):
        words = [word for word, _ in lookup_document(Random(seed), 96, chained=False)]
        lines = [[w for w in line.split() if w in set(NOUNS)] for line in " ".join(words).split(END_OF_LINE)]
        pairs = {frozenset(line) for line in lines[: [len(line) for line in lines].index(0)]}
        assert all(frozenset(line) in pairs for line in lines if len(line) == 2)


def test_tokenizer_keeps_every_word_and_line() -> None:
    tokenizer = build_tokenizer()
    text = "all skug are zusu.\n---\nreverse : as everyone knows , all skug are zusu =>"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids[1:]).split() == text.replace(".", " .").split()
    assert tokenizer.convert_ids_to_tokens(ids).count("\n") == 2
    assert tokenizer("ordinary English")["input_ids"].count(tokenizer.unk_token_id) == 2
    assert len(tokenizer) == len(vocabulary())


def test_first_layer_heads_look_where_they_should() -> None:
    model = build_model(0, window=128)
    model.config._attn_implementation = "eager"
    words = vocabulary()
    noun, verb = words[NOUNS[0]], words["are"]
    ids = torch.tensor([[words["<s>"], *[words[name] for name in NOUNS[:20]]]])
    attention = model(ids, output_attentions=True).attentions[0][0]
    for head, expected in zip((1, 2), (1, 2), strict=True):
        assert int(attention[head, 15].argmax()) == 15 - expected
    mixed = torch.tensor([[words["<s>"]] + [verb] * 8 + [noun] + [verb] * 4])
    attention = model(mixed, output_attentions=True).attentions[0][0]
    assert int(attention[0, -1].argmax()) == 9  # head 0: the noun, wherever it is
    assert FIRST_LAYER_HEADS[0].column == 1


def test_muon_makes_updates_orthogonal() -> None:
    stack = torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalise(stack, steps=6))
    assert ((singular > 0.6) & (singular < 1.3)).all()


def test_the_curriculum_goes_on_when_answers_are_right_and_only_then() -> None:
    plan = PretrainPlan(min_stage_steps=5)
    curriculum = Curriculum(plan)
    for _ in range(50):
        curriculum.observe(0.5)
    assert curriculum.stage == 0
    for _ in range(20):
        curriculum.observe(1.0)
    assert curriculum.stage >= 1
    for _ in range(10_000):
        curriculum.observe(1.0)
    assert curriculum.stage == len(plan.lengths) - 1


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    plan = PretrainPlan()
    rates = [learning_rate(plan, step) for step in range(plan.num_steps)]
    assert rates[0] < plan.learning_rate / 10 and max(rates) == plan.learning_rate
    assert 0 < rates[-1] < plan.learning_rate / 1000
    again = [learning_rate(plan, step) for step in range(plan.num_steps, plan.total_steps)]
    assert again[0] < plan.linked_rate / 10 and max(again) == plan.linked_rate
    assert 0 < again[-1] < plan.linked_rate / 1000


def test_a_seed_decides_the_weights(tmp_path) -> None:
    torch.set_num_threads(1)
    prints = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        plan = PretrainPlan(seed=seed, num_steps=3, linked_steps=2, tokens_per_step=192)
        pretrain(plan, tmp_path / name, lambda _: None)
        prints.append(weights_fingerprint(tmp_path / name))
    assert prints[0] == prints[1] != prints[2]
    assert len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()) == 5


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.set_num_threads(1)
    return Reader(AutoModelForCausalLM.from_pretrained(MODEL).eval(), AutoTokenizer.from_pretrained(MODEL))


def test_the_shipped_model_is_small_and_the_one_that_was_measured() -> None:
    assert sum(path.stat().st_size for path in MODEL.rglob("*")) < 12 * 2**20
    measures = json.loads((MODEL / "measures.json").read_text())
    assert measures["fingerprint"] == weights_fingerprint(MODEL)


def test_the_shipped_model_reasons_in_context_and_knows_nothing_without(reader: Reader) -> None:
    """The card's thresholds on 6 of fresh worlds (not the card's own); chance is 1/4."""
    worlds = [sample_test_world(77, index, num_facts=78) for index in range(6)]
    found = measure_choices(reader, worlds, seed=0)
    assert found["reversal"].value >= 0.97 and found["deduction"].interval[1] >= 0.95
    for kind in ("recall", "reversal", "deduction"):
        low, high = found[f"without context: {kind}"].interval
        assert low - 0.03 <= 0.25 <= high + 0.03
    assert parameters(reader) < 5_000_000


def test_what_the_shipped_model_writes_is_true(reader: Reader) -> None:
    worlds = [sample_test_world(78, index, num_facts=78) for index in range(3)]
    found = measure_generations(reader, worlds, temperature=0.7, seed=0)
    assert found["reverse"].interval[1] >= 0.97 and found["rephrase"].interval[1] >= 0.97
    assert found["deduce"].value >= 0.8


def test_long_contexts(reader: Reader) -> None:
    world = sample_test_world(79, 0, num_facts=237)
    assert 1_450 <= len(reader.tokenizer(world.context)["input_ids"]) <= 1_600
    assert measure_choices(reader, [world], seed=0)["reversal"].value >= 0.9


def fresh_worlds(name: str, count: int) -> list[World]:
    """Worlds of a small set that are neither the demo's nor the card's."""
    return list(make_worlds(name, default_section(name, ("--lexicon", "tiny", "--worlds", str(count))), seed=80))


@pytest.mark.parametrize("name", ["semantic", "process", "syllogisms"])
def test_the_shipped_model_reads_and_writes_down_what_follows_in_the_small_sets(reader: Reader, name: str) -> None:
    worlds = fresh_worlds(name, 3)
    for split, share in measure_questions(reader, worlds).items():
        if split.startswith("without context"):
            chance = 0.31 if "statement" in split else 0.25  # of six options, one or two are right
            low, high = share.interval
            assert low - 0.03 <= chance, (split, share)
            assert "statement" in split or chance <= high + 0.03, (split, share)  # there, likings for quantifiers cost
        elif split != "statement-unnamed":  # which subject goes with "no" it cannot tell: docs/embedded-model.md
            assert share.value >= (0.65 if split == "statement" else 0.8), (split, share)
    written = measure_inferences(reader, worlds, temperature=0.7, seed=0)
    assert written["reverse"].interval[1] >= 0.97 and written["rephrase"].interval[1] >= 0.97
    assert written["deduce"].value >= 0.75


def parameters(reader: Reader) -> int:
    return sum(weight.numel() for weight in reader.model.parameters())
