"""Scores become outcomes: the option with the highest summed log-likelihood is the model's choice. Pure."""

from collections.abc import Collection, Sequence

from data.records import Question, Score
from evaluate.statistics import Outcome

TIE = 1e-5  # nats; engines agree to about this, so closer values are the same value


def judge(suite: str, condition: str, run: str, question: Question, score: Score) -> tuple[Outcome, int]:
    """The outcome of one question, and the option that was chosen (the first of the likeliest).

    Options that tie at the top share the point.
    """
    values = score.log_likelihoods
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
        margin=top - second,
    )
    return outcome, best[0]


def _share(accepted: Collection[int], best: Sequence[int]) -> float:
    """The share of the chosen options that are accepted."""
    return sum(index in accepted for index in best) / len(best)
