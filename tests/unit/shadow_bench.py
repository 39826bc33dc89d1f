"""A worker on the fakes whose route has a shadow, and what came of its events, by offset."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from dataclasses import replace
from typing import Any, cast

from headrace.pipeline import metrics
from headrace.pipeline.config import Settings
from headrace.pipeline.journey import PartTask
from headrace.pipeline.ports import InferCall, InferReply
from headrace.pipeline.records import InferenceResult, OutputRecord, RecordBatch, TopicPartition
from headrace.pipeline.replay.rules import ReplayRules
from headrace.pipeline.worker import Connections, Worker
from tests.unit.fake_connections import FakeConnections
from tests.unit.fakes import DOUBLE, TEXT, FakeBroker, FakeInference, FakeSource, LoopClock, request_value
from tests.unit.processor_bench import result_of

P0 = TopicPartition("requests", 0)
TOPICS = {"requests": ["requests"], "results": "results", "dead_letters": "dead", "shadow": "shadow"}
SHADOW = {"version": "2", "patience_seconds": 1.0}
OUTCOMES = ("answered", "failed", "late", "skipped", "dropped")


class Versions(FakeInference):
    """A model server whose versions take their time: ``seconds`` by version, on top of ``latency_seconds``."""

    def __init__(self) -> None:
        super().__init__(TEXT, DOUBLE, replace(TEXT, name="rival"))
        self.seconds: dict[str, float] = {}

    async def infer(self, call: InferCall, timeout_seconds: float) -> InferReply:
        await asyncio.sleep(self.seconds.get(call.version, 0.0))
        return replace(await super().infer(call, timeout_seconds), model_version=call.version or "1")

    def texts(self, version: str) -> list[str]:
        """What a version was asked, in order."""
        calls = [call for call in self.calls if call.version == version]
        return [row[0].decode() for call in calls for row in call.inputs["IN"]]


class Bench:
    """Args: settings of the route's shadow, other routes, sections of the settings."""

    def __init__(
        self,
        shadow: dict[str, Any] | None = None,
        routes: tuple[dict[str, Any], ...] = (),
        route: dict[str, Any] | None = None,
        rules: ReplayRules | None = None,
        **settings: Any,
    ) -> None:
        first = {"name": "text", "model": "echo", "shadow": {**SHADOW, **(shadow or {})}, **(route or {})}
        whole = {"drain_timeout_seconds": 5, **settings.pop("worker", {})}
        self.settings = Settings.model_validate(
            {
                "name": f"mill-{uuid.uuid4()}",
                "topics": {**TOPICS, **settings.pop("topics", {})},
                "routes": [first, *routes],
                "worker": whole,
                **settings,
            }
        )
        self.broker = FakeBroker()
        self.connections = FakeConnections(self.broker, self.settings)
        self.model = self.connections.inference = Versions()
        self.connections.to_assign = (P0,)
        self.worker = Worker(
            self.settings,
            lambda: cast("Connections", self.connections),
            LoopClock(),
            self._route,
            self._submit,
            rules=rules,
        )
        self.running: asyncio.Task[None]
        self._counted = counted()
        self._submitted = asyncio.Event()

    async def _route(self, batch: RecordBatch) -> None:
        await self.worker.route_batch(batch)

    async def _submit(self, route: str, tasks: list[PartTask]) -> None:
        self._submitted.set()
        await self.worker.submit(route, tasks)

    @property
    def source(self) -> FakeSource:
        assert self.connections.source is not None
        return self.connections.source

    async def begin(self, events: int = 0, **fields: Any) -> None:
        """Start, and take so many events, which say their number."""
        self.running = asyncio.create_task(self.worker.run())
        await self.connections.consuming.wait()
        for number in range(events):
            self.send(number, **fields)
        if events:
            await self.take()

    async def take(self) -> None:
        """Have what was sent consumed; returns when it is on its way to the model, for a thread may take its time."""
        self._submitted.clear()
        self.source.poll()
        await self._submitted.wait()

    def send(
        self, number: int, *parts: Any, key: bytes | None = None, headers: tuple[Any, ...] = (), **fields: Any
    ) -> None:
        self.broker.send(P0, key, request_value(*parts, number=number, **fields), headers)

    async def stop(self) -> None:
        await self.worker.stop()
        await self.running

    def written(self, topic: str) -> list[int]:
        """Offsets of the events of which there is a record in a topic, in the order of their commits."""
        return [_offset(output) for output in self.broker.outputs if output.topic == topic]

    def results(self, topic: str = "results") -> dict[int, InferenceResult]:
        return {_offset(output): result_of(output) for output in self.broker.outputs if output.topic == topic}

    def check_together(self) -> None:
        """Each event has one outcome and at most one shadow, in one transaction with its result."""
        outcomes = Counter(_offset(output) for output in self.broker.outputs if output.topic in ("results", "dead"))
        assert set(outcomes.values()) <= {1}
        assert max(Counter(self.written("shadow")).values(), default=1) == 1
        for unit in self.connections.transactions.units:
            results = {_offset(output) for output in unit.outputs if output.topic == "results"}
            shadows = {_offset(output) for output in unit.outputs if output.topic == "shadow"}
            assert shadows <= results

    @property
    def counted(self) -> dict[str, int]:
        """Parts of the route's shadow by outcome, since this was made; without those that are none."""
        now = counted()
        return {name: count for name in OUTCOMES if (count := now[name] - self._counted[name])}


def counted() -> Counter[str]:
    """Parts of the route's shadow by outcome, since this process began."""
    (family,) = metrics.SHADOW.collect()
    ours = [each for each in family.samples if each.name.endswith("_total") and each.labels["route"] == "text"]
    return Counter({each.labels["outcome"]: int(each.value) for each in ours})


def _offset(output: OutputRecord) -> int:
    """By ``ce_id``, which every output has."""
    return int((dict(output.headers)["ce_id"] or b"").rpartition(b"-")[2])
