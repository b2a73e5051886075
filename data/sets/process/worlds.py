"""Process worlds: rules, a table of functions, worked examples, and questions about terms that no document has.

Outer rules are sums, products, functions of a term and powers of a term; inner kinds are x^n and each named function.
For every inner kind one outer rule is held out: no document applies this rule to it. Splits: `rephrased` (a trained
example in the tests' words), `instances` (a new term, the pair of rules is trained), `combinations` (a held-out pair).
Wrong options are what wrong rules would give.

The small world has two steps, each with a table of its own: "the maker of femp is glon" is an entry of a first step,
"the ruler of glon is zusu" one of a second step, and "the ruler of the maker of femp is zusu" a worked example of both.
Of each first step one second step is held out: no worked example combines the two. The splits: `rephrased` (a worked
example in a phrasing that no document uses), and, about nouns that have no worked example, `instances` (the pair of
steps is shown for other nouns) and `combinations` (a held-out pair). Each noun goes through one first step, and then
through either second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from data.baselines import NgramModel
from data.errors import InputError
from data.seeds import stream
from data.sets.balancer import Balancer
from data.sets.blocks import NUM_OPTIONS, Item, choose_evenly, list_truths, make_blocks
from data.sets.derivation import STEPS, Derivation, derive
from data.sets.language import Statement
from data.sets.lexicon import ROLES
from data.sets.process import logic
from data.sets.process.rules import OUTER, PLUS, POWERS, TIMES, Rules, apply, outer_kind, parts, wrong_answers
from data.sets.process.terms import Term, X, call, show
from data.sets.words import WordMaker
from data.sets.world import World, new_world

UNSEEN_SHARE = 0.25  # of the terms of trained pairs are in no document
REPHRASED, INSTANCES, COMBINATIONS = "rephrased", "instances", "combinations"
NUM_STEPS = 2  # first steps, and as many second ones
TEST_PHRASING = 2  # of PHRASINGS: no document uses it
SHOWN_SHARE = 1 / 3  # of the nouns of each first step have worked examples
_MIN_FUNCTIONS = 2 * NUM_STEPS * NUM_OPTIONS  # for each first step, four nouns are shown and four are asked for


@dataclass(frozen=True)
class Plan:
    """What is stated and what is asked: terms by split, the transform's name and rules, the held-out pairs."""

    transform: str
    rules: Rules
    held_out: dict[str, str]
    stated: tuple[Term, ...]
    asked: dict[str, tuple[Term, ...]]

    def value(self, term: Term) -> Statement:
        """The result of a term, as a statement."""
        result = apply(self.rules, term)
        assert result is not None
        return logic.value_statement(self.transform, term, result)


def make_full(seed: int, index: int, *, functions: int, documents: int, questions_per_split: int) -> World:
    """One world with `functions` named functions; `documents` must be enough to state each example once."""
    world = new_world("process", seed, index)
    rng = world.rng
    plan = make_plan(functions, questions_per_split, rng, WordMaker(stream(seed, "process", index, "words")))
    world.notes |= {"held_out": plan.held_out, "transform": plan.transform}
    world.facts = [*logic.rule_statements(plan.transform, plan.rules).values()]
    world.facts += [plan.value(call(name, X)) for name in plan.rules.table]
    write_documents(world, plan, documents)
    derived = logic.derive_values(world.documents_of)
    model = NgramModel(document.text for document in world.documents)
    for split, terms in plan.asked.items():
        balancer = Balancer(model, rng)
        for term in terms:
            ask(world, split, plan, term, derived, balancer)
    return world


def make_plan(functions: int, questions_per_split: int, rng: Random, words: WordMaker) -> Plan:
    """Draw the rules, hold pairs of them out, and divide all terms into stated and asked ones."""
    transform = words.noun()
    names = [words.noun() for _ in range(functions)]
    turned = names[1:] + names[:1]
    factors = [rng.randint(2, 9) for _ in names]
    rules = Rules(
        plus=rng.choice(sorted(PLUS)),
        times=rng.choice(sorted(TIMES)),
        inside=True,
        raised=rng.choice(POWERS),
        power=rng.choice(POWERS),
        table=dict(zip(names, zip(factors, turned, strict=True), strict=True)),
    )
    kinds = rng.sample(["power", *names], functions + 1)
    held_out = {kind: OUTER[number % len(OUTER)] for number, kind in enumerate(kinds)}
    terms = [term for term in logic.universe(names, powers=True) if parts(term)]
    held = [term for term in terms if any(held_out[outer_kind(p)] == outer_kind(term) for p in parts(term))]
    free = rng.sample(sorted(set(terms) - set(held), key=show), len(terms) - len(held))
    cut = round(UNSEEN_SHARE * len(free))
    stated = tuple(free[cut:])
    asked = {
        REPHRASED: spread(stated, questions_per_split, rng),
        INSTANCES: spread(free[:cut], questions_per_split, rng),
        COMBINATIONS: spread(held, questions_per_split, rng),
    }
    return Plan(transform, rules, held_out, stated, asked)


def spread(terms: Sequence[Term], count: int, rng: Random) -> tuple[Term, ...]:
    """At most `count` terms, spread evenly over the kinds of inference."""
    queues: dict[str, list[Term]] = {}
    for term in rng.sample(terms, len(terms)):
        queues.setdefault(logic.name_inference(term), []).append(term)
    turns = max(map(len, queues.values()), default=0)
    return tuple(q[turn] for turn in range(turns) for _, q in sorted(queues.items()) if turn < len(q))[:count]


def write_documents(world: World, plan: Plan, documents: int) -> None:
    """Single examples, worked examples and tables; each rule and each atom is stated many times."""
    facts, rng = world.facts, world.rng
    if documents < len(plan.stated):
        raise InputError(
            f"{documents} documents are too few for {len(plan.stated)} examples",
            where="key documents of the process set",
            hint="ask for more documents, or for fewer functions",
        )
    atoms = [term for term in logic.universe(list(plan.rules.table), powers=True) if not parts(term)]
    values = [plan.value(atom) for atom in atoms]
    queue: list[Term] = []
    for number in range(documents):
        queue = queue or rng.sample(plan.stated, len(plan.stated))
        draw = number % 10
        if draw == 0:
            _write_lines(world, logic.FILLERS[1], rng.sample(facts, 3))
        elif draw == 1:
            _write_lines(world, logic.FILLERS[2], rng.sample(values, 4))
        elif draw < 5:
            _write_worked(world, plan, queue.pop())
        else:
            fact = plan.value(queue.pop())
            world.add_document(_print(rng.choice(logic.TEMPLATES), fact), fact)
    missing = {*facts, *values, *map(plan.value, plan.stated)} - world.documents_of.keys()
    for fact in sorted(missing, key=lambda fact: fact.first):
        world.add_document(_print(rng.choice(logic.TEMPLATES), fact), fact)


def ask(
    world: World, split: str, plan: Plan, term: Term, derived: dict[Statement, Derivation], balancer: Balancer
) -> None:
    """Add one question; its wrong options are the results of wrong rules."""
    fact = plan.value(term)
    template = world.rng.choice(logic.TESTS).removesuffix("{r}.").rstrip()
    prompt = template.format(o=plan.transform, t=fact.first)
    candidates = [show(answer) for answer in wrong_answers(plan.rules, term)]
    options = [fact.second, *balancer.choose(prompt, fact.second, candidates)]
    inference = REPHRASED if split == REPHRASED else logic.name_inference(term)
    world.ask(split, prompt, options, Item(fact, derived[fact].proof, inference), one_document=True)


def _write_lines(world: World, head: str, facts: Sequence[Statement]) -> None:
    template = world.rng.choice(logic.TEMPLATES)
    lines = [_print(template, fact) for fact in facts]
    world.add_document("\n".join((head.format(o=facts[0].relation), *lines)), *facts)


def _write_worked(world: World, plan: Plan, term: Term) -> None:
    """An example, preceded by the results of its parts."""
    steps = list(dict.fromkeys(plan.value(part) for part in parts(term)))
    fact, template = plan.value(term), world.rng.choice(logic.TEMPLATES)
    lines = [logic.FILLERS[0].format(o=plan.transform, t=fact.first), *(_print(template, step) for step in steps)]
    world.add_document(" ".join((*lines, _print(template, fact))), *steps, fact)


def _print(template: str, fact: Statement) -> str:
    return template.format(o=fact.relation, t=fact.first, r=fact.second)


def make_small(seed: int, index: int, *, functions: int, documents_per_fact: int, questions_per_split: int) -> World:
    """A small world with `functions` nouns in its first steps; each fact is in `documents_per_fact` documents."""
    if functions < _MIN_FUNCTIONS:
        raise InputError(
            f"{functions} nouns are too few for worked examples and questions",
            where="data.process.functions",
            hint=f"ask for {_MIN_FUNCTIONS} or more",
        )
    world = new_world("process-tiny", seed, index)
    rng = world.rng
    roles = rng.sample(ROLES, 2 * NUM_STEPS)
    firsts, seconds = roles[:NUM_STEPS], roles[NUM_STEPS:]
    held_out = [f"{second} of the {first}" for first, second in zip(firsts, seconds, strict=True)]
    entries, shown = [], set()
    for first in firsts:
        names = [world.noun() for _ in range(functions // NUM_STEPS)]
        shown |= set(names[: max(NUM_OPTIONS, round(SHOWN_SHARE * len(names)))])
        entries += [Statement("of", first, name, world.noun()) for name in names]
    entries += [Statement("of", role, entry.second, world.noun()) for entry in entries for role in seconds]
    results = [statement.reversed() for statement in derive(entries, STEPS) if " " in statement.relation]
    worked = [s for s in results if s.first in shown and s.relation not in held_out]
    facts = [*entries, *worked]
    for fact in rng.sample(facts, len(facts)):
        world.state(fact, times=documents_per_fact)
    derived = derive(facts, STEPS)
    unshown = [s for s in results if s.first not in shown]
    asked = {
        REPHRASED: worked,
        INSTANCES: [s for s in unshown if s.relation not in held_out],
        COMBINATIONS: [s for s in unshown if s.relation in held_out],
    }
    for split, statements in asked.items():
        _ask_small(world, split, statements, derived, questions_per_split)
    world.notes["held_out"] = held_out
    return world


def _ask_small(
    world: World, split: str, statements: Sequence[Statement], derived: Mapping[Statement, Derivation], count: int
) -> None:
    """Blocks of four questions whose options all come from one second step: its word must not give them away."""
    balancer = Balancer(NgramModel(document.text for document in world.documents), world.rng)
    phrasing = TEST_PHRASING if split == REPHRASED else 0
    truths = list_truths(statement.reversed() for statement in derived)
    items = []
    for statement in statements:
        derivation = derived[statement.canonical()]
        inference = REPHRASED if split == REPHRASED else derivation.inference
        items.append(Item(statement, derivation.proof, inference, statement.relation.split()[0]))

    blocks = make_blocks(items, truths, world.rng, choose=balancer.choose_entities)
    chosen = choose_evenly([block for block in blocks if len(block) == NUM_OPTIONS], count)
    world.ask_blocks(split, chosen, lambda statement: statement.prompt(phrasing))
