"""Where to start in a partition: the group's committed offsets, once they can no longer change."""

from __future__ import annotations

import logging
import threading
import time
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.pipeline import records
from headrace.pipeline.errors import FatalError
from headrace.pipeline.ports import StartPosition

log = logging.getLogger(__name__)

READ_SECONDS = 5.0
BACKOFF_SECONDS = 0.05


def committed_positions(
    consumer: Consumer, partitions: list[TopicPartition], deadline: float, stopping: threading.Event
) -> dict[records.TopicPartition, StartPosition]:
    """The committed offsets, once they are stable: a transaction of the last owner may still be pending.

    Args:
        consumer: a member of the group.
        partitions: any of the subscribed topics'; none is answered with none, at once.
        deadline: in monotonic seconds.
        stopping: ends the wait: then there are none.

    Raises:
        FatalError: they could not be read until the deadline.
    """
    while partitions and not stopping.is_set():
        try:
            answer = committed_now(consumer, partitions, READ_SECONDS)
        except KafkaException as exception:
            problem = cast("KafkaError", exception.args[0])
        else:
            return {
                named(each): StartPosition(each.offset if each.offset >= 0 else None, each.metadata or "")
                for each in answer
            }
        if time.monotonic() > deadline:
            raise FatalError(f"could not read the committed offsets: {problem.str()}")
        log.info("waiting for stable committed offsets: %s", problem.str())
        stopping.wait(BACKOFF_SECONDS)
    return {}


def committed_now(consumer: Consumer, partitions: list[TopicPartition], timeout_seconds: float) -> list[TopicPartition]:
    """The committed offsets. Raises KafkaException, also for one of them that cannot be read now."""
    answer = consumer.committed(partitions, timeout_seconds)
    for each in answer:
        if each.error:
            raise KafkaException(each.error)
    return answer


def named(partition: TopicPartition) -> records.TopicPartition:
    """The client's partition as one of ours."""
    return records.TopicPartition(str(partition.topic), partition.partition)
