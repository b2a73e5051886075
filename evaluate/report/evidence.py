"""What a report shows beside the accuracies: audits of leaks and of what the model wrote, and examples."""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from augment_service.verifiers import VERDICTS
from data.audit import RECALL, audit_leaks, read_oracles
from data.records import Augmentation, Document, Question
from data.sets.logics import is_generated
from data.sets.oracle import TRUE, UNREAD, Oracle
from data.store import read_folder
from evaluate.fanout import Suite, suite_corpora

NUM_EXAMPLES = 4
NUM_QUESTIONS = 2
REJECTING = tuple(dict.fromkeys(VERDICTS.values()))  # verdicts of the verification
Row = TypeVar("Row")


def audit_suite(suite: Suite, augmentations: Path | None, chosen: Mapping[tuple[str, str, str], int]) -> dict[str, Any]:
    """Leaks, what the model wrote by method, and examples of both and of questions.

    Statements are judged only where the corpora are generated sets: only these have an oracle. Documents and
    `augmentations` (a sealed folder; None: nothing was written) are read shard by shard.
    """

    def rows(folder: Path | None, record: type[Row]) -> Iterator[Row]:
        return read_folder(folder, record) if folder else iter(())

    can_judge = all(is_generated(corpus) for corpus in suite_corpora(suite))
    oracles = read_oracles(rows(suite.documents, Document)) if can_judge else None
    methods, examples = audit_statements(rows(augmentations, Augmentation), oracles)
    leaks = audit_leaks(
        rows(suite.questions, Question), rows(suite.documents, Document), rows(augmentations, Augmentation)
    )
    return {
        **leaks,
        "methods": methods,
        "verification": audit_verdicts(rows(augmentations, Augmentation), oracles),
        "examples": examples,
        "question_examples": [
            {
                "prompt": question.prompt,
                "options": list(question.options),
                "right": [question.answer, *question.also_right],
                "chosen": {
                    condition: option
                    for (name, condition, asked), option in chosen.items()
                    if (name, asked) == (suite.name, question.question_id)
                },
            }
            for question in _first_of_each_split(rows(suite.questions, Question))
        ],
    }


def audit_statements(
    rows: Iterable[Augmentation], oracles: Mapping[str, Oracle] | None
) -> tuple[dict[str, dict[str, int]], list[dict[str, Any]]]:
    """Counts by method, and the first few rows of each kind.

    Counted are the rows generated, distinct and kept; with oracles also the kept ones that are true (all that they
    state follows) and unread (the oracle understands none or only part of them, and finds nothing false).
    """
    methods: dict[str, dict[str, int]] = {}
    texts: dict[str, set[int]] = {}
    examples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        counts = methods.setdefault(row.method, dict.fromkeys(("generated", "kept"), 0))
        counts["generated"] += 1
        texts.setdefault(row.method, set()).add(hash((row.corpus, row.prompt, row.text)))
        if row.verdict != "kept":
            continue
        counts["kept"] += 1
        judgement = "" if oracles is None else judge_text(oracles.get(row.corpus), row.text)
        for name in ("true", "unread") if judgement else ():
            counts[name] = counts.get(name, 0) + (judgement == name)
        shown = examples.setdefault((row.method, judgement), [])
        if len(shown) < (NUM_EXAMPLES if judgement in ("true", "") else NUM_EXAMPLES // 2):
            document = row.sentence or row.prompt or ", ".join(row.sources)
            own = {name: getattr(row, name) for name in ("method", "text", "reasoning")}
            shown.append({"document": document, **own, "judgement": judgement})
    for method, counts in methods.items():
        counts["distinct"] = len(texts[method])
    order = ("true", "false", "unread", "")
    keys = sorted(examples, key=lambda key: (key[0], order.index(key[1])))
    return methods, [example for key in keys for example in examples[key]]


def audit_verdicts(rows: Iterable[Augmentation], oracles: Mapping[str, Oracle] | None) -> dict[str, dict[str, int]]:
    """Counts by method, of the methods that were verified: rows measured, and rejected by each verdict.

    With oracles also the measured rows that are untrue ("false"), and those of them that were rejected; what an oracle
    cannot read is not untrue.
    """
    found: dict[str, dict[str, int]] = {}
    names = ("verified", *REJECTING, *(("false", "false_rejected") if oracles is not None else ()))
    for row in rows:
        is_rejected = row.verdict in REJECTING
        if not is_rejected and (row.verdict != "kept" or all(math.isnan(getattr(row, name)) for name in VERDICTS)):
            continue
        counts = found.setdefault(row.method, dict.fromkeys(names, 0))
        counts["verified"] += 1
        if is_rejected:
            counts[row.verdict] += 1
        if oracles is not None and judge_text(oracles.get(row.corpus), row.text) == "false":
            counts["false"] += 1
            counts["false_rejected"] += is_rejected
    return found


def judge_text(oracle: Oracle | None, text: str) -> str:
    """Whether a text is "true", "false" or "unread"."""
    verdicts = {finding.verdict for finding in oracle.judge(text)} if oracle else set()
    if verdicts.difference(TRUE, (UNREAD,)):
        return "false"
    return "true" if verdicts and UNREAD not in verdicts else "unread"


def _first_of_each_split(questions: Iterable[Question]) -> list[Question]:
    """The first questions of each split that asks for an inference."""
    found: dict[str, list[Question]] = {}
    for question in questions:
        if question.inference != RECALL and len(found.setdefault(question.split, [])) < NUM_QUESTIONS:
            found[question.split].append(question)
    return [question for split in sorted(found) for question in found[split]]
