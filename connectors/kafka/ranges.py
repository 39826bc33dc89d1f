"""Reading fixed ranges of a topic: how far each partition is, and when it is done; and all their records in one go."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.connectors.kafka.client_log import LOG_LEVEL, client_log
from headrace.connectors.kafka.consumer import FETCH_RECORDS
from headrace.connectors.kafka.consumer_settings import CLIENT_RECEIVE_BYTES
from headrace.connectors.kafka.reader import explained
from headrace.connectors.kafka.received import source_record
from headrace.pipeline.config import KafkaSettings
from headrace.pipeline.errors import ConfigError, FatalError, UnavailableError
from headrace.pipeline.records import SourceRecord
from headrace.pipeline.replay.ranges import PartitionRange

log = logging.getLogger(__name__)

SILENCE_SECONDS = 60.0
"""Without a record or an end so long, nothing more is waited for."""
SHORT_SECONDS = 30.0
NO_GROUP = "headrace-ranges"
"""The client wants a name; nothing is ever done with it."""


def range_consumer_config(
    bootstrap_servers: str, client: Mapping[str, str | int | float | bool], max_message_bytes: int
) -> dict[str, Any]:
    """Of a consumer that reads ranges by itself; without the name of a group, and of who is told of errors."""
    return {
        "receive.message.max.bytes": CLIENT_RECEIVE_BYTES + max_message_bytes,
        **client,
        "bootstrap.servers": bootstrap_servers,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",  # what retention has deleted meanwhile must not be passed over in silence
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 100,
        "fetch.queue.backoff.ms": 2,
        "queued.min.messages": 20_000,
        "queued.max.messages.kbytes": 65_536,
        "log_level": LOG_LEVEL,
    }


class RangeCursor:
    """How far each partition has been read, and which are not yet at their ends."""

    def __init__(self, topic: str, ranges: Sequence[PartitionRange]) -> None:
        self.topic = topic
        self._ends = {each.partition: each.end for each in ranges}
        self.next = {each.partition: each.start for each in ranges}
        self.unread = {each.partition for each in ranges if each.offsets}
        self._short_since: dict[int, float] = {}

    @property
    def unread_offsets(self) -> int:
        """Offsets that have not been read yet."""
        return sum(max(0, end - self.next[partition]) for partition, end in self._ends.items())

    def move(self, partition: int, offset: int) -> None:
        """Go on from here."""
        self.next[partition] = offset
        if offset >= self._ends[partition]:
            self.unread.discard(partition)

    def places(self, partitions: Sequence[int] | set[int]) -> list[TopicPartition]:
        """The client's, each where it is to be read next."""
        return [TopicPartition(self.topic, partition, self.next[partition]) for partition in sorted(partitions)]

    def take(self, message: Message) -> SourceRecord | None:
        """What was polled: a record of the range, or something else. Raises as ``passes``."""
        return source_record(message) if self.passes(message) else None

    def passes(self, message: Message) -> bool:
        """Move past what was polled. True if it is a record of the range.

        Markers of transactions and compaction leave offsets without a record, the last ones of a range, too: so it ends
        with a record or the partition's end at or behind its own end.

        Raises:
            FatalError: records of the range are gone, or Kafka does not hand them over.
        """
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            self._check(error)
            return False
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None or partition not in self.unread:
            return False
        end = self._ends[partition]
        if error is not None and offset < end:
            self._short_since.setdefault(partition, time.monotonic())
            return False
        if self._short_since:
            self._short_since.pop(partition, None)
        if offset >= end:
            self.move(partition, end)
            return False
        self.move(partition, offset + 1)
        return True

    def check(self) -> None:
        """To be called when nothing lies there to be polled.

        Raises:
            FatalError: a partition ends before the end of its range, and goes on doing so: after a change of leader it
                may for a moment.
        """
        for partition, since in self._short_since.items():
            if time.monotonic() - since > SHORT_SECONDS:
                raise FatalError(
                    f"{self.topic}[{partition}] ends before offset {self._ends[partition]}, where the range does: "
                    "it has lost its end, or was made anew; begin a new run"
                )

    def forgive(self, partitions: Iterable[int]) -> None:
        """They are not fetched from for a while, and so stay where they are."""
        for partition in partitions:
            self._short_since.pop(partition, None)

    def _check(self, error: KafkaError) -> None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise FatalError(
                f"records of the range are gone from {self.topic} ({error.str()}): retention has deleted them before "
                "they were read; begin with a later range, or raise the topic's retention first"
            )
        if error.fatal() or error.code() in _REFUSED:
            raise FatalError(f"Kafka refused to hand over {self.topic}: {error.str()} ({error.name()})")
        log.warning("%s: %s (%s)", self.topic, error.str(), error.name())


_REFUSED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._AUTHENTICATION,
        KafkaError._FATAL,
        KafkaError._BAD_MSG,  # of a batch with a wrong checksum: records would be passed over
    }
)


def read_ranges(
    settings: KafkaSettings, topic: str, ranges: Sequence[PartitionRange], max_message_bytes: int
) -> Iterator[SourceRecord]:
    """Every committed record of the ranges; each partition's in order. Joins no group, commits nothing.

    Raises:
        ConfigError: ``kafka.client`` has a property that the client does not know.
        UnavailableError: no broker hands anything over for a minute.
        FatalError: records are gone, or Kafka does not hand them over.
    """
    for messages in _read(settings, topic, ranges, max_message_bytes):
        yield from map(source_record, messages)


def read_values(
    settings: KafkaSettings, topic: str, ranges: Sequence[PartitionRange], max_message_bytes: int
) -> Iterator[list[bytes | None]]:
    """The values alone, some at a time, which takes a fraction of the time. Raises as ``read_ranges``."""
    for messages in _read(settings, topic, ranges, max_message_bytes):
        yield [message.value() for message in messages]


def _read(
    settings: KafkaSettings, topic: str, ranges: Sequence[PartitionRange], max_message_bytes: int
) -> Iterator[list[Message]]:
    cursor = RangeCursor(topic, ranges)
    config = range_consumer_config(settings.bootstrap_servers, settings.client, max_message_bytes)
    try:
        consumer = Consumer({**config, "group.id": NO_GROUP}, logger=client_log("ranges"))
    except KafkaException as error:
        raise ConfigError(f"kafka.client: {error.args[0].str()}") from error
    try:
        consumer.assign(cursor.places(cursor.unread))
        heard = time.monotonic()
        while cursor.unread:
            first = consumer.poll(0.2)
            if first is None:  # a message without a value is false
                cursor.check()
                if time.monotonic() - heard > SILENCE_SECONDS:
                    raise _silent(settings, topic)
                continue
            heard = time.monotonic()
            yield [each for each in (first, *consumer.consume(FETCH_RECORDS, 0)) if cursor.passes(each)]
    finally:
        consumer.close()


def _silent(settings: KafkaSettings, topic: str) -> UnavailableError | FatalError:
    error = explained(
        KafkaError(KafkaError._TIMED_OUT), settings.bootstrap_servers, topic, f" in {SILENCE_SECONDS:g} s"
    )
    return error if isinstance(error, UnavailableError | FatalError) else FatalError(str(error))
