"""The sending and the reading end against a real broker."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest
from confluent_kafka import Producer

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.producer import DeliveryReport, EventSender, EventTooLargeError, record_size_bytes
from headrace.connectors.kafka.reader import Beginning, CommittedReader, End, Since
from headrace.pipeline.config import KafkaSettings
from headrace.pipeline.errors import ConfigError, FatalError, UnavailableError

MakeTopics = Callable[..., tuple[str, ...]]
READ_SECONDS = 15.0
CLOSED = KafkaSettings(bootstrap_servers="127.0.0.1:1")
JAVA_MURMUR2 = {"21": -973932308, "foobar": -790332482, "abc": 479470107, "a-little-bit-long-string": -985981536}
"""From Apache Kafka's own tests of its partitioner."""


@pytest.fixture
def kafka(stack: Endpoints) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=stack.bootstrap_servers)


def must_not_arrive(report: DeliveryReport) -> None:
    pytest.fail(f"delivered: {report}")


def values(reader: CommittedReader) -> list[bytes | None]:
    return [record.value for record in reader.records(READ_SECONDS, until_end=True)]


def send_all(kafka: KafkaSettings, topic: str, count: int, key: bytes | None = None) -> list[DeliveryReport]:
    """Values are ``0``, ``1`` … Returns the reports in that order; they may come in another."""
    reports: dict[int, DeliveryReport] = {}
    with EventSender(kafka, 1_000_000) as sender:
        for number in range(count):
            sender.send(topic, b"%d" % number, key=key, on_delivery=partial(reports.__setitem__, number))
        sender.flush()
    return [reports[number] for number in range(count)]


def test_sent_record_is_read_back_untouched_at_its_reported_position(
    kafka: KafkaSettings, make_topics: MakeTopics
) -> None:
    (topic,) = make_topics("requests")
    headers = (("a", b"1"), ("a", b"\xff"), ("none", None), ("empty", b""))
    reports: dict[str, DeliveryReport] = {}
    with EventSender(kafka, 1_000_000) as sender:
        full = partial(reports.__setitem__, "full")
        sender.send(topic, b"value", key=b"\x00key", headers=headers, on_delivery=full)
        sender.send(topic, None, on_delivery=partial(reports.__setitem__, "none"))
        sender.send(topic, b"", on_delivery=partial(reports.__setitem__, "empty"))
        sender.flush()
    with CommittedReader(kafka, [topic], Beginning()) as reader:
        read = {(r.provenance.partition, r.provenance.offset): r for r in reader.records(READ_SECONDS, until_end=True)}
    found = {name: read[report.partition, report.offset] for name, report in reports.items()}
    assert (found["full"].value, found["full"].key, found["full"].headers) == (b"value", b"\x00key", headers)
    assert (found["none"].value, found["empty"].value) == (None, b"")
    assert found["full"].provenance.timestamp_ms == reports["full"].timestamp_ms


@pytest.mark.parametrize(("key", "murmur2"), JAVA_MURMUR2.items())
def test_key_goes_to_the_partition_that_java_clients_choose(
    kafka: KafkaSettings, make_topics: MakeTopics, key: str, murmur2: int
) -> None:
    (topic,) = make_topics("requests", partitions=7)
    (report,) = send_all(kafka, topic, 1, key.encode())
    assert report.partition == (murmur2 & 0x7FFFFFFF) % 7


def test_event_at_the_limit_is_taken_by_the_broker_and_one_byte_more_is_refused_unsent(
    kafka: KafkaSettings, make_topics: MakeTopics
) -> None:
    limit = 4096
    (topic,) = make_topics("requests", config={"max.message.bytes": str(limit)})
    key, headers = b"key", (("name", b"x" * 100), ("other", None))
    value = b"v" * (limit - record_size_bytes(key, b"", headers))
    reports: list[DeliveryReport] = []
    with EventSender(kafka, limit) as sender:
        sender.send(topic, value, key=key, headers=headers, on_delivery=reports.append)
        with pytest.raises(EventTooLargeError, match=r"4,097 bytes .* at most 4,096 .*topics\.max_message_bytes"):
            sender.send(topic, value + b"v", key=key, headers=headers, on_delivery=reports.append)
        sender.flush()
    assert len(reports) == 1
    with CommittedReader(kafka, [topic], Beginning()) as reader:
        assert values(reader) == [value]


def test_broker_that_allows_less_than_the_setting_is_named(kafka: KafkaSettings, make_topics: MakeTopics) -> None:
    (topic,) = make_topics("requests", config={"max.message.bytes": "1024"})
    with EventSender(kafka, 100_000) as sender:
        sender.send(topic, b"v" * 5000, on_delivery=must_not_arrive)
        with pytest.raises(FatalError, match=r"max\.message\.bytes is less"):
            sender.flush()


def test_unreachable_broker_is_told_in_bounded_time() -> None:
    began = time.monotonic()
    with EventSender(CLOSED, 1_000_000, delivery_timeout_seconds=1.0) as sender:
        sender.send("requests", b"v", on_delivery=must_not_arrive)
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1.*headrace up"):
            sender.flush(5.0)
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1.*headrace up"):
        CommittedReader(CLOSED, ["results"], End(), answer_seconds=1.0)
    assert time.monotonic() - began < 10


def test_unknown_client_property_is_a_configuration_error() -> None:
    wrong = KafkaSettings(client={"no.such.property": 1})
    with pytest.raises(ConfigError, match=r"no\.such\.property"):
        EventSender(wrong, 1_000_000)
    with pytest.raises(ConfigError, match=r"no\.such\.property"):
        CommittedReader(wrong, ["results"], End())


def test_topic_that_does_not_exist_is_told(kafka: KafkaSettings, names: Callable[[str], str]) -> None:
    with pytest.raises(FatalError, match="does not exist"):
        CommittedReader(kafka, [names("missing")], Beginning())


def test_reader_sees_nothing_of_open_or_aborted_transactions(
    kafka: KafkaSettings, make_topics: MakeTopics, names: Callable[[str], str]
) -> None:
    (topic,) = make_topics("results", partitions=1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": names("writer")})
    producer.init_transactions(READ_SECONDS)

    def write(value: bytes) -> None:
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(READ_SECONDS)

    with CommittedReader(kafka, [topic], Beginning()) as reader:
        write(b"aborted")
        producer.abort_transaction(READ_SECONDS)
        write(b"committed")
        assert values(reader) == []
        producer.commit_transaction(READ_SECONDS)
        assert next(reader.records(READ_SECONDS)).value == b"committed"
        assert values(reader) == []


def test_reader_from_the_end_sees_only_what_comes_after_it_was_made(
    kafka: KafkaSettings, make_topics: MakeTopics
) -> None:
    (topic,) = make_topics("results")
    send_all(kafka, topic, 5)
    with CommittedReader(kafka, [topic], End()) as reader:
        assert values(reader) == []
        (report,) = send_all(kafka, topic, 1)
        record = next(reader.records(READ_SECONDS))
    assert (record.provenance.partition, record.provenance.offset) == (report.partition, report.offset)


def test_reader_since_a_moment_sees_that_moment_and_later(kafka: KafkaSettings, make_topics: MakeTopics) -> None:
    (topic,) = make_topics("results")
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for moment in (1000, 2000, 3000):
        producer.produce(topic, str(moment).encode(), key=b"k", timestamp=moment)
    producer.flush(READ_SECONDS)
    for since, expected in (
        (2000, [b"2000", b"3000"]),
        (2001, [b"3000"]),
        (3001, []),
        (0, [b"1000", b"2000", b"3000"]),
    ):
        with CommittedReader(kafka, [topic], Since(since)) as reader:
            assert values(reader) == expected


def test_reader_reads_several_topics_at_once(kafka: KafkaSettings, make_topics: MakeTopics) -> None:
    one, two = make_topics("one", "two")
    send_all(kafka, one, 3)
    send_all(kafka, two, 2)
    with CommittedReader(kafka, [one, two], Beginning()) as reader:
        topics = [record.provenance.topic for record in reader.records(READ_SECONDS, until_end=True)]
    assert sorted(topics) == sorted([one] * 3 + [two] * 2)


@pytest.mark.parametrize(("stored", "wanted"), [(0, 3), (2, 3), (300, 3), (40, 40)])
def test_read_last_gives_the_newest_in_order(
    kafka: KafkaSettings, make_topics: MakeTopics, stored: int, wanted: int
) -> None:
    (topic,) = make_topics("results")
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for number in range(stored):
        producer.produce(topic, str(number).encode(), timestamp=1000 + number)
    producer.flush(READ_SECONDS)
    with CommittedReader(kafka, [topic], End()) as reader:
        found = [record.value for record in reader.read_last(wanted, READ_SECONDS)]
    assert found == [str(number).encode() for number in range(stored)][-wanted:]


def test_read_last_prefers_a_newer_match_further_back_to_an_older_one_near_an_end(
    kafka: KafkaSettings, make_topics: MakeTopics
) -> None:
    """What is near one partition's end may be older than what is far from another's."""
    (topic,) = make_topics("results", partitions=2)
    (older,) = send_all(kafka, topic, 1, b"21")
    newer = send_all(kafka, topic, 60, b"abc")[0]
    assert older.partition != newer.partition
    matches = {(report.partition, report.offset) for report in (older, newer)}
    with CommittedReader(kafka, [topic], End()) as reader:
        (found,) = reader.read_last(
            1, READ_SECONDS, lambda record: (record.provenance.partition, record.provenance.offset) in matches
        )
    assert (found.provenance.partition, found.provenance.offset) == (newer.partition, newer.offset)


def test_read_last_goes_back_as_far_as_its_filter_needs(kafka: KafkaSettings, make_topics: MakeTopics) -> None:
    (topic,) = make_topics("results", partitions=1)
    send_all(kafka, topic, 200)
    with CommittedReader(kafka, [topic], End()) as reader:
        found = reader.read_last(2, READ_SECONDS, lambda record: record.value in (b"3", b"5", b"1"))
        assert [record.value for record in found] == [b"3", b"5"]
        send_all(kafka, topic, 1)
        assert next(reader.records(READ_SECONDS)).provenance.offset == 200


def test_record_at_finds_exactly_that_record(kafka: KafkaSettings, make_topics: MakeTopics) -> None:
    (topic,) = make_topics("results", partitions=2)
    reports = send_all(kafka, topic, 6)
    with CommittedReader(kafka, [topic], End()) as reader:
        for number, report in enumerate(reports):
            record = reader.record_at(topic, report.partition, report.offset, READ_SECONDS)
            assert record is not None
            assert record.value == b"%d" % number
        assert reader.record_at(topic, 0, 10_000, READ_SECONDS) is None
        assert reader.record_at(topic, 9, 0, READ_SECONDS) is None
        assert reader.record_at("other", 0, 0, READ_SECONDS) is None
