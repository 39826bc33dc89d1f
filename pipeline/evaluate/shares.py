"""Ranges of topics, shared out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.pipeline.replay.ranges import PartitionRange, total


@dataclass(frozen=True, slots=True)
class TopicRanges:
    """Ranges of one topic."""

    topic: str
    ranges: tuple[PartitionRange, ...]


Share = tuple[TopicRanges, ...]


def shares(whole: Sequence[TopicRanges], count: int) -> list[Share]:
    """So many shares of about as many offsets: one behind the other they are the whole, in its order.

    A range may be in several of them, and a share may be empty.
    """
    offsets = sum(total(each.ranges) for each in whole)
    return [_between(whole, offsets * number // count, offsets * (number + 1) // count) for number in range(count)]


def _between(whole: Sequence[TopicRanges], begin: int, end: int) -> Share:
    """What lies between two places in all offsets, one behind the other."""
    found, passed = [], 0
    for each in whole:
        ranges = []
        for held in each.ranges:
            first, last = (min(max(place - passed, 0), held.offsets) for place in (begin, end))
            if first < last:
                ranges.append(PartitionRange(held.partition, held.start + first, held.start + last))
            passed += held.offsets
        if ranges:
            found.append(TopicRanges(each.topic, tuple(ranges)))
    return tuple(found)
