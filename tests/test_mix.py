"""Which texts are learned in which step: shares, budgets and batches, over any lengths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.seeds import derive_seed
from train.texts.mix import Budget, Lengths, Schedule, cut, make_schedule, match_budget, shuffled, source_shares

TEXTS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 2)), min_size=1, max_size=30)
SEEDS = st.integers(0, 99)


def lengths_of(texts: list[tuple[int, int]], *, hidden: int = 0) -> Lengths:
    """Texts of (labels, source); `hidden` inputs of each are prompts."""
    num_labels, sources = (np.array(column, np.int64) for column in zip(*texts, strict=True))
    return Lengths(num_labels + hidden, num_labels, sources)


def plan(lengths: Lengths, weights: list[float], budget: Budget, **sizes: int) -> Schedule:
    return make_schedule(lengths, weights, budget=budget, **{"batch_size": 4, "seed": 0, **sizes})


def labels(schedule: Schedule, lengths: Lengths) -> int:
    return int(lengths.num_labels[schedule.rows].sum())


@pytest.mark.parametrize("weights", [[0.5, 0.3, 0.2], [1, 0, 9], [5, 5, 1]])
def test_shares_of_tokens_come_out_as_asked_over_a_long_run(weights: list[float]) -> None:
    """Sources of very unlike sizes: 200 short texts, 10 long ones, 50 of the middle; each draw counts its tokens."""
    rng = np.random.default_rng(0)
    texts = [
        (int(n), s)
        for s, (count, most) in enumerate([(200, 20), (10, 400), (50, 90)])
        for n in rng.integers(1, most, count)
    ]
    lengths = lengths_of(texts)
    schedule = plan(lengths, weights, Budget(tokens=100_000), batch_size=16)
    wanted = [weight / sum(weights) for weight in weights]
    assert source_shares(schedule, lengths, 3) == pytest.approx(wanted, abs=0.01)
    first_tenth = np.bincount(lengths.sources[schedule.rows[: len(schedule.rows) // 10]], minlength=3)
    assert all((count > 0) == (weight > 0) for count, weight in zip(first_tenth, weights, strict=True))


@given(
    texts=TEXTS,
    budget=st.one_of(st.builds(Budget, steps=st.integers(1, 30)), st.builds(Budget, epochs=st.floats(0.1, 5))),
    batch_size=st.integers(1, 40),
    seed=SEEDS,
)
def test_the_usual_schedule_is_that_of_the_loop_over_draws(
    texts: list[tuple[int, int]], budget: Budget, batch_size: int, seed: int
) -> None:
    lengths = lengths_of(texts)
    fast = plan(lengths, [], budget, batch_size=batch_size, seed=seed)
    rows, bounds = cut(shuffled(np.arange(len(texts)), seed), lengths, budget, batch_size, 0)
    assert np.array_equal(fast.rows, rows) and np.array_equal(fast.bounds, bounds)


@given(texts=TEXTS, weights=st.lists(st.floats(0.1, 9), min_size=3, max_size=3), seed=SEEDS)
def test_within_a_weighted_source_texts_occur_equally_often(
    texts: list[tuple[int, int]], weights: list[float], seed: int
) -> None:
    lengths = lengths_of([*texts, (3, 0), (3, 1), (3, 2)])
    schedule = plan(lengths, weights, Budget(steps=12), seed=seed)
    again = plan(lengths, weights, Budget(steps=12), seed=seed)
    counts = np.bincount(schedule.rows, minlength=len(lengths.sources))
    for source in range(3):
        of_source = counts[lengths.sources == source]
        assert of_source.max() - of_source.min() <= 1
    assert np.array_equal(schedule.rows, again.rows)


@given(texts=TEXTS, budget=st.integers(1, 900), weighted=st.booleans(), batch_tokens=st.sampled_from([0, 50]))
def test_a_budget_of_tokens_is_met_to_within_half_a_text(
    texts: list[tuple[int, int]], budget: int, weighted: bool, batch_tokens: int
) -> None:
    lengths = lengths_of([*texts, (3, 0), (3, 1), (3, 2)])
    schedule = plan(lengths, [1, 1, 1] if weighted else [], Budget(tokens=budget), batch_tokens=batch_tokens)
    longest = int(lengths.num_labels.max())
    assert schedule.num_tokens == labels(schedule, lengths) == pytest.approx(budget, abs=longest / 2) or (
        len(schedule.rows) == 1  # a text longer than twice the budget is taken all the same
    )


@given(texts=TEXTS, batch_tokens=st.integers(1, 90), hidden=st.integers(0, 5), steps=st.integers(1, 9))
def test_batches_of_tokens_hold_no_more_inputs_than_that_and_no_fewer_than_need_be(
    texts: list[tuple[int, int]], batch_tokens: int, hidden: int, steps: int
) -> None:
    lengths = lengths_of(texts, hidden=hidden)
    schedule = plan(lengths, [], Budget(steps=steps), batch_tokens=batch_tokens)
    sizes = [lengths.num_inputs[schedule.step(step)] for step in range(schedule.num_steps)]
    assert len(sizes) == steps
    for held, following in zip(sizes, [*sizes[1:], None], strict=True):
        assert held.sum() <= batch_tokens or len(held) == 1
        assert following is None or held.sum() + following[0] > batch_tokens


@given(texts=TEXTS, epochs=st.sampled_from([1, 2, 2.5]), batch_size=st.integers(1, 9))
def test_an_epoch_is_every_text_once(texts: list[tuple[int, int]], epochs: float, batch_size: int) -> None:
    schedule = plan(lengths_of(texts), [], Budget(epochs=epochs), batch_size=batch_size)
    counts = np.bincount(schedule.rows, minlength=len(texts))
    assert len(schedule.rows) == round(epochs * len(texts))
    assert set(counts) <= {int(epochs), int(np.ceil(epochs))}
    assert schedule.num_steps == -(-len(schedule.rows) // batch_size)


@given(texts=TEXTS, seed=SEEDS)
def test_without_weights_steps_of_texts_are_shuffled_epochs_as_ever(texts: list[tuple[int, int]], seed: int) -> None:
    lengths = lengths_of(texts)
    schedule = plan(lengths, [], Budget(steps=7), seed=seed)
    rngs = [np.random.default_rng(derive_seed(seed, "epoch", epoch)) for epoch in range(28)]
    wanted = np.concatenate([rng.permutation(len(texts)) for rng in rngs])[:28].reshape(7, 4)
    assert np.array_equal(np.stack([schedule.step(step) for step in range(7)]), wanted)
    assert schedule.tokens.tolist() == lengths.num_labels[wanted].sum(1).cumsum().tolist()
    in_epochs = plan(lengths, [], Budget(epochs=7 * 4 / len(texts)), seed=seed)
    assert np.array_equal(in_epochs.rows, wanted.ravel())


def test_controls_are_matched_in_steps_or_in_tokens() -> None:
    short, long = lengths_of([(5, 0)] * 20), lengths_of([(11, 0)] * 20)
    reference = plan(short, [], Budget(epochs=4))
    assert (reference.num_steps, reference.num_tokens) == (20, 400)
    by_steps, by_tokens = (plan(long, [], match_budget(match, reference)) for match in ("steps", "tokens"))
    assert (by_steps.num_steps, by_steps.num_tokens) == (20, 880)
    assert (by_tokens.num_steps, by_tokens.num_tokens) == (9, 396)
    assert plan(short, [], match_budget("tokens", reference)).tokens.tolist() == reference.tokens.tolist()


@given(texts=TEXTS, share=st.floats(0.05, 0.6), weighted=st.booleans(), seed=SEEDS)
def test_replay_has_its_share_and_an_epoch_counts_the_others_alone(
    texts: list[tuple[int, int]], share: float, weighted: bool, seed: int
) -> None:
    lengths = lengths_of([*texts, (3, 0), (3, 1), (3, 2)])
    weights = [1.0, 3.0, 0.0] if weighted else []
    sizes = {"replay": {2: share}, "batch_size": 4, "seed": seed}
    others = lengths.num_labels[lengths.sources < 2].sum()
    longest = int(lengths.num_labels.max())
    once = make_schedule(lengths, weights, budget=Budget(epochs=1), **sizes)
    wanted = round(others / (1 - share))  # a budget is a whole number of tokens, met to within half a text
    assert abs(once.num_tokens - wanted) <= longest / 2 or len(once.rows) == 1
    long = make_schedule(lengths, weights, budget=Budget(tokens=400 * longest), **sizes)
    found = source_shares(long, lengths, 3)
    assert found[2] == pytest.approx(share, abs=0.01)
    if weighted:
        assert found[:2] == pytest.approx([(1 - share) / 4, 3 * (1 - share) / 4], abs=0.01)
        return
    counts = np.bincount(long.rows, minlength=len(lengths.sources))[lengths.sources < 2]
    assert counts.max() - counts.min() <= 1  # every text of the others equally often
