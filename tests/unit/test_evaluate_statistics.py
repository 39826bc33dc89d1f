"""Intervals that hold what they promise, and tests that find what is there and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from headrace.pipeline.evaluate.measures import Interval
from headrace.pipeline.evaluate.statistics import (
    Floats,
    difference_interval,
    drift,
    mean_intervals,
    paired_tests,
    percentile_ranks,
    sign_tests,
    weights,
)

RNG = np.random.default_rng(7)


def column(*values: float) -> Floats:
    return np.array(values)[:, np.newaxis]


def test_intervals_hold_the_true_mean_about_as_often_as_they_say() -> None:
    counts = RNG.integers(0, 5, (60, 200)).astype(float)
    sums = np.array([[RNG.normal(0.3, 1.0, int(count)).sum() for count in row] for row in counts])
    found = mean_intervals(sums, counts)
    assert all(each.low <= each.value <= each.high for each in found)
    assert 0.88 <= np.mean([each.low <= 0.3 <= each.high for each in found]) <= 0.99


def test_interval_is_of_the_records_whatever_the_blocks() -> None:
    values = RNG.normal(5.0, 2.0, 20_000)
    (alone,) = mean_intervals(values[:1000, np.newaxis], np.ones((1000, 1)))
    assert alone.value == pytest.approx(values[:1000].mean())
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * values[:1000].std() / math.sqrt(1000), rel=0.1)
    blocks = values.reshape(1000, 20)
    (together,) = mean_intervals(blocks.sum(axis=1, keepdims=True), np.full((1000, 1), 20.0))
    assert together.high - together.low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(20_000), rel=0.1)


def test_empty_blocks_change_little() -> None:
    """A slice has few records: most blocks have none of it."""
    values = RNG.normal(5.0, 2.0, 100)
    sums, counts = np.zeros((1000, 1)), np.zeros((1000, 1))
    places = RNG.choice(1000, 100, replace=False)
    sums[places, 0], counts[places, 0] = values, 1.0
    (sparse,) = mean_intervals(sums, counts)
    (dense,) = mean_intervals(values[:, np.newaxis], np.ones((100, 1)))
    assert sparse.value == pytest.approx(dense.value)
    assert sparse.high - sparse.low == pytest.approx(dense.high - dense.low, rel=0.15)


def test_interval_is_the_same_each_time_and_beside_others() -> None:
    sums, counts = RNG.normal(size=(40, 3)), np.ones((40, 3))
    assert mean_intervals(sums, counts)[1:2] == mean_intervals(sums[:, 1:2], counts[:, 1:2])


def test_each_resample_draws_as_many_blocks_as_there_are() -> None:
    drawn = weights(50)
    assert (drawn.sum(axis=1) == 50).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(50), abs=0.2)


def test_interval_of_equal_values_is_a_point() -> None:
    (found,) = mean_intervals(column(2.0, 4.0, 2.0, 2.0, 6.0, 0.0), column(1.0, 2.0, 1.0, 1.0, 3.0, 0.0))
    assert (found.low, found.value, found.high) == (2.0, 2.0, 2.0)


def test_interval_of_few_blocks_is_not_known() -> None:
    (found,) = mean_intervals(column(1.0, 2.0, 0.0, 0.0, 0.0, 0.0), column(1, 1, 0, 0, 0, 0))
    assert found.value == 1.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_what_is_not_finite_is_told_and_spoils_nothing_else() -> None:
    sums = np.array([[math.nan, math.inf, 1.0], *[[1.0, 1.0, 1.0]] * 9])
    one, other, sound = mean_intervals(sums, np.ones((10, 3)))
    assert math.isnan(one.value)
    assert other.value == math.inf
    assert math.isnan(other.high)
    assert sound == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("better", "worse", "p_value"), [(0, 0, 1.0), (5, 5, 1.0), (0, 8, 2 / 2**8), (10, 0, 2 / 2**10), (30, 44, None)]
)
def test_sign_test_is_exact(better: int, worse: int, p_value: float | None) -> None:
    wanted = p_value if p_value is not None else stats.binomtest(better, better + worse).pvalue
    assert sign_tests(np.array([better]), np.array([worse])) == pytest.approx(wanted)


def test_paired_test_finds_a_difference_and_none() -> None:
    noise = RNG.normal(0.0, 1.0, 500)
    counts = np.ones((500, 2))
    apart, same = paired_tests(np.stack([noise + 0.3, noise - noise.mean()], axis=1), counts)
    assert apart < 1e-6
    assert same == pytest.approx(1.0)
    assert paired_tests(np.zeros((9, 1)), np.ones((9, 1))) == 1.0
    assert paired_tests(np.ones((9, 1)), np.ones((9, 1))) == 0.0
    assert paired_tests(np.ones((9, 1)), column(*[1.0] * 2, *[0.0] * 7)) == 1.0


def test_paired_test_is_students_over_blocks_with_records() -> None:
    sums, counts = RNG.normal(0.1, 1.0, (30, 1)), RNG.integers(0, 4, (30, 1)).astype(float)
    sums[counts == 0] = 0.0
    some = counts[:, 0] > 0
    wanted = stats.ttest_1samp(sums[some, 0] / counts[some, 0], 0.0).pvalue
    assert paired_tests(sums, counts) == pytest.approx(wanted)


def test_percentiles_interval_holds_the_true_one_about_as_often_as_it_says() -> None:
    values = np.sort(RNG.exponential(1.0, (400, 500)), axis=1)
    for share in (0.5, 0.95):
        middle, low, high = percentile_ranks(np.array([500]), share)[:, 0]
        true = stats.expon.ppf(share)
        held = ((values[:, low] <= true) & (true <= values[:, high])).mean()
        assert low < middle < high
        assert 0.92 <= held <= 0.99


def test_percentiles_interval_of_few_values_has_no_end() -> None:
    (middle,), (low,), (high,) = percentile_ranks(np.array([50]), 0.99)
    assert (middle, high) == (49, 50)
    assert low < 49


def test_difference_is_known_as_well_as_what_it_is_of() -> None:
    found = difference_interval(Interval(10.0, 7.0, 13.0), Interval(6.0, 2.0, 10.0))
    assert (found.low, found.value, found.high) == (-1.0, 4.0, 9.0)


def test_drift_is_between_none_and_one() -> None:
    values = RNG.normal(size=1000)
    assert drift(values, values) == (0.0, 1.0)
    apart, p_value = drift(values, values + 100)
    assert apart == 1.0
    assert p_value < 1e-100
