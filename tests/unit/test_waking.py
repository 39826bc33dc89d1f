"""The request that wakes a client's fetching threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import cast

import pytest
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from headrace.connectors.kafka.waking import TIMEOUT_SECONDS, Waker, wake_fetchers

PATIENCE_SECONDS = 10.0
ASSIGNED = [TopicPartition("requests", 0), TopicPartition("requests", 1)]


class SlowGroup:
    """A consumer whose brokers answer when the test lets them."""

    def __init__(self) -> None:
        self.asked: list[list[TopicPartition]] = []
        self.timeouts: list[float] = []
        self.is_asked = threading.Semaphore(0)
        self.may_answer = threading.Semaphore(0)
        self.broker_is_down = False

    def assignment(self) -> list[TopicPartition]:
        return ASSIGNED

    def offsets_for_times(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self.asked.append(partitions)
        self.timeouts.append(timeout)
        self.is_asked.release()
        assert self.may_answer.acquire(timeout=PATIENCE_SECONDS)
        if self.broker_is_down:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return partitions


@pytest.fixture
def group() -> SlowGroup:
    return SlowGroup()


@pytest.fixture
def waker(group: SlowGroup) -> Iterator[Waker]:
    waker = Waker(cast("Consumer", group))
    yield waker
    group.may_answer.release(100)
    waker.close()


@pytest.mark.parametrize("broker_is_down", [False, True])
def test_fetching_is_woken_by_a_request_for_all_partitions(group: SlowGroup, broker_is_down: bool) -> None:
    group.broker_is_down = broker_is_down
    group.may_answer.release()
    wake_fetchers(cast("Consumer", group))
    (asked,) = group.asked
    assert {(each.partition, each.offset) for each in asked} == {(0, OFFSET_END), (1, OFFSET_END)}


def test_waking_waits_for_no_answer_and_many_wishes_are_one_request(group: SlowGroup, waker: Waker) -> None:
    waker.wake()
    assert group.is_asked.acquire(timeout=PATIENCE_SECONDS)
    for _ in range(5):  # while the answer is waited for
        waker.wake()
    assert len(group.asked) == 1
    group.may_answer.release(2)
    assert group.is_asked.acquire(timeout=PATIENCE_SECONDS)
    waker.close()
    assert len(group.asked) == 2


def test_request_has_time_enough_to_be_answered_behind_a_fetch(group: SlowGroup, waker: Waker) -> None:
    """Of one that times out librdkafka closes the connection, and with it the fetches of all its partitions."""
    waker.wake()
    assert group.is_asked.acquire(timeout=PATIENCE_SECONDS)
    assert group.timeouts == [TIMEOUT_SECONDS]
    assert TIMEOUT_SECONDS >= 0.5


def test_closed_waker_asks_nobody(group: SlowGroup) -> None:
    waker = Waker(cast("Consumer", group))
    waker.close()
    waker.wake()
    assert group.asked == []


def test_broker_that_is_down_does_not_end_the_waker(group: SlowGroup, waker: Waker) -> None:
    group.broker_is_down = True
    for _ in range(3):
        waker.wake()
        assert group.is_asked.acquire(timeout=PATIENCE_SECONDS)
        group.may_answer.release()
