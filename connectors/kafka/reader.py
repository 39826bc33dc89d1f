"""The receiving end: read_committed records of whole topics, without a consumer group.

What is read here is what any downstream consumer sees: nothing of an open or aborted transaction.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from headrace.connectors.kafka.errors import PASSING, REFUSED
from headrace.connectors.kafka.lost_brokers import lost_brokers, lost_brokers_error
from headrace.connectors.kafka.received import source_record
from headrace.pipeline.config import KafkaSettings
from headrace.pipeline.errors import ConfigError, FatalError, HeadraceError, UnavailableError
from headrace.pipeline.records import SourceRecord

FETCH_RECORDS = 500
"""Most records handed over by one ``read``."""
ANSWER_SECONDS = 10.0
"""How long a broker may take to answer a question about topics and offsets."""
RECEIVE_BYTES = 1_000_000_000
"""Largest response: above ``topics.max_message_bytes`` at its highest and a dead letter's room. By default, 100 MB, a
larger record would never be handed over."""
LEADER_PAUSE_SECONDS = 0.1
LOOK_BACK_FACTOR = 4
"""How many times the wanted records to go back at first: transaction markers and aborted records take offsets too."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Everything that is retained."""


@dataclass(frozen=True, slots=True)
class End:
    """Only what comes after the reader was made."""


@dataclass(frozen=True, slots=True)
class Since:
    """Records with this timestamp or a later one."""

    epoch_ms: int


Start = Beginning | End | Since
Choice = Callable[[str, Sequence[int]], Sequence[int]]
"""Which partitions of a topic to read, of those that it has."""
Answer = TypeVar("Answer")

_MISSING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION})
MISSING_SECONDS = 3.0
"""A broker that has not heard of a new topic yet says the same as when it is gone: asked again after so long."""


def all_partitions(_: str, partitions: Sequence[int]) -> Sequence[int]:
    """Reads the whole topic."""
    return partitions


class CommittedReader:
    """Reads some topics, read_committed, from a start position fixed on construction.

    Args:
        settings: where the brokers are.
        topics: what to read.
        start: where to begin.
        choose: which partitions of each topic; all by default.
        answer_seconds: how long a broker may take to answer a question.

    Raises:
        UnavailableError: on construction, if no broker answers in ``answer_seconds``.
        FatalError: on construction, if a topic does not exist.
        ConfigError: on construction, if ``kafka.client`` has a property that the client does not know.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Sequence[str],
        start: Start,
        *,
        choose: Choice = all_partitions,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._bootstrap_servers = settings.bootstrap_servers
        self._answer_seconds = answer_seconds
        self._choose = choose
        self._last_trouble = ""
        self._refusal: KafkaError | None = None
        self._lost_brokers = lost_brokers(settings.bootstrap_servers, settings.client)
        self._missing_at: float | None = None
        try:
            self._consumer = Consumer(self._configuration(settings))
        except KafkaException as error:
            raise ConfigError(f"kafka.client: {error.args[0].str()}") from error
        try:
            self._partitions = [partition for topic in topics for partition in self._partitions_of(topic)]
            self._at_end: set[tuple[str, int]] = set()
            self._ended: set[tuple[str, int]] = set()
            self._assign([self._placed(partition, start) for partition in self._partitions])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def at_end(self) -> bool:
        """Every partition has been read up to its last committed record, as far as the last ``read`` knows."""
        return len(self._at_end) == len(self._assigned)

    def read(self, timeout_seconds: float) -> list[SourceRecord]:
        """Whatever is there, waiting at most this long for the first record. Empty when nothing came.

        A broker that goes away meanwhile is waited for: the client resumes where it was.

        Raises:
            FatalError: not allowed, the topic is gone, or the client finds no broker although they answer.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            # consume(n, t) would wait for n records or t: the first is waited for, the rest taken as they lie there
            first = self._polled(max(0.0, deadline - time.monotonic()))
            if first is None:
                return []
            found = self._consumer.consume(FETCH_RECORDS, 0.0)
            records = [record for message in (first, *found) if (record := self._record(message)) is not None]
            if records or self.at_end or time.monotonic() >= deadline:
                return records

    def records(self, timeout_seconds: float, *, until_end: bool = False) -> Iterator[SourceRecord]:
        """Records until the time is up or, with ``until_end``, all that is committed now.

        With ``until_end`` the time is that of waiting for more: what the caller does in between does not count. What
        is committed meanwhile keeps nothing from ending.

        Raises:
            UnavailableError: with ``until_end``, if the end was not handed over in time.
        """
        if until_end:
            yield from self._until_end(timeout_seconds)
            return
        deadline = time.monotonic() + timeout_seconds
        while (left := deadline - time.monotonic()) > 0:
            yield from self.read(min(left, 1.0))

    def _until_end(self, timeout_seconds: float) -> Iterator[SourceRecord]:
        """Each partition's end has to be met once, or, since a busy one may never say so, the end that it had."""
        self._ended = set(self._at_end)
        ends = {(each.topic, each.partition): self._watermarks(each)[1] for each in self._assigned}
        left = timeout_seconds
        while left > 0:
            began = time.monotonic()
            found = self.read(min(left, 1.0))
            left = timeout_seconds if found else left - (time.monotonic() - began)
            yield from found
            places = [record.provenance for record in found]
            self._ended.update(
                (at.topic, at.partition) for at in places if at.offset + 1 >= ends[at.topic, at.partition]
            )
            if len(self._ended) == len(self._assigned):
                return
        raise UnavailableError(f"{self._where()} did not hand over the topics' end in time{self._detail()}")

    def read_last(
        self, count: int, timeout_seconds: float, accept: Callable[[SourceRecord], bool] = lambda _: True
    ) -> list[SourceRecord]:
        """The newest ``count`` records that ``accept`` takes, oldest first; the reader then stands at the end.

        Goes back from the end by growing steps, so that a long history isn't read for a few records, until no partition
        can hold a newer one before what was read of it.

        Raises:
            UnavailableError: the history could not be read in time.
        """
        back = max(1, count) * LOOK_BACK_FACTOR
        while True:
            starts, cut = self._look_back(back)
            self._assign(starts)
            read_since: dict[tuple[str, int], int] = {}
            found = []
            for record in self.records(timeout_seconds, until_end=True):
                at = record.provenance
                read_since.setdefault((at.topic, at.partition), at.timestamp_ms)
                if accept(record):
                    found.append(record)
            found.sort(key=lambda record: (record.provenance.timestamp_ms, *_place(record)))
            newest = found[-count:] if count else []
            since = newest[0].provenance.timestamp_ms if newest else math.inf
            if not cut or (len(found) >= count and all(read_since.get(each, math.inf) <= since for each in cut)):
                return newest
            back *= LOOK_BACK_FACTOR

    def record_at(self, topic: str, partition: int, offset: int, timeout_seconds: float) -> SourceRecord | None:
        """The committed record at a position, None if there is none (any more); the reader then stands behind it.

        Raises:
            UnavailableError: the partition could not be read in time.
        """
        place = TopicPartition(topic, partition, offset)
        if (topic, partition) not in {(known.topic, known.partition) for known in self._partitions}:
            return None
        low, high = self._watermarks(place)
        if not low <= offset < high:
            return None
        self._assign([place])
        first = next(self.records(timeout_seconds, until_end=True), None)
        return first if first is not None and first.provenance.offset == offset else None

    def close(self) -> None:
        self._consumer.close()

    def _configuration(self, settings: KafkaSettings) -> dict[str, str | int | float | bool | Callable[..., None]]:
        return {
            "receive.message.max.bytes": RECEIVE_BYTES,
            **settings.client,
            "bootstrap.servers": settings.bootstrap_servers,
            "group.id": "headrace-reader",  # required by the client, never joined: partitions are assigned by hand
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            "fetch.queue.backoff.ms": 2,
            "topic.metadata.refresh.interval.ms": 30_000,
            "error_cb": self._on_trouble,
            "log_level": 0,  # troubles come through error_cb and raised errors, in our words
        }

    def _assign(self, starts: list[TopicPartition]) -> None:
        self._at_end.clear()  # and so of ``_ended``, when records are asked for
        self._assigned = starts
        self._consumer.assign(starts)

    def _look_back(self, records: int) -> tuple[list[TopicPartition], set[tuple[str, int]]]:
        """Start positions that many offsets before each end, and the partitions that have more before theirs."""
        starts, cut = [], set()
        for partition in self._partitions:
            low, high = self._watermarks(partition)
            start = max(low, high - records)
            if start > low:
                cut.add((partition.topic, partition.partition))
            starts.append(TopicPartition(partition.topic, partition.partition, start))
        return starts, cut

    def _partitions_of(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for number in self._choose(topic, self._numbers_of(topic))]

    def _numbers_of(self, topic: str) -> list[int]:
        try:
            found = self._consumer.list_topics(topic, timeout=self._answer_seconds).topics[topic]
        except KafkaException as error:
            raise self._explain(error.args[0]) from error
        if found.error is not None:
            raise self._explain(found.error, topic)
        return sorted(found.partitions)

    def _placed(self, partition: TopicPartition, start: Start) -> TopicPartition:
        match start:
            case Beginning():
                offset = OFFSET_BEGINNING
            case End():
                offset = self._watermarks(partition)[1]
            case Since(epoch_ms):
                asked = TopicPartition(partition.topic, partition.partition, epoch_ms)
                seconds = self._answer_seconds
                offset = self._answer(lambda: self._consumer.offsets_for_times([asked], timeout=seconds))[0].offset
                if offset < 0:  # nothing that young
                    offset = self._watermarks(partition)[1]
        return TopicPartition(partition.topic, partition.partition, offset)

    def _watermarks(self, partition: TopicPartition) -> tuple[int, int]:
        seconds = self._answer_seconds
        found = self._answer(lambda: self._consumer.get_watermark_offsets(partition, timeout=seconds))
        if found is None:
            raise UnavailableError(f"{self._where()} did not answer in {self._answer_seconds:g} s{self._detail()}")
        return found

    def _answer(self, ask: Callable[[], Answer]) -> Answer:
        """Asks again while a partition has no leader, as in a topic that was made a moment ago."""
        deadline = time.monotonic() + self._answer_seconds
        while True:
            try:
                return ask()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION or time.monotonic() > deadline:
                    raise self._explain(error.args[0]) from error
            time.sleep(LEADER_PAUSE_SECONDS)

    def _polled(self, timeout_seconds: float) -> Message | None:
        try:
            message = self._consumer.poll(timeout_seconds)
        except KafkaException as error:
            raise self._explain(error.args[0]) from error
        if message is None:
            self._check_aside()
        return message

    def _check_aside(self) -> None:
        """Raises what the client told aside, if it is so for good."""
        if self._refusal is not None:
            raise self._explain(self._refusal)
        if self._lost_brokers.by(self._consumer):
            raise lost_brokers_error(self._bootstrap_servers)
        if self._missing_at is not None and time.monotonic() - self._missing_at > MISSING_SECONDS:
            self._missing_at = None
            for topic in {each.topic for each in self._assigned}:
                with contextlib.suppress(UnavailableError):  # that is waited for
                    self._numbers_of(topic)

    def _record(self, message: Message) -> SourceRecord | None:
        if (error := message.error()) is not None:
            topic, partition = message.topic(), message.partition()
            if error.code() == KafkaError._PARTITION_EOF and topic is not None and partition is not None:
                self._at_end.add((topic, partition))
                self._ended.add((topic, partition))
            elif error.code() not in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                raise self._explain(error, topic or "")
            return None
        record = source_record(message)
        self._at_end.discard((record.provenance.topic, record.provenance.partition))
        return record

    def _on_trouble(self, error: KafkaError) -> None:
        self._last_trouble = error.str()
        self._lost_brokers.note(error)
        if error.code() in REFUSED:
            self._refusal = error
        elif error.code() in _MISSING and self._missing_at is None:
            self._missing_at = time.monotonic()

    def _explain(self, error: KafkaError, topic: str = "") -> HeadraceError:
        return explained(error, self._bootstrap_servers, topic, f" in {self._answer_seconds:g} s{self._detail()}")

    def _where(self) -> str:
        return f"Kafka at {self._bootstrap_servers}"

    def _detail(self) -> str:
        return f" ({self._last_trouble})" if self._last_trouble else ""


def explained(error: KafkaError, bootstrap_servers: str, topic: str = "", detail: str = "") -> HeadraceError:
    """What a reader's error means.

    Args:
        error: the client's.
        bootstrap_servers: for the message.
        topic: that it is about, if it is about one.
        detail: how long was waited, say; put after "did not answer".
    """
    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
        return FatalError(f"topic {topic} does not exist at {bootstrap_servers}: a worker creates it when it starts")
    if error.code() in PASSING:
        said = f" ({error.str()})" if error.code() > 0 else ""  # below zero it is the client's own, of silence
        return UnavailableError(
            f"Kafka at {bootstrap_servers} did not answer{detail}{said}: is Kafka running? "
            "`headrace up` starts one, kafka.bootstrap_servers says where it is"
        )
    return FatalError(f"Kafka at {bootstrap_servers}: {error.str()}")


def _place(record: SourceRecord) -> tuple[str, int, int]:
    return record.provenance.topic, record.provenance.partition, record.provenance.offset
