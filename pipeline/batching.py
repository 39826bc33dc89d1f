"""Micro-batches of one route: by rows, bytes and delay, over all partitions. Pure: time is an argument.

An item is one row of an infer call, or several that must not be parted: the frames of a video.

A batch is cut when a call slot asks for it (`Batcher.take`), not when a timer fires: while every slot is busy, what
waits goes on filling, so load makes batches larger by itself. See docs/decisions/005-routing-and-batching.md.

Of the items that wait, those of the highest priority are cut first, and the others fill the rest of their batch.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from headrace.pipeline.headers import DEFAULT_PRIORITY

T = TypeVar("T")
MOST_PASSES = 8
"""So often others of a higher priority pass what waits: it has a ninth of the calls at least, and none starves."""


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
        self._passes = 0  # so often in a row, the item that has waited longest was due and others were cut

    def add(
        self,
        item: T,
        weight_bytes: int,
        bucket: Hashable,
        now: float,
        max_records: int | None = None,
        rows: int = 1,
        priority: int = DEFAULT_PRIORITY,
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
        if new:
            self._push_head(waiting)
        if self._is_full(waiting):
            self._full.setdefault(bucket)

    def take(self, now: float, idle: bool) -> Batch[T] | None:
        """The batch that a free call slot should run now, None if it is better to wait for more items.

        A bucket is ready if its first item has waited for `max_delay_seconds`, if it is full, or if the route is idle.
        Of those that are, the one with the highest priority is cut, and of several the one that has waited longest (so
        none starves behind full ones). An item that is due and was passed over `MOST_PASSES` times goes first.

        Args:
            now: monotonic seconds.
            idle: waiting would gain nothing, for instance because no call of this route is in flight.
        """
        oldest = self._oldest()
        if oldest is None:
            return None
        first_at = oldest.first_at
        due = first_at + self._max_delay_seconds <= now
        if not (idle or due or self._full):
            return None
        starved = self._passes >= MOST_PASSES
        ready = oldest if starved or len(self._buckets) == 1 else self._first_ready(now, idle)
        batch = self._cut(ready, oldest_first=starved)
        passed = due and bool(oldest.levels) and oldest.first_at == first_at
        self._passes = self._passes + 1 if passed else 0
        return batch

    def _first_ready(self, now: float, idle: bool) -> _Waiting[T]:
        latest = now - self._max_delay_seconds
        ready = [each for each in self._buckets.values() if idle or each.first_at <= latest or self._is_full(each)]
        return min(ready, key=lambda each: (-each.levels[0].priority, each.first_at))

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

    def _cut(self, waiting: _Waiting[T], oldest_first: bool) -> Batch[T]:
        """Take one batch off the front of a bucket: its highest level first, behind what has waited longest if so."""
        items: list[T] = []
        batch_bytes = batch_rows = 0
        while waiting.levels:
            level = waiting.levels[0]
            if oldest_first and not items:
                level = min(waiting.levels, key=lambda each: each.items[0][2])
            item, weight_bytes, _, rows = level.items[0]
            if items and (batch_rows + rows > waiting.max_records or batch_bytes + weight_bytes > self._max_bytes):
                break
            batch_bytes += weight_bytes
            batch_rows += rows
            level.items.popleft()
            items.append(item)
            if not level.items:
                waiting.levels.remove(level)
        waiting.weight_bytes -= batch_bytes
        waiting.rows -= batch_rows
        self._settle(waiting)
        return Batch(tuple(items))

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
