"""When results become visible to ``read_committed`` readers, seen without reading them: little load, one for all."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # re-exported without saying so

RESOLUTION_SECONDS = 0.005
REQUEST_SECONDS = 10.0
NEW = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_LEADER_EPOCH,  # the client has heard of it before the broker has
)
"""Answers about a topic that was made a moment ago."""


class Watch:
    """Asks for a topic's last stable offsets again and again, from a thread.

    Up to there, and no further, a ``read_committed`` consumer can read. One request each 5 ms, whatever the arm does.

    Args:
        bootstrap_servers: of the broker.
        topic: with the results.
        partitions: that it has.
    """

    def __init__(self, bootstrap_servers: str, topic: str, partitions: int) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers})
        self._wanted = {TopicPartition(topic, number): OffsetSpec.latest() for number in range(partitions)}  # type: ignore[no-untyped-call]
        self._thread = threading.Thread(target=self._run)
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._seen_at: list[float] = []
        self._ends: list[list[int]] = [[] for _ in range(partitions)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def visible(self) -> int:
        """Offsets that can be read now, those of transaction markers included."""
        if self._failure is not None:
            raise self._failure
        return sum(ends[-1] for ends in self._ends if ends)

    def seen_at(self, partition: int, offset: int) -> float | None:
        """When this offset was seen to be readable, in seconds since 1970; None if it never was.

        At most the resolution, and the time of a request, after it was.
        """
        at = bisect.bisect_right(self._ends[partition], offset)
        return self._seen_at[at] if at < len(self._seen_at) else None

    def _run(self) -> None:
        try:
            while not self._stopping.wait(RESOLUTION_SECONDS):
                asked = self._admin.list_offsets(
                    self._wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_SECONDS
                )
                try:
                    ends = {each.partition: future.result().offset for each, future in asked.items()}
                except KafkaException as error:
                    if error.args[0].code() in NEW:
                        continue
                    raise
                now = time.time()
                for partition, end in ends.items():
                    self._ends[partition].append(end)
                self._seen_at.append(now)
        except BaseException as failure:  # noqa: BLE001 - raised again where it is asked what is visible
            self._failure = failure


def is_done(admin: AdminClient, group: str, ends: Mapping[tuple[str, int], int]) -> bool:
    """Whether a group has committed these offsets, by topic and partition."""
    wanted: Sequence[Any] = [TopicPartition(topic, partition) for (topic, partition), end in ends.items() if end]
    asked = admin.list_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group, list(wanted))], request_timeout=REQUEST_SECONDS
    )
    committed = asked[group].result().topic_partitions
    return all(each.offset >= ends[each.topic, each.partition] for each in committed)
