"""Processes at one run, on a fake coordinator."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from confluent_kafka import Producer

from headrace.connectors.kafka.run_transactions import KafkaRunTransactions
from headrace.connectors.kafka.transactional import TransactionSettings
from headrace.pipeline.ports import CommitUnit, OffsetCommit, StartPosition
from headrace.pipeline.records import OutputRecord, TopicPartition
from headrace.pipeline.replay.counting import CountedTransactions
from headrace.pipeline.replay.manifest import Progress, Run
from tests.unit import replay_bench
from tests.unit.fake_coordinator import FakeCoordinator
from tests.unit.fakes import LoopClock

P0 = TopicPartition("requests", 0)
PLAN = replace(replay_bench.PLAN, run="r")


def encode(progress: Progress) -> bytes:
    positions = {str(partition): [at.offset, at.metadata] for partition, at in progress.positions.items()}
    kept = [progress.writer, progress.number, positions, progress.results, progress.dead_letters, progress.resumed]
    return json.dumps(kept).encode()


def decode(value: bytes) -> Progress:
    writer, number, positions, results, dead_letters, resumed = json.loads(value)
    found = {int(partition): StartPosition(*at) for partition, at in positions.items()}
    return Progress("r", writer, number, found, results, dead_letters, resumed)


def encode_manifest(run: Run) -> OutputRecord:
    kept = {"state": run.state.value, "results": run.results, "resumed": run.resumed}
    return OutputRecord("runs", b"r", json.dumps(kept).encode())


class RunBench:
    """What is committed in the run."""

    def __init__(self) -> None:
        self.coordinator = FakeCoordinator()

    @property
    def newest(self) -> bytes | None:
        progress = self._outputs(b"[")
        return progress[-1] if progress else None

    @property
    def results(self) -> list[bytes]:
        return self._outputs(b"r")

    @property
    def manifests(self) -> list[dict[str, Any]]:
        """How the run was said to be, the newest last."""
        return [json.loads(value) for value in self._outputs(b"{")]

    @property
    def writers(self) -> list[str]:
        """Of each transaction, in their order."""
        return [decode(value).writer for value in self._outputs(b"[")]

    def _outputs(self, beginning: bytes) -> list[bytes]:
        return [value for value in self.coordinator.outputs if value and value.startswith(beginning)]

    @property
    def progress(self) -> Progress:
        assert self.newest is not None
        return decode(self.newest)

    def process(self) -> Process:
        return Process(self)


class Process:
    """Answers one record after the other, from where the run is when it starts."""

    def __init__(self, bench: RunBench) -> None:
        inner = KafkaRunTransactions(
            TransactionSettings("nowhere:9092", "", "runs.r", 1),
            "r",
            lambda: bench.newest,
            make_producer=cast("Callable[..., Producer]", bench.coordinator.producer),
        )
        self.exhausted = False
        self.transactions = CountedTransactions(
            inner, PLAN, decode, encode, encode_manifest, lambda: self.exhausted, LoopClock(), resume=False
        )
        self._next = 0

    async def start(self) -> None:
        await self.transactions.start()
        assert self.transactions.progress is not None
        at = self.transactions.progress.positions.get(0)
        self._next = at.offset or 0 if at else 0

    async def step(self) -> bool:
        """Answer the next record. Raises FencedError if the run is another's."""
        offset = self._next
        outputs = (OutputRecord(PLAN.results_topic, None, b"r%d" % offset),)
        unit = CommitUnit(outputs, (OffsetCommit(P0, offset + 1, ""),), 1, lambda: True)
        committed = await self.transactions.commit(unit)
        self._next += committed
        return committed
