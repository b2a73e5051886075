"""The oracle of a world: what its documents state, what follows from them, and what a text says about either.

It knows a world by its documents alone: they are read, sentence by sentence, and closed under the rules of their kind.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from data.records import Document
from data.sets.derivation import Derivation
from data.sets.language import Statement

Reading = list[tuple[str, tuple[Statement, ...] | None]]


@dataclass(frozen=True)
class Logic:
    """How texts of a set are read, what follows from facts, and what contradicts what follows."""

    read: Callable[[str], Reading]
    derive: Callable[[Iterable[Statement]], dict[Statement, Derivation]]
    contradicts: Callable[[Statement, Mapping[Statement, Derivation]], bool]


# What a statement is to the documents; only the first three are true.
STATED, REVERSAL, DERIVED = "stated", "reversal", "derived"
CONTRADICTION, UNSUPPORTED, UNREAD = "contradiction", "unsupported", "unread"
TRUE = (STATED, REVERSAL, DERIVED)


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence judged. Producer: `Oracle.judge`. Consumers: the audits.

    `statement` is None where the sentence could not be read; `inference` is "" where it is not true.
    """

    sentence: str
    statement: Statement | None
    verdict: str
    inference: str


@dataclass(frozen=True)
class Measure:
    """Texts against an oracle. `verdicts` counts sentences; `coverage` has (found, all) for each inference type.

    `precision` is the share of true ones among the sentences that could be read, `recall` the share of all that follows
    and is not stated that the texts state; nan where there is nothing to count.
    """

    verdicts: Mapping[str, int]
    coverage: Mapping[str, tuple[int, int]]
    contradictions: tuple[str, ...]

    @property
    def precision(self) -> float:
        """True statements among those that could be read."""
        read = sum(count for verdict, count in self.verdicts.items() if verdict != UNREAD)
        return sum(self.verdicts.get(verdict, 0) for verdict in TRUE) / read if read else float("nan")

    @property
    def recall(self) -> float:
        """Statements found among all that follow without being stated."""
        found, total = (
            (sum(column) for column in zip(*self.coverage.values(), strict=True)) if self.coverage else (0, 0)
        )
        return found / total if total else float("nan")


class Oracle:
    """What one world's documents state and what follows.

    `stated` maps each statement, as it is turned in the documents, to the documents that make it; `derived` has all
    canonical statements that follow, with proofs; `unread` lists sentences that no template fits.
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
        self._targets = self._list_targets()

    def targets(self) -> Mapping[tuple[str, Statement], str]:
        """All that follows and is not stated, with its inference type.

        A fact that stands in one direction only is asked for in the other ("reversal-FORM"), a deduction in any.
        """
        return self._targets

    def proof(self, statement: Statement) -> tuple[Statement, ...]:
        """The fewest facts that a statement follows from; () where it does not follow."""
        found = self.derived.get(statement.canonical())
        return found.proof if found else ()

    def place(self, statement: Statement) -> tuple[str, str]:
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
        """Every sentence of a text; one that makes several statements gives as many findings."""
        findings: list[Finding] = []
        for sentence, statements in self.logic.read(text):
            if statements is None:
                findings.append(Finding(sentence, None, UNREAD, ""))
            findings += [Finding(sentence, statement, *self.place(statement)) for statement in statements or ()]
        return findings

    def measure(self, texts: Iterable[str]) -> Measure:
        """Precision, recall, coverage by inference type and contradictions of augmentations."""
        findings = [finding for text in texts for finding in self.judge(text)]
        wanted = Counter(self._targets.values())
        reached = {self._target(finding.statement) for finding in findings if finding.statement is not None}
        found = Counter(inference for target, inference in self._targets.items() if target in reached)
        return Measure(
            verdicts=dict(sorted(Counter(finding.verdict for finding in findings).items())),
            coverage={inference: (found[inference], wanted[inference]) for inference in sorted(wanted)},
            contradictions=tuple(finding.sentence for finding in findings if finding.verdict == CONTRADICTION),
        )

    def _target(self, statement: Statement) -> tuple[str, Statement]:
        """Under what a statement counts as found: a reversal as it is turned, a deduction in its canonical form."""
        verdict, _ = self.place(statement)
        return verdict, statement if verdict == REVERSAL else statement.canonical()

    def _list_targets(self) -> dict[tuple[str, Statement], str]:
        targets: dict[tuple[str, Statement], str] = {}
        for canonical, derivation in self.derived.items():
            if derivation.inference != STATED:
                targets[DERIVED, canonical] = derivation.inference
                continue
            turned = _other_way(canonical)
            if turned and (turned in self.stated) != (canonical in self.stated):
                missing = canonical if turned in self.stated else turned
                targets[REVERSAL, missing] = f"{REVERSAL}-{canonical.form}"
        return targets


def answer_statement(logic: Logic, prompt: str, option: str) -> Statement | None:
    """The statement that a prompt and an option make together; None where they make none, or several."""
    readings: Sequence[Statement] = [s for _, found in logic.read(f"{prompt} {option}") for s in found or ()]
    return readings[0] if len(readings) == 1 else None


def _other_way(canonical: Statement) -> Statement | None:
    """The same fact told from its other end, where the form has one."""
    try:
        turned = canonical.reversed()
    except KeyError:  # denials and process values have one direction only
        return None
    return turned if turned.canonical() == canonical else None
