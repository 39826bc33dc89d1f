"""Reads a group's changelogs back: what was committed for each partition, whole before the partition is consumed."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.connectors.kafka.client_log import LOG_LEVEL, client_log
from headrace.connectors.kafka.errors import PASSING, REFUSED
from headrace.connectors.kafka.history import KafkaTopicHistory
from headrace.connectors.kafka.lost_brokers import lost_brokers, warn_of_new_client
from headrace.connectors.kafka.received import source_record
from headrace.pipeline import records
from headrace.pipeline.errors import FatalError, UnavailableError
from headrace.pipeline.records import SourceRecord

log = logging.getLogger(__name__)

_client_log = client_log("changelog")

FETCH_RECORDS = 1_000
POLL_SECONDS = 0.1
PROGRESS_SECONDS = 5.0
OFFSETS_PER_ID = 1.1
"""Where reading begins, before the end: markers take offsets too, a few beside transactions of many records."""
LOOK_BACK_FACTOR = 2
"""So much further back it begins again, if too few ids were there."""

Take = Callable[[SourceRecord], None]


@dataclass(slots=True)
class _Reading:
    """A changelog partition that is read, from its next offset to the end that it had.

    Attributes:
        first: the oldest offset that it has.
        back: how many offsets before the end reading began.
        keys: of the ids that have come.
    """

    take: Take
    first: int
    end: int
    back: int
    next: int = 0
    keys: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.next = max(self.first, self.end - self.back)
        self.keys.clear()

    @property
    def done(self) -> bool:
        return self.next >= self.end

    def has(self, newest: int) -> bool:
        """Whether there are so many ids, or no more."""
        return len(self.keys) >= newest or self.end - self.back <= self.first

    def note(self, record: SourceRecord) -> None:
        key = record.key or b""
        (self.keys.discard if record.value is None else self.keys.add)(key)
        self.take(record)
        self.next = record.provenance.offset + 1


class KafkaChangelog:
    """Implements ``ports.Changelog``.

    Args:
        bootstrap_servers, client: as in the settings.
        group_id: the worker's group. It isn't joined for this.
        changelogs: request topic → its changelog.
        patience_seconds: how long a restore may take.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        client: Mapping[str, str | int | float | bool],
        group_id: str,
        changelogs: Mapping[str, str],
        patience_seconds: float,
    ) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._client = client
        self._group_id = group_id
        self._changelogs = changelogs
        self._patience_seconds = patience_seconds

    async def restore(self, into: Mapping[records.TopicPartition, Take], newest: int) -> None:
        stopping = threading.Event()
        try:
            await asyncio.to_thread(self._restore, into, newest, stopping)
        finally:
            stopping.set()  # if this was cancelled the thread is still at it

    def _restore(self, into: Mapping[records.TopicPartition, Take], newest: int, stopping: threading.Event) -> None:
        deadline = time.monotonic() + self._patience_seconds
        readings = self._readings(into, newest, stopping)
        while readings and not stopping.is_set():
            progress = _Progress(readings)
            while not stopping.is_set() and any(not each.done for each in readings.values()):
                if not self._read(readings, progress, stopping, deadline):
                    warn_of_new_client()
            readings = {at: each for at, each in readings.items() if not each.has(newest)}
            for each in readings.values():
                each.back *= LOOK_BACK_FACTOR
                each.begin()

    def _readings(
        self, into: Mapping[records.TopicPartition, Take], newest: int, stopping: threading.Event
    ) -> dict[records.TopicPartition, _Reading]:
        """Up to the ends as they are now, what is not committed yet included: it may be, by the last owner."""
        readings = {}
        for topic in sorted({each.topic for each in into}):
            changelog = self._changelogs[topic]
            starts, ends = self._extent(changelog, stopping)
            if stopping.is_set():
                return {}
            for partition, take in into.items():
                if partition.topic == topic:
                    number = partition.partition
                    if number not in ends:
                        raise FatalError(f"{changelog} has no partition {number}, but {topic} has: give it as many")
                    reading = _Reading(take, starts[number], ends[number], math.ceil(OFFSETS_PER_ID * newest))
                    readings[records.TopicPartition(changelog, number)] = reading
        return readings

    def _extent(self, changelog: str, stopping: threading.Event) -> tuple[Mapping[int, int], Mapping[int, int]]:
        """Where each partition begins and ends. A broker that does not answer is waited for."""
        history = KafkaTopicHistory(self._bootstrap_servers, changelog, self._client)
        while not stopping.is_set():
            try:
                return history.starts(), history.written()
            except UnavailableError as error:
                log.info("waiting for the offsets of %s: %s", changelog, error)
                stopping.wait(POLL_SECONDS)
        return {}, {}

    def _read(
        self,
        readings: Mapping[records.TopicPartition, _Reading],
        progress: _Progress,
        stopping: threading.Event,
        deadline: float,
    ) -> bool:
        """Until all is read, or not wanted any more. False if the client has lost the brokers for good before."""
        lost = lost_brokers(self._bootstrap_servers, self._client)
        consumer = Consumer(self._configuration(lost.note), logger=_client_log)
        try:
            consumer.assign([TopicPartition(*at, each.next) for at, each in readings.items() if not each.done])
            while not stopping.is_set() and any(not each.done for each in readings.values()):
                first = consumer.poll(POLL_SECONDS)
                if first is not None:  # a message without a value is false
                    self._take(readings, [first, *consumer.consume(FETCH_RECORDS, 0)])
                progress.tell()
                if time.monotonic() > deadline:
                    raise self._late(readings)
                if lost.by(consumer):
                    return False
            return True
        except KafkaException as error:
            raise self._fatal(error.args[0]) from error
        finally:
            consumer.close()

    def _take(self, readings: Mapping[records.TopicPartition, _Reading], messages: Iterable[Message]) -> None:
        for message in messages:
            if (error := message.error()) is None:
                record = source_record(message)
                at = record.provenance
                readings[records.TopicPartition(at.topic, at.partition)].note(record)
            elif error.code() == KafkaError._PARTITION_EOF:
                # Of what is committed: it says this again further up when a transaction has come to its end.
                reading = readings[records.TopicPartition(str(message.topic()), int(message.partition() or 0))]
                reading.next = max(reading.next, int(message.offset() or 0))
            elif error.code() in PASSING and error.code() not in REFUSED:
                log.info("restore: %s (%s)", error.str(), error.name())
            else:
                raise self._fatal(error)

    def _late(self, readings: Mapping[records.TopicPartition, _Reading]) -> FatalError:
        at, reading = next((at, each) for at, each in readings.items() if not each.done)
        find = f"kafka-transactions.sh find-hanging --topic {at.topic} --partition {at.partition}"
        return FatalError(
            f"the ids of {at.topic}[{at.partition}] were not restored in {self._patience_seconds:.0f} s: they are read "
            f"to offset {reading.next} of {reading.end}. A transaction may hang there: `{find}` names it, and "
            "`kafka-transactions.sh abort` ends it. If none does, lower max_ids or raise "
            "kafka.max_poll_interval_seconds"
        )

    def _fatal(self, error: KafkaError) -> FatalError:
        return FatalError(f"Kafka at {self._bootstrap_servers} refused to hand over a changelog: {error.str()}")

    def _configuration(self, on_error: Callable[[KafkaError], None]) -> dict[str, Any]:
        return {
            **self._client,
            "bootstrap.servers": self._bootstrap_servers,
            "group.id": self._group_id,  # required by the client, never joined: partitions are assigned by hand
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",  # retention may pass the start meanwhile
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            "fetch.queue.backoff.ms": 2,
            "error_cb": on_error,
            "log_level": LOG_LEVEL,
        }


class _Progress:
    """A line in the log every few seconds."""

    def __init__(self, readings: Mapping[records.TopicPartition, _Reading]) -> None:
        self._readings = readings
        self._told_at = time.monotonic()
        self._offsets = self._left()

    def tell(self) -> None:
        if time.monotonic() - self._told_at < PROGRESS_SECONDS:
            return
        self._told_at = time.monotonic()
        waiting = [f"{at.topic}[{at.partition}]@{each.next}" for at, each in self._readings.items() if not each.done]
        log.info(
            "restoring ids: %d of %d offsets read; to be read, or open in a transaction: %s",
            self._offsets - self._left(),
            self._offsets,
            ", ".join(waiting[:8]) + (" …" if len(waiting) > 8 else ""),
        )

    def _left(self) -> int:
        return sum(max(0, each.end - each.next) for each in self._readings.values())
