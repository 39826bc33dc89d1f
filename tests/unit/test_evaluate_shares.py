"""Ranges are shared out evenly, and nothing is lost or read twice."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.evaluate.shares import TopicRanges, shares
from headrace.pipeline.replay.ranges import PartitionRange, total

RANGES = st.lists(
    st.builds(lambda start, offsets: (start, start + offsets), st.integers(0, 100), st.integers(0, 30)), max_size=4
).map(lambda ends: tuple(PartitionRange(partition, *each) for partition, each in enumerate(ends)))
TOPICS = st.lists(RANGES, max_size=3).map(
    lambda found: tuple(TopicRanges(f"topic-{number}", ranges) for number, ranges in enumerate(found))
)


def offsets(whole: Sequence[TopicRanges]) -> list[tuple[str, int, int]]:
    return [
        (each.topic, held.partition, offset)
        for each in whole
        for held in each.ranges
        for offset in range(held.start, held.end)
    ]


@given(TOPICS, st.integers(1, 9))
def test_shares_one_behind_the_other_are_the_whole(whole: tuple[TopicRanges, ...], count: int) -> None:
    found = shares(whole, count)
    assert len(found) == count
    assert [place for share in found for place in offsets(share)] == offsets(whole)
    sizes = [sum(total(each.ranges) for each in share) for share in found]
    assert max(sizes) - min(sizes) <= 1
    assert all(held.offsets for share in found for each in share for held in each.ranges)


def test_one_share_is_the_whole_but_for_what_is_empty() -> None:
    held, empty = PartitionRange(0, 5, 8), PartitionRange(1, 9, 9)
    assert shares([TopicRanges("a", (held, empty)), TopicRanges("b", (empty,))], 1) == [(TopicRanges("a", (held,)),)]
