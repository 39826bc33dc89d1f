"""The sending end: each record is confirmed by its delivery report. For events that start a journey."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, cast

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from headrace.connectors.kafka.errors import PASSING
from headrace.pipeline.config import KafkaSettings
from headrace.pipeline.errors import ConfigError, FatalError, HeadraceError, RetriableError, UnavailableError
from headrace.pipeline.records import Headers

BATCH_OVERHEAD_BYTES = 61
"""What a record batch adds to its records: the broker's limit is on the batch."""
RECORD_OVERHEAD_BYTES = 32
"""More than the length, attributes, timestamp, offset and count fields of one record ever take."""
HEADER_OVERHEAD_BYTES = 10
"""The two length fields of one header."""
BACKPRESSURE_POLL_SECONDS = 0.1

_UNREACHABLE = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE})
_NOT_DELIVERED = frozenset({KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE})


class EventTooLargeError(HeadraceError):
    """The event would be refused by the topic: nothing was sent."""


UNKNOWN_OFFSET = -1


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """Where the broker put a record: the position by which everything later is accounted for.

    ``offset`` is ``UNKNOWN_OFFSET`` if the broker had the record already when it was sent again.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


def record_size_bytes(key: bytes | None, value: bytes | None, headers: Headers = ()) -> int:
    """The most that a record takes, alone in its batch, uncompressed: what ``max.message.bytes`` is compared with."""
    carried = sum(len(name.encode()) + len(content or b"") + HEADER_OVERHEAD_BYTES for name, content in headers)
    return BATCH_OVERHEAD_BYTES + RECORD_OVERHEAD_BYTES + len(key or b"") + len(value or b"") + carried


class EventSender:
    """An idempotent producer (acks from all replicas, partitions by murmur2 as Java's clients choose them).

    Args:
        settings: where the brokers are.
        max_message_bytes: ``topics.max_message_bytes``; anything larger is refused before it is sent.
        delivery_timeout_seconds: a record that no broker took by then has failed.
        linger_seconds: how long a record may wait for others to share its request with.
        max_queued_records: most records that are sent and not yet confirmed.

    Thread-safe if every record is sent with ``on_failure``; else the failure of one thread's record may be raised in
    another thread.

    Raises:
        ConfigError: on construction, if ``kafka.client`` has a property that the client does not know.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        max_message_bytes: int,
        delivery_timeout_seconds: float = 30.0,
        *,
        linger_seconds: float = 0.0,
        max_queued_records: int = 10_000,
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._bootstrap_servers = settings.bootstrap_servers
        self._timeout_seconds = delivery_timeout_seconds
        self._linger_seconds = linger_seconds
        self._max_queued_records = max_queued_records
        self._failure: HeadraceError | None = None
        self._last_trouble = ""
        try:
            self._producer = Producer(self._configuration(settings))
        except KafkaException as error:
            raise ConfigError(f"kafka.client: {error.args[0].str()}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        on_delivery: Callable[[DeliveryReport], None],
        on_failure: Callable[[HeadraceError], None] | None = None,
        key: bytes | None = None,
        headers: Headers = (),
    ) -> None:
        """Queue one record. ``on_delivery`` or ``on_failure`` is called from a later ``poll``, ``send`` or ``flush``.

        Without ``on_failure`` the failure of a record is raised by the next of these calls.

        Raises:
            EventTooLargeError: as ``check_size`` does; the record is not sent.
            UnavailableError: the queue stayed full for the delivery time-out, or an earlier record timed out.
            FatalError: the broker refused an earlier record for good.
        """
        self.check_size(topic, value, key=key, headers=headers)

        def report(error: KafkaError | None, message: Message) -> None:
            if error is None:
                on_delivery(_delivery(message))
            elif on_failure is not None:
                on_failure(self._explain(error, topic))
            else:
                self._failure = self._failure or self._explain(error, topic)

        deadline = time.monotonic() + self._timeout_seconds
        while True:
            self._raise_failure()
            try:
                self._producer.produce(topic, value=value, key=key, headers=list(headers), on_delivery=report)
                break
            except KafkaException as error:
                raise self._explain(error.args[0], topic) from error
            except BufferError:
                if time.monotonic() > deadline:
                    raise UnavailableError(self._no_answer(topic)) from None
                self._producer.poll(BACKPRESSURE_POLL_SECONDS)
        self._producer.poll(0)
        self._raise_failure()

    def check_size(self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Headers = ()) -> None:
        """Raises EventTooLargeError if the topic would refuse the record."""
        size = record_size_bytes(key, value, headers)
        if size > self._max_message_bytes:
            raise EventTooLargeError(
                f"the event takes {size:,} bytes as a record, but {topic} takes at most {self._max_message_bytes:,} "
                "(topics.max_message_bytes): send it smaller, or raise the limit there and on the topic"
            )

    def poll(self, timeout_seconds: float = 0.0) -> None:
        """Serve delivery reports. Raises as ``send`` does for a record that failed."""
        self._producer.poll(timeout_seconds)
        self._raise_failure()

    def flush(self, timeout_seconds: float | None = None) -> None:
        """Wait until every record is confirmed, at most the delivery time-out if no other is given.

        Raises:
            UnavailableError: some records were not confirmed in time.
            FatalError: the broker refused a record.
        """
        left = self._producer.flush(self._timeout_seconds if timeout_seconds is None else timeout_seconds)
        self._raise_failure()
        if left:
            raise UnavailableError(self._no_answer(f"{left} records"))

    def close(self) -> None:
        """Drop what was not sent: callers that care called ``flush``."""
        self._producer.purge()
        self._producer.flush(1.0)

    def _configuration(self, settings: KafkaSettings) -> dict[str, str | int | float | bool | Callable[..., None]]:
        return {
            **settings.client,
            "bootstrap.servers": settings.bootstrap_servers,
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",
            "linger.ms": self._linger_seconds * 1000,
            "message.max.bytes": self._max_message_bytes,
            "message.timeout.ms": round(self._timeout_seconds * 1000),
            "queue.buffering.max.messages": self._max_queued_records,
            "error_cb": self._on_trouble,
            "log_level": 0,  # troubles come through error_cb and delivery reports, in our words
        }

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _on_trouble(self, error: KafkaError) -> None:
        self._last_trouble = error.str()

    def _explain(self, error: KafkaError, topic: str) -> HeadraceError:
        if error.code() in _UNREACHABLE | _NOT_DELIVERED:
            return UnavailableError(self._no_answer(topic))
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            return FatalError(
                f"topic {topic} does not exist at {self._bootstrap_servers}: a worker creates it when it starts"
            )
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return FatalError(
                f"{topic} refused the event as too large: its max.message.bytes is less than topics.max_message_bytes "
                f"({self._max_message_bytes:,})"
            )
        if error.code() in PASSING:
            return RetriableError(f"{topic}: {error.str()}")
        return FatalError(f"{topic} refused the event: {error.str()}")

    def _no_answer(self, what: str) -> str:
        detail = f" ({self._last_trouble})" if self._last_trouble else ""
        return (
            f"no broker at {self._bootstrap_servers} took {what} in {self._timeout_seconds:g} s{detail}: "
            "is Kafka running? `headrace up` starts one, kafka.bootstrap_servers says where it is"
        )


def _delivery(message: Message) -> DeliveryReport:
    offset = message.offset()
    return DeliveryReport(
        cast("str", message.topic()),
        cast("int", message.partition()),
        UNKNOWN_OFFSET if offset is None else offset,
        message.timestamp()[1],
    )
