"""The receiving end for a consumer group: partitions are shared with other members, positions are committed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.connectors.kafka.errors import PASSING, REFUSED
from headrace.connectors.kafka.lost_brokers import lost_brokers, lost_brokers_error
from headrace.connectors.kafka.reader import ANSWER_SECONDS, RECEIVE_BYTES, explained
from headrace.connectors.kafka.received import source_record
from headrace.pipeline.config import KafkaSettings
from headrace.pipeline.errors import ConfigError, FatalError, HeadraceError, RetriableError
from headrace.pipeline.records import SourceRecord

log = logging.getLogger(__name__)

_AWAY = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN})
_MOVED = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError._ASSIGNMENT_LOST,
    }
)
"""Refusals of a commit: the group has shared the partitions out anew."""


class GroupReader:
    """Reads its share of some topics, read_committed. Nothing is committed unless ``commit`` is called.

    For one thread at a time. A record is handed over by ``read`` until ``take`` says that it has arrived.

    Args:
        settings: where the brokers are.
        topics: what to read.
        group: the consumer group.
        from_beginning: where to begin in a partition of which the group has committed nothing (any more).
        answer_seconds: how long a broker may take to answer a question.

    Raises:
        UnavailableError: on construction, if no broker answers in time.
        FatalError: on construction, if a topic does not exist.
        ConfigError: on construction, if ``kafka.client`` has a property that the client does not know.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Sequence[str],
        group: str,
        *,
        from_beginning: bool,
        answer_seconds: float = ANSWER_SECONDS,
        make_consumer: Callable[..., Consumer] = Consumer,
    ) -> None:
        self._bootstrap_servers = settings.bootstrap_servers
        self._last_trouble = ""
        self._refusal: KafkaError | None = None
        self._lost_brokers = lost_brokers(settings.bootstrap_servers, settings.client)
        self._held: SourceRecord | None = None
        """Read and not taken yet."""
        self._taken: dict[tuple[str, int], int] = {}
        """Of each partition still assigned, the offset after the last record taken, unless it is committed."""
        try:
            self._consumer = make_consumer(self._configuration(settings, group, from_beginning))
        except KafkaException as error:
            raise ConfigError(f"kafka.client: {error.args[0].str()}") from error
        try:
            for topic in topics:
                self._check_topic(topic, answer_seconds)
            self._consumer.subscribe(list(topics), on_revoke=self._on_gone, on_lost=self._on_gone)
        except BaseException:
            self._consumer.close()
            raise

    def read(self, timeout_seconds: float) -> SourceRecord | None:
        """The next record, the same until it is taken; None if none came in this time.

        A broker that goes away meanwhile is waited for: the client resumes where it was.

        Raises:
            FatalError: not allowed, the topic is gone, or the client finds no broker although they answer.
        """
        if self._held is None:
            try:
                message = self._consumer.poll(timeout_seconds)
            except KafkaException as error:
                raise self._explain(error.args[0]) from error
            if message is not None and not self._is_trouble(message):
                self._held = source_record(message)
            elif message is None and self._refusal is not None:
                raise self._explain(self._refusal)
            elif message is None and self._lost_brokers.by(self._consumer):
                raise lost_brokers_error(self._bootstrap_servers)
        return self._held

    def take(self) -> None:
        """The record last read has arrived: ``commit`` counts it, and the next is read."""
        if self._held is not None:
            place = self._held.provenance
            self._taken[place.topic, place.partition] = place.offset + 1
            self._held = None

    def commit(self) -> None:
        """Commit the position after every record taken so far, in the partitions that are still assigned.

        Raises:
            RetriableError: the partitions are being shared out anew, or the broker does not answer; what is not
                committed may be read again, here or by another member.
            FatalError: not allowed.
        """
        if not self._taken:
            return
        taken = dict(self._taken)
        offsets = [TopicPartition(topic, number, offset) for (topic, number), offset in taken.items()]
        try:
            answered = self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            raise self._refused(error.args[0]) from error
        for each in answered or ():
            if each.error is not None:
                raise self._refused(each.error)
        self._taken = {place: offset for place, offset in self._taken.items() if taken.get(place) != offset}

    def close(self) -> None:
        """Leave the group. Commits nothing."""
        self._consumer.close()

    def _configuration(self, settings: KafkaSettings, group: str, from_beginning: bool) -> dict[str, Any]:
        return {
            "receive.message.max.bytes": RECEIVE_BYTES,
            "partition.assignment.strategy": "cooperative-sticky",
            **settings.client,
            "bootstrap.servers": settings.bootstrap_servers,
            "group.id": group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest" if from_beginning else "latest",
            "fetch.wait.max.ms": 50,
            "fetch.queue.backoff.ms": 2,
            "error_cb": self._on_trouble,
            "log_level": 0,  # troubles come through error_cb and raised errors, in our words
        }

    def _check_topic(self, topic: str, answer_seconds: float) -> None:
        try:
            found = self._consumer.list_topics(topic, timeout=answer_seconds).topics[topic]
        except KafkaException as error:
            raise self._explain(error.args[0], topic, f" in {answer_seconds:g} s") from error
        if found.error is not None:
            raise self._explain(found.error, topic)

    def _on_gone(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Whoever gets them now starts at what is committed: their records are no longer ours to commit."""
        gone = {(each.topic, each.partition) for each in partitions}
        self._taken = {place: offset for place, offset in self._taken.items() if place not in gone}

    def _is_trouble(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return False
        if error.code() == KafkaError._MAX_POLL_EXCEEDED:
            log.warning("no record was asked for in so long that the group gave the partitions away: %s", error.str())
        elif error.code() not in _AWAY:
            raise self._explain(error, message.topic() or "")
        return True

    def _refused(self, error: KafkaError) -> HeadraceError:
        if error.code() in _MOVED:
            return RetriableError(
                f"not committed: the group's partitions are being shared out anew ({error.str()}); "
                "what was not committed is read again by whoever gets them"
            )
        if error.code() in PASSING:
            return RetriableError(f"not committed: {error.str()}")
        return FatalError(f"Kafka at {self._bootstrap_servers} refused the commit: {error.str()}")

    def _on_trouble(self, error: KafkaError) -> None:
        self._last_trouble = error.str()
        self._lost_brokers.note(error)
        if error.code() in REFUSED:
            self._refusal = error

    def _explain(self, error: KafkaError, topic: str = "", detail: str = "") -> HeadraceError:
        trouble = f" ({self._last_trouble})" if self._last_trouble else ""
        return explained(error, self._bootstrap_servers, topic, detail + trouble)
