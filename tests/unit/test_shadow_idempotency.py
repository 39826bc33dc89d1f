"""A shadow beside idempotency: an event that waits for its shadow, and its duplicates that wait for it."""

from __future__ import annotations

import asyncio

from tests.unit.fakes import on_virtual_time
from tests.unit.shadow_bench import Bench


@on_virtual_time
async def test_event_whose_duplicates_fill_the_worker_waits_for_no_shadow() -> None:
    bench = Bench(
        {"patience_seconds": 60.0},
        routes=({"name": "plain", "model": "echo"},),
        route={"idempotency": {}, "match": {"type": ["shadowed"]}},
        worker={"max_in_flight_records": 8},
    )
    bench.model.seconds["2"] = 1000.0
    await bench.begin(1, type="shadowed")
    await asyncio.sleep(1)
    assert bench.written("results") == [], "it waits for its shadow"
    for _ in range(7):
        bench.send(0, type="shadowed")
    for number in (8, 9, 10):
        bench.send(number)
    for _ in range(20):
        bench.source.poll()
        await asyncio.sleep(0.05)
    assert bench.written("results") == [0, 8, 9, 10]
    assert bench.counted == {"late": 1}
    await bench.stop()
