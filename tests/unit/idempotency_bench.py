"""A worker's insides with idempotency, over a fake broker that outlives them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.budget import Budget
from headrace.pipeline.commit import GroupCommit
from headrace.pipeline.config import Settings
from headrace.pipeline.dispatch import RouteDispatcher
from headrace.pipeline.duplicates import Duplicates
from headrace.pipeline.envelope import RequestDecoder
from headrace.pipeline.errors import OutputRefusedError, PoisonError, RetriableError
from headrace.pipeline.flow import Flow
from headrace.pipeline.health import Health
from headrace.pipeline.ports import CommitUnit, InferCall, InferReply
from headrace.pipeline.processor import Processor
from headrace.pipeline.records import Headers, RecordBatch, TopicPartition
from headrace.pipeline.retrying import RETRY
from headrace.pipeline.setup import ContractIds
from headrace.pipeline.user_code import UserCode
from tests.unit.fake_changelog import FakeChangelog
from tests.unit.fake_sampler import FakeSampler
from tests.unit.fakes import (
    DEAD_LETTER_SCHEMA,
    EPOCH_MS,
    REQUEST_SCHEMA,
    RESULT_SCHEMA,
    FakeBroker,
    FakeInference,
    FakeSource,
    FakeTransactions,
    LoopClock,
    request_value,
    text_part,
)
from tests.unit.processor_bench import P0, TOPICS

SEEN = "mill.seen.requests"
DELAY = "mill.retry.5s"
WINDOW_SECONDS = 10.0
IDS = ContractIds(REQUEST_SCHEMA, RESULT_SCHEMA, DEAD_LETTER_SCHEMA)
DECODER = RequestDecoder()
DECODER.add_schema(REQUEST_SCHEMA, schema_json(Contract.REQUEST))


def settings_with(max_ids: int = 1000, **route: Any) -> Settings:
    """One route with idempotency, and one without, which takes events of the type ``plain``."""
    own = {
        "name": "text",
        "model": "echo",
        "max_concurrency": 16,
        "batch": {"max_records": 1},
        "retries": {"max_attempts": 1, "delays": ["5s"], "jitter": 0},
        "idempotency": {"window_seconds": WINDOW_SECONDS, "max_ids": max_ids},
        **route,
    }
    plain = {**own, "name": "plain", "idempotency": None, "match": {"type": ["plain"]}}
    return Settings.model_validate({"name": "mill", "topics": TOPICS, "routes": [plain, own]})


class Fate(NamedTuple):
    """Of one record: whose event it is, when it was sent and comes, and what becomes of it if it is processed.

    ``outcome`` is ``result``, ``dead`` or ``off`` (put off). The key goes with the event.
    """

    event: int
    sent_seconds: float = 0.0
    comes_seconds: float = 0.0
    takes_seconds: float = 0.0
    outcome: str = "result"

    @property
    def key(self) -> bytes | None:
        return (None, b"a", b"b")[self.event % 3]


class _Fated(FakeInference):
    """Each event's text is the number of its record."""

    def __init__(self, fates: list[Fate]) -> None:
        super().__init__()
        self._fates = fates

    async def infer(self, call: InferCall, timeout_seconds: float) -> InferReply:
        fate = self._fates[int(call.inputs["IN"][0][0])]
        await asyncio.sleep(fate.takes_seconds)
        if fate.outcome == "dead":
            raise PoisonError("infer", "INVALID_INPUT", "no")
        if fate.outcome == "off":
            raise RetriableError("not now")
        return await super().infer(call, timeout_seconds)


class _Transactions(FakeTransactions):
    """Takes its time, and refuses some records of ``results`` once."""

    def __init__(self, broker: FakeBroker, seconds: float, refused: set[bytes]) -> None:
        super().__init__(broker)
        self._seconds = seconds
        self._refused = refused

    async def commit(self, unit: CommitUnit) -> bool:
        for index, output in enumerate(unit.outputs):
            if output.topic == "results" and dict(output.headers)["ce_id"] in self._refused:
                raise OutputRefusedError(index, "too large")
        if self._seconds:
            self.hold()
            asyncio.get_running_loop().call_later(self._seconds, self.let_go)
        return await super().commit(unit)


@dataclass(slots=True)
class World:
    """What outlives a worker: the broker, and what is sent."""

    fates: list[Fate]
    settings: Settings = field(default_factory=settings_with)
    room: int = 1000
    most: int = 100
    commit_seconds: float = 0.0
    refused: frozenset[int] = frozenset()
    """Offsets whose result its topic refuses."""
    broker: FakeBroker = field(default_factory=FakeBroker)

    def send(self, number: int, headers: Headers = (), **fields: Any) -> None:
        fate = self.fates[number]
        value = request_value(text_part(str(number)), number=fate.event, **fields)
        self.broker.send(P0, fate.key, value, headers, timestamp_ms=EPOCH_MS + round(1000 * fate.sent_seconds))

    def outcomes(self) -> dict[int, str]:
        """By offset, in the order of their commits. None has two, and each result's id is remembered with it."""
        found: list[tuple[int, str]] = []
        remembered: Counter[bytes] = Counter()
        for output in self.broker.outputs:
            headers = dict(output.headers)
            if output.topic == SEEN:
                assert output.partition == P0.partition
                remembered[output.key or b""] += 1
            elif output.topic == DELAY:
                found.append((json.loads(headers[RETRY] or b"")["offset"], "off"))
            else:
                name = {"results": "result", "dead": "dead"}[output.topic]
                found.append((int((headers["ce_id"] or b"").rpartition(b"-")[2]), name))
        assert max(Counter(offset for offset, _ in found).values(), default=1) == 1
        results = Counter(self.fates[offset].event for offset, outcome in found if outcome == "result")
        assert remembered.total() == results.total()
        return dict(found)


class Life:
    """One worker, from its start until it stops or crashes."""

    def __init__(self, world: World) -> None:
        self._world = world
        settings = world.settings
        refused = {b"requests-0-%d" % offset for offset in world.refused}
        self.transactions = _Transactions(world.broker, world.commit_seconds, refused)
        self.user_code = UserCode(1.0)
        clock, self._batches = LoopClock(), asyncio.Queue[RecordBatch]()
        self.budget = Budget(world.room, 10**9)
        self.flow = Flow(self.budget, self._batches.put_nowait, 1.0)
        self.source = FakeSource(world.broker, self.budget)
        self.client = _Fated(world.fates)
        self.changelog = FakeChangelog(world.broker, {"requests": SEEN})
        widths = {"results": 1, "dead": 1, SEEN: 1}
        self.duplicates = self.flow.outcomes = Duplicates(settings, widths, self.changelog, self.flow, clock)
        self._processor = Processor(
            *(settings, "mill-0", DECODER, IDS, widths, self.flow, clock, self.user_code), duplicates=self.duplicates
        )
        self._dispatchers = {
            route.name: RouteDispatcher(
                *(route, 30.0, self.client, FakeSampler(), self.flow, Health(), clock, self._processor.finish)
            )
            for route in settings.routes
        }
        self._commit = GroupCommit(self.flow, self.transactions, clock, world.most)
        self._background: list[asyncio.Task[None]] = []

    async def start(self, *more: TopicPartition) -> None:
        """With the partition, and more of them."""
        works = [self._commit.run(), self._process(), self._resume()]
        works += [each.run() for each in self._dispatchers.values()]
        self._background = [asyncio.create_task(work) for work in works]
        await self.source.start(self.flow)
        await self.source.assign(P0, *more)

    async def stop(self) -> None:
        for task in self._background:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def crash(self, committed: bool) -> None:
        """In the middle of a transaction, perhaps: the broker decides whether that was committed."""
        unit = self.transactions.pending
        if committed and unit is not None and unit.still_owned():
            self._world.broker.commit(unit)
        await self.stop()

    async def work_off(self, partition: TopicPartition = P0) -> None:
        """Until all that was sent is committed."""
        broker = self._world.broker
        async with asyncio.timeout(120):
            while (broker.position(partition).offset or 0) < len(broker.inputs[partition]):
                self.source.poll()
                await asyncio.sleep(0.25)

    async def _process(self) -> None:
        while True:
            for route, some in (await self._processor.open_batch(await self._batches.get())).items():
                await self._dispatchers[route].submit(some)

    async def _resume(self) -> None:
        while True:
            for task in await self.duplicates.resumed.get():
                await self._dispatchers[task.route].submit([task])
