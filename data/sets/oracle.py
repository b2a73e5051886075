"""The oracle of a corpus: what its documents state, what follows from them, and how a text relates to both.

It uses the documents only: they are read sentence by sentence and closed under the rules of their set.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from data.records import Document
from data.sentences import split_sentences
from data.sets.derivation import Derivation, Theory, contradicts, derive
from data.sets.language import Statement

Statements = tuple[Statement, ...] | None  # those of one sentence: () for a filler, None if it cannot be read
Reading = list[tuple[str, Statements]]


@dataclass(frozen=True)
class Logic:
    """How texts of a set are read, what follows from facts, and what contradicts what follows."""

    read: Callable[[str], Reading]
    derive: Callable[[Iterable[Statement]], dict[Statement, Derivation]]
    contradicts: Callable[[Statement, Mapping[Statement, Derivation]], bool]


def by_theory(read: Callable[[str], Reading], theory: Theory) -> Logic:
    """The logic of a set whose rules are a theory."""
    return Logic(read, partial(derive, theory=theory), partial(contradicts, theory=theory))


def by_sentence(read_sentence: Callable[[str], Statements], text: str) -> Reading:
    """Every sentence of a text with what it states."""
    return [(sentence, read_sentence(sentence)) for sentence in split_sentences(text)]


# The relation of a statement to the documents; only the first three are true.
STATED, REVERSAL, DERIVED = "stated", "reversal", "derived"
CONTRADICTION, UNSUPPORTED, UNREAD = "contradiction", "unsupported", "unread"
TRUE = (STATED, REVERSAL, DERIVED)


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one sentence. Producer: `Oracle.judge`. Consumers: the audits.

    `statement` is None if the sentence could not be read; `inference` is "" if it is not true.
    """

    sentence: str
    statement: Statement | None
    verdict: str
    inference: str


class Oracle:
    """What the documents of one corpus state and what follows.

    `stated` maps each statement, in its direction in the documents, to the documents that make it; `derived` has all
    canonical statements that follow, with proofs; `unread` lists sentences that match no template.
    """

    def __init__(self, documents: Iterable[Document], logic: Logic) -> None:
        self.logic = logic
        self.stated: dict[Statement, list[str]] = {}
        self.unread: list[tuple[str, str]] = []
        for document in documents:
            for sentence, statements in logic.read(document.text):
                if statements is None:
                    self.unread.append((document.doc_id, sentence))
                for statement in statements or ():
                    self.stated.setdefault(statement, []).append(document.doc_id)
        self.derived = logic.derive(self.stated)

    def proof(self, statement: Statement) -> tuple[Statement, ...]:
        """The fewest facts that a statement follows from; () if it does not follow."""
        found = self.derived.get(statement.canonical())
        return found.proof if found else ()

    def classify(self, statement: Statement) -> tuple[str, str]:
        """Verdict and inference type of one statement."""
        canonical = statement.canonical()
        found = self.derived.get(canonical)
        if found is None:
            opposed = self.logic.contradicts(statement, self.derived)
            return (CONTRADICTION if opposed else UNSUPPORTED), ""
        if statement in self.stated:
            return STATED, STATED
        if found.inference == STATED:
            return REVERSAL, f"{REVERSAL}-{canonical.form}"
        return DERIVED, found.inference

    def judge(self, text: str) -> list[Finding]:
        """Every sentence of a text; one that makes several statements gives several findings."""
        findings: list[Finding] = []
        for sentence, statements in self.logic.read(text):
            if statements is None:
                findings.append(Finding(sentence, None, UNREAD, ""))
            findings += [Finding(sentence, statement, *self.classify(statement)) for statement in statements or ()]
        return findings


def answer_statement(logic: Logic, prompt: str, option: str) -> Statement | None:
    """The statement that a prompt and an option make together; None if they make none, or several."""
    readings: Sequence[Statement] = [s for _, found in logic.read(f"{prompt} {option}") for s in found or ()]
    return readings[0] if len(readings) == 1 else None
