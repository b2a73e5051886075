"""The audits: leaks of tests into training texts, and the soundness of splits.

A test statement is a question's prompt with its right option. Only `audit_folder` reads files, a set or an import.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.baselines import Rate, measure_baselines
from data.records import Augmentation, Document, Question
from data.sentences import sentence_spans
from data.sets.language import Statement
from data.sets.lexicon import CONCLUSION, PREAMBLES
from data.sets.logics import is_generated, logic_of
from data.sets.oracle import STATED, TRUE, Oracle, answer_statement
from data.store import read_folder

RECALL = "recall"  # questions of this inference type ask for a trained statement, which is not a leak
TRAINED = frozenset((RECALL, "rephrased"))  # a rephrased statement is trained too
REVERSAL = "reversal"
HOLDOUT = "category-holdout"
_MAX_CASES = 3  # shown of each fault


def fold(text: str) -> str:
    """A text without case, punctuation and preamble, for comparison."""
    words = " ".join(re.findall(r"\w+", text.lower()))
    for preamble in (*PREAMBLES, CONCLUSION):
        words = words.removeprefix(preamble.replace(" ,", "") + " ")
    return words


def audit_leaks(
    questions: Iterable[Question], documents: Iterable[Document], augmentations: Iterable[Augmentation]
) -> dict[str, int]:
    """Counts the test statements that are verbatim in documents and in kept augmentations of their own corpus.

    Of an augmentation count all that a model reads or learns: prompt, text, the two as one, and their sentences.
    """
    questions = list(questions)
    stated = [(q.corpus, fold(_statement_text(q))) for q in questions if q.inference not in TRAINED]
    wanted, in_documents, present = set(stated), set[tuple[str, str]](), set[str]()
    for document in documents:
        present.add(document.doc_id)
        in_documents |= wanted & {(document.corpus, part) for part in _parts(document.text, document.outline)}
    in_augmentations = set[tuple[str, str]]()
    for row in augmentations:
        if row.verdict == "kept":
            found = _parts(row.text) | (
                _parts(row.prompt) | {fold(f"{row.prompt} {row.text}")} if row.prompt else set()
            )
            in_augmentations |= wanted & {(row.corpus, part) for part in found}
    return {
        "num_documents": len(present),
        "num_questions": len(questions),
        "num_tests": len(stated),
        "verbatim_in_documents": sum(statement in in_documents for statement in stated),
        "verbatim_in_augmentations": sum(statement in in_augmentations for statement in stated),
        "missing_requirements": sum(not present.issuperset(question.requires) for question in questions),
    }


def _parts(text: str, outline: Sequence[int] = ()) -> set[str]:
    """A text and its sentences, folded."""
    return {fold(text), *(fold(text[start:end]) for start, end in sentence_spans(text, outline))}


def _statement_text(question: Question) -> str:
    """The test statement as a sentence, without an introduction ("The relationship between glon and femp is:")."""
    answer = question.options[question.answer]
    _, colon, rest = question.prompt.rpartition(":")
    is_sentence = bool(colon) and len(f"{rest} {answer}".split()) > 2
    return f"{rest if is_sentence else question.prompt}{question.joiner}{answer}"


def read_oracles(documents: Iterable[Document]) -> dict[str, Oracle]:
    """An oracle for each corpus, from its documents only."""
    members: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        members[document.corpus].append(document)
    return {corpus: Oracle(texts, logic_of(corpus)) for corpus, texts in members.items()}


@dataclass(frozen=True)
class SetAudit:
    """The faults of a set: `faults` maps each kind of fault to its cases, question ids or sentences."""

    faults: Mapping[str, tuple[str, ...]]

    @property
    def sound(self) -> bool:
        """Whether there are no faults."""
        return not any(self.faults.values())


FAULTS = {
    "unread sentence": "a sentence of a document states nothing that the oracle can read",
    "unread question": "prompt and option make no statement",
    "does not follow": "the right option does not follow from the documents",
    "several right": "an option follows but is not declared as right or true, or is declared but does not follow",
    "not in required": "the documents that the question requires are not enough for its answer",
    "leaked": "the test statement or a paraphrase of it is in a document",
    "held out seen": "a document states more about a held-out category than its parent",
}


def audit_set(questions: Sequence[Question], documents: Sequence[Document]) -> SetAudit:
    """Check the promises of the splits, question by question, against everything that the documents state."""
    oracles = read_oracles(documents)
    facts = {corpus: _facts_by_document(oracle) for corpus, oracle in oracles.items()}
    faults: dict[str, list[str]] = defaultdict(list)
    for oracle in oracles.values():
        faults["unread sentence"] += [sentence for _, sentence in oracle.unread]
    for question in questions:
        corpus = question.corpus
        found = _check(question, oracles[corpus], facts[corpus]) if corpus in oracles else ["does not follow"]
        for fault in found:
            faults[fault].append(question.question_id)
    return SetAudit({fault: tuple(faults[fault]) for fault in FAULTS})


def _check(question: Question, oracle: Oracle, facts: Mapping[str, Sequence[Statement]]) -> list[str]:
    """The faults of one question; `facts` are those of each document."""
    statements = [answer_statement(oracle.logic, question.prompt, option) for option in question.options]
    right = statements[question.answer]
    if right is None or None in statements:
        return ["unread question"]
    true = [oracle.classify(statement)[0] in TRUE for statement in statements if statement is not None]
    following = {index for index, is_true in enumerate(true) if is_true}
    declared = {question.answer, *question.also_right, *question.also_true}
    proof = oracle.proof(right)
    given = {fact for doc_id in question.requires for fact in facts.get(doc_id, ())}
    is_enough = proof and (given.issuperset(proof) or right.canonical() in oracle.logic.derive(given))
    found = {
        "does not follow": not true[question.answer],
        "several right": (following ^ declared) - {question.answer},
        "not in required": not is_enough,
        "leaked": question.inference not in TRAINED and is_stated(right, question.inference, oracle),
        "held out seen": question.split == HOLDOUT and len(_statements_about(right.first, oracle)) != 1,
    }
    return [fault for fault, is_found in found.items() if is_found]


def is_stated(statement: Statement, inference: str, oracle: Oracle) -> bool:
    """Whether documents state what a test asks for: a reversal in its direction, anything else in either direction."""
    if inference.startswith(REVERSAL):
        return statement in oracle.stated
    found = oracle.derived.get(statement.canonical())
    return found is not None and found.inference == STATED


def _facts_by_document(oracle: Oracle) -> dict[str, list[Statement]]:
    facts: dict[str, list[Statement]] = defaultdict(list)
    for statement, doc_ids in oracle.stated.items():
        for doc_id in doc_ids:
            facts[doc_id].append(statement.canonical())
    return facts


def _statements_about(entity: str, oracle: Oracle) -> set[Statement]:
    return {s.canonical() for s in oracle.stated if entity in (s.first, s.second)}


@dataclass(frozen=True)
class FolderAudit:
    """The audit of a set or an import, as `entail data audit` prints it: `lines`, and whether it is `sound`.

    It is sound without faults, leaks and missing documents; baselines above chance are only shown.
    """

    sound: bool
    lines: tuple[str, ...]


def audit_folder(folder: Path, questions: Sequence[Question] = ()) -> FolderAudit:
    """Audit a folder with `documents/` and `questions/`; `questions` are used if it has none of its own.

    Soundness and baselines are checked for generated sets, leaks for all. Raises InputError if there are no documents,
    or a folder is unfinished.
    """
    documents = list(read_folder(folder / "documents", Document))
    if (folder / "questions").exists():
        questions = list(read_folder(folder / "questions", Question))
    if not questions:
        return FolderAudit(True, (f"{len(documents)} documents", "no questions: there is nothing to check for leaks"))
    leaks = audit_leaks(questions, documents, [])
    lines = [
        f"{len(documents)} documents, {len(questions)} questions ({leaks['num_tests']} of them tests)",
        f"leaks: {leaks['verbatim_in_documents']} test statements are verbatim in a document",
        f"missing: {leaks['missing_requirements']} questions require a document that is not there",
    ]
    sound = not leaks["verbatim_in_documents"] and not leaks["missing_requirements"]
    if all(is_generated(corpus) for corpus in {question.corpus for question in questions}):
        audit = audit_set(questions, documents)
        sound = sound and audit.sound
        for fault, cases in audit.faults.items():
            lines.append(f"{fault}: {len(cases)} ({FAULTS[fault]})" if cases else f"{fault}: 0")
            lines += [f"  {case}" for case in cases[:_MAX_CASES]]
        tests = [question for question in questions if question.inference not in TRAINED]
        lines += _baseline_lines(measure_baselines(tests, documents))
    return FolderAudit(sound, (*lines, "sound" if sound else "not sound"))


def _baseline_lines(rates: Mapping[str, Mapping[str, Rate]]) -> list[str]:
    lines = ["baselines (accuracy without knowledge, 95% interval):"]
    for split, by_name in rates.items():
        for name, rate in by_name.items():
            mark = "  above chance" if rate.above_chance else ""
            interval = f"{rate.accuracy:.2f} [{rate.low:.2f}, {rate.high:.2f}], chance {rate.chance:.2f}"
            lines.append(f"  {split:<20} {name:<9} {interval}, n {rate.num_questions}{mark}")
    return lines
