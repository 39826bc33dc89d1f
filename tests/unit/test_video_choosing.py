"""Which frames are kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.video.choosing import ByChange, ByTime, Chooser


def kept(chooser: Chooser, times: Sequence[float], greys: Sequence[int] = ()) -> list[float]:
    """The times of the frames that are kept; each frame is of one grey."""
    for number, seconds in enumerate(times):
        grey = greys[number] if greys else 0
        chooser.offer(seconds, partial(np.full, (36, 64, 3), grey, np.uint8), lambda: b"x")
    return [each.seconds for each in chooser.kept]


def test_first_frame_of_each_period_is_kept() -> None:
    assert kept(ByTime(0.5, 64), [0, 0.2, 0.4, 0.6, 0.8, 1.7, 1.8, 2.0]) == [0, 0.6, 1.7, 2.0]


def test_frames_that_come_a_rounding_early_count_as_on_time() -> None:
    times = [number / 30 for number in range(60)]
    assert kept(ByTime(1 / 10, 64), times) == pytest.approx([number / 10 for number in range(20)])


def test_too_many_frames_are_thinned_evenly() -> None:
    chooser = ByTime(1.0, 8)
    assert kept(chooser, [float(second) for second in range(30)]) == [0, 4, 8, 12, 16, 20, 24, 28]
    assert chooser.thinned


@settings(deadline=None)  # a busy machine
@given(st.lists(st.floats(0, 1000), min_size=1, max_size=200).map(sorted), st.integers(1, 20), st.floats(0.01, 100))
def test_frames_kept_by_time_are_bounded_in_order_and_begin_at_the_first(
    times: list[float], most: int, period_seconds: float
) -> None:
    found = kept(ByTime(period_seconds, most), times)
    assert 1 <= len(found) <= most
    assert found == sorted(found)
    assert found[0] == times[0]


def test_frames_are_kept_where_the_picture_changes() -> None:
    assert kept(ByChange(0.1, 64), range(8), [0, 1, 2, 90, 91, 90, 200, 200]) == [0, 3, 6]


def test_pictures_are_looked_at_ten_times_a_second() -> None:
    times = [number / 100 for number in range(60)]
    greys = [0 if number < 31 else 200 for number in range(60)]
    assert kept(ByChange(0.1, 64), times, greys) == [0, 0.4]


def test_slow_change_is_seen_against_the_last_frame_that_was_kept() -> None:
    assert kept(ByChange(0.1, 64), range(11), [10 * number for number in range(11)]) == [0, 3, 6, 9]


def test_least_changes_go_when_there_are_too_many() -> None:
    assert kept(ByChange(0.05, 3), range(6), [0, 100, 120, 250, 230, 20]) == [0, 3, 5]


@settings(deadline=None)  # a busy machine
@given(st.lists(st.integers(0, 255), min_size=1, max_size=60), st.integers(1, 8), st.floats(0.01, 1))
def test_frames_kept_by_change_are_bounded_in_order_and_begin_at_the_first(
    greys: list[int], most: int, threshold: float
) -> None:
    found = kept(ByChange(threshold, most), range(len(greys)), greys)
    assert 1 <= len(found) <= most
    assert found == sorted(found)
    assert found[0] == 0


def test_picture_that_changes_its_size_is_compared_all_the_same() -> None:
    chooser = ByChange(0.1, 8)
    for number, size in enumerate([(36, 64, 3), (100, 20, 3), (1, 1, 3)]):
        chooser.offer(float(number), partial(np.full, size, 80 * number, np.uint8), lambda: b"x")
    assert [each.seconds for each in chooser.kept] == [0, 1, 2]
