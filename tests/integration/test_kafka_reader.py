"""Reading to the end, with a consumer that keeps partitions, positions and ends as the client does."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from headrace.connectors.kafka import reader as subject
from headrace.connectors.kafka.reader import Beginning, CommittedReader, End
from headrace.pipeline.config import KafkaSettings, TopicSettings
from headrace.pipeline.errors import FatalError, UnavailableError
from headrace.pipeline.setup import DEAD_LETTER_HEADROOM_BYTES

TOPIC = "results"


class FakeMessage:
    def __init__(self, partition: int, offset: int, value: bytes | None, error: KafkaError | None = None) -> None:
        self._partition, self._offset, self._value, self._error = partition, offset, value, error

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 1, self._offset

    def key(self) -> None:
        return None

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> None:
        return None

    def error(self) -> KafkaError | None:
        return self._error


class FakeConsumer:
    """One topic; hands over one record a poll, partitions in turn, and each partition's end once it is met."""

    def __init__(self, *partitions: list[bytes]) -> None:
        self.partitions = list(partitions)
        self.silent: set[int] = set()
        """Partitions whose broker hands over nothing."""
        self.leaderless_answers = 0
        """How many questions about offsets come too early."""
        self.before_poll: Callable[[], object] = lambda: None
        self.gone = False
        """The topic was deleted."""
        self.configuration: dict[str, object] = {}
        self._positions: dict[int, int] = {}
        self._met_end: set[int] = set()
        self._turns: deque[int] = deque()

    def list_topics(self, topic: str, timeout: float) -> SimpleNamespace:
        error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART) if self.gone else None
        found = SimpleNamespace(error=error, partitions=dict(enumerate(self.partitions)))
        return SimpleNamespace(topics={topic: found})

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        if self.leaderless_answers:
            self.leaderless_answers -= 1
            raise KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))
        return 0, len(self.partitions[partition.partition])

    def assign(self, starts: list[TopicPartition]) -> None:
        self._positions = {start.partition: 0 if start.offset == OFFSET_BEGINNING else start.offset for start in starts}
        self._met_end = set()
        self._turns = deque(self._positions)

    def poll(self, timeout: float) -> FakeMessage | None:
        self.before_poll()
        for _ in range(len(self._turns)):
            self._turns.rotate(-1)
            if (message := self._next(self._turns[-1])) is not None:
                return message
        time.sleep(timeout)
        return None

    def consume(self, count: int, timeout: float) -> list[FakeMessage]:
        return []

    def close(self) -> None:
        """Nothing is held."""

    def tell_aside(self, code: int) -> None:
        """What the client says to its error callback, and nowhere else."""
        error_cb = self.configuration["error_cb"]
        assert callable(error_cb)
        error_cb(KafkaError(code))

    def _next(self, partition: int) -> FakeMessage | None:
        position, records = self._positions[partition], self.partitions[partition]
        if partition in self.silent:
            return None
        if position < len(records):
            self._positions[partition] += 1
            self._met_end.discard(partition)
            return FakeMessage(partition, position, records[position])
        if partition in self._met_end:
            return None
        self._met_end.add(partition)
        return FakeMessage(partition, position, None, KafkaError(KafkaError._PARTITION_EOF))


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> FakeConsumer:
    consumer = FakeConsumer([b"a", b"b", b"c"], [b"d"])

    def make(configuration: dict[str, object]) -> FakeConsumer:
        consumer.configuration = configuration
        return consumer

    monkeypatch.setattr(subject, "Consumer", make)
    return consumer


@pytest.fixture
def reader(consumer: FakeConsumer) -> CommittedReader:
    return CommittedReader(KafkaSettings(), [TOPIC], Beginning())


def test_largest_dead_letter_that_settings_allow_fits_a_response(consumer: FakeConsumer) -> None:
    largest = next(item.le for item in TopicSettings.model_fields["max_message_bytes"].metadata if hasattr(item, "le"))
    CommittedReader(KafkaSettings(), [TOPIC], Beginning())
    room = consumer.configuration["receive.message.max.bytes"]
    assert isinstance(room, int)
    assert room > largest + DEAD_LETTER_HEADROOM_BYTES + 1024**2


def test_read_until_the_end_has_all(reader: CommittedReader) -> None:
    assert sorted(record.value or b"" for record in reader.records(5, until_end=True)) == [b"a", b"b", b"c", b"d"]


def test_end_that_is_not_handed_over_is_an_error_and_no_short_answer(
    reader: CommittedReader, consumer: FakeConsumer
) -> None:
    consumer.silent = {1}
    found = []
    with pytest.raises(UnavailableError, match="did not hand over the topics' end in time"):
        found += [record.value for record in reader.records(0.2, until_end=True)]
    consumer.silent = set()
    assert [record.value for record in reader.records(5, until_end=True)][-1:] == [b"d"]


def test_history_that_is_not_handed_over_is_an_error(consumer: FakeConsumer) -> None:
    with CommittedReader(KafkaSettings(), [TOPIC], End()) as reader:
        consumer.silent = {1}
        with pytest.raises(UnavailableError, match="did not hand over"):
            reader.read_last(2, 0.2)
        with pytest.raises(UnavailableError, match="did not hand over"):
            reader.record_at(TOPIC, 1, 0, 0.2)


def test_partition_without_a_leader_yet_is_asked_again(consumer: FakeConsumer) -> None:
    consumer.leaderless_answers = 2
    with CommittedReader(KafkaSettings(), [TOPIC], End()) as reader:
        assert list(reader.records(5, until_end=True)) == []
    consumer.leaderless_answers = 1000
    with pytest.raises(UnavailableError, match="Not leader"):
        CommittedReader(KafkaSettings(), [TOPIC], End(), answer_seconds=0.2)


def test_time_that_the_caller_takes_does_not_count(reader: CommittedReader) -> None:
    found = []
    for record in reader.records(0.2, until_end=True):
        found.append(record.value)
        time.sleep(0.15)
    assert len(found) == 4


@pytest.mark.parametrize("quiet_polls", [0, 10], ids=["from the first", "after its end was met"])
def test_partition_that_is_written_to_all_the_time_does_not_keep_reading_from_its_end(
    reader: CommittedReader, consumer: FakeConsumer, quiet_polls: int
) -> None:
    consumer.partitions[1] = [b"%d" % number for number in range(20)]
    steady = consumer.partitions[0]
    polls = 0

    def write() -> None:
        nonlocal polls
        polls += 1
        assert polls < 200, "reads on and on"
        if polls > quiet_polls:
            steady.append(b"more")

    consumer.before_poll = write
    found = [record.value for record in reader.records(5, until_end=True)]
    assert {b"a", b"b", b"c", b"19"} <= set(found)


def test_only_chosen_partitions_are_read(consumer: FakeConsumer) -> None:
    def choose(topic: str, partitions: Sequence[int]) -> Sequence[int]:
        assert (topic, partitions) == (TOPIC, [0, 1])
        return [1]

    with CommittedReader(KafkaSettings(), [TOPIC], Beginning(), choose=choose) as reader:
        assert [record.value for record in reader.records(5, until_end=True)] == [b"d"]


@pytest.mark.parametrize("code", [KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED])
def test_refused_login_is_an_error_and_no_silence(consumer: FakeConsumer, reader: CommittedReader, code: int) -> None:
    consumer.tell_aside(code)
    with pytest.raises(FatalError, match="uthentication"):
        list(reader.records(5))


def test_broker_that_is_away_is_waited_for(consumer: FakeConsumer, reader: CommittedReader) -> None:
    consumer.tell_aside(KafkaError._ALL_BROKERS_DOWN)
    assert len(list(reader.records(0.2))) == 4


def test_topic_that_is_deleted_is_an_error_and_no_silence(
    consumer: FakeConsumer, reader: CommittedReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic that the brokers have only not heard of everywhere yet is there when they are asked again."""
    monkeypatch.setattr(subject, "MISSING_SECONDS", 0.01)
    consumer.tell_aside(KafkaError._UNKNOWN_PARTITION)
    assert len(list(reader.records(0.2))) == 4
    consumer.gone = True
    consumer.tell_aside(KafkaError.UNKNOWN_TOPIC_OR_PART)
    with pytest.raises(FatalError, match="topic results does not exist"):
        list(reader.records(5))
