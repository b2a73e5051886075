"""Intervals against the truth of simulated data, and the edges where a bootstrap fails."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.statistics import (
    Cell,
    Estimate,
    Outcome,
    estimate_accuracies,
    paired_difference,
    wilson_interval,
)


def make(correct: list[list[float]], *, condition: str = "icl", chance: float = 0.25) -> list[Outcome]:
    """One outcome per entry; each inner list holds the questions of one fact."""
    rows = []
    for fact, values in enumerate(correct):
        for number, value in enumerate(values):
            place = ("set", f"w{fact % 5}", "reversal", condition)
            ids = (f"q{fact}.{number}", f"f{fact}", "reversal")
            rows.append(Outcome(*place, *ids, value, chance, value, chance))
    return rows


def estimate(outcomes: list[Outcome], seed: int = 0) -> Estimate:
    (only,) = estimate_accuracies(outcomes, seed=seed).values()
    return only


def simulate(generator: np.random.Generator, *, facts: int, questions: int, rate: float) -> list[list[float]]:
    """Clustered answers: a fact is known with probability `rate`, then nearly all of its questions are right."""
    known = generator.random(facts) < rate
    chances = np.where(known, 0.95, 0.05)[:, None]
    right: list[list[float]] = (generator.random((facts, questions)) < chances).astype(float).tolist()
    return right


def test_intervals_cover_the_truth_and_unclustered_ones_would_not() -> None:
    generator = np.random.default_rng(7)
    truth = 0.6 * 0.95 + 0.4 * 0.05
    covered = naive = 0
    for trial in range(200):
        outcomes = make(simulate(generator, facts=60, questions=8, rate=0.6))
        found = estimate(outcomes, seed=trial)
        covered += found.low <= truth <= found.high
        low, high = wilson_interval(found.accuracy, found.n)
        naive += low <= truth <= high
    assert 0.90 <= covered / 200 <= 0.985
    assert naive / 200 < 0.75


def test_paired_intervals_cover_the_truth_and_are_narrower_than_unpaired() -> None:
    generator = np.random.default_rng(11)
    covered, widths, unpaired = 0, [], []
    for trial in range(200):
        base = np.array(simulate(generator, facts=60, questions=4, rate=0.5))
        # The second condition forgets a fifth of what the first one gets right.
        kept = base * (generator.random(base.shape) < 0.8)
        first, second = make(base.tolist()), make(kept.tolist(), condition="finetuned")
        found = paired_difference(first, second, seed=trial)
        assert found is not None
        covered += found.low <= 0.5 * 0.2 <= found.high
        widths.append(found.high - found.low)
        if trial < 20:
            one, other = estimate(first), estimate(second)
            unpaired.append(np.hypot(one.high - one.low, other.high - other.low))
    assert 0.90 <= covered / 200 <= 0.985
    assert np.mean(widths) < 0.5 * np.mean(unpaired)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_certainty_falls_back_to_wilson_over_facts(value: float) -> None:
    found = estimate(make([[value] * 3] * 40))
    assert (found.low, found.high) == wilson_interval(value, 40)
    assert found.n == 120 and found.high - found.low > 0.05


def test_a_fixed_bias_has_an_honest_interval() -> None:
    # "Always says more" gets one of each fact's two questions: no variance between facts, yet no certainty either.
    found = estimate(make([[1.0, 0.0]] * 30, chance=0.5))
    assert found.accuracy == 0.5 and found.chance == 0.5
    assert found.low < 0.4 and found.high > 0.6


def test_wilson_agrees_with_published_values() -> None:
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(0.5, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)


def test_ties_count_as_shares() -> None:
    outcomes = make([[0.25, 1.0], [0.5, 0.25]])
    assert estimate(outcomes).accuracy == 0.5


def test_differences_that_never_vary_keep_a_width() -> None:
    first, second = make([[1.0]] * 50), make([[1.0]] * 50, condition="augmented")
    same = paired_difference(first, second)
    assert same is not None and same.difference == 0
    assert -0.1 < same.low < 0 < same.high < 0.1
    whole = paired_difference(first, make([[0.0]] * 50, condition="finetuned"))
    assert whole is not None and whole.difference == whole.high == 1 and 0.85 < whole.low < 1


def test_a_difference_is_taken_over_shared_questions_only() -> None:
    first, second = make([[1.0], [1.0], [0.0]]), make([[0.0], [1.0]], condition="finetuned")
    found = paired_difference(first, second)
    assert found is not None and found.difference == 0.5 and found.n == 2
    elsewhere = [replace(row, question_id="other") for row in second]
    assert paired_difference(first, elsewhere) is None


def test_a_question_counted_twice_is_refused() -> None:
    outcomes = make([[1.0], [0.0]])
    with pytest.raises(ValueError, match="counted twice"):
        estimate_accuracies([*outcomes, outcomes[0]])


def test_cells_do_not_disturb_one_another() -> None:
    outcomes = make([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]] * 9)
    alone = estimate_accuracies(outcomes)
    beside = estimate_accuracies([*make([[0.0], [1.0]], condition="finetuned"), *outcomes])
    assert beside[Cell("set", "reversal", "icl")] == alone[Cell("set", "reversal", "icl")]


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=4), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_intervals_hold_their_estimate_in_any_order(correct: list[list[float]], shuffler: random.Random) -> None:
    outcomes = make(correct)
    found = estimate(outcomes)
    assert 0 <= found.low <= found.accuracy + 1e-9 and found.accuracy - 1e-9 <= found.high <= 1
    shuffler.shuffle(outcomes)
    assert estimate(outcomes) == found
