"""A changelog over the fake broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from headrace.pipeline.records import Provenance, SourceRecord, TopicPartition
from tests.unit.fakes import EPOCH_MS, FakeBroker


class FakeChangelog:
    """Hands over what a `FakeBroker`'s readers see of the changelogs, when `hold` is released."""

    def __init__(self, broker: FakeBroker, changelogs: Mapping[str, str]) -> None:
        self._broker = broker
        self._changelogs = changelogs
        self._free = asyncio.Event()
        self._free.set()
        self._end: int | None = None
        self.restored: list[frozenset[TopicPartition]] = []

    def hold(self) -> None:
        self._free.clear()

    def freeze(self) -> None:
        """What is written from now on isn't handed over any more."""
        self._end = len(self._broker.outputs)

    def let_go(self) -> None:
        self._free.set()

    async def restore(self, into: Mapping[TopicPartition, Callable[[SourceRecord], None]], newest: int) -> None:
        await self._free.wait()
        self.restored.append(frozenset(into))
        for partition, take in into.items():
            topic = self._changelogs[partition.topic]
            written = self._broker.outputs[: self._end]
            mine = [each for each in written if (each.topic, each.partition) == (topic, partition[1])]
            for offset, output in enumerate(mine):
                provenance = Provenance(topic, partition.partition, offset, EPOCH_MS)
                take(SourceRecord(provenance, output.key, output.value, output.headers))
