"""A real Faust app on this machine's loop, with the outside faked. Faust starts a web server: on a free port."""

from __future__ import annotations

import asyncio
import gc
import socket
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest

from headrace.pipeline.agents import InferenceApp, build_app
from headrace.pipeline.clock import SystemClock
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import FatalError
from headrace.pipeline.records import TopicPartition
from headrace.pipeline.worker import Connections
from tests.unit.fake_connections import FakeConnections
from tests.unit.fakes import FakeBroker, request_value

P0 = TopicPartition("requests", 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(autouse=True)
def _leaks_of_faust() -> Iterator[None]:
    """Faust makes a consumer that is never started, and with it an event loop that nobody closes."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again: a page can only be asked."""
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - what is asked for is behind a page
            await asyncio.sleep(0.005)


class Bench:
    def __init__(self) -> None:
        port = free_port()
        settings = Settings.model_validate(
            {
                "name": f"mill-{uuid.uuid4()}",
                "topics": {"requests": ["requests"], "results": "results", "dead_letters": "dead"},
                "routes": [{"name": "text", "model": "echo"}],
                "worker": {"http_port": port, "drain_timeout_seconds": 1},
            }
        )
        self.url = f"http://127.0.0.1:{port}"
        self.broker = FakeBroker()
        self.connections = FakeConnections(self.broker)
        self.connections.inference.latency_seconds = 0.0
        self.connections.to_assign = (P0,)
        self.committed = asyncio.Event()
        self.broker.on_commit = self.committed.set
        self.app: InferenceApp = build_app(settings, lambda: cast("Connections", self.connections), SystemClock())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[aiohttp.ClientSession]:
        await self.app.start()
        try:
            async with aiohttp.ClientSession(self.url) as session:
                yield session
        finally:
            await self.app.stop()

    def send(self, records: int) -> None:
        for number in range(records):
            self.broker.send(P0, b"k", request_value(number=number))

    async def poll(self) -> None:
        async with asyncio.timeout(10):
            await self.connections.consuming.wait()
        assert self.connections.source is not None
        self.connections.source.poll()

    async def failed(self) -> bool:
        return self.app.failure is not None

    async def answered(self, records: int) -> None:
        async with asyncio.timeout(10):
            while len(self.broker.outputs) < records:
                self.committed.clear()
                await self.committed.wait()


async def page(session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with session.get(path) as response:
        return response.status, await response.text()


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
