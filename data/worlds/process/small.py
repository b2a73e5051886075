"""A process world within the embedded model's lexicon: a transform of nouns and of pairs of nouns.

"the maker of femp is glon" is an entry of the table, "the maker of femp , jadu is ..." an example of a rule. Pairs with
"," and pairs with ":" have rules of their own. The lexicon has no words for a rule, so rules are shown by examples
alone. For each noun one of the two rules is held out. Splits are those
of the full set, but for `trained` in the place of `rephrased`.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache

from data.baselines import NgramModel
from data.seeds import stream
from data.sentences import split_sentences
from data.worlds.builder import World
from data.worlds.derivation import Derivation, key
from data.worlds.language import Statement
from data.worlds.leveller import Leveller
from data.worlds.lexicon import PREAMBLES, ROLES
from data.worlds.oracle import Logic, Reading
from data.worlds.process.world import COMBINATIONS, INSTANCES, UNSEEN_SHARE

TRAINED = "trained"  # the lexicon has no second wording, so trained examples are asked for as they stand
MARKS = (",", ":")
# How a rule makes a pair out of (u, v, what becomes of u, what becomes of v): positions and the mark between them.
VARIANTS = ((3, 2, ","), (2, 3, ":"), (0, 3, ","), (3, 0, ":"), (2, 1, ","), (1, 2, ":"))
_VALUE = re.compile(r"(?:.* )?the ([a-z]+) of ([a-z]+(?: [,:] [a-z]+)?) is ([a-z]+(?: [,:] [a-z]+)?)")


def make_world(seed: int, index: int, *, functions: int, documents_per_fact: int, questions_per_split: int) -> World:
    """One world whose table has an entry for so many nouns: they are the functions that the transform knows."""
    rng = stream(seed, "process-tiny", index)
    world = World(f"process-tiny/w{index}", rng)
    role, rules = rng.choice(ROLES), dict(zip(MARKS, rng.sample(VARIANTS, 2), strict=True))
    names = [world.noun() for _ in range(functions)]
    table = {name: world.noun() for name in names}
    held_out = {name: MARKS[number % 2] for number, name in enumerate(rng.sample(names, functions))}
    pairs = [(u, mark, v) for u in names for v in names for mark in MARKS if u != v]
    held = [pair for pair in pairs if pair[1] in (held_out[pair[0]], held_out[pair[2]])]
    free = [pair for pair in pairs if pair not in set(held)]
    rng.shuffle(free)
    cut = max(1, round(UNSEEN_SHARE * len(free)))
    told = free[cut:]
    entries = [Statement("value", role, name, made) for name, made in table.items()]
    examples = [Statement("value", role, " ".join(pair), _apply(rules, table, pair)) for pair in told]
    facts = [*entries, *examples]
    for fact in rng.sample(facts, len(facts)):
        _tell(world, fact, documents_per_fact)
    derived = derive_values(facts)
    model = NgramModel(document.text for document in world.documents)
    asked = {TRAINED: told, INSTANCES: free[:cut], COMBINATIONS: rng.sample(held, len(held))}
    for split, chosen in asked.items():
        leveller = Leveller(model, rng)
        for pair in chosen[:questions_per_split]:
            _ask(world, split, role, pair, rules, table, derived, leveller)
    world.notes |= {"held_out": held_out, "role": role}
    return world


def derive_values(facts: Iterable[Statement]) -> dict[Statement, Derivation]:
    """The facts, and what becomes of each pair of nouns in the table by a rule of which an example is known."""
    ordered = sorted(set(facts), key=key)
    derived = {fact: Derivation(fact, "stated", (fact,)) for fact in ordered}
    for role in sorted({fact.relation for fact in ordered}):
        values = {fact.first: fact for fact in ordered if fact.relation == role}
        table = {term: fact.second for term, fact in values.items() if " " not in term}
        for mark in MARKS:
            example, variant = _find_rule(values, table, mark)
            if example is None or variant is None:
                continue
            for u in table:
                for v in table:
                    if u == v:
                        continue
                    result = _apply({mark: variant}, table, (u, mark, v))
                    statement = Statement("value", role, f"{u} {mark} {v}", result)
                    proof = tuple(sorted({example, values[u], values[v]}, key=key))
                    derived.setdefault(statement, Derivation(statement, f"pair{mark}", proof))
    return derived


@cache
def logic() -> Logic:
    """Reading and deduction for the small process worlds."""
    return Logic(_read, derive_values, _contradicts)


def _find_rule(
    values: Mapping[str, Statement], table: Mapping[str, str], mark: str
) -> tuple[Statement | None, tuple[int, int, str] | None]:
    """The rule that fits every known example of a mark, and the first example that no other rule fits."""
    examples = [(fact, term.split()) for term, fact in sorted(values.items()) if f" {mark} " in term]
    known = [(fact, (u, m, v)) for fact, (u, m, v) in examples if u in table and v in table]
    fitting = [r for r in VARIANTS if known and all(_apply({mark: r}, table, pair) == f.second for f, pair in known)]
    if len(fitting) != 1:
        return None, None
    return known[0][0], fitting[0]


def _apply(rules: Mapping[str, tuple[int, int, str]], table: Mapping[str, str], pair: tuple[str, str, str]) -> str:
    u, mark, v = pair
    first, second, between = rules[mark]
    found = (u, v, table[u], table[v])
    return f"{found[first]} {between} {found[second]}"


def _tell(world: World, fact: Statement, times: int) -> None:
    preambles = ["", *(preamble + " " for preamble in world.rng.sample(PREAMBLES, min(times, len(PREAMBLES))))]
    for index in range(times):
        world.tell(preambles[index % len(preambles)] + _text(fact), fact)


def _ask(
    world: World,
    split: str,
    role: str,
    pair: tuple[str, str, str],
    rules: Mapping[str, tuple[int, int, str]],
    table: Mapping[str, str],
    derived: Mapping[Statement, Derivation],
    leveller: Leveller,
) -> None:
    right = _apply(rules, table, pair)
    others = [name for name in table if name not in pair]
    wrong = [_apply({pair[1]: variant}, table, pair) for variant in VARIANTS]
    wrong += [_apply(rules, table, (pair[0], pair[1], other)) for other in others]
    wrong += [_apply(rules, table, (other, pair[1], pair[2])) for other in others]
    fact = Statement("value", role, " ".join(pair), right)
    prompt = _text(fact).removesuffix(right).rstrip()
    options = [right, *leveller.choose(prompt, right, wrong)]
    inference = "recall" if split == TRAINED else derived[fact].inference
    world.ask(split, prompt, options, about=derived[fact].proof, inference=inference)


def _text(fact: Statement) -> str:
    return f"the {fact.relation} of {fact.first} is {fact.second}"


def _read(text: str) -> Reading:
    found: Reading = []
    for sentence in split_sentences(text):
        match = _VALUE.fullmatch(sentence.lower().rstrip(" ."))
        found.append((sentence, (Statement("value", *match.groups()),) if match else None))
    return found


def _contradicts(statement: Statement, derived: Mapping[Statement, Derivation]) -> bool:
    wanted = (statement.relation, statement.first)
    return any((s.relation, s.first) == wanted and s.second != statement.second for s in derived)
