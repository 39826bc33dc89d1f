"""Intervals and tests of many measures at once. Over blocks: a block is a few records, chosen by a hash, summed up.

A million records need not be resampled one by one: the means of all, of a resample of blocks (Efron's bootstrap with
blocks as units), have the same spread as of a resample of records, as long as there are many blocks. With fewer
records than blocks each is, nearly, a block of its own. How often each block is drawn in each resample is a matrix, the
same for all measures, so that a thousand measures are resampled by one multiplication.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from headrace.pipeline.evaluate.measures import Interval

BLOCKS = 1000
RESAMPLES = 1000
LEAST_BLOCKS = 5
"""Of fewer an interval says nothing."""
CONFIDENCE = 0.95
SEED = 20_261_127
"""Always the same: a comparison that is made again must come to the same numbers."""
FIGURES = 12
"""Significant ones of what is told: the last few of a float depend on the order of additions."""

Floats = NDArray[np.float64]
_ENDS = np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
_Z = float(stats.norm.ppf(_ENDS[1]))


@lru_cache(maxsize=2)
def weights(blocks: int) -> Floats:
    """How often each block is drawn in each resample: float64 [resamples, blocks], each row's sum is ``blocks``."""
    drawn = np.random.default_rng(SEED).multinomial(blocks, np.full(blocks, 1 / blocks), RESAMPLES)
    return drawn.astype(np.float64)


def block_grid(blocks: Any, columns: Any, sums: Floats, width: int) -> Floats:
    """Sums by block and column: float64 [blocks, width], 0 where there is none.

    Args:
        blocks: of each sum, int64 [sums].
        columns: of each sum, int64 [sums].
        sums: float64 [sums].
        width: columns.
    """
    grid = np.zeros((BLOCKS, width))
    grid[blocks, columns] = sums
    return grid


def mean_intervals(sums: Floats, counts: Floats, unit: float = 1.0) -> list[Interval]:
    """Means of all records with their 95 % bootstrap intervals, by percentiles.

    Args:
        sums: of each block's values, in units, float64 [blocks, measures].
        counts: of each block's records, float64 [blocks, measures]; 0 where the block has none.
        unit: of the sums; the intervals are in ones.

    Returns:
        One a measure; its ends are NaN if fewer than five blocks have records, or if a value is not finite.
    """
    drawn_blocks = weights(len(sums))
    used = (counts > 0).any(axis=1)
    if not used.all():  # of few records most blocks have none
        drawn_blocks, sums, counts = drawn_blocks[:, used], sums[used], counts[used]
    some = counts > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        values = sums.sum(axis=0) / counts.sum(axis=0)
        drawn = drawn_blocks @ counts
        means = np.where(drawn > 0, drawn_blocks @ sums / drawn, values)  # none of its few blocks may be drawn
        ends = np.quantile(means, _ENDS, axis=0)
        each = sums / counts
    least, most = np.where(some, each, math.inf).min(axis=0), np.where(some, each, -math.inf).max(axis=0)
    ends = np.where(least == most, values, ends)  # every resample has this mean
    ends[:, (some.sum(axis=0) < LEAST_BLOCKS) | ~np.isfinite(values)] = math.nan
    with np.errstate(over="ignore"):  # the difference of the largest two numbers is told as infinite
        return [interval(*row) for row in zip(values * unit, *ends * unit, strict=True)]


def share_intervals(sums: Floats, counts: Floats) -> list[Interval]:
    """Shares of all records with their 95 % intervals: what is of each record is 0 or 1.

    The wider of two: Wilson's (1927), as a resample never has what no record has; and the bootstrap's, as the parts of
    an event may be right or wrong together.

    Args:
        sums: as of ``mean_intervals``, which says when there is no interval.
        counts: as of ``mean_intervals``.
    """
    records = counts.sum(axis=0)
    centre = (sums.sum(axis=0) + _Z**2 / 2) / (records + _Z**2)
    half = _Z / (records + _Z**2) * np.sqrt(sums.sum(axis=0) * (1 - sums.sum(axis=0) / records) + _Z**2 / 4)
    return _widened(mean_intervals(sums, counts), *np.clip([centre - half, centre + half], 0.0, 1.0))


def share_difference_intervals(
    difference_sums: Floats, counts: Floats, better: Floats, worse: Floats
) -> list[Interval]:
    """Differences of two shares of the same records with their 95 % intervals.

    The wider of two, as of ``share_intervals``: Bonett and Price's (2012), and the bootstrap's.

    Args:
        difference_sums: as of ``paired_tests``.
        counts: as of ``paired_tests``.
        better: as of ``sign_tests``.
        worse: as of ``sign_tests``.
    """
    records = counts.sum(axis=0)
    up, down = (better + 1) / (records + 2), (worse + 1) / (records + 2)
    half = _Z * np.sqrt((up + down - (up - down) ** 2) / (records + 2))
    ends = np.clip([up - down - half, up - down + half], -1.0, 1.0)
    return _widened(mean_intervals(difference_sums, counts), *ends)


def _widened(found: Sequence[Interval], lows: Floats, highs: Floats) -> list[Interval]:
    """Intervals, as far as there are, that hold others as well."""
    ends = zip(found, lows, highs, strict=True)
    return [interval(each.value, np.fmin(each.low, low), np.fmax(each.high, high)) for each, low, high in ends]


def resampled_interval(value: float, resampled: Floats) -> Interval:
    """The interval of a number that is no mean, by percentiles.

    Args:
        value: of all records.
        resampled: of each resample, float64 [resamples].
    """
    low, high = np.quantile(resampled, _ENDS)
    return interval(value, min(low, value), max(high, value))


def sign_tests(better: Floats, worse: Floats) -> Floats:
    """McNemar's exact test: two-sided p-values of so many records that only the one, or only the other, has right.

    Args:
        better: records that only the candidate has right, float64 [measures].
        worse: those that only the baseline has.
    """
    return np.asarray(np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(better, worse), better + worse, 0.5)), np.float64)


def paired_tests(difference_sums: Floats, counts: Floats) -> Floats:
    """Two-sided p-values that the records' differences have mean 0: Student's t of their mean over blocks.

    Records are drawn block by block, so that the mean is a ratio of sums of blocks; its standard error is that of the
    linearised ratio (Cochran, Sampling Techniques, 6.4). Where each block has one record it is the paired t-test.

    Args:
        difference_sums: of each block's differences, float64 [blocks, measures].
        counts: as of ``mean_intervals``.

    Returns:
        One a measure, 1.0 if fewer than five blocks have records.
    """
    some = counts > 0
    blocks = some.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = difference_sums.sum(axis=0) / counts.sum(axis=0)
        squares = (np.where(some, difference_sums - counts * mean, 0.0) ** 2).sum(axis=0)
        error = np.sqrt(blocks / (blocks - 1) * squares) / counts.sum(axis=0)
        found = 2 * stats.t.sf(np.abs(mean) / error, blocks - 1)
    found = np.where(error == 0.0, np.where(mean == 0.0, 1.0, 0.0), found)
    return np.where(blocks < LEAST_BLOCKS, 1.0, found)


def percentile_ranks(counts: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Which of sorted values are a percentile and the ends of its 95 % interval, which no distribution is assumed for.

    The interval is that of order statistics: how many values are below the true percentile is binomial (David and
    Nagaraja, Order Statistics, 7.1).

    Args:
        counts: of values, int64 [measures], each above 0.
        share: 0 to 1.

    Returns:
        Of the percentile and both ends, int64 [3, measures], from 0; an end that is beyond the values is -1 or the
        count.
    """
    ranks = (
        np.ceil(counts * share) - 1,
        stats.binom.ppf(_ENDS[0], counts, share) - 1,
        stats.binom.ppf(_ENDS[1], counts, share),
    )
    return np.stack(ranks).astype(np.int64)


def difference_interval(candidate: Interval, baseline: Interval) -> Interval:
    """Of the difference of two numbers, from the interval of each, by MOVER (Zou and Donner 2008).

    The two are taken for independent; if they rise and fall together, as here, it is wider than it need be.
    """
    value = candidate.value - baseline.value
    return interval(
        value,
        value - math.hypot(candidate.value - candidate.low, baseline.high - baseline.value),
        value + math.hypot(candidate.high - candidate.value, baseline.value - baseline.low),
    )


def drift(candidate: Floats, baseline: Floats) -> float:
    """How far two samples' distributions are apart: Kolmogorov and Smirnov's statistic, 0 to 1.

    It has no p-value here: that of the test is of independent samples, and both sides answered the same records.
    """
    return tidy(float(stats.ks_2samp(candidate, baseline, method="asymp").statistic))


def interval(value: float, low: float, high: float) -> Interval:
    """Of numbers as they are told."""
    return Interval(tidy(value), tidy(low), tidy(high))


def tidy(value: float) -> float:
    """As it is told."""
    return float(f"{value:.{FIGURES}g}")
