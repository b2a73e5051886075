"""How texts share rows: packed end to end without attention across them, or padded. Pure: reads and writes nothing.

Packed rows have no padding, and attention is computed for each text, not for a row: see
`train.model.packed_attention`. The number of texts in a row changes neither the result nor the cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

import numpy as np

from data.errors import InputError
from train.texts.mix import Schedule

SAMPLED_STEPS = 8
WORTHWHILE = 0.95  # of the arithmetic; rearranging tokens has a cost, too
SIMILAR = 0.75  # texts share an attention call if the shortest has at least this share of the longest one's tokens
SHORT = 16  # tokens; texts up to this length share a call whatever their lengths: calls cost more than padding


@dataclass(frozen=True, slots=True)
class Layout:
    """How the texts of a step share rows. Producer: `choose_layout`. Consumers: batches, people.

    `name` is "packed" or "padded"; if packed, each rank's texts fill `rows` rows, one for each micro-batch. `why` is a
    phrase for reports.
    """

    name: str
    rows: int = 1
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name} texts ({self.why})" if self.why else f"{self.name} texts"


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a model computes, in operations: for each token, and for each pair of tokens in the same text."""

    per_token: float
    per_pair: float


def balance(lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """Indices of texts for each rank, longest first, such that the ranks' sums of tokens are nearly equal."""
    assigned: list[list[int]] = [[] for _ in range(world_size)]
    loads = [(0, rank) for rank in range(world_size)]
    heapify(loads)
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        load, rank = loads[0]
        assigned[rank].append(index)
        heapreplace(loads, (load + lengths[index], rank))
    return assigned


def assign_texts(lengths: Sequence[int], layout: Layout, world_size: int) -> list[list[int]]:
    """Indices of texts for each rank: balanced by tokens if packed; if padded, round robin from the longest on.

    Round robin gives every rank texts of the same lengths, so that its padding is small.
    """
    if layout.name == "packed":
        return balance(lengths, world_size)
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [longest_first[rank::world_size] for rank in range(world_size)]


def rows_of(lengths: Sequence[int], layout: Layout) -> list[list[int]]:
    """The texts of one rank in each row of its batch, longest first in packed rows; rows may be empty."""
    if layout.name == "padded" or not lengths:
        return [[index] for index in range(len(lengths))]
    return balance(lengths, layout.rows)


def group_similar(lengths: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """Indices of texts, longest first, in groups of similar lengths: each group is one attention call."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    groups, start = [], 0
    for end in range(1, len(order) + 1):
        longest = lengths[order[start]]
        if end == len(order) or (longest > SHORT and lengths[order[end]] < SIMILAR * longest):
            groups.append(order[start:end])
            start = end
    return groups


def most_rows(
    schedule: Schedule, num_inputs: np.ndarray, layout: Layout, *, world_size: int, accumulation: int, row_tokens: int
) -> int:
    """The most rows of `row_tokens` in a micro-batch of any rank and step.

    Packed texts count as the rows that their tokens fill.
    """
    most = 1
    for step in range(schedule.num_steps):
        lengths = num_inputs[schedule.step(step)].tolist()
        for assigned in assign_texts(lengths, layout, world_size):
            mine = [lengths[index] for index in assigned]
            rows = rows_of(mine, layout)
            if layout.name == "padded":
                most = max(most, -(-len(rows) // accumulation))
            else:
                most = max(most, *(-(-sum(mine[index] for index in row) // row_tokens) for row in rows), 1)
    return most


def choose_layout(
    requested: str,
    *,
    refusal: str | None,
    schedule: Schedule,
    num_inputs: np.ndarray,
    world_size: int,
    arithmetic: Arithmetic,
    where: str,
    accumulation: int = 1,
) -> Layout:
    """The requested layout, or with "auto" the one that computes less on a sample of the run's batches.

    `refusal` is the reason why the model cannot be trained on packed rows, if it cannot. Raises InputError if packed
    rows are requested and not available.
    """
    if requested == "padded":
        return Layout("padded", why="requested")
    if refusal:
        if requested == "packed":
            raise InputError(f"packed rows are not available: {refusal}", where=where, hint="set train.layout to auto")
        return Layout("padded", why=f"packed rows are not available: {refusal}")
    sample = np.linspace(0, schedule.num_steps - 1, min(SAMPLED_STEPS, schedule.num_steps)).astype(int)
    steps = [num_inputs[schedule.step(step)].tolist() for step in sample]
    packed, padded = (
        sum(_operations(lengths, Layout(name), world_size, arithmetic) for lengths in steps)
        for name in ("packed", "padded")
    )
    share = f"{packed / padded:.2f} of the arithmetic of padded ones"
    if requested == "packed":
        return Layout("packed", accumulation, f"requested; {share}")
    if packed < WORTHWHILE * padded:
        return Layout("packed", accumulation, share)
    return Layout("padded", why=f"packed would be {share}")


def _operations(lengths: Sequence[int], layout: Layout, world_size: int, arithmetic: Arithmetic) -> float:
    """Operations of the slowest rank in a step. Causal attention computes half of a text's pairs."""
    loads = []
    for assigned in assign_texts(lengths, layout, world_size):
        mine = np.array([lengths[index] for index in assigned] or [1])
        if layout.name == "padded":
            tokens = len(mine) * mine.max()
            pairs = tokens * mine.max() / 2
        else:
            tokens = mine.sum()
            pairs = sum(len(group) * mine[group].max() ** 2 / 2 for group in group_similar(mine))
        loads.append(float(tokens * arithmetic.per_token + pairs * arithmetic.per_pair))
    return max(loads)
