"""Intervals that hold what they promise, and tests that find what is there and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headrace.pipeline.evaluate.statistics import drift, mean_interval, paired_test, sign_test

RNG = np.random.default_rng(7)


def test_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    hits = 0
    for _ in range(100):
        counts = RNG.integers(1, 5, 60).astype(float)
        sums = np.array([RNG.normal(0.3, 1.0, int(count)).sum() for count in counts])
        found = mean_interval(sums, counts)
        assert found.low <= found.value <= found.high
        hits += found.low <= 0.3 <= found.high
    assert 86 <= hits <= 100


def test_interval_is_of_the_records_whatever_the_blocks() -> None:
    values = RNG.normal(5.0, 2.0, 20_000)
    alone = mean_interval(values[:1000], np.ones(1000))
    assert alone.value == pytest.approx(values[:1000].mean())
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * values[:1000].std() / math.sqrt(1000), rel=0.1)
    blocks = values.reshape(1000, 20)
    together = mean_interval(blocks.sum(axis=1), np.full(1000, 20.0))
    assert together.high - together.low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(20_000), rel=0.1)


def test_interval_is_the_same_each_time() -> None:
    sums, counts = RNG.normal(size=40), np.ones(40)
    assert mean_interval(sums, counts) == mean_interval(sums, counts)


def test_interval_of_equal_values_is_a_point() -> None:
    found = mean_interval(np.array([2.0, 4.0, 2.0, 2.0, 6.0]), np.array([1.0, 2.0, 1.0, 1.0, 3.0]))
    assert (found.low, found.value, found.high) == (2.0, 2.0, 2.0)


def test_interval_of_few_blocks_is_not_known() -> None:
    found = mean_interval(np.array([1.0, 2.0]), np.ones(2))
    assert found.value == 1.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize(
    ("better", "worse", "p_value"), [(0, 0, 1.0), (5, 5, 1.0), (0, 8, 2 / 2**8), (10, 0, 2 / 2**10)]
)
def test_sign_test_is_exact(better: int, worse: int, p_value: float) -> None:
    assert sign_test(better, worse) == pytest.approx(p_value)


def test_paired_test_finds_a_difference_and_none() -> None:
    noise = RNG.normal(0.0, 1.0, 500)
    assert paired_test(noise + 0.3, np.ones(500)) < 1e-6
    assert paired_test(noise - noise.mean(), np.ones(500)) == pytest.approx(1.0)
    assert paired_test(np.zeros(9), np.ones(9)) == 1.0
    assert paired_test(np.ones(9), np.ones(9)) == 0.0
    assert paired_test(np.ones(2), np.ones(2)) == 1.0


def test_drift_is_between_none_and_one() -> None:
    values = RNG.normal(size=1000)
    assert drift(values, values) == (0.0, 1.0)
    apart, p_value = drift(values, values + 100)
    assert apart == 1.0
    assert p_value < 1e-100
