"""One worker, without Faust: starts in order, runs until stopped or failed, stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

from headrace.pipeline import metrics
from headrace.pipeline.answers import Answers
from headrace.pipeline.budget import Budget, worker_budget
from headrace.pipeline.commit import GroupCommit
from headrace.pipeline.config import Settings
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.dispatch import Outcome, RouteDispatcher
from headrace.pipeline.duplicates import Duplicates
from headrace.pipeline.envelope import RequestDecoder
from headrace.pipeline.errors import UnavailableError
from headrace.pipeline.flow import Calls, Flow
from headrace.pipeline.health import Health
from headrace.pipeline.journey import PartTask
from headrace.pipeline.ports import (
    Changelog,
    Clock,
    FrameSampler,
    InferenceClient,
    RecordSource,
    SchemaRegistry,
    Transactions,
)
from headrace.pipeline.processor import Processor
from headrace.pipeline.records import RecordBatch, SourceRecord, TopicPartition
from headrace.pipeline.replay.rules import ReplayRules
from headrace.pipeline.retrying import consumed_topics
from headrace.pipeline.setup import ContractIds, shadow_topics
from headrace.pipeline.shadow import Shadows
from headrace.pipeline.slot import SlotLock
from headrace.pipeline.user_code import UserCode

log = logging.getLogger(__name__)

PROBE_SECONDS = 2.0
JOINING_PROBE_SECONDS = 0.1
"""Until the group is joined, which somebody may be waiting for."""
ABANDON_SECONDS = 5.0
MERGED_RECORDS = 256
"""Batches are put together until there are so many: none is inferred before the whole batch is decoded."""
LINGER_SECONDS = 0.2
"""Of a replay's transactions: nobody waits for its answers, and live traffic shares the brokers with it."""
MAX_BACKOFF_SECONDS = 2.0

T = TypeVar("T")


class Connections(Protocol):
    """The outside, as one worker needs it."""

    registry: SchemaRegistry
    inference: InferenceClient
    sampler: FrameSampler

    def prepare(self) -> Mapping[str, int]:
        """Claim the slot in the group, create or check the topics; partition counts by topic. Blocks.

        Raises:
            UnavailableError: Kafka does not answer (worth another try).
            FatalError: the slot is taken, or a topic is not as it must be.
        """

    def contracts(self) -> ContractIds:
        """Register the contracts' schemas, or find them. Blocks.

        Raises:
            UnavailableError: the registry does not answer.
            FatalError: it holds a version that ours is not fully compatible with.
        """

    def kafka_answers(self) -> bool:
        """Whether a broker answers now. Blocks for a second at most; never raises for one that is down."""

    def changelog(self) -> Changelog | None:
        """Of the ids that had results; None if no route has idempotency."""

    def open(self, budget: Budget, health: Health) -> tuple[RecordSource, Transactions]:
        """The consumer and the transactions that commit what it consumes; neither is started."""


class Worker:
    """Consumes, infers and commits.

    Args:
        send_batch, send_tasks: hand work to whoever hosts the processing (Faust's channels), which calls
            ``route_batch`` and ``submit`` with it.
        user_code: what user modules have added.
        rules: of a replay, if this is one.
    """

    def __init__(
        self,
        settings: Settings,
        connect: Callable[[], Connections],
        clock: Clock,
        send_batch: Callable[[RecordBatch], Awaitable[object]],
        send_tasks: Callable[[str, list[PartTask]], Awaitable[object]],
        user_code: UserCode | None = None,
        rules: ReplayRules | None = None,
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._user_code = user_code or UserCode(settings.user_code.timeout_seconds)
        self._connect = connect
        self._clock = clock
        self._send_batch = send_batch
        self._send_tasks = send_tasks
        # Bounded by the budget. One each topic, so that none waits for another's routes.
        self._inboxes: dict[str, asyncio.Queue[RecordBatch]] = {
            topic: asyncio.Queue() for topic in consumed_topics(settings)
        }
        worker = settings.worker
        self._slot = SlotLock(f"{settings.kafka.bootstrap_servers} {settings.name}", worker.slot)
        self._budget = worker_budget(settings, replays=rules is not None)
        self._flow = Flow(self._budget, self._deliver, worker.drain_timeout_seconds, settings.kafka.offset_metadata)
        self._decoder = RequestDecoder(max_value_bytes=settings.topics.max_message_bytes)
        self._holding: set[str] = set()
        self._stop = asyncio.Event()
        self._done = asyncio.Event()
        self.health = Health()

    # --- what the host of the processing calls

    async def route_batch(self, batch: RecordBatch) -> None:
        """Decode, route and admit a record batch, then send each route its share."""

        def wanted() -> bool:
            return self._flow.wants(batch.partition, batch.generation)

        if not wanted():
            return
        for schema_id in self._decoder.missing(record.value for record in batch.records):
            try:
                schema = await self._until_available(
                    "registry",
                    lambda: self._connections.registry.schema(schema_id),  # noqa: B023 - awaited before the next
                    wanted,
                )
            except UnavailableError:
                return  # the partition is gone: waiting on would hold up the batches of those that are ours
            self._decoder.add_schema(schema_id, schema)
        for route, tasks in (await self._processor.open_batch(batch)).items():
            await self._send_tasks(route, tasks)

    async def submit(self, route: str, tasks: list[PartTask]) -> None:
        """Queue a route's tasks for inference."""
        await self._dispatchers[route].submit(tasks)

    # --- life

    async def run(self) -> None:
        """Start, work until ``stop`` is called, drain, and end.

        Raises:
            FatalError: and whatever else makes going on impossible; nothing is committed that was not completed.
        """
        running = asyncio.create_task(self._run(), name="worker")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait([running, stop], return_when=asyncio.FIRST_COMPLETED)
            if not running.done() and not self.health.started:
                running.cancel()
            await running
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
        except BaseException as error:
            self.health.failure = error
            raise
        finally:
            stop.cancel()
            running.cancel()
            self._slot.release()
            self._done.set()

    @property
    def done(self) -> bool:
        """It has ended, by itself or because it was told to."""
        return self._done.is_set()

    async def stop(self) -> None:
        """Drain, commit, leave the group; returns when that is done."""
        self._stop.set()
        await self._done.wait()

    async def _run(self) -> None:
        settings = self._settings
        self._slot.acquire()
        self._connections = connections = self._connect()
        partitions = await self._until_available("kafka", connections.prepare)
        ids = await self._until_available("registry", connections.contracts)
        name = f"{settings.name}-{settings.worker.slot}"
        self._shadows = self._make_shadows(Answers(settings, name, ids, self._clock))
        self._duplicates = self._flow.outcomes = self._make_duplicates(partitions)
        self._processor = Processor(
            settings,
            name,
            self._decoder,
            ids,
            partitions,
            self._flow,
            self._clock,
            self._user_code,
            self._rules,
            self._shadows,
            self._duplicates,
        )
        self._dispatchers = {
            route.name: self._make_dispatcher(
                route, self._flow, self.health, self._processor.finish, partial(self._hold, route)
            )
            for route in settings.routes
        }
        source, transactions = connections.open(self._budget, self.health)
        self._source = source
        commit = GroupCommit(
            self._flow,
            transactions,
            self._clock,
            settings.worker.max_records_per_transaction,
            settings.worker.max_bytes_per_transaction,
            LINGER_SECONDS if self._rules is not None else 0.0,
        )
        try:
            await transactions.start()
            await self._work(connections, source, commit)
        finally:
            await self._processor.close()
            await transactions.close()
            await connections.sampler.close()
            await connections.inference.close()

    def _hold(self, route: RouteSettings, hold: bool) -> None:
        """A route takes no events for now: the lanes that are for it, and no other that does, are not read."""
        (self._holding.add if hold else self._holding.discard)(route.name)
        going = {topic for each in self._settings.routes if each.name not in self._holding for topic in each.topics}
        self._source.hold(self._settings.lanes - going)

    def _make_dispatcher(
        self,
        route: RouteSettings,
        flow: Calls,
        health: Health,
        finish: Outcome,
        on_hold: Callable[[bool], None] = lambda _: None,
    ) -> RouteDispatcher:
        connections = self._connections
        timeout_seconds = route.timeout_seconds or self._settings.triton.timeout_seconds
        return RouteDispatcher(
            route,
            timeout_seconds,
            connections.inference,
            connections.sampler,
            flow,
            health,
            self._clock,
            finish,
            on_hold,
        )

    def _make_shadows(self, answers: Answers) -> Shadows | None:
        """None if no route has one, or this is a replay."""
        if self._rules is not None or not shadow_topics(self._settings):
            return None
        return Shadows(self._settings, answers, self._flow, self._budget, self._clock, self._make_dispatcher)

    def _make_duplicates(self, partitions: Mapping[str, int]) -> Duplicates | None:
        """None if no route has idempotency."""
        changelog = self._connections.changelog()
        if changelog is None:
            return None
        return Duplicates(self._settings, partitions, changelog, self._flow, self._clock)

    async def _resume(self, duplicates: Duplicates) -> None:
        """Send on what was parked, and is no duplicate after all."""
        while True:
            tasks: defaultdict[str, list[PartTask]] = defaultdict(list)
            for task in await duplicates.resumed.get():
                tasks[task.route].append(task)
            for route, some in tasks.items():
                await self._send_tasks(route, some)

    async def _work(self, connections: Connections, source: RecordSource, commit: GroupCommit) -> None:
        background = [
            asyncio.create_task(commit.run(), name="commit"),
            *(asyncio.create_task(self._feed(inbox), name=f"feed {name}") for name, inbox in self._inboxes.items()),
            asyncio.create_task(self._probe(connections), name="probe"),
            *(asyncio.create_task(each.run(), name=f"route {name}") for name, each in self._dispatchers.items()),
        ]
        if self._duplicates is not None:
            background.append(asyncio.create_task(self._resume(self._duplicates), name="resume"))
        feeds = self._shadows.feeds.values() if self._shadows else ()
        shadows = [asyncio.create_task(feed.run(), name="shadow") for feed in feeds]  # whose end is not the worker's
        await source.start(self._flow)
        self.health.started = True
        log.info("worker slot %d of %s is running", self._settings.worker.slot, self._settings.name)
        watch = asyncio.create_task(source.wait_ended(), name="source")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            ended, _ = await asyncio.wait([*background, watch, stop], return_when=asyncio.FIRST_COMPLETED)
            if failed := [each for each in ended if each is not stop and each.exception()]:
                await self._abandon(source)
                failed[0].result()
            log.info("stopping: draining for up to %.1f s", self._settings.worker.drain_timeout_seconds)
            await source.stop()
            await watch
            for each in background:  # what failed while draining
                if each.done():
                    each.result()
        finally:
            for task in (*background, *shadows, watch, stop):
                task.cancel()
            await asyncio.gather(*background, *shadows, watch, stop, return_exceptions=True)

    async def _abandon(self, source: RecordSource) -> None:
        """Something failed: leave the group without draining, so that others take over at once."""
        self._flow.abandon()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ABANDON_SECONDS):
                await source.stop()

    def _deliver(self, batch: RecordBatch) -> None:
        self._inboxes[batch.partition.topic].put_nowait(batch)

    async def _feed(self, inbox: asyncio.Queue[RecordBatch]) -> None:
        """While the router is at work on a batch what comes of a partition becomes one: many small ones cost more."""
        while True:
            waiting = [await inbox.get()]
            records = len(waiting[0].records)
            while records < MERGED_RECORDS and not inbox.empty():
                waiting.append(inbox.get_nowait())
                records += len(waiting[-1].records)
            for batch in merged(waiting):
                if self._flow.wants(batch.partition, batch.generation):
                    await self._send_batch(batch)

    async def _probe(self, connections: Connections) -> None:
        """Keep what /readyz and the gauges tell current, also without traffic."""
        while True:
            self.health.report("triton", await connections.inference.ready())
            self.health.report("kafka", await asyncio.to_thread(connections.kafka_answers))
            self.health.joined = self._flow.joined
            metrics.IN_FLIGHT_RECORDS.set(self._budget.records)
            metrics.IN_FLIGHT_BYTES.set(self._budget.size_bytes)
            await asyncio.sleep(PROBE_SECONDS if self.health.joined else JOINING_PROBE_SECONDS)

    async def _until_available(
        self, dependency: str, call: Callable[[], T], wanted: Callable[[], bool] = lambda: True
    ) -> T:
        """Repeat a blocking call, off the event loop, until the other side answers.

        Raises:
            UnavailableError: it does not answer, and the answer is not wanted any more.
        """
        backoff_seconds = 0.1
        while True:
            try:
                answer = await asyncio.to_thread(call)
            except UnavailableError as error:
                self.health.report(dependency, up=False, detail=str(error))
                if not wanted():
                    raise
                await asyncio.sleep(backoff_seconds)
                backoff_seconds = min(backoff_seconds * 2, MAX_BACKOFF_SECONDS)
            else:
                self.health.report(dependency, up=True)
                return answer


def merged(batches: Sequence[RecordBatch]) -> list[RecordBatch]:
    """The records of each partition and generation in one batch, in their order."""
    if len(batches) == 1:
        return list(batches)
    records: defaultdict[tuple[TopicPartition, int], list[SourceRecord]] = defaultdict(list)
    for batch in batches:
        records[batch.partition, batch.generation] += batch.records
    return [RecordBatch(*key, tuple(some)) for key, some in records.items()]
