"""Token rows become the batches of one rank. Pure: reads and writes nothing.

The batches of a run follow from its texts' lengths, the seed and the plan alone; the number of ranks only decides who
computes which rows, and the layout how they lie in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from train.texts.encode import encode, unknown_words
from train.texts.mix import Budget, Schedule, make_schedule, schedule_rows
from train.texts.packing import Layout, deal_texts, rows_of
from train.texts.token_rows import TokenRows

__all__ = [
    "IGNORED",
    "Batch",
    "Teacher",
    "batches_of",
    "encode",
    "pad",
    "rank_batches",
    "schedule_rows",
    "unknown_words",
]

IGNORED = -100  # the label that cross-entropy skips
_PADDED = Layout("padded")


@dataclass(frozen=True, slots=True)
class Teacher:
    """What a teacher expects after each input. Producer: `batches_of`. Consumer: `train.model.objective`.

    `ids` (int64) and `log_probs` (float32, nats) are [rows, tokens, k]. `places` (bool) [rows, tokens] are the labels
    that have a teacher.
    """

    ids: np.ndarray
    log_probs: np.ndarray
    places: np.ndarray


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's rows of one step. Producer: `batches_of`. Consumer: `train.run.loop`.

    `input_ids` and `labels` are int64 [rows, tokens], padded on the right; `labels[i, j]` is the token that follows
    `input_ids[i, j]`, or -100. `global_labels` counts the labels of the step over all ranks, `indices` names the
    step's texts over all ranks. A causal model never looks right, so no attention mask is needed. In packed rows
    `position_ids`, int64 [rows, tokens], begin anew with each text; padded rows have none. `tokens` counts the labels
    of all steps up to this one.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    global_labels: int
    indices: np.ndarray
    position_ids: np.ndarray | None = None
    tokens: int = 0
    teacher: Teacher | None = None


def batches_of(
    rows: TokenRows,
    schedule: Schedule,
    layout: Layout,
    *,
    rank: int,
    world_size: int,
    start: int = 0,
    taught: bool = False,
) -> Iterator[Batch]:
    """The batches of one rank from step `start` on, a step each; the ranks' rows of a step partition its global batch.

    Padded rows are dealt like cards, the longest first; packed ones so that the ranks' sums of tokens are alike. A rank
    that has none takes part with one token without a label. `taught` asks for the teachers' distributions.
    """
    for step in range(start, schedule.num_steps):
        indices = schedule.step(step)
        sizes = rows.lengths.num_inputs[indices].tolist()
        hand = deal_texts(sizes, layout, world_size)[rank]
        mine = [int(indices[i]) for i in hand]
        groups = [[mine[i] for i in group] for group in rows_of([sizes[i] for i in hand], layout)]
        input_ids, labels, position_ids = _lay_out(rows, groups)
        yield Batch(
            input_ids,
            labels,
            int(rows.lengths.num_labels[indices].sum()),
            indices,
            position_ids=None if layout.name == "padded" else position_ids,
            tokens=int(schedule.tokens[step]),
            teacher=_teach(rows, groups, labels) if taught else None,
        )


def rank_batches(
    rows: Sequence[Sequence[int]], *, batch_size: int, num_steps: int, seed: int, rank: int, world_size: int
) -> Iterator[Batch]:
    """The padded batches of one rank for rows in memory, every text equally often."""
    held = TokenRows.of(rows)
    schedule = make_schedule(held.lengths, [], budget=Budget(steps=num_steps), batch_size=batch_size, seed=seed)
    return batches_of(held, schedule, _PADDED, rank=rank, world_size=world_size)


def pad(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels [rows, longest - 1] of token rows; padding is token 0 with label -100."""
    input_ids, labels, _ = _lay_out(TokenRows.of(rows), [[index] for index in range(len(rows))])
    return input_ids, labels


def _lay_out(rows: TokenRows, groups: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, labels and positions [rows, tokens] of texts that share rows; what is left of a row is a text of zeros.

    A text's last token is no input, so no label reaches from one text into the next.
    """
    shape = _shape(rows, groups)
    input_ids, position_ids = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    labels = np.full(shape, IGNORED, np.int64)
    for row, group in enumerate(groups):
        start = 0
        for index in group:
            tokens, first = rows[index], rows.first_label(index)
            end = start + len(tokens) - 1
            input_ids[row, start:end] = tokens[:-1]
            labels[row, start + first - 1 : end] = tokens[first:]
            position_ids[row, start:end] = np.arange(end - start)
            start = end
        position_ids[row, start:] = np.arange(shape[1] - start)
    return input_ids, labels, position_ids


def _teach(rows: TokenRows, groups: Sequence[Sequence[int]], labels: np.ndarray) -> Teacher:
    """The teachers' distributions, laid out as the texts are."""
    shape = _shape(rows, groups)
    ids = np.zeros((*shape, rows.num_top), np.int64)
    log_probs = np.zeros((*shape, rows.num_top), np.float32)
    places = np.zeros(shape, bool)
    for row, group in enumerate(groups):
        start = 0
        for index in group:
            end = start + int(rows.lengths.num_inputs[index])
            found = rows.teacher(index)
            if found is not None:
                ids[row, start:end], log_probs[row, start:end] = found
                places[row, start:end] = labels[row, start:end] != IGNORED
            start = end
    return Teacher(ids, log_probs, places)


def _shape(rows: TokenRows, groups: Sequence[Sequence[int]]) -> tuple[int, int]:
    widths = (int(rows.lengths.num_inputs[list(group)].sum()) for group in groups)
    return max(1, len(groups)), max(widths, default=1)
