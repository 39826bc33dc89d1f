"""Backpressure: a bound on what was sent and is not yet confirmed."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future


class Room:
    """Room for so many records, and so many bytes, at once; those that wait come in one after the other.

    A record larger than the whole room comes in when it is empty. Thread-safe.
    """

    def __init__(self, records: int, size_bytes: int) -> None:
        self._most_records = records
        self._most_bytes = size_bytes
        self._records = 0
        self._bytes = 0
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._lock = threading.Lock()

    def enter(self, size_bytes: int, timeout_seconds: float) -> bool:
        """Blocks until there is room; False if there was none in this time."""
        ticket = self._ask(size_bytes)
        try:
            ticket.result(timeout_seconds)
        except TimeoutError:
            return not self._withdrawn(ticket)
        except BaseException:
            self._give_up(ticket, size_bytes)
            raise
        return True

    async def enter_async(self, size_bytes: int, timeout_seconds: float) -> bool:
        """Waits until there is room; False if there was none in this time."""
        ticket = self._ask(size_bytes)
        try:
            async with asyncio.timeout(timeout_seconds):  # wait_for of Python 3.11 may lose a cancellation
                await asyncio.wrap_future(ticket)
        except TimeoutError:
            return not self._withdrawn(ticket)
        except BaseException:
            self._give_up(ticket, size_bytes)
            raise
        return True

    def leave(self, size_bytes: int) -> None:
        """A record that came in is confirmed, or was not sent after all."""
        with self._lock:
            self._records -= 1
            self._bytes -= size_bytes
        self._let_in()

    def _ask(self, size_bytes: int) -> Future[None]:
        ticket: Future[None] = Future()
        with self._lock:
            self._waiting.append((size_bytes, ticket))
        self._let_in()
        return ticket

    def _let_in(self) -> None:
        with self._lock:
            admitted = self._admit()
        for ticket in admitted:
            ticket.set_result(None)

    def _admit(self) -> list[Future[None]]:
        """Whose turn it is. They are told outside the lock: what waits for them runs at once."""
        admitted = []
        while self._waiting:
            size_bytes, ticket = self._waiting[0]
            if not ticket.cancelled() and not self._fits(size_bytes):
                break
            self._waiting.popleft()
            if ticket.set_running_or_notify_cancel():
                self._records += 1
                self._bytes += size_bytes
                admitted.append(ticket)
        return admitted

    def _fits(self, size_bytes: int) -> bool:
        if not self._records:
            return True
        return self._records < self._most_records and self._bytes + size_bytes <= self._most_bytes

    def _withdrawn(self, ticket: Future[None]) -> bool:
        """False if its turn had come."""
        if not ticket.cancel():
            return False
        self._let_in()  # a smaller one behind it may fit
        return True

    def _give_up(self, ticket: Future[None], size_bytes: int) -> None:
        if not self._withdrawn(ticket):
            self.leave(size_bytes)
