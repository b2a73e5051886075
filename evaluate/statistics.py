"""Accuracies with 95% intervals, and paired differences between conditions. Pure: outcomes in, estimates out.

Questions about one fact are not independent, so the bootstrap resamples clusters: all questions of one
(world, fact) are drawn together. Worlds themselves are not resampled: with five of them such a bootstrap would be
too coarse. The intervals therefore speak of new facts under the finetuning runs at hand, not of new runs.

Where every cluster agrees (accuracy 0 or 1, or one right answer of two for every fact) a bootstrap has no width.
Wilson's score interval stands in, with the number of clusters, not of questions, as its sample size.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.seeds import derive_seed

NUM_RESAMPLES = 4000
Z95 = 1.959963984540054
_BLOCK_CELLS = 4_000_000  # resampled counts held at once: 32 MB
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether one question was answered rightly under one condition. Producer: `evaluate.items`. Consumer: the report.

    `correct` is 1.0 or 0.0; of k options that tie for the best score, it is the share that are right. `chance` is what
    choosing blindly is worth. The lenient pair also counts options that follow but say less than the right one.
    """

    suite: str
    corpus: str
    split: str
    condition: str
    question_id: str
    fact_id: str
    inference: str
    correct: float
    chance: float
    lenient: float
    lenient_chance: float


class Cell(NamedTuple):
    """One bar of the figure."""

    suite: str
    split: str
    condition: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """An accuracy in [0, 1] with its 95% interval, over `n` questions; `chance` is what choosing blindly is worth."""

    accuracy: float
    low: float
    high: float
    n: int
    chance: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of the first condition minus the second's on the same `n` questions, in [-1, 1], with 95% interval."""

    difference: float
    low: float
    high: float
    n: int


def estimate_accuracies(outcomes: Iterable[Outcome], *, seed: int = 0) -> dict[Cell, Estimate]:
    """Accuracy and interval of every (suite, split, condition). The order of the outcomes does not matter.

    Raises ValueError where a question was counted twice under one condition.
    """
    return {cell: _estimate(rows, derive_seed(seed, *cell)) for cell, rows in sorted(_by_cell(outcomes).items())}


def as_lenient(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes of questions of which some options follow without being the right one, with these counted as well.

    All questions of such a split are returned, since they make one accuracy.
    """
    rows = list(outcomes)
    splits = {(row.suite, row.split) for row in rows if row.lenient_chance > row.chance}
    return [
        replace(row, correct=row.lenient, chance=row.lenient_chance) for row in rows if (row.suite, row.split) in splits
    ]


def paired_difference(first: Sequence[Outcome], second: Sequence[Outcome], *, seed: int = 0) -> Difference | None:
    """How much better the first condition is, question by question; None where they share no question.

    Both lists hold the outcomes of one suite and split, each under one condition.
    """
    left, right = _by_question(first), _by_question(second)
    shared = sorted(left.keys() & right.keys())
    if not shared:
        return None
    clusters = [(left[key].corpus, left[key].fact_id) for key in shared]
    firsts = np.array([left[key].correct for key in shared])
    seconds = np.array([right[key].correct for key in shared])
    sums, counts = _cluster_sums(clusters, firsts - seconds)
    low, high = _bootstrap(sums, counts, seed)
    if high - low < 1e-12:
        low, high = _score_difference(float(firsts.mean()), float(seconds.mean()), len(counts))
    return Difference(float((firsts - seconds).mean()), low, high, len(shared))


def wilson_interval(accuracy: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval for a proportion of `n` independent trials."""
    spread = Z95**2 / n
    centre = (accuracy + spread / 2) / (1 + spread)
    half = Z95 * np.sqrt(accuracy * (1 - accuracy) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, min(accuracy, centre - half)), min(1.0, max(accuracy, centre + half))


def _estimate(rows: Sequence[Outcome], seed: int) -> Estimate:
    correct = np.array([row.correct for row in rows])
    sums, counts = _cluster_sums([(row.corpus, row.fact_id) for row in rows], correct)
    low, high = _bootstrap(sums, counts, seed)
    accuracy = float(correct.mean())
    if high - low < 1e-12:
        low, high = wilson_interval(accuracy, len(counts))
    chance = float(np.mean([row.chance for row in rows]))
    return Estimate(accuracy, low, high, len(rows), chance)


def _by_cell(outcomes: Iterable[Outcome]) -> dict[Cell, list[Outcome]]:
    """Outcomes of each cell, sorted by question, so that the bootstrap sees one order whatever the shards were."""
    cells: dict[Cell, list[Outcome]] = defaultdict(list)
    for row in outcomes:
        cells[Cell(row.suite, row.split, row.condition)].append(row)
    return {cell: list(_by_question(rows).values()) for cell, rows in cells.items()}


def _by_question(rows: Sequence[Outcome]) -> dict[tuple[str, str, str], Outcome]:
    ordered = sorted(rows, key=lambda row: (row.corpus, row.fact_id, row.question_id))
    questions = {(row.corpus, row.fact_id, row.question_id): row for row in ordered}
    if len(questions) != len(rows):
        cell = Cell(rows[0].suite, rows[0].split, rows[0].condition)
        raise ValueError(f"{len(rows) - len(questions)} questions of {cell} were counted twice")
    return questions


def _cluster_sums(clusters: Sequence[tuple[str, str]], values: Floats) -> tuple[Floats, Floats]:
    """Sum of the values and number of questions, per cluster, in the order of first appearance."""
    index = {cluster: position for position, cluster in enumerate(dict.fromkeys(clusters))}
    of_row = np.array([index[cluster] for cluster in clusters])
    return np.bincount(of_row, weights=values).astype(np.float64), np.bincount(of_row).astype(np.float64)


def _bootstrap(sums: Floats, counts: Floats, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean over questions when clusters are drawn with replacement."""
    generator = np.random.default_rng(seed)
    num_clusters = len(sums)
    shares = np.full(num_clusters, 1 / num_clusters)
    block = max(1, _BLOCK_CELLS // num_clusters)
    means = []
    for start in range(0, NUM_RESAMPLES, block):
        drawn = generator.multinomial(num_clusters, shares, size=min(block, NUM_RESAMPLES - start))
        means.append(drawn @ sums / (drawn @ counts))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def _score_difference(first: float, second: float, n: int) -> tuple[float, float]:
    """Newcombe's interval from two Wilson intervals, for differences that are the same in every cluster."""
    low1, high1 = wilson_interval(first, n)
    low2, high2 = wilson_interval(second, n)
    difference = first - second
    low = difference - float(np.hypot(first - low1, high2 - second))
    high = difference + float(np.hypot(high1 - first, second - low2))
    return max(-1.0, low), min(1.0, high)
