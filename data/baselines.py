"""Knowledge-free baselines: n-gram models and option length, which must stay at chance.

A unigram and a bigram model over the documents of a question's own corpus, and a preference for short or long options.
On questions that ask for an inference none of them may be better than chance.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from data.records import Document, Question

_TOKEN = re.compile(r"\w+|[^\w\s]")
_Z = 1.96  # of a 95% interval
_BIGRAM_SHARE = 0.75  # the rest of the likelihood is the unigram's, which ranks unseen pairs


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of right answers with its 95% interval (Wilson). Options that tie at the top share the point.

    Questions about one fact are not independent: the interval counts facts, not questions.
    """

    accuracy: float
    low: float
    high: float
    num_questions: int
    num_facts: int
    chance: float

    @property
    def above_chance(self) -> bool:
        """Whether the whole interval lies above chance."""
        return self.low > self.chance


class NgramModel:
    """Word frequencies of texts, case folded, and how often one word follows another."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._words: Counter[str] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()
        for text in texts:
            words = tokenize(text)
            self._words.update(words)
            self._pairs.update(pairwise(words))
        self._total = self._words.total() + len(self._words) + 1

    def unigram(self, _: str, option: str) -> float:
        """The log-likelihood of an option's words, independently."""
        return sum(math.log(self._probability(word)) for word in tokenize(option))

    def bigram(self, prompt: str, option: str) -> float:
        """The log-likelihood of an option's words, each after the one before it, the first after the prompt."""
        words = [*tokenize(prompt)[-1:], *tokenize(option)]
        total = 0.0
        for before, word in pairwise(words):
            followed = self._pairs[before, word] / self._words[before] if self._words[before] else 0.0
            total += math.log(_BIGRAM_SHARE * followed + (1 - _BIGRAM_SHARE) * self._probability(word))
        return total

    def _probability(self, word: str) -> float:
        return (self._words[word] + 1) / self._total


def tokenize(text: str) -> list[str]:
    """Words and marks in lower case."""
    return _TOKEN.findall(text.lower())


def measure_baselines(questions: Sequence[Question], documents: Iterable[Document]) -> dict[str, dict[str, Rate]]:
    """For each split, the accuracy of each baseline: "unigram", "bigram", "shortest", "longest"."""
    texts: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        texts[document.corpus].append(document.text)
    asked: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        asked[question.split].append(question)
    models = {corpus: NgramModel(members) for corpus, members in texts.items()}
    empty = NgramModel(())
    rates: dict[str, dict[str, Rate]] = {}
    for split, members in sorted(asked.items()):
        points: dict[str, list[float]] = defaultdict(list)
        for question in members:
            for name, score in _scores(models.get(question.corpus, empty)).items():
                points[name].append(credit([score(question.prompt, o) for o in question.options], question.answer))
        chance = sum(1 / len(question.options) for question in members) / len(members)
        num_facts = len({question.fact_id for question in members})
        rates[split] = {name: make_rate(found, num_facts, chance) for name, found in points.items()}
    return rates


def credit(values: Sequence[float], answer: int) -> float:
    """The point for choosing the option with the highest value, shared among ties."""
    best = [index for index, value in enumerate(values) if value > max(values) - 1e-9]
    return 1 / len(best) if answer in best else 0.0


def make_rate(points: Sequence[float], num_facts: int, chance: float) -> Rate:
    """The mean of the points with its interval, as wide as for `num_facts` observations."""
    n, share = num_facts, sum(points) / len(points)
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    spread = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n * n))
    return Rate(share, max(0.0, middle - spread), min(1.0, middle + spread), len(points), n, chance)


def _scores(model: NgramModel) -> Mapping[str, Callable[[str, str], float]]:
    return {
        "unigram": model.unigram,
        "bigram": model.bigram,
        "shortest": lambda _, option: -len(option),
        "longest": lambda _, option: len(option),
    }
