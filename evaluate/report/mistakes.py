"""Questions that the best finetuned model still gets wrong, with what should have taught it. Reads sealed folders."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data.facts import fold, words_of
from data.records import Augmentation, Document, Question
from data.sentences import split_sentences
from data.store import read_folder
from evaluate.fanout import Missed, Suite
from evaluate.report.legend import is_base, order_splits
from evaluate.statistics import Outcome

MOST = 20  # questions of a suite
NO_ANSWERS: Mapping[tuple[str, str, str], str] = MappingProxyType({})
_MOST_SHOWN = 3  # sentences, and inferences, of a question


def find_mistakes(
    suite: Suite,
    augmentations: Path | None,
    outcomes: Iterable[Outcome],
    missed: Missed,
    answers: Mapping[tuple[str, str, str], str] = NO_ANSWERS,
) -> dict[str, Any]:
    """The `condition` with the highest accuracy after a training, and `questions` that it gets wrong; empty if none.

    Each has its `prompt`, `options`, the `right` ones, the one that was `chosen`, what was `written` (of `answers`, by
    suite, condition and question; "" if it was not asked to write), the documents that it `requires`,
    `sentences` of these that have the right answer, and `inferences` about them that have it.
    """
    condition = _best(suite.name, outcomes)
    by_split = missed.get((suite.name, condition), {})
    rows = chain.from_iterable(zip_longest(*(by_split[split] for split in order_splits(by_split))))
    chosen = [row for row in rows if row is not None][:MOST]
    if not chosen:
        return {}
    wanted = {doc_id for question, _ in chosen for doc_id in question.requires}
    texts = {row.doc_id: row for row in _rows(suite.documents, Document) if row.doc_id in wanted}
    written: dict[str, list[str]] = {}
    for row in _rows(augmentations, Augmentation):
        if row.verdict == "kept" and not wanted.isdisjoint(row.sources):
            written.setdefault(row.sources[0], []).append(f"{row.prompt} {row.text}".strip())
    return {
        "condition": condition,
        "questions": [
            _explain(question, option, texts, written)
            | {"written": answers.get((suite.name, condition, question.question_id), "")}
            for question, option in chosen
        ],
    }


def _best(suite: str, outcomes: Iterable[Outcome]) -> str:
    """The condition of a training with the highest accuracy over all questions."""
    found: dict[str, list[float]] = {}
    for row in outcomes:
        if row.suite == suite and not is_base(row.condition):
            found.setdefault(row.condition, []).append(row.correct)
    return max(found, key=lambda name: (sum(found[name]) / len(found[name]), name), default="")


def _explain(
    question: Question, option: int, texts: Mapping[str, Document], written: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    answer = words_of(question.options[question.answer])
    documents = [texts[doc_id] for doc_id in question.requires if doc_id in texts]
    sentences = [sentence for row in documents for sentence in split_sentences(row.text, row.outline)]
    inferences = [text for row in documents for text in written.get(row.doc_id, ())]
    return {
        "split": question.split,
        "prompt": question.prompt,
        "options": list(question.options),
        "right": [question.answer, *question.also_right],
        "chosen": option,
        "requires": list(question.requires),
        "documents": [row.heading for row in documents if row.heading],
        "sentences": _with_words(sentences, answer),
        "inferences": _with_words(inferences, answer),
    }


def _with_words(texts: Iterable[str], answer: Sequence[str]) -> list[str]:
    """The first distinct texts that have the words of an answer in their order."""
    wanted = " ".join(answer)
    found = {fold(text): text for text in texts if f" {wanted} " in f" {' '.join(words_of(text))} "}
    return list(found.values())[:_MOST_SHOWN]


def _rows(folder: Path | None, record: type[Any]) -> Iterable[Any]:
    return read_folder(folder, record) if folder else ()
