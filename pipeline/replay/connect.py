"""The composition root of a replay: settings + plan + connectors → a Faust app that runs until the range is done."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from headrace.connectors.kafka.admin import BrokerProbe, partition_counts
from headrace.connectors.kafka.range_source import RangeSettings, RangeSource
from headrace.connectors.kafka.runs import RunStore
from headrace.connectors.registry import ConfluentRegistry
from headrace.connectors.triton import TritonInferenceClient
from headrace.connectors.video.sampler import ProcessSampler
from headrace.pipeline.agents import InferenceApp, build_app
from headrace.pipeline.budget import Budget
from headrace.pipeline.clock import SystemClock
from headrace.pipeline.config import Settings
from headrace.pipeline.envelope import RequestDecoder
from headrace.pipeline.errors import FatalError, PoisonError, SlotTakenError
from headrace.pipeline.health import Health
from headrace.pipeline.ports import (
    Changelog,
    FrameSampler,
    InferenceClient,
    RecordSource,
    SchemaRegistry,
    StartPosition,
    Transactions,
)
from headrace.pipeline.records import InferenceRequest, SourceRecord
from headrace.pipeline.replay.chosen import Choice, chosen
from headrace.pipeline.replay.counting import CountedTransactions
from headrace.pipeline.replay.manifest import Plan, Progress, Run, RunState
from headrace.pipeline.replay.pacing import Rate, pacing
from headrace.pipeline.replay.rules import ReplayRules
from headrace.pipeline.replay.settings import AS_LIVE, CallLimits, replay_settings
from headrace.pipeline.setup import ContractIds, emitted_kinds, register_contracts

POLL_SECONDS = 0.2
BEHIND_LIVE = 2
"""Priority of a replay's infer calls, where the model has levels: what live asks for goes first."""


def decoding(registry: SchemaRegistry, live: Settings) -> Callable[[SourceRecord], InferenceRequest | None]:
    """What reads a record's request; None for one that is none. Asks the registry for schemas, and so blocks."""
    decoder = RequestDecoder(max_value_bytes=live.topics.max_message_bytes)

    def decode(record: SourceRecord) -> InferenceRequest | None:
        for schema_id in decoder.missing([record.value]):
            decoder.add_schema(schema_id, registry.schema(schema_id))
        try:
            return decoder.decode(record.value)
        except PoisonError:
            return None

    return decode


class ReplayConnections:
    """``worker.Connections`` of one run.

    Args:
        live: the pipeline's settings.
        plan: what the run is to do.
        rate: how fast.
        resume: whether this goes on with what another process began.
    """

    registry: SchemaRegistry
    inference: InferenceClient
    sampler: FrameSampler

    def __init__(self, live: Settings, plan: Plan, rate: Rate, resume: bool) -> None:
        self._live = live
        self._plan = plan
        self._rate = rate
        self._resume = resume
        self.registry = ConfluentRegistry.of(live.registry)
        owner = f"{live.name}/replay/{plan.run}"
        self.inference = TritonInferenceClient.of(live.triton, owner, priority=BEHIND_LIVE)
        self.sampler = ProcessSampler(live.worker.video_decoders)
        self.store = RunStore(live, self.registry)
        self._probe = BrokerProbe(live.kafka.bootstrap_servers, live.kafka.client)
        self.source: RangeSource | None = None
        self.transactions: CountedTransactions | None = None

    def prepare(self) -> Mapping[str, int]:
        kafka, plan = self._live.kafka, self._plan
        own = (plan.results_topic, plan.dead_letters_topic, plan.progress_topic)
        asked = [plan.topic, *own, *emitted_kinds(self._live)]
        counts = partition_counts(kafka.bootstrap_servers, asked, kafka.client)
        if not counts[plan.topic]:
            raise FatalError(f"topic {plan.topic} does not exist at {kafka.bootstrap_servers}")
        if missing := [topic for topic in own if not counts[topic]]:
            raise FatalError(
                f"run {plan.run} has lost its topics ({', '.join(missing)}): remove it, and begin a new one"
            )
        return counts

    def contracts(self) -> ContractIds:
        self.store.register()
        # Under live's subjects: a schema's id is the same for every subject, and runs come and go.
        return register_contracts(self.registry, self._live)

    def kafka_answers(self) -> bool:
        return self._probe.answers()

    def changelog(self) -> Changelog | None:
        return None

    def open(self, budget: Budget, health: Health) -> tuple[RecordSource, Transactions]:
        live, plan, kafka = self._live, self._plan, self._live.kafka
        source = RangeSource(
            RangeSettings(
                bootstrap_servers=kafka.bootstrap_servers,
                topic=plan.topic,
                ranges=plan.ranges,
                max_message_bytes=live.topics.max_message_bytes,
                client=kafka.client,
            ),
            budget,
            self._positions,
            Choice(chosen(plan.filters), decoding(self.registry, live)).takes,
            pacing(self._rate, time.monotonic()),
        )
        self.source = source
        self.transactions = CountedTransactions(
            self.store.transactions(
                plan, lambda down: health.report("kafka", not down, "transactions are not answered")
            ),
            plan,
            self.store.decode_progress,
            self.store.encode_progress,
            self.store.manifest,
            lambda: source.exhausted,
            SystemClock(),
            resume=self._resume,
        )
        return source, self.transactions

    def _positions(self) -> Mapping[int, StartPosition]:
        assert self.transactions is not None
        assert self.transactions.progress is not None  # they are started before the source
        return self.transactions.progress.positions


class Replay:
    """One run, by this process.

    Args:
        live: the pipeline's settings.
        run: must be in the runs topic already.
        rate: how fast.
        limits: of its infer calls.
        resume: whether to go on with what another process began.
    """

    def __init__(
        self,
        live: Settings,
        run: Run,
        rate: Rate = None,
        limits: CallLimits = AS_LIVE,
        *,
        resume: bool = False,
    ) -> None:
        plan = run.plan
        self._run = run
        self._connections: ReplayConnections | None = None
        self._rules = ReplayRules(frozenset(plan.routes), {pin.route: pin for pin in plan.models})
        self._settings = replay_settings(live, plan, limits)
        self._connect = partial(ReplayConnections, live, plan, rate, resume)
        self.waiting_for: tuple[str, ...] = ()
        """What does not answer now."""

    @property
    def progress(self) -> Progress | None:
        """As it is committed; None before it is known."""
        return self._transactions.progress if self._transactions else None

    @property
    def remaining(self) -> int | None:
        """Offsets of the range that are not done; None before it is known."""
        source = self._connections.source if self._connections else None
        return source.remaining if source and self.progress else None

    @property
    def _transactions(self) -> CountedTransactions | None:
        return self._connections.transactions if self._connections else None

    async def perform(self, stop: asyncio.Event, tell: Callable[[], None] = lambda: None) -> Run:
        """Replay until the range is done or ``stop`` is set.

        Args:
            stop: ends it early; the run can be resumed.
            tell: called five times a second.

        Returns:
            The run as it is left.

        Raises:
            FatalError: it cannot go on; what is committed stays, and the run can be resumed.
        """

        def connect() -> ReplayConnections:
            self._connections = self._connect()
            return self._connections

        app = build_app(self._settings, connect, SystemClock(), self._rules)
        failure: BaseException | None = None
        try:
            await app.start()
            await self._wait(app, stop, tell)
            failure = self._transactions.failure if self._transactions else None  # not of what stopping breaks off
        finally:
            await app.stop()
        failure = app.failure or failure or (self._transactions.lost if self._transactions else None)
        if isinstance(failure, SlotTakenError):
            raise FatalError(f"another process of this machine is at run {self._run.plan.run}") from failure
        if failure is not None:
            raise failure if isinstance(failure, FatalError) else FatalError(f"the replay failed: {failure}")
        left = self._transactions.left if self._transactions else None
        return left or replace(self._run, state=RunState.STOPPED)

    async def _wait(self, app: InferenceApp, stop: asyncio.Event, tell: Callable[[], None]) -> None:
        while not (stop.is_set() or app.failure or app.inference.done):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await stop.wait()
            if self._transactions and self._transactions.failure:
                return
            self.waiting_for = tuple(app.inference.health.waiting_for)
            tell()
