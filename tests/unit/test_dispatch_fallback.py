"""A dispatcher whose model is not called for now, while another, the fallback, answers: or is away, too."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from headrace.pipeline.ports import ModelSignature
from tests.unit.dispatch_bench import ONE_ATTEMPT, Bench, breaking, fails, models
from tests.unit.fakes import LoopClock, on_virtual_time


@on_virtual_time
async def test_fallback_answers_while_the_breaker_is_open_and_no_longer() -> None:
    bench = breaking(fallback={"model": "small"})
    fails(bench, "echo")
    await bench.begin()
    await bench.submit(*range(5))
    await asyncio.sleep(1)
    assert models(bench) == {3: "small", 4: "small"}
    fails(bench)
    await asyncio.sleep(5)
    await bench.submit(5, 6)
    await asyncio.sleep(1)
    assert models(bench) == {3: "small", 4: "small", 5: "echo", 6: "echo"}


@on_virtual_time
async def test_probe_goes_alone_and_the_others_to_the_fallback_meanwhile() -> None:
    bench = breaking(fallback={"model": "small"}, max_concurrency=4)
    fails(bench, "echo")
    await bench.begin()
    await bench.submit(*range(3))
    await asyncio.sleep(5.5)
    before = len(bench.client.calls)
    await bench.submit(*range(3, 9))
    await asyncio.sleep(1)
    called = [call.model for call in bench.client.calls[before:]]
    assert (called.count("echo"), called.count("small")) == (1, 5)
    assert bench.codes[3] == "RETRIES_EXHAUSTED"  # the probe
    before = len(bench.client.calls)
    await asyncio.sleep(8)  # the wait has doubled
    await bench.submit(9)
    await asyncio.sleep(1)
    assert [call.model for call in bench.client.calls[before:]] == ["small"]


@on_virtual_time
async def test_event_that_names_its_model_is_answered_by_no_other() -> None:
    bench = breaking(fallback={"model": "small"}, retries={**ONE_ATTEMPT, "delays": ["5s"]})
    fails(bench, "echo")
    await bench.begin()
    await bench.submit(*range(3))
    await asyncio.sleep(1)
    task = bench.task(3)
    task.journey.request = replace(task.journey.request, model="echo")
    await bench.dispatcher.submit([task])
    await asyncio.sleep(1)
    assert bench.codes[3] == "BREAKER_OPEN"


@on_virtual_time
async def test_fallback_that_fails_too_is_not_asked_for_ever() -> None:
    bench = breaking(fallback={"model": "small"}, retries={**ONE_ATTEMPT, "delays": ["5s"]})
    fails(bench, "echo", "small")
    await bench.begin()
    await bench.submit(*range(9))
    await asyncio.sleep(1)
    assert list(bench.codes.values()) == ["RETRIES_EXHAUSTED"] * 6 + ["BREAKER_OPEN"] * 3
    assert [call.model for call in bench.client.calls] == ["echo"] * 3 + ["small"] * 3


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("latency_seconds", [4.0, 4.8, 5.0, 6.0])
@on_virtual_time
async def test_breaker_that_becomes_half_open_while_others_are_diverted_leaves_none_waiting(
    latency_seconds: float, concurrency: int
) -> None:
    batch = {"max_records": 2, "max_delay_seconds": 0.1}
    bench = breaking(fallback={"model": "small"}, batch=batch, max_concurrency=concurrency)
    signature = bench.client.signature

    async def slow(model: str, version: str = "") -> ModelSignature:
        if model == "small":
            await asyncio.sleep(latency_seconds)
        return await signature(model, version)

    bench.client.signature = slow  # type: ignore[method-assign]
    fails(bench, "echo")
    bench.client.latency_seconds = 0.5
    await bench.begin()
    await bench.submit(*range(9))
    await asyncio.sleep(3)
    fails(bench)
    await asyncio.sleep(60)
    assert bench.outcomes.keys() == set(range(9))


def away(bench: Bench) -> None:
    """The route's model fails from now on, and its fallback is not loaded."""
    fails(bench, "echo")
    bench.client.not_ready.add(("small", ""))


LONG = {"failures": 3, "open_seconds": 1000, "max_open_seconds": 1000}
PATIENCE_SECONDS = 5.0
"""Of ``ONE_ATTEMPT``."""


@on_virtual_time
async def test_records_that_come_while_the_fallback_is_away_wait_for_it_together() -> None:
    bench = breaking(topics=["urgent"], fallback={"model": "small"}, breaker=LONG)
    away(bench)
    await bench.begin()
    await bench.submit(*range(3))
    await asyncio.sleep(1)
    began = LoopClock().monotonic()
    await bench.submit(*range(3, 13))
    assert PATIENCE_SECONDS <= LoopClock().monotonic() - began < 2 * PATIENCE_SECONDS
    assert [bench.codes[each] for each in range(3, 13)] == ["MODEL_UNAVAILABLE"] * 10


@on_virtual_time
async def test_version_of_the_fallback_is_waited_for_although_another_is_served() -> None:
    bench = breaking(fallback={"model": "small", "version": "3"}, breaker=LONG)
    fails(bench, "echo")
    bench.client.not_ready.add(("small", "3"))
    await bench.begin()
    await bench.submit(*range(3))
    await asyncio.sleep(1)
    await bench.submit(3)
    assert bench.codes[3] == "MODEL_UNAVAILABLE"


@pytest.mark.parametrize("concurrency", [1, 3])
@on_virtual_time
async def test_records_that_are_queued_when_the_fallback_is_away_wait_for_it_together(concurrency: int) -> None:
    bench = breaking(topics=["urgent"], fallback={"model": "small"}, breaker=LONG, max_concurrency=concurrency)
    away(bench)
    await bench.begin()
    await bench.submit(*range(13))
    await asyncio.sleep(PATIENCE_SECONDS - 1)
    assert list(bench.codes.values()) == ["RETRIES_EXHAUSTED"] * 3
    await asyncio.sleep(PATIENCE_SECONDS)
    assert list(bench.codes.values()) == ["RETRIES_EXHAUSTED"] * 3 + ["MODEL_UNAVAILABLE"] * 10


@on_virtual_time
async def test_fallback_that_comes_back_in_time_answers_all_that_waited_for_it() -> None:
    bench = breaking(topics=["urgent"], fallback={"model": "small"}, breaker={**LONG, "open_seconds": 20})
    away(bench)
    await bench.begin()
    await bench.submit(*range(6))
    await asyncio.sleep(PATIENCE_SECONDS - 1)
    bench.client.not_ready.clear()
    await bench.submit(*range(6, 9))
    await asyncio.sleep(20)  # the fallback has a breaker, too
    assert models(bench) == dict.fromkeys(range(3, 9), "small")
