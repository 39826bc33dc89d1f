"""Where consuming starts."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import cast

import pytest
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from headrace.connectors.kafka.positions import committed_positions
from headrace.pipeline import records
from headrace.pipeline.errors import FatalError
from headrace.pipeline.ports import StartPosition
from tests.unit.fake_coordinator import CommittedOffset

ASKED = [TopicPartition("requests", 0), TopicPartition("requests", 1)]
UNSTABLE = KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT)


class FakeGroup:
    """A consumer whose group has committed offsets, once the next answers are no longer ``problems``."""

    def __init__(self, *problems: KafkaError | KafkaException) -> None:
        self.problems = deque(problems)

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[CommittedOffset]:
        problem = self.problems.popleft() if self.problems else None
        if isinstance(problem, KafkaException):
            raise problem
        return [
            CommittedOffset("requests", 0, 7, "metadata", None),
            CommittedOffset("requests", 1, OFFSET_INVALID, None, problem),
        ]


def positions(group: FakeGroup, seconds: float = 5.0, stopping: bool = False) -> dict[int, StartPosition]:
    stop = threading.Event()
    if stopping:
        stop.set()
    found = committed_positions(cast("Consumer", group), ASKED, time.monotonic() + seconds, stop)
    return {each.partition: position for each, position in found.items()}


def test_positions_are_the_committed_offsets_and_their_metadata() -> None:
    assert positions(FakeGroup()) == {0: StartPosition(7, "metadata"), 1: StartPosition(None, "")}


def test_positions_are_read_again_until_all_are_stable() -> None:
    group = FakeGroup(UNSTABLE, KafkaException(KafkaError(KafkaError._TIMED_OUT)), UNSTABLE)
    assert positions(group)[1] == StartPosition(None, "")
    assert not group.problems


def test_positions_that_stay_unstable_are_fatal() -> None:
    with pytest.raises(FatalError, match="could not read the committed offsets"):
        positions(FakeGroup(*[UNSTABLE] * 100), seconds=0.1)


def test_positions_are_not_waited_for_at_the_end() -> None:
    assert positions(FakeGroup(*[UNSTABLE] * 100), stopping=True) == {}


def test_partition_is_named_by_topic_and_number() -> None:
    found = committed_positions(cast("Consumer", FakeGroup()), ASKED, time.monotonic() + 5, threading.Event())
    assert set(found) == {records.TopicPartition("requests", 0), records.TopicPartition("requests", 1)}
