"""Producing and consuming through the SDK, on real servers."""

from __future__ import annotations

import asyncio
import datetime as dt
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headrace import (
    ClosedError,
    ConfigError,
    DeadLetteredError,
    DeliveryReport,
    EventProducer,
    InferenceResult,
    ResultConsumer,
    Settings,
    UnavailableError,
    Unreadable,
    UnreadableRecordError,
    event,
    image,
    text,
)
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.connectors.kafka.reader import Beginning, CommittedReader
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.envelope import RequestDecoder
from headrace.pipeline.records import SourceRecord
from headrace.pipeline.setup import topic_specs
from tests.integration.harness import Scene
from tests.integration.sdk_scene import Writer, photo, sdk_settings

SILENT_SECONDS = 1.0
"""So long nothing comes where nothing more is to come."""


@pytest.fixture
def settings(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> Settings:
    """Topics of this test, without a worker."""
    with Scene(stack, names("w"), tmp_path):
        settings = sdk_settings(tmp_path, stack)
    ensure_topics(stack.bootstrap_servers, topic_specs(settings))
    return settings


def requests(settings: Settings) -> list[SourceRecord]:
    with CommittedReader(settings.kafka, settings.topics.requests, Beginning()) as reader:
        return list(reader.records(15, until_end=True))


def offsets(consumer: ResultConsumer, count: int) -> list[int]:
    """The offsets, in the request topic, that the next results answer."""
    found = []
    for received in consumer.until_idle(15):
        found.append(received.result.provenance.offset)
        if len(found) == count:
            break
    return found


# --- producing


def test_sent_events_lie_where_their_reports_say(settings: Settings) -> None:
    events = [
        event("a river", image(photo("cat.jpg")), key="k", type="t", source="s", subject="about", parameters={"a": 1}),
        event(np.array([1.5], "f4"), headers={"mine": "x"}, priority=7, correlation_id="c", deadline_seconds=60),
    ]
    with EventProducer(settings) as producer:
        reports = [future.result(15) for future in [producer.send(each) for each in events]]
    found = {(each.provenance.partition, each.provenance.offset): each for each in requests(settings)}
    for sent, report in zip(events, reports, strict=True):
        record = found[report.partition, report.offset]
        assert (record.key, record.headers) == (sent.key, sent.headers)
        assert record.provenance.timestamp_ms == report.timestamp_ms
        decoder = RequestDecoder()
        (schema_id,) = decoder.missing([record.value])
        with ConfluentRegistry(settings.registry.url) as registry:
            decoder.add_schema(schema_id, registry.schema(schema_id))
        assert decoder.decode(record.value) == sent.request
    assert len(found) == len(events)


def test_leaving_the_block_flushes(settings: Settings) -> None:
    with EventProducer(settings, linger_seconds=0.5) as producer:
        futures = [producer.send(event(f"sentence {number}")) for number in range(300)]
    assert all(future.done() for future in futures)
    assert len(requests(settings)) == 300


def test_full_queue_blocks_until_there_is_room(settings: Settings) -> None:
    """Ten at a time, each batch held back by the linger: what was sent first must be confirmed before the last is."""
    with EventProducer(settings, max_queued_events=10, linger_seconds=0.1) as producer:
        futures = []
        for number in range(50):
            futures.append(producer.send(event(f"sentence {number}")))
            assert sum(not future.done() for future in futures) <= 10
    assert len(requests(settings)) == 50


async def test_full_queue_leaves_the_event_loop_running(settings: Settings) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.005)

    counting = asyncio.create_task(count())
    async with EventProducer(settings, max_queued_events=5, linger_seconds=0.1) as producer:
        began = time.monotonic()
        deliveries = await asyncio.gather(*(producer.send_async(event(f"sentence {n}")) for n in range(40)))
        reports = await asyncio.gather(*deliveries)
        took = time.monotonic() - began
    counting.cancel()
    assert len({(report.partition, report.offset) for report in reports}) == 40
    assert took > 0.5, "the queue was never full"
    assert turns > took / 0.05


def test_many_threads_share_a_producer(settings: Settings) -> None:
    reports: list[DeliveryReport] = []
    with EventProducer(settings, max_queued_events=20) as producer:

        def send() -> None:
            futures = [producer.send(event("words")) for _ in range(100)]
            reports.extend(future.result(20) for future in futures)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len({(report.partition, report.offset) for report in reports}) == 400


def test_undelivered_event_fails_its_future_and_the_flush(settings: Settings) -> None:
    unreachable = settings.model_copy(
        update={"kafka": settings.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})}
    )
    producer = EventProducer(unreachable, delivery_timeout_seconds=0.5)
    future = producer.send(event("words"))
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1.*headrace up"):
        future.result(10)
    with pytest.raises(UnavailableError, match="1 of the events were not delivered"):
        producer.flush()
    producer.flush()
    producer.close()
    with pytest.raises(ClosedError):
        producer.send(event("words"))


def test_closing_with_events_in_the_queue_fails_them(settings: Settings) -> None:
    unreachable = settings.model_copy(
        update={"kafka": settings.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})}
    )
    producer = EventProducer(unreachable)
    future = producer.send(event("words"))
    producer.close()
    with pytest.raises(ClosedError, match="closed before a broker confirmed event"):
        future.result(1)


def test_missing_registry_is_told(stack: Endpoints) -> None:
    with pytest.raises(UnavailableError, match=r"headrace up.*registry\.url"):
        EventProducer(bootstrap_servers=stack.bootstrap_servers, registry_url="http://127.0.0.1:1")


# --- consuming


def test_consumer_without_a_group_reads_everything_from_its_start(settings: Settings) -> None:
    writer = Writer(settings)
    writer.results(*range(10))
    with ResultConsumer(settings) as first, ResultConsumer(settings, start="end") as last:
        assert sorted(offsets(first, 10)) == [*range(10)]
        assert last.receive(0.5) is None
        writer.results(10, key=b"k")
        received = last.receive(15)
        assert received is not None
        assert (received.result.provenance.offset, received.key, received.correlation_id) == (10, b"k", b"c")
        assert received.position.topic == settings.topics.results
        with pytest.raises(ConfigError, match="without a group"):
            first.commit()


def test_consumer_starts_at_a_moment(settings: Settings) -> None:
    writer = Writer(settings)
    moment = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
    for seconds in (-1, 0, 1):
        at_ms = round(moment.timestamp() + seconds) * 1000
        writer.write(settings.topics.results, struct.pack("b", seconds), b"k", timestamp_ms=at_ms)
    with ResultConsumer(settings, start=moment) as consumer:
        assert [received.record.value for received in consumer.until_idle(2)] == [b"\x00", b"\x01"]
    with pytest.raises(ConfigError, match="time zone"):
        ResultConsumer(settings, start=moment.replace(tzinfo=None))
    with pytest.raises(ConfigError, match="group"):
        ResultConsumer(settings, start=moment, group="g")


def test_group_resumes_after_what_it_has_committed(settings: Settings, names: Callable[[str], str]) -> None:
    writer = Writer(settings)
    writer.results(*range(20))
    with ResultConsumer(settings, group=names("g")) as consumer:
        first = offsets(consumer, 8)
        consumer.commit()
        consumer.commit()  # nothing new
        uncommitted = offsets(consumer, 4)
    with ResultConsumer(settings, group=names("g")) as consumer:
        rest = offsets(consumer, 12)
        consumer.commit()
    assert sorted(first + rest) == [*range(20)]
    assert set(uncommitted) <= set(rest)
    with ResultConsumer(settings, group=names("g")) as consumer:
        writer.results(20)
        assert offsets(consumer, 1) == [20]


def test_group_shares_the_partitions_and_never_commits_for_another_member(
    settings: Settings, names: Callable[[str], str]
) -> None:
    """What the first has read of partitions that the second gets is read again; the first's commit leaves it out."""
    writer = Writer(settings)
    for number in range(40):
        writer.results(number, key=str(number).encode())
    with ResultConsumer(settings, group=names("g")) as first:
        assert len(offsets(first, 40)) == 40
        with ResultConsumer(settings, group=names("g")) as second:
            moved: list[int] = []
            deadline = time.monotonic() + 40
            while not moved and time.monotonic() < deadline:
                first.receive(0.2)
                moved += [received.result.provenance.offset for received in second.until_idle(0.2)]
            moved += [received.result.provenance.offset for received in second.until_idle(2)]
            assert 0 < len(moved) < 40
            first.commit()
    with ResultConsumer(settings, group=names("g")) as again:
        assert sorted(offsets(again, len(moved))) == sorted(moved)
        assert again.receive(1) is None


def test_everything_in_the_topics_is_handed_over_and_nothing_ends_the_stream(settings: Settings) -> None:
    writer = Writer(settings)
    writer.write(settings.topics.results, b"not ours", b"k")
    writer.results(1, key=b"k")
    writer.write(settings.topics.results, None, b"k")
    writer.dead_letter()
    writer.results(2, key=b"k")
    with ResultConsumer(settings, dead_letters=True) as consumer:
        received = [each for each in (consumer.receive(15) for _ in range(5)) if each]
        assert consumer.receive(SILENT_SECONDS) is None
    (dead,) = [each for each in received if each.position.topic == settings.topics.dead_letters]
    with pytest.raises(DeadLetteredError, match="in:1:7 became a dead letter, infer/BAD: wrong"):
        _ = dead.result
    others = [each for each in received if each is not dead]
    assert [type(each.content) for each in others] == [Unreadable, InferenceResult, Unreadable, InferenceResult]
    with pytest.raises(UnreadableRecordError, match=r"cannot be read: .*Confluent wire format"):
        _ = others[0].result


def test_registry_that_is_away_costs_no_record(settings: Settings) -> None:
    Writer(settings).results(1, 2, key=b"k")
    away = settings.registry.model_copy(update={"url": "http://127.0.0.1:1"})
    with ResultConsumer(settings.model_copy(update={"registry": away})) as consumer:
        for _ in range(2):
            with pytest.raises(UnavailableError, match="does not answer"):
                consumer.receive(15)
    with ResultConsumer(settings) as consumer:
        assert offsets(consumer, 2) == [1, 2]


async def test_async_iteration_reads_and_commits(settings: Settings, names: Callable[[str], str]) -> None:
    writer = Writer(settings)
    writer.results(*range(5))
    async with ResultConsumer(settings, group=names("g")) as consumer:
        found = []
        async for received in consumer:
            found.append(received.result.provenance.offset)
            await consumer.commit_async()
            if len(found) == 5:
                break
    assert sorted(found) == [*range(5)]
    async with ResultConsumer(settings, group=names("g")) as consumer:
        assert await consumer.receive_async(2) is None


async def test_cancelled_wait_loses_no_record(settings: Settings, names: Callable[[str], str]) -> None:
    """Records that come while waits are cancelled are all handed over, and none is committed before that."""
    writer = Writer(settings)
    async with ResultConsumer(settings, group=names("g")) as consumer:
        found = []
        for number in range(30):
            if number % 3 == 0:
                writer.results(number // 3)
            try:
                async with asyncio.timeout(0.02 * (number % 4)):
                    if received := await consumer.receive_async(0.05):
                        found.append(received.result.provenance.offset)
            except TimeoutError:
                continue
        while len(found) < 10 and (received := await consumer.receive_async(15)):
            found.append(received.result.provenance.offset)
        assert await consumer.receive_async(SILENT_SECONDS) is None
    assert sorted(found) == [*range(10)]


def test_closing_from_another_thread_ends_the_iteration(settings: Settings) -> None:
    consumer = ResultConsumer(settings)
    threading.Timer(0.3, consumer.close).start()
    assert list(consumer) == []
    with pytest.raises(ClosedError):
        consumer.receive()


def test_text_builder_is_what_the_shorthand_makes() -> None:
    assert event("words").request.parts == (text("words"),)
