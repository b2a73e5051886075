"""How texts share rows: packed without attention across them, or padded. Pure: reads and writes nothing.

Packed texts are kept apart by position ids that begin anew with each of them, and by nothing else: a mask or a cache
would let attention through. Attention over a row is quadratic in its length, so rows are as short as packs well.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

import numpy as np

from data.errors import InputError
from train.mix import Schedule

STEPS_LOOKED_AT = 8
WORTHWHILE = 0.95  # of the arithmetic; a mask has its price, too
NARROWEST_ROW = 64  # tokens, where there is a choice; narrower rows compute less, but each row costs something


@dataclass(frozen=True, slots=True)
class Layout:
    """How the texts of a step share rows. Producer: `choose_layout`. Consumers: batches, people.

    `name` is "packed" or "padded"; packed rows hold `row_tokens` inputs, or the longest text if that is longer. `why`
    is a phrase for people.
    """

    name: str
    row_tokens: int = 0
    why: str = ""

    def __str__(self) -> str:
        named = f"packed rows of {self.row_tokens} tokens" if self.name == "packed" else "padded rows"
        return f"{named} ({self.why})" if self.why else named


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a model computes, in operations: for each token, and for each pair of tokens that share a row."""

    per_token: float
    per_pair: float


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of indices of texts, each of at most `capacity` tokens in sum; a longer text gets a row of its own.

    Best fit, the longest text first; no text is split.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # sorted (tokens that are free, row)
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect_left(room, (lengths[index], -1))
        free, row = room.pop(at) if at < len(room) else (capacity, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        insort(room, (free - lengths[index], row))
    return rows


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


def rows_of(lengths: Sequence[int], layout: Layout) -> list[list[int]]:
    """Which of one rank's texts share which row of its batch."""
    if layout.name == "padded" or not lengths:
        return [[index] for index in range(len(lengths))]
    return pack(lengths, max(layout.row_tokens, max(lengths)))


def most_rows(schedule: Schedule, num_inputs: np.ndarray, layout: Layout, *, world_size: int, accumulation: int) -> int:
    """The most rows that a rank computes at once in any step of a schedule: those of one part of its batch."""
    deal_out = deal_like_cards if layout.name == "padded" else deal
    most = 1
    for step in range(schedule.num_steps):
        lengths = num_inputs[schedule.step(step)].tolist()
        for hand in deal_out(lengths, world_size):
            most = max(most, -(-len(rows_of([lengths[index] for index in hand], layout)) // accumulation))
    return most


def choose_layout(
    wanted: str,
    row_tokens: int,
    *,
    refusal: str | None,
    schedule: Schedule,
    num_inputs: np.ndarray,
    window: int,
    world_size: int,
    arithmetic: Arithmetic,
    where: str,
    accumulation: int = 1,
) -> Layout:
    """The layout that is `wanted`, or with "auto" the one that computes least on some of the run's batches.

    `refusal` says why the model cannot be trained on packed rows, if it cannot. `row_tokens` of 0 are chosen, too, up
    to the model's `window`. Packed rows must be enough for the `accumulation` parts of each rank's batch. Raises
    InputError where packed rows are wanted and cannot be had, or are longer than the window.
    """
    if row_tokens > window:
        # The padding of a row has positions, too, and some models have none beyond their window.
        raise InputError(
            f"rows of {row_tokens} tokens are longer than the model's window of {window}",
            where=where,
            mend="lower row_tokens, or set it to 0 to have it chosen",
        )
    if wanted == "padded":
        return Layout("padded", why="as asked for")
    if refusal:
        if wanted == "packed":
            raise InputError(f"packed rows cannot be had: {refusal}", where=where, mend='use layout "padded" or "auto"')
        return Layout("padded", why=f"packed rows cannot be had: {refusal}")
    looked_at = np.linspace(0, schedule.num_steps - 1, min(STEPS_LOOKED_AT, schedule.num_steps)).astype(int)
    steps = [num_inputs[schedule.step(step)].tolist() for step in looked_at]
    padded = _operations(steps, Layout("padded"), world_size, arithmetic)
    widths = [row_tokens] if row_tokens else _widths(window)
    # The last batch of a run may be smaller than all others.
    enough = [w for w in widths if _fewest_rows(steps[:-1] or steps, w, world_size) >= accumulation]
    # Narrow rows are for batches that would have too few others.
    wide = [w for w in enough if w >= min(NARROWEST_ROW, window)] or enough[-1:]
    packed = {width: _operations(steps, Layout("packed", width), world_size, arithmetic) for width in wide}
    if not packed:
        trouble = f"packed rows are too few for {accumulation} parts"
        if wanted == "packed":
            raise InputError(trouble, where=where, mend="raise the batch, lower row_tokens, or use fewer parts")
        return Layout("padded", why=trouble)
    width = min(packed, key=lambda w: (packed[w], w))
    share = f"{packed[width] / padded:.2f} of the arithmetic of padded ones"
    if wanted == "packed":
        return Layout("packed", width, f"as asked for; {share}")
    return (
        Layout("packed", width, share)
        if packed[width] < WORTHWHILE * padded
        else Layout("padded", why=f"packed would be {share}")
    )


def _widths(window: int) -> list[int]:
    widths = {min(NARROWEST_ROW, window)}
    width = NARROWEST_ROW // 8
    while width <= window:
        widths.add(width)
        width *= 2
    return sorted(widths)


def _fewest_rows(steps: Iterable[Sequence[int]], width: int, world_size: int) -> int:
    """The least number of packed rows that a rank has in a step."""
    layout = Layout("packed", width)
    return min(
        len(rows_of([lengths[index] for index in hand], layout))
        for lengths in steps
        for hand in deal(lengths, world_size)
    )


def _operations(steps: Iterable[Sequence[int]], layout: Layout, world_size: int, arithmetic: Arithmetic) -> float:
    """Operations of the slowest rank, over some steps. A causal mask alone spares half of the pairs."""
    total = 0.0
    for lengths in steps:
        dealt = deal(lengths, world_size) if layout.name == "packed" else deal_like_cards(lengths, world_size)
        loads = []
        for hand in dealt:
            mine = [lengths[index] for index in hand]
            rows = rows_of(mine, layout)
            width = max((sum(mine[i] for i in row) for row in rows), default=1)
            pairs = len(rows) * width * width * (1.0 if layout.name == "packed" else 0.5)
            loads.append(len(rows) * width * arithmetic.per_token + pairs * arithmetic.per_pair)
        total += max(loads)
    return total
