"""Whatever live and shadow calls do, and whenever partitions go, each event has one outcome and at most one shadow."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.pipeline.answers import Answers
from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.budget import Budget
from headrace.pipeline.commit import GroupCommit
from headrace.pipeline.config import Settings
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.dispatch import Outcome, RouteDispatcher
from headrace.pipeline.envelope import RequestDecoder
from headrace.pipeline.errors import OutputRefusedError, PoisonError
from headrace.pipeline.flow import Calls, Flow
from headrace.pipeline.health import Health
from headrace.pipeline.ports import CommitUnit, InferCall, InferReply
from headrace.pipeline.processor import Processor
from headrace.pipeline.records import RecordBatch
from headrace.pipeline.setup import ContractIds
from headrace.pipeline.shadow import Shadows
from headrace.pipeline.turns import TURN_SECONDS
from headrace.pipeline.user_code import UserCode
from tests.unit.fake_sampler import FakeSampler
from tests.unit.fakes import (
    DEAD_LETTER_SCHEMA,
    REQUEST_SCHEMA,
    RESULT_SCHEMA,
    FakeBroker,
    FakeInference,
    FakeSource,
    FakeTransactions,
    LoopClock,
    VirtualLoop,
    on_virtual_time,
    request_value,
    settle,
    text_part,
)
from tests.unit.shadow_bench import P0, TOPICS, counted
from tests.unit.strategies import examples

SETTINGS = Settings.model_validate(
    {
        "name": "mill",
        "topics": TOPICS,
        "routes": [
            {
                "name": "text",
                "model": "echo",
                "max_concurrency": 16,
                "batch": {"max_records": 1},
                "shadow": {"version": "2", "max_concurrency": 16},
            }
        ],
    }
)
IDS = ContractIds(REQUEST_SCHEMA, RESULT_SCHEMA, DEAD_LETTER_SCHEMA)
DECODER = RequestDecoder()
DECODER.add_schema(REQUEST_SCHEMA, schema_json(Contract.REQUEST))


class Fate(NamedTuple):
    """Of one event: when it comes, how long live and shadow take, and which of them fail."""

    comes_seconds: float
    live_seconds: float
    shadow_seconds: float
    live_fails: bool
    shadow_fails: bool
    key: bytes | None


class SlowMachine(LoopClock):
    """Each record's opening is a turn of its own on the event loop."""

    def __init__(self) -> None:
        self._looks = 0

    def monotonic(self) -> float:
        self._looks += 1
        return super().monotonic() + self._looks * TURN_SECONDS


class Fated(FakeInference):
    """Each event's text is its number."""

    def __init__(self, fates: list[Fate]) -> None:
        super().__init__()
        self._fates = fates

    async def infer(self, call: InferCall, timeout_seconds: float) -> InferReply:
        fate = self._fates[int(call.inputs["IN"][0][0])]
        await asyncio.sleep(fate.shadow_seconds if call.version else fate.live_seconds)
        if fate.shadow_fails if call.version else fate.live_fails:
            raise PoisonError("infer", "INVALID_INPUT", "no")
        return await super().infer(call, timeout_seconds)


class Refusing(FakeTransactions):
    """Refuses the first record of a topic."""

    def __init__(self, broker: FakeBroker, topic: str | None) -> None:
        super().__init__(broker)
        self._topic = topic

    async def commit(self, unit: CommitUnit) -> bool:
        topics = [output.topic for output in unit.outputs]
        if self._topic in topics:
            index, self._topic = topics.index(self._topic), None
            raise OutputRefusedError(index, "too large")
        return await super().commit(unit)


class Life:
    """A worker's insides, without its threads and locks."""

    def __init__(self, fates: list[Fate], refused: str | None, turns: LoopClock | None = None) -> None:
        """``turns`` is the clock by which records are opened."""
        self._fates = fates
        self.broker = FakeBroker()
        self.transactions = Refusing(self.broker, refused)
        clock, budget, self._batches = LoopClock(), Budget(1000, 10**9), asyncio.Queue[RecordBatch]()
        self.flow = Flow(budget, self._batches.put_nowait, 1.0)
        self.source = FakeSource(self.broker, budget)
        self.client = Fated(fates)
        self._background: list[asyncio.Task[None]] = []

        def dispatcher(route: RouteSettings, flow: Calls, health: Health, finish: Outcome) -> RouteDispatcher:
            return RouteDispatcher(route, 30.0, self.client, FakeSampler(), flow, health, clock, finish)

        answers = Answers(SETTINGS, "mill-0", IDS, clock)
        self._shadows = Shadows(SETTINGS, answers, self.flow, budget, clock, dispatcher)
        self._processor = Processor(
            SETTINGS,
            "mill-0",
            DECODER,
            IDS,
            {"results": 1, "dead": 1, "shadow": 1},
            self.flow,
            turns or clock,
            UserCode(1.0),
            shadows=self._shadows,
        )
        self._dispatcher = dispatcher(SETTINGS.routes[0], self.flow, Health(), self._processor.finish)
        self._commit = GroupCommit(self.flow, self.transactions, clock, 100)

    async def start(self) -> None:
        feeds = [feed.run() for feed in self._shadows.feeds.values()]
        works = [self._commit.run(), self._dispatcher.run(), self._process(), *feeds]
        self._background = [asyncio.create_task(work) for work in works]
        await self.source.start(self.flow)
        await self.source.assign(P0)

    async def stop(self) -> None:
        for task in self._background:
            assert not task.done()
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def send(self, number: int) -> None:
        self.broker.send(P0, self._fates[number].key, request_value(text_part(str(number)), number=number))

    async def run(self, leaves: list[tuple[float, bool]]) -> None:
        """Until all is committed, losing (or being revoked of) the partition after each of these seconds."""
        await self.start()
        arriving = asyncio.create_task(self._arrive())
        for seconds, lost in leaves:
            await asyncio.sleep(seconds)
            await (self.source.lose() if lost else self.source.revoke())
            await self.source.assign(P0)
        await arriving
        async with asyncio.timeout(60):
            while (self.broker.position(P0).offset or 0) < len(self._fates):
                self.source.poll()
                await asyncio.sleep(0.5)
        await self.stop()

    async def _arrive(self) -> None:
        for number, fate in enumerate(self._fates):
            await asyncio.sleep(fate.comes_seconds)
            self.send(number)
            if self.source.positions:
                self.source.poll()

    async def _process(self) -> None:
        while True:
            tasks = await self._processor.open_batch(await self._batches.get())
            for some in tasks.values():
                await self._dispatcher.submit(some)


seconds = st.sampled_from([0.0, 0.01, 0.3, 0.9, 1.1, 4.0])
fates = st.builds(
    Fate,
    st.sampled_from([0.0, 0.2]),
    seconds,
    seconds,
    *[st.integers(0, 5).map(lambda dice: dice == 0)] * 2,
    st.sampled_from([None, b"a", b"b"]),
)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(fates, min_size=1, max_size=12),
    st.lists(st.tuples(seconds, st.booleans()), max_size=3),
    st.sampled_from([None, "results", "shadow"]),
)
def test_each_event_has_one_outcome_and_at_most_one_shadow_with_it(
    some: list[Fate], leaves: list[tuple[float, bool]], refused: str | None
) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:

        async def live() -> Life:
            life = Life(some, refused)
            await life.run(leaves)
            return life

        life = runner.run(live())
    outcomes: Counter[int] = Counter()
    shadows: Counter[int] = Counter()
    for unit in life.transactions.units:
        answered = set()
        for output in unit.outputs:
            offset = int((dict(output.headers)["ce_id"] or b"").rpartition(b"-")[2])
            (shadows if output.topic == "shadow" else outcomes)[offset] += 1
            answered |= {offset} if output.topic == "results" else set()
            if output.topic == "shadow":
                assert offset in answered, "together with its result"
    assert outcomes == Counter(range(len(some)))
    assert set(shadows.values()) <= {1}
    whole = {number for number, fate in enumerate(some) if not fate.live_fails and not fate.shadow_fails}
    late = {number for number, fate in enumerate(some) if fate.shadow_seconds - fate.live_seconds > 1.05}
    assert shadows.keys() <= whole
    if len(some) == 1:  # with others an event may wait for its own call, and its shadow has so much more time
        assert not shadows.keys() & late
    if not late and not leaves and refused is None:
        assert shadows.keys() == whole


@on_virtual_time
async def test_event_opened_when_its_partition_has_gone_is_asked_of_no_candidate() -> None:
    """No later event would end its shadow, which would then be kept for as long as the worker lives."""
    events = 20
    life, before = Life([Fate(0.0, 0.01, 0.01, False, False, None)] * events, None, SlowMachine()), counted()
    await life.start()
    for number in range(events):
        life.send(number)
    life.source.poll()
    await settle(events + events // 2)  # decoded, and half of them opened
    await life.source.lose()
    begun = counted()["dropped"] - before["dropped"]
    assert 0 < begun < events
    await asyncio.sleep(1)
    asked = {int(call.inputs["IN"][0][0]) for call in life.client.calls if call.version}
    assert asked <= set(range(begun))
    await life.stop()
