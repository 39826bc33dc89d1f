"""Stateful stand-ins for what the core talks to, and a loop whose time is the test's.

What is faked keeps state as the real thing does: partitions with committed offsets, transactions that are visible or
not, a model server that is up or down. `FakeBroker` is checked by itself for what exactly-once means.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

import numpy as np

from headrace.pipeline.budget import Budget
from headrace.pipeline.envelope import encode_request
from headrace.pipeline.errors import PoisonError, UnavailableError
from headrace.pipeline.ports import (
    AssignmentListener,
    CommitUnit,
    InferCall,
    InferReply,
    ModelSignature,
    StartPosition,
    TensorSpec,
)
from headrace.pipeline.records import (
    Headers,
    InferenceRequest,
    Modality,
    OutputRecord,
    Part,
    Provenance,
    RecordBatch,
    SourceRecord,
    TopicPartition,
)

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH_MS = 1_700_000_000_000
REQUEST_SCHEMA, RESULT_SCHEMA, DEAD_LETTER_SCHEMA = 1, 2, 3


# --- time -----------------------------------------------------------------------------------------------------------


class _NoWaiting(selectors.DefaultSelector):
    """Selects what is ready; where the loop would sleep, its time moves on instead, but past no thread of its own."""

    now = 0.0
    under_way = 0
    """Calls that threads do for the loop, and that are not back."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or (timeout and self.under_way):
            return super().select()
        ready = super().select(0)
        if not ready:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which an hour of sleeping takes no time, and no time passes while a thread is at work for it."""

    def __init__(self) -> None:
        self._virtual = _NoWaiting()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        call = super().run_in_executor(executor, func, *args)
        self._virtual.under_way += 1
        call.add_done_callback(self._back)
        return call

    def _back(self, _: asyncio.Future[Any]) -> None:
        self._virtual.under_way -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Of Python 3.12, with a timeout; it has a thread of its own, which would be waited for by virtual time."""
        await super().shutdown_default_executor()


def on_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on a `VirtualLoop`."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


class LoopClock:
    """The running loop's time, in both forms."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def epoch_ms(self) -> int:
        return EPOCH_MS + round(self.monotonic() * 1000)


async def settle(rounds: int = 20) -> None:
    """Let everything that can run now run, without time passing."""
    for _ in range(rounds):
        await asyncio.sleep(0)


# --- Kafka ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class FakeBroker:
    """Input partitions, committed positions, and the outputs that read_committed readers see."""

    inputs: dict[TopicPartition, list[SourceRecord]] = field(default_factory=lambda: defaultdict(list))
    committed: dict[TopicPartition, StartPosition] = field(default_factory=dict)
    outputs: list[OutputRecord] = field(default_factory=list)
    on_commit: Callable[[], None] = lambda: None

    def send(
        self,
        partition: TopicPartition,
        key: bytes | None = None,
        value: bytes | None = b"",
        headers: Headers = (),
        timestamp_ms: int = EPOCH_MS,
    ) -> int:
        offset = len(self.inputs[partition])
        provenance = Provenance(*partition, offset, timestamp_ms)
        self.inputs[partition].append(SourceRecord(provenance, key, value, headers))
        return offset

    def position(self, partition: TopicPartition) -> StartPosition:
        return self.committed.get(partition, StartPosition(None, ""))

    def commit(self, unit: CommitUnit) -> None:
        for each in unit.offsets:
            before = self.position(each.partition).offset or 0
            assert each.offset >= before, f"{each.partition} went back from {before} to {each.offset}"
            self.committed[each.partition] = StartPosition(each.offset, each.metadata)
        self.outputs += unit.outputs
        self.on_commit()


class FakeTransactions:
    """Commits to a `FakeBroker`: at once, or when `hold` is released; or fails with the next of ``failures``."""

    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker
        self.units: list[CommitUnit] = []
        self.failures: deque[Exception] = deque()
        self.start_failure: Exception | None = None
        self.started = self.closed = False
        self.pending: CommitUnit | None = None
        self.fences = True
        """False: a commit begun while its partitions were ours goes through, although they are gone at its end."""
        self._free = asyncio.Event()
        self._free.set()

    def hold(self) -> None:
        self._free.clear()

    def let_go(self) -> None:
        self._free.set()

    async def start(self) -> None:
        await self._free.wait()
        if self.start_failure:
            raise self.start_failure
        self.started = True

    async def commit(self, unit: CommitUnit) -> bool:
        assert self.pending is None, "two transactions at a time"
        if not unit.still_owned():
            return False
        self.pending = unit
        try:
            await asyncio.sleep(0)
            await self._free.wait()
            if self.failures:
                raise self.failures.popleft()
            if self.fences and not unit.still_owned():
                return False
            self.broker.commit(unit)
            self.units.append(unit)
            return True
        finally:
            self.pending = None

    async def close(self) -> None:
        self.closed = True


class FakeSource:
    """A consumer whose rebalances and fetches the test decides."""

    def __init__(self, broker: FakeBroker, budget: Budget) -> None:
        self.broker = broker
        self.budget = budget
        self.generation = 0
        self.positions: dict[TopicPartition, int] = {}
        self.to_assign: tuple[TopicPartition, ...] = ()
        self.held: frozenset[str] = frozenset()
        self.started = self.stopped = False
        self.on_start: Callable[[], None] = lambda: None
        self._listener: AssignmentListener | None = None
        self._ended: asyncio.Future[None] | None = None

    @property
    def listener(self) -> AssignmentListener:
        assert self._listener is not None, "not started"
        return self._listener

    async def start(self, listener: AssignmentListener) -> None:
        self._listener = listener
        self._ended = asyncio.get_running_loop().create_future()
        self.started = True
        if self.to_assign:
            await self.assign(*self.to_assign)
        self.on_start()

    async def wait_ended(self) -> None:
        assert self._ended is not None
        await asyncio.shield(self._ended)

    def hold(self, topics: frozenset[str]) -> None:
        self.held = topics

    async def stop(self) -> None:
        await self.revoke()
        self.stopped = True
        if self._ended and not self._ended.done():
            self._ended.set_result(None)

    def fail(self, error: Exception) -> None:
        assert self._ended is not None
        self._ended.set_exception(error)

    async def assign(self, *partitions: TopicPartition) -> None:
        await self.listener.assigning()
        self.generation += 1
        starts = {partition: self.broker.position(partition) for partition in partitions}
        await self.listener.assigned(self.generation, starts)
        self.positions = {partition: start.offset or 0 for partition, start in starts.items()}

    async def revoke(self) -> None:
        if self.positions:
            partitions = frozenset(self.positions)
            await self.listener.revoked(partitions)
            self.positions = {}

    async def lose(self) -> None:
        partitions, self.positions = frozenset(self.positions), {}
        await self.listener.lost(partitions)

    def fetch(self, partition: TopicPartition, most: int = 100) -> RecordBatch | None:
        """The next records, taken from the budget but not handed over yet: they may be on their way for long."""
        start = self.positions[partition]
        records = tuple(self.broker.inputs[partition][start : start + min(most, self.budget.room_records)])
        if not records:
            return None
        self.positions[partition] = start + len(records)
        self.budget.take(len(records), sum(record.size_bytes for record in records), partition.topic)
        return RecordBatch(partition, self.generation, records)

    def poll(self, most: int = 100) -> int:
        """Fetch from every partition and hand over; how many records that were."""
        wanted = [
            partition
            for partition in self.positions
            if partition.topic not in self.held and not self.budget.crowds_out(partition.topic, paused=False)
        ]
        batches = [batch for partition in wanted if (batch := self.fetch(partition, most))]
        self.listener.received(batches)
        return sum(len(batch.records) for batch in batches)


# --- Triton ---------------------------------------------------------------------------------------------------------

DOUBLE = ModelSignature("double", "1", 8, (TensorSpec("X", "FP32", (-1,)),), (TensorSpec("Y", "FP32", (-1,)),))
TEXT = ModelSignature("echo", "3", 8, (TensorSpec("IN", "BYTES", (1,)),), (TensorSpec("TEXT", "BYTES", (1,)),))


class FakeInference:
    """A model server that answers after ``latency_seconds``, if it is up, unless ``script`` says otherwise.

    ``script`` takes a call and gives the error to answer it with, or None.
    """

    def __init__(self, *models: ModelSignature) -> None:
        self.models = {model.name: model for model in models or (DOUBLE, TEXT)}
        self.up = True
        self.not_ready: set[tuple[str, str]] = set()
        """Models and versions, as they are asked for, that do not answer although the server is up."""
        self.latency_seconds = 0.01
        self.script: Callable[[InferCall], Exception | None] = lambda call: None
        self.calls: list[InferCall] = []
        self.asked: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0
        self.closed = False

    async def ready(self) -> bool:
        return self.up and not self.not_ready

    async def live(self) -> bool:
        return self.up

    async def signature(self, model: str, version: str = "") -> ModelSignature:
        self.asked[model] += 1
        self._answer(model, version)
        if model not in self.models:
            raise PoisonError("infer", "MODEL_NOT_FOUND", f"no model {model}: load it")
        return self.models[model]

    def _answer(self, model: str, version: str) -> None:
        if not self.up:
            raise UnavailableError("Triton is down")
        if (model, version) in self.not_ready:
            raise UnavailableError(f"{model} version {version or 'latest'} is not at ready state")

    async def infer(self, call: InferCall, timeout_seconds: float) -> InferReply:
        self._answer(call.model, call.version)
        self.calls.append(call)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_seconds)
        finally:
            self.in_flight -= 1
        if error := self.script(call):
            raise error
        signature = self.models[call.model]
        if call.inputs.keys() != {spec.name for spec in signature.inputs}:
            raise PoisonError("infer", "INVALID_INPUT", f"{sorted(call.inputs)} are not the inputs of {call.model}")
        rows = call.inputs[signature.inputs[0].name]
        answer = rows * 2 if rows.dtype != np.object_ else rows
        return InferReply(signature.version, {signature.outputs[0].name: answer})

    async def close(self) -> None:
        self.closed = True

    @property
    def batches(self) -> list[int]:
        """How many rows each call had."""
        return [len(next(iter(call.inputs.values()))) for call in self.calls]


# --- events ---------------------------------------------------------------------------------------------------------


def text_part(text: str = "mill", name: str = "text") -> Part:
    return Part(name, Modality.TEXT, "text/plain", text)


def request(*parts: Part, number: int = 0, **fields: Any) -> InferenceRequest:
    event_id = f"00000000-0000-4000-8000-{number:012d}"
    return replace(InferenceRequest(event_id, "note", "/desk", EPOCH_MS, parts or (text_part(),)), **fields)


def request_value(*parts: Part, number: int = 0, **fields: Any) -> bytes:
    return encode_request(request(*parts, number=number, **fields), REQUEST_SCHEMA)
