"""What a candidate that is too slow, for its load or for its patience, costs live."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.fakes import TEXT, on_virtual_time
from tests.unit.shadow_bench import Bench

ALONE = {"batch": {"max_records": 1}}


async def pace(bench: Bench, events: int, per_second: float, key: bytes | None = None) -> None:
    """Send so many events at a rate, and give the last ones time."""
    await bench.begin()
    for number in range(events):
        bench.send(number, key=key)
        bench.source.poll()
        await asyncio.sleep(1 / per_second)
    await asyncio.sleep(5)


@pytest.mark.parametrize("per_second", [11, 30])
@on_virtual_time
async def test_candidate_too_slow_for_its_load_answers_what_it_can_in_time(per_second: int) -> None:
    """It can do 10 a second."""
    bench = Bench({"max_concurrency": 1}, route=ALONE)
    bench.model.seconds["2"] = 0.09
    await pace(bench, 5 * per_second, per_second)
    assert len(bench.written("results")) == 5 * per_second
    assert bench.counted.keys() == {"answered", "skipped"}
    assert bench.counted["answered"] >= 45
    await bench.stop()


@on_virtual_time
async def test_candidate_whose_batches_are_smaller_than_the_route_s_is_given_less_once_it_is_late() -> None:
    """It can do 20 a second, and its route's batches say nothing of that."""
    bench = Bench({"model": "rival", "version": "", "patience_seconds": 0.3})
    bench.model.models["rival"] = replace(TEXT, name="rival", max_batch_size=1)
    inner = bench.model.infer

    async def infer(call: Any, timeout_seconds: float) -> Any:
        await asyncio.sleep(0.09 if call.model == "rival" else 0.0)
        return await inner(call, timeout_seconds)

    bench.model.infer = infer  # type: ignore[method-assign]
    await pace(bench, 240, 40)
    assert bench.counted["answered"] >= 60
    assert bench.counted["late"] <= 60
    await bench.stop()


@on_virtual_time
async def test_candidate_slower_than_its_patience_is_asked_less_and_less(caplog: pytest.LogCaptureFixture) -> None:
    """Its answers come all the same, for nobody: they are no reason to trust it."""
    bench = Bench()
    bench.model.seconds["2"] = 1.5
    await pace(bench, 50, 0.5)
    assert len(bench.written("results")) == 50
    assert bench.counted.keys() == {"late", "skipped"}
    assert bench.counted["late"] <= 6
    assert caplog.text.count("does not answer in time") == 1
    await bench.stop()


@pytest.mark.parametrize("ordering", ["partition", "key"])
@on_virtual_time
async def test_nothing_waits_for_its_shadow_while_the_worker_can_take_no_more(ordering: str) -> None:
    """Those behind one that waits are in flight as well, and would fill the worker up."""
    bench = Bench({"patience_seconds": 60}, route={"ordering": ordering}, worker={"max_in_flight_records": 40})
    bench.model.seconds["2"] = 3600.0
    await bench.begin()
    bench.send(0, key=b"k")
    await bench.take()
    for number in range(1, 200):
        bench.send(number, key=b"k")
        bench.source.poll()
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    assert len(bench.written("results")) >= 160
    assert bench.written("results") == sorted(bench.written("results"))
    await bench.stop()


@on_virtual_time
async def test_lane_that_can_take_no_more_costs_others_no_shadow() -> None:
    lane = {"name": "lane", "model": "echo", "topics": ["urgent"]}
    bench = Bench({"patience_seconds": 60}, (lane,), topics={"requests": ["requests", "urgent"]})
    bench.model.seconds["2"] = 1.0
    await bench.begin(1)
    bench.source.budget.take(10**9, 0, "urgent")
    await asyncio.sleep(2)
    bench.source.budget.release(10**9, 0, "urgent")
    assert bench.counted == {"answered": 1}
    await bench.stop()


@on_virtual_time
async def test_candidate_is_not_distrusted_for_what_had_to_make_room() -> None:
    bench = Bench({"patience_seconds": 60}, worker={"max_in_flight_records": 4})
    bench.model.seconds["2"] = 1.0
    await bench.begin(4)
    await asyncio.sleep(0.5)
    assert bench.written("results") == [0, 1, 2, 3]
    await asyncio.sleep(0.7)
    bench.send(4)
    await bench.take()
    await asyncio.sleep(2)
    assert bench.written("shadow") == [4]
    assert bench.counted == {"late": 1, "skipped": 3, "answered": 1}
    await bench.stop()
