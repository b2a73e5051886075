"""A generated corpus under construction: its facts, the documents that state them, the questions about them."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from data.errors import InputError
from data.records import Document, Question
from data.seeds import fingerprint, stream
from data.sets.blocks import NUM_OPTIONS, Choice, Item
from data.sets.language import PHRASINGS, Statement
from data.sets.lexicon import NOUNS, PREAMBLES


def statement_text(statement: Statement) -> str:
    """A statement in its plain form; one whose form has no phrasings is written as its parts."""
    if statement.form in PHRASINGS and (statement.relation or statement.form != "is"):
        return statement.text()
    return " ".join(part for part in (statement.relation, statement.first, "->", statement.second) if part)


@dataclass
class World:
    """One generated corpus. `documents_of` maps each statement, as it is worded, to the documents that make it.

    `notes` go into the manifest, e.g. what was held out. `describe` prints a fact for the manifest.
    """

    name: str
    rng: Random = field(compare=False)
    facts: list[Statement] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    notes: dict[str, object] = field(default_factory=dict)
    documents_of: dict[Statement, list[str]] = field(default_factory=dict)
    describe: Callable[[Statement], str] = field(default=statement_text, compare=False)
    _nouns: list[str] | None = None

    def noun(self) -> str:
        """A noun of the closed lexicon that this world has not used yet; InputError when there are no more."""
        if self._nouns is None:
            self._nouns = self.rng.sample(NOUNS, len(NOUNS))
        if not self._nouns:
            raise InputError(
                f"a corpus of this size needs more than the {len(NOUNS)} nouns of the lexicon",
                where=f"corpus {self.name}",
                hint="ask for fewer facts, syllogisms or people, and for more worlds instead",
            )
        return self._nouns.pop()

    def state(self, fact: Statement, *, times: int = 1, varied: bool = False) -> None:
        """Add a fact and `times` documents that state it; the first without a preamble, each other with another one."""
        self.facts.append(fact)
        preambles = ["", *(f"{preamble} " for preamble in self.rng.sample(PREAMBLES, min(times, len(PREAMBLES))))]
        for index in range(times):
            phrasing = index % len(PHRASINGS[fact.form]) if varied else 0
            self.add_document(preambles[index % len(preambles)] + fact.text(phrasing), fact)

    def add_document(self, text: str, *facts: Statement) -> None:
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
        *,
        one_document: bool = False,
        also_right: Collection[str] = (),
        also_true: Collection[str] = (),
    ) -> None:
        """Add a question whose right answer is `options[0]`; the order of the options is drawn here.

        It requires all documents that state the facts of the item's proof, or one of each with `one_document`.
        `also_right` and `also_true` are other options: see `data.records.Question`.
        """
        order = self.rng.sample(range(len(options)), len(options))
        texts = tuple(options[index] for index in order)
        # The documents that state a fact in its own direction, or else in the other one.
        known = self.documents_of
        stating = [known[fact if fact in known else fact.reversed()] for fact in item.proof]
        self.questions.append(
            Question(
                question_id=fingerprint(self.name, split, prompt, *texts),
                corpus=self.name,
                split=split,
                inference=item.inference,
                prompt=prompt,
                options=texts,
                answer=order.index(0),
                fact_id=fingerprint(self.name, item.statement.canonical()),
                requires=tuple(dict.fromkeys(d for ids in stating for d in (ids[:1] if one_document else ids))),
                also_right=tuple(place for place, text in enumerate(texts) if text in also_right),
                also_true=tuple(place for place, text in enumerate(texts) if text in also_true),
            )
        )

    def ask_blocks(
        self, split: str, blocks: Iterable[Iterable[Choice]], spell: Callable[[Statement], str] = Statement.prompt
    ) -> None:
        """Ask for the second entity of each choice; `spell` writes the prompt."""
        for block in blocks:
            for choice in block:
                self.ask(split, spell(choice.item.statement), choice.options, choice.item)

    def ask_entity(self, split: str, item: Item, wrong: Sequence[str]) -> None:
        """Ask for the second entity of a statement, among `NUM_OPTIONS` of which the wrong ones come from `wrong`."""
        statement = item.statement
        others = sorted({name for name in wrong if name not in (statement.first, statement.second)})
        options = [statement.second, *self.rng.sample(others, NUM_OPTIONS - 1)]
        self.ask(split, statement.prompt(), options, item)

    def ask_entities(self, split: str, items: Sequence[Item]) -> None:
        """Ask for the second entity of each statement; four questions share their four options.

        Each option of such a block is right once, so a preference for any word scores exactly at chance.
        """
        order = self.rng.sample(items, len(items))
        for start in range(0, len(order), NUM_OPTIONS):
            block = order[start : start + NUM_OPTIONS]
            filled = order[max(0, start + len(block) - NUM_OPTIONS) : start + len(block)]
            for item in block:
                self.ask_entity(split, item, [other.statement.second for other in filled])


def new_world(set_name: str, seed: int, index: int, *names: str) -> World:
    """An empty world with its own random stream, e.g. `reversals/w0`; `names` distinguish streams of one set."""
    return World(f"{set_name}/w{index}", stream(seed, set_name, *names, index))
