"""A real Faust app on this machine's loop, with the outside faked. Faust starts a web server: on a free port."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from headrace.pipeline.errors import FatalError
from headrace.pipeline.records import TopicPartition
from headrace.pipeline.user_code import Record
from tests.unit.app_bench import P0, Bench, collect_leaks, page, until


@pytest.fixture(autouse=True)
def _leaks_of_faust() -> Iterator[None]:
    yield
    collect_leaks()


async def says(session: aiohttp.ClientSession, path: str, answer: tuple[int, str]) -> bool:
    return await page(session, path) == answer


async def test_batch_flows_through_the_agents_and_the_pages_answer() -> None:
    bench = Bench()
    bench.send(20)
    async with bench.running() as session:
        assert await page(session, "/livez") == (200, "ok\n")
        await bench.poll()
        await bench.answered(20)
        assert {output.topic for output in bench.broker.outputs} == {"results"}
        status, text = await page(session, "/metrics")
        assert status == 200
        assert 'headrace_results_total{route="text"}' in text
    assert bench.broker.committed[P0].offset == 20
    assert bench.connections.source is not None
    assert bench.connections.source.stopped
    assert bench.app.failure is None


async def test_topic_whose_records_wait_holds_up_no_other() -> None:
    """User code waits for something, say, or the registry does not answer for a new schema."""
    bench = Bench({"requests": ["requests", "urgent"]})
    urgent = TopicPartition("urgent", 0)
    bench.connections.to_assign = (P0, urgent)
    gate = asyncio.Event()

    @bench.app.before
    async def wait(record: Record) -> None:
        if record.provenance.topic == "requests":
            await gate.wait()

    bench.send(3)
    async with bench.running():
        await bench.poll()
        bench.send(2, urgent)
        await bench.poll()
        await bench.answered(2)
        assert bench.broker.committed.keys() == {urgent}
        gate.set()
        await bench.answered(5)
    assert {partition: start.offset for partition, start in bench.broker.committed.items()} == {P0: 3, urgent: 2}


async def test_readiness_names_what_is_waited_for() -> None:
    bench = Bench()
    bench.connections.down = 10**9
    async with bench.running() as session:
        await until(lambda: says(session, "/readyz", (503, "waiting for kafka\n")))
        assert await page(session, "/livez") == (200, "ok\n")
    assert bench.app.failure is None


async def test_ready_worker_says_so() -> None:
    bench = Bench()
    async with bench.running() as session:
        await bench.poll()
        await until(lambda: says(session, "/readyz", (200, "ok\n")))


async def test_error_in_an_agent_ends_the_app_and_commits_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Faust alone would log it, drop the event and go on."""
    bench = Bench()
    bench.connections.registry.on_schema = FatalError("the registry denies access")
    bench.send(3)
    async with bench.running():
        await bench.poll()
        await until(bench.failed)
    assert isinstance(bench.app.failure, FatalError)
    assert "the registry denies access" in caplog.text
    assert (bench.broker.outputs, bench.broker.committed) == ([], {})


async def test_error_of_the_worker_ends_the_app_and_liveness_tells_it() -> None:
    bench = Bench()
    bench.connections.transactions.failures.append(FatalError("fenced"))
    bench.send(1)
    async with bench.running() as session:
        await bench.poll()
        await until(bench.failed)
        status, text = await page(session, "/livez")
        assert (status, text) == (503, "fenced\n")
    assert isinstance(bench.app.failure, FatalError)
    assert bench.broker.outputs == []


async def test_users_add_agents_and_pages_of_their_own() -> None:
    bench = Bench()

    @bench.app.page("/mine")
    async def mine(web: Any, request: Any) -> Any:
        return web.text("mine")

    async with bench.running() as session:
        assert await page(session, "/mine") == (200, "mine")
