"""How much may be in flight: consumed and not yet committed."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from headrace.pipeline.config import Settings
from headrace.pipeline.retrying import delay_topics

RESUMED_SHARE, RESUMED_RECORDS = 0.8, 256
"""A topic that has been paused for want of room is read again when so much of its share is taken, and there is room for
so many records, or half of it is free: to pause throws fetched records away, so it must not happen for each of them;
and all that comes at once stands before other topics' records."""


class _Share:
    """Each counter only grows and has one writer, so no lock is needed to read the difference."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self.max_records = max_records
        self.max_bytes = max_bytes
        self.taken_records = self.taken_bytes = 0
        self.released_records = self.released_bytes = 0

    @property
    def records(self) -> int:
        return self.taken_records - self.released_records

    @property
    def size_bytes(self) -> int:
        return self.taken_bytes - self.released_bytes

    @property
    def full(self) -> bool:
        return self.records >= self.max_records or self.size_bytes >= self.max_bytes

    @property
    def scant(self) -> bool:
        """Whether there is not room enough to go on with what has been paused."""
        free = max((1 - RESUMED_SHARE) * self.max_records, min(RESUMED_RECORDS, self.max_records / 2))
        return self.max_records - self.records < free or self.size_bytes > RESUMED_SHARE * self.max_bytes


class Budget:
    """Records and bytes in flight in this worker.

    Topics that are apart have an equal share of it, and all others together have one: so none can take the room of
    another. The consumer thread takes, the event loop releases.

    Args:
        max_records, max_bytes: of all shares together.
        apart: topics that have a share, each time for these together.
    """

    def __init__(self, max_records: int, max_bytes: int, apart: Sequence[Collection[str]] = ()) -> None:
        count = len(apart) + 1
        self._others, *own = (_Share(max(1, max_records // count), max(1, max_bytes // count)) for _ in range(count))
        self._apart = {topic: share for topics, share in zip(apart, own, strict=True) for topic in topics}
        self._shares = (self._others, *own)
        self._room = threading.Condition()

    @property
    def divided(self) -> bool:
        """Whether there are topics with a share of their own."""
        return bool(self._apart)

    @property
    def records(self) -> int:
        return sum(share.records for share in self._shares)

    @property
    def size_bytes(self) -> int:
        return sum(share.size_bytes for share in self._shares)

    @property
    def full(self) -> bool:
        """Whether nothing more may be taken, of any topic."""
        return all(share.full for share in self._shares)

    @property
    def crowded(self) -> bool:
        """Whether nothing more may be taken of some topic."""
        return any(share.full for share in self._shares)

    @property
    def room_records(self) -> int:
        """How many more records may be taken now, of all topics together; 0 if it is full."""
        return sum(share.max_records - share.records for share in self._shares if not share.full)

    def _share_of(self, topic: str) -> _Share:
        return self._apart.get(topic, self._others)

    def is_full(self, topic: str) -> bool:
        """Whether nothing more may be taken of this topic."""
        return self._share_of(topic).full

    def room_of(self, topic: str) -> int:
        """How many more records may be taken now of this topic, and of those that share with it; 0 if that is full."""
        share = self._share_of(topic)
        return 0 if share.full else share.max_records - share.records

    def crowds_out(self, topic: str, paused: bool) -> bool:
        """Whether nothing more may be taken of this topic, or not much more and it is paused, while others go on."""
        if not self.divided:
            return False
        share = self._share_of(topic)
        return share.full or (paused and share.scant)

    def take(self, records: int, size_bytes: int, topic: str = "") -> None:
        """Consumer thread only."""
        share = self._share_of(topic)
        share.taken_records += records
        share.taken_bytes += size_bytes

    def release(self, records: int, size_bytes: int, topic: str = "") -> None:
        """Event loop only."""
        share = self._share_of(topic)
        share.released_records += records
        share.released_bytes += size_bytes
        with self._room:
            self._room.notify_all()

    def wait_for_room(self, timeout_seconds: float) -> bool:
        """Block the consumer thread until it is not full; False on time-out."""
        with self._room:
            return self._room.wait_for(lambda: not self.full, timeout_seconds)


def worker_budget(settings: Settings, replays: bool = False) -> Budget:
    """A worker's: a share for each lane, one for what comes from all delay topics, and one for all other topics.

    The last two are one if either would be idle. Without lanes nothing is divided, nor in a replay: it reads one topic.
    """
    lanes = [] if replays else sorted(settings.lanes)
    apart: list[Collection[str]] = [[lane] for lane in lanes]
    delays = delay_topics(settings).keys() - {settings.redriven_topic}
    if lanes and delays and not settings.lanes.issuperset(settings.topics.requests):
        apart.append(delay_topics(settings))
    return Budget(settings.worker.max_in_flight_records, settings.worker.max_in_flight_bytes, apart)
