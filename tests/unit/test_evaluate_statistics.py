"""Intervals that hold what they promise, and tests that find what is there and nothing else."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import special

from headrace.pipeline.evaluate.measures import Interval
from headrace.pipeline.evaluate.statistics import (
    BLOCKS,
    Floats,
    difference_interval,
    drift,
    mean_intervals,
    paired_tests,
    percentile_ranks,
    share_difference_intervals,
    share_intervals,
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


def at_most_one_a_block(records: int, rows: int) -> tuple[Floats, Floats]:
    """Which blocks have a record, of so many measures; and a number from 0 to 1 for each."""
    counts = np.zeros((BLOCKS, rows))
    counts[:records] = 1.0
    return counts, RNG.random((BLOCKS, rows))


@pytest.mark.parametrize(("records", "share"), [(20, 0.95), (20, 0.99), (100, 0.99), (200, 0.5)])
def test_interval_of_a_share_holds_the_true_one_even_if_few_records_differ(records: int, share: float) -> None:
    """A resample has no record that is wrong if none is: the bootstrap's interval would be a point, in most cases."""
    counts, numbers = at_most_one_a_block(records, 200)
    found = share_intervals(counts * (numbers < share), counts)
    assert all(0 <= each.low <= each.value <= each.high <= 1 for each in found)
    assert all(each.low < each.high for each in found)
    assert np.mean([each.low <= share <= each.high for each in found]) >= 0.91


@pytest.mark.parametrize(("records", "worse", "better"), [(20, 0.02, 0.0), (100, 0.02, 0.0), (200, 0.06, 0.01)])
def test_interval_of_a_drop_holds_the_true_one_even_if_few_records_differ(
    records: int, worse: float, better: float
) -> None:
    counts, numbers = at_most_one_a_block(records, 200)
    differences = counts * ((numbers > 1 - better).astype(float) - (numbers < worse))
    ups, downs = (differences > 0).sum(axis=0), (differences < 0).sum(axis=0)
    found = share_difference_intervals(differences, counts, ups, downs)
    assert all(each.low <= each.value <= each.high for each in found)
    assert np.mean([each.low <= better - worse <= each.high for each in found]) >= 0.91


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_interval_of_a_share_is_of_shares(right: float) -> None:
    """Whatever is rounded: a bound of 0 or 1 is held to it. Of 5 to 199 records."""
    counts = np.tri(199)[4:].T
    ends = share_intervals(counts * right, counts)
    assert all(0.0 <= each.low < each.high <= 1.0 and right in (each.low, each.high) for each in ends)
    ones = np.ones((20, 1))
    (worst,) = share_difference_intervals(-ones, ones, np.zeros(1), np.full(1, 20.0))
    assert worst.low == worst.value == -1.0


def test_interval_of_a_share_is_wide_where_records_of_a_block_are_alike() -> None:
    counts = np.full((40, 1), 25.0)
    (alike,) = share_intervals(counts * (np.arange(40) % 2)[:, np.newaxis], counts)
    (alone,) = share_intervals(column(*[0.0, 1.0] * 500), np.ones((1000, 1)))
    assert alike.high - alike.low > 4 * (alone.high - alone.low)


def test_mean_of_numbers_next_to_the_largest_is_told() -> None:
    """Their sum would be no number any more; it is in units for that."""
    unit = 2.0**960
    (found,) = mean_intervals(np.full((10, 1), 1e308 / unit), np.ones((10, 1)), unit)
    assert found == Interval(1e308, 1e308, 1e308)
    (apart,) = mean_intervals(np.full((10, 1), 2.0**64), np.ones((10, 1)), unit)
    assert apart.value == math.inf


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
    ("better", "worse", "p_value"),
    [
        *((0, 0, 1.0), (5, 5, 1.0), (0, 8, 2 / 2**8), (10, 0, 2 / 2**10)),
        (30, 44, 2 * sum(math.comb(74, each) for each in range(31)) / 2**74),
        (600, 500, 2 * sum(math.comb(1100, each) for each in range(501)) / 2**1100),
    ],
)
def test_sign_test_is_exact(better: int, worse: int, p_value: float) -> None:
    assert sign_tests(np.array([better]), np.array([worse])) == pytest.approx(p_value)


def test_paired_test_finds_a_difference_and_none() -> None:
    noise = RNG.normal(0.0, 1.0, 500)
    counts = np.ones((500, 2))
    apart, same = paired_tests(np.stack([noise + 0.3, noise - noise.mean()], axis=1), counts)
    assert apart < 1e-6
    assert same == pytest.approx(1.0)
    assert paired_tests(np.zeros((9, 1)), np.ones((9, 1))) == 1.0
    assert paired_tests(np.ones((9, 1)), np.ones((9, 1))) == 0.0
    assert paired_tests(np.ones((9, 1)), column(*[1.0] * 2, *[0.0] * 7)) == 1.0


def test_paired_test_is_students_where_each_block_has_one_record() -> None:
    sums, counts = RNG.normal(0.1, 1.0, (30, 1)), RNG.integers(0, 2, (30, 1)).astype(float)
    sums[counts == 0] = 0.0
    values = sums[counts > 0]
    deviations = abs(values.mean()) / (values.std(ddof=1) / math.sqrt(len(values)))
    assert paired_tests(sums, counts) == pytest.approx(2 * special.stdtr(len(values) - 1, -deviations))


def test_paired_test_is_of_the_difference_of_records_not_of_blocks() -> None:
    """Large blocks say that there is no difference: their weight is that of their records."""
    large, small = np.tile([[-1.0], [1.0]], (20, 1)), np.full((20, 1), 1.0)
    found = paired_tests(np.vstack([large * 100, small]), np.vstack([np.full((40, 1), 1000.0), np.ones((20, 1))]))
    assert found > 0.5
    sizes = RNG.integers(1, 30, (1000, 500)).astype(float)
    chance = paired_tests(RNG.normal(0.0, np.sqrt(sizes)), sizes)
    assert 0.03 <= np.mean(chance < 0.05) <= 0.07


def test_percentiles_interval_holds_the_true_one_about_as_often_as_it_says() -> None:
    values = np.sort(RNG.exponential(1.0, (400, 500)), axis=1)
    for share in (0.5, 0.95):
        middle, low, high = percentile_ranks(np.array([500]), share)[:, 0]
        true = -math.log(1 - share)
        held = ((values[:, low] <= true) & (true <= values[:, high])).mean()
        assert low < middle < high
        assert 0.92 <= held <= 0.99


def test_percentiles_interval_is_of_the_binomial_distribution() -> None:
    """Its ends are the first numbers of values below that are not passed with 2.5 and with 97.5 %."""
    for count, share in itertools.product((1, 2, 7, 40, 333), (0.5, 0.9, 0.95, 0.99)):
        chances = [math.comb(count, each) * share**each * (1 - share) ** (count - each) for each in range(count + 1)]
        below = np.cumsum(chances)
        _, (low,), (high,) = percentile_ranks(np.array([count]), share)
        assert (low + 1, high) == tuple(np.argmax(below >= level) for level in (0.025, 0.975))


def test_percentiles_interval_of_few_values_has_no_end() -> None:
    (middle,), (low,), (high,) = percentile_ranks(np.array([50]), 0.99)
    assert (middle, high) == (49, 50)
    assert low < 49


def test_difference_is_known_as_well_as_what_it_is_of() -> None:
    found = difference_interval(Interval(10.0, 7.0, 13.0), Interval(6.0, 2.0, 10.0))
    assert (found.low, found.value, found.high) == (-1.0, 4.0, 9.0)


def test_drift_is_between_none_and_one() -> None:
    values = RNG.normal(size=1000)
    assert drift(values, values) == 0.0
    assert drift(values, values + 100) == 1.0
    assert drift(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == 0.5
