"""How texts share rows: packed end to end without attention across them, or padded. Pure: reads and writes nothing.

Packed rows have no padding, and attention is computed for each text, not for a row: see
`train.model.packed_attention`. How many texts a row holds changes neither what is learned nor what it costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

import numpy as np

from data.errors import InputError
from train.texts.mix import Schedule

STEPS_LOOKED_AT = 8
WORTHWHILE = 0.95  # of the arithmetic; moving tokens about has its price, too
ALIKE = 0.75  # texts share a call of the attention if the shortest has at least this part of the longest one's tokens
SHORT = 16  # tokens; texts of at most that share a call whatever their lengths: calls cost more than padding


@dataclass(frozen=True, slots=True)
class Layout:
    """How the texts of a step share rows. Producer: `choose_layout`. Consumers: batches, people.

    `name` is "packed" or "padded"; packed, each rank's texts lie in `rows` rows, one for each part of its batch. `why`
    is a phrase for people.
    """

    name: str
    rows: int = 1
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name} texts ({self.why})" if self.why else f"{self.name} texts"


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a model computes, in operations: for each token, and for each pair of tokens that see each other."""

    per_token: float
    per_pair: float


def deal(lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """Indices of texts for each rank, so that the ranks' sums of tokens are nearly equal: the longest first."""
    hands: list[list[int]] = [[] for _ in range(world_size)]
    loads = [(0, rank) for rank in range(world_size)]
    heapify(loads)
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        load, rank = loads[0]
        hands[rank].append(index)
        heapreplace(loads, (load + lengths[index], rank))
    return hands


def deal_like_cards(lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """Indices of texts for each rank, the longest first, one after another: the ranks' longest texts are alike."""
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [longest_first[rank::world_size] for rank in range(world_size)]


def deal_texts(lengths: Sequence[int], layout: Layout, world_size: int) -> list[list[int]]:
    """Indices of texts for each rank, as suits the layout."""
    return (deal_like_cards if layout.name == "padded" else deal)(lengths, world_size)


def rows_of(lengths: Sequence[int], layout: Layout) -> list[list[int]]:
    """Which of one rank's texts share which row of its batch, the longest first in packed rows; rows may be empty."""
    if layout.name == "padded" or not lengths:
        return [[index] for index in range(len(lengths))]
    return deal(lengths, layout.rows)


def group_alike(lengths: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """Indices of texts, the longest first, in groups of like lengths: those whose attention is computed in one call."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    groups, start = [], 0
    for end in range(1, len(order) + 1):
        longest = lengths[order[start]]
        if end == len(order) or (longest > SHORT and lengths[order[end]] < ALIKE * longest):
            groups.append(order[start:end])
            start = end
    return groups


def most_rows(
    schedule: Schedule, num_inputs: np.ndarray, layout: Layout, *, world_size: int, accumulation: int, row_tokens: int
) -> int:
    """The most rows of `row_tokens` that a rank computes at once in any step: those of one part of its batch.

    Packed texts count as the rows that their tokens fill.
    """
    most = 1
    for step in range(schedule.num_steps):
        lengths = num_inputs[schedule.step(step)].tolist()
        for hand in deal_texts(lengths, layout, world_size):
            mine = [lengths[index] for index in hand]
            rows = rows_of(mine, layout)
            if layout.name == "padded":
                most = max(most, -(-len(rows) // accumulation))
            else:
                most = max(most, *(-(-sum(mine[index] for index in row) // row_tokens) for row in rows), 1)
    return most


def choose_layout(
    wanted: str,
    *,
    refusal: str | None,
    schedule: Schedule,
    num_inputs: np.ndarray,
    world_size: int,
    arithmetic: Arithmetic,
    where: str,
    accumulation: int = 1,
) -> Layout:
    """The layout that is `wanted`, or with "auto" the one that computes less on some of the run's batches.

    `refusal` says why the model cannot be trained on packed rows, if it cannot. Raises InputError where packed rows
    are wanted and cannot be had.
    """
    if wanted == "padded":
        return Layout("padded", why="as asked for")
    if refusal:
        if wanted == "packed":
            raise InputError(f"packed rows cannot be had: {refusal}", where=where, hint='use layout "padded" or "auto"')
        return Layout("padded", why=f"packed rows cannot be had: {refusal}")
    looked_at = np.linspace(0, schedule.num_steps - 1, min(STEPS_LOOKED_AT, schedule.num_steps)).astype(int)
    steps = [num_inputs[schedule.step(step)].tolist() for step in looked_at]
    packed, padded = (
        sum(_operations(lengths, Layout(name), world_size, arithmetic) for lengths in steps)
        for name in ("packed", "padded")
    )
    share = f"{packed / padded:.2f} of the arithmetic of padded ones"
    if wanted == "packed":
        return Layout("packed", accumulation, f"as asked for; {share}")
    if packed < WORTHWHILE * padded:
        return Layout("packed", accumulation, share)
    return Layout("padded", why=f"packed would be {share}")


def _operations(lengths: Sequence[int], layout: Layout, world_size: int, arithmetic: Arithmetic) -> float:
    """Operations of the slowest rank in a step. A text sees half of its pairs."""
    loads = []
    for hand in deal_texts(lengths, layout, world_size):
        mine = np.array([lengths[index] for index in hand] or [1])
        if layout.name == "padded":
            tokens = len(mine) * mine.max()
            pairs = tokens * mine.max() / 2
        else:
            tokens = mine.sum()
            pairs = sum(len(group) * mine[group].max() ** 2 / 2 for group in group_alike(mine))
        loads.append(float(tokens * arithmetic.per_token + pairs * arithmetic.per_pair))
    return max(loads)
