"""Forced choices that reward knowledge only: four questions share their four options, each right once.

Whatever makes one option likelier than another without the prompt (frequency, length, form) then scores exactly at
chance. The wrong options are hard: each is the right answer about another entity.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from data.sets.language import Statement

NUM_OPTIONS = 4
MOST_BORROWED = 10  # answers among which an item's wrong options are chosen

# (form, relation, first entity) -> every second entity for which the statement is true.
Truths = Mapping[tuple[str, str, str], frozenset[str]]


@dataclass(frozen=True, slots=True)
class Item:
    """A statement whose second entity is asked for, the facts that it follows from, and the inference type.

    Items of one `kind` may share their options.
    """

    statement: Statement
    proof: tuple[Statement, ...]
    inference: str
    kind: Hashable = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """An item with its options, the right one first."""

    item: Item
    options: tuple[str, ...]


# Chooses three wrong options for an item from at least as many; see `data.sets.balancer`.
Chooser = Callable[[Item, Sequence[str]], Sequence[str]]


def make_blocks(
    items: Sequence[Item],
    truths: Truths,
    rng: Random,
    *,
    keep_all: bool = False,
    choose: Chooser = lambda _, words: words[: NUM_OPTIONS - 1],
) -> list[list[Choice]]:
    """All items in blocks of four that share their options; those that fit into no block become blocks of one.

    A single item borrows its wrong options from the answers of the other single ones, each of which is a wrong option
    about three times as often as a right one, so a preference for it scores at chance here too; `choose` decides. An
    item without three wrong options is dropped; with `keep_all` it may borrow more often, or any answer of its kind.
    """
    groups: dict[Hashable, list[Item]] = defaultdict(list)
    for item in rng.sample(items, len(items)):
        groups[item.kind].append(item)
    made: list[list[Choice]] = []
    for group in groups.values():
        rest, single = list(group), []
        while rest:
            block = _fill_block(rest, truths)
            if len(block) == NUM_OPTIONS:
                rest = [item for item in rest if item not in block]
                answers = [item.statement.second for item in block]
                made.append([Choice(item, tuple(dict.fromkeys((item.statement.second, *answers)))) for item in block])
            else:
                single.append(rest.pop(0))
        made += [[choice] for choice in _borrow_all(single, group, truths, rng, choose, keep_all=keep_all)]
    return made


def choose_evenly(blocks: Sequence[list[Choice]], count: int) -> list[list[Choice]]:
    """Blocks with at most `count` choices in all, spread evenly over the inference types."""
    queues: dict[str, list[list[Choice]]] = defaultdict(list)
    for block in blocks:
        queues[block[0].item.inference].append(block)
    ordered = [queues[inference] for inference in sorted(queues)]
    chosen: list[list[Choice]] = []
    for turn in range(max(map(len, ordered), default=0)):
        for queue in ordered:
            if turn < len(queue) and sum(map(len, chosen)) + len(queue[turn]) <= count:
                chosen.append(queue[turn])
    return chosen


def _fill_block(items: Sequence[Item], truths: Truths) -> list[Item]:
    """The first item and up to three others with which it can share options."""
    block: list[Item] = []
    for item in items:
        if all(_is_wrong(item, other, truths) and _is_wrong(other, item, truths) for other in block):
            block.append(item)
            if len(block) == NUM_OPTIONS:
                break
    return block


def _is_wrong(item: Item, other: Item, truths: Truths) -> bool:
    """Whether the other's answer is a wrong answer to the item, and does not name the item's own entity."""
    return item.statement.first != other.statement.first and other.statement.second not in _excluded(item, truths)


def _excluded(item: Item, truths: Truths) -> frozenset[str]:
    statement = item.statement
    true = truths.get((statement.form, statement.relation, statement.first), frozenset())
    return true | {statement.first, statement.second}


def _borrow_all(
    items: Sequence[Item],
    group: Sequence[Item],
    truths: Truths,
    rng: Random,
    choose: Chooser,
    *,
    keep_all: bool,
) -> Iterator[Choice]:
    answers = list(dict.fromkeys(item.statement.second for item in group))
    if keep_all and group:
        same = (group[0].statement.form, group[0].statement.relation)
        known = sorted({second for key, seconds in truths.items() if key[:2] == same for second in seconds})
        answers = list(dict.fromkeys((*answers, *known)))
    budget = Counter(item.statement.second for item in items)
    for word in budget:
        budget[word] *= NUM_OPTIONS - 1
    for item in items:
        excluded = _excluded(item, truths)
        fitting = [word for word in answers if word not in excluded and (keep_all or budget[word] > 0)]
        rng.shuffle(fitting)
        if len(fitting) >= NUM_OPTIONS - 1:
            # The largest budget first: a frequent answer must be a frequent wrong option too.
            wrong = choose(item, sorted(fitting, key=lambda word: -budget[word])[:MOST_BORROWED])
            budget.subtract(wrong)
            yield Choice(item, (item.statement.second, *wrong))
        else:
            budget[item.statement.second] -= NUM_OPTIONS - 1


def list_truths(statements: Iterable[Statement]) -> Truths:
    """The truths of all these statements, each in the direction in which it is given."""
    found: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for statement in statements:
        found[statement.form, statement.relation, statement.first].add(statement.second)
    return {key: frozenset(seconds) for key, seconds in found.items()}
