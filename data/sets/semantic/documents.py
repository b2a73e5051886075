"""The documents of a semantic world: short articles in several styles, lists of questions and answers.

A document is about one category; it tells facts about it and about what stands near it, those told least often first.
Each fact is told in the directions that it is allowed: forward, backward or both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from data.errors import InputError
from data.records import Document
from data.seeds import fingerprint
from data.sets.grammar import fill, print_statement
from data.sets.language import SEMANTIC_FORMS, Statement
from data.sets.semantic.logic import ANSWER, load_styles

SENTENCES = (4, 20)
ANSWER_SHARE = 0.15  # of the documents are questions and answers


@dataclass
class Writer:
    """Writes the documents of one world and remembers which of them states which fact.

    `tellings` are the statements that may be told, as they are turned; `neighbours` lists, for each category, itself
    and those whose facts fit beside its own, the nearest first.
    """

    corpus: str
    rng: Random
    tellings: Mapping[str, Sequence[Statement]]
    neighbours: Mapping[str, Sequence[str]]
    documents: list[Document] = field(default_factory=list)
    stated_in: dict[Statement, list[str]] = field(default_factory=dict)

    def write(self, count: int) -> None:
        """Write `count` documents; InputError where they are too few to tell everything.

        Subjects take turns. After the first round what is still untold comes first, in a document about its category or
        about the nearest one that has documents.
        """
        subjects = [category for category, near in self.neighbours.items() if near]
        untold = {told: category for category, tellings in self.tellings.items() for told in tellings}
        for index in range(count):
            if index % len(subjects) == 0:
                self.rng.shuffle(subjects)
            subject, due = subjects[index % len(subjects)], []
            if untold and index >= len(subjects):
                owner = next(iter(untold.values()))
                due = [told for told, category in untold.items() if category == owner]
                subject = min(subjects, key=lambda other: self._distance(other, owner))
            for told in self._document(subject, due):
                untold.pop(told, None)
        if untold:
            raise InputError(
                f"{count} documents leave {len(untold)} facts of the world untold",
                where="key documents of the semantic set",
                hint="ask for more documents (20 for each category are plenty), or for fewer categories",
            )

    def _distance(self, subject: str, owner: str) -> int:
        near = self.neighbours[subject]
        return near.index(owner) if owner in near else len(self.neighbours)

    def _document(self, subject: str, due: Sequence[Statement]) -> list[Statement]:
        """Write one document; returns what it tells."""
        styles = load_styles()
        length = self.rng.randint(*SENTENCES)
        if self.rng.random() < ANSWER_SHARE:
            told = self._choose(subject, max(2, (length - 1) // 2), due)
            text = "\n".join(self._answers(subject, styles["answers"], told))
        else:
            name = self.rng.choice(sorted(styles["style"]))
            told = self._choose(subject, length - 1, due)
            lines = self._sentences(subject, styles["style"][name], told)
            text = ("\n" if name in ("sheet", "glossary") else " ").join(lines)
        document = Document(fingerprint(self.corpus, len(self.documents), text), text, self.corpus)
        self.documents.append(document)
        for statement in told:
            self.stated_in.setdefault(statement, []).append(document.doc_id)
        return told

    def _sentences(self, subject: str, style: Mapping[str, Sequence[str]], facts: Sequence[Statement]) -> list[str]:
        """An opening and statements; now and then one sentence makes two."""
        lines = [fill(self.rng.choice(style["openings"]), a=subject)]
        compounds = {tuple(form.split("+")): form for form in style if "+" in form}
        index = 0
        while index < len(facts):
            one, two = facts[index], facts[index + 1] if index + 1 < len(facts) else None
            # Fewer than four sentences would be left where too many are joined.
            joined = two is not None and one.first == two.first and len(facts) - index + len(lines) > SENTENCES[0] + 1
            form = compounds.get((one.form, two.form)) if two is not None and joined else None
            if form and two is not None:
                template = self.rng.choice(style[form])
                lines.append(fill(template, a=one.first, b=one.second, c=two.second, r=one.relation))
                index += 2
            else:
                lines.append(print_statement(self.rng.choice(style[one.form]), one))
                index += 1
        return lines

    def _answers(self, subject: str, style: Mapping[str, Sequence[str]], facts: Sequence[Statement]) -> list[str]:
        lines = [fill(self.rng.choice(style["openings"]), a=subject)]
        for fact in facts:
            question, _, answer = self.rng.choice(style[fact.form]).partition(ANSWER)
            asked = fill(question.removeprefix("Q: "), a=fact.first, r=fact.relation)
            lines += [f"Q: {asked}", f"A: {print_statement(answer, fact)}"]
        return lines

    def _choose(self, subject: str, count: int, due: Sequence[Statement]) -> list[Statement]:
        """Statements for a document about a category: its own, then its neighbours'; the least told come first.

        What is `due` comes before all. Nothing is told twice, not even in two directions.
        """
        chosen = list({told.canonical(): told for told in due}.values())[:count]
        facts = {told.canonical() for told in chosen}
        for near in self.neighbours[subject]:
            if len(chosen) == count:
                break
            ranked = sorted(
                self.tellings.get(near, ()), key=lambda told: (len(self.stated_in.get(told, ())), self.rng.random())
            )
            for told in ranked:
                if len(chosen) < count and told.canonical() not in facts:
                    facts.add(told.canonical())
                    chosen.append(told)
        # A compound joins neighbours, so facts of one subject stay together, in a random order.
        order = self.rng.sample(chosen, len(chosen))
        return sorted(order, key=lambda told: [near.first for near in order].index(told.first))


def allow_directions(facts: Sequence[Statement], held_out: Sequence[str], rng: Random) -> dict[Statement, str]:
    """For each fact "forward", "backward" or "both"; what is held out is told forward, about the category itself."""
    allowed = {}
    for fact in facts:
        drawn = rng.choices(("forward", "backward", "both"), (0.4, 0.2, 0.4))[0]
        allowed[fact] = "forward" if fact.first in held_out else drawn
    return allowed


def turn(fact: Statement, direction: str) -> tuple[Statement, ...]:
    """A canonical fact as it may be told."""
    backward = Statement(SEMANTIC_FORMS[fact.form], fact.relation, fact.second, fact.first)
    return {"forward": (fact,), "backward": (backward,), "both": (fact, backward)}[direction]
