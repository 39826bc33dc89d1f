from __future__ import annotations

import asyncio
import gc

import numpy as np
import pytest

from headrace.pipeline.errors import FatalError, PoisonError, RetriableError
from headrace.pipeline.journey import PartTask
from headrace.pipeline.ports import InferCall, ModelSignature, TensorSpec
from headrace.pipeline.records import Modality, Part, PartOutput, Tensor
from tests.unit.dispatch_bench import Bench, fails_times, raises_for, rejects
from tests.unit.fakes import (
    EPOCH_MS,
    TEXT,
    LoopClock,
    on_virtual_time,
    settle,
)

# --- memory ---------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_refused_parts_leave_memory_without_a_collection_of_garbage() -> None:
    """Which comes seldom: their rows may be large, and are in no budget any more."""

    def alive() -> int:
        return sum(isinstance(each, PartTask) for each in gc.get_objects())

    bench = Bench()
    bench.client.script = lambda call: PoisonError("infer", "BAD_INPUT", "no")
    await bench.begin()
    gc.collect()
    before = alive()
    gc.disable()
    try:
        await bench.submit(0, 1, 2, 3)
        await asyncio.sleep(5)
        assert set(bench.codes.values()) == {"BAD_INPUT"}
        bench.tasks.clear()
        bench.outcomes.clear()
        assert alive() == before
    finally:
        gc.enable()


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
async def test_record_that_fails_the_model_again_and_again_spends_only_its_own_budget() -> None:
    bench = Bench(retries={"max_attempts": 2})
    bench.client.script = raises_for(RetriableError("an exception in the model"), "t2")
    await bench.begin()
    await bench.submit(0, 1, 2, 3)
    await asyncio.sleep(30)
    assert bench.codes == {0: "ok", 1: "ok", 2: "RETRIES_EXHAUSTED", 3: "ok"}
    assert bench.client.batches == [4, 4, 2, 2, 1, 1]
    assert "4 attempts failed, the last one: an exception in the model" in str(bench.outcomes[2])


@on_virtual_time
async def test_model_that_always_fails_ends_every_record_after_one_more_attempt_a_half() -> None:
    bench = Bench(retries={"max_attempts": 2})
    bench.client.script = lambda call: RetriableError("out of memory")
    await bench.begin()
    await bench.submit(0, 1, 2, 3)
    await asyncio.sleep(30)
    assert set(bench.codes.values()) == {"RETRIES_EXHAUSTED"}
    assert bench.client.batches == [4, 4, 2, 1, 1, 2, 1, 1]


@on_virtual_time
async def test_model_that_hangs_holds_up_its_route_for_a_few_calls_only() -> None:
    """Each call lasts as long as its time-out: to the last single record that would be an hour."""
    bench = Bench(retries={"max_attempts": 2, "max_backoff_seconds": 1}, batch={"max_records": 8})
    bench.client.latency_seconds = 30
    bench.client.script = lambda call: RetriableError("timed out")
    await bench.begin()
    await bench.submit(*range(8))
    await asyncio.sleep(6 * 30 + 5)
    assert bench.codes == dict.fromkeys(range(8), "RETRIES_EXHAUSTED")
    assert bench.client.batches == [8, 8, 4, 2, 1, 1]


@on_virtual_time
async def test_slow_model_is_given_the_time_to_answer_the_halves_without_the_record_at_fault() -> None:
    bench = Bench(retries={"max_attempts": 1, "max_backoff_seconds": 1}, batch={"max_records": 8})
    bench.client.latency_seconds = 3
    bench.client.script = raises_for(RetriableError("an exception in the model"), "t7")
    await bench.begin()
    await bench.submit(*range(8))
    await asyncio.sleep(60)
    assert bench.codes == {**dict.fromkeys(range(7), "ok"), 7: "RETRIES_EXHAUSTED"}


@on_virtual_time
async def test_half_that_is_too_late_by_now_costs_no_call() -> None:
    bench = Bench(retries={"max_attempts": 1})
    bench.client.latency_seconds = 5
    bench.client.script = lambda call: RetriableError("out of memory")
    await bench.begin()
    await bench.dispatcher.submit([bench.task(0), bench.task(1, deadline_ms=EPOCH_MS + 7000)])
    await asyncio.sleep(30)
    assert bench.codes == {0: "RETRIES_EXHAUSTED", 1: "DEADLINE_EXCEEDED"}
    assert bench.client.batches == [2, 1]


@on_virtual_time
async def test_unavailable_server_costs_no_attempt_and_is_waited_for() -> None:
    bench = Bench(retries={"max_attempts": 1})
    await bench.begin()
    await bench.submit(0)
    await asyncio.sleep(1)
    bench.client.up = False
    await bench.submit(1)
    await asyncio.sleep(600)
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
