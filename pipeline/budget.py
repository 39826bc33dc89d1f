"""How much may be in flight: consumed and not yet committed."""

from __future__ import annotations

import threading


class Budget:
    """Records and bytes in flight in this worker.

    The consumer thread takes, the event loop releases. Each counter only grows and has one writer, so no lock is
    needed to read the difference; the condition is for waiting alone.
    """

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._taken_records = self._taken_bytes = 0
        self._released_records = self._released_bytes = 0
        self._room = threading.Condition()

    @property
    def records(self) -> int:
        return self._taken_records - self._released_records

    @property
    def size_bytes(self) -> int:
        return self._taken_bytes - self._released_bytes

    @property
    def full(self) -> bool:
        return self.records >= self._max_records or self.size_bytes >= self._max_bytes

    @property
    def room_records(self) -> int:
        """How many more records may be taken now; 0 if the bytes are spent."""
        return 0 if self.full else self._max_records - self.records

    def take(self, records: int, size_bytes: int) -> None:
        """Consumer thread only."""
        self._taken_records += records
        self._taken_bytes += size_bytes

    def release(self, records: int, size_bytes: int) -> None:
        """Event loop only."""
        self._released_records += records
        self._released_bytes += size_bytes
        with self._room:
            self._room.notify_all()

    def wait_for_room(self, timeout_seconds: float) -> bool:
        """Block the consumer thread until there is room; False on time-out."""
        with self._room:
            return self._room.wait_for(lambda: not self.full, timeout_seconds)
