"""What the small sets share: a world under construction, forced choices among entities, a made set's folders."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from data.errors import InputError
from data.records import Document, Question
from data.seeds import fingerprint, stream
from data.store import write_folder, write_json
from data.worlds.language import PHRASINGS, Statement
from data.worlds.lexicon import NOUNS, PREAMBLES

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
                mend="ask for fewer facts, syllogisms or people in a world, and for more worlds instead",
            )
        return self._nouns.pop()

    def state(self, fact: Statement, *, times: int = 1, varied: bool = False) -> None:
        """Add a fact and `times` documents that state it; the first without a preamble, the rest each with another."""
        self.facts.append(fact)
        preambles = ["", *(f"{preamble} " for preamble in self.rng.sample(PREAMBLES, min(times, len(PREAMBLES))))]
        for index in range(times):
            phrasing = index % len(PHRASINGS[fact.form]) if varied else 0
            text = preambles[index % len(preambles)] + fact.text(phrasing)
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
    ) -> None:
        """Add a question whose right answer is `options[0]`; the order of options is drawn here."""
        order = self.rng.sample(range(len(options)), len(options))
        requires = tuple(doc_id for fact in about for doc_id in self._documents_of[fact])
        self.questions.append(
            Question(
                question_id=fingerprint(self.name, split, prompt, *options),
                world=self.name,
                split=split,
                inference=inference,
                prompt=prompt,
                options=tuple(options[index] for index in order),
                answer=order.index(0),
                fact_id=fingerprint(self.name, *(fact.text() for fact in about)),
                requires=requires,
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


def save_set(folder: Path, set_name: str, worlds: Iterable[World], *, seed: int) -> None:
    """Write `documents/`, `questions/` and, last, `manifest.json` with the counts."""
    worlds = list(worlds)
    documents = [document for world in worlds for document in world.documents]
    questions = [question for world in worlds for question in world.questions]
    write_folder(folder / "documents", Document, documents)
    write_folder(folder / "questions", Question, questions)
    splits: dict[str, int] = {}
    for question in questions:
        splits[question.split] = splits.get(question.split, 0) + 1
    manifest = {
        "set": set_name,
        "seed": seed,
        "num_worlds": len(worlds),
        "num_documents": len(documents),
        "num_words": sum(len(document.text.split()) for document in documents),
        "num_questions": splits,
        "content": fingerprint(*(document.doc_id for document in documents), *(q.question_id for q in questions)),
        "facts": {world.name: [fact.text() for fact in world.facts] for world in worlds},
    }
    write_json(folder / "manifest.json", manifest)


def load_manifest(folder: Path) -> dict[str, object]:
    """The manifest of a made set."""
    manifest: dict[str, object] = json.loads((folder / "manifest.json").read_text())
    return manifest
