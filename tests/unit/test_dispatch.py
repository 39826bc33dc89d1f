from __future__ import annotations

import asyncio

import pytest

from headrace.pipeline.errors import PoisonError, RetriableError
from headrace.pipeline.ports import InferCall, InferReply, ModelSignature
from headrace.pipeline.records import PartOutput
from tests.unit.dispatch_bench import Bench, raises_for
from tests.unit.fakes import (
    TEXT,
    LoopClock,
    on_virtual_time,
    settle,
    text_part,
)


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
async def test_model_has_its_next_call_before_the_answers_of_the_last_are_worked_on() -> None:
    bench = Bench(max_concurrency=1)
    bench.client.latency_seconds = 60
    infer = bench.client.infer
    calls: list[int] = []

    async def as_grpc(call: InferCall, timeout_seconds: float) -> InferReply:
        return await asyncio.create_task(infer(call, timeout_seconds))

    bench.client.infer = as_grpc  # type: ignore[method-assign]
    bench.finish = lambda task, outcome: calls.append(len(bench.client.batches))
    await bench.begin()
    await bench.submit(*range(12))
    await asyncio.sleep(200)
    assert calls == [2] * 4 + [3] * 8
    assert bench.client.most_in_flight == 1


@pytest.mark.parametrize("fails", [False, True])
@on_virtual_time
async def test_calls_in_flight_hold_no_more_bytes_than_so_many_batches(fails: bool) -> None:
    """Whether they are answered at once, or again and again tried, halved, and given up."""
    retries = {"max_attempts": 2, "initial_backoff_seconds": 0.01, "max_backoff_seconds": 0.01}
    batch = {"max_records": 8, "max_bytes": 20, "max_delay_seconds": 1.0}
    bench = Bench(max_concurrency=3, batch=batch, retries=retries)
    infer = bench.client.infer
    texts = [f"{each % 10}" * (each % 20 + 1) for each in range(100)]
    held = most = 0

    async def watched(call: InferCall, timeout_seconds: float) -> InferReply:
        nonlocal held, most
        size_bytes = sum(len(row[0]) for row in call.inputs["IN"])
        held += size_bytes
        most = max(most, held)
        try:
            return await infer(call, timeout_seconds)
        finally:
            held -= size_bytes

    bench.client.infer = watched  # type: ignore[method-assign]
    if fails:
        bench.client.script = raises_for(RetriableError("busy"), *texts[::7])
    await bench.begin(100)
    await bench.dispatcher.submit([bench.task(offset, text_part(text)) for offset, text in enumerate(texts)])
    await asyncio.sleep(60)
    assert len(bench.outcomes) == 100
    assert ("RETRIES_EXHAUSTED" in bench.codes.values()) == fails
    assert 2 * 20 < most <= 3 * 20


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
