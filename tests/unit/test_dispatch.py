from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from headrace.pipeline.budget import Budget
from headrace.pipeline.config import RouteSettings
from headrace.pipeline.dispatch import RouteDispatcher
from headrace.pipeline.errors import FatalError, PoisonError, RetriableError
from headrace.pipeline.flow import Flow, RecordRef
from headrace.pipeline.headers import Delivery
from headrace.pipeline.health import Health
from headrace.pipeline.journey import Journey, PartTask
from headrace.pipeline.ports import InferCall, ModelSignature, TensorSpec
from headrace.pipeline.records import Modality, Part, PartOutput, Tensor, TopicPartition
from tests.unit.fakes import (
    EPOCH_MS,
    TEXT,
    FakeBroker,
    FakeInference,
    FakeSource,
    LoopClock,
    on_virtual_time,
    request,
    settle,
    text_part,
)

P0 = TopicPartition("requests", 0)
BATCH = {"max_records": 4, "max_delay_seconds": 1.0}


class Bench:
    """A dispatcher with a fake model server, and the outcomes by offset."""

    def __init__(self, **route: Any) -> None:
        self.outcomes: dict[int, PartOutput | PoisonError] = {}
        self.finish: Callable[[PartTask, PartOutput | PoisonError], None] = self._note
        self.broker = FakeBroker()
        self.flow = Flow(Budget(1000, 10**6), lambda batch: None, LoopClock(), 10.0)
        self.source = FakeSource(self.broker, Budget(1000, 10**6))
        self.client = FakeInference()
        self.health = Health()
        settings = RouteSettings.model_validate({"name": "text", "model": "echo", "batch": BATCH, **route})
        self.dispatcher = RouteDispatcher(
            settings, 30.0, self.client, self.flow, self.health, LoopClock(), self._finish
        )
        self.tasks: list[PartTask] = []
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
        self, offset: int, part: Part | None = None, deadline_ms: int | None = None, model: str = "echo"
    ) -> PartTask:
        event = request(part or text_part(f"t{offset}"))
        ref = RecordRef(P0, self.source.generation, offset)
        journey = Journey(ref, self.broker.inputs[P0][offset], event, Delivery(), ("results", None), 0.0, [None])
        task = PartTask(journey, 0, model, "", "text", deadline_ms)
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

    def script(call: InferCall) -> Exception | None:
        found = {row[0].decode() for row in call.inputs["IN"]} & set(texts)
        return PoisonError("infer", code, f"cannot take {sorted(found)}") if found else None

    return script


def fails_times(times: int, error: Exception) -> Callable[[InferCall], Exception | None]:
    left = [error] * times
    return lambda call: left.pop() if left else None


# --- batches --------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_idle_route_calls_at_once() -> None:
    bench = Bench()
    await bench.begin()
    await bench.submit(0)
    await settle()
    assert bench.client.batches == [1]
    assert LoopClock().monotonic() == 0.0
    await asyncio.sleep(0.1)
    assert bench.texts == {0: "t0"}


@on_virtual_time
async def test_batches_by_size_and_every_part_gets_its_own_row() -> None:
    bench = Bench(max_concurrency=2)
    await bench.begin()
    await bench.submit(*range(10))
    await asyncio.sleep(2)
    assert bench.client.batches == [4, 4, 2]
    assert bench.texts == {offset: f"t{offset}" for offset in range(10)}
    assert all(out.batch_size in (2, 4) for out in bench.outcomes.values() if isinstance(out, PartOutput))


@on_virtual_time
async def test_under_filled_batch_waits_its_delay_while_calls_are_in_flight() -> None:
    bench = Bench()
    bench.client.latency_seconds = 60
    await bench.begin()
    await bench.submit(0)
    await settle()
    await bench.submit(1, 2)
    await asyncio.sleep(0.9)
    assert bench.client.batches == [1]
    await asyncio.sleep(0.2)
    assert bench.client.batches == [1, 2]


@on_virtual_time
async def test_max_concurrency_is_respected_and_reached() -> None:
    bench = Bench(max_concurrency=3)
    await bench.begin(200)
    await bench.submit(*range(200))
    await asyncio.sleep(10)
    assert bench.client.most_in_flight == 3
    assert len(bench.texts) == 200


@on_virtual_time
async def test_models_own_limit_bounds_a_batch() -> None:
    bench = Bench()
    bench.client.models["echo"] = ModelSignature("echo", "3", 0, TEXT.inputs, TEXT.outputs)
    await bench.begin()
    bench.client.script = lambda call: PoisonError("infer", "SEEN", str(call.inputs["IN"].shape))
    await bench.submit(0, 1)
    await asyncio.sleep(5)
    assert [str(outcome) for outcome in bench.outcomes.values()] == ["(1,)", "(1,)"]


@on_virtual_time
async def test_signature_is_asked_for_once() -> None:
    bench = Bench()
    await bench.begin()
    await bench.submit(*range(8))
    await asyncio.sleep(5)
    assert bench.client.asked == {"echo": 1}


@on_virtual_time
async def test_waiting_and_inference_are_timed_apart() -> None:
    bench = Bench(max_concurrency=1)
    bench.client.latency_seconds = 3.0
    await bench.begin()
    await bench.submit(0)
    await settle()
    await bench.submit(1)
    await asyncio.sleep(10)
    assert [round(task.waited_seconds, 3) for task in bench.tasks] == [0.0, 3.0]
    assert [round(task.inferred_seconds, 3) for task in bench.tasks] == [3.0, 3.0]


# --- what may succeed if tried again --------------------------------------------------------------------------------


@on_virtual_time
async def test_retriable_error_is_tried_again() -> None:
    bench = Bench()
    bench.client.script = fails_times(2, RetriableError("busy"))
    await bench.begin()
    await bench.submit(0, 1)
    await asyncio.sleep(10)
    assert bench.texts == {0: "t0", 1: "t1"}
    assert [task.attempts for task in bench.tasks] == [3, 3]
    assert bench.client.batches == [2, 2, 2]


@on_virtual_time
async def test_retry_budget_spent_is_a_dead_letter_with_its_attempts() -> None:
    bench = Bench(retries={"max_attempts": 3})
    bench.client.script = fails_times(99, RetriableError("timed out"))
    await bench.begin()
    await bench.submit(0)
    await asyncio.sleep(30)
    assert bench.codes == {0: "RETRIES_EXHAUSTED"}
    assert "3 attempts failed, the last one: timed out" in str(bench.outcomes[0])
    assert bench.tasks[0].attempts == 3
    assert len(bench.client.calls) == 3


@on_virtual_time
async def test_unavailable_server_costs_no_attempt_and_is_waited_for() -> None:
    bench = Bench(retries={"max_attempts": 1})
    await bench.begin()
    await bench.submit(0)
    await asyncio.sleep(1)
    bench.client.up = False
    await bench.submit(1)
    await asyncio.sleep(3600)
    assert bench.texts == {0: "t0"}
    assert "triton" in bench.health.waiting_for
    bench.client.up = True
    await asyncio.sleep(3)
    assert bench.texts == {0: "t0", 1: "t1"}
    assert bench.tasks[1].attempts == 1
    assert "triton" not in bench.health.waiting_for


@on_virtual_time
async def test_submit_waits_for_a_server_that_was_never_there() -> None:
    bench = Bench()
    bench.client.up = False
    await bench.begin()
    submitting = asyncio.create_task(bench.submit(0))
    await asyncio.sleep(60)
    assert not submitting.done()
    assert bench.health.waiting_for == ("triton",)
    bench.client.up = True
    await asyncio.sleep(3)
    assert bench.texts == {0: "t0"}


@on_virtual_time
async def test_server_that_goes_down_before_the_next_signature_does_not_hold_up_a_revoke() -> None:
    """A call that only waits for the server ends with its next look, not with the drain's deadline."""
    bench = Bench()

    def refuse(call: InferCall) -> Exception:
        bench.client.up = False
        return PoisonError("infer", "BAD_INPUT", "no")

    bench.client.script = refuse
    await bench.begin()
    await bench.submit(0, 1)  # refused as a whole: the halves need the signature again
    await asyncio.sleep(5)
    began = LoopClock().monotonic()
    await bench.source.revoke()
    assert LoopClock().monotonic() - began <= 2.1
    assert bench.outcomes == {}


# --- what never succeeds --------------------------------------------------------------------------------------------


@on_virtual_time
async def test_refused_batch_is_halved_until_the_bad_one_is_alone() -> None:
    bench = Bench()
    bench.client.script = rejects("t2")
    await bench.begin()
    await bench.submit(0, 1, 2, 3)
    await asyncio.sleep(5)
    assert bench.codes == {0: "ok", 1: "ok", 2: "BAD_INPUT", 3: "ok"}
    assert bench.client.batches == [4, 2, 2, 1, 1]


@on_virtual_time
async def test_all_bad_are_found() -> None:
    bench = Bench()
    bench.client.script = rejects("t0", "t3")
    await bench.begin()
    await bench.submit(0, 1, 2, 3)
    await asyncio.sleep(5)
    assert bench.codes == {0: "BAD_INPUT", 1: "ok", 2: "ok", 3: "BAD_INPUT"}


@on_virtual_time
async def test_missing_model_fails_its_batch_without_halving() -> None:
    bench = Bench()
    bench.client.script = rejects("t0", code="MODEL_NOT_FOUND")
    await bench.begin()
    await bench.submit(0, 1, 2, 3)
    await asyncio.sleep(5)
    assert set(bench.codes.values()) == {"MODEL_NOT_FOUND"}
    assert bench.client.batches == [4]


@on_virtual_time
async def test_model_that_was_never_there_fails_before_a_call() -> None:
    bench = Bench()
    await bench.begin()
    await bench.dispatcher.submit([bench.task(0, model="gone"), bench.task(1)])
    await asyncio.sleep(1)
    assert bench.codes == {0: "MODEL_NOT_FOUND", 1: "ok"}


@on_virtual_time
async def test_model_replaced_by_one_of_another_signature_is_asked_again() -> None:
    bench = Bench()
    await bench.begin()
    bench.client.script = fails_times(1, PoisonError("infer", "BAD_INPUT", "unexpected shape"))
    await bench.submit(0)
    await asyncio.sleep(1)
    await bench.submit(1)
    await asyncio.sleep(1)
    assert bench.codes == {0: "BAD_INPUT", 1: "ok"}
    assert bench.client.asked == {"echo": 2}


@on_virtual_time
async def test_part_that_does_not_fit_the_model_is_refused_before_a_call() -> None:
    bench = Bench()
    await bench.begin()
    tensor = Part("x", Modality.TENSOR, "", Tensor("FP32", (2,), np.zeros(2, "<f4").tobytes()))
    await bench.dispatcher.submit([bench.task(0, tensor)])
    outcome = bench.outcomes[0]
    assert isinstance(outcome, PoisonError)
    assert outcome.stage == "prepare"
    assert bench.client.calls == []


@on_virtual_time
async def test_bad_reply_becomes_dead_letters() -> None:
    bench = Bench()
    bench.client.models["echo"] = ModelSignature("echo", "3", 8, TEXT.inputs, (TensorSpec("TEXT", "BYTES", (2,)),))
    await bench.begin()
    await bench.submit(0, 1)
    await asyncio.sleep(1)
    assert bench.codes == {0: "BAD_MODEL_OUTPUT", 1: "BAD_MODEL_OUTPUT"}


@on_virtual_time
async def test_unexpected_error_of_a_call_becomes_dead_letters_of_its_records(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.client.script = fails_times(1, ZeroDivisionError("a bug"))
    await bench.begin()
    await bench.submit(0, 1)
    await asyncio.sleep(1)
    await bench.submit(2)
    await asyncio.sleep(1)
    assert bench.codes == {0: "UNEXPECTED", 1: "UNEXPECTED", 2: "ok"}
    assert "ZeroDivisionError: a bug" in str(bench.outcomes[0])
    assert "an infer call failed" in caplog.text


@on_virtual_time
async def test_fatal_answer_ends_run_and_makes_no_dead_letter() -> None:
    """Credentials that are refused, say: every record would become a dead letter."""
    bench = Bench()
    bench.client.script = fails_times(1, FatalError("check the credentials"))
    await bench.begin()
    await bench.submit(0)
    with pytest.raises(FatalError, match="credentials"):
        await bench.running
    assert bench.outcomes == {}


@on_virtual_time
async def test_fatal_answer_to_the_signature_escapes_submit() -> None:
    bench = Bench()
    await bench.begin()

    async def refuse(model: str, version: str = "") -> ModelSignature:
        raise FatalError("check the credentials")

    bench.client.signature = refuse  # type: ignore[method-assign] # a server that refuses
    with pytest.raises(FatalError, match="credentials"):
        await bench.submit(0)
    assert bench.outcomes == {}


# --- what is not wanted any more ------------------------------------------------------------------------------------


@on_virtual_time
async def test_deadline_that_passed_while_waiting_costs_no_call() -> None:
    bench = Bench(max_concurrency=1)
    bench.client.latency_seconds = 5
    await bench.begin()
    await bench.submit(0)
    await settle()
    await bench.dispatcher.submit([bench.task(1, deadline_ms=EPOCH_MS + 1000), bench.task(2)])
    await asyncio.sleep(20)
    assert bench.codes == {0: "ok", 1: "DEADLINE_EXCEEDED", 2: "ok"}
    assert bench.client.batches == [1, 1]


@on_virtual_time
async def test_deadline_ends_the_wait_for_an_unavailable_server() -> None:
    bench = Bench()
    await bench.begin()
    await bench.submit(0)
    await asyncio.sleep(1)
    bench.client.up = False
    await bench.dispatcher.submit([bench.task(1, deadline_ms=EPOCH_MS + 10_000)])
    await asyncio.sleep(20)
    assert bench.codes == {0: "ok", 1: "DEADLINE_EXCEEDED"}


@on_virtual_time
async def test_tasks_of_a_revoked_partition_are_not_called() -> None:
    bench = Bench(max_concurrency=1)
    bench.client.latency_seconds = 5
    await bench.begin()
    await bench.submit(0)
    await settle()
    await bench.submit(1, 2)
    await bench.source.revoke()
    await asyncio.sleep(20)
    assert bench.client.batches == [1]
    assert bench.codes == {0: "ok"}


@on_virtual_time
async def test_retries_end_when_the_partition_is_lost() -> None:
    bench = Bench(retries={"max_attempts": 1000})
    bench.client.script = lambda call: RetriableError("busy")
    await bench.begin()
    await bench.submit(0)
    await asyncio.sleep(1)
    await bench.source.lose()
    before = len(bench.client.calls)
    await asyncio.sleep(100)
    assert len(bench.client.calls) <= before + 1
    assert bench.outcomes == {}


# --- what must end the process --------------------------------------------------------------------------------------


@on_virtual_time
async def test_error_that_escapes_finish_ends_run() -> None:
    bench = Bench()

    def fail(task: PartTask, outcome: PartOutput | PoisonError) -> None:
        raise RuntimeError("cannot encode")

    bench.finish = fail
    await bench.begin()
    await bench.submit(0)
    with pytest.raises(RuntimeError, match="cannot encode"):
        await bench.running


@on_virtual_time
async def test_cancelled_run_cancels_its_calls() -> None:
    bench = Bench()
    bench.client.latency_seconds = 60
    await bench.begin()
    await bench.submit(0)
    await settle()
    bench.running.cancel()
    await settle()
    assert bench.client.in_flight == 0
    async with asyncio.timeout(1):  # no call is counted as in flight: nothing to drain
        await bench.source.revoke()
