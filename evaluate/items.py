"""Questions under a condition become score items. The condition is data, not a branch: every arm has one scorer."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from data.records import Document, Question, Score, ScoreItem
from data.rendering import PromptBook
from evaluate.statistics import Outcome


@dataclass(frozen=True)
class Condition:
    """How a model is asked: with the documents in its context or not, and which weights answer.

    `weights` is "base" or the name of a finetuning arm.
    """

    name: str
    documents_in_context: bool
    weights: str


BASE = "base"
PRETRAINED = Condition("pretrained", documents_in_context=False, weights=BASE)
ICL = Condition("icl", documents_in_context=True, weights=BASE)


def finetuned_condition(arm: str) -> Condition:
    """The condition in which the checkpoint of an arm answers without context."""
    return Condition(arm, documents_in_context=False, weights=arm)


def build_items(
    questions: Sequence[Question], documents: Sequence[Document], condition: Condition, book: PromptBook
) -> list[ScoreItem]:
    """The score items of one world; with documents, all of them share one context."""
    context = book.in_context([document.text for document in documents]) if condition.documents_in_context else ""
    return [ScoreItem(question.question_id, context, question.prompt, question.options) for question in questions]


def to_outcomes(
    suite: str, condition: str, questions: Sequence[Question], scores: Sequence[Score]
) -> list[tuple[Outcome, int]]:
    """An outcome for each question that has a score, and the option that was chosen (the first of the likeliest).

    Headline rule: the highest summed log-likelihood wins; options that tie at the top share the point.
    """
    by_id = {score.item_id: score for score in scores}
    outcomes = []
    for question in questions:
        if question.question_id not in by_id:  # refused: counted as such, never as wrong
            continue
        values = by_id[question.question_id].log_likelihoods
        # Engines agree to about 1e-5 nat; closer values are the same value.
        best = [index for index, value in enumerate(values) if value > max(values) - 1e-5]
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
        )
        outcomes.append((outcome, best[0]))
    return outcomes


def _share(accepted: Collection[int], best: Sequence[int]) -> float:
    """The share of the chosen options that are accepted."""
    return sum(index in accepted for index in best) / len(best)
