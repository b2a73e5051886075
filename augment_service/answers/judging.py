"""What is wrong with a statement: a copy, the prompt's own example, another language, no statement at all. Pure."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import pairwise

from augment_service.answers.folding import bare_words, fold
from augment_service.answers.phrases import is_talk, speaks_of_answer
from augment_service.answers.verdicts import Asked
from data.corpora.arrays import string_array
from data.corpora.languages import detect_languages
from data.sentences import count_words, split_sentences

_LETTER = re.compile(r"[^\W\d_]")
_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+(?:['-][^\W{_CJK}]+)*")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]{6}")  # Thai, Lao, Burmese, Khmer
_COMMON = frozenset(
    "the and are was were is has have had not but for from with than that this these those who which when where what "
    "its his her their they them she him you your can could will would must may more most less very also does did been "
    "being into over under after before because all any each some only one two".split()
)
_CALL = re.compile(r"[\w.:]+ ?\([^()]*\)")  # "info(msg, **kwargs)", "work_mem (integer)"
_NUMBERED = re.compile(r"(?:\d+|[A-Z])(?:\.\d+)+\.?\s")  # "5.6. Modifying Tables", "F.41.1. Examples"
_MOST_WORDS_OF_TITLE = 10
# A text is repetitive if fewer than this share of its n-grams are distinct; n is in words. Short texts never are.
_NGRAM, _MIN_NGRAMS, _MIN_DISTINCT = 4, 12, 0.6
_ENDS = frozenset(".!?…。！？।؟۔")
_QUESTION_MARKS = frozenset("?？؟")
_LEAST_LETTERS = 3  # of a word that may distinguish an example
_FOREIGN = 2  # words of an example that the source does not have
_NEAR, _HALF = 0.75, 0.5  # of the words of a statement are in one example; where none is in the source
_LEAST_OWN = 1 / 3  # of the words of a statement are its source's: it is about that
_LEAST_BYTES = 64  # of a text whose language is told
# CLD2 takes a short text in one of these for another.
_ALIKE = (
    "bs hr sr sh cnr mk bg sl", "cs sk", "da nb nn no sv is fo", "es pt gl ca ast eu oc it fr co", "id ms jv su",
    "ru uk be", "hi mr ne bh", "de lb nl af fy", "fa ur ar ps ug", "zh ja", "xh zu", "tr az tk", "en sco",
)  # fmt: skip
_KIN = {code: family for family in _ALIKE for code in family.split()}


class Judge:
    """Judges what was written about a sentence or document."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    @cached_property
    def _folded(self) -> str:
        return fold(self._asked.source)

    @cached_property
    def _bare(self) -> str:
        return bare_words(self._asked.source)

    @cached_property
    def _sentences(self) -> frozenset[str]:
        return frozenset(filter(None, map(bare_words, split_sentences(self._asked.source))))

    @cached_property
    def words(self) -> frozenset[str]:
        """The folded words of the source; of "I'm" also "I"."""
        words = _WORD.findall(self._folded)
        return frozenset(words) | {word.partition("'")[0] for word in words}

    def is_copy(self, text: str) -> bool:
        """Whether the source says a text, or each of its sentences, in the same words (`bare_words`).

        Of a sentence without a known language, such as those of the embedded model, only the whole is a copy: what it
        says behind "people say that" is another sentence there.
        """
        if fold(text) == self._folded:
            return True
        if self._asked.parser == "statement" and not self._asked.language:
            return False
        bare = bare_words(text)
        return _is_within(bare, self._bare) or self._share(text) == 1

    def copied_share(self, text: str) -> float:
        """The share of the sentences of a text that are the source's."""
        return 1.0 if _is_within(bare_words(text), self._bare) else self._share(text)

    def _share(self, text: str) -> float:
        parts = list(filter(None, map(bare_words, split_sentences(text))))
        return sum(part in self._sentences for part in parts) / max(1, len(parts))

    def is_from_example(self, text: str) -> bool:
        """Whether a text repeats a worked example, or has a name of one that the source does not have."""
        if not self._asked.examples:
            return False
        examples = _examples(self._asked.examples)
        folded = fold(text)
        if any(name not in self._folded and _is_within(name, folded) for name in examples.names):
            return True
        words = [word for word in _WORD.findall(folded) if _distinguishes(word)]
        foreign = {word for word in words if word not in self.words}
        if len(foreign & examples.words) < _FOREIGN:
            return False
        if any(foreign.issuperset(phrase) and _is_within(" ".join(phrase), folded) for phrase in examples.phrases):
            return True
        own = 1 - sum(word in foreign for word in words) / len(words)
        shared = max(sum(word in one for word in words) for one in examples.each) / len(words)
        if shared >= (_NEAR if own else _HALF):
            return True
        return own < _LEAST_OWN and len(foreign & examples.carried) >= _FOREIGN

    def is_statement(self, text: str) -> bool:
        """Whether a line may be a statement: no fragment, no question, not about the answer."""
        if is_fragment(text):
            return False
        if text[-1:] == "," and self._asked.parser == "statements":
            return False
        if text[-1:] in _QUESTION_MARKS and _QUESTION_MARKS.isdisjoint(self._asked.source):
            return False
        folded = fold(text)
        quotes_phrase = f'"{fold(self._asked.nothing)}' in folded
        return not (quotes_phrase or is_talk(folded) or speaks_of_answer(folded, self.words))

    def are_in_other_language(self, texts: Sequence[str]) -> list[bool]:
        """Which of the texts are surely not in the language of the document; short ones never are."""
        own = self._asked.language.partition("-")[0]
        if not own:
            return [False] * len(texts)
        long = [text if len(text.encode("utf-8", "replace")) >= _LEAST_BYTES else "" for text in texts]
        found = detect_languages(string_array([text.encode("utf-8", "replace").decode() for text in long]))
        return [bool(code) and code != own and code not in _KIN.get(own, own).split() for code in found.to_pylist()]


def is_fragment(text: str) -> bool:
    """Whether a line states nothing by its form: a heading, a single word, a call, a row of a table, signs alone."""
    if not _LETTER.search(text) or text[-1:] in {":", "："} or (text[:1] == "|" == text[-1:]):
        return True
    is_open = text[-1:] not in _ENDS
    if is_open and (_CALL.fullmatch(text) or (_NUMBERED.match(text) and count_words(text) <= _MOST_WORDS_OF_TITLE)):
        return True
    is_short = count_words(text) < 2 or (text.isascii() and sum(map(bool, map(_LETTER.search, text.split()))) < 2)
    return is_short and not _UNSPACED.search(text)


def repeats_itself(text: str) -> bool:
    """Whether a text is degenerate repetition: too few of its word n-grams are distinct."""
    words = _WORD.findall(fold(text))
    ngrams = [tuple(words[at : at + _NGRAM]) for at in range(len(words) - _NGRAM + 1)]
    return len(ngrams) >= _MIN_NGRAMS and len(set(ngrams)) < _MIN_DISTINCT * len(ngrams)


class _Examples:
    """The words of worked examples: `carried` ones and `phrases` (pairs) are in several, `names` are capitalised."""

    def __init__(self, statements: tuple[str, ...]) -> None:
        pairs = [set(pairwise(_WORD.findall(fold(statement)))) for statement in statements]
        counts = Counter(pair for some in pairs for pair in some if all(map(_distinguishes, pair)))
        self.phrases = tuple(pair for pair, count in counts.items() if count > 1)
        self.each = [frozenset(filter(_distinguishes, _WORD.findall(fold(statement)))) for statement in statements]
        self.words = frozenset().union(*self.each)
        self.carried = frozenset(word for word in self.words if sum(word in one for one in self.each) > 1)
        self.names = frozenset(fold(name) for statement in statements for name in _names(statement))


def _names(statement: str) -> list[str]:
    """The runs of two words and more that are capitalised."""
    names: list[list[str]] = [[]]
    for word in statement.split():
        bare = word.strip("\"'“”‘’.,;:!?()")
        is_capital = bare[:1].isupper() and fold(bare) not in _COMMON
        if is_capital:
            names[-1].append(bare)
        if not is_capital or word[-1] in ".,;:!?":
            names.append([])
    return [" ".join(name) for name in names if len(name) > 1]


@lru_cache(16)
def _examples(statements: tuple[str, ...]) -> _Examples:
    return _Examples(statements)


def _distinguishes(word: str) -> bool:
    return (len(word) >= _LEAST_LETTERS or word >= "\u3040") and word not in _COMMON


def _is_within(part: str, whole: str) -> bool:
    """Whether a text is part of another, and no word is cut."""
    at = whole.find(part) if part else -1
    while at >= 0:
        end = at + len(part)
        if not (_joins(whole[at - 1 : at], part[:1]) or _joins(part[-1:], whole[end : end + 1])):
            return True
        at = whole.find(part, at + 1)
    return False


def _joins(one: str, other: str) -> bool:
    """Whether no word ends between two characters."""
    return one.isalnum() and other.isalnum() and (one < "\u0e00" or "\uac00" <= one <= "\ud7ff")
