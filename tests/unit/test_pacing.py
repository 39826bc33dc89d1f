from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.pacing import MAX_CATCH_UP_SECONDS, Pace


def times(pace: Pace, costs: list[float], now: float = 0.0) -> list[float]:
    """When events go whose sending takes so long each, waiting as told."""
    went = []
    for cost in costs:
        now += max(0.0, pace.wait_seconds(now))
        pace.take(now)
        went.append(now)
        now += cost
    return went


def test_events_are_evenly_spaced() -> None:
    assert times(Pace(4, 10.0), [0.0] * 4, 10.0) == pytest.approx([10.0, 10.25, 10.5, 10.75])


@given(st.floats(0.5, 500), st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_time_that_sending_takes_does_not_add_up(rate: float, shares: list[float]) -> None:
    """However long each takes, within its turn: the last is where the schedule has it, not later."""
    went = times(Pace(rate, 0.0), [share / rate for share in shares])
    assert went == pytest.approx([number / rate for number in range(len(shares))])


def test_short_hold_up_is_made_up_for() -> None:
    went = times(Pace(10, 0.0), [0.0, 0.4, *[0.0] * 8])
    assert went[-1] == pytest.approx(0.9)


def test_long_hold_up_is_no_burst_afterwards() -> None:
    went = times(Pace(10, 0.0), [0.0, 60.0, *[0.0] * 98])
    burst = sum(1 for moment in went if moment == pytest.approx(went[2]))
    assert burst <= MAX_CATCH_UP_SECONDS * 10 + 1
    assert went[-1] == pytest.approx(went[2] + 9.7 - MAX_CATCH_UP_SECONDS)


def test_hold_up_is_made_up_for_as_far_as_is_asked_for() -> None:
    costs = [0.0, 60.0, *[0.0] * 998]
    assert times(Pace(10, 0.0, math.inf), costs)[-1] == pytest.approx(99.9)
    assert times(Pace(10, 0.0, 5.0), costs)[-1] == pytest.approx(99.9 + 60.1 - 0.2 - 5.0)
