"""Which texts are learned in which step: shuffles, shares of sources, budgets. Reads and writes folders of schedules.

A schedule is decided by the texts' lengths, their sources' weights and shares, the budget, the batch size and the seed
alone.
"""

import dataclasses
import math
import os
import shutil
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

import numpy as np

from data.errors import ResumableError
from data.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Lengths:
    """The sizes of n texts, int64 [n] each. Producer: `train.texts.tokens`. Consumers: schedules, layouts.

    `num_inputs` counts the tokens that the model reads, `num_labels` those that it learns to predict (at least 1),
    `sources` is the index of each text's source.
    """

    num_inputs: np.ndarray
    num_labels: np.ndarray
    sources: np.ndarray


@dataclass(frozen=True, slots=True)
class Budget:
    """The length of a run: exactly one field is above 0. `tokens` are labels, an epoch is every text once."""

    steps: int = 0
    tokens: int = 0
    epochs: float = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """The texts of every step over all ranks. Producer: `make_schedule`. Consumers: batches, the loop.

    `rows`, int64, are indices of texts; step s takes `rows[bounds[s] : bounds[s + 1]]`. `tokens[s]` counts the labels
    of all steps up to and including s.
    """

    rows: np.ndarray
    bounds: np.ndarray
    tokens: np.ndarray

    @property
    def num_steps(self) -> int:
        """The number of steps."""
        return len(self.tokens)

    @property
    def num_tokens(self) -> int:
        """The number of labels over all steps."""
        return int(self.tokens[-1])

    def step(self, index: int) -> np.ndarray:
        """The indices of the texts of one step."""
        return self.rows[self.bounds[index] : self.bounds[index + 1]]


def make_schedule(
    lengths: Lengths,
    weights: Sequence[float],
    *,
    replay: Mapping[int, float] | None = None,
    budget: Budget,
    batch_size: int,
    batch_tokens: int = 0,
    seed: int,
) -> Schedule:
    """The whole run's texts, step by step. No source with a weight above 0 may be empty.

    `replay` has the shares of the labels of some sources, below 1 in all; the rest is divided among the others. Without
    `weights` every text of these occurs equally often, up to one. With weights, one a source, each source's share of
    the rest is its weight's share. Shares hold to within one text at any step. An epoch is every text of the others
    once, with weights or replay as many labels as that, and the replay's share beside them. A batch is `batch_size`
    texts, or with `batch_tokens` as many as have no more inputs than that (at least one); the last may be smaller. A
    budget of tokens is met to within half a text.
    """
    replay = replay or {}
    texts = np.arange(len(lengths.num_labels))
    draws = _interleaved(lengths, _streams(lengths, weights, replay, seed))
    if budget.epochs and (weights or replay):  # counted in tokens, since the sources' texts occur unequally often
        used = ~np.isin(lengths.sources, [*replay, *(index for index, weight in enumerate(weights) if weight == 0)])
        labels = int(lengths.num_labels[used].sum()) / (1 - sum(replay.values()))
        budget = Budget(tokens=max(1, round(budget.epochs * labels)))
    if weights or replay or batch_tokens or budget.tokens:
        rows, bounds = cut(draws, lengths, budget, batch_size, batch_tokens)
    else:  # the usual case, in which lengths decide nothing: no loop over the texts
        num_draws = budget.steps * batch_size or max(1, round(budget.epochs * len(texts)))
        epochs = islice(_epochs(texts, seed), math.ceil(num_draws / len(texts)))
        rows, bounds = np.concatenate(list(epochs))[:num_draws], np.array([*range(0, num_draws, batch_size), num_draws])
    tokens = np.add.reduceat(lengths.num_labels[rows], bounds[:-1]).cumsum()
    return Schedule(rows, bounds, tokens)


def save_schedule(schedule: Schedule, folder: Path) -> None:
    """Write a schedule into a new folder, whole or not at all. Raises ResumableError if it cannot be written."""
    work = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        work.mkdir(parents=True)
        for field in dataclasses.fields(schedule):
            np.save(work / f"{field.name}.npy", getattr(schedule, field.name))
        if not folder.exists():  # or another process has been faster
            os.replace(work, folder)
    except OSError as error:
        raise ResumableError(f"the schedule could not be written: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def load_schedule(folder: Path) -> Schedule:
    """The schedule in a folder, memory-mapped."""
    names = [field.name for field in dataclasses.fields(Schedule)]
    return Schedule(*(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names))


def match_budget(match: str, reference: Schedule) -> Budget:
    """The budget with the reference's number of steps (`match` is "steps") or of tokens ("tokens")."""
    return Budget(steps=reference.num_steps) if match == "steps" else Budget(tokens=reference.num_tokens)


def source_shares(schedule: Schedule, lengths: Lengths, num_sources: int) -> list[float]:
    """The share of the trained tokens that comes from each source."""
    drawn = np.bincount(lengths.sources[schedule.rows], lengths.num_labels[schedule.rows], minlength=num_sources)
    return (drawn / drawn.sum()).tolist()


def shuffled(texts: np.ndarray, seed: int, *stream: str | int) -> Iterator[int]:
    """Epochs end to end."""
    return chain.from_iterable(epoch.tolist() for epoch in _epochs(texts, seed, *stream))


def _epochs(texts: np.ndarray, seed: int, *stream: str | int) -> Iterator[np.ndarray]:
    """Each epoch is a fresh shuffle of these texts."""
    assert len(texts), "a mix and each of its sources with a weight have texts"  # or this would loop for ever
    for epoch in count():
        rng = np.random.default_rng(derive_seed(seed, *stream, "epoch", epoch))
        yield texts[rng.permutation(len(texts))]


def _streams(
    lengths: Lengths, weights: Sequence[float], replay: Mapping[int, float], seed: int
) -> list[tuple[float, Iterator[int]]]:
    """The share of each stream of texts, and the stream: of one source, or without weights of all but the replay."""
    rest = 1 - sum(replay.values())
    shares = dict(replay) | {
        index: rest * weight / sum(weights)
        for index, weight in enumerate(weights)
        if weight > 0 and index not in replay
    }
    streams = [
        (share, shuffled(np.flatnonzero(lengths.sources == index), seed, "source", index))
        for index, share in sorted(shares.items())
    ]
    if not weights:
        others = np.flatnonzero(~np.isin(lengths.sources, list(replay)))
        streams.append((rest, shuffled(others, seed)))
    return streams


def _interleaved(lengths: Lengths, streams: Sequence[tuple[float, Iterator[int]]]) -> Iterator[int]:
    """Each draw is from the stream that is furthest behind its share."""
    if len(streams) == 1:
        yield from streams[0][1]
        return
    shares = np.array([share for share, _ in streams])
    behind = np.zeros(len(streams))
    while True:
        at = int(behind.argmax())
        row = next(streams[at][1])
        num_labels = lengths.num_labels[row]
        behind += shares * num_labels
        behind[at] -= num_labels
        yield row


def cut(
    draws: Iterator[int], lengths: Lengths, budget: Budget, batch_size: int, batch_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Take draws until the budget is spent; returns them and the bounds of the batches."""
    most_draws = max(1, round(budget.epochs * len(lengths.num_labels))) if budget.epochs else 0
    rows, bounds = array("q"), array("q", [0])
    tokens = inputs = 0
    for row in draws:
        num_labels, num_inputs = int(lengths.num_labels[row]), int(lengths.num_inputs[row])
        if budget.tokens and rows and tokens + num_labels - budget.tokens > budget.tokens - tokens:
            break  # without this text the run ends closer to its budget
        in_batch = len(rows) - bounds[-1]
        full = inputs + num_inputs > batch_tokens if batch_tokens else in_batch >= batch_size
        if in_batch and full:
            bounds.append(len(rows))
            inputs = 0
            if budget.steps and len(bounds) > budget.steps:
                break
        rows.append(row)
        tokens, inputs = tokens + num_labels, inputs + num_inputs
        if (budget.tokens and tokens >= budget.tokens) or (most_draws and len(rows) >= most_draws):
            break
    if len(rows) > bounds[-1]:
        bounds.append(len(rows))
    return np.array(rows), np.array(bounds)
