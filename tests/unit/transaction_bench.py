"""KafkaTransactions on a fake coordinator: what the tests of transactions have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, Producer

from headrace.connectors.kafka.transaction import KafkaTransactions
from headrace.connectors.kafka.transactional import TransactionSettings
from headrace.pipeline.ports import CommitUnit, OffsetCommit
from headrace.pipeline.records import OutputRecord, TopicPartition
from tests.unit.fake_coordinator import FakeCoordinator, FakeMember, error

P0, P1 = TopicPartition("requests", 0), TopicPartition("requests", 1)
CALLS = ("begin", "produce", "send_offsets", "commit")
TIMED_OUT = error(KafkaError._TIMED_OUT, "retriable")
FENCED = error(KafkaError._FENCED, "fatal")


class Bench:
    def __init__(
        self, timeout_seconds: float = 30.0, producers: int = 1, client: Mapping[str, str] | None = None
    ) -> None:
        self.coordinator = FakeCoordinator()
        self.member = FakeMember(self.coordinator)
        self.down: list[bool] = []
        self.owned = True
        self.reached = asyncio.Event()
        self.transactions = KafkaTransactions(
            TransactionSettings("nowhere:9092", "mill", "mill-0", producers, timeout_seconds, client=client or {}),
            self.member,
            self.down.append,
            cast("Callable[..., Producer]", self.coordinator.producer),
            cast("Callable[..., Consumer]", self.coordinator.reader),
        )

    def unit(self, offset: int = 1, *partitions: TopicPartition) -> CommitUnit:
        outputs = (OutputRecord("results", b"k", b"%d" % offset, (("h", None),)),)
        offsets = tuple(OffsetCommit(each, offset, f"m{offset}") for each in partitions or (P0,))
        return CommitUnit(outputs, offsets, 1, lambda: self.owned)

    async def commit(self, offset: int = 1, *partitions: TopicPartition) -> bool:
        await self.transactions.start()
        return await self.transactions.commit(self.unit(offset, *partitions))

    def tell_when_reached(self) -> Callable[[], None]:
        """To be called on the transactions' thread; then ``reached`` is set."""
        loop = asyncio.get_running_loop()

        def tell() -> None:
            loop.call_soon_threadsafe(self.reached.set)

        return tell

    def lose(self) -> None:
        self.owned = False

    @property
    def visible(self) -> tuple[list[bytes | None], dict[tuple[str, int], tuple[int, str]]]:
        return self.coordinator.outputs, self.coordinator.offsets


ONCE = ([b"1"], {("requests", 0): (1, "m1")})
NOTHING: tuple[list[bytes], dict[Any, Any]] = ([], {})
