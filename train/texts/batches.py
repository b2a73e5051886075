"""Token rows become the batches of one rank, and a batch its micro-batches. Pure: reads and writes nothing.

The batches of a run are decided by its texts' lengths, the seed and the plan alone; the number of ranks only decides
which rank computes which rows, and the layout how they are stored.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from train.texts.mix import Schedule
from train.texts.packing import Layout, assign_texts, rows_of
from train.texts.tokens import TokenRows

IGNORED = -100  # the label that cross-entropy skips


@dataclass(frozen=True, slots=True)
class Teacher:
    """A teacher's distribution after each input. Producer: `batches_of`. Consumer: `train.model.objective`.

    `ids` (int64) and `log_probs` (float32, nats) are [rows, tokens, k]. `mask` (bool) [rows, tokens] marks the labels
    that have a teacher.
    """

    ids: np.ndarray
    log_probs: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's rows of one step. Producer: `batches_of`. Consumer: `train.run.loop`.

    `input_ids` and `labels` are int64 [rows, tokens], padded on the right; `labels[i, j]` is the token that follows
    `input_ids[i, j]`, or -100. `global_labels` counts the labels of the step over all ranks, `indices` are the step's
    texts over all ranks. A causal model never attends to the right, so no attention mask is needed. In packed rows
    `position_ids`, int64 [rows, tokens], restart with each text; padded rows have none. `tokens` counts the labels of
    all steps up to this one.
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
    with_teacher: bool = False,
) -> Iterator[Batch]:
    """The batches of one rank from step `start` on, one a step; the ranks' rows of a step partition its global batch.

    A rank without texts takes part with one token that has no label. `with_teacher` adds teachers' distributions.
    """
    num_top = max(rows.num_top) if with_teacher else 0
    for step in range(start, schedule.num_steps):
        indices = schedule.step(step)
        sizes = rows.lengths.num_inputs[indices].tolist()
        assigned = assign_texts(sizes, layout, world_size)[rank]
        groups = [[int(indices[assigned[i]]) for i in group] for group in rows_of([sizes[i] for i in assigned], layout)]
        input_ids, labels, position_ids, teacher = _lay_out(rows, groups, num_top)
        yield Batch(
            input_ids,
            labels,
            int(rows.lengths.num_labels[indices].sum()),
            indices,
            position_ids=None if layout.name == "padded" else position_ids,
            tokens=int(schedule.tokens[step]),
            teacher=teacher,
        )


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    """The rows of a batch in `count` micro-batches of about equal numbers of rows, in order.

    Columns to the right of a micro-batch's last label are cut off: a causal model does not need them. One without rows
    is one token without a label, since all ranks must run the same number of backward passes.
    """
    if count == 1:
        return [batch]
    found = []
    for rows in np.array_split(np.arange(len(batch.labels)), count):
        if len(rows):
            labelled = (batch.labels[rows] != IGNORED).any(axis=0).nonzero()[0]
            found.append(_cut(batch, rows, 1 + int(labelled.max(initial=0))))
        else:
            empty = _cut(batch, np.zeros(1, dtype=np.int64), 1)
            found.append(dataclasses.replace(empty, labels=np.full_like(empty.labels, IGNORED)))
    return found


def _cut(record: Any, rows: np.ndarray, width: int) -> Any:
    """The same record with some rows and the first columns of each array [rows, columns, ...] in it."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray) and value.ndim >= 2:
            changes[field.name] = value[rows, :width]
        elif dataclasses.is_dataclass(value):
            changes[field.name] = _cut(value, rows, width)
    return dataclasses.replace(record, **changes)


def _lay_out(
    rows: TokenRows, groups: Sequence[Sequence[int]], num_top: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Teacher | None]:
    """Inputs, labels and positions [rows, tokens] of texts that share rows; the rest of a row is a text of zeros.

    A text's last token is not an input, so no label reaches from one text into the next. With `num_top` above 0 the
    teachers' distributions, of that many tokens, are laid out like the texts.
    """
    widths = (int(rows.lengths.num_inputs[list(group)].sum()) for group in groups)
    shape = max(1, len(groups)), max(widths, default=1)
    teacher = None
    if num_top:
        tops = (*shape, num_top)
        teacher = Teacher(np.zeros(tops, np.int64), np.zeros(tops, np.float32), np.zeros(shape, bool))
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
            found = rows.teacher(index) if teacher else None
            if teacher and found:
                teacher.ids[row, start:end], teacher.log_probs[row, start:end] = found
                teacher.mask[row, start + first - 1 : end] = True
            start = end
        position_ids[row, start:] = np.arange(shape[1] - start)
    return input_ids, labels, position_ids, teacher
