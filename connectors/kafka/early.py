"""Records that are not due yet: held back, in order, partition by partition, while their partitions stand paused."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection

from headrace.pipeline.records import SourceRecord, TopicPartition


class EarlyRecords:
    """Of delay topics. The consumer thread's own.

    What is held back is not in flight: it counts in no budget, and no ledger knows it, so it is simply dropped when its
    partition goes. It is at most what was fetched before the partition was paused.

    Args:
        wait_seconds: how long a record must not be handed over yet; 0 if it is due.
        monotonic: seconds.
    """

    def __init__(
        self, wait_seconds: Callable[[SourceRecord], float], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wait_seconds = wait_seconds
        self._monotonic = monotonic
        self._held: dict[TopicPartition, deque[tuple[float, SourceRecord]]] = {}
        """Each with when it is due, by the monotonic clock since it was first seen: a wall clock that jumps, or is
        wrong, moves nothing, and makes no record wait for the one before it and then once more."""

    @property
    def partitions(self) -> Collection[TopicPartition]:
        """Those of which something is held back: nothing more of them is wanted."""
        return self._held.keys()

    def hold_back(self, partition: TopicPartition, record: SourceRecord) -> bool:
        """Keep a record that is not due, or comes after one that is not. False if it may be handed over now."""
        wait_seconds = self._wait_seconds(record)
        held = self._held.get(partition)
        if held is None:
            if wait_seconds <= 0:
                return False
            held = self._held[partition] = deque()
        held.append((self._monotonic() + wait_seconds, record))
        return True

    def due(self, max_records: int) -> list[SourceRecord]:
        """What has become due, in order of each partition, and is held back no longer."""
        now = self._monotonic()
        found: list[SourceRecord] = []
        for partition, held in list(self._held.items()):
            while held and held[0][0] <= now and len(found) < max_records:
                found.append(held.popleft()[1])
            if not held:
                self.drop(partition)
        return found

    def drop(self, partition: TopicPartition) -> None:
        """It is ours no more, or nothing of it is held back."""
        self._held.pop(partition, None)
