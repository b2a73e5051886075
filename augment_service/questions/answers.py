"""What of a sentence can be the answer to a question: its dates, numbers, names and rare words.

Pure, for any language. Names are recognised by capitals, rare words by their document frequency. In
scripts without spaces between words, only dates, numbers, names in Latin letters or katakana, and quoted titles are
found.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.facts import fold

DATE, NUMBER, NAME, WORD = "date", "number", "name", "word"
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"(?:(?![{_UNSPACED}])[^\W_])+(?:[-'’·](?:(?![{_UNSPACED}])[^\W_])+)*")
_MONTH = r"[^\W\d_]{3,12}\.?"
_DATES = re.compile(
    r"\b\d{4}-\d{1,2}-\d{1,2}\b|\b\d{1,2}[./]\d{1,2}[./]\d{4}\b"
    rf"|\b\d{{1,2}}(?:st|nd|rd|th|\.|º)? (?:de |d[’'])?{_MONTH},? (?:de )?\d{{4}}\b|\b{_MONTH} \d{{1,2}}, \d{{4}}\b"
    r"|\d{4}年(?:\d{1,2}月(?:\d{1,2}日)?)?"
)
_NUMBERS = re.compile(
    r"(?<![\w.,])\d{1,3}(?:[.,\u00a0\u202f ]\d{3})+(?:[.,]\d+)?(?!\d)|(?<![A-Za-z\d.,])\d+(?:[.,]\d+)?(?!\d)"
)
_UNITS = re.compile(r"[ \u00a0\u202f]?([^\W\d_]+|[%‰°€$£¥])")
_TITLES = re.compile(r"(?<=[「『《〈])[^」』》〉]{2,20}(?=[」』》〉])|[\u30a0-\u30ff]{3,}")
_WITHIN = re.compile(r"[^\W\d_A-Z][ \u00a0]|, ")  # what precedes a word that does not begin a sentence
_LETTERS = re.compile(r"[^\W\d_]")
_BUCKETS = 1 << 22  # words with the same hash are counted together: a word may seem more frequent, never rarer
_OPENING = "\"'“„«([*_- "  # may precede the first word of a sentence
_LEAST_LETTERS = 3
_FEW, _RARE_SHARE = 2, 0.02  # a word is rare in so few documents, or in that share of them
_COMMON, _COMMON_SHARE = 3, 0.3  # a name is no answer in more documents than these
_MANY = 100
_MOST_WORDS = 6  # of an answer


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a sentence that can be an answer. `classes` are what it is, from the narrowest kind to the widest."""

    start: int
    stop: int
    text: str
    kind: str
    classes: tuple[str, ...]


class Frequencies:
    """How many documents have a word: in any case, in lower case, and as a name within a sentence.

    Takes 48 MiB, whatever the corpus.
    """

    def __init__(self) -> None:
        self.num_documents = 0
        self._counts = np.zeros((3, _BUCKETS), np.uint32)

    def add(self, text: str) -> None:
        """Count the words of a document."""
        self.num_documents += 1
        forms: tuple[set[int], set[int], set[int]] = (set(), set(), set())
        for found in _WORDS.finditer(text):
            word = found.group()
            forms[0].add(_bucket(word.casefold()))
            if word.islower():
                forms[1].add(_bucket(word))
            elif _WITHIN.fullmatch(text, max(0, found.start() - 2), found.start()):
                forms[2].add(_bucket(word))
        for row, places in enumerate(forms):
            self._counts[row, list(places)] += 1

    def of(self, word: str) -> int:
        """In how many documents a word is, in any case."""
        return int(self._counts[0, _bucket(word.casefold())])

    def is_name(self, word: str) -> bool:
        """Whether the first word of a sentence is a name: it has its capital within sentences, too."""
        return bool(self._counts[2, _bucket(word)]) and not self.has_lower(word)

    def has_lower(self, word: str) -> bool:
        """Whether the word is in a document in lower case."""
        return bool(self._counts[1, _bucket(word.lower())])

    def is_rare(self, word: str) -> bool:
        """Whether few documents have the word. In a small corpus that says little: see `tells_rare_words`."""
        return self.of(word) <= max(_FEW, _RARE_SHARE * self.num_documents)

    @property
    def tells_rare_words(self) -> bool:
        """Whether the corpus is large enough that a rare word is unlikely to be a function word."""
        return self.num_documents >= _MANY

    def is_common(self, words: Iterable[str]) -> bool:
        """Whether many documents have all of the words."""
        return min(map(self.of, words), default=0) > max(_COMMON, _COMMON_SHARE * self.num_documents)


def _bucket(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % _BUCKETS


def spans_of(sentence: str, frequencies: Frequencies) -> list[Span]:
    """The dates, numbers, names and rare words of a sentence, in their order; they do not overlap."""
    taken: list[Span] = []
    finders = (_dates, _numbers, _titles, lambda text: _names(text, frequencies), lambda text: _rare(text, frequencies))
    for finder in finders:
        taken += [
            span for span in finder(sentence) if not any(span.start < o.stop and o.start < span.stop for o in taken)
        ]
    return sorted(taken, key=lambda span: span.start)


def kind_of(answer: str) -> tuple[str, tuple[str, ...]]:
    """Kind and classes of an answer that a model has written."""
    found = next((span for finder in (_dates, _numbers) for span in finder(answer)), None)
    if found and found.text == answer:
        return found.kind, found.classes
    words = answer.split()
    if all(word[:1].isupper() or word[:1].isdigit() for word in words):
        return NAME, (f"name {len(words)}", NAME)
    return WORD, (f"text {len(words)}", f"-{fold(answer)[-2:]}", WORD)


def anchors_of(text: str, frequencies: Frequencies) -> tuple[str, ...]:
    """The names, numbers and rare words of a text, folded: what it is about."""
    found = {fold(span.text) for span in spans_of(text, frequencies)}
    return tuple(sorted(name for name in found if name))


def uses_of(sentence: str, frequencies: Frequencies) -> Iterator[tuple[str, str]]:
    """Each name of a sentence, folded, with the word before it, and with the word after it."""
    for span in spans_of(sentence, frequencies):
        if span.kind == NAME:
            after = _WORDS.search(sentence, span.stop)
            yield fold(span.text), f"{_word_before(sentence, span.start)} -"
            if after:
                yield fold(span.text), f"- {fold(after.group())}"


def value_of(text: str) -> float | None:
    """The value of a number, whatever separates its thousands; None for other texts."""
    if not (found := _NUMBERS.fullmatch(text.strip())):
        return None
    digits = re.sub(r"[\u00a0\u202f ]", "", found.group())
    digits = re.sub(r"[.,](?=\d{3}(?:\D|$))", "", digits).replace(",", ".")
    try:
        return float(digits)
    except ValueError:  # two decimal marks
        return None


def are_equal(one: str, other: str) -> bool:
    """Whether two answers are the same, as folded texts or as numbers."""
    if fold(one) == fold(other):
        return True
    value = value_of(one)
    return value is not None and value == value_of(other)


def _dates(sentence: str) -> Iterator[Span]:
    for found in _DATES.finditer(sentence):
        shape = re.sub(r"\d+", "0", re.sub(r"[^\W\d_]+", "a", found.group()))
        yield Span(found.start(), found.end(), found.group(), DATE, (f"date {shape}", DATE))


def _numbers(sentence: str) -> Iterator[Span]:
    for found in _NUMBERS.finditer(sentence):
        text = found.group()
        after = _UNITS.match(sentence, found.end())
        before = sentence[: found.start()].rstrip()[-1:]
        unit = before if before and before in "€$£¥" else fold(after[1]) if after else ""
        whole = re.split(r"[.,](?=\d{1,2}$)", text)
        shape = f"{sum(map(str.isdigit, whole[0]))}.{len(whole[1]) if len(whole) > 1 else 0}"
        is_year = len(text) == 4 and text.isdigit() and 1000 <= int(text) <= 2100
        narrow = ("year",) if is_year else (f"number {shape} {unit}", f"number {unit}", f"number {shape}")
        yield Span(found.start(), found.end(), text, NUMBER, (*narrow, NUMBER))


def _titles(sentence: str) -> Iterator[Span]:
    for found in _TITLES.finditer(sentence):
        yield Span(found.start(), found.end(), found.group(), NAME, ("title", NAME))


def _names(sentence: str, frequencies: Frequencies) -> Iterator[Span]:
    """Runs of capitalised words; what begins the sentence may be another word."""
    words = list(_WORDS.finditer(sentence))
    run: list[re.Match[str]] = []
    for at, found in enumerate(words):
        is_next = bool(run) and sentence[run[-1].end() : found.start()] in {" ", "\u00a0"}
        if run and not (is_next and _is_capitalised(found)):
            yield from _name(run, sentence, frequencies)
            run = []
        begins = not sentence[: found.start()].strip(_OPENING)
        if _is_capitalised(found) and (not begins or _begins_name(words[at : at + 2], sentence, frequencies)):
            run.append(found)
    if run:
        yield from _name(run, sentence, frequencies)


def _is_capitalised(found: re.Match[str]) -> bool:
    return found.group()[:1].isupper() and len(found.group()) > 1


def _begins_name(words: Sequence[re.Match[str]], sentence: str, frequencies: Frequencies) -> bool:
    """Whether the first word of a sentence is a name: it is one elsewhere, or one follows and it is no word."""
    first, *others = words
    if frequencies.is_name(first.group()):
        return True
    follows = others and _is_capitalised(others[0]) and sentence[first.end() : others[0].start()] in {" ", "\u00a0"}
    return bool(follows) and not frequencies.has_lower(first.group())


def _name(run: Sequence[re.Match[str]], sentence: str, frequencies: Frequencies) -> Iterator[Span]:
    words = [found.group() for found in run]
    text = sentence[run[0].start() : run[-1].end()]
    if len(words) <= _MOST_WORDS and len(text) >= _LEAST_LETTERS and not frequencies.is_common(words):
        before = _word_before(sentence, run[0].start())
        yield Span(run[0].start(), run[-1].end(), text, NAME, (f"name after {before}", f"name {len(words)}", NAME))


def _rare(sentence: str, frequencies: Frequencies) -> Iterator[Span]:
    for found in _WORDS.finditer(sentence):
        word = found.group()
        if len(_LETTERS.findall(word)) >= _LEAST_LETTERS and word.islower() and frequencies.is_rare(word):
            before, suffix = _word_before(sentence, found.start()), word[-2:]
            classes = (f"word after {before} -{suffix}", f"word after {before}", f"word -{suffix}", WORD)
            yield Span(found.start(), found.end(), word, WORD, classes)


def _word_before(sentence: str, at: int) -> str:
    words = _WORDS.findall(sentence[:at])
    return fold(words[-1]) if words else ""
