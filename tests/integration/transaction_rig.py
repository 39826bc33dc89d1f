"""KafkaTransactions in the test's own process on real brokers, with faults that strike exactly at one of its calls."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from headrace.connectors.kafka.errors import PASSING
from headrace.connectors.kafka.positions import committed_now
from headrace.connectors.kafka.transaction import KafkaTransactions
from headrace.connectors.kafka.transactional import TransactionSettings
from headrace.pipeline import records
from headrace.pipeline.ports import CommitUnit, OffsetCommit
from headrace.pipeline.records import OutputRecord

ANSWER_SECONDS = 30.0
T = TypeVar("T")
Act = Callable[[Producer | None], None]
"""A fault; it is given the producer whose call it strikes, None at the reader of committed offsets."""
_client_log = logging.getLogger("librdkafka.tests")


class Strikes:
    """What happens just before or just after a call of a client, once each, on the thread that calls."""

    def __init__(self) -> None:
        self._planned: dict[tuple[str, bool], Act] = {}

    def before(self, call: str, act: Act) -> None:
        self._planned[call, False] = act

    def after(self, call: str, act: Act) -> None:
        """Only if the call succeeds."""
        self._planned[call, True] = act

    @property
    def pending(self) -> list[str]:
        """Calls whose fault has not struck."""
        return [call for call, _ in self._planned]

    def around(self, name: str, producer: Producer | None, call: Callable[[], T]) -> T:
        self._strike((name, False), producer)
        answer = call()
        self._strike((name, True), producer)
        return answer

    def _strike(self, moment: tuple[str, bool], producer: Producer | None) -> None:
        if act := self._planned.pop(moment, None):
            act(producer)


class StruckProducer(Producer):
    """The real one; what is planned for a call strikes around it."""

    def __init__(self, strikes: Strikes, config: dict[str, Any], logger: logging.Logger) -> None:
        super().__init__(config, logger=logger)
        self._strikes = strikes
        self.transactional_id: str = config["transactional.id"]

    def init_transactions(self, timeout: float = -1) -> None:
        call = super().init_transactions
        self._strikes.around("init_transactions", self, lambda: call(timeout))

    def begin_transaction(self) -> None:
        self._strikes.around("begin_transaction", self, super().begin_transaction)

    def produce(self, *args: Any, **kwargs: Any) -> None:
        call = super().produce
        self._strikes.around("produce", self, lambda: call(*args, **kwargs))

    def send_offsets_to_transaction(self, positions: list[TopicPartition], metadata: Any, timeout: float = -1) -> None:
        call = super().send_offsets_to_transaction
        self._strikes.around("send_offsets_to_transaction", self, lambda: call(positions, metadata, timeout))

    def commit_transaction(self, timeout: float = -1) -> None:
        call = super().commit_transaction
        self._strikes.around("commit_transaction", self, lambda: call(timeout))

    def abort_transaction(self, timeout: float = -1) -> None:
        call = super().abort_transaction
        self._strikes.around("abort_transaction", self, lambda: call(timeout))


class StruckConsumer(Consumer):
    """The reader of committed offsets."""

    def __init__(self, strikes: Strikes, config: dict[str, Any], logger: logging.Logger) -> None:
        super().__init__(config, logger=logger)
        self._strikes = strikes

    def committed(self, partitions: list[TopicPartition], timeout: float = -1) -> list[TopicPartition]:
        call = super().committed
        return self._strikes.around("committed", None, lambda: call(partitions, timeout))


class Member:
    """A member of the group. It is polled only where that is said, so its generation stands still until then."""

    def __init__(self, bootstrap_servers: str, group: str, topics: Sequence[str], **config: Any) -> None:
        settings = {
            "bootstrap.servers": bootstrap_servers,
            "group.id": group,
            "enable.auto.commit": False,
            "partition.assignment.strategy": "cooperative-sticky",
            "heartbeat.interval.ms": 300,
            "log_level": 0,
        }
        self.consumer = Consumer({**settings, **config}, logger=_client_log)
        self.consumer.subscribe(list(topics))
        self._metadata: object = None

    def join(self, *others: Member) -> None:
        """Poll until partitions are assigned to it, and these others meanwhile."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while not self.consumer.assignment():
            assert time.monotonic() < deadline, "no partition was assigned in time"
            for each in (self, *others):
                each.consumer.poll(0.02)

    def partitions(self) -> set[int]:
        return {each.partition for each in self.consumer.assignment()}

    def group_metadata(self, refresh: bool) -> object:
        if refresh or self._metadata is None:
            self.consumer.poll(0)
            self._metadata = self.consumer.consumer_group_metadata()
        return self._metadata

    def close(self) -> None:
        self.consumer.close()


class Rig:
    """The engine between a request and a result topic, and what comes of it, read by others.

    As an async context manager its member has joined the group, and everything is closed at the end; ``start`` starts
    the engine.

    Args:
        bootstrap_servers: for all but the engine.
        engine_servers: for the engine, which the faults are to reach.
        name: prefix of the topics, made before: ``<name>.requests`` (two partitions) and ``<name>.results`` (one).
        settings: of the engine.
    """

    def __init__(self, bootstrap_servers: str, engine_servers: str, name: str, **settings: Any) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.requests, self.results, self.group = f"{name}.requests", f"{name}.results", f"{name}.group"
        self.strikes = Strikes()
        self.owned: Callable[[], bool] = lambda: True
        self.member = Member(bootstrap_servers, self.group, [self.requests], **{"group.instance.id": f"{name}-0"})
        self.timers: list[threading.Timer] = []
        self.transactions = KafkaTransactions(
            TransactionSettings(engine_servers, self.group, f"{name}-0", **settings),
            self.member,
            make_producer=lambda config, logger: StruckProducer(self.strikes, config, logger),
            make_consumer=lambda config, logger: StruckConsumer(self.strikes, config, logger),
        )

    async def __aenter__(self) -> Rig:
        try:
            await asyncio.to_thread(self.member.join)
        except BaseException:
            self.member.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        for timer in self.timers:
            timer.join()
        try:
            await self.transactions.close()
        finally:
            await asyncio.to_thread(self.member.close)

    async def start(self) -> None:
        await self.transactions.start()

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        """On a thread of its own, which is waited for at the end."""
        self.timers.append(threading.Timer(seconds, act))
        self.timers[-1].start()

    def unit(self, number: int, *values: bytes) -> CommitUnit:
        """Its offsets are ``number`` in both partitions."""
        outputs = tuple(OutputRecord(self.results, b"k", value) for value in values or (b"%d" % number,))
        offsets = tuple(
            OffsetCommit(records.TopicPartition(self.requests, partition), number, f"m{number}") for partition in (0, 1)
        )
        return CommitUnit(outputs, offsets, len(outputs), self.owned)

    async def commit(self, number: int, *values: bytes) -> bool:
        return await self.transactions.commit(self.unit(number, *values))

    async def check(self, *numbers: int) -> None:
        """These units are there, outputs and offsets, each once, and no others."""
        last = (numbers[-1], f"m{numbers[-1]}") if numbers else None
        assert await asyncio.to_thread(self.offsets) == ({0: last, 1: last} if last else {})
        assert await asyncio.to_thread(self.values) == [b"%d" % number for number in numbers]

    def values(self) -> list[bytes]:
        """What a read_committed reader finds, and that nothing open lies behind it."""
        reader = Consumer({**self._reader("reader"), "enable.partition.eof": True}, logger=_client_log)
        try:
            reader.assign([TopicPartition(self.results, 0, 0)])
            found: list[bytes] = []
            while True:
                record = reader.poll(ANSWER_SECONDS)
                assert record is not None, "the results could not be read to their end"
                error = record.error()
                if error is None:
                    found.append(record.value() or b"")
                    continue
                assert error.code() == KafkaError._PARTITION_EOF, error
                if (record.offset() or 0) >= self.end():
                    return found
        finally:
            reader.close()

    def offsets(self) -> dict[int, tuple[int, str]]:
        """Committed, stable, with their metadata, by partition."""
        reader = Consumer(self._reader(""), logger=_client_log)
        asked = [TopicPartition(self.requests, partition) for partition in (0, 1)]
        deadline = time.monotonic() + ANSWER_SECONDS
        try:
            while (found := _committed(reader, asked)) is None:
                assert time.monotonic() < deadline, "no stable offsets in time"
            return found
        finally:
            reader.close()

    def _reader(self, suffix: str) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "group.id": self.group + suffix,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "metadata.recovery.strategy": "none",
            "fetch.wait.max.ms": 10,
            "log_level": 0,
        }

    def end(self) -> int:
        """Where the next record will be written, read_uncommitted."""
        reader = Consumer({**self._reader("end"), "isolation.level": "read_uncommitted"}, logger=_client_log)
        try:
            _, end = reader.get_watermark_offsets(TopicPartition(self.results, 0), ANSWER_SECONDS)
        finally:
            reader.close()
        return int(end)


def _committed(reader: Consumer, asked: list[TopicPartition]) -> dict[int, tuple[int, str]] | None:
    """None if the broker has to be asked again."""
    try:
        answer = committed_now(reader, asked, 5.0)
    except KafkaException as exception:
        if exception.args[0].code() in PASSING:
            return None
        raise
    return {each.partition: (each.offset, each.metadata or "") for each in answer if each.offset >= 0}


def fence(bootstrap_servers: str, transactional_id: str) -> None:
    """As a second producer of this id: what the first has open is aborted, or was decided before."""
    other = Producer({"bootstrap.servers": bootstrap_servers, "transactional.id": transactional_id, "log_level": 0})
    other.init_transactions(ANSWER_SECONDS)


def fence_it(rig: Rig) -> Act:
    def act(producer: Producer | None) -> None:
        assert isinstance(producer, StruckProducer)
        fence(rig.bootstrap_servers, producer.transactional_id)

    return act


def drop_records(producer: Producer | None) -> None:
    """What was produced is not delivered, as if it had timed out."""
    assert producer is not None
    producer.purge()
