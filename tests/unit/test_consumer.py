"""The group consumer: what it asks of the client library, and how it pauses."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

import pytest
from confluent_kafka import KafkaError
from pydantic import ValidationError

from headrace.connectors.kafka import consumer
from headrace.connectors.kafka.consumer import GroupConsumer
from headrace.connectors.kafka.consumer_settings import ConsumerSettings
from headrace.pipeline.budget import Budget
from headrace.pipeline.config import Assignment, KafkaSettings, Settings, TopicSettings
from headrace.pipeline.errors import FatalError, FencedError
from headrace.pipeline.flow import Flow, RecordRef
from headrace.pipeline.ordering import Completion
from headrace.pipeline.records import TopicPartition
from tests.unit.fake_group_client import ROOM, TOPIC, Bench, FakeMessage, wait_until

PARTITIONS = (0, 1)
BROKER_NOTICES_SECONDS = 10
"""Kafka's ``transaction.abort.timed.out.transaction.cleanup.interval.ms``: after that a transaction's time is up."""
FETCH_BYTES = 52_428_800
"""librdkafka's ``fetch.max.bytes``: what one response holds of records, if not of a single one that is larger."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no room before the test makes some."""
    monkeypatch.setattr(consumer, "ROOM_WAIT_SECONDS", 0.01)


class FailedMessage(FakeMessage):
    def __init__(self, partition: int, offset: int, *, error: KafkaError) -> None:
        super().__init__(partition, offset)
        self._error = error

    def error(self) -> KafkaError:
        return self._error


class Restoring:
    """Of ids, without end."""

    def __init__(self) -> None:
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def restore(self, partitions: Collection[TopicPartition]) -> None:
        self.begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.ended.set()

    def committed(self, ref: RecordRef, completion: Completion) -> None:
        raise AssertionError("nothing is")

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        pass


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


@pytest.mark.parametrize(
    ("words", "raised"),
    [(KafkaError(KafkaError.FENCED_INSTANCE_ID).str(), FencedError), ("Local: something else", FatalError)],
)
async def test_error_that_the_client_calls_fatal_ends_it(words: str, raised: type[FatalError]) -> None:
    """As confluent-kafka 2.16 hands it over: the code says no more than that, and ``fatal()`` is false."""
    error = KafkaError(KafkaError._FATAL, f"Fatal error: {words}: Fatal consumer error: {words}")
    assert not error.fatal()
    bench = Bench()
    bench.client.poll = lambda timeout: FailedMessage(0, 0, error=error)  # type: ignore[method-assign]
    await bench.consumer.start(bench.flow)
    async with asyncio.timeout(5):
        with pytest.raises(FatalError) as ended:
            await bench.consumer.wait_ended()
    assert type(ended.value) is raised


@pytest.mark.parametrize(("session_seconds", "heartbeat_ms"), [(1.0, 250), (6.0, 500), (300.0, 500)])
async def test_heartbeats_are_frequent_whatever_the_session(session_seconds: float, heartbeat_ms: int) -> None:
    """The partitions of a worker that leaves wait for the others' next one."""
    bench = Bench(session_timeout_seconds=session_seconds)
    await bench.consumer.start(bench.flow)
    await wait_until(lambda: bench.config)
    await bench.consumer.stop()
    assert bench.config["heartbeat.interval.ms"] == heartbeat_ms


async def test_stop_ends_a_restore_that_is_waited_for() -> None:
    bench = Bench()
    restoring = Restoring()
    bench.flow.outcomes = restoring
    bench.client.tell("on_assign", *PARTITIONS)
    await bench.consumer.start(bench.flow)
    await wait_until(restoring.begun.is_set)
    assert bench.flow.partitions == frozenset()
    async with asyncio.timeout(5):
        await bench.consumer.stop()
        await bench.consumer.wait_ended()
    assert restoring.ended.is_set()
    assert not bench.flow.partitions


@pytest.mark.parametrize("interval_seconds", [20.0, 300.0])
async def test_group_waits_longer_for_a_poll_than_a_rebalance_callback_takes(interval_seconds: float) -> None:
    bench = Bench(max_poll_interval_seconds=interval_seconds, client={"max.poll.interval.ms": 10_000})
    bench.client.tell("on_assign", *PARTITIONS)
    await bench.consumer.start(bench.flow)
    await wait_until(lambda: bench.flow.partitions)
    await bench.consumer.stop()
    settings = ConsumerSettings("nowhere:9092", "mill", "mill-0", (), max_poll_interval_seconds=interval_seconds)
    assert settings.callback_timeout_seconds < interval_seconds == bench.config["max.poll.interval.ms"] / 1000


@pytest.mark.parametrize("interval_seconds", [20.0, 60.0, 300.0])
def test_positions_are_waited_for_longer_than_any_dead_workers_transaction_lasts(interval_seconds: float) -> None:
    """The longest transaction that the settings allow with this interval."""
    waited = ConsumerSettings("", "", "", (), max_poll_interval_seconds=interval_seconds).callback_timeout_seconds
    longest = min(waited - BROKER_NOTICES_SECONDS, highest(KafkaSettings, "transaction_timeout_seconds"))
    KafkaSettings(max_poll_interval_seconds=interval_seconds, transaction_timeout_seconds=longest)
    assert longest + BROKER_NOTICES_SECONDS <= waited
    with pytest.raises(ValidationError, match="transaction_timeout_seconds"):
        KafkaSettings(max_poll_interval_seconds=interval_seconds, transaction_timeout_seconds=longest + 0.1)


def test_session_may_not_outlast_the_poll_interval() -> None:
    """librdkafka would refuse it in words of its own."""
    with pytest.raises(ValidationError, match="session_timeout_seconds must not be more than max_poll_interval"):
        KafkaSettings(max_poll_interval_seconds=60, session_timeout_seconds=61)


def test_drain_may_not_outlast_the_rebalance_callback() -> None:
    kafka = {"max_poll_interval_seconds": 20, "transaction_timeout_seconds": 5}
    Settings.model_validate({"kafka": kafka, "worker": {"drain_timeout_seconds": 15}})
    with pytest.raises(ValidationError, match=r"worker.drain_timeout_seconds must be less than 16 \(0.8 x kafka.max"):
        Settings.model_validate({"kafka": kafka, "worker": {"drain_timeout_seconds": 16}})


@pytest.mark.parametrize("assignment", list(Assignment))
async def test_tombstones_are_records_as_all_others(assignment: Assignment) -> None:
    """Of the client's messages those without a value are false."""
    bench = Bench(assignment)
    bench.client.value = None
    bench.client.tell("on_assign", 0)
    await bench.consumer.start(bench.flow)
    try:
        await wait_until(lambda: sum(count for _, count in bench.received) >= ROOM)
        assert [offset for _, offset in bench.records_of(0)][:ROOM] == list(range(ROOM))
    finally:
        await bench.consumer.stop()
        await bench.consumer.wait_ended()


# --- pausing, with either assignment ---------------------------------------------------------------------------------


@pytest.fixture(params=list(Assignment))
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Without room: what it has been assigned is paused."""
    bench = Bench(request.param)
    bench.client.tell("on_assign", *PARTITIONS)
    await bench.consumer.start(bench.flow)
    try:
        await wait_until(lambda: len(bench.client.paused) == len(PARTITIONS))
        yield bench
    finally:
        await bench.consumer.stop()
        await bench.consumer.wait_ended()


async def test_partitions_revoked_while_paused_are_consumed_when_they_come_back(bench: Bench) -> None:
    bench.client.tell("on_revoke", *PARTITIONS)
    await wait_until(lambda: not bench.flow.partitions)
    bench.client.tell("on_assign", *PARTITIONS)
    await wait_until(lambda: len(bench.delivered) == 2)
    assert bench.received == [(1, ROOM), (2, ROOM)]


async def test_fetching_is_woken_when_paused_partitions_are_resumed(bench: Bench) -> None:
    """The client's fetching threads do not notice, and may sleep for another second."""
    before = bench.client.history.count(("woken", PARTITIONS))
    bench.budget.release(1, 0)
    await wait_until(lambda: bench.client.history.count(("woken", PARTITIONS)) > before)


async def test_partitions_lost_while_paused_are_consumed_when_they_come_back(bench: Bench) -> None:
    bench.client.tell("on_lost", *PARTITIONS)
    await wait_until(lambda: not bench.flow.partitions)
    bench.client.tell("on_assign", *PARTITIONS)
    await wait_until(lambda: len(bench.delivered) == 2)
    assert bench.received == [(1, ROOM), (2, ROOM)]


async def test_partitions_that_come_back_at_once_are_paused_anew_when_there_is_no_room(bench: Bench) -> None:
    bench.client.news.append([("on_revoke", PARTITIONS), ("on_assign", PARTITIONS)])
    await wait_until(lambda: len(bench.delivered) == 2)
    await wait_until(lambda: len(bench.client.paused) == len(PARTITIONS))
    assert bench.received == [(1, ROOM), (2, ROOM)]
    assert bench.budget.records == ROOM


async def test_records_that_become_due_together_take_no_more_than_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    due = time.monotonic() + 0.2
    monkeypatch.setattr(consumer, "wait_seconds", lambda *_: max(0.0, due - time.monotonic()))
    budget = Budget(3 * ROOM, 10**6, [[TOPIC], ["a lane"]])
    bench = Bench(budget=budget, delays={TOPIC: 1.0})
    for partition in PARTITIONS:
        bench.client.available[partition] = ROOM + 2  # few enough for one poll
    bench.client.tell("on_assign", *PARTITIONS)
    await bench.consumer.start(bench.flow)
    try:
        await wait_until(lambda: bench.delivered)
        taken = [budget.records]
        for _ in range(20):
            budget.release(1, 0, TOPIC)
            await asyncio.sleep(0.005)
            taken.append(budget.records)
        assert max(taken) == ROOM
        await wait_until(lambda: sum(count for _, count in bench.received) == 2 * (ROOM + 2))
    finally:
        await bench.consumer.stop()
        await bench.consumer.wait_ended()


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
