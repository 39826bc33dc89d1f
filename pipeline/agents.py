"""Faust hosts the processing: a router agent per topic and an inference agent per route, on bounded channels.

Only Faust's public API is used. Its own Kafka machinery is off, for its exactly-once is not transactional (see
docs/decisions/006-faust-hosts-the-processing.md): ``Worker`` consumes and commits. An agent's event is a record batch
or a list of tasks, so that Faust's cost per event is paid once per fetch.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import faust
from faust.app import BootStrategy
from faust.types import AgentT, ChannelT
from mode import Service
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from headrace.pipeline.config import Settings
from headrace.pipeline.errors import ConfigError, FatalError
from headrace.pipeline.journey import PartTask
from headrace.pipeline.metrics import registry
from headrace.pipeline.ports import Clock
from headrace.pipeline.records import RecordBatch
from headrace.pipeline.replay.rules import ReplayRules
from headrace.pipeline.retrying import consumed_topics
from headrace.pipeline.user_agents import AgentFunction, Handed, host
from headrace.pipeline.user_code import AfterHook, BeforeHook, Record, UserCode
from headrace.pipeline.user_modules import load_modules
from headrace.pipeline.worker import Connections, Worker

log = logging.getLogger(__name__)


class _Boot(BootStrategy):
    enable_kafka = False
    enable_kafka_consumer = False
    enable_kafka_producer = False


class _NotSent(faust.Topic):
    """Faust's topics, without the way around the transaction."""

    async def send(self, **_: Any) -> Any:
        raise _not_sent(self)

    def send_soon(self, **_: Any) -> Any:
        raise _not_sent(self)

    async def publish_message(self, *_: Any, **__: Any) -> Any:
        raise _not_sent(self)


def _not_sent(topic: faust.Topic) -> RuntimeError:
    return RuntimeError(
        f"{topic.get_topic_name()} is not sent to: that would be outside the record's transaction. "
        "Emit through the record, record.emit(topic, value), or send with headrace.EventProducer if it is of no record"
    )


@dataclass(frozen=True, slots=True)
class Results:
    """The answered events of some routes: what an agent can be made for (see ``InferenceApp.results``)."""

    routes: tuple[str, ...]


class InferenceApp(faust.App):
    """A Faust application whose agents run the inference journey.

    A user's module adds to it in ``setup(app)``: hooks before and after inference, agents over results, and timers,
    tasks and pages as to any Faust app. Agents on Kafka topics and tables are refused: Faust's own Kafka is off.
    """

    BootStrategy = _Boot
    mundane_level = "debug"
    inference: Worker
    failure: BaseException | None = None
    user_code: UserCode
    settings: Settings

    def before(self, hook: BeforeHook) -> BeforeHook:
        """Decorator: ``hook(record)`` runs on each event before it is routed, and may return a changed request."""
        self.user_code.before.append(hook)
        return hook

    def after(self, *routes: str) -> Callable[[AfterHook], AfterHook]:
        """Decorator: ``hook(record)`` runs on each answered event, and may return a changed result.

        Args:
            routes: those of the event's first part; all, if none is given.

        Raises:
            ConfigError: there is no such route.
        """
        if not all(isinstance(route, str) for route in routes):
            raise ConfigError("app.after takes names of routes: write @app.after() for all")
        named = self._routes(routes)

        def add(hook: AfterHook) -> AfterHook:
            for route in named:
                self.user_code.after[route].append(hook)
            return hook

        return add

    def results(self, *routes: str) -> Results:
        """The answered events of these routes (all, if none is given), for ``app.agent``.

        Raises:
            ConfigError: there is no such route.
        """
        return Results(self._routes(routes))

    def agent(
        self, channel: Any = None, *, concurrency: int = 1, **options: Any
    ) -> Callable[[Callable[[Any], Any]], AgentT[Any]]:
        """Decorator for an agent over ``app.results(...)``, or, as Faust's own, over an ``app.channel()``.

        An agent over results is ``async def agent(records)`` with ``async for record in records``. An event's result is
        committed when every agent of its route has asked for the next record; what the agent raises makes a dead
        letter of the record it has.

        Args:
            channel: what it is for.
            concurrency: records that it works on at a time.
            options: Faust's.

        Raises:
            ConfigError: it is for a Kafka topic, or yields.
        """
        if isinstance(channel, Results):
            return self._results_agent(channel, concurrency, options)
        if not isinstance(channel, ChannelT) or isinstance(channel, faust.Topic):
            raise ConfigError(
                "an agent is for app.results(...) or an app.channel(): Kafka topics are consumed by headrace alone "
                "(topics.requests)"
            )
        add: Callable[[Callable[[Any], Any]], AgentT[Any]] = super().agent(channel, concurrency=concurrency, **options)
        return add

    def _results_agent(
        self, results: Results, hands: int, options: dict[str, Any]
    ) -> Callable[[AgentFunction], AgentT[Any]]:
        channel: Any = self.channel(maxsize=self.settings.worker.max_in_flight_records + 1)
        timeout_seconds = self.user_code.timeout_seconds

        async def call(record: Record) -> None:
            handed = Handed(record, asyncio.get_running_loop().create_future())
            await channel.put(handed)
            await handed.done

        if hands < 1:
            raise ConfigError(f"concurrency is {hands}: it is the number of records at a time, 1 or more")

        def add(function: AgentFunction) -> AgentT[Any]:
            if inspect.isasyncgenfunction(function):
                raise ConfigError(f"agent {function.__qualname__} yields: one over results emits through its records")
            if not inspect.iscoroutinefunction(function):
                raise ConfigError(f"agent {function!r} must be a coroutine function, async def")

            @functools.wraps(function)
            async def hosted(stream: AsyncIterable[Handed]) -> None:
                try:
                    await host(function, stream, hands, timeout_seconds)
                except* Exception as errors:
                    await self.fail(errors.exceptions[0])
                    raise

            for route in results.routes:
                self.user_code.agents[route].append(call)
            agents = set(self.agents)
            agent: AgentT[Any] = super(InferenceApp, self).agent(channel, **options)(hosted)
            if agent.name in agents:  # it has taken the other's place, whose records nobody would take
                name = function.__name__
                raise ConfigError(
                    f"there is an agent {name} already: give each a name of its own, app.agent(..., name=...)"
                )
            return agent

        return add

    def _routes(self, names: tuple[str, ...]) -> tuple[str, ...]:
        known = tuple(route.name for route in self.settings.routes)
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"there is no route {', '.join(unknown)}; routes: {', '.join(known)}")
        return tuple(dict.fromkeys(names)) or known

    def _no_table(self, name: str, *_: Any, **__: Any) -> Any:
        raise ConfigError(f"table {name}: tables are not kept, for their changelog would be outside the transaction")

    Table = GlobalTable = SetTable = SetGlobalTable = _no_table

    async def on_first_start(self) -> None:
        """Make no data folder in the working directory: it would hold tables' files, and there are no tables."""

    async def fail(self, error: BaseException) -> None:
        """End the process: nothing may be lost in silence, and a supervisor starts it afresh."""
        log.critical("%s", error, exc_info=None if isinstance(error, FatalError) else error)
        await self.crash(error)

    async def crash(self, reason: BaseException) -> None:
        """What Faust calls for what fails in it, a user's timer for instance."""
        self.failure = self.failure or reason
        await super().crash(reason)


def build_app(
    settings: Settings, connect: Callable[[], Connections], clock: Clock, rules: ReplayRules | None = None
) -> InferenceApp:
    """The Faust application of one worker, or, with ``rules``, of a replay, which serves no pages.

    Raises:
        ConfigError: a user's module cannot be loaded.
    """
    worker_settings = settings.worker
    app = InferenceApp(
        settings.name,
        broker="kafka://",  # never connected to
        store="memory://",
        topic_disable_leader=True,
        web_host=worker_settings.http_host,
        web_bind=worker_settings.http_host,
        web_port=worker_settings.http_port,
        web_enabled=rules is None,
        stream_wait_empty=False,
        Topic=_NotSent,
    )
    app.settings = settings
    app.user_code = UserCode(settings.user_code.timeout_seconds)
    # No channel can fill before the budget of records in flight is spent: so a slow route holds up the source in the
    # end, but never a router, and with it the other routes. Each topic has its own, so none waits for another's.
    bound = worker_settings.max_in_flight_records + 1
    # Any: a channel's values need not be events, whatever its type says
    # Of a batch alone: what comes meanwhile waits in the worker, where it is put together.
    batches: dict[str, Any] = {topic: app.channel(maxsize=1) for topic in consumed_topics(settings)}
    tasks: dict[str, Any] = {route.name: app.channel(maxsize=bound) for route in settings.routes}

    async def send_batch(batch: RecordBatch) -> None:
        await batches[batch.partition.topic].put(batch)

    async def send_tasks(route: str, some: list[PartTask]) -> None:
        await tasks[route].put(some)

    worker = app.inference = Worker(settings, connect, clock, send_batch, send_tasks, app.user_code, rules)

    async def route_batches(stream: AsyncIterable[RecordBatch]) -> None:
        await _consume(app, stream, worker.route_batch)

    for topic, channel in batches.items():
        app.agent(channel, name=f"router.{topic}")(route_batches)
    for route in settings.routes:
        app.agent(tasks[route.name], name=f"inference.{route.name}")(_inference_agent(app, worker, route.name))
    app.service(_worker_service(app, worker))
    _add_pages(app, worker)
    load_modules(settings.user_code, app)
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
