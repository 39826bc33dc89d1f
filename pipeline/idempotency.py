"""Upstream duplicates: which record of a partition repeats an event that has had its result. Pure: no clock, no I/O.

A record is a duplicate if the result of its id that was committed last, in its partition, is that of a record with a
lower offset, whose timestamp is at most a window away. An id counts when its result is committed: until then records of
the same id are *parked* behind the first. Its offset is lower, as is that of all that it may wait for in its order
itself, so waiting for one's first cannot deadlock.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from typing import Generic, NamedTuple, TypeVar

from headrace.pipeline.errors import FatalError

_FORMAT = struct.Struct(">Bqq")
_VERSION = 1
Parked = TypeVar("Parked")


class Seen(NamedTuple):
    """Where the result of an id came from: its record's timestamp, in epoch milliseconds, and offset."""

    timestamp_ms: int
    offset: int


def key_of(event_id: str) -> bytes:
    """An event id, a UUID, as the key of its record in the changelog."""
    return event_id.lower().encode()


def encode_seen(seen: Seen) -> bytes:
    """The value of an id's record in the changelog: a version byte, then timestamp and offset, big-endian."""
    return _FORMAT.pack(_VERSION, seen.timestamp_ms, seen.offset)


def decode_seen(value: bytes | None) -> Seen:
    """Raises FatalError for what no worker of this release has written: to guess would be to answer twice, or never."""
    if value is None or len(value) != _FORMAT.size or value[0] != _VERSION:
        raise FatalError(
            f"{'no value' if value is None else f'a value that begins {value[:4].hex()!r}'} is none that this release "
            "writes: run the release that wrote it, or stop all workers and delete the topic (its ids are forgotten)"
        )
    _, timestamp_ms, offset = _FORMAT.unpack(value)
    return Seen(timestamp_ms, offset)


class Arrival(enum.Enum):
    """What becomes of a record that arrives."""

    FIRST = "first"
    """It is processed; records of its id that come while it is in flight are parked."""
    DUPLICATE = "duplicate"
    PARKED = "parked"


class _Waiting(NamedTuple, Generic[Parked]):
    offset: int
    timestamp_ms: int
    window_ms: float
    parked: Parked


class PartitionIds(Generic[Parked]):
    """The ids of one partition during one assignment: those that have had results, and those in flight.

    What is to be known of records that are parked is the caller's, of one type: ``Parked``.

    Args:
        max_ids: so many that have had results are remembered, those whose results were committed last.
    """

    def __init__(self, max_ids: int) -> None:
        self._max_ids = max_ids
        self._seen: dict[bytes, Seen] = {}  # in the order of their commits
        self._firsts: dict[int, bytes] = {}
        self._waiting: dict[bytes, deque[_Waiting[Parked]]] = {}
        """Behind each first."""

    def __len__(self) -> int:
        return len(self._seen)

    def note(self, key: bytes, seen: Seen) -> None:
        """An id has a result, which is committed. If it had one before, this one counts."""
        self._seen.pop(key, None)
        self._seen[key] = seen
        if len(self._seen) > self._max_ids:
            del self._seen[next(iter(self._seen))]

    def forget(self, key: bytes) -> None:
        """As if an id never had a result."""
        self._seen.pop(key, None)

    def arrive(self, offset: int, key: bytes, timestamp_ms: int, window_ms: float, parked: Parked) -> Arrival:
        """A record has been consumed. To be called in offset order. ``parked`` is kept as long as it is."""
        record = _Waiting(offset, timestamp_ms, window_ms, parked)
        if self._is_duplicate(key, record):
            return Arrival.DUPLICATE
        if (behind := self._waiting.get(key)) is not None:
            behind.append(record)
            return Arrival.PARKED
        self._begin(key, offset)
        return Arrival.FIRST

    def settle(self, offset: int) -> tuple[tuple[Parked, Arrival], ...]:
        """What came of a record is committed, and noted if it was a result. Which parked ones that frees, by offset.

        Each is now a duplicate or, at most the last of them, a first.
        """
        key = self._firsts.pop(offset, None)
        if key is None:
            return ()
        freed: list[tuple[Parked, Arrival]] = []
        behind = self._waiting.pop(key)
        while behind:
            record = behind.popleft()
            if self._is_duplicate(key, record):
                freed.append((record.parked, Arrival.DUPLICATE))
            else:
                self._begin(key, record.offset, behind)
                freed.append((record.parked, Arrival.FIRST))
                break
        return tuple(freed)

    def _begin(self, key: bytes, offset: int, behind: deque[_Waiting[Parked]] | None = None) -> None:
        self._firsts[offset] = key
        self._waiting[key] = deque() if behind is None else behind

    def _is_duplicate(self, key: bytes, record: _Waiting[Parked]) -> bool:
        """Not of itself, or of a later one: the group's offsets were set back, to have all of it answered again."""
        seen = self._seen.get(key)
        return (
            seen is not None
            and seen.offset < record.offset
            and abs(record.timestamp_ms - seen.timestamp_ms) <= record.window_ms
        )
