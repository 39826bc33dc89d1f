"""What a group's reader commits, with a consumer that rebalances as the client does: within ``poll``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.connectors.kafka.group_reader import GroupReader
from headrace.pipeline.config import KafkaSettings
from headrace.pipeline.errors import ConfigError, FatalError, RetriableError, UnavailableError

TOPIC = "results"


class FakeMessage:
    def __init__(self, partition: int, offset: int, error: KafkaError | None = None) -> None:
        self._place = (partition, offset)
        self._error = error

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return self._place[0]

    def offset(self) -> int:
        return self._place[1]

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def key(self) -> None:
        return None

    def value(self) -> bytes:
        return b"value"

    def headers(self) -> None:
        return None

    def error(self) -> KafkaError | None:
        return self._error


class FakeConsumer:
    """Hands over what was put into ``arrivals``: messages, or partitions that are revoked."""

    def __init__(self) -> None:
        self.arrivals: deque[FakeMessage | set[int]] = deque()
        self.committed: list[dict[int, int]] = []
        self.commit_error: KafkaError | None = None
        self.partition_error: KafkaError | None = None
        self.topic_error: KafkaError | None = None
        self.closed = False
        self.configuration: dict[str, Any] = {}
        self._on_revoke: Callable[..., None] = lambda *_: None

    def make(self, configuration: dict[str, Any]) -> Consumer:
        self.configuration = configuration
        return cast("Consumer", self)

    def list_topics(self, topic: str, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(topics={topic: SimpleNamespace(error=self.topic_error)})

    def subscribe(self, topics: list[str], on_revoke: Callable[..., None], on_lost: Callable[..., None]) -> None:
        assert on_lost == on_revoke
        self._on_revoke = on_revoke

    def poll(self, timeout: float) -> FakeMessage | None:
        while self.arrivals:
            arrival = self.arrivals.popleft()
            if isinstance(arrival, FakeMessage):
                return arrival
            self._on_revoke(self, [TopicPartition(TOPIC, partition) for partition in arrival])
        return None

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[SimpleNamespace]:
        assert not asynchronous
        if self.commit_error is not None:
            raise KafkaException(self.commit_error)
        self.committed.append({each.partition: each.offset for each in offsets})
        return [SimpleNamespace(error=self.partition_error) for _ in offsets]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def consumer() -> FakeConsumer:
    return FakeConsumer()


@pytest.fixture
def reader(consumer: FakeConsumer) -> GroupReader:
    return open_reader(consumer)


def open_reader(consumer: FakeConsumer, from_beginning: bool = True) -> GroupReader:
    return GroupReader(KafkaSettings(), [TOPIC], "group", from_beginning=from_beginning, make_consumer=consumer.make)


def take(reader: GroupReader, count: int = 1) -> None:
    for _ in range(count):
        assert reader.read(0) is not None
        reader.take()


def test_nothing_is_committed_by_itself(consumer: FakeConsumer, reader: GroupReader) -> None:
    assert consumer.configuration["enable.auto.commit"] is False
    assert consumer.configuration["enable.auto.offset.store"] is False
    assert consumer.configuration["isolation.level"] == "read_committed"
    consumer.arrivals.append(FakeMessage(0, 5))
    take(reader)
    reader.close()
    assert consumer.closed
    assert consumer.committed == []


def test_start_is_where_the_group_has_committed_nothing(consumer: FakeConsumer) -> None:
    open_reader(consumer, from_beginning=False)
    assert consumer.configuration["auto.offset.reset"] == "latest"
    open_reader(consumer)
    assert consumer.configuration["auto.offset.reset"] == "earliest"


def test_commit_is_the_offset_after_the_last_record_taken(consumer: FakeConsumer, reader: GroupReader) -> None:
    consumer.arrivals.extend([FakeMessage(0, 5), FakeMessage(1, 9), FakeMessage(0, 6), FakeMessage(0, 7)])
    take(reader, 3)
    assert reader.read(0) is not None  # read, and not taken
    reader.commit()
    reader.commit()
    take(reader)
    reader.commit()
    assert consumer.committed == [{0: 7, 1: 10}, {0: 8}]


def test_record_is_read_again_until_it_is_taken(consumer: FakeConsumer, reader: GroupReader) -> None:
    consumer.arrivals.extend([FakeMessage(0, 5), FakeMessage(0, 6)])
    first = reader.read(0)
    assert reader.read(0) is first
    reader.take()
    second = reader.read(0)
    assert second is not None
    assert second.provenance.offset == 6


def test_records_of_a_partition_that_is_gone_are_not_committed(consumer: FakeConsumer, reader: GroupReader) -> None:
    consumer.arrivals.extend([FakeMessage(0, 5), FakeMessage(1, 9), {0}, FakeMessage(1, 10)])
    take(reader, 3)
    reader.commit()
    assert consumer.committed == [{1: 11}]


def test_commit_after_everything_is_gone_asks_nothing(consumer: FakeConsumer, reader: GroupReader) -> None:
    consumer.arrivals.extend([FakeMessage(0, 5), {0, 1}])
    take(reader)
    assert reader.read(0) is None
    reader.commit()
    assert consumer.committed == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError.ILLEGAL_GENERATION, RetriableError),
        (KafkaError.REBALANCE_IN_PROGRESS, RetriableError),
        (KafkaError._TIMED_OUT, RetriableError),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, FatalError),
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["of the call", "of a partition"])
def test_refused_commit_is_told_and_can_be_repeated(
    consumer: FakeConsumer, reader: GroupReader, code: int, kind: type[Exception], whole: bool
) -> None:
    consumer.arrivals.append(FakeMessage(0, 5))
    take(reader)
    if whole:
        consumer.commit_error = KafkaError(code)
    else:
        consumer.partition_error = KafkaError(code)
    with pytest.raises(kind, match="commit"):
        reader.commit()
    consumer.commit_error = consumer.partition_error = None
    reader.commit()
    assert consumer.committed[-1] == {0: 6}


def test_broker_that_is_away_and_slow_callers_end_nothing(consumer: FakeConsumer, reader: GroupReader) -> None:
    troubles = [KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._MAX_POLL_EXCEEDED]
    consumer.arrivals.extend(FakeMessage(0, 0, KafkaError(code)) for code in troubles)
    consumer.arrivals.append(FakeMessage(0, 5))
    assert [reader.read(0) for _ in troubles] == [None] * 3
    take(reader)


def test_topic_that_is_gone_or_forbidden_is_told(consumer: FakeConsumer, reader: GroupReader) -> None:
    consumer.arrivals.append(FakeMessage(0, 0, KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))
    with pytest.raises(FatalError, match="topic results does not exist"):
        reader.read(0)
    consumer.arrivals.append(FakeMessage(0, 0, KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)))
    with pytest.raises(FatalError, match="authorization"):
        reader.read(0)


def test_refused_login_is_told(consumer: FakeConsumer, reader: GroupReader) -> None:
    consumer.configuration["error_cb"](KafkaError(KafkaError._AUTHENTICATION))
    with pytest.raises(FatalError, match="uthentication"):
        reader.read(0)


def test_construction_that_fails_closes_the_client(consumer: FakeConsumer) -> None:
    consumer.topic_error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    with pytest.raises(FatalError, match="does not exist"):
        open_reader(consumer)
    assert consumer.closed
    consumer.topic_error = KafkaError(KafkaError.LEADER_NOT_AVAILABLE)
    with pytest.raises(UnavailableError, match="headrace up"):
        open_reader(consumer)


def test_unknown_client_property_is_a_configuration_error() -> None:
    wrong = KafkaSettings(client={"no.such.property": 1})
    with pytest.raises(ConfigError, match=r"no\.such\.property"):
        GroupReader(wrong, [TOPIC], "group", from_beginning=True)
