"""How far a run is, on the real broker: the newest progress that is committed, or an error, never an older one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.connectors.kafka.run_transactions import LostProgressError, newest_value
from headrace.pipeline.config import KafkaSettings
from headrace.pipeline.errors import FatalError, UnavailableError
from headrace.pipeline.records import TopicSpec
from tests.integration.open_transactions import delete_records, left_open

LOOKED_BACK = 20
"""Transactions whose records and markers take more offsets than are looked at first."""


@pytest.fixture
def kafka(stack: Endpoints) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=stack.bootstrap_servers)


@pytest.fixture
def progress_topic(kafka: KafkaSettings, names: Callable[[str], str]) -> str:
    topic = names("progress")
    ensure_topics(kafka.bootstrap_servers, [TopicSpec(topic, 1)])
    return topic


@pytest.fixture
def writer(kafka: KafkaSettings, progress_topic: str) -> Producer:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": f"{progress_topic}.writer"})
    producer.init_transactions(20)
    return producer


def write(writer: Producer, topic: str, value: bytes, *, kept: bool = True, timestamp_ms: int = 0) -> None:
    writer.begin_transaction()
    writer.produce(topic, value, timestamp=timestamp_ms)
    assert writer.flush(20) == 0
    writer.commit_transaction(20) if kept else writer.abort_transaction(20)


def test_newest_value_is_the_last_that_was_committed(
    kafka: KafkaSettings, progress_topic: str, writer: Producer
) -> None:
    """By offset, whatever the clocks of its writers say, and however much was aborted behind it."""
    assert newest_value(kafka, progress_topic) is None
    write(writer, progress_topic, b"never", kept=False)
    assert newest_value(kafka, progress_topic) is None
    write(writer, progress_topic, b"first", timestamp_ms=2_000)
    write(writer, progress_topic, b"second", timestamp_ms=1_000)
    assert newest_value(kafka, progress_topic) == b"second"
    for _ in range(LOOKED_BACK):
        write(writer, progress_topic, b"never", kept=False)
    assert newest_value(kafka, progress_topic) == b"second"


def test_newest_value_is_not_known_while_a_transaction_is_open(
    kafka: KafkaSettings, progress_topic: str, writer: Producer
) -> None:
    """Not even if others have committed behind it."""
    write(writer, progress_topic, b"first")
    with left_open(kafka.bootstrap_servers, progress_topic):
        write(writer, progress_topic, b"second")
        with pytest.raises(UnavailableError, match="has a transaction that is open"):
            newest_value(kafka, progress_topic)
    assert newest_value(kafka, progress_topic) == b"second"


def test_newest_value_that_was_deleted_is_an_error_and_not_the_beginning(
    kafka: KafkaSettings, progress_topic: str, writer: Producer
) -> None:
    write(writer, progress_topic, b"first")
    delete_records(kafka.bootstrap_servers, progress_topic)
    with pytest.raises(LostProgressError):
        newest_value(kafka, progress_topic)
    write(writer, progress_topic, b"second")
    assert newest_value(kafka, progress_topic) == b"second"


def test_newest_value_of_no_topic_is_an_error(kafka: KafkaSettings, names: Callable[[str], str]) -> None:
    with pytest.raises(FatalError, match="does not exist"):
        newest_value(kafka, names("nothing"))
