"""The registry, and all that one worker is connected to, faked together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.budget import Budget
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import HeadraceError, UnavailableError
from headrace.pipeline.health import Health
from headrace.pipeline.ports import Changelog, RecordSource, Transactions
from headrace.pipeline.records import TopicPartition
from headrace.pipeline.setup import ContractIds, register_contracts
from tests.unit.fake_changelog import FakeChangelog
from tests.unit.fake_sampler import FakeSampler
from tests.unit.fakes import (
    DEAD_LETTER_SCHEMA,
    REQUEST_SCHEMA,
    RESULT_SCHEMA,
    FakeBroker,
    FakeInference,
    FakeSource,
    FakeTransactions,
)


class FakeRegistry:
    """Knows the contracts once they are registered; ``down`` counts the calls that find it unreachable."""

    def __init__(self) -> None:
        self.subjects: dict[str, str] = {}
        self.down = 0
        self.failure: HeadraceError | None = None
        self.on_schema: HeadraceError | None = None

    def _answer(self) -> None:
        if self.failure:
            raise self.failure
        if self.down:
            self.down -= 1
            raise UnavailableError("the registry is down")

    def schema(self, schema_id: int) -> str | None:
        self._answer()
        if self.on_schema:
            raise self.on_schema
        contracts = {REQUEST_SCHEMA: Contract.REQUEST, RESULT_SCHEMA: Contract.RESULT}
        return schema_json(contracts[schema_id]) if schema_id in contracts else None

    def register(self, subject: str, schema: str, compatibility: str) -> int:
        self._answer()
        self.subjects[subject] = compatibility
        ids = {schema_json(Contract.REQUEST): REQUEST_SCHEMA, schema_json(Contract.RESULT): RESULT_SCHEMA}
        return ids.get(schema, DEAD_LETTER_SCHEMA)


class FakeConnections:
    """`worker.Connections` on the fakes. ``down`` counts the calls of ``prepare`` that find Kafka unreachable."""

    def __init__(self, broker: FakeBroker, settings: Settings) -> None:
        self.broker = broker
        self._settings = settings
        self.registry = FakeRegistry()
        self.inference = FakeInference()
        self.sampler = FakeSampler()
        self.transactions = FakeTransactions(broker)
        self.to_assign: tuple[TopicPartition, ...] = ()
        self.down = 0
        self.prepare_failure: HeadraceError | None = None
        self.answers = True
        self.source: FakeSource | None = None
        self.consuming = asyncio.Event()
        self._partitions = {"requests": 2, "results": 2, "dead": 2, "replies": 2}

    def prepare(self) -> Mapping[str, int]:
        if self.prepare_failure:
            raise self.prepare_failure
        if self.down:
            self.down -= 1
            raise UnavailableError("Kafka is down")
        settings = self._settings
        return {**self._partitions, **{settings.seen_topic(each): 2 for each in settings.idempotent_topics}}

    def contracts(self) -> ContractIds:
        return register_contracts(self.registry, self._settings)

    def kafka_answers(self) -> bool:
        return self.answers

    def changelog(self) -> Changelog | None:
        settings = self._settings
        changelogs = {each: settings.seen_topic(each) for each in settings.idempotent_topics}
        return FakeChangelog(self.broker, changelogs) if changelogs else None

    def open(self, budget: Budget, health: Health) -> tuple[RecordSource, Transactions]:
        self.source = FakeSource(self.broker, budget)
        self.source.to_assign = self.to_assign
        self.source.on_start = self.consuming.set
        return self.source, self.transactions
