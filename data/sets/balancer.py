"""Wrong options chosen so that likely, unlikely, long and short answers are right exactly as often as chance.

For questions whose wrong options are generated (by wrong rules, say) rather than shared among questions.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from random import Random

from data.baselines import NgramModel
from data.sets.blocks import NUM_OPTIONS, Item

POOL = 11  # candidates considered for each question: 165 triples
_TIE = 1e-9


class Balancer:
    """Balances one split: tracks how often the right answer ranks first and last by each score, against chance."""

    def __init__(self, model: NgramModel, rng: Random) -> None:
        self._model, self._rng = model, rng
        self._excess = [(0.0, 0.0)] * 3  # right minus chance, so far, at the highest and the lowest score

    def choose(self, prompt: str, right: str, candidates: Sequence[str]) -> tuple[str, ...]:
        """The three candidates that bring bigram score, unigram score and length closest to chance."""
        distinct = sorted(set(candidates) - {right})
        pool = self._rng.sample(distinct, min(len(distinct), POOL))
        scores: tuple[Callable[[str], float], ...] = (
            lambda text: self._model.bigram(prompt, text),
            lambda text: self._model.unigram(prompt, text),
            lambda text: float(len(text)),
        )
        signs = [[_sign(score(text) - score(right)) for text in pool] for score in scores]
        best: tuple[int, ...] = ()
        least, taken = float("inf"), self._excess
        for chosen in combinations(range(len(pool)), NUM_OPTIONS - 1):
            excess = [_add(before, [row[i] for i in chosen]) for before, row in zip(self._excess, signs, strict=True)]
            amount = sum(top * top + bottom * bottom for top, bottom in excess)
            if amount < least:
                best, least, taken = chosen, amount, excess
        self._excess = taken
        return tuple(pool[i] for i in best)

    def choose_entities(self, item: Item, words: Sequence[str]) -> Sequence[str]:
        """Wrong options for an item in the plain form of its statement: a `data.sets.blocks.Chooser`."""
        return self.choose(item.statement.prompt(), item.statement.second, words)


def _sign(margin: float) -> int:
    return (margin > _TIE) - (margin < -_TIE)


def _add(excess: tuple[float, float], signs: Sequence[int]) -> tuple[float, float]:
    """The excess of one score after a question whose wrong options score above (1), equal (0) or below (-1)."""
    share, chance = 1 / (1 + signs.count(0)), 1 / (len(signs) + 1)
    top = 0.0 if 1 in signs else share
    bottom = 0.0 if -1 in signs else share
    return excess[0] + top - chance, excess[1] + bottom - chance
