"""Facts: the sentences of documents, parted into test, development and training-only before any question is written.

Pure. The part is a seeded hash of the sentence's folded text: it depends neither on the document that it stands in nor
on other documents, so a widened corpus keeps its parts, and a sentence that occurs twice is in one part.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from data.markdown import complete, heading_text
from data.records import Document, Question
from data.seeds import derive_seed, fingerprint
from data.sentences import split_sentences
from data.structure import BETWEEN, HEADINGS, outline_with, part_of

TEST, DEV, TRAIN = "test", "dev", "train"
PARTS = (TEST, DEV, TRAIN)  # from the most to the least held out
_EDGES = " \t\"'“”‘’«»`*_.,;:!?。！？"
_KEY_WORDS = 4  # at the beginning of a question, by which it is looked for in prompts
_RANGE = 1 << 63


@dataclass(frozen=True, slots=True)
class Fact:
    """A sentence of a document, by its `place` there. Producer: `augment_service.questions`. Consumers: people, checks.

    Equal sentences of a corpus are one fact: they share `fact_id` and `part`, and have a row each. `heading` names the
    document's title and the headings above the sentence.
    """

    fact_id: str
    corpus: str
    doc_id: str
    sentence: str
    place: int
    part: str
    heading: str = ""


@dataclass(frozen=True)
class Shares:
    """How facts are parted: the shares of test and development (the rest is for training only), and the seed."""

    test: float
    dev: float
    seed: int

    def part_of(self, sentence: str) -> str:
        """The part of a sentence."""
        place = derive_seed(self.seed, "part", fold(sentence)) / _RANGE
        return TEST if place < self.test else DEV if place < self.test + self.dev else TRAIN

    def rank(self, sentence: str) -> int:
        """The place of a sentence in a random order: of too many facts the first are taken."""
        return derive_seed(self.seed, "rank", fold(sentence))


def fold(text: str) -> str:
    """A text without differences of case, width, spaces, quotes, and marks at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)


def words_of(text: str) -> list[str]:
    """The folded words of a text, without the marks at their ends; signs alone are no words."""
    return [word for part in fold(text).split() if (word := part.strip(_EDGES + "()[]{}<>"))]


def name_fact(corpus: str, sentence: str) -> str:
    """The id of the fact that a sentence of a corpus states."""
    return fingerprint("fact", corpus, fold(sentence))


def facts_of(document: Document, shares: Shares) -> Iterator[Fact]:
    """The facts of a document, in their order."""
    place = 0
    for heading, sentences in sections_of(document):
        for sentence in sentences:
            if fold(sentence):
                fact_id, part = name_fact(document.corpus, sentence), shares.part_of(sentence)
                yield Fact(fact_id, document.corpus, document.doc_id, sentence, place, part, heading)
            place += 1


def sections_of(document: Document) -> Iterator[tuple[str, list[str]]]:
    """The sentences of a document by the headings above them, from the outermost to the innermost."""
    marks = complete(document.text, document.outline)
    outline = outline_with(marks)
    above: dict[int, str] = {}
    begin = 0
    for kind, start, end in [*marks, (1, len(document.text), len(document.text))]:
        if kind not in HEADINGS:
            continue
        titles = dict.fromkeys([*filter(None, document.heading.split(BETWEEN)), *above.values()])
        if sentences := split_sentences(document.text[begin:start], part_of(outline, begin, start)):
            yield BETWEEN.join(titles), sentences
        above = {level: title for level, title in above.items() if level < kind}
        if title := " ".join(heading_text(document.text[start:end]).split()):
            above[kind] = title
        begin = end


def original_of(doc_id: str) -> str:
    """The document that a chunk was cut from ("ID/3" belongs to "ID"); of a whole document its own id."""
    head, _, number = doc_id.rpartition("/")
    return head if head and number.isdigit() else doc_id


def most_held_out(parts: Iterable[str]) -> str:
    """The part of a question that rests on facts of several parts: test, if one of them is; else dev, if one is."""
    return min(parts, key=PARTS.index)


class QuestionFinder:
    """Finds the texts of questions in prompts.

    A question's text is the longest line of its prompt without a label before it ("Question:", a heading). What stands
    in `documents` is their text, not the question's: cloze questions begin like the sentence that they are about, and
    are no leak where their document is shown. Folded words are compared.
    """

    def __init__(self, questions: Iterable[Question], documents: Iterable[str] = ()) -> None:
        texts = {question.question_id: _text_of(question.prompt) for question in questions}
        self._wanted = {name: words for name, words in texts.items() if words}
        self._index()
        own = set().union(*map(self.find, documents)) if self._wanted else set()
        self._wanted = {name: words for name, words in self._wanted.items() if name not in own}
        self._index()

    def _index(self) -> None:
        self._by_key: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for name, words in self._wanted.items():
            self._by_key[words[:_KEY_WORDS]].append(name)
        self._sizes = sorted({len(key) for key in self._by_key})

    def find(self, text: str) -> set[str]:
        """The ids of the questions whose text stands in this one."""
        if not self._by_key:
            return set()
        whole = tuple(words_of(text))
        return {
            name
            for at in range(len(whole))
            for size in self._sizes
            for name in self._by_key.get(whole[at : at + size], ())
            if whole[at : at + len(self._wanted[name])] == self._wanted[name]
        }


def _text_of(prompt: str) -> tuple[str, ...]:
    lines = [line.partition(": ")[2] or line for line in prompt.splitlines()]
    return tuple(words_of(max(lines, key=len, default="")))
