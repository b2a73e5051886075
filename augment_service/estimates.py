"""Totals over many documents from a sample of them, and how far they may be off.

Pure. The sample is stratified by the documents' sizes: a few long documents may hold most of a corpus. Within a
stratum the total is a regression on the size, since some values grow with a document and others do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

Values = np.ndarray[Any, np.dtype[np.float64]]
Places = np.ndarray[Any, np.dtype[np.int64]]
NUM_STRATA = 4
_LEAST = 2  # documents of a stratum, whatever their size
_BYTES = 1 << 20  # of a stratum's documents


@dataclass(frozen=True)
class Stratum:
    """Documents of similar size: how many, their mean size, and the `chosen` ones, by their places in the corpus."""

    num_members: int
    mean_size: float
    chosen: Places


def draw_sample(sizes: Values, count: int, seed: int) -> list[Stratum]:
    """About `count` documents of a corpus, in strata that hold equal shares of its text; all, if there are no more."""
    order = np.argsort(sizes, kind="stable")
    if len(sizes) <= count:
        return [Stratum(len(sizes), float(sizes.mean()), np.sort(order))] if len(sizes) else []
    shares = np.cumsum(sizes[order]) / max(sizes.sum(), 1)
    bounds = [0, *np.searchsorted(shares, np.arange(1, NUM_STRATA) / NUM_STRATA), len(sizes)]
    generator = np.random.default_rng(seed)
    strata = []
    for start, stop in pairwise(bounds):
        members = order[start:stop]
        if len(members):
            drawn = generator.permutation(members)[: max(_LEAST, count // NUM_STRATA)]
            within = np.cumsum(sizes[drawn]) <= _BYTES
            drawn = drawn[: max(_LEAST, int(within.sum()))]
            strata.append(Stratum(len(members), float(sizes[members].mean()), np.sort(drawn)))
    return strata


def estimate_totals(strata: Sequence[Stratum], sizes: Values, values: Values) -> tuple[Values, Values]:
    """Totals of the columns of `values`, and twice their standard errors; a row for each chosen document, in order.

    `sizes` are those of the chosen documents.
    """
    totals, variances = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    start = 0
    for stratum in strata:
        number = len(stratum.chosen)
        total, variance = _estimate(stratum, sizes[start : start + number], values[start : start + number])
        totals, variances = totals + total, variances + variance
        start += number
    return np.maximum(totals, 0), 2 * np.sqrt(variances)


def _estimate(stratum: Stratum, sizes: Values, values: Values) -> tuple[Values, Values]:
    number, mean = len(sizes), values.mean(axis=0)
    if number == stratum.num_members:
        return values.sum(axis=0), np.zeros(values.shape[1])
    apart = sizes - sizes.mean()
    spread = float(apart @ apart)
    is_sloped = number > _LEAST and spread > 0
    slope = apart @ (values - mean) / spread if is_sloped else np.zeros(values.shape[1])
    totals = stratum.num_members * (mean + slope * (stratum.mean_size - sizes.mean()))
    residuals = values - mean - np.outer(apart, slope)
    freedom = max(number - 1 - is_sloped, 1)
    share_left = 1 - number / stratum.num_members
    variance = stratum.num_members**2 * share_left / number * (residuals**2).sum(axis=0) / freedom
    return totals, variance
