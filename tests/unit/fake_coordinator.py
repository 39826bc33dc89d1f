"""A transaction coordinator, and producers on it as librdkafka's behave: with epochs, and states that must be right."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition


def error(code: int, kind: str = "") -> KafkaError:
    """A KafkaError that is ``retriable``, ``abortable``, ``fatal``, or none of them."""
    return KafkaError(code, "why", kind == "fatal", kind == "retriable", kind == "abortable")


@dataclass(slots=True)
class _Fault:
    error: KafkaError | None
    applied: bool
    before: Callable[[], None]


def _nothing() -> None:
    return None


@dataclass(slots=True)
class FakeCoordinator:
    """What is committed, and what the next calls are answered with."""

    generation: int = 1
    outputs: list[bytes | None] = field(default_factory=list)
    committed: list[FakeMessage] = field(default_factory=list)
    """The records whose values ``outputs`` are."""
    offsets: dict[tuple[str, int], tuple[int, str]] = field(default_factory=dict)
    epochs: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    queue_full_times: int = 0
    reports: bool = True
    """Whether there are delivery reports before a commit."""
    reported: list[str] = field(default_factory=list)
    """The threads that took them."""
    polls: int = 0
    calls: list[str] = field(default_factory=list)
    produced: list[dict[str, Any]] = field(default_factory=list)
    configs: list[dict[str, Any]] = field(default_factory=list)
    reader_configs: list[dict[str, Any]] = field(default_factory=list)
    producers: WeakSet[FakeProducer] = field(default_factory=WeakSet)
    """Those that somebody still holds."""
    undeliverable: deque[KafkaError] = field(default_factory=deque)
    brokerless: int = 0
    """So many of the next producers are told of no brokers, and never find one."""
    gone: set[str] = field(default_factory=set)
    """Topics that were deleted: they are not listed, and nothing is delivered to them."""
    largest_bytes: int | None = None
    """Of a batch, as a topic's ``max.message.bytes``: of all that a transaction produces, unless each goes alone."""
    unreadable: deque[KafkaError] = field(default_factory=deque)
    """Errors of single partitions in the next answers about committed offsets."""
    faults: defaultdict[str, deque[_Fault]] = field(default_factory=lambda: defaultdict(deque))

    def answer(
        self,
        call: str,
        error: KafkaError | None,
        times: int = 1,
        applied: bool = False,
        before: Callable[[], None] = _nothing,
    ) -> None:
        """The next calls of this name fail; ``applied``: after having done what they should. ``before`` runs first."""
        self.faults[call] += [_Fault(error, applied, before)] * times

    def run(self, name: str, effect: Callable[[], None]) -> None:
        self.calls.append(name)
        fault = self.faults[name].popleft() if self.faults[name] else _Fault(None, True, _nothing)
        fault.before()
        if fault.applied or fault.error is None:
            effect()
        if fault.error is not None:
            raise KafkaException(fault.error)

    def count(self, call: str) -> int:
        return self.calls.count(call)

    def producer(self, config: dict[str, Any], logger: object = None) -> FakeProducer:
        self.configs.append(config)
        producer = FakeProducer(self, config, brokerless=self.brokerless > 0)
        self.brokerless -= 1
        self.producers.add(producer)
        return producer

    def reader(self, config: dict[str, Any], logger: object = None) -> FakeReader:
        assert config["isolation.level"] == "read_committed"
        self.reader_configs.append(config)
        return FakeReader(self)


@dataclass(frozen=True, slots=True)
class FakeMessage:
    """What a delivery report is about."""

    _topic: str
    _key: bytes | None
    _value: bytes | None

    def topic(self) -> str:
        return self._topic

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value


@dataclass(frozen=True, slots=True)
class FakeListing:
    """What the brokers list."""

    topics: set[str]


class FakeProducer:
    """One transactional producer. Of two with one id the older is fenced. If it is brokerless nobody answers it."""

    def __init__(self, coordinator: FakeCoordinator, config: dict[str, Any], brokerless: bool) -> None:
        self._coordinator = coordinator
        self.brokerless = brokerless
        self._id: str = config["transactional.id"]
        self._on_delivery: Callable[[KafkaError | None, FakeMessage], None] = config["on_delivery"]
        self._epoch = -1
        self._open = self._aborted = False
        self._alone = config["batch.num.messages"] == 1
        self._messages: list[FakeMessage] = []
        self._unreported = 0
        self._offsets: dict[tuple[str, int], tuple[int, str]] = {}

    def __len__(self) -> int:
        return self._unreported

    def init_transactions(self, timeout: float) -> None:
        def effect() -> None:
            self._coordinator.epochs[self._id] += 1
            self._epoch = self._coordinator.epochs[self._id]

        if self.brokerless:
            raise KafkaException(error(KafkaError._TIMED_OUT, "retriable"))
        self._coordinator.run("init", effect)

    def list_topics(self, timeout: float) -> FakeListing:
        if self.brokerless:
            raise KafkaException(error(KafkaError._TRANSPORT))
        return FakeListing({"requests", "results"} - self._coordinator.gone)

    def begin_transaction(self) -> None:
        def effect() -> None:
            assert not self._aborted, "after an abort librdkafka may lose what is produced next, without a word"
            if self._open:
                raise KafkaException(error(KafkaError._STATE))
            self._open = True
            self._messages, self._offsets = [], {}

        self._coordinator.run("begin", effect)

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        headers: list[tuple[str, bytes | None]],
    ) -> None:
        def effect() -> None:
            self._coordinator.produced.append(
                {"topic": topic, "value": value, "key": key, "partition": partition, "headers": headers}
            )
            self._messages.append(FakeMessage(topic, key, value))
            self._unreported += 1

        if self._coordinator.queue_full_times:
            self._coordinator.queue_full_times -= 1
            raise BufferError
        self._coordinator.run("produce", effect)

    def poll(self, timeout: float) -> int:
        self._coordinator.polls += 1
        if self._unreported and self._epoch != self._coordinator.epochs[self._id]:
            raise KafkaException(error(KafkaError._FENCED, "fatal"))
        if self._unreported and self._coordinator.reports:
            self._coordinator.reported.append(threading.current_thread().name)
            self._unreported = 0
            if self._coordinator.undeliverable:
                self._on_delivery(self._coordinator.undeliverable[0], self._messages[0])
        return 0

    def send_offsets_to_transaction(
        self, offsets: list[TopicPartition], metadata: tuple[str, int], timeout: float
    ) -> None:
        def effect() -> None:
            self._check()
            if metadata[1] != self._coordinator.generation:
                raise KafkaException(error(KafkaError.ILLEGAL_GENERATION, "abortable"))
            self._offsets = {(each.topic, each.partition): (each.offset, each.metadata or "") for each in offsets}

        self._coordinator.run("send_offsets", effect)

    def commit_transaction(self, timeout: float) -> None:
        def effect() -> None:
            self._check()
            if any(each.topic() in self._coordinator.gone for each in self._messages):
                raise KafkaException(error(KafkaError._TIMED_OUT, "retriable"))
            if self._coordinator.undeliverable:
                self._on_delivery(self._coordinator.undeliverable.popleft(), self._messages[0])
                raise KafkaException(error(KafkaError._STATE, "abortable"))
            self._check_sizes()
            self._unreported = 0
            self._open = False
            self._coordinator.outputs += [each.value() for each in self._messages]
            self._coordinator.committed += self._messages
            self._coordinator.offsets |= self._offsets

        self._coordinator.run("commit", effect)

    def abort_transaction(self, timeout: float) -> None:
        def effect() -> None:
            self._check()
            self._open = False
            self._aborted = True

        self._coordinator.run("abort", effect)

    def _check_sizes(self) -> None:
        largest = self._coordinator.largest_bytes
        batches = [[each] for each in self._messages] if self._alone else [self._messages]
        refused = [batch for batch in batches if largest and sum(len(each.value() or b"") for each in batch) > largest]
        for message in itertools.chain(*refused):
            self._on_delivery(error(KafkaError.MSG_SIZE_TOO_LARGE), message)
        if refused:
            raise KafkaException(error(KafkaError._STATE, "abortable"))

    def _check(self) -> None:
        if self.brokerless:
            raise KafkaException(error(KafkaError._TIMED_OUT, "retriable"))
        if self._epoch != self._coordinator.epochs[self._id]:
            raise KafkaException(error(KafkaError._FENCED, "fatal"))
        if not self._open:
            raise KafkaException(error(KafkaError._STATE))


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    """What the client answers for one partition: a TopicPartition with an error, which only the client can make."""

    topic: str
    partition: int
    offset: int
    metadata: str | None
    error: KafkaError | None


class FakeReader:
    """Reads committed offsets."""

    def __init__(self, coordinator: FakeCoordinator) -> None:
        self._coordinator = coordinator

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[CommittedOffset]:
        self._coordinator.run("committed", _nothing)
        return [self._committed(each) for each in partitions]

    def _committed(self, asked: TopicPartition) -> CommittedOffset:
        unreadable = self._coordinator.unreadable
        problem = unreadable.popleft() if unreadable else None
        offset, metadata = self._coordinator.offsets.get((asked.topic, asked.partition), (OFFSET_INVALID, ""))
        return CommittedOffset(asked.topic, asked.partition, offset, metadata or None, problem)

    def close(self) -> None:
        self._coordinator.run("close", _nothing)


class FakeMember:
    """The group's member: its metadata is as old as the last refresh."""

    def __init__(self, coordinator: FakeCoordinator) -> None:
        self._coordinator = coordinator
        self._known = coordinator.generation
        self.capture: Callable[[], None] = _nothing
        self.refreshes = 0
        self.deaf = False

    def group_metadata(self, refresh: bool) -> object:
        self.capture()
        if refresh:
            self.refreshes += 1
            if not self.deaf:
                self._known = self._coordinator.generation
        return "metadata", self._known
