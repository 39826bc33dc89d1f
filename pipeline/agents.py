"""Faust hosts the processing: a router agent and an inference agent per route, on bounded channels.

Only Faust's public API is used. Its own Kafka machinery is off, for its exactly-once is not transactional (see
docs/decisions/006-faust-hosts-the-processing.md): ``Worker`` consumes and commits. An agent's event is a record batch
or a list of tasks, so that Faust's cost per event is paid once per fetch.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any

import faust
from faust.app import BootStrategy
from mode import Service
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from headrace.pipeline.config import Settings
from headrace.pipeline.errors import FatalError
from headrace.pipeline.journey import PartTask
from headrace.pipeline.metrics import registry
from headrace.pipeline.ports import Clock
from headrace.pipeline.records import RecordBatch
from headrace.pipeline.worker import Connections, Worker

log = logging.getLogger(__name__)


class _Boot(BootStrategy):
    enable_kafka = False
    enable_kafka_consumer = False
    enable_kafka_producer = False


class InferenceApp(faust.App):
    """A Faust application whose agents run the inference journey.

    Users add agents, timers and pages to it as to any Faust app.
    """

    BootStrategy = _Boot
    mundane_level = "debug"
    inference: Worker
    failure: BaseException | None = None

    async def on_first_start(self) -> None:
        """Make no data folder in the working directory: it would hold tables' files, and there are no tables."""

    async def fail(self, error: BaseException) -> None:
        """End the process: nothing may be lost in silence, and a supervisor starts it afresh."""
        self.failure = self.failure or error
        log.critical("%s", error, exc_info=None if isinstance(error, FatalError) else error)
        await self.crash(error)


def build_app(settings: Settings, connect: Callable[[], Connections], clock: Clock) -> InferenceApp:
    """The Faust application of one worker."""
    worker_settings = settings.worker
    app = InferenceApp(
        settings.name,
        broker="kafka://",  # never connected to
        store="memory://",
        topic_disable_leader=True,
        web_host=worker_settings.http_host,
        web_bind=worker_settings.http_host,
        web_port=worker_settings.http_port,
        stream_wait_empty=False,
    )
    # No channel can fill before the budget of records in flight is spent: so a slow route holds up the source in the
    # end, but never the router, and with it the other routes.
    bound = worker_settings.max_in_flight_records + 1
    batches: Any = app.channel(maxsize=bound)  # Any: a channel's values need not be events, whatever its type says
    tasks: dict[str, Any] = {route.name: app.channel(maxsize=bound) for route in settings.routes}

    async def send_tasks(route: str, some: list[PartTask]) -> None:
        await tasks[route].put(some)

    worker = app.inference = Worker(settings, connect, clock, batches.put, send_tasks)

    async def route_batches(stream: AsyncIterable[RecordBatch]) -> None:
        await _consume(app, stream, worker.route_batch)

    app.agent(batches, name="router")(route_batches)
    for route in settings.routes:
        app.agent(tasks[route.name], name=f"inference.{route.name}")(_inference_agent(app, worker, route.name))
    app.service(_worker_service(app, worker))
    _add_pages(app, worker)
    return app


def _inference_agent(
    app: InferenceApp, worker: Worker, route: str
) -> Callable[[AsyncIterable[list[PartTask]]], Awaitable[None]]:
    async def infer_tasks(stream: AsyncIterable[list[PartTask]]) -> None:
        await _consume(app, stream, lambda tasks: worker.submit(route, tasks))

    return infer_tasks


async def _consume(app: InferenceApp, stream: AsyncIterable[Any], handle: Callable[[Any], Awaitable[None]]) -> None:
    """An agent's body. Faust would drop the event whose handling raised and go on: here that ends the process."""
    async for event in stream:
        try:
            await handle(event)
        except Exception as error:
            await app.fail(error)
            raise


def _worker_service(app: InferenceApp, worker: Worker) -> type[Service]:
    class WorkerService(Service):
        """Started after the agents and stopped before them, so that they can drain."""

        mundane_level = "debug"

        async def on_start(self) -> None:
            app.flow_control.resume()  # channels begin suspended, and only table recovery would resume them
            self.add_future(self._run())

        async def _run(self) -> None:
            try:
                await worker.run()
            except Exception as error:  # noqa: BLE001 - not swallowed: fails the app
                await app.fail(error)

        async def on_stop(self) -> None:
            await worker.stop()

    return WorkerService


def _add_pages(app: InferenceApp, worker: Worker) -> None:
    @app.page("/metrics")
    async def metrics(web: Any, request: Any) -> Any:
        return web.bytes(generate_latest(registry), content_type=CONTENT_TYPE_LATEST.split(";")[0])

    @app.page("/livez")
    async def livez(web: Any, request: Any) -> Any:
        return web.text("ok\n") if worker.health.live else web.text(f"{worker.health.failure}\n", status=503)

    @app.page("/readyz")
    async def readyz(web: Any, request: Any) -> Any:
        if worker.health.ready:
            return web.text("ok\n")
        waiting = ", ".join(worker.health.waiting_for) or "the consumer group"
        return web.text(f"waiting for {waiting}\n", status=503)
