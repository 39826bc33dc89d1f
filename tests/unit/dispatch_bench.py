"""A dispatcher on fakes, for its tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from headrace.pipeline.budget import Budget
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.dispatch import RouteDispatcher
from headrace.pipeline.errors import PoisonError, RetriableError
from headrace.pipeline.flow import Flow, RecordRef
from headrace.pipeline.headers import Delivery
from headrace.pipeline.health import Health
from headrace.pipeline.journey import Journey, PartTask
from headrace.pipeline.ports import InferCall
from headrace.pipeline.records import Part, PartOutput, TopicPartition
from tests.unit.fake_sampler import FakeSampler
from tests.unit.fakes import (
    TEXT,
    FakeBroker,
    FakeInference,
    FakeSource,
    LoopClock,
    request,
    text_part,
)

P0 = TopicPartition("requests", 0)
BATCH = {"max_records": 4, "max_delay_seconds": 1.0}


class Bench:
    """A dispatcher with a fake model server, and the outcomes by offset."""

    def __init__(self, **route: Any) -> None:
        self.tasks: list[PartTask] = []
        self.holds: list[bool] = []
        """Whether the route can take no more events, each time that changed."""
        self.outcomes: dict[int, PartOutput | PoisonError] = {}
        self.finish: Callable[[PartTask, PartOutput | PoisonError], None] = self._note
        self.broker = FakeBroker()
        self.flow = Flow(Budget(1000, 10**6), lambda batch: None, 10.0)
        self.source = FakeSource(self.broker, Budget(1000, 10**6))
        self.client = FakeInference()
        self.sampler = FakeSampler()
        self.health = Health()
        settings = RouteSettings.model_validate({"name": "text", "model": "echo", "batch": BATCH, **route})
        self.route = settings
        self.dispatcher = RouteDispatcher(
            settings,
            30.0,
            self.client,
            self.sampler,
            self.flow,
            self.health,
            LoopClock(),
            self._finish,
            self.holds.append,
        )
        self.running: asyncio.Task[None]

    def _finish(self, task: PartTask, outcome: PartOutput | PoisonError) -> None:
        self.finish(task, outcome)

    def _note(self, task: PartTask, outcome: PartOutput | PoisonError) -> None:
        assert task.journey.ref.offset not in self.outcomes, "an outcome twice"
        self.outcomes[task.journey.ref.offset] = outcome

    async def begin(self, records: int = 20) -> None:
        for offset in range(records):
            self.broker.send(P0, value=b"%d" % offset)
        await self.source.start(self.flow)
        await self.source.assign(P0)
        self.source.poll()
        self.running = asyncio.create_task(self.dispatcher.run())

    def task(
        self,
        offset: int,
        part: Part | None = None,
        deadline_ms: int | None = None,
        model: str = "echo",
        version: str = "",
    ) -> PartTask:
        event = request(part or text_part(f"t{offset}"))
        ref = RecordRef(P0, self.source.generation, offset)
        journey = Journey(
            ref, self.broker.inputs[P0][offset], event, Delivery(), self.route, ("results", None), 0.0, [None]
        )
        task = PartTask(journey, 0, model, version, "text", deadline_ms)
        self.tasks.append(task)
        return task

    async def submit(self, *offsets: int) -> None:
        await self.dispatcher.submit([self.task(offset) for offset in offsets])

    @property
    def codes(self) -> dict[int, str]:
        return {
            offset: outcome.code if isinstance(outcome, PoisonError) else "ok"
            for offset, outcome in sorted(self.outcomes.items())
        }

    @property
    def texts(self) -> dict[int, str | None]:
        return {offset: out.text for offset, out in sorted(self.outcomes.items()) if isinstance(out, PartOutput)}


def rejects(*texts: str, code: str = "BAD_INPUT") -> Callable[[InferCall], Exception | None]:
    """A model that refuses the whole call when one of these is in it."""
    return raises_for(PoisonError("infer", code, f"cannot take one of {texts}"), *texts)


def raises_for(error: Exception, *texts: str) -> Callable[[InferCall], Exception | None]:
    """A model that answers the whole call with an error when one of these is in it."""

    def script(call: InferCall) -> Exception | None:
        return error if {row[0].decode() for row in call.inputs["IN"]} & set(texts) else None

    return script


def fails_times(times: int, error: Exception) -> Callable[[InferCall], Exception | None]:
    left = [error] * times
    return lambda call: left.pop() if left else None


# --- breakers ---------------------------------------------------------------------------------------------------------

BREAKER = {"failures": 3, "open_seconds": 5, "max_open_seconds": 20}
ONE_ATTEMPT = {"max_attempts": 1}
BUSY = RetriableError("busy")


def breaking(**route: Any) -> Bench:
    """One call at a time, of one record, with one attempt, and a second model, ``small``, that may answer instead."""
    settings = {"breaker": BREAKER, "retries": ONE_ATTEMPT, "batch": {"max_records": 1}, "max_concurrency": 1, **route}
    bench = Bench(**settings)
    bench.client.models["small"] = replace(TEXT, name="small")
    return bench


def fails(bench: Bench, *models: str) -> None:
    """From now on these models answer with an error, and the others with an answer."""

    def script(call: InferCall) -> Exception | None:
        return BUSY if call.model in models else None

    bench.client.script = script


def models(bench: Bench) -> dict[int, str]:
    """Which model has answered."""
    return {offset: each.model for offset, each in sorted(bench.outcomes.items()) if isinstance(each, PartOutput)}
