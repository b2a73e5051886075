"""Scores to outcomes, outcomes to accuracies with 95% intervals and paired differences between conditions. Pure.

Outcomes vary at two levels: training runs or corpora, and facts. Questions about one fact are not independent, and
neither are the answers of one checkpoint, so questions are never counted as independent trials:

- G corpora: a t interval over their means (seeds of a corpus are averaged first), G - 1 degrees of freedom;
- one corpus, S runs: the variance between runs plus the bootstrap variance over facts, t with S - 1;
- one corpus, one run: facts only. Such an interval says nothing about another training run; its level is "facts".

The fact level is a bootstrap that draws all questions about one (corpus, fact) together. Where every fact agrees it has
no width, and Wilson's score interval over facts replaces it. The reported interval contains both levels. A group-level
interval already includes the variance of facts in expectation, but a handful of groups may agree by chance; an interval
that is narrower than the facts alone allow only shows that luck.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.records import Question, Score
from data.seeds import derive_seed

TIE = 1e-5  # nats; engines agree to about this, so closer values are the same value
NUM_RESAMPLES = 4000
MAX_BOOTSTRAP = 1000  # clusters; above, the linearised standard error agrees with the bootstrap and costs nothing
Z95 = 1.959963984540054
_T95 = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912)  # 1 to 6 degrees of freedom
Floats = NDArray[np.float64]
Level = Literal["corpora", "runs", "facts"]
Normalize = Literal["none", "token", "byte", "pmi", "fitted"]
EXPONENTS = tuple(step / 20 for step in range(21))  # of the length, from which the fitted one is chosen


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether one question was answered correctly under one condition. Producer: `judge`. Consumer: report.

    `correct` is 1.0 or 0.0; if k options tie for the best score, it is the share of them that are right. `chance` is
    the expected accuracy of a random choice. The lenient pair also counts options that follow but say less than the
    right one. `run` labels the training seed or the draw of the context, "" if there is one. `is_close`: the two best
    options are nearer to each other than the engine's log-probability of a token is to that in fp32.
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
    run: str = ""
    is_close: bool = False


class Cell(NamedTuple):
    """One bar of the figure."""

    suite: str
    split: str
    condition: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """An accuracy in [0, 1] with its 95% interval over `n` questions; `chance` is that of a random choice.

    `level` is the highest level that the interval covers. `groups` has the accuracy of each corpus and run.
    """

    accuracy: float
    low: float
    high: float
    n: int
    chance: float
    level: Level
    groups: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of the first condition minus the second's on the same `n` questions, in [-1, 1], with 95% interval."""

    difference: float
    low: float
    high: float
    n: int
    level: Level


Key = tuple[str, str, str]  # corpus, fact, question


class Answers(NamedTuple):
    """The outcomes of one cell: `correct` [questions in order, runs] is NaN where a run has no answer."""

    keys: list[Key]
    runs: list[str]
    correct: Floats
    chance: float


def judge(
    suite: str,
    condition: str,
    run: str,
    question: Question,
    score: Score,
    normalize: Normalize = "none",
    exponent: float = 0.0,
) -> tuple[Outcome, int]:
    """The outcome of one question, and the option that was chosen (the first of the likeliest).

    The likelihood of an option is the sum over its tokens; `normalize` divides it by the number of tokens or bytes, or
    by that of tokens to the power `exponent` ("fitted"), or subtracts what the option has without the question ("pmi",
    whose scores must be `unconditional`, too). Options that tie at the top share the point.
    """
    values = _values(question, score, normalize, exponent)
    top, second = sorted(values, reverse=True)[:2]
    best = [index for index, value in enumerate(values) if value > top - TIE]
    right = {question.answer, *question.also_right}
    true = right.union(question.also_true)
    outcome = Outcome(
        suite=suite,
        corpus=question.corpus,
        split=question.split,
        condition=condition,
        question_id=question.question_id,
        fact_id=question.fact_id,
        inference=question.inference,
        correct=_share(right, best),
        chance=len(right) / len(question.options),
        lenient=_share(true, best),
        lenient_chance=len(true) / len(question.options),
        run=run,
        is_close=top - second < score.parity,
    )
    return outcome, best[0]


def _values(question: Question, score: Score, normalize: Normalize, exponent: float) -> list[float]:
    if normalize == "pmi":
        alone = score.unconditional or [0.0] * len(question.options)  # an empty prompt: there is nothing to subtract
        return [own - prior for own, prior in zip(score.log_likelihoods, alone, strict=True)]
    lengths: Sequence[float] = {
        "none": [1] * len(question.options),
        "token": score.num_tokens,
        "byte": [len(option.encode()) for option in question.options],
        "fitted": [count**exponent for count in score.num_tokens],
    }[normalize]
    return [value / length for value, length in zip(score.log_likelihoods, lengths, strict=True)]


def fit_exponent(answered: Iterable[tuple[Question, Score]]) -> float | None:
    """The exponent of `EXPONENTS` with the highest accuracy, of equal ones the smallest; None without any answer."""
    correct, count = np.zeros(len(EXPONENTS)), 0
    for question, score in answered:
        count += 1
        found = (judge("", "", "", question, score, "fitted", exponent)[0] for exponent in EXPONENTS)
        correct += [outcome.correct for outcome in found]
    return EXPONENTS[int(np.argmax(correct))] if count else None


def group_answers(outcomes: Iterable[Outcome]) -> dict[Cell, Answers]:
    """The outcomes of every cell, in an order that does not depend on the shards.

    Raises ValueError where a question was counted twice in one run of a condition.
    """
    cells: dict[Cell, list[Outcome]] = defaultdict(list)
    for row in outcomes:
        cells[Cell(row.suite, row.split, row.condition)].append(row)
    return {cell: _answers(cell, rows) for cell, rows in sorted(cells.items())}


def estimate_accuracies(outcomes: Iterable[Outcome], *, seed: int = 0) -> dict[Cell, Estimate]:
    """Accuracy and interval of every (suite, split, condition). The order of the outcomes does not matter.

    Raises ValueError as `group_answers` does.
    """
    return {cell: estimate(cell, answers, seed=seed) for cell, answers in group_answers(outcomes).items()}


def estimate(cell: Cell, answers: Answers, *, seed: int = 0) -> Estimate:
    """The accuracy of one cell."""
    values, of_runs = _mean(answers.correct, axis=1), _mean(answers.correct, axis=0)
    accuracy = float(values.mean())
    seed = derive_seed(seed, cell.suite, cell.split)
    low, high, level = _interval(answers.keys, values, [of_runs], seed, lambda n: wilson_interval(accuracy, n))
    return Estimate(
        accuracy, max(0.0, low), min(1.0, high), len(values), answers.chance, level, _group_accuracies(answers)
    )


def as_lenient(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes of splits in which options may follow without being the right one, with these counted as correct.

    All questions of such a split are returned, since they make one accuracy.
    """
    rows = list(outcomes)
    splits = {(row.suite, row.split) for row in rows if row.lenient_chance > row.chance}
    return [
        replace(row, correct=row.lenient, chance=row.lenient_chance) for row in rows if (row.suite, row.split) in splits
    ]


def paired_difference(first: Answers, second: Answers, *, seed: int = 0) -> Difference | None:
    """How much better the first condition is, question by question; None where they share no question.

    Both hold the outcomes of one suite and split. Runs are paired if both conditions have the same ones.
    """
    position = {key: at for at, key in enumerate(second.keys)}
    shared = [at for at, key in enumerate(first.keys) if key in position]
    if not shared:
        return None
    keys = [first.keys[at] for at in shared]
    left, right = first.correct[shared], second.correct[[position[key] for key in keys]]
    firsts, seconds = _mean(left, axis=1), _mean(right, axis=1)
    of_runs = [_mean(left, axis=0), _mean(right, axis=0)]
    if first.runs == second.runs:
        of_runs = [of_runs[0] - of_runs[1]]
    means = float(firsts.mean()), float(seconds.mean())
    low, high, level = _interval(keys, firsts - seconds, of_runs, seed, lambda n: _score_difference(*means, n))
    return Difference(float((firsts - seconds).mean()), max(-1.0, low), min(1.0, high), len(keys), level)


def wilson_interval(accuracy: float, n: float) -> tuple[float, float]:
    """Wilson's 95% score interval for a proportion of `n` independent trials."""
    spread = Z95**2 / n
    centre = (accuracy + spread / 2) / (1 + spread)
    half = Z95 * np.sqrt(accuracy * (1 - accuracy) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, min(accuracy, centre - half)), min(1.0, max(accuracy, centre + half))


def t95(df: int) -> float:
    """The 97.5% quantile of Student's t; beyond the table a Cornish-Fisher expansion, right to 0.001."""
    if df <= len(_T95):
        return _T95[df - 1]
    z = Z95
    second, third = 5 * z**5 + 16 * z**3 + 3 * z, 3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z
    return z + (z**3 + z) / (4 * df) + second / (96 * df**2) + third / (384 * df**3)


def _share(accepted: Collection[int], best: Sequence[int]) -> float:
    """The share of the chosen options that are accepted."""
    return sum(index in accepted for index in best) / len(best)


def _answers(cell: Cell, rows: Sequence[Outcome]) -> Answers:
    runs = sorted({row.run for row in rows})
    keys = sorted({(row.corpus, row.fact_id, row.question_id) for row in rows})
    position, column = {key: at for at, key in enumerate(keys)}, {run: at for at, run in enumerate(runs)}
    at = np.array([position[row.corpus, row.fact_id, row.question_id] * len(runs) + column[row.run] for row in rows])
    num_twice = len(at) - len(np.unique(at))
    if num_twice:
        raise ValueError(f"{num_twice} questions of {cell} were counted twice")
    correct = np.full(len(keys) * len(runs), np.nan)
    correct[at] = [row.correct for row in rows]
    chances = np.zeros(len(correct))
    chances[at] = [row.chance for row in rows]  # summed by position, so that the order of the rows decides no rounding
    return Answers(keys, runs, correct.reshape(len(keys), len(runs)), float(chances.sum() / len(rows)))


def _mean(correct: Floats, *, axis: int) -> Floats:
    """The mean without NaN."""
    there = ~np.isnan(correct)
    means: Floats = np.where(there, correct, 0.0).sum(axis=axis) / np.maximum(there.sum(axis=axis), 1)
    return means


def _group_accuracies(answers: Answers) -> dict[str, dict[str, float]]:
    groups: dict[str, dict[str, float]] = {}
    corpora = np.array([key[0] for key in answers.keys])
    for corpus in dict.fromkeys(corpora.tolist()):
        of_corpus = answers.correct[corpora == corpus]
        there = ~np.isnan(of_corpus).all(axis=0)
        means = _mean(of_corpus, axis=0)
        groups[corpus] = {run: float(means[at]) for at, run in enumerate(answers.runs) if there[at]}
    return groups


def _interval(
    keys: Sequence[Key],
    values: Floats,
    run_means: Sequence[Floats],
    seed: int,
    without_variance: Callable[[int], tuple[float, float]],
) -> tuple[float, float, Level]:
    """The interval of the mean of `values` (of questions, over runs) that contains both levels, and the highest level.

    `run_means` has an array of means by run for each independent condition. `without_variance` gives the interval for
    a number of facts that all agree.
    """
    facts, corpora = _codes([key[:2] for key in keys]), _codes([key[0] for key in keys])
    low, high, fact_error = _fact_interval(facts, values, seed)
    if fact_error < 1e-12:
        low, high = without_variance(int(facts.max()) + 1)
    spread = [runs for runs in run_means if len(runs) > 1]
    half: float = 0.0
    level: Level = "facts"
    if corpora.max() > 0:
        half, level = t95(int(corpora.max())) * _cluster_error(corpora, values), "corpora"
    elif spread:
        variance = sum(float(runs.var(ddof=1)) / len(runs) for runs in spread) + fact_error**2
        half, level = t95(min(map(len, spread)) - 1) * float(np.sqrt(variance)), "runs"
    mean = float(values.mean())
    return min(low, mean - half), max(high, mean + half), level


def _codes(names: Sequence[Hashable]) -> NDArray[np.int64]:
    """Numbers of the names, from 0 in the order of first appearance."""
    codes = {name: at for at, name in enumerate(dict.fromkeys(names))}
    return np.array([codes[name] for name in names])


def _cluster_error(clusters: NDArray[np.int64], values: Floats) -> float:
    """The linearised standard error of the mean over rows when whole clusters are sampled.

    With clusters of equal size it is the standard deviation of their means, divided by the root of their number.
    """
    residuals = np.bincount(clusters, weights=values - values.mean())
    num_clusters = len(residuals)
    return float(np.sqrt((residuals**2).sum() * num_clusters / max(1, num_clusters - 1)) / len(values))


def _fact_interval(clusters: NDArray[np.int64], values: Floats, seed: int) -> tuple[float, float, float]:
    """Percentile interval and standard error of the mean when clusters are drawn with replacement."""
    if clusters.max() >= MAX_BOOTSTRAP:
        mean, error = float(values.mean()), _cluster_error(clusters, values)
        return mean - Z95 * error, mean + Z95 * error, error
    drawn = _draws(seed, int(clusters.max()) + 1)
    means = drawn @ np.bincount(clusters, weights=values) / (drawn @ np.bincount(clusters))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high), float(means.std()) if high - low > 1e-12 else 0.0


@lru_cache(maxsize=4)  # up to 32 MB each; the conditions and pairs of a split share one
def _draws(seed: int, num_clusters: int) -> Floats:
    """How often each resample draws each cluster: [resamples, clusters]."""
    generator = np.random.default_rng(seed)
    shares = np.full(num_clusters, 1 / num_clusters)
    return generator.multinomial(num_clusters, shares, size=NUM_RESAMPLES).astype(np.float64)


def _score_difference(first: float, second: float, n: int) -> tuple[float, float]:
    """Newcombe's interval from two Wilson intervals, for differences that are the same in every cluster."""
    low1, high1 = wilson_interval(first, n)
    low2, high2 = wilson_interval(second, n)
    difference = first - second
    low = difference - float(np.hypot(first - low1, high2 - second))
    high = difference + float(np.hypot(high1 - first, second - low2))
    return max(-1.0, low), min(1.0, high)
