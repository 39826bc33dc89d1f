"""Micro-batches of one route: by rows, bytes and delay, over all partitions. Pure: time is an argument.

An item is one row of an infer call, or several that must not be parted: the frames of a video.

A batch is cut when a call slot asks for it (`Batcher.take`), not when a timer fires: while every slot is busy, what
waits goes on filling, so load makes batches larger by itself. See docs/decisions/005-routing-and-batching.md.

Of the items that wait, those of the highest priority are cut first; the others fill the rest of their batch.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """Items of one bucket that share an infer call, oldest first."""

    items: tuple[T, ...]


class _Level(Generic[T]):
    """Items of one bucket and one priority, in order of arrival: each with its weight, when it was added, its rows."""

    __slots__ = ("items", "priority")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.items: deque[tuple[T, int, float, int]] = deque()


class _Waiting(Generic[T]):
    """The items of one bucket, by priority, the highest first; a level is there while it has items."""

    __slots__ = ("bucket", "levels", "max_records", "rows", "weight_bytes")

    def __init__(self, bucket: Hashable, max_records: int) -> None:
        self.bucket = bucket
        self.max_records = max_records
        self.levels: list[_Level[T]] = []
        self.weight_bytes = 0
        self.rows = 0

    def level(self, priority: int) -> _Level[T]:
        for level in self.levels:
            if level.priority == priority:
                return level
        level = _Level(priority)
        self.levels.append(level)
        self.levels.sort(key=lambda each: -each.priority)
        return level

    @property
    def first_at(self) -> float:
        """When the item was added that has waited longest. Only while there is one."""
        return min([level.items[0][2] for level in self.levels])


class Batcher(Generic[T]):
    """Collects items into buckets and hands out batches, first in, first out within a bucket.

    Args:
        max_records: most rows in a batch, 1 or more; an item of more goes alone.
        max_bytes: most bytes in a batch; an item heavier than that goes alone.
        max_delay_seconds: how long an item may wait for others while a call slot is free.
    """

    def __init__(self, max_records: int, max_bytes: int, max_delay_seconds: float) -> None:
        if max_records < 1 or max_bytes < 1 or max_delay_seconds < 0:
            raise ValueError("max_records and max_bytes must be 1 or more, max_delay_seconds 0 or more")
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._max_delay_seconds = max_delay_seconds
        self._buckets: dict[Hashable, _Waiting[T]] = {}
        self._full: dict[Hashable, None] = {}  # in the order in which they became full
        self._heads: list[tuple[float, int, _Waiting[T]]] = []  # heap of (added at, tie-break, bucket); may be stale
        self._sequence = 0
        self._priorities: Counter[int] = Counter()  # of the items that wait

    def add(
        self,
        item: T,
        weight_bytes: int,
        bucket: Hashable,
        now: float,
        max_records: int | None = None,
        rows: int = 1,
        priority: int = 0,
    ) -> None:
        """Add one item.

        Args:
            item: handed back in exactly one batch.
            weight_bytes: its share of `max_bytes`.
            bucket: items of different buckets never share a batch.
            now: monotonic seconds, never less than at the last call.
            max_records: a tighter bound for this bucket, for a model whose own limit is lower.
            rows: its share of `max_records`.
            priority: items of a higher one are cut before it.
        """
        waiting = self._buckets.get(bucket)
        if waiting is None:
            limit = self._max_records if max_records is None else max(1, min(max_records, self._max_records))
            waiting = self._buckets[bucket] = _Waiting(bucket, limit)
        new = not waiting.levels
        waiting.level(priority).items.append((item, weight_bytes, now, rows))
        waiting.weight_bytes += weight_bytes
        waiting.rows += rows
        self._priorities[priority] += 1
        if new:
            self._push_head(waiting)
        if self._is_full(waiting):
            self._full.setdefault(bucket)

    def take(self, now: float, idle: bool) -> Batch[T] | None:
        """The batch that a free call slot should run now, None if it is better to wait for more items.

        There is one if an item has waited for `max_delay_seconds`, if a bucket is full, or if the route is idle. It is
        of the bucket with the highest priority; of several, in this order: of the one whose first item has waited
        longest, if that is `max_delay_seconds` or more (so none starves behind full ones), or if the route is idle;
        of a full one.

        Args:
            now: monotonic seconds.
            idle: waiting would gain nothing, for instance because no call of this route is in flight.
        """
        oldest = self._oldest()
        if oldest is None:
            return None
        due = idle or oldest.first_at + self._max_delay_seconds <= now
        if not due and not self._full:
            return None
        if len(self._priorities) > 1:
            highest = max(self._priorities)
            ranked = [each for each in self._buckets.values() if each.levels[0].priority == highest]
            return self._cut(min(ranked, key=lambda each: each.levels[0].items[0][2]))
        return self._cut(oldest if due else self._buckets[next(iter(self._full))])

    def next_due(self) -> float | None:
        """The time from which `take` gives a batch even if the route is not idle; None if nothing waits."""
        oldest = self._oldest()
        if oldest is None:
            return None
        added_at = oldest.first_at
        return added_at if self._full else added_at + self._max_delay_seconds

    def _is_full(self, waiting: _Waiting[T]) -> bool:
        return waiting.rows >= waiting.max_records or waiting.weight_bytes >= self._max_bytes

    def _push_head(self, waiting: _Waiting[T]) -> None:
        self._sequence += 1
        heapq.heappush(self._heads, (waiting.first_at, self._sequence, waiting))

    def _oldest(self) -> _Waiting[T] | None:
        """The bucket whose first item was added first."""
        while self._heads:
            added_at, _, waiting = self._heads[0]
            if waiting.levels and waiting.first_at == added_at:
                return waiting
            heapq.heappop(self._heads)  # its head was cut as part of a full bucket
        return None

    def _cut(self, waiting: _Waiting[T]) -> Batch[T]:
        """Take one batch off the front of a bucket, its highest level first."""
        items: list[T] = []
        batch_bytes = batch_rows = 0
        while waiting.levels:
            level = waiting.levels[0]
            item, weight_bytes, _, rows = level.items[0]
            batch_bytes += weight_bytes
            batch_rows += rows
            if items and (batch_rows > waiting.max_records or batch_bytes > self._max_bytes):
                batch_bytes -= weight_bytes
                batch_rows -= rows
                break
            level.items.popleft()
            items.append(item)
            self._leave(level.priority)
            if not level.items:
                del waiting.levels[0]
        waiting.weight_bytes -= batch_bytes
        waiting.rows -= batch_rows
        self._settle(waiting)
        return Batch(tuple(items))

    def _leave(self, priority: int) -> None:
        """One item less of this priority."""
        self._priorities[priority] -= 1
        if not self._priorities[priority]:
            del self._priorities[priority]

    def _settle(self, waiting: _Waiting[T]) -> None:
        """Bring the indexes in line after items left the bucket."""
        if not waiting.levels:
            del self._buckets[waiting.bucket]
            self._full.pop(waiting.bucket, None)
            return
        if not self._is_full(waiting):
            self._full.pop(waiting.bucket, None)
        if len(self._heads) > 2 * len(self._buckets) + 64:  # mostly stale entries: start afresh
            self._heads.clear()
            for other in self._buckets.values():
                self._push_head(other)
        else:
            self._push_head(waiting)


def halves(items: tuple[T, ...]) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """Split a batch that was refused as a whole, to find the item at fault: it stands alone after log2(n) splits.

    Raises:
        ValueError: for fewer than two items; a single item that is refused is itself at fault.
    """
    if len(items) < 2:
        raise ValueError("a batch of one cannot be halved")
    middle = len(items) // 2
    return items[:middle], items[middle:]
