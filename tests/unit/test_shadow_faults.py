"""What goes wrong with a shadow costs no result anything but its patience."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from headrace.pipeline.errors import FatalError, OutputRefusedError, PoisonError, UnavailableError
from headrace.pipeline.ports import Frames, SamplingPlan
from headrace.pipeline.records import Modality, Part
from tests.unit.fake_sampler import FakeSampler
from tests.unit.fakes import TEXT, on_virtual_time
from tests.unit.shadow_bench import Bench


@on_virtual_time
async def test_result_goes_at_once_without_a_shadow_that_fails() -> None:
    bench = Bench()
    bench.model.script = lambda call: PoisonError("infer", "INVALID_INPUT", "no") if call.version == "2" else None
    await bench.begin(3)
    await asyncio.sleep(0.5)
    assert (bench.written("results"), bench.written("shadow")) == ([0, 1, 2], [])
    assert (bench.written("dead"), bench.counted) == ([], {"failed": 3})
    await bench.stop()


@on_virtual_time
async def test_shadow_model_that_is_not_there_holds_up_nothing() -> None:
    bench = Bench({"model": "gone", "version": ""})
    await bench.begin(3)
    await asyncio.sleep(0.1)
    for number in range(3, 50):
        bench.send(number)
    await bench.take()
    await asyncio.sleep(0.1)
    assert len(bench.written("results")) == 50
    assert bench.model.asked["gone"] < 4, "asked for once, and no more for a while"
    await asyncio.sleep(3)
    assert bench.worker.health.ready
    await bench.stop()


@on_virtual_time
async def test_shadow_version_that_does_not_answer_holds_up_one_event_now_and_then() -> None:
    bench = Bench()
    bench.model.not_ready.add(("echo", "2"))
    await bench.begin(1)
    await asyncio.sleep(1.2)
    for number in range(1, 200):
        bench.send(number)
        await bench.take()
        await asyncio.sleep(0.1)
        assert len(bench.written("results")) >= number, "only the one that is asked for waits"
    assert bench.counted["late"] <= 5
    assert bench.counted["skipped"] >= 190
    await bench.stop()


@on_virtual_time
async def test_shadow_whose_model_comes_late_is_taken_up() -> None:
    bench = Bench()
    bench.model.not_ready.add(("echo", "2"))
    await bench.begin(1)
    await asyncio.sleep(2)
    bench.model.not_ready.clear()
    for number in range(1, 200):
        bench.send(number)
        await bench.take()
        await asyncio.sleep(0.1)
    assert bench.written("shadow")[-100:] == list(range(100, 200))
    await bench.stop()


@on_virtual_time
async def test_hanging_shadow_leaves_live_its_room(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(worker={"max_in_flight_records": 40})
    bench.model.seconds["2"] = 3600.0
    await bench.begin(39)
    await asyncio.sleep(0.5)
    assert len(bench.written("results")) == 29, "a quarter may wait"
    await asyncio.sleep(1)
    assert len(bench.written("results")) == 39
    assert bench.counted == {"late": 10, "skipped": 29}
    assert "does not answer" in caplog.text
    await bench.stop()


@on_virtual_time
async def test_shadow_has_its_room_again_when_it_has_answered() -> None:
    bench = Bench(worker={"max_in_flight_records": 40})
    await bench.begin(10)
    for first in (10, 20):
        await asyncio.sleep(0.5)
        for number in range(first, first + 10):
            bench.send(number)
        await bench.take()
    await asyncio.sleep(0.5)
    assert bench.counted == {"answered": 30}
    await bench.stop()


@on_virtual_time
async def test_shadow_that_waits_makes_no_worker_unready(caplog: pytest.LogCaptureFixture) -> None:
    """Its video alone cannot be sampled."""

    class Sampler(FakeSampler):
        async def sample(self, video: bytes, plan: SamplingPlan) -> Frames:
            if plan.max_frames == 4:
                raise UnavailableError("no process")
            return await super().sample(video, plan)

    bench = Bench({"model": "rival", "version": ""})
    bench.connections.sampler = Sampler()
    bench.model.models["rival"] = replace(TEXT, name="rival", max_batch_size=4)
    await bench.begin()
    bench.send(0, Part("clip", Modality.VIDEO, "video/mp4", b"\0\0\0\x18ftypisom\0\0\2\0"))
    await bench.take()
    await asyncio.sleep(3)
    assert (bench.written("results"), bench.written("shadow"), bench.counted) == ([0], [], {"late": 1})
    assert bench.worker.health.ready
    assert "waiting for video decoder" not in caplog.text
    await bench.stop()


@on_virtual_time
async def test_shadow_that_breaks_down_does_not_end_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.model.script = lambda call: FatalError("who are you?") if call.version == "2" else None
    await bench.begin(3)
    await asyncio.sleep(0.5)
    for number in range(3, 6):
        bench.send(number)
    await bench.take()
    await asyncio.sleep(0.5)
    assert (bench.written("results"), bench.written("shadow")) == ([0, 1, 2, 3, 4, 5], [])
    assert bench.counted == {"failed": 3, "skipped": 3}
    assert "route text/shadow has failed" in caplog.text
    await bench.stop()


@on_virtual_time
async def test_shadow_too_large_for_its_topic_costs_no_result() -> None:
    """A model that gives back much: the request fits, and so does the live result."""
    bench = Bench(topics={"max_message_bytes": 96 * 1024})
    inner = bench.model.infer

    async def wordy(call: Any, timeout_seconds: float) -> Any:
        reply = await inner(call, timeout_seconds)
        if call.version == "2":
            for row in reply.outputs["TEXT"]:
                row[0] *= 20_000
        return reply

    bench.model.infer = wordy  # type: ignore[method-assign]
    await bench.begin(1)
    await asyncio.sleep(0.5)
    assert (bench.written("results"), bench.written("shadow"), bench.written("dead")) == ([0], [], [])
    assert bench.counted == {"failed": 1}
    await bench.stop()


@on_virtual_time
async def test_shadow_that_its_topic_refuses_is_left_out() -> None:
    bench = Bench()
    bench.connections.transactions.failures.append(OutputRefusedError(3, "too large"))
    await bench.begin(3)
    await asyncio.sleep(0.5)
    assert (bench.written("results"), bench.written("shadow"), bench.written("dead")) == ([0, 1, 2], [0, 2], [])
    await bench.stop()


@on_virtual_time
async def test_result_that_its_topic_refuses_is_a_dead_letter_without_a_shadow() -> None:
    bench = Bench()
    bench.connections.transactions.failures.append(OutputRefusedError(2, "too large"))
    await bench.begin(3)
    await asyncio.sleep(0.5)
    assert (bench.written("results"), bench.written("shadow"), bench.written("dead")) == ([0, 2], [0, 2], [1])
    await bench.stop()
