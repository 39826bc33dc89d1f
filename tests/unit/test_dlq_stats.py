"""Reasons, how many of each, and how that goes over time, however many there are and whatever they say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.letter_reasons import OTHERS, Reason, ReasonHistogram, bar, width_text
from headrace.pipeline.records import DeadLetter
from tests.unit.redrive_bench import NOW_MS, letter

MINUTE_MS, DAY_MS = 60_000, 86_400_000


def dead(code: str = "BAD_ID", **changed: Any) -> DeadLetter:
    return letter(1, code=code, stage="decode", **changed).content


def test_reasons_are_counted_the_most_frequent_first() -> None:
    histogram = ReasonHistogram()
    numbers = [
        histogram.add(dead("BAD_ID"), NOW_MS),
        histogram.add(dead("MODEL_REJECTED", route="image", model="image_jpeg"), NOW_MS + 1),
        histogram.add(dead("MODEL_REJECTED", route="image", model="image_jpeg"), NOW_MS - 5),
        histogram.add(dead("MODEL_REJECTED", route="text", model="echo"), NOW_MS),
    ]
    histogram.redrive(numbers[2])
    rows = histogram.rows()
    assert [(row.reason, row.count, row.redriven) for row in rows] == [
        (Reason("MODEL_REJECTED", "decode", "image", "image_jpeg"), 2, 1),
        (Reason("BAD_ID", "decode"), 1, 0),
        (Reason("MODEL_REJECTED", "decode", "text", "echo"), 1, 0),
    ]
    assert (rows[0].first_ms, rows[0].last_ms) == (NOW_MS - 5, NOW_MS + 1)
    assert (histogram.count, histogram.redriven) == (4, 1)


TIMES = st.lists(st.integers(1, NOW_MS * 4), min_size=1, max_size=60)


@given(TIMES | st.lists(st.integers(NOW_MS, NOW_MS + DAY_MS), min_size=1, max_size=60))
def test_buckets_hold_all_times_and_are_few_and_short_for_a_short_time(times: list[int]) -> None:
    histogram = ReasonHistogram(max_buckets=24)
    for index, at in enumerate(times):
        histogram.add(dead(f"CODE_{index % 3}"), at)
    width_ms, rows = histogram.bucket_seconds * 1000, histogram.rows()
    begin_ms = histogram.begin_ms
    assert begin_ms <= min(times) < begin_ms + width_ms
    assert len({len(row.buckets) for row in rows}) == 1
    assert len(rows[0].buckets) <= 24
    for number in range(len(rows[0].buckets)):
        inside = sum(begin_ms + number * width_ms <= at < begin_ms + (number + 1) * width_ms for at in times)
        assert sum(row.buckets[number] for row in rows) == inside
    assert histogram.bucket_seconds == 1 or max(times) - min(times) > 23_000


def test_time_that_nobody_knows_is_in_no_bucket() -> None:
    histogram = ReasonHistogram()
    histogram.add(dead(), -1)
    assert (histogram.rows()[0].buckets, histogram.rows()[0].first_ms, histogram.begin_ms) == ((), 0, 0)
    histogram.add(dead(), NOW_MS)
    assert histogram.rows()[0].buckets == (1,)


def test_reasons_that_senders_make_up_take_no_room_without_bound() -> None:
    histogram = ReasonHistogram(max_reasons=10)
    for index in range(1000):
        histogram.add(dead("UNKNOWN_MODEL", model=f"model-{index}"), NOW_MS)
    rows = histogram.rows()
    assert (rows[0].reason, rows[0].count, len(rows)) == (OTHERS, 990, 11)
    assert histogram.count == 1000


@pytest.mark.parametrize(
    ("buckets", "expected"), [((), ""), ((0, 0), "··"), ((1, 2, 8), "▁▂█"), ((1, 1000), "▁█"), ((5,), "█")]
)
def test_bar_is_the_higher_the_more(buckets: tuple[int, ...], expected: str) -> None:
    assert bar(buckets) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(1, "1 s"), (30, "30 s"), (300, "5 min"), (10_800, "3 h"), (604_800, "7 d")]
)
def test_width_is_said_in_its_unit(seconds: int, expected: str) -> None:
    assert width_text(seconds) == expected
