from __future__ import annotations

import math

import pytest

from headrace.pipeline.demo.stats import (
    Journey,
    Kill,
    ModelStats,
    affected_partitions,
    latency,
    percentile,
    recovery_seconds,
    split_by_recovery,
)

EPOCH_MS = 1_000_000
KILL = Kill(seconds=10.0, epoch_ms=EPOCH_MS + 10_000, worker="b")


def journey(partition: int, sent: float, seen: float, worker: str, completed: float | None = None) -> Journey:
    """``completed`` in seconds of the same clock; just before it was seen unless told."""
    done = seen - 0.01 if completed is None else completed
    return Journey(partition, sent, seen, worker, round(EPOCH_MS + done * 1000))


BEFORE = [journey(0, 9.0, 9.1, "a"), journey(1, 9.0, 9.1, "b")]


@pytest.mark.parametrize(("percent", "value"), [(50, 50.0), (99, 99.0), (100, 100.0), (1, 1.0), (0, 1.0)])
def test_percentile_is_the_nearest_rank(percent: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], percent) == value


def test_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7.0], 50) == percentile([7.0], 99) == 7.0


def test_latency_of_nothing_is_nan() -> None:
    assert math.isnan(latency([]).p50_ms)
    assert latency([]).count == 0


def test_latency_is_in_milliseconds() -> None:
    measured = latency([journey(0, 1.0, 1.25, "a"), journey(0, 2.0, 2.5, "a")])
    assert (measured.count, measured.p50_ms, measured.max_ms) == (2, 250.0, 500.0)


def test_owner_is_the_worker_of_the_last_outcome_before_the_kill() -> None:
    moved = [*BEFORE, journey(0, 9.5, 9.6, "b"), journey(2, 9.5, 9.6, "a"), journey(0, 10.5, 12.0, "a")]
    assert affected_partitions(moved, KILL) == {0, 1}


def test_recovery_is_that_of_the_slowest_partition() -> None:
    after = [journey(0, 9.9, 12.0, "a"), journey(1, 9.9, 13.0, "b"), journey(1, 12.9, 13.2, "b")]
    assert recovery_seconds([*BEFORE, *after], KILL, frozenset({0, 1})) == 3.0


def test_recovery_ignores_what_the_killed_worker_had_completed_before() -> None:
    late = journey(1, 9.9, 10.2, "b", completed=9.95)
    back = journey(1, 10.5, 12.5, "b")
    assert recovery_seconds([*BEFORE, late, back], KILL, frozenset({1})) == 2.5


def test_recovery_is_unknown_while_a_partition_is_silent() -> None:
    assert recovery_seconds([*BEFORE, journey(0, 10.1, 10.2, "a")], KILL, frozenset({0, 1})) is None


def test_recovery_is_nothing_if_the_killed_worker_owned_nothing() -> None:
    assert recovery_seconds(BEFORE, KILL, frozenset()) == 0.0


def test_split_leaves_out_what_was_in_flight_or_sent_before_all_was_settled() -> None:
    in_flight = journey(1, 9.9, 13.0, "a")
    during = journey(1, 12.0, 13.5, "a")
    elsewhere = journey(0, 13.2, 13.3, "a")
    answered_before = journey(0, 9.8, 9.95, "a")
    after = journey(1, 13.6, 13.7, "a")
    untouched, recovery = split_by_recovery([*BEFORE, in_flight, during, elsewhere, answered_before, after], KILL)
    assert untouched == (*BEFORE, answered_before, after)
    assert recovery is not None
    assert (recovery.seconds, recovery.settled_seconds) == (3.0, 3.5)
    assert (recovery.partitions, recovery.touched.count) == ((1,), 3)


def test_split_without_recovery_leaves_out_all_later_events() -> None:
    untouched, recovery = split_by_recovery([*BEFORE, journey(1, 9.95, 10.1, "b", completed=9.99)], KILL)
    assert untouched == tuple(BEFORE)
    assert recovery is not None
    assert recovery.seconds is None


def test_split_without_a_kill_takes_all() -> None:
    assert split_by_recovery(BEFORE, None) == (tuple(BEFORE), None)


def test_mean_batch_size_is_over_calls_not_outputs() -> None:
    stats = ModelStats()
    for _ in range(8):
        stats.add(1.0, batch_size=8)
    stats.add(1.1, batch_size=1)
    stats.add(1.2, batch_size=1)
    assert stats.mean_batch_size == pytest.approx(10 / 3)


def test_rate_counts_the_last_seconds_only() -> None:
    stats = ModelStats()
    for second in range(10):
        stats.add(float(second), batch_size=1)
    assert stats.rate(9.0) == pytest.approx(6 / 5)
    assert stats.rate(60.0) == 0.0
    assert stats.mean_batch_size == 1.0


def test_partition_without_later_events_does_not_count_once_the_run_is_finished() -> None:
    silent = [*BEFORE, journey(2, 9.0, 9.1, "b"), journey(1, 9.9, 12.0, "a")]
    _, unfinished = split_by_recovery(silent, KILL)
    _, finished = split_by_recovery(silent, KILL, finished=True)
    assert unfinished is not None
    assert finished is not None
    assert (unfinished.seconds, finished.seconds) == (None, 2.0)
    assert finished.partitions == (1,)
