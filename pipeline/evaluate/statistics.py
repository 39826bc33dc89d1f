"""Intervals and tests, by scipy. Over blocks: a block is a few records, chosen by a hash, summed up.

A million records need not be resampled one by one: the means of all, of a resample of blocks (Efron's bootstrap with
blocks as units), have the same spread as of a resample of records, as long as there are many blocks. With fewer records
than blocks each is a block of its own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from headrace.pipeline.evaluate.measures import Interval

BLOCKS = 1000
RESAMPLES = 2000
LEAST_BLOCKS = 5
"""Of fewer an interval says nothing."""
CONFIDENCE = 0.95
SEED = 20_261_127
"""Always the same: a comparison that is made again must come to the same numbers."""

Floats = NDArray[np.float64]


def mean_interval(sums: Floats, counts: Floats) -> Interval:
    """The mean of all records with its 95 % bootstrap interval.

    Args:
        sums: of each block's values, float64 [blocks].
        counts: of each block's records, float64 [blocks], each above 0.

    Returns:
        The interval's ends are NaN if there are fewer than five blocks.
    """
    value = float(sums.sum() / counts.sum())
    if len(sums) < LEAST_BLOCKS:
        return Interval(value, math.nan, math.nan)
    if np.ptp(sums / counts) == 0.0:  # every resample has this mean, and scipy calls that degenerate
        return Interval(value, value, value)

    def mean(total: Floats, records: Floats, axis: int = -1) -> Any:
        return total.sum(axis=axis) / records.sum(axis=axis)

    found = stats.bootstrap(
        (sums, counts),
        mean,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=200,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high))


def sign_test(better: int, worse: int) -> float:
    """McNemar's exact test: two-sided p-value of so many records that only the one, or only the other, has right."""
    if better + worse == 0:
        return 1.0
    return float(stats.binomtest(better, better + worse).pvalue)


def paired_test(difference_sums: Floats, counts: Floats) -> float:
    """Two-sided p-value that the records' differences have mean 0: Student's t over the blocks' mean differences.

    1.0 if there are fewer than five blocks.
    """
    means = difference_sums / counts
    if len(means) < LEAST_BLOCKS:
        return 1.0
    if np.ptp(means) == 0.0:
        return 1.0 if means[0] == 0.0 else 0.0
    return float(stats.ttest_1samp(means, 0.0).pvalue)


def drift(candidate: Floats, baseline: Floats) -> tuple[float, float]:
    """How far two samples' distributions are apart: Kolmogorov and Smirnov's statistic, 0 to 1, and its p-value."""
    found = stats.ks_2samp(candidate, baseline)
    return float(found.statistic), float(found.pvalue)
