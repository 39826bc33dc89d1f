"""What a replay consumes, on the real broker: each record of a range once, whatever offsets have none, and its end."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.history import KafkaTopicHistory
from headrace.connectors.kafka.range_source import RangeSettings, RangeSource
from headrace.pipeline import records
from headrace.pipeline.budget import Budget
from headrace.pipeline.errors import FatalError
from headrace.pipeline.ports import StartPosition
from headrace.pipeline.records import RecordBatch, SourceRecord
from headrace.pipeline.replay.ranges import Earliest, Latest, Offsets, PartitionRange, resolve
from tests.integration.harness import wait_until

SECONDS = 30.0
MANY = 10**6
COMPACTED = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.01",
    "segment.bytes": "1048576",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "1",
}
PREFETCHED = 20_000
"""The client fetches so many ahead: what is deleted among these is still handed over."""


class Listener:
    """``ports.AssignmentListener`` that commits what it is handed at once, or only when it is told to."""

    def __init__(self, budget: Budget, *, commits: bool) -> None:
        self._budget = budget
        self._commits = commits
        self._pending: list[SourceRecord] = []
        self.offsets: defaultdict[int, list[int]] = defaultdict(list)
        """Handed over, of each partition."""
        self.positions: Mapping[records.TopicPartition, StartPosition] = {}
        self.revocations = 0

    async def assigning(self) -> None:
        raise AssertionError("there is no group to be assigned by")

    async def assigned(self, generation: int, positions: Mapping[records.TopicPartition, StartPosition]) -> None:
        self.positions = positions

    async def revoked(self, partitions: frozenset[records.TopicPartition]) -> None:
        assert partitions == self.positions.keys()
        self.revocations += 1

    async def lost(self, partitions: frozenset[records.TopicPartition]) -> None:
        raise AssertionError("nobody else can own them")

    def received(self, batches: Sequence[RecordBatch]) -> None:
        for batch in batches:
            for record in batch.records:
                self.offsets[batch.partition.partition].append(record.provenance.offset)
            self._pending += batch.records
        if self._commits:
            self.commit()

    def commit(self) -> None:
        self._commits = True
        done, self._pending = self._pending, []
        self._budget.release(len(done), sum(record.size_bytes for record in done))


class Reading:
    """A source at work on ranges of a topic."""

    def __init__(
        self,
        where: str,
        topic: str,
        ranges: Sequence[PartitionRange],
        done: Mapping[int, StartPosition],
        max_records: int,
        commits: bool,
    ) -> None:
        self.budget = Budget(max_records, MANY * 1000)
        self.listener = Listener(self.budget, commits=commits)
        settings = RangeSettings(where, topic, tuple(ranges))
        self.source = RangeSource(settings, self.budget, lambda: done, lambda record: True)

    async def ended(self) -> dict[int, list[int]]:
        """The offsets of what was handed over, once the source has ended by itself."""
        async with asyncio.timeout(SECONDS):
            await self.source.wait_ended()
        assert self.source.exhausted
        assert (self.source.remaining, self.listener.revocations) == (0, 1)
        return dict(self.listener.offsets)

    async def wait(self, condition: Callable[[], object]) -> None:
        await asyncio.to_thread(wait_until, condition, SECONDS, "the source")


Read = Callable[..., Any]


@pytest.fixture
async def read(stack: Endpoints) -> AsyncIterator[Read]:
    """Starts a source: ``await read(topic, ranges)``."""
    readings: list[Reading] = []

    async def start(
        topic: str,
        ranges: Sequence[PartitionRange],
        *,
        done: Mapping[int, StartPosition] | None = None,
        max_records: int = MANY,
        commits: bool = True,
    ) -> Reading:
        reading = Reading(stack.bootstrap_servers, topic, ranges, done or {}, max_records, commits)
        readings.append(reading)
        await reading.source.start(reading.listener)
        return reading

    yield start
    for each in readings:
        await each.source.stop()


@pytest.fixture
def history(stack: Endpoints) -> Callable[[str], KafkaTopicHistory]:
    return lambda topic: KafkaTopicHistory(stack.bootstrap_servers, topic, {})


class Writer:
    """A transactional producer; writes wait until they are there."""

    def __init__(self, where: str, name: str) -> None:
        self._producer = Producer({"bootstrap.servers": where, "transactional.id": name})
        self._producer.init_transactions(20)

    def begin(self) -> None:
        self._producer.begin_transaction()

    def write(self, topic: str, *partitions: int) -> list[int]:
        """The offsets."""
        offsets: list[int] = []

        def note(error: KafkaError | None, record: Message) -> None:
            offset = record.offset()
            assert offset is not None, error
            offsets.append(offset)

        for partition in partitions:
            self._producer.produce(topic, b"x", partition=partition, on_delivery=note)
        assert self._producer.flush(20) == 0
        return offsets

    def commit(self) -> None:
        self._producer.commit_transaction(20)

    def abort(self) -> None:
        self._producer.abort_transaction(20)


@pytest.fixture
def make_writer(stack: Endpoints, names: Callable[[str], str]) -> Callable[[], Writer]:
    numbers = itertools.count()
    return lambda: Writer(stack.bootstrap_servers, names(f"writer-{next(numbers)}"))


def fill(where: str, topic: str, count: int, *, keys: range = range(1), partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": where, "queue.buffering.max.messages": MANY, "linger.ms": 5})
    for number in range(count):
        producer.produce(topic, b"%d" % number, b"k%d" % keys[number % len(keys)], partition)
    assert producer.flush(60) == 0


async def test_partitions_without_a_record_end(
    read: Read, history: Callable[[str], KafkaTopicHistory], make_topics: Any, make_writer: Callable[[], Writer]
) -> None:
    """One has never had any, one has only aborted ones and markers, of one the range is empty, one is read."""
    [topic] = make_topics("t", partitions=4)
    writer = make_writer()
    for kept in (False, True, False):
        writer.begin()
        writer.write(topic, *((1, 2, 2, 3, 3) if kept is False else (2, 2, 3, 3)))
        writer.commit() if kept else writer.abort()
    ranges = resolve(history(topic), Earliest(), Latest())
    assert [(each.start, each.end) for each in ranges] == [(0, 0), (0, 4), (0, 9), (0, 9)]
    empty = PartitionRange(2, 3, 3)
    reading = await read(topic, [ranges[0], ranges[1], empty, ranges[3]])
    assert await reading.ended() == {3: [3, 4]}


async def test_source_with_nothing_to_read_ends(read: Read, make_topics: Any) -> None:
    [topic] = make_topics("t", partitions=2)
    assert await (await read(topic, [PartitionRange(0, 0, 0), PartitionRange(1, 0, 0)])).ended() == {}


async def test_source_goes_on_behind_what_is_done(stack: Endpoints, read: Read, make_topics: Any) -> None:
    """In the middle of one partition, at the end of another, behind the end of a third; of the fourth nothing is."""
    [topic] = make_topics("t", partitions=4)
    for partition in range(4):
        fill(stack.bootstrap_servers, topic, 12, partition=partition)
    done = {0: StartPosition(7, "m"), 1: StartPosition(10, ""), 2: StartPosition(12, "")}
    reading = await read(topic, [PartitionRange(each, 2, 10) for each in range(4)], done=done)
    assert await reading.ended() == {0: [7, 8, 9], 3: [*range(2, 10)]}
    found = {place.partition: position for place, position in reading.listener.positions.items()}
    assert found == {**done, 3: StartPosition(2, "")}


async def test_range_that_ends_at_an_open_transaction_ends(
    read: Read, history: Callable[[str], KafkaTopicHistory], make_topics: Any, make_writer: Callable[[], Writer]
) -> None:
    """Whatever others have committed behind its first record; and holds the same when the transaction is over."""
    [topic] = make_topics("t", partitions=1)
    slow, quick = make_writer(), make_writer()
    quick.begin()
    quick.write(topic, 0, 0)
    quick.commit()
    slow.begin()
    slow.write(topic, 0)
    quick.begin()
    quick.write(topic, 0)
    quick.commit()
    ranges = resolve(history(topic), Earliest(), Latest())
    assert ranges == (PartitionRange(0, 0, 3),)
    assert await (await read(topic, ranges)).ended() == {0: [0, 1]}
    slow.commit()
    assert await (await read(topic, ranges)).ended() == {0: [0, 1]}


async def test_records_of_two_writers_come_in_their_order_without_what_was_aborted(
    read: Read, history: Callable[[str], KafkaTopicHistory], make_topics: Any, make_writer: Callable[[], Writer]
) -> None:
    """Their transactions lie within one another, and the range ends within both, which are over by then."""
    [topic] = make_topics("t", partitions=1)
    kept, dropped = make_writer(), make_writer()
    kept.begin()
    dropped.begin()
    for writer in (kept, dropped, kept, dropped, kept):
        writer.write(topic, 0)
    dropped.abort()
    last = kept.write(topic, 0)  # whether the marker of what was aborted is there before it or comes behind it
    kept.commit()
    within = resolve(history(topic), Offsets({0: 0}), Offsets({0: 4}))
    assert await (await read(topic, within)).ended() == {0: [0, 2]}
    whole = resolve(history(topic), Earliest(), Latest())
    assert await (await read(topic, whole)).ended() == {0: [0, 2, 4, *last]}


async def test_source_waits_within_a_transaction_that_is_open(
    read: Read, make_topics: Any, make_writer: Callable[[], Writer]
) -> None:
    """As behind a broker that has just become the leader, and does not know yet that all is committed."""
    [topic] = make_topics("t", partitions=1)
    writer = make_writer()
    writer.begin()
    writer.write(topic, 0, 0)
    writer.commit()
    writer.begin()
    writer.write(topic, 0, 0)
    reading = await read(topic, [PartitionRange(0, 0, 5)])
    await reading.wait(lambda: reading.listener.offsets[0] == [0, 1])
    assert not reading.source.exhausted
    writer.commit()
    assert await reading.ended() == {0: [0, 1, 3, 4]}


async def test_compacted_topic_is_read_to_its_end_with_what_is_left(
    stack: Endpoints, read: Read, history: Callable[[str], KafkaTopicHistory], make_topics: Any
) -> None:
    """Of the range the first records are gone, and the last, too, whose keys have come again behind it."""
    [topic] = make_topics("t", partitions=1, config=COMPACTED)
    end, again = 30_000, 50
    fill(stack.bootstrap_servers, topic, end, keys=range(2 * again))
    planned = resolve(history(topic), Offsets({0: 0}), Offsets({0: end}))
    fill(stack.bootstrap_servers, topic, 2 * end, keys=range(again, 2 * again))
    left = await asyncio.to_thread(compacted, stack.bootstrap_servers, topic, end, again)
    assert left == [*range(end - 2 * again, end - again)]
    assert await (await read(topic, planned)).ended() == {0: left}


def compacted(where: str, topic: str, end: int, count: int) -> list[int]:
    """The offsets before ``end``, once so many are left."""
    found: list[int] = []

    def is_compacted() -> bool:
        found[:] = offsets_before(where, topic, end)
        return len(found) <= count

    wait_until(is_compacted, 90, "the broker to compact the topic")
    return found


def offsets_before(where: str, topic: str, end: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": where, "group.id": "looks", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    found: list[int] = []
    try:
        while True:
            for record in consumer.consume(5000, 0.1):
                error = record.error()
                assert error is None or error.code() == KafkaError._PARTITION_EOF, error
                offset = record.offset()
                assert offset is not None
                if offset >= end:
                    return found
                found.append(offset)
    finally:
        consumer.close()


async def test_beginning_that_is_deleted_while_it_is_read_ends_the_source_with_an_error(
    stack: Endpoints, read: Read, make_topics: Any
) -> None:
    """What it has handed over has no gap: nothing was passed over."""
    [topic] = make_topics("t", partitions=1)
    count = 8 * PREFETCHED
    fill(stack.bootstrap_servers, topic, count)
    reading = await read(topic, [PartitionRange(0, 0, count)], max_records=10, commits=False)
    await reading.wait(lambda: reading.listener.offsets[0])
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers})
    for future in admin.delete_records([TopicPartition(topic, 0, count - 10)]).values():
        await asyncio.to_thread(future.result, 20)
    reading.listener.commit()
    with pytest.raises(FatalError, match="retention has deleted them before they were read"):
        async with asyncio.timeout(SECONDS):
            await reading.source.wait_ended()
    handed = reading.listener.offsets[0]
    assert handed == [*range(len(handed))]
    assert len(handed) < count - 10
    assert not reading.source.exhausted
    assert reading.listener.revocations == 1


async def test_records_that_are_dropped_as_the_source_is_stopped_do_not_make_it_exhausted(
    stack: Endpoints, read: Read, make_topics: Any
) -> None:
    """All is read, and nothing is committed: what fails then lets go of the records, and stops the source."""
    [topic] = make_topics("t", partitions=1)
    fill(stack.bootstrap_servers, topic, 20)
    reading = await read(topic, [PartitionRange(0, 0, 20)], commits=False)
    await reading.wait(lambda: len(reading.listener.offsets[0]) == 20)
    assert reading.source.remaining == 20
    reading.listener.commit()  # to the budget that is the same
    await reading.source.stop()
    assert not reading.source.exhausted


async def test_offsets_at_a_time_are_of_records_that_are_committed(
    stack: Endpoints, history: Callable[[str], KafkaTopicHistory], make_topics: Any
) -> None:
    """The first with that timestamp or a later one, as they lie there; none if all are older."""
    [topic] = make_topics("t", partitions=2)
    producer = Producer({"bootstrap.servers": stack.bootstrap_servers})
    for seconds in (10, 30, 20, 40):
        producer.produce(topic, b"x", partition=0, timestamp=seconds * 1000)
    assert producer.flush(20) == 0
    found = {ms: history(topic).offsets_at(ms) for ms in (0, 15_000, 30_001, 40_001)}
    assert found == {0: {0: 0, 1: None}, 15_000: {0: 1, 1: None}, 30_001: {0: 3, 1: None}, 40_001: {0: None, 1: None}}
