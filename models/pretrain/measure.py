"""The skills of a pretrained model, measured on fresh worlds by plain transformers forward passes.

The worlds have a random stream of their own, so no pretraining document shares their bindings. Reads a model folder
or a model in memory; returns counts that the model card prints.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from data.records import Question
from data.seeds import stream
from data.sets import lexicon
from data.sets.blocks import NUM_OPTIONS
from data.sets.derivation import PLAIN, conclude, derive
from data.sets.language import Statement, parse
from data.sets.logics import logic_of
from data.sets.oracle import Oracle
from data.sets.world import World
from evaluate.statistics import wilson_interval
from models.pretrain.reader import Reader


@dataclass(frozen=True)
class Share:
    """`hits` of `count`, with the Wilson 95% interval."""

    hits: int
    count: int

    @property
    def value(self) -> float:
        """The share itself, 0 to 1."""
        return self.hits / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval."""
        return wilson_interval(self.value, self.count)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] of {self.count}"


@dataclass(frozen=True)
class TestWorld:
    """A fresh world with all kinds of fact; `pairs` are premises with their conclusion."""

    facts: list[Statement]
    pairs: list[tuple[Statement, Statement, Statement]]
    context: str


def sample_test_world(seed: int, index: int, *, num_facts: int, preambles: float = 0.0) -> TestWorld:
    """A third comparisons, a third roles (half of them backward), a third syllogisms."""
    rng = stream(seed, "measure", index, num_facts)
    nouns = rng.sample(lexicon.NOUNS, 2 * num_facts)
    third = num_facts // 3
    facts: list[Statement] = []
    for forms, relations in ((("more", "less"), lexicon.FEATURES), (("is", "of"), lexicon.ROLES)):
        facts += [Statement(rng.choice(forms), rng.choice(relations), nouns.pop(), nouns.pop()) for _ in range(third)]
    pairs = []
    while len(facts) < num_facts:
        one_form, two_form = rng.choice((("all", "all"), ("all", "all"), ("all", "no"), ("some", "all")))
        low, middle, high = nouns.pop(), nouns.pop(), nouns.pop()
        one, two = Statement(one_form, "", low, middle), Statement(two_form, "", middle, high)
        pairs.append((one, two, conclude(one, two)[0]))
        facts += [one, two]
    rng.shuffle(facts)
    lines = [(rng.choice(lexicon.PREAMBLES) + " " if rng.random() < preambles else "") + fact.text() for fact in facts]
    return TestWorld(facts, pairs, lexicon.END_OF_LINE.join([*lines, lexicon.SEPARATOR, ""]))


def measure_choices(reader: Reader, worlds: Sequence[TestWorld], seed: int) -> dict[str, Share]:
    """Accuracy among 4 entities: recall, reversals and two-step deductions, with and without the facts in context."""
    hits: dict[str, list[bool]] = {}
    for world in worlds:
        rng = stream(seed, "options", world.context)
        items = [("recall", fact) for fact in world.facts]
        items += [("reversal", fact.reversed()) for fact in world.facts if fact.form in ("more", "less", "is", "of")]
        items += [("deduction", conclusion) for _, _, conclusion in world.pairs]
        options = [_options(rng, world, kind, statement) for kind, statement in items]
        prompts = [statement.prompt() for _, statement in items]
        for prefix, context in (("", world.context), ("without context: ", "")):
            chosen = reader.choose(context, prompts, options)
            for (kind, statement), names, index in zip(items, options, chosen, strict=True):
                hits.setdefault(prefix + kind, []).append(names[index] == statement.second)
    return {name: Share(sum(found), len(found)) for name, found in hits.items()}


def _options(rng: Random, world: TestWorld, kind: str, statement: Statement) -> list[str]:
    """The right entity among hard wrong ones: those in the same position of similar statements."""
    if kind == "deduction":
        pool = [conclusion.second for _, _, conclusion in world.pairs]
    elif kind == "reversal":
        pool = [fact.first for fact in world.facts if (fact.relation == "") == (statement.relation == "")]
    else:
        pool = [fact.second for fact in world.facts if (fact.relation == "") == (statement.relation == "")]
    wrong = sorted({name for name in pool if name not in (statement.first, statement.second)})
    names = [statement.second, *rng.sample(wrong, NUM_OPTIONS - 1)]
    rng.shuffle(names)
    return names


def measure_generations(reader: Reader, worlds: Sequence[TestWorld], temperature: float, seed: int) -> dict[str, Share]:
    """The share of generated lines that are true by the world's closure, by task.

    A deduction counts as true if it says that nothing follows and nothing does, or states something true that is
    neither its premise nor the premise's reversal; "nothing follows" counts as false where something does.
    """
    hits: dict[str, list[bool]] = {}
    for number, world in enumerate(worlds):
        linked = {premise for one, two, _ in world.pairs for premise in (one, two)}
        write = partial(reader.write, world.context, temperature=temperature, seed=seed + number)
        _judge(hits, world.facts, linked, derive(world.facts, PLAIN).keys(), write)
    return {name: Share(sum(found), len(found)) for name, found in hits.items()}


def _judge(
    hits: dict[str, list[bool]],
    facts: Sequence[Statement],
    linked: set[Statement],
    known: Collection[Statement],
    write: Callable[[Sequence[str]], list[str]],
) -> None:
    """Add to `hits`, by task, whether the line about each fact is true; `linked` are facts with conclusions."""
    for task in lexicon.TASKS:
        lines = write([f"{task} : {fact.text()} {lexicon.ARROW}" for fact in facts])
        for fact, line in zip(facts, lines, strict=True):
            hits.setdefault(task, []).append(_is_true(task, fact, line, fact in linked, known))
            if task == "deduce":
                kind = "deduce, something follows" if fact in linked else "deduce, nothing follows"
                hits.setdefault(kind, []).append(hits[task][-1])


def _is_true(task: str, fact: Statement, line: str, linked: bool, known: Collection[Statement]) -> bool:
    line = line.rpartition(f"{lexicon.THEREFORE} ")[2]
    if task == "deduce" and line == lexicon.NOTHING:
        return not linked
    statement = parse(line)
    if statement is None or statement.canonical() not in known:
        return False
    same, reversed_ = statement.canonical() == fact.canonical(), statement == fact.reversed()
    if task == "reverse":
        return reversed_
    if task == "rephrase":
        return same and statement.first == fact.first and line != fact.text()
    return not same and not reversed_


def measure_questions(reader: Reader, worlds: Sequence[World]) -> dict[str, Share]:
    """Accuracy on the questions of generated sets, by split, with and without the world's documents in context.

    Options are single words, or texts of as many words as the others of their question.
    """
    hits: dict[str, list[bool]] = {}
    for world in worlds:
        questions: Sequence[Question] = sorted(world.questions, key=_has_text_options)
        num_words = sum(not _has_text_options(question) for question in questions)
        prompts, options = [q.prompt for q in questions], [q.options for q in questions]
        for prefix, context in (("", _context_of(world)), ("without context: ", "")):
            chosen = reader.choose(context, prompts[:num_words], options[:num_words])
            chosen += reader.choose_texts(context, prompts[num_words:], options[num_words:])
            for question, index in zip(questions, chosen, strict=True):
                right = index in (question.answer, *question.also_right)
                hits.setdefault(prefix + question.split, []).append(right)
    return {name: Share(sum(found), len(found)) for name, found in hits.items()}


def measure_inferences(reader: Reader, worlds: Sequence[World], temperature: float, seed: int) -> dict[str, Share]:
    """The same as `measure_generations`, on the facts of generated sets and by their oracles."""
    hits: dict[str, list[bool]] = {}
    for number, world in enumerate(worlds):
        oracle = Oracle(world.documents, logic_of(world.name))
        used = {fact for found in oracle.derived.values() if len(found.proof) > 1 for fact in found.proof}
        facts = list(oracle.stated)
        known, linked = oracle.derived, {fact for fact in facts if fact.canonical() in used}
        write = partial(reader.write, _context_of(world), temperature=temperature, seed=seed + number)
        _judge(hits, facts, linked, known, write)
    return {name: Share(sum(found), len(found)) for name, found in hits.items()}


def _has_text_options(question: Question) -> bool:
    return any(" " in option for option in question.options)


def _context_of(world: World) -> str:
    return lexicon.END_OF_LINE.join([*(document.text for document in world.documents), lexicon.SEPARATOR, ""])
