"""The group consumer: what it asks of the client library, and how it pauses."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from headrace.connectors.kafka import consumer
from headrace.connectors.kafka.consumer import (
    CALLBACK_TIMEOUT_SECONDS,
    MAX_POLL_INTERVAL_SECONDS,
    POSITIONS_TIMEOUT_SECONDS,
    ConsumerSettings,
    GroupConsumer,
)
from headrace.pipeline.budget import Budget
from headrace.pipeline.config import KafkaSettings, TopicSettings
from headrace.pipeline.flow import Flow
from headrace.pipeline.records import RecordBatch

BROKER_NOTICES_SECONDS = 10
"""Kafka's ``transaction.abort.timed.out.transaction.cleanup.interval.ms``: after that a transaction's time is up."""
FETCH_BYTES = 52_428_800
"""librdkafka's ``fetch.max.bytes``: what one response holds of records, if not of a single one that is larger."""


class Refusal(Exception):
    """Instead of a client."""


async def config_of(max_message_bytes: int = 1024, client: Mapping[str, str | int] | None = None) -> dict[str, Any]:
    configs: list[dict[str, Any]] = []

    def refuse(config: dict[str, Any], **_: object) -> Any:
        configs.append(config)
        raise Refusal

    budget = Budget(1, 1)
    settings = ConsumerSettings(
        "nowhere:9092", "mill", "mill-0", ("requests",), max_message_bytes=max_message_bytes, client=client or {}
    )
    member = GroupConsumer(settings, budget, refuse)
    await member.start(Flow(budget, lambda batch: None, 1.0))
    with pytest.raises(Refusal):
        await member.wait_ended()
    return configs[0]


def highest(section: type[KafkaSettings | TopicSettings], setting: str) -> float:
    limit = section.model_json_schema()["properties"][setting]["maximum"]
    assert isinstance(limit, int | float)
    return limit


@pytest.mark.parametrize("max_message_bytes", [1024, int(highest(TopicSettings, "max_message_bytes"))])
async def test_record_of_the_allowed_size_fits_a_response(max_message_bytes: int) -> None:
    received = (await config_of(max_message_bytes))["receive.message.max.bytes"]
    assert received > max(max_message_bytes, FETCH_BYTES) * 1.05
    assert received < 2**31


async def test_larger_response_may_be_allowed_for_topics_with_larger_records() -> None:
    assert (await config_of(client={"receive.message.max.bytes": 2**30}))["receive.message.max.bytes"] == 2**30


async def test_group_waits_longer_for_a_poll_than_a_rebalance_callback_takes() -> None:
    longest = max(2 * POSITIONS_TIMEOUT_SECONDS, CALLBACK_TIMEOUT_SECONDS)
    config = await config_of(client={"max.poll.interval.ms": 10_000})
    assert longest < MAX_POLL_INTERVAL_SECONDS == config["max.poll.interval.ms"] / 1000


def test_positions_are_waited_for_longer_than_any_dead_workers_transaction_lasts() -> None:
    longest = highest(KafkaSettings, "transaction_timeout_seconds") + BROKER_NOTICES_SECONDS
    assert longest < POSITIONS_TIMEOUT_SECONDS


# --- pausing --------------------------------------------------------------------------------------------------------

ROOM = 5
PARTITIONS = [TopicPartition("requests", number) for number in (0, 1)]


class FakeMessage:
    def __init__(self, partition: int, offset: int) -> None:
        self._partition, self._offset = partition, offset

    def error(self) -> KafkaError | None:
        return None

    def topic(self) -> str:
        return "requests"

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def key(self) -> bytes | None:
        return None

    def value(self) -> bytes | None:
        return b"value"

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return None


class FakeClient:
    """librdkafka's consumer as far as pausing goes: a partition stays paused when it goes and comes back.

    Every partition has records without end. The group's news come from within ``poll``, in the order of ``news``,
    those of one list in one poll.
    """

    def __init__(self) -> None:
        self.news: deque[list[str]] = deque()
        self.paused: set[int] = set()
        self.polls_until_left: float = 2
        self.closed_as: str | None = "open"
        self._leaving = False
        self._assigned: list[TopicPartition] = []
        self._offsets = dict.fromkeys((each.partition for each in PARTITIONS), 0)

    def subscribe(self, topics: list[str], **callbacks: Callable[[FakeClient, list[TopicPartition]], None]) -> None:
        self._callbacks = callbacks

    def unsubscribe(self) -> None:
        self._leaving = True
        self.news.append(["on_revoke"])

    def memberid(self) -> str | None:
        return "mill-0-uuid" if self.polls_until_left > 0 else None

    def poll(self, timeout: float) -> FakeMessage | None:
        for name in self.news.popleft() if self.news else ():
            self._callbacks[name](self, PARTITIONS)
        if self._leaving:
            self.polls_until_left -= 1
        found = self.consume(1, 0)
        if not found:
            time.sleep(timeout / 10)
        return found[0] if found else None

    def consume(self, count: int, timeout: float) -> list[FakeMessage]:
        flowing = [each.partition for each in self._assigned if each.partition not in self.paused]
        return [self._next(flowing[0]) for _ in range(count)] if flowing else []

    def _next(self, partition: int) -> FakeMessage:
        self._offsets[partition] += 1
        return FakeMessage(partition, self._offsets[partition])

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused |= {each.partition for each in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused -= {each.partition for each in partitions}

    def assignment(self) -> list[TopicPartition]:
        return self._assigned

    def assign(self, partitions: list[TopicPartition]) -> None:
        self._assigned = partitions

    def unassign(self) -> None:
        self._assigned = []

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        return partitions

    def consumer_group_metadata(self) -> object:
        return None

    def close(self) -> None:
        self.closed_as = self.memberid()


class Bench:
    """A member that has been assigned all partitions, and whose records stay in flight."""

    def __init__(self) -> None:
        self.client = FakeClient()
        self.client.news.append(["on_assign"])
        self.budget = Budget(ROOM, 10**6)
        self.delivered: list[RecordBatch] = []
        self.flow = Flow(self.budget, self.delivered.append, 1.0)
        self.consumer = GroupConsumer(
            ConsumerSettings("nowhere:9092", "mill", "mill-0", ("requests",)),
            self.budget,
            cast("Callable[..., Consumer]", lambda config, logger: self.client),
        )

    @property
    def received(self) -> list[tuple[int, int]]:
        """Generation and number of records of each batch."""
        return [(batch.generation, len(batch.records)) for batch in self.delivered]


async def wait_until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - it comes true on the consumer's thread
            await asyncio.sleep(0.005)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Without room: what it has been assigned is paused."""
    bench = Bench()
    await bench.consumer.start(bench.flow)
    try:
        await wait_until(lambda: len(bench.client.paused) == len(PARTITIONS))
        yield bench
    finally:
        await bench.consumer.stop()


async def test_partitions_revoked_while_paused_are_consumed_when_they_come_back(bench: Bench) -> None:
    bench.client.news.append(["on_revoke"])
    await wait_until(lambda: not bench.flow.partitions)
    bench.client.news.append(["on_assign"])
    await wait_until(lambda: len(bench.delivered) == 2)
    assert bench.received == [(1, ROOM), (2, ROOM)]


async def test_partitions_lost_while_paused_are_consumed_when_they_come_back(bench: Bench) -> None:
    bench.client.news.append(["on_lost"])
    await wait_until(lambda: not bench.flow.partitions)
    bench.client.news.append(["on_assign"])
    await wait_until(lambda: len(bench.delivered) == 2)
    assert bench.received == [(1, ROOM), (2, ROOM)]


async def test_partitions_that_come_back_at_once_are_paused_anew_when_there_is_no_room(bench: Bench) -> None:
    bench.client.news.append(["on_revoke", "on_assign"])
    await wait_until(lambda: len(bench.delivered) == 2)
    await wait_until(lambda: len(bench.client.paused) == len(PARTITIONS))
    assert bench.received == [(1, ROOM), (2, ROOM)]
    assert bench.budget.records == ROOM


# --- the end --------------------------------------------------------------------------------------------------------


async def test_group_has_been_left_when_the_client_is_closed(bench: Bench) -> None:
    """Else the seat of a static member is kept until its session ends, and its partitions with it."""
    bench.client.polls_until_left = 10
    await bench.consumer.stop()
    assert bench.client.closed_as is None


async def test_group_that_cannot_be_left_holds_up_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "LEAVE_SECONDS", 0.05)
    bench.client.polls_until_left = math.inf
    async with asyncio.timeout(5):
        await bench.consumer.stop()
    assert bench.client.closed_as is not None
