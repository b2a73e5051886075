"""What the small sets share: a world under construction, forced choices among entities, a made set's folders."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

from data.errors import InputError
from data.records import Document, Question
from data.seeds import fingerprint, stream
from data.sentences import split_sentences
from data.sets.blocks import Item
from data.sets.language import PHRASINGS, Statement
from data.sets.lexicon import NOUNS, PREAMBLES
from data.store import write_folder, write_json

NUM_OPTIONS = 4


@dataclass(frozen=True)
class Asked:
    """A statement whose second entity is asked for, the facts that it follows from, and the kind of step."""

    statement: Statement
    about: tuple[Statement, ...]
    inference: str


@dataclass
class World:
    """One world: its facts, the documents that state them, the questions about it."""

    name: str
    rng: Random = field(compare=False)
    facts: list[Statement] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    notes: dict[str, object] = field(default_factory=dict)
    _nouns: list[str] | None = None
    _documents_of: dict[Statement, list[str]] = field(default_factory=dict)

    def noun(self) -> str:
        """A noun that this world has not used yet; InputError when the lexicon has no more."""
        if self._nouns is None:
            self._nouns = self.rng.sample(NOUNS, len(NOUNS))
        if not self._nouns:
            raise InputError(
                f"a world of this size needs more than the {len(NOUNS)} nouns of the lexicon",
                where=f"world {self.name}",
                hint="ask for fewer facts, syllogisms or people in a world, and for more worlds instead",
            )
        return self._nouns.pop()

    def fact_texts(self) -> list[str]:
        """The facts in their plain form."""
        return [statement_text(fact) for fact in self.facts]

    def state(self, fact: Statement, *, times: int = 1, varied: bool = False) -> None:
        """Add a fact and `times` documents that state it; the first without a preamble, the rest each with another."""
        self.facts.append(fact)
        preambles = ["", *(f"{preamble} " for preamble in self.rng.sample(PREAMBLES, min(times, len(PREAMBLES))))]
        for index in range(times):
            phrasing = index % len(PHRASINGS[fact.form]) if varied else 0
            self.tell(preambles[index % len(preambles)] + fact.text(phrasing), fact)

    def tell(self, text: str, fact: Statement) -> None:
        """Add a document that states a fact."""
        doc_id = fingerprint(self.name, text)
        self.documents.append(Document(doc_id, text, self.name))
        self._documents_of.setdefault(fact, []).append(doc_id)

    def ask(
        self,
        split: str,
        prompt: str,
        options: Sequence[str],
        *,
        about: Sequence[Statement],
        inference: str,
        also_right: Collection[str] = (),
        also_true: Collection[str] = (),
    ) -> None:
        """Add a question whose right answer is `options[0]`; the order of options is drawn here.

        `also_right` and `also_true` are other options: see `data.records.Question`.
        """
        order = self.rng.sample(range(len(options)), len(options))
        requires = tuple(doc_id for fact in about for doc_id in self._documents_of[fact])
        self.questions.append(
            Question(
                question_id=fingerprint(self.name, split, prompt, *options),
                corpus=self.name,
                split=split,
                inference=inference,
                prompt=prompt,
                options=tuple(options[index] for index in order),
                answer=order.index(0),
                fact_id=fingerprint(self.name, *(statement_text(fact) for fact in about)),
                requires=requires,
                also_right=_places(options, order, also_right),
                also_true=_places(options, order, also_true),
            )
        )

    def ask_entity(self, split: str, asked: Asked, wrong: Sequence[str]) -> None:
        """Ask for the second entity of a statement, among `NUM_OPTIONS` of which the wrong ones come from `wrong`."""
        statement = asked.statement
        others = sorted({name for name in wrong if name not in (statement.first, statement.second)})
        options = [statement.second, *self.rng.sample(others, NUM_OPTIONS - 1)]
        self.ask(split, statement.prompt(), options, about=asked.about, inference=asked.inference)

    def ask_entities(self, split: str, asked: Sequence[Asked]) -> None:
        """Ask for the second entity of each statement; four questions share their four options.

        Each option of such a block is right once, so that liking a word for itself is worth exactly chance.
        """
        order = self.rng.sample(asked, len(asked))
        for start in range(0, len(order), NUM_OPTIONS):
            block = order[start : start + NUM_OPTIONS]
            filled = order[max(0, start + len(block) - NUM_OPTIONS) : start + len(block)]
            for one in block:
                self.ask_entity(split, one, [other.statement.second for other in filled])


def new_world(set_name: str, seed: int, index: int) -> World:
    """An empty world with its own random stream, e.g. `reversals/w0`."""
    return World(f"{set_name}/w{index}", stream(seed, set_name, index))


def statement_text(statement: Statement) -> str:
    """A statement in its plain form; one of a form without phrasings is written by its parts."""
    if statement.form in PHRASINGS and (statement.relation or statement.form != "is"):
        return statement.text()
    return " ".join(part for part in (statement.relation, statement.first, "->", statement.second) if part)


@dataclass
class PlainWorld:
    """A world in plain English: the same as `World`, without its closed lexicon and its own randomness."""

    name: str
    facts: list[Statement] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    notes: dict[str, object] = field(default_factory=dict)
    documents_of: dict[Statement, list[str]] = field(default_factory=dict)

    def fact_texts(self) -> list[str]:
        """The facts in their plain form."""
        return [statement_text(fact) for fact in self.facts]

    def tell(self, text: str, *facts: Statement) -> None:
        """Add a document that states these facts."""
        document = Document(fingerprint(self.name, len(self.documents), text), text, self.name)
        self.documents.append(document)
        for fact in facts:
            self.documents_of.setdefault(fact, []).append(document.doc_id)

    def ask(
        self,
        split: str,
        prompt: str,
        options: Sequence[str],
        item: Item,
        rng: Random,
        *,
        documents_of: Mapping[Statement, Sequence[str]] | None = None,
        also_right: Collection[str] = (),
        also_true: Collection[str] = (),
    ) -> Question:
        """Add a question whose right answer is `options[0]`; others may be `also_right`, or `also_true`.

        It requires the documents that `documents_of` names for each needed fact: by default all that state it.
        """
        documents_of = self.documents_of if documents_of is None else documents_of
        order = rng.sample(range(len(options)), len(options))
        texts = tuple(options[position] for position in order)
        question = Question(
            question_id=fingerprint(self.name, split, prompt, *texts),
            corpus=self.name,
            split=split,
            inference=item.inference,
            prompt=prompt,
            options=texts,
            answer=order.index(0),
            fact_id=fingerprint(self.name, item.statement.canonical()),
            requires=tuple(dict.fromkeys(doc_id for fact in item.proof for doc_id in documents_of[fact])),
            also_right=_places(options, order, also_right),
            also_true=_places(options, order, also_true),
        )
        self.questions.append(question)
        return question


def _places(options: Sequence[str], order: Sequence[int], wanted: Collection[str]) -> tuple[int, ...]:
    """Where options stand after they were put in order."""
    return tuple(place for place, index in enumerate(order) if options[index] in wanted)


class MadeWorld(Protocol):
    """What any made world offers: its name, documents, questions, and what a reader of the manifest may want to know.

    `notes` are facts about single questions or entities, e.g. which were held out.
    """

    name: str
    documents: list[Document]
    questions: list[Question]
    notes: dict[str, object]

    def fact_texts(self) -> list[str]:
        """The facts in plain words."""


def save_set(folder: Path, set_name: str, worlds: Iterable[MadeWorld], *, seed: int) -> None:
    """Write `documents/`, `questions/` and, last, `manifest.json` with the counts."""
    worlds = list(worlds)
    documents = [document for world in worlds for document in world.documents]
    questions = [question for world in worlds for question in world.questions]
    write_folder(folder / "documents", Document, documents)
    write_folder(folder / "questions", Question, questions)
    inferences: dict[str, Counter[str]] = {}
    for question in questions:
        inferences.setdefault(question.split, Counter())[question.inference] += 1
    manifest = {
        "set": set_name,
        "seed": seed,
        "num_worlds": len(worlds),
        "num_documents": len(documents),
        "num_sentences": sum(len(split_sentences(document.text)) for document in documents),
        "num_words": sum(len(document.text.split()) for document in documents),
        "num_questions": {split: counts.total() for split, counts in inferences.items()},
        "num_questions_by_inference": {split: dict(sorted(counts.items())) for split, counts in inferences.items()},
        "content": fingerprint(*(document.doc_id for document in documents), *(q.question_id for q in questions)),
        "facts": {world.name: world.fact_texts() for world in worlds},
        "notes": {world.name: world.notes for world in worlds if world.notes},
    }
    write_json(folder / "manifest.json", manifest)


def load_manifest(folder: Path) -> dict[str, object]:
    """The manifest of a made set."""
    manifest: dict[str, object] = json.loads((folder / "manifest.json").read_text())
    return manifest
