"""A real Faust app on this machine's loop, with the outside faked. Faust starts a web server: on a free port."""

from __future__ import annotations

import asyncio
import gc
import socket
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp

from headrace.pipeline.agents import InferenceApp, build_app
from headrace.pipeline.clock import SystemClock
from headrace.pipeline.config import Settings
from headrace.pipeline.records import TopicPartition
from headrace.pipeline.worker import Connections
from tests.unit.fake_connections import FakeConnections
from tests.unit.fakes import FakeBroker, request_value

TOPICS = {"requests": ["requests"], "results": "results", "dead_letters": "dead"}
P0 = TopicPartition("requests", 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again: a page can only be asked."""
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - what is asked for is behind a page
            await asyncio.sleep(0.005)


class Bench:
    def __init__(self, topics: dict[str, Any] | None = None, **settings_given: Any) -> None:
        port = free_port()
        settings = Settings.model_validate(
            {
                "name": f"mill-{uuid.uuid4()}",
                "topics": {**TOPICS, **(topics or {})},
                "routes": [{"name": "text", "model": "echo"}],
                "worker": {"http_port": port, "drain_timeout_seconds": 1},
                **settings_given,
            }
        )
        self.url = f"http://127.0.0.1:{port}"
        self.broker = FakeBroker()
        self.connections = FakeConnections(self.broker, settings)
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

    def send(self, records: int, partition: TopicPartition = P0) -> None:
        for number in range(records):
            self.broker.send(partition, b"k", request_value(number=number))

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


def collect_leaks() -> None:
    """Faust makes a consumer that is never started, and with it an event loop that nobody closes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
