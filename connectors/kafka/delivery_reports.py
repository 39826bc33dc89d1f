"""What the client tells of a transaction's records: that they are delivered, or the first reason why not.

For each report the client takes the interpreter's lock, also where nobody wants to know (confluent-kafka 2.16). While
the event loop is busy the transactions' thread, in a commit, waits for the lock each time, and five thousand records
took a second. So the reports of a large transaction are taken on the event loop's own thread, which has the lock, and
the commit comes when there are none left to wait for.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from headrace.connectors.kafka.errors import Meaning, meaning_of
from headrace.pipeline.ports import CommitUnit

MANY = 64
"""Records of a transaction for which the event loop takes the reports. Of few the commit is sooner done by itself."""
SERVE_SECONDS = 0.005
"""How often it does."""
WAIT_SECONDS = 1.0
"""After which a commit begins all the same, and waits for the rest itself: a broker may be away, or the loop."""


def are_many(unit: CommitUnit) -> bool:
    """Whether the event loop takes the reports of its records."""
    return len(unit.outputs) >= MANY


class Undelivered(NamedTuple):
    """The first record of an attempt that was not delivered."""

    error: KafkaError
    output: tuple[str | None, bytes | None, bytes | None]
    """Topic, key and value."""


class DeliveryReports:
    """Of one transaction at a time."""

    def __init__(self) -> None:
        self.undelivered: Undelivered | None = None
        self._awaited: Producer | None = None
        self._served = threading.Event()

    def begin(self) -> None:
        """Of another transaction."""
        self.undelivered = None

    def note(self, error: KafkaError | None, record: Message) -> None:
        """What the client calls for each report, on whichever thread takes it."""
        # With one that is too large all others fail, and those may be told of first.
        if error is not None and (self.undelivered is None or meaning_of(error) is Meaning.TOO_LARGE):
            self.undelivered = Undelivered(error, (record.topic(), record.key(), record.value()))

    def serve(self) -> None:
        """On the event loop: take those that are there."""
        if producer := self._awaited:
            with contextlib.suppress(KafkaException):  # a fatal error, of which the transaction's next call tells, too
                producer.poll(0)
            self._served.set()

    def wait(self, producer: Producer, wanted: Callable[[], bool]) -> None:
        """On the transactions' thread: until all records have theirs or one has failed, or for a while.

        Args:
            producer: that they were produced with.
            wanted: whether the transaction is, still.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        self._awaited = producer
        try:
            while len(producer) and self.undelivered is None and wanted() and time.monotonic() < deadline:
                self._served.clear()
                self._served.wait(SERVE_SECONDS)
        finally:
            self._awaited = None
