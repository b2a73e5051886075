"""The leak audit: what of the tests stands in the training texts, and how much of the augmentations is true.

Pure; the counts go into the report. A test statement is a question's prompt with its right option, compared after
folding case, spaces and punctuation, preambles set aside.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from data.records import Augmentation, Document, Question
from data.worlds.closure import closure, follows
from data.worlds.language import Statement, parse
from data.worlds.lexicon import CONCLUSION, PREAMBLES

RECALL = "recall"  # questions of this inference type ask for a trained statement: they are no leak


def fold(text: str) -> str:
    """A text without case, punctuation and preamble."""
    words = " ".join(re.findall(r"\w+", text.lower()))
    for preamble in (*PREAMBLES, CONCLUSION):
        words = words.removeprefix(preamble.replace(" ,", "") + " ")
    return words


def audit_leaks(
    questions: Sequence[Question], documents: Sequence[Document], augmentations: Iterable[Augmentation]
) -> dict[str, int]:
    """How many test statements stand verbatim in documents and in kept augmentations of their own world."""
    in_documents = {(document.world, fold(document.text)) for document in documents}
    in_augmentations = {(row.world, fold(row.text)) for row in augmentations if row.verdict == "kept"}
    tests = [question for question in questions if question.inference != RECALL]
    stated = [(q.world, fold(f"{q.prompt} {q.options[q.answer]}")) for q in tests]
    present = {document.doc_id for document in documents}
    return {
        "num_documents": len(documents),
        "num_questions": len(questions),
        "num_tests": len(tests),
        "verbatim_in_documents": sum(statement in in_documents for statement in stated),
        "verbatim_in_augmentations": sum(statement in in_augmentations for statement in stated),
        "missing_requirements": sum(not present.issuperset(question.requires) for question in questions),
    }


def audit_truth(
    documents: Sequence[Document], augmentations: Sequence[Augmentation]
) -> tuple[dict[str, dict[str, int]], dict[str, bool]]:
    """By method: rows generated, kept, distinct and (of the kept) true; and the oracle's word on each kept row."""
    facts: dict[str, list[Statement]] = {}
    for document in documents:
        if statement := parse(document.text):
            facts.setdefault(document.world, []).append(statement)
    known: Mapping[str, frozenset[Statement]] = {world: closure(stated) for world, stated in facts.items()}
    methods: dict[str, dict[str, int]] = {}
    verdicts: dict[str, bool] = {}
    texts: dict[str, set[tuple[str, str]]] = {}
    for row in augmentations:
        counts = methods.setdefault(row.method, {"generated": 0, "kept": 0, "true": 0, "distinct": 0})
        counts["generated"] += 1
        texts.setdefault(row.method, set()).add((row.world, row.text))
        if row.verdict == "kept":
            statement = parse(row.text)
            true = statement is not None and follows(statement, known.get(row.world, frozenset()))
            verdicts[row.augmentation_id] = true
            counts["kept"] += 1
            counts["true"] += true
    for method, counts in methods.items():
        counts["distinct"] = len(texts[method])
    return methods, verdicts
