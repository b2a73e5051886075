"""The verifiers: what is asked about one inference, and the number that the answers give. Pure.

Each number is higher for what is more trustworthy. Those of `NEEDS_ENGINE` come from log-likelihoods, the others from
the texts alone.
"""

import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from augment_service.alternatives import AUXILIARIES, alternatives, numbers_in
from augment_service.answers.folding import fold
from augment_service.chat import NO_FRAME, Frame
from augment_service.related.words import fold as fold_word
from augment_service.related.words import is_unspaced, split_words
from data.records import Augmentation, Refusal, Score, ScoreItem
from data.sentences import split_sentences

UNSUPPORTED, CONTRADICTED, MINORITY = "unsupported", "contradicted", "minority"
# In the order in which they are applied: the first one that an inference fails is its verdict.
VERDICTS: Mapping[str, str] = {
    "premises": UNSUPPORTED,
    "grounded": UNSUPPORTED,
    "distinct": UNSUPPORTED,
    "overlap": UNSUPPORTED,
    "confidence": UNSUPPORTED,
    "support": UNSUPPORTED,
    "margin": CONTRADICTED,
    "agreement": MINORITY,
}
RESTATING = ("overlap",)  # of statements about one sentence alone
NEEDS_ENGINE = ("support", "confidence", "margin")
NUM_ORDERS = 3  # of the documents in context, the one in which the inference was written among them
MAX_PREMISES = 16
_LEAST_LETTERS, _STEM = 4, 4  # of a word that tells what a statement is about, and of its beginning
_WORD = re.compile(r"\w+")
_LETTER = re.compile(r"[^\W\d_]")
# What a premise and the sentence that states it may differ in.
_IGNORED = AUXILIARIES | {"a", "an", "the", "also", "and", "that"}
_DETERMINERS = frozenset("a an the all every each some any no both".split())


@dataclass(frozen=True)
class Evidence:
    """What an inference is measured against.

    `documents` is the in-context frame with the documents that it was written from, `bare` the same without any.
    `prompts` are the context and the text that the model wrote it after; the others have the documents in other orders.
    `joiner` stands between the training prompt of a row, if it has one, and its text.
    """

    row: Augmentation
    documents: str
    bare: str
    prompts: tuple[tuple[str, str], ...] = ()
    frame: Frame = NO_FRAME
    joiner: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """A verifier's number, and the log-likelihood (nats per token) of the inference given its documents, or NaN."""

    value: float
    log_likelihood: float = math.nan


Answers = Sequence[Score | Refusal]


@dataclass(frozen=True)
class EngineVerifier:
    """Score items about an inference, and the value that comes of the scores; `value` gets as many as `items` made."""

    items: Callable[[Evidence], list[ScoreItem]]
    value: Callable[[Answers], Value | Refusal]


def _item(one: Evidence, text: str, *, unconditional: bool = False) -> ScoreItem:
    """A statement after the documents."""
    prompt = one.row.prompt
    bare = one.bare + prompt if unconditional else ""
    return ScoreItem(one.row.augmentation_id, one.documents, prompt, (text,), bare, one.joiner if prompt else "")


def per_token(score: Score) -> float:
    """The log-likelihood of an item's only continuation, in nats per token."""
    return score.log_likelihoods[0] / score.num_tokens[0]


def _support(answers: Answers) -> Value | Refusal:
    (score,) = answers
    if isinstance(score, Refusal):
        return score
    gained = score.log_likelihoods[0] - score.unconditional[0]
    return Value(gained / score.num_tokens[0], per_token(score))


def _margin_items(one: Evidence) -> list[ScoreItem]:
    numbers = numbers_in(one.documents) if numbers_in(one.row.text) else []
    others = alternatives(one.row.text, numbers)
    return [_item(one, text) for text in (one.row.text, *(other.text for other in others))]


def _margin(answers: Answers) -> Value | Refusal:
    """Alternatives that the model cannot read are left out; without any, the margin is unknown."""
    own, *others = answers
    if isinstance(own, Refusal):
        return own
    known = [per_token(other) for other in others if isinstance(other, Score)]
    return Value(per_token(own) - max(known) if known else math.nan, per_token(own))


def _confidence_items(one: Evidence) -> list[ScoreItem]:
    row, (before, after) = one.row, one.frame
    written = f"{row.reasoning.strip()} {row.text}".strip()
    return [
        ScoreItem(
            row.augmentation_id, context, text, (written,), joiner="" if after else " ", before=before, after=after
        )
        for context, text in one.prompts
    ]


def _confidence(answers: Answers) -> Value | Refusal:
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    if refused:
        return refused[0]
    return Value(math.fsum(per_token(answer) for answer in answers if isinstance(answer, Score)) / len(answers))


ENGINE_VERIFIERS: Mapping[str, EngineVerifier] = {
    "support": EngineVerifier(lambda one: [_item(one, one.row.text, unconditional=True)], _support),
    "margin": EngineVerifier(_margin_items, _margin),
    "confidence": EngineVerifier(_confidence_items, _confidence),
}


# ---- without an engine


def premises_of(reasoning: str, mark: str, language: str = "") -> list[str]:
    """The statements of a reasoning, which may end in the template's `mark`; labels before a colon do not count."""
    body = reasoning.strip().removesuffix(mark.strip()).strip()
    sentences = split_sentences(body, ()) if body else []
    found = [sentence.rpartition(": ")[2].strip() for sentence in sentences]
    return [premise for premise in dict.fromkeys(found) if _LETTER.search(premise)][:MAX_PREMISES]


def words_of(text: str) -> frozenset[str]:
    """The words of a text by which a premise is looked up."""
    return frozenset(_WORD.findall(text.lower())) - _IGNORED


class Sentences:
    """The words of sentences, inverted: how many words of a premise one of them has.

    In memory: 4 bytes for each word of each sentence, and each sentence's words once.
    """

    def __init__(self, sentences: Iterable[frozenset[str]]) -> None:
        self._whole = dict.fromkeys(sentences)
        places: dict[str, array[int]] = defaultdict(lambda: array("I"))
        for number, words in enumerate(self._whole):
            for word in words:
                places[word].append(number)
        self._places = {word: np.frombuffer(found, dtype=np.uintc) for word, found in places.items()}

    def most_shared(self, words: frozenset[str]) -> int:
        """The most of these words that one sentence has."""
        if words in self._whole:
            return len(words)
        found = [self._places[word] for word in words if word in self._places]
        return int(np.bincount(np.concatenate(found)).max()) if found else 0


def premises(found: Sequence[str], sentences: Sentences) -> float:
    """The least share of a premise's words that one sentence of the documents has; NaN without premises."""
    asked = filter(None, map(words_of, found))
    return min((sentences.most_shared(words) / len(words) for words in asked), default=math.nan)


def grounded(text: str, known: Sequence[str]) -> float:
    """The share of a statement's words that it has from other texts, each word as often as there; NaN without words."""
    words = _count(text)
    given = sum(map(_count, known), Counter[str]())
    return (words & given).total() / words.total() if words else math.nan


def _count(text: str) -> Counter[str]:
    return Counter(word for word in _WORD.findall(text.lower()) if word not in _IGNORED)


def overlap(text: str, sentence: str) -> float:
    """The lesser of two shares: of a statement's telling words that the sentence has, and of the sentence's it has.

    Each counts as often as it occurs, by its first letters. NaN for a sentence that has none, or whose script sets no
    spaces between words.
    """
    own, given = Counter(_telling(text)), Counter(_telling(sentence))
    if not given or any(map(is_unspaced, split_words(sentence))):
        return math.nan
    return (own & given).total() / max(own.total(), given.total())


def _telling(text: str) -> Iterator[str]:
    """The beginnings of words, which endings do not change; short ones are left out but for numbers and initials."""
    for word in split_words(text):
        if len(word) >= _LEAST_LETTERS or any(map(str.isdigit, word)) or (word.isupper() and len(word) > 1):
            yield fold_word(word)[:_STEM]


def distinct(text: str) -> float:
    """0 for a statement that says of something that it is itself ("all otters are otters"), else 1."""
    words = fold(text).split()
    for at, word in enumerate(words):
        if word in AUXILIARIES:
            first, second = ([one for one in part if one not in _DETERMINERS] for part in (words[:at], words[at + 1 :]))
            return 0.0 if first and first == second else 1.0
    return 1.0
