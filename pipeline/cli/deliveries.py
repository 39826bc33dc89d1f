"""Records on their way into one topic: bounded in number and bytes, told of in the order in which they were sent."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.pipeline.errors import HeadraceError
from headrace.pipeline.records import Headers

if TYPE_CHECKING:  # the client is loaded when it is needed, not for --help
    from headrace.connectors.kafka.producer import DeliveryReport, EventSender

IN_FLIGHT_RECORDS = 1_000
IN_FLIGHT_BYTES = 16 * 1024 * 1024
"""What the brokers must take within their time to answer, and what waits in memory for it."""
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Delivered:
    """A record that the brokers have. ``bytes`` are those of its value; ``sent_at`` is monotonic seconds."""

    request_id: str
    origin: str
    key: bytes | None
    bytes: int
    sent_at: float
    report: DeliveryReport


class Deliveries:
    """Sends without waiting for each, never more than fits the bounds.

    Args:
        sender: what sends them.
        topic: where to.
        on_confirmed: called with each record that the broker has confirmed, in no particular order.
        on_delivered: called with each record in the order of sending.
        held: is entered around calls of the sender: what it calls back must not be interrupted. What it tells is told
            by us after the call, for the same reason.
    """

    def __init__(
        self,
        sender: EventSender,
        topic: str,
        on_confirmed: Callable[[Delivered], None],
        on_delivered: Callable[[Delivered], None],
        held: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._sender = sender
        self._topic = topic
        self._on_confirmed = on_confirmed
        self._on_delivered = on_delivered
        self._held = held
        self._begun = 0
        self._told = 0
        self._bytes = 0
        self._fresh: deque[tuple[int, Delivered]] = deque()
        self._ahead: dict[int, Delivered] = {}
        self.confirmed = 0

    @property
    def unconfirmed(self) -> int:
        """Records that the broker may or may not have yet."""
        return self._begun - self.confirmed

    def send(self, request_id: str, origin: str, key: bytes | None, value: bytes, headers: Headers) -> None:
        """Hand one over, waiting while the bounds are reached.

        Raises:
            HeadraceError: as `EventSender.send` does, of this record or of one before.
        """
        while self.unconfirmed and (
            self.unconfirmed >= IN_FLIGHT_RECORDS or self._bytes + len(value) > IN_FLIGHT_BYTES
        ):
            self.poll(POLL_SECONDS)
        number, sent_at = self._begun, time.monotonic()

        def confirm(report: DeliveryReport) -> None:
            self._fresh.append((number, Delivered(request_id, origin, key, len(value), sent_at, report)))

        with self._held():
            self._begun += 1
            self._bytes += len(value)
            try:
                self._sender.send(self._topic, value, key=key, headers=headers, on_delivery=confirm)
            except HeadraceError:
                self._begun -= 1
                self._bytes -= len(value)
                raise
        self._tell()

    def poll(self, seconds: float = 0.0) -> None:
        """Tell of what was confirmed, waiting at most this long. Raises as ``send``."""
        with self._held():
            self._sender.poll(seconds)
        self._tell()

    def drain(self, seconds: float = math.inf) -> None:
        """Wait until everything is confirmed, at most this long. Raises as ``send`` for a record that failed."""
        deadline = time.monotonic() + seconds
        while self.unconfirmed and time.monotonic() < deadline:
            self.poll(POLL_SECONDS)

    def _tell(self) -> None:
        while self._fresh:
            number, delivered = self._fresh.popleft()
            self.confirmed += 1
            self._bytes -= delivered.bytes
            self._ahead[number] = delivered
            self._on_confirmed(delivered)
        while (following := self._ahead.pop(self._told, None)) is not None:
            self._told += 1
            self._on_delivered(following)
