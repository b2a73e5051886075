"""The tokens of a run's texts, as flat arrays that may lie in memory-mapped files. Pure: reads and writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from train.texts.mix import Lengths


@dataclass(frozen=True, slots=True)
class TokenSource:
    """The tokens of one source of n texts. Producer: `train.texts.tokens`. Consumer: `TokenRows`.

    `ids` holds all tokens end to end, `offsets` [n + 1] where texts begin and end, `first_labels` [n] the index of each
    text's first token that is learned. `top_ids` and `top_log_probs` (nats), k values for every token of a text but its
    first, are a teacher's, or empty.
    """

    ids: np.ndarray
    offsets: np.ndarray
    first_labels: np.ndarray
    top_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    top_log_probs: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def num_top(self) -> int:
        """How many tokens a teacher named in each place; 0 without one."""
        places = len(self.ids) - len(self.first_labels)
        return len(self.top_ids) // places if places else 0


class TokenRows(Sequence[np.ndarray]):
    """The tokens of all texts, source after source; `lengths` are their sizes."""

    def __init__(self, parts: Sequence[TokenSource]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part.first_labels) for part in parts)])
        sizes = [np.diff(part.offsets) for part in parts]
        labels = [size - part.first_labels for size, part in zip(sizes, parts, strict=True)]
        none = [np.empty(0, np.int64)]
        self.lengths = Lengths(
            num_inputs=np.concatenate(none + sizes) - 1,
            num_labels=np.concatenate(none + labels),
            sources=np.repeat(np.arange(len(parts)), np.diff(self._starts)),
        )

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "TokenRows":
        """Rows that are in memory, as one source; all tokens but the first of each are learned."""
        ids = np.array([token for row in rows for token in row])
        offsets = np.cumsum([0, *(len(row) for row in rows)])
        return cls([TokenSource(ids, offsets, np.ones(len(rows), np.int64))])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        part, local = self._find(index)
        return part.ids[part.offsets[local] : part.offsets[local + 1]]

    def first_label(self, index: int) -> int:
        """The index of a text's first token that is learned."""
        part, local = self._find(index)
        return int(part.first_labels[local])

    @property
    def num_top(self) -> int:
        """How many tokens the teachers named in each place, at most; 0 without a teacher."""
        return max((part.num_top for part in self._parts), default=0)

    def teacher(self, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """A teacher's likeliest tokens and their log-probabilities [inputs, k] after each input of a text, if any."""
        part, local = self._find(index)
        if not part.num_top:
            return None
        first, last = ((int(part.offsets[at]) - at) * part.num_top for at in (local, local + 1))
        shape = (-1, part.num_top)
        return part.top_ids[first:last].reshape(shape), part.top_log_probs[first:last].reshape(shape)

    def locate(self, index: int) -> tuple[int, int]:
        """Which source a text is of, and its place there."""
        source = int(self.lengths.sources[index])
        return source, int(index - self._starts[source])

    def _find(self, index: int) -> tuple[TokenSource, int]:
        source, local = self.locate(index)
        return self._parts[source], local
