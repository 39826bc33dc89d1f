"""A dispatcher whose model fails again and again: what is not called, what answers instead, and for how long."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from headrace.pipeline import metrics
from headrace.pipeline.breakers import LONGEST_WAIT_SECONDS, MAX_OTHERS, Breakers
from headrace.pipeline.errors import ExhaustedError, PoisonError
from headrace.pipeline.ports import InferCall, InferReply
from tests.unit.dispatch_bench import BREAKER, BUSY, ONE_ATTEMPT, breaking, fails, fails_times
from tests.unit.fakes import LoopClock, on_virtual_time


@on_virtual_time
async def test_without_a_breaker_every_record_is_tried() -> None:
    bench = breaking(breaker=None)
    fails(bench, "echo")
    await bench.begin()
    await bench.submit(*range(6))
    await asyncio.sleep(1)
    assert len(bench.client.calls) == 6


@on_virtual_time
async def test_open_breaker_puts_off_what_has_delays_without_a_call() -> None:
    bench = breaking(retries={**ONE_ATTEMPT, "delays": ["5s"]})
    fails(bench, "echo")
    await bench.begin()
    await bench.submit(*range(3))
    await asyncio.sleep(1)
    await bench.submit(*range(3, 6))
    await asyncio.sleep(1)
    assert bench.codes == dict.fromkeys(range(3), "RETRIES_EXHAUSTED") | dict.fromkeys(range(3, 6), "BREAKER_OPEN")
    assert all(isinstance(each, ExhaustedError) for each in bench.outcomes.values())
    assert "failed 3 times in a row" in str(bench.outcomes[5])
    assert len(bench.client.calls) == 3


@on_virtual_time
async def test_what_was_queued_when_it_opened_is_put_off_too() -> None:
    bench = breaking(retries={**ONE_ATTEMPT, "delays": ["5s"]})
    fails(bench, "echo")
    await bench.begin()
    await bench.submit(*range(6))
    await asyncio.sleep(1)
    assert list(bench.codes.values()) == ["RETRIES_EXHAUSTED"] * 3 + ["BREAKER_OPEN"] * 3


@on_virtual_time
async def test_model_that_is_away_opens_it_and_is_not_waited_for() -> None:
    bench = breaking(retries={"delays": ["5s"]})
    bench.client.not_ready.add(("echo", ""))
    await bench.begin()
    await bench.submit(0, 1)
    assert bench.codes == {0: "BREAKER_OPEN", 1: "BREAKER_OPEN"}
    assert bench.client.asked["echo"] == 3
    bench.client.not_ready.clear()
    await asyncio.sleep(5)
    await bench.submit(2)
    await asyncio.sleep(1)
    assert bench.codes[2] == "ok"


@on_virtual_time
async def test_with_nowhere_else_to_go_records_wait_and_spare_the_model() -> None:
    bench = breaking(retries={"max_attempts": 1000, "initial_backoff_seconds": 0.01, "max_backoff_seconds": 0.01})
    bench.client.script = fails_times(5, BUSY)
    await bench.begin()
    await bench.submit(*range(4))
    await asyncio.sleep(4.9)
    assert (len(bench.client.calls), bench.codes) == (3, {})
    await asyncio.sleep(0.5)
    assert (len(bench.client.calls), bench.codes) == (4, {})
    await asyncio.sleep(60)
    assert bench.codes == dict.fromkeys(range(4), "ok")
    assert bench.holds == []


@on_virtual_time
async def test_lane_is_held_while_its_breaker_is_open_and_what_it_has_waits() -> None:
    attempts = {"max_attempts": 1000, "initial_backoff_seconds": 0.01, "max_backoff_seconds": 0.01}
    bench = breaking(topics=["urgent"], retries={**attempts, "delays": ["5s"]})
    bench.client.script = fails_times(4, BUSY)
    await bench.begin()
    await bench.submit(*range(3))
    await asyncio.sleep(1)
    assert (bench.holds, bench.codes) == ([True], {})
    await asyncio.sleep(60)
    assert bench.holds == [True, False, True, False, False]  # open, half-open, open, half-open, closed
    assert bench.codes == dict.fromkeys(range(3), "ok")


@on_virtual_time
async def test_lane_that_is_empty_when_its_breaker_opens_is_not_held_for_ever() -> None:
    bench = breaking(topics=["urgent"])
    fails(bench, "echo")
    await bench.begin()
    await bench.submit(*range(3))
    await asyncio.sleep(1)
    assert (list(bench.codes.values()), bench.holds) == (["RETRIES_EXHAUSTED"] * 3, [True])
    await asyncio.sleep(5)
    assert bench.holds == [True, False]


@on_virtual_time
async def test_refused_input_says_that_the_model_is_there() -> None:
    bench = breaking()
    outcomes = [BUSY, BUSY, PoisonError("infer", "INVALID_INPUT", "no"), BUSY, BUSY]
    bench.client.script = lambda call: outcomes.pop(0) if outcomes else None
    await bench.begin()
    await bench.submit(*range(6))
    await asyncio.sleep(1)
    assert bench.codes[5] == "ok"


@on_virtual_time
async def test_probe_of_a_partition_that_goes_leaves_the_next_one_its_turn() -> None:
    bench = breaking()
    fails(bench, "echo")
    await bench.begin()
    await bench.submit(*range(3))
    await asyncio.sleep(5.5)
    fails(bench)
    bench.client.latency_seconds = 1.0
    await bench.submit(3)
    await asyncio.sleep(0.1)
    await bench.source.lose()
    await asyncio.sleep(2)
    await bench.source.assign(*bench.broker.inputs)
    bench.source.poll()
    await bench.submit(4)
    await asyncio.sleep(3)
    assert bench.codes[4] == "ok"


@on_virtual_time
async def test_nobody_waits_for_a_breaker_that_has_become_half_open() -> None:
    bench = breaking()
    await bench.begin()
    breakers = Breakers(bench.route, LoopClock(), bench.holds.append)
    task = bench.task(0)
    for _ in range(3):
        breakers.failed(task, LoopClock().monotonic())
    await asyncio.sleep(4.9)
    assert not breakers.admits(task)
    await asyncio.sleep(0.2)
    began = LoopClock().monotonic()
    await breakers.wait(task)
    assert LoopClock().monotonic() == began
    assert breakers.admits(task)


WAITS = {"max_attempts": 1000, "initial_backoff_seconds": 0.01, "max_backoff_seconds": 0.01}


@on_virtual_time
async def test_drain_does_not_wait_for_an_open_breaker() -> None:
    bench = breaking(breaker={**BREAKER, "open_seconds": 20}, retries=WAITS)
    fails(bench, "echo")
    await bench.begin()
    await bench.submit(0, 1)
    await asyncio.sleep(2.5)
    began = LoopClock().monotonic()
    await bench.source.revoke()
    assert LoopClock().monotonic() - began <= LONGEST_WAIT_SECONDS
    assert bench.outcomes == {}


@on_virtual_time
async def test_deadline_passes_while_a_breaker_is_open() -> None:
    bench = breaking(breaker={**BREAKER, "open_seconds": 20}, retries=WAITS)
    fails(bench, "echo")
    await bench.begin()
    now_ms = LoopClock().epoch_ms()
    await bench.dispatcher.submit([bench.task(0, deadline_ms=now_ms + 3000)])
    await asyncio.sleep(3 + 2 * LONGEST_WAIT_SECONDS)
    assert bench.codes == {0: "DEADLINE_EXCEEDED"}


@on_virtual_time
async def test_version_that_events_name_holds_no_lane_and_is_not_measured() -> None:
    bench = breaking(name="versions", topics=["urgent"])
    bench.client.not_ready.add(("echo", "7"))
    await bench.begin()
    await bench.submit(0)
    for offset in range(1, 5):
        await bench.dispatcher.submit([bench.task(offset, version="7")])
    await bench.submit(5)
    await asyncio.sleep(1)
    assert bench.holds == []
    assert bench.codes[5] == "ok"
    assert measured("versions") == {"echo": 0}


@on_virtual_time
async def test_breakers_of_a_routes_model_and_its_fallback_are_measured() -> None:
    bench = breaking(name="both", fallback={"model": "small"})
    assert measured("both") == {"echo": 0, "small": 0}
    fails(bench, "echo")
    await bench.begin()
    await bench.submit(*range(3))
    await asyncio.sleep(1)
    assert measured("both") == {"echo": 2, "small": 0}


@on_virtual_time
async def test_versions_that_events_name_leave_no_more_than_so_many_breakers() -> None:
    bench = breaking(name="many", breaker={**BREAKER, "failures": 1})
    await bench.begin()
    breakers = Breakers(bench.route, LoopClock(), bench.holds.append)
    changes = breaker_changes("many")
    for version in range(3 * MAX_OTHERS):
        breakers.failed(bench.task(0), 0.0)
        breakers.failed(bench.task(0, version=f"{version}"), 0.0)
    kept = [version for version in range(3 * MAX_OTHERS) if not breakers.admits(bench.task(0, version=f"{version}"))]
    assert kept == list(range(2 * MAX_OTHERS, 3 * MAX_OTHERS))
    assert not breakers.admits(bench.task(0))
    await asyncio.sleep(BREAKER["open_seconds"])  # none of those that are forgotten changes any more
    assert breaker_changes("many") - changes == {"open": 1, "half_open": 1}
    breakers.close()


@pytest.mark.parametrize("outcome", [None, BUSY])
@on_virtual_time
async def test_call_that_began_before_it_opened_does_not_decide_for_the_probe(outcome: Exception | None) -> None:
    bench = breaking(name="old", max_concurrency=4, batch={"max_records": 1})
    infer = bench.client.infer
    slow: asyncio.Event = asyncio.Event()

    async def scripted(call: InferCall, timeout_seconds: float) -> InferReply:
        if call.inputs["IN"][0][0] == b"t0":
            await slow.wait()
            if outcome:
                raise outcome
        return await infer(call, timeout_seconds)

    bench.client.infer = scripted  # type: ignore[method-assign]
    fails(bench, "echo")
    await bench.begin()
    await bench.submit(*range(4))
    await asyncio.sleep(5.5)
    assert measured("old") == {"echo": 1}
    fails(bench)
    slow.set()
    await asyncio.sleep(0.5)
    assert measured("old") == {"echo": 1}
    await bench.submit(4)
    await asyncio.sleep(0.5)
    assert (measured("old"), bench.codes[4]) == ({"echo": 0}, "ok")


@on_virtual_time
async def test_probe_that_fails_unexpectedly_leaves_none_waiting() -> None:
    bench = breaking()
    fails(bench, "echo")
    await bench.begin()
    await bench.submit(*range(3))
    await asyncio.sleep(5.5)
    bench.client.script = fails_times(1, ValueError("nobody expects this"))
    await bench.submit(3, 4)
    await asyncio.sleep(1)
    assert (bench.codes[3], bench.codes[4]) == ("UNEXPECTED", "ok")


def breaker_changes(route: str) -> Counter[str]:
    """How often the breakers of a route's models became what, by ``headrace_breaker_changes_total``."""
    [counter] = metrics.BREAKER_CHANGES.collect()
    return Counter(
        {
            each.labels["state"]: int(each.value)
            for each in counter.samples
            if each.labels["route"] == route and each.name.endswith("_total")
        }
    )


def measured(route: str) -> dict[str, float]:
    """The state of each model's breaker, by ``headrace_breaker_state``."""
    [gauge] = metrics.BREAKER_STATE.collect()
    return {each.labels["model"]: each.value for each in gauge.samples if each.labels["route"] == route}
