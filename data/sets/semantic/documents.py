"""The documents of a semantic world: short articles in several styles, lists of questions and answers.

A document is about one category; it states facts about it and about its neighbours, those stated least often first.
Each fact is stated in the directions that are allowed for it: forward, backward or both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from data.errors import InputError
from data.sets.grammar import fill, print_statement
from data.sets.language import Statement
from data.sets.semantic.logic import ANSWER, load_styles
from data.sets.world import World

SENTENCES = (4, 20)
ANSWER_SHARE = 0.15  # of the documents are questions and answers


@dataclass
class Writer:
    """Writes the documents of one world.

    `statements` are those that may be made about each category, in their directions; `neighbours` lists, for each
    category, itself and those whose facts fit beside its own, the nearest first.
    """

    world: World
    rng: Random
    statements: Mapping[str, Sequence[Statement]]
    neighbours: Mapping[str, Sequence[str]]

    def write(self, count: int) -> None:
        """Write `count` documents; InputError if they are too few to state everything.

        Subjects take turns. After the first round what is still unstated comes first, in a document about its category
        or about the nearest one that has documents.
        """
        subjects = [category for category, near in self.neighbours.items() if near]
        unstated = {one: category for category, members in self.statements.items() for one in members}
        for index in range(count):
            if index % len(subjects) == 0:
                self.rng.shuffle(subjects)
            subject, due = subjects[index % len(subjects)], []
            if unstated and index >= len(subjects):
                owner = next(iter(unstated.values()))
                due = [one for one, category in unstated.items() if category == owner]
                subject = min(subjects, key=lambda other: self._distance(other, owner))
            for one in self._document(subject, due):
                unstated.pop(one, None)
        if unstated:
            raise InputError(
                f"{count} documents leave {len(unstated)} facts unstated",
                where="key documents of the semantic set",
                hint="ask for more documents (20 for each category are enough), or for fewer categories",
            )

    def _distance(self, subject: str, owner: str) -> int:
        near = self.neighbours[subject]
        return near.index(owner) if owner in near else len(self.neighbours)

    def _document(self, subject: str, due: Sequence[Statement]) -> list[Statement]:
        """Write one document; returns what it states."""
        styles = load_styles()
        length = self.rng.randint(*SENTENCES)
        if self.rng.random() < ANSWER_SHARE:
            chosen = self._choose(subject, max(2, (length - 1) // 2), due)
            text = "\n".join(self._answers(subject, styles["answers"], chosen))
        else:
            name = self.rng.choice(sorted(styles["style"]))
            chosen = self._choose(subject, length - 1, due)
            lines = self._sentences(subject, styles["style"][name], chosen)
            text = ("\n" if name in ("sheet", "glossary") else " ").join(lines)
        self.world.add_document(text, *chosen)
        return chosen

    def _sentences(self, subject: str, style: Mapping[str, Sequence[str]], facts: Sequence[Statement]) -> list[str]:
        """An opening and statements; some sentences make two statements."""
        lines = [fill(self.rng.choice(style["openings"]), a=subject)]
        compounds = {tuple(form.split("+")): form for form in style if "+" in form}
        index = 0
        while index < len(facts):
            one, two = facts[index], facts[index + 1] if index + 1 < len(facts) else None
            # Joining too many would leave fewer than four sentences.
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
        """Statements for a document about a category: its own, then its neighbours'; the least stated come first.

        What is `due` comes before all. Nothing is stated twice, not even in two directions.
        """
        chosen = list({one.canonical(): one for one in due}.values())[:count]
        facts = {one.canonical() for one in chosen}
        documents_of = self.world.documents_of
        for near in self.neighbours[subject]:
            if len(chosen) == count:
                break
            ranked = sorted(
                self.statements.get(near, ()), key=lambda one: (len(documents_of.get(one, ())), self.rng.random())
            )
            for one in ranked:
                if len(chosen) < count and one.canonical() not in facts:
                    facts.add(one.canonical())
                    chosen.append(one)
        # A compound joins neighbours, so facts of one subject stay together, in a random order.
        order = self.rng.sample(chosen, len(chosen))
        return sorted(order, key=lambda one: [near.first for near in order].index(one.first))


def draw_directions(fact: Statement, held_out: Sequence[str], rng: Random) -> tuple[Statement, ...]:
    """A canonical fact in the directions in which it may be stated.

    What is held out is stated forward only, about the category itself.
    """
    backward = fact.reversed()
    drawn = rng.choices(((fact,), (backward,), (fact, backward)), (0.4, 0.2, 0.4))[0]
    return (fact,) if fact.first in held_out else drawn
