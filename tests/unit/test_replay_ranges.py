from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.replay.ranges import (
    At,
    Bound,
    Earliest,
    Latest,
    Offsets,
    PartitionRange,
    Retained,
    bound,
    resolve,
    total,
)

NOW_MS = 1_800_000_000_000  # 2027-01-15T08:00:00Z
HOUR_MS = 3_600_000


class Topic:
    """`TopicHistory` whose records each have their offset as their time, in seconds.

    Behind what is committed there are so many ``opened`` ones, of transactions under way, which only times find.
    """

    def __init__(self, held: Mapping[int, Retained], opened: Mapping[int, int] | None = None) -> None:
        self._held = held
        self._opened = opened or {}
        self.asked: list[int] = []

    def retained(self) -> Mapping[int, Retained]:
        return self._held

    def offsets_at(self, epoch_ms: int) -> Mapping[int, int | None]:
        self.asked.append(epoch_ms)
        second = -(-epoch_ms // 1000)
        found = {partition: max(held.start, second) for partition, held in self._held.items()}
        last = {partition: held.end + self._opened.get(partition, 0) for partition, held in self._held.items()}
        return {partition: offset if offset < last[partition] else None for partition, offset in found.items()}


TWO = Topic({0: Retained(5, 20), 1: Retained(0, 10)})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("earliest", Earliest()),
        ("latest", Latest()),
        ("2027-01-15", At(NOW_MS - 8 * HOUR_MS)),
        ("2027-01-15T08:00", At(NOW_MS)),
        ("2027-01-15 08:00:00", At(NOW_MS)),
        ("20270115T080000", At(NOW_MS)),
        ("2027-01-15T08:00:00.25", At(NOW_MS + 250)),
        ("2027-01-15T08:00:00.123456Z", At(NOW_MS + 123)),
        ("2027-01-15T08:00Z", At(NOW_MS)),
        ("2027-01-15T10:00+02:00", At(NOW_MS)),
        ("2027-01-15T03:30:00-04:30", At(NOW_MS)),
        ("-90s", At(NOW_MS - 90_000)),
        ("-5m", At(NOW_MS - 300_000)),
        ("-2h", At(NOW_MS - 2 * HOUR_MS)),
        ("-1.5h", At(NOW_MS - HOUR_MS * 3 // 2)),
        ("-7d", At(NOW_MS - 7 * 24 * HOUR_MS)),
        ("-1w", At(NOW_MS - 7 * 24 * HOUR_MS)),
        ("-0s", At(NOW_MS)),
        ("0:1200", Offsets({0: 1200})),
        ("3:0,0:1200,11:7", Offsets({3: 0, 0: 1200, 11: 7})),
        (f"0:{2**63 - 1}", Offsets({0: 2**63 - 1})),
    ],
)
def test_bound_is_what_the_text_says(text: str, expected: Bound) -> None:
    assert bound(text, NOW_MS) == expected


@pytest.mark.parametrize("text", ["1969-12-31T23:59:59.999Z", "0001-01-01", "-2h", "-9999999w", f"-{'9' * 400}d"])
def test_time_before_all_records_is_their_beginning(text: str) -> None:
    """Kafka takes times below 0 for names of places: -1 for the end."""
    assert bound(text, HOUR_MS) == At(0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Earliest",
        " latest",
        "yesterday",
        "2h",
        "-2",
        "-2y",
        "-h",
        "-1e3s",
        "--2h",
        "1200",
        "0:",
        ":5",
        "0:5,",
        "0:-5",
        "0:5;1:6",
        "0: 5",
        "2027-13-01",
        "2027-01-15T25:00",
        "2027-01-15T08:00+2",
    ],
)
def test_text_that_is_no_place_is_refused_with_the_ways_to_say_one(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bound(text, NOW_MS)
    message = str(caught.value)
    assert message.startswith(f"{text!r} is no place in a topic: ")
    for way in ("earliest", "latest", "2026-11-27T09:00", "UTC", "-2h", "0:1200,1:1180"):
        assert way in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:5,1:6,0:7", "'0:5,1:6,0:7' names a partition twice"),
        (f"0:{2**63}", f"'0:{2**63}' has an offset beyond {2**63 - 1}"),
    ],
)
def test_offsets_that_no_partition_can_have_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        bound(text, NOW_MS)


@settings(deadline=None)  # a busy machine
@given(st.integers(0, 4_102_444_800), st.integers(-14 * 60, 14 * 60))
def test_time_means_the_same_in_every_zone(second: int, ahead_minutes: int) -> None:
    zone = timezone(timedelta(minutes=ahead_minutes))
    assert bound(datetime.fromtimestamp(second, zone).isoformat(), NOW_MS) == At(second * 1000)


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (Earliest(), Latest(), ((0, 5, 20), (1, 0, 10))),
        (Earliest(), Earliest(), ((0, 5, 5), (1, 0, 0))),
        (Latest(), Latest(), ((0, 20, 20), (1, 10, 10))),
        (Latest(), Earliest(), ((0, 20, 20), (1, 10, 10))),
        (At(7_000), At(9_000), ((0, 7, 9), (1, 7, 9))),
        (At(6_001), At(8_999), ((0, 7, 9), (1, 7, 9))),
        (At(0), At(7_000), ((0, 5, 7), (1, 0, 7))),
        (At(0), At(3_000), ((0, 5, 5), (1, 0, 3))),
        (At(12_000), At(99_000), ((0, 12, 20), (1, 10, 10))),
        (At(99_000), Latest(), ((0, 20, 20), (1, 10, 10))),
        (At(9_000), At(7_000), ((0, 9, 9), (1, 9, 9))),
        (Offsets({0: 6, 1: 2}), Offsets({0: 8, 1: 3}), ((0, 6, 8), (1, 2, 3))),
        (Offsets({0: 5, 1: 0}), Offsets({0: 20, 1: 10}), ((0, 5, 20), (1, 0, 10))),
        (Offsets({0: 8}), Offsets({0: 6}), ((0, 8, 8),)),
        (Offsets({1: 4}), Latest(), ((1, 4, 10),)),
        (Earliest(), Offsets({1: 4}), ((1, 0, 4),)),
        (Offsets({0: 6, 1: 2}), Offsets({1: 3}), ((1, 2, 3),)),
        (At(8_000), Offsets({0: 6}), ((0, 8, 8),)),
    ],
)
def test_range_is_between_its_bounds_or_empty(
    begin: Bound, end: Bound, expected: tuple[tuple[int, int, int], ...]
) -> None:
    found = resolve(TWO, begin, end)
    assert tuple((each.partition, each.start, each.end) for each in found) == expected
    assert total(found) == sum(end - start for _, start, end in expected)


def test_what_is_not_committed_is_not_in_the_range_though_a_time_finds_it() -> None:
    topic = Topic({0: Retained(0, 10)}, {0: 5})
    assert resolve(topic, Earliest(), At(13_000)) == (PartitionRange(0, 0, 10),)
    assert resolve(topic, At(13_000), Latest()) == (PartitionRange(0, 10, 10),)


def test_partitions_come_in_their_order() -> None:
    topic = Topic({2: Retained(0, 1), 0: Retained(0, 1), 1: Retained(0, 1)})
    assert [each.partition for each in resolve(topic, Earliest(), Latest())] == [0, 1, 2]


def test_only_times_are_asked_for() -> None:
    topic = Topic({0: Retained(0, 10)})
    resolve(topic, Earliest(), Offsets({0: 3}))
    assert topic.asked == []
    resolve(topic, At(1_000), At(2_000))
    assert topic.asked == [1_000, 2_000]


@pytest.mark.parametrize(
    ("begin", "end", "message"),
    [
        (Offsets({0: 4}), Latest(), "offset 4 is not in partition 0: it holds 5 to 20"),
        (Earliest(), Offsets({1: 3, 0: 21}), "offset 21 is not in partition 0: it holds 5 to 20"),
        (Offsets({2: 0}), Latest(), "there is no partition 2: the topic has 0 to 1"),
        (Offsets({0: 6}), Offsets({1: 6}), "the range is empty: its two ends name different partitions"),
    ],
)
def test_offsets_outside_the_topic_are_refused(begin: Bound, end: Bound, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        resolve(TWO, begin, end)
