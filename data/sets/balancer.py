"""Wrong options chosen so that likely, unlikely, long and short answers are right as often as chance has it.

For questions whose wrong options are made (by wrong rules, say) rather than shared among questions.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from random import Random

from data.baselines import NgramModel
from data.sets.blocks import NUM_OPTIONS

POOL = 11  # candidates looked at for each question: 165 triples
_TIE = 1e-9


class Leveller:
    """Keeps the accounts of one split: how often the right answer was first and last by each score, against chance."""

    def __init__(self, model: NgramModel, rng: Random) -> None:
        self._model, self._rng = model, rng
        self._owed = [(0.0, 0.0)] * 3  # right minus chance, so far, for the highest and the lowest score

    def choose(self, prompt: str, right: str, candidates: Sequence[str]) -> tuple[str, ...]:
        """The three candidates that bring the accounts of bigram model, unigram model and length closest to chance."""
        distinct = sorted(set(candidates) - {right})
        pool = self._rng.sample(distinct, min(len(distinct), POOL))
        scores: tuple[Callable[[str], float], ...] = (
            lambda text: self._model.bigram(prompt, text),
            lambda text: self._model.unigram(prompt, text),
            lambda text: float(len(text)),
        )
        signs = [[_sign(score(text) - score(right)) for text in pool] for score in scores]
        best: tuple[int, ...] = ()
        least, taken = float("inf"), self._owed
        for chosen in combinations(range(len(pool)), NUM_OPTIONS - 1):
            owed = [_settle(owed, [row[i] for i in chosen]) for owed, row in zip(self._owed, signs, strict=True)]
            amount = sum(top * top + bottom * bottom for top, bottom in owed)
            if amount < least:
                best, least, taken = chosen, amount, owed
        self._owed = taken
        return tuple(pool[i] for i in best)


def _sign(margin: float) -> int:
    return (margin > _TIE) - (margin < -_TIE)


def _settle(owed: tuple[float, float], signs: Sequence[int]) -> tuple[float, float]:
    """The accounts of one score after a question whose wrong options score above (1), beside (0) or below (-1)."""
    share, chance = 1 / (1 + signs.count(0)), 1 / (len(signs) + 1)
    top = 0.0 if 1 in signs else share
    bottom = 0.0 if -1 in signs else share
    return owed[0] + top - chance, owed[1] + bottom - chance
