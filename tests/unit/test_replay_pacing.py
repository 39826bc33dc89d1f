from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.pacing import MAX_CATCH_UP_SECONDS
from headrace.pipeline.replay.pacing import LiveSpeed, Pacing, PerSecond, Rate, pacing, rate

START_MS = 1_700_000_000_000


def handed_on(schedule: Pacing, timestamps_ms: list[int], now: float, cost_seconds: float = 0.0) -> list[float]:
    """When records go, each of which takes so long, by a caller that waits as told."""
    went = []
    for timestamp_ms in timestamps_ms:
        now += max(0.0, schedule.wait_seconds(timestamp_ms, now))
        schedule.take(now)
        went.append(now)
        now += cost_seconds
    return went


# --- what --rate says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("unlimited", None),
        ("200", ("per second", 200.0)),
        ("0.5", ("per second", 0.5)),
        ("1e3", ("per second", 1000.0)),
        ("x2", ("speed", 2.0)),
        ("x0.5", ("speed", 0.5)),
        ("x.5", ("speed", 0.5)),
        ("1x", ("speed", 1.0)),
        ("2.5x", ("speed", 2.5)),
    ],
)
def test_rate_is_of_records_or_of_live_speed(text: str | None, expected: Rate) -> None:
    assert rate(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "x0", "x", "x-1", "x1x", "1.2.3x", "x1e3", "nan", "inf", "xinf", "fast", "200/s", "X2"]
)
def test_rate_that_is_none_is_refused(text: str) -> None:
    message = f"--rate {text}: give records a second (200), a multiple of live speed (x2) or unlimited"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        rate(text)


def test_schedule_is_of_the_kind_that_is_wanted() -> None:
    assert pacing(None, 0.0) is None
    assert isinstance(pacing(("per second", 5.0), 0.0), PerSecond)
    assert isinstance(pacing(("speed", 5.0), 0.0), LiveSpeed)


# --- schedules ------------------------------------------------------------------------------------------------------


def test_records_a_second_are_evenly_spaced_whatever_their_times() -> None:
    schedule = pacing(("per second", 4.0), 10.0)
    assert schedule is not None
    times = [START_MS + 3_600_000, -1, START_MS, START_MS]
    assert handed_on(schedule, times, 10.0, cost_seconds=0.1) == pytest.approx([10.0, 10.25, 10.5, 10.75])


def test_rate_makes_no_burst_after_a_long_hold_up() -> None:
    schedule = PerSecond(10.0, 0.0)
    handed_on(schedule, [START_MS], 0.0)
    went = handed_on(schedule, [START_MS] * 50, 60.0)
    assert sum(moment == pytest.approx(60.0) for moment in went) <= MAX_CATCH_UP_SECONDS * 10 + 1


@pytest.mark.parametrize(
    ("speed", "expected"), [(1.0, [0, 1.5, 1.5, 10]), (2.0, [0, 0.75, 0.75, 5]), (0.5, [0, 3, 3, 20])]
)
def test_live_speed_keeps_the_distances_of_timestamps(speed: float, expected: list[float]) -> None:
    times = [START_MS, START_MS + 1_500, START_MS + 1_500, START_MS + 10_000]
    assert handed_on(LiveSpeed(speed), times, 100.0) == pytest.approx([100.0 + each for each in expected])


@settings(deadline=None)  # a busy machine
@given(st.lists(st.integers(0, 60_000), min_size=1).map(sorted), st.floats(0.1, 100), st.floats(0, 5))
def test_live_speed_hands_nothing_on_before_its_time(offsets_ms: list[int], speed: float, cost: float) -> None:
    times = [START_MS + each for each in offsets_ms]
    went = handed_on(LiveSpeed(speed), times, 7.0, cost)
    for moment, time_ms in zip(went, times, strict=True):
        assert moment >= 7.0 + (time_ms - times[0]) / 1000 / speed - 1e-6


def test_live_speed_begins_with_the_first_record_not_with_the_schedule() -> None:
    schedule = pacing(("speed", 1.0), 0.0)
    assert schedule is not None
    assert handed_on(schedule, [START_MS, START_MS + 1_000], 300.0) == pytest.approx([300.0, 301.0])


def test_record_that_is_asked_about_again_waits_as_long_as_is_left() -> None:
    schedule = LiveSpeed(1.0)
    schedule.wait_seconds(START_MS, 0.0)
    waits = [schedule.wait_seconds(START_MS + 2_000, now) for now in (0.0, 0.5, 2.0, 3.0)]
    assert waits == pytest.approx([2.0, 1.5, 0.0, -1.0])


def test_record_that_is_late_or_has_no_time_goes_at_once() -> None:
    schedule = LiveSpeed(1.0)
    assert schedule.wait_seconds(-1, 0.0) <= 0
    assert schedule.wait_seconds(START_MS, 5.0) == 0  # the one before did not set the start
    assert schedule.wait_seconds(START_MS - 60_000, 5.0) <= 0
    assert schedule.wait_seconds(-1, 5.0) <= 0
