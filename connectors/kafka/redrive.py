"""Redriving dead letters exactly once, and purging them: all that this asks of Kafka.

What is written goes through the transactions of a replay's run (``run_transactions``): one transactional id for each
pipeline, and the newest record of the marks' topic, a seal, which says whose the last transaction was.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as TooLateError
from functools import partial

from confluent_kafka import KafkaException, Producer, TopicCollection, TopicPartition

from headrace.connectors.kafka.admin import (
    REQUEST_SECONDS,
    admin_client,
    ensure_topics,
    listed_topics,
    mapped,
    partition_counts,
)
from headrace.connectors.kafka.history import KafkaTopicHistory
from headrace.connectors.kafka.ranges import read_ranges
from headrace.connectors.kafka.reader import explained
from headrace.connectors.kafka.run_transactions import KafkaRunTransactions, newest_value
from headrace.connectors.kafka.transactional import BATCH_BYTES, TransactionSettings
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import FatalError, FencedError, UnavailableError
from headrace.pipeline.ports import CommitUnit
from headrace.pipeline.records import OutputRecord, SourceRecord
from headrace.pipeline.redriving import MARKS_SUFFIX, DeadLetters, Marks, marks_topic, redrive_topic_specs, seal
from headrace.pipeline.replay.ranges import PartitionRange
from headrace.pipeline.setup import DEAD_LETTER_HEADROOM_BYTES

log = logging.getLogger(__name__)

MARKS_PARTITION = 0
MARK_BYTES = 64 * 1024
DELETE_SECONDS = 60.0
"""For every replica of a partition to take note of what is deleted."""


class KafkaRedrives:
    """The transactions of a process that redrives, or takes marks away.

    Of several processes one goes on, and each transaction is built on all marks of those before it, if only its process
    read them after ``start``: who begins later ends what is open, and who has been followed writes nothing more.

    Args:
        settings: of the pipeline.
        on_unreachable: called with True when Kafka stops answering, with False when it is back; from another thread.
        make_producer: called as librdkafka's class is.
        newest: reads the newest seal.
    """

    def __init__(
        self,
        settings: Settings,
        on_unreachable: Callable[[bool], None] = lambda down: None,
        make_producer: Callable[..., Producer] = Producer,
        newest: Callable[[], bytes | None] | None = None,
    ) -> None:
        kafka, self._marks = settings.kafka, marks_topic(settings)
        self._process = uuid.uuid4().hex
        self._number = 0
        self._transactions = KafkaRunTransactions(
            TransactionSettings(
                bootstrap_servers=kafka.bootstrap_servers,
                group_id="",
                transactional_id=f"{settings.name}-redrive",
                producers=1,
                transaction_timeout_seconds=kafka.transaction_timeout_seconds,
                max_message_bytes=settings.topics.max_message_bytes + DEAD_LETTER_HEADROOM_BYTES,
                max_batch_bytes=min(BATCH_BYTES, settings.topics.max_message_bytes),
                client=kafka.client,
            ),
            "redrive",
            newest or partial(newest_value, kafka, self._marks),
            on_unreachable,
            make_producer,
            "run it again, which makes it",
        )

    async def start(self) -> None:
        """Be the last to have begun. Raises FatalError if Kafka does not let us."""
        await self._transactions.start()

    async def commit(self, outputs: Sequence[OutputRecord]) -> None:
        """All of them or none; errors that pass are dealt with inside.

        Raises:
            OutputRefusedError: none is written, and one of them can never be.
            FencedError: none is written, or all were before that: another process has begun.
            FatalError: Kafka does not let us.
        """
        self._number += 1
        whole = (*outputs, seal(self._marks, self._process, self._number))
        unit = CommitUnit(whole, (), len(outputs), lambda: True)
        try:
            committed = await self._transactions.commit(unit)
        except FencedError as error:
            raise FencedError(
                "another `headrace dlq redrive` or `purge` of this pipeline has begun, so this one ends: none is "
                "redriven twice, and what is left the other does, or the next"
            ) from error
        assert committed, "what no group owns cannot be lost"

    async def close(self) -> None:
        """Also gives up waiting for Kafka. A transaction left open is ended by the next process, or by Kafka."""
        await self._transactions.close()


def prepare_topics(settings: Settings) -> None:
    """The topics that redriving writes to are there, and marks stay in theirs.

    Raises:
        ConfigError: one of them is not as it must be.
        FatalError: marks have been deleted, or a topic cannot be made.
        UnavailableError: Kafka does not answer.
    """
    kafka, marks = settings.kafka, marks_topic(settings)
    if marks in ensure_topics(kafka.bootstrap_servers, redrive_topic_specs(settings), kafka.client):
        return
    if KafkaTopicHistory(kafka.bootstrap_servers, marks, kafka.client).retained()[MARKS_PARTITION].start:
        raise FatalError(
            f"marks have been deleted from {marks}: which dead letters were redriven is not known any more; to begin "
            "anew, redriving some of them twice, delete that topic"
        )


def dead_letters_of(settings: Settings) -> DeadLetters:
    """Which topic the dead letters are in. Raises UnavailableError, or FatalError if it does not exist."""
    kafka, topic = settings.kafka, settings.topics.dead_letters
    client = admin_client(kafka.bootstrap_servers, kafka.client)
    try:
        (future,) = client.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_SECONDS).values()
        return DeadLetters(topic, str(future.result(REQUEST_SECONDS + 1).topic_id))
    except TooLateError as error:
        raise UnavailableError(f"Kafka at {kafka.bootstrap_servers} does not answer: topic {topic}") from error
    except KafkaException as error:
        raise explained(error.args[0], kafka.bootstrap_servers, topic, f" in {REQUEST_SECONDS:g} s") from error


def marked_elsewhere(settings: Settings) -> Iterator[tuple[str, Marks]]:
    """Other topics with marks of these dead letters, if this pipeline has no marks yet: they may be of an old name.

    Raises:
        UnavailableError: Kafka does not answer.
        FatalError: there is no topic of dead letters.
    """
    kafka = settings.kafka
    known = listed_topics(admin_client(kafka.bootstrap_servers, kafka.client), kafka.bootstrap_servers)
    if marks_topic(settings) in known:
        return
    letters = dead_letters_of(settings)
    for topic in sorted(each for each in known if each.endswith(MARKS_SUFFIX) and len(known[each].partitions) == 1):
        marks = Marks(letters)
        try:
            found = [marks.take(record) for record in mark_records(settings, topic=topic)[1]]
        except (FatalError, UnavailableError) as error:  # it may be a stranger's, and not for this user to read
            log.warning("whether dead letters were redriven by marks of %s is not known: %s", topic, error)
            continue
        if any(found):
            yield topic, marks


def mark_records(settings: Settings, start: int = 0, topic: str | None = None) -> tuple[int, Iterator[SourceRecord]]:
    """What is committed in the marks' topic, from an offset on: where it ends now, and the records up to there.

    Nothing if there is no such topic: then nothing has ever been redriven.

    Args:
        settings: of the pipeline.
        start: the offset.
        topic: of marks, if not the pipeline's own.

    Raises:
        UnavailableError, FatalError: Kafka does not hand it over; also while the records are read.
    """
    kafka, topic = settings.kafka, topic or marks_topic(settings)
    if not partition_counts(kafka.bootstrap_servers, [topic], kafka.client)[topic]:
        return start, iter(())
    held = KafkaTopicHistory(kafka.bootstrap_servers, topic, kafka.client).retained()[MARKS_PARTITION]
    wanted = PartitionRange(MARKS_PARTITION, max(start, held.start), max(start, held.end))
    return wanted.end, read_ranges(kafka, topic, [wanted], MARK_BYTES) if wanted.offsets else iter(())


def delete_before(settings: Settings, offsets: Mapping[int, int]) -> Mapping[int, int]:
    """Delete the dead letters before these offsets, by partition. Returns where each of them begins now.

    Raises:
        FatalError: Kafka does not allow it.
        UnavailableError: it does not answer.
    """
    kafka, topic = settings.kafka, settings.topics.dead_letters
    client = admin_client(kafka.bootstrap_servers, kafka.client)
    asked = [TopicPartition(topic, partition, offset) for partition, offset in sorted(offsets.items())]
    if not asked:
        return {}
    futures = client.delete_records(asked, request_timeout=DELETE_SECONDS, operation_timeout=DELETE_SECONDS)
    try:
        return {place.partition: future.result(DELETE_SECONDS + 1).low_watermark for place, future in futures.items()}
    except TooLateError as error:
        raise UnavailableError(f"Kafka at {kafka.bootstrap_servers} does not answer: deleting from {topic}") from error
    except KafkaException as error:
        raise mapped(error, kafka.bootstrap_servers, f"dead letters could not be deleted from {topic}") from error
