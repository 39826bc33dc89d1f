"""librdkafka's consumer as far as assignment and pausing go, and a member on it."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, cast

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from headrace.connectors.kafka.consumer import GroupConsumer
from headrace.connectors.kafka.consumer_settings import ConsumerSettings
from headrace.connectors.kafka.lost_brokers import LostBrokers
from headrace.pipeline import records
from headrace.pipeline.budget import Budget
from headrace.pipeline.config import Assignment
from headrace.pipeline.flow import Flow
from headrace.pipeline.records import RecordBatch

TOPIC = "requests"
ROOM = 5
Assign = Callable[["FakeClient", list[TopicPartition]], None]


class FakeMessage:
    def __init__(self, partition: int, offset: int, value: bytes | None = b"value") -> None:
        self._partition, self._offset, self._value = partition, offset, value

    def __len__(self) -> int:
        """As the client's own: a tombstone is false."""
        return len(self._value or b"")

    def error(self) -> KafkaError | None:
        return None

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def key(self) -> bytes | None:
        return None

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return None


class FakeClient:
    """Partitions have records without end, if no other number of them is set, and stay paused when they come back.

    The group's news come from within ``poll``, those of one list in one poll, or from within ``consume``. As with the
    real client a change of the assignment must be by the calls of the protocol in use, and by no others.
    """

    def __init__(self, cooperative: bool = False) -> None:
        self.news: deque[list[tuple[str, tuple[int, ...]]]] = deque()
        self.news_in_consume: deque[tuple[str, tuple[int, ...]]] = deque()
        self.paused: set[int] = set()
        self.available: defaultdict[int, float] = defaultdict(lambda: math.inf)
        """Records that each partition still has."""
        self.generation = 1
        """Of the group, in the metadata."""
        self.member_id = "mill-0-uuid"
        self.value: bytes | None = b"value"
        """Of each record."""
        self.polls_until_left: float = 2
        self.closed_as: str | None = "open"
        self.brokerless = False
        """It was told of no brokers, and never finds one."""
        self.history: list[tuple[str, tuple[int, ...]]] = []
        """What was done, and to which partitions; a test may add to it."""
        self._cooperative = cooperative
        self._leaving = False
        self._assigned: dict[int, int] = {}

    @property
    def changes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Changes of the assignment, as they were called for."""
        return [each for each in self.history if each[0] in ("assign", "unassign")]

    def tell(self, name: str, *partitions: int) -> None:
        """The group's next news."""
        self.news.append([(name, partitions)])

    def subscribe(self, topics: list[str], **callbacks: Assign) -> None:
        self._callbacks = callbacks

    def unsubscribe(self) -> None:
        self._leaving = True
        self.tell("on_revoke", *self._assigned)

    def list_topics(self, *, timeout: float) -> None:
        if self.brokerless:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    def memberid(self) -> str | None:
        return self.member_id if self.polls_until_left > 0 else None

    def consumer_group_metadata(self) -> object:
        return self.generation

    def poll(self, timeout: float) -> FakeMessage | None:
        for name, partitions in self.news.popleft() if self.news else ():
            self._call_back(name, partitions)
        if self._leaving:
            self.polls_until_left -= 1
        found = self._fetched(1)
        if not found:
            time.sleep(timeout / 10)
        return next(iter(found), None)

    def consume(self, count: int, timeout: float) -> list[FakeMessage]:
        while self.news_in_consume:
            self._call_back(*self.news_in_consume.popleft())
        return self._fetched(count)

    def _call_back(self, name: str, partitions: tuple[int, ...]) -> None:
        self._callbacks[name](self, [TopicPartition(TOPIC, each) for each in partitions])

    def _fetched(self, count: int) -> list[FakeMessage]:
        found: list[FakeMessage] = []
        for partition in self._assigned.keys() - self.paused:
            while len(found) < count and self.available[partition] > 0:
                self.available[partition] -= 1
                found.append(FakeMessage(partition, self._assigned[partition], self.value))
                self._assigned[partition] += 1
        return found

    def pause(self, partitions: list[TopicPartition]) -> None:
        assert {each.partition for each in partitions} <= self._assigned.keys()
        self.paused |= {each.partition for each in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused -= {each.partition for each in partitions}

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(TOPIC, each) for each in self._assigned]

    def assign(self, partitions: list[TopicPartition]) -> None:
        assert not self._cooperative
        self._assigned = self._begin("assign", partitions)

    def unassign(self) -> None:
        assert not self._cooperative
        self.history.append(("unassign", tuple(self._assigned)))
        self._assigned = {}

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        assert self._cooperative
        added = self._begin("assign", partitions)
        assert not added.keys() & self._assigned.keys()
        self._assigned |= added

    def _begin(self, name: str, partitions: list[TopicPartition]) -> dict[int, int]:
        self.history.append((name, tuple(each.partition for each in partitions)))
        return {each.partition: max(0, each.offset) for each in partitions}

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        assert self._cooperative
        self.history.append(("unassign", tuple(each.partition for each in partitions)))
        for each in partitions:
            del self._assigned[each.partition]

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self.history.append(("committed", tuple(each.partition for each in partitions)))
        return [TopicPartition(TOPIC, each.partition, OFFSET_INVALID) for each in partitions]

    def offsets_for_times(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self.history.append(("woken", tuple(each.partition for each in partitions)))
        return partitions

    def close(self) -> None:
        self.closed_as = self.memberid()


class Bench:
    """A member in a group, whose records stay in flight until a test completes them. It is given ``client``."""

    def __init__(
        self,
        assignment: Assignment = Assignment.RANGE,
        room: int = ROOM,
        lost_brokers: LostBrokers | None = None,
        budget: Budget | None = None,
        **settings: Any,
    ) -> None:
        self.client = FakeClient(assignment is Assignment.COOPERATIVE_STICKY)
        self.budget = budget or Budget(room, 10**6)
        self.delivered: list[RecordBatch] = []
        self.flow = Flow(self.budget, self.delivered.append, 1.0)
        self.config: Mapping[str, Any] = {}
        self.consumer = GroupConsumer(
            ConsumerSettings("nowhere:9092", "mill", "mill-0", (TOPIC,), assignment=assignment, **settings),
            self.budget,
            cast("Callable[..., Consumer]", self._make),
            lost_brokers,
        )

    def _make(self, config: dict[str, Any], logger: object) -> FakeClient:
        self.config = config
        return self.client

    @property
    def received(self) -> list[tuple[int, int]]:
        """Generation and number of records of each batch."""
        return [(batch.generation, len(batch.records)) for batch in self.delivered]

    def records_of(self, partition: int) -> list[tuple[int, int]]:
        """Generation and offset of each record of a partition."""
        return [
            (batch.generation, record.provenance.offset)
            for batch in self.delivered
            for record in batch.records
            if batch.partition.partition == partition
        ]


def ours(*partitions: int) -> frozenset[records.TopicPartition]:
    return frozenset(records.TopicPartition(TOPIC, each) for each in partitions)


async def wait_until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - it comes true on the consumer's thread
            await asyncio.sleep(0.005)
