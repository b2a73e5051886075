"""A rank's batch in parts, for gradient accumulation. Pure: reads and writes nothing."""

import dataclasses
from typing import Any

import numpy as np

from train.texts.batches import IGNORED, Batch


def split(batch: Batch, num_parts: int) -> list[Batch]:
    """The rows of a batch in `num_parts` parts of like numbers of rows, in order.

    Columns to the right of a part's last label are left out: a causal model does not need them. A part without rows
    is one token without a label, for all ranks must take part equally often.
    """
    if num_parts == 1:
        return [batch]
    parts = []
    for rows in np.array_split(np.arange(len(batch.labels)), num_parts):
        if len(rows):
            labelled = (batch.labels[rows] != IGNORED).any(axis=0).nonzero()[0]
            parts.append(_cut(batch, rows, 1 + int(labelled.max(initial=0))))
        else:
            empty = _cut(batch, np.zeros(1, dtype=np.int64), 1)
            parts.append(dataclasses.replace(empty, labels=np.full_like(empty.labels, IGNORED)))
    return parts


def _cut(record: Any, rows: np.ndarray, width: int) -> Any:
    """The same record with some rows and the first columns of each array [rows, columns, ...] that it holds."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray) and value.ndim >= 2:
            changes[field.name] = value[rows, :width]
        elif dataclasses.is_dataclass(value):
            changes[field.name] = _cut(value, rows, width)
    return dataclasses.replace(record, **changes)
