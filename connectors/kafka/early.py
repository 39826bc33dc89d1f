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
        self._held: dict[TopicPartition, deque[SourceRecord]] = {}
        self._due: dict[TopicPartition, float] = {}
        """When the first of them is, by the monotonic clock: a jump of the other one moves nothing."""

    @property
    def partitions(self) -> Collection[TopicPartition]:
        """Those of which something is held back: nothing more of them is wanted."""
        return self._held.keys()

    def hold_back(self, partition: TopicPartition, record: SourceRecord) -> bool:
        """Keep a record that is not due, or comes after one that is not. False if it may be handed over now."""
        held = self._held.get(partition)
        if held is None:
            wait_seconds = self._wait_seconds(record)
            if wait_seconds <= 0:
                return False
            held = self._held[partition] = deque()
            self._due[partition] = self._monotonic() + wait_seconds
        held.append(record)
        return True

    def due(self, max_records: int) -> list[SourceRecord]:
        """What has become due, in order of each partition, and is held back no longer."""
        now = self._monotonic()
        found: list[SourceRecord] = []
        for partition in [each for each, due in self._due.items() if due <= now]:
            held = self._held[partition]
            while len(found) < max_records:
                found.append(held.popleft())
                if not held:
                    self.drop(partition)
                    break
                if (wait_seconds := self._wait_seconds(held[0])) > 0:
                    self._due[partition] = now + wait_seconds
                    break
        return found

    def drop(self, partition: TopicPartition) -> None:
        """It is ours no more, or nothing of it is held back."""
        self._held.pop(partition, None)
        self._due.pop(partition, None)
