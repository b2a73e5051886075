"""Intervals against the truth of simulated data, and the edges where a bootstrap fails."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.records import Question, Score
from evaluate.statistics import (
    MAX_BOOTSTRAP,
    Cell,
    Difference,
    Estimate,
    Outcome,
    estimate_accuracies,
    fit_exponent,
    group_answers,
    judge,
    paired_difference,
    t95,
    wilson_interval,
)


def make(
    correct: list[list[float]], *, condition: str = "icl", chance: float = 0.25, corpus: str = "w0", run: str = ""
) -> list[Outcome]:
    """One outcome per entry; each inner list holds the questions of one fact."""
    rows = []
    for fact, values in enumerate(correct):
        for number, value in enumerate(values):
            place = ("set", corpus, "reversal", condition)
            ids = (f"q{fact}.{number}", f"f{fact}", "reversal")
            rows.append(Outcome(*place, *ids, value, chance, value, chance, run))
    return rows


def subtract(first: list[Outcome], second: list[Outcome], *, seed: int = 0) -> Difference | None:
    (left,), (right,) = (group_answers(rows).values() for rows in (first, second))
    return paired_difference(left, right, seed=seed)


def estimate(outcomes: list[Outcome], seed: int = 0) -> Estimate:
    (only,) = estimate_accuracies(outcomes, seed=seed).values()
    return only


@pytest.mark.parametrize(("normalize", "chosen"), [("none", 0), ("token", 1), ("byte", 2)])
def test_long_options_can_be_compared_with_short_ones(normalize: str, chosen: int) -> None:
    question = Question("q", "c", "s", "", "It is", ("ox", "an old oak", "a very long word indeed"), 1, "f", ())
    score = Score("q", (-3.0, -5.0, -6.0), (1, 4, 4), (False,) * 3)
    outcome, option = judge("suite", "icl", "", question, score, normalize)  # by hand: -3, -5, -6; -3, -1.25, -1.5; ...
    assert option == chosen and outcome.correct == float(chosen == 1)


def test_what_an_option_has_without_the_question_can_be_subtracted() -> None:
    question = Question("q", "c", "s", "", "It is", ("common", "rare"), 1, "f", ())
    score = Score("q", (-2.0, -6.0), (1, 3), (False,) * 2, unconditional=(-1.0, -9.0))
    assert judge("suite", "icl", "", question, score)[1] == 0
    assert judge("suite", "icl", "", question, score, "pmi")[1] == 1  # -1 and +3
    empty = Score("q", (-2.0, -6.0), (1, 3), (False,) * 2)  # an empty prompt has no prior of its own
    assert judge("suite", "icl", "", question, empty, "pmi")[1] == 0


def test_the_fitted_length_is_the_one_with_the_most_right_answers() -> None:
    question = Question("q", "c", "s", "", "It is", ("ox", "an old oak"), 1, "f", ())
    long = Score("q", (-3.0, -5.0), (1, 4), (False,) * 2)  # right from 4**e > 5/3, which is e > 0.37
    short = Score("q", (-3.0, -2.0), (1, 4), (False,) * 2)  # right with any
    assert fit_exponent([(question, long), (question, short)]) == 0.4
    assert fit_exponent([(question, short)]) == 0.0
    assert fit_exponent([]) is None
    assert judge("suite", "icl", "", question, long, "fitted", 0.35)[1] == 0
    assert judge("suite", "icl", "", question, long, "fitted", 0.4)[1] == 1


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
        found = subtract(first, second, seed=trial)
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
    same = subtract(first, second)
    assert same is not None and same.difference == 0
    assert -0.1 < same.low < 0 < same.high < 0.1
    whole = subtract(first, make([[0.0]] * 50, condition="finetuned"))
    assert whole is not None and whole.difference == whole.high == 1 and 0.85 < whole.low < 1


def test_a_difference_is_taken_over_shared_questions_only() -> None:
    first, second = make([[1.0], [1.0], [0.0]]), make([[0.0], [1.0]], condition="finetuned")
    found = subtract(first, second)
    assert found is not None and found.difference == 0.5 and found.n == 2
    elsewhere = [replace(row, question_id="other") for row in second]
    assert subtract(first, elsewhere) is None


def test_a_question_counted_twice_is_refused() -> None:
    outcomes = make([[1.0], [0.0]])
    with pytest.raises(ValueError, match="counted twice"):
        estimate_accuracies([*outcomes, outcomes[0]])
    estimate_accuracies([*outcomes, replace(outcomes[0], run="seed 1")])  # another run is another answer


def test_cells_do_not_disturb_one_another() -> None:
    outcomes = make([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]] * 9)
    alone = estimate_accuracies(outcomes)
    beside = estimate_accuracies([*make([[0.0], [1.0]], condition="finetuned"), *outcomes])
    assert beside[Cell("set", "reversal", "icl")] == alone[Cell("set", "reversal", "icl")]


def by_corpus(accuracies: list[float], *, condition: str = "finetuned") -> list[Outcome]:
    """Sixteen facts with one question each in every corpus."""
    return [
        row
        for number, accuracy in enumerate(accuracies)
        for row in make(
            [[float(fact < round(16 * accuracy))] for fact in range(16)], condition=condition, corpus=f"w{number}"
        )
    ]


def test_an_interval_covers_corpora_where_these_vary_more_than_facts() -> None:
    rates = [0.31, 0.88, 0.38, 0.69, 0.75]  # of the demo: process, instances, finetuned
    found = estimate(by_corpus(rates))
    assert found.level == "corpora" and (found.high - found.low) / 2 == pytest.approx(0.30, abs=0.01)
    facts = estimate([replace(row, corpus="w0", fact_id=row.corpus + row.fact_id) for row in by_corpus(rates)])
    assert facts.level == "facts" and (facts.high - facts.low) / 2 == pytest.approx(0.11, abs=0.01)
    assert {corpus: runs[""] for corpus, runs in found.groups.items()} == pytest.approx(
        {f"w{number}": round(16 * rate) / 16 for number, rate in enumerate(rates)}
    )


def test_a_difference_is_over_corpora_too() -> None:
    first, second = by_corpus([0.75, 0.25, 1.0, 0.25, 0.5]), by_corpus([0.5] * 5, condition="icl")
    found = subtract(first, second)
    assert found is not None and found.level == "corpora"
    means = np.array([0.25, -0.25, 0.5, -0.25, 0.0])
    assert found.high - found.difference == pytest.approx(2.776445 * means.std(ddof=1) / 5**0.5, abs=1e-6)


def test_corpora_that_agree_by_chance_keep_the_width_of_their_facts() -> None:
    found = estimate(by_corpus([0.5] * 5))
    alone = estimate(by_corpus([0.5]))
    assert found.level == "corpora" and 0.2 < found.high - found.low < alone.high - alone.low


def test_seeds_are_runs_of_one_corpus_and_are_averaged_in_several() -> None:
    of_seed = [make([[float((fact + 3 * seed) % 10 < 3 + 2 * seed)] for fact in range(40)], run=f"seed {seed}")
               for seed in range(3)]  # fmt: skip
    rows = [row for seed in of_seed for row in seed]
    found, single = estimate(rows), estimate(of_seed[1])
    assert (found.level, single.level, found.n) == ("runs", "facts", 40)
    assert found.groups == {"w0": {"seed 0": 0.3, "seed 1": 0.5, "seed 2": 0.7}}
    assert found.accuracy == pytest.approx(0.5) and found.high - found.low > 2 * (single.high - single.low)
    both = estimate([*rows, *(replace(row, corpus="w1") for row in rows)])
    assert both.level == "corpora" and both.n == 80


def test_runs_are_paired_where_both_conditions_have_them() -> None:
    def arm(condition: str, gain: int) -> list[Outcome]:
        return [row for seed in range(3) for row in make(
            [[float(fact < 10 + 8 * seed + gain)] for fact in range(40)], condition=condition, run=f"seed {seed}"
        )]  # fmt: skip

    base = make([[float(fact < 4)] for fact in range(40)], condition="pretrained")
    paired, unpaired = subtract(arm("augmented", 4), arm("finetuned", 0)), subtract(arm("augmented", 4), base)
    assert paired is not None and unpaired is not None and paired.level == unpaired.level == "runs"
    assert paired.difference == pytest.approx(0.1)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)  # what seeds have in common cancels


@pytest.mark.parametrize(("corpora", "runs"), [(5, 1), (3, 2), (1, 3), (1, 5)])
@pytest.mark.parametrize(("between", "facts"), [(0.5, 40), (1.0, 30)])
def test_intervals_cover_runs_and_facts(corpora: int, runs: int, between: float, facts: int) -> None:
    """Facts and runs shift the log-odds; the truth is the mean over runs (and, with several corpora, over these)."""
    generator = np.random.default_rng(corpora * 100 + runs * 10 + facts)
    truth = (1 / (1 + np.exp(-0.4 - np.hypot(between, 1.0) * generator.standard_normal(400_000)))).mean()
    covered, num_trials = 0, 300
    for _ in range(num_trials):
        rows = []
        for corpus in range(corpora):
            of_fact = generator.standard_normal(facts)
            for run in range(runs):
                rate = 1 / (1 + np.exp(-0.4 - of_fact - between * generator.standard_normal()))
                right = (generator.random((2, facts)) < rate).astype(float).T.tolist()
                rows += make(right, corpus=f"w{corpus}", run=f"seed {run}")
        found = estimate(rows)
        covered += found.low <= truth <= found.high
    assert covered / num_trials >= 0.93


def test_many_facts_need_no_bootstrap() -> None:
    generator = np.random.default_rng(3)
    correct = simulate(generator, facts=MAX_BOOTSTRAP, questions=3, rate=0.3)
    few = estimate(make(correct))
    many = estimate(make([*correct, [0.0]]))
    assert (many.low, many.high) == pytest.approx((few.low, few.high), abs=0.003)


def test_quantiles_of_t_agree_with_published_values() -> None:
    published = {1: 12.7062, 4: 2.7764, 6: 2.4469, 7: 2.3646, 9: 2.2622, 19: 2.0930, 120: 1.9799}
    assert {df: t95(df) for df in published} == pytest.approx(published, abs=1e-3)


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
