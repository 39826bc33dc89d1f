from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any, cast

import pytest

from headrace.pipeline.config import Settings
from headrace.pipeline.errors import FatalError, PoisonError, SlotTakenError
from headrace.pipeline.journey import PartTask
from headrace.pipeline.records import RecordBatch, TopicPartition
from headrace.pipeline.slot import SlotLock
from headrace.pipeline.worker import Connections, Worker
from tests.unit.fake_connections import FakeConnections
from tests.unit.fakes import FakeBroker, FakeSource, LoopClock, on_virtual_time, request_value, settle

P0, P1 = TopicPartition("requests", 0), TopicPartition("requests", 1)


def worker_settings(**worker: Any) -> Settings:
    return Settings.model_validate(
        {
            "name": f"mill-{uuid.uuid4()}",
            "topics": {"requests": ["requests"], "results": "results", "dead_letters": "dead"},
            "routes": [{"name": "text", "model": "echo"}],
            "worker": {"drain_timeout_seconds": 5, **worker},
        }
    )


class Bench:
    """A worker on the fakes, whose processing is hosted by plain calls."""

    def __init__(self, **worker: Any) -> None:
        self.settings = worker_settings(**worker)
        self.broker = FakeBroker()
        self.connections = FakeConnections(self.broker, self.settings)
        self.connections.to_assign = (P0, P1)
        self.worker = Worker(
            self.settings, lambda: cast("Connections", self.connections), LoopClock(), self.route_batch, self._submit
        )
        self.running: asyncio.Task[None]

    async def route_batch(self, batch: RecordBatch) -> None:
        await self.worker.route_batch(batch)

    async def _submit(self, route: str, tasks: list[PartTask]) -> None:
        await self.submit(route, tasks)

    async def submit(self, route: str, tasks: list[PartTask]) -> None:
        await self.worker.submit(route, tasks)

    @property
    def source(self) -> FakeSource:
        assert self.connections.source is not None
        return self.connections.source

    def run(self) -> None:
        self.running = asyncio.create_task(self.worker.run())

    async def begin(self) -> None:
        self.run()
        await self.connections.consuming.wait()
        await settle()

    def send(self, records: int, partition: TopicPartition = P0) -> None:
        for number in range(records):
            self.broker.send(partition, b"k", request_value(number=number))

    @property
    def slot_is_free(self) -> bool:
        lock = SlotLock(f"{self.settings.kafka.bootstrap_servers} {self.settings.name}", 0)
        try:
            lock.acquire()
        except SlotTakenError:
            return False
        lock.release()
        return True

    @property
    def topics(self) -> list[str]:
        return [output.topic for output in self.broker.outputs]


# --- start ----------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_worker_answers_what_it_consumes_and_stops_with_all_committed() -> None:
    bench = Bench()
    bench.send(5, P0)
    bench.send(3, P1)
    bench.broker.send(P1, b"k", b"no event")
    await bench.begin()
    bench.source.poll()
    await asyncio.sleep(1)
    assert sorted(bench.topics) == ["dead"] + ["results"] * 8
    assert {partition: start.offset for partition, start in bench.broker.committed.items()} == {P0: 5, P1: 4}
    held = not bench.slot_is_free
    await bench.worker.stop()
    await bench.running
    assert (held, bench.slot_is_free) == (True, True)
    assert bench.source.stopped
    assert bench.connections.transactions.closed
    assert bench.connections.inference.closed
    assert bench.source.budget.records == 0


@on_virtual_time
async def test_start_waits_for_kafka_then_for_the_registry() -> None:
    bench = Bench()
    bench.connections.down = 5
    bench.connections.registry.down = 5
    bench.run()
    seen = set()
    for _ in range(200):
        seen.add(bench.worker.health.waiting_for)
        await asyncio.sleep(0.05)
    assert {("kafka",), ("registry",)} <= seen
    assert bench.worker.health.live
    assert bench.connections.registry.subjects.keys() == {"requests-value", "results-value", "dead-value"}
    await bench.worker.stop()


async def eventually(condition: Callable[[], bool]) -> None:
    """A probe asks on a thread of its own, which takes time that is not the loop's."""
    async with asyncio.timeout(100):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(1)


@on_virtual_time
async def test_ready_when_joined_and_all_dependencies_answer() -> None:
    bench = Bench()
    await bench.begin()
    await eventually(lambda: bench.worker.health.ready)
    bench.connections.inference.up = False
    bench.connections.answers = False
    await eventually(lambda: set(bench.worker.health.waiting_for) == {"triton", "kafka"})
    await bench.worker.stop()


@on_virtual_time
async def test_slot_that_is_held_ends_the_start_before_anything_is_touched() -> None:
    bench = Bench()
    bench.connections.prepare_failure = FatalError("must not be asked")
    holder = SlotLock(f"{bench.settings.kafka.bootstrap_servers} {bench.settings.name}", 0)
    holder.acquire()
    with pytest.raises(SlotTakenError, match="worker slot 0 is held"):
        await bench.worker.run()
    assert not bench.slot_is_free  # the holder's still
    holder.release()


@pytest.mark.parametrize("phase", ["kafka", "registry", "transactions"])
@on_virtual_time
async def test_failure_while_starting_ends_run_with_it(phase: str) -> None:
    bench = Bench()
    error = FatalError(f"{phase} refused")
    if phase == "kafka":
        bench.connections.prepare_failure = error
    elif phase == "registry":
        bench.connections.registry.failure = error
    else:
        bench.connections.transactions.start_failure = error
    with pytest.raises(FatalError, match=f"{phase} refused"):
        await bench.worker.run()
    assert bench.worker.health.failure is error
    assert bench.slot_is_free


@pytest.mark.parametrize("phase", ["at once", "kafka", "registry", "transactions"])
@on_virtual_time
async def test_stop_while_starting_ends_cleanly(phase: str) -> None:
    bench = Bench()
    if phase == "kafka":
        bench.connections.down = 10**9
    elif phase == "registry":
        bench.connections.registry.down = 10**9
    elif phase == "transactions":
        bench.connections.transactions.hold()
    bench.run()
    await asyncio.sleep(0 if phase == "at once" else 5)
    assert not bench.running.done()
    await bench.worker.stop()
    await bench.running
    assert bench.slot_is_free
    assert bench.worker.health.failure is None
    assert bench.connections.transactions.closed == (phase == "transactions")


# --- what ends it ---------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_failing_source_ends_run_with_its_error() -> None:
    bench = Bench()
    await bench.begin()
    bench.source.fail(SlotTakenError("fenced"))
    with pytest.raises(SlotTakenError, match="fenced"):
        await bench.running
    assert bench.connections.transactions.closed
    assert isinstance(bench.worker.health.failure, SlotTakenError)


@on_virtual_time
async def test_failing_commit_ends_run_leaves_the_group_and_commits_nothing() -> None:
    bench = Bench()
    bench.connections.transactions.failures.append(FatalError("keeps failing"))
    bench.send(3)
    await bench.begin()
    bench.source.poll()
    with pytest.raises(FatalError, match="keeps failing"):
        await bench.running
    assert bench.source.stopped
    assert (bench.broker.outputs, bench.broker.committed) == ([], {})
    assert bench.slot_is_free


@on_virtual_time
async def test_failing_route_ends_run_with_its_error() -> None:
    bench = Bench()
    bench.connections.inference.script = lambda call: FatalError("credentials")
    bench.send(1)
    await bench.begin()
    bench.source.poll()
    with pytest.raises(FatalError, match="credentials"):
        await bench.running
    assert bench.source.stopped
    assert bench.broker.outputs == []


@on_virtual_time
async def test_failing_host_ends_run_with_its_error() -> None:
    bench = Bench()

    async def submit(route: str, tasks: list[PartTask]) -> None:
        raise RuntimeError("the channel is gone")

    bench.submit = submit  # type: ignore[method-assign] # a host that fails
    bench.send(1)
    await bench.begin()
    bench.source.poll()
    with pytest.raises(RuntimeError, match="the channel is gone"):
        await bench.running
    assert bench.broker.outputs == []


@on_virtual_time
async def test_cancelled_run_ends_and_frees_its_slot() -> None:
    bench = Bench()
    await bench.begin()
    bench.running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bench.running
    await settle()
    assert bench.slot_is_free
    assert bench.connections.transactions.closed


# --- stop -----------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_stop_waits_for_calls_in_flight_and_commits_them() -> None:
    bench = Bench()
    bench.connections.inference.latency_seconds = 3
    bench.send(4)
    await bench.begin()
    bench.source.poll()
    await asyncio.sleep(1)
    assert bench.connections.inference.in_flight == 1
    await bench.worker.stop()
    await bench.running
    assert bench.topics.count("results") >= 1
    assert bench.source.budget.records == 0
    assert bench.connections.inference.in_flight == 0


@on_virtual_time
async def test_stop_gives_up_on_slow_calls_after_the_drain_timeout() -> None:
    bench = Bench()
    bench.connections.inference.latency_seconds = 3600
    bench.send(4)
    await bench.begin()
    bench.source.poll()
    await asyncio.sleep(1)
    began = LoopClock().monotonic()
    await bench.worker.stop()
    await bench.running
    assert LoopClock().monotonic() - began == pytest.approx(5.0, abs=0.1)
    assert (bench.broker.outputs, bench.source.budget.records) == ([], 0)


@on_virtual_time
async def test_failure_while_draining_is_not_swallowed() -> None:
    bench = Bench()
    bench.connections.inference.latency_seconds = 2
    bench.send(1)
    await bench.begin()
    bench.source.poll()
    await asyncio.sleep(1)
    bench.connections.transactions.failures.append(FatalError("fenced"))
    await bench.worker.stop()
    with pytest.raises(FatalError, match="fenced"):
        await bench.running
    assert bench.broker.outputs == []


@on_virtual_time
async def test_next_worker_of_the_slot_goes_on_where_the_last_stopped() -> None:
    bench = Bench()
    bench.send(6)
    await bench.begin()
    bench.source.poll(3)
    await asyncio.sleep(1)
    await bench.worker.stop()
    successor = Bench()
    successor.broker.inputs, successor.broker.committed = bench.broker.inputs, bench.broker.committed
    await successor.begin()
    successor.source.poll()
    await asyncio.sleep(1)
    await successor.worker.stop()
    assert (len(bench.broker.outputs), len(successor.broker.outputs)) == (3, 3)


# --- schemas --------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_registry_that_is_down_holds_records_back_until_it_answers() -> None:
    bench = Bench()
    bench.send(2)
    await bench.begin()
    bench.connections.registry.down = 4
    bench.source.poll()
    await asyncio.sleep(0.15)
    assert bench.broker.outputs == []
    assert bench.worker.health.waiting_for == ("registry",)
    await asyncio.sleep(10)
    assert bench.topics == ["results"] * 2
    await bench.worker.stop()


@on_virtual_time
async def test_wait_for_the_registry_ends_with_the_partition() -> None:
    """Else what was fetched for it would stay in memory, and hold up what comes after it."""
    bench = Bench()
    bench.send(2)
    await bench.begin()
    bench.connections.registry.down = 10**9
    batch = bench.source.fetch(P0)
    assert batch
    bench.source.listener.received([batch])
    routing = asyncio.create_task(bench.worker.route_batch(batch))
    await asyncio.sleep(1)
    assert not routing.done()
    await bench.source.lose()
    await asyncio.wait_for(routing, 3)
    await bench.worker.stop()


@on_virtual_time
async def test_schema_that_the_registry_does_not_know_makes_a_dead_letter() -> None:
    bench = Bench()
    bench.broker.send(P0, b"k", b"\0\0\0\0\x63rest")
    await bench.begin()
    bench.source.poll()
    await asyncio.sleep(1)
    assert bench.topics == ["dead"]
    await bench.worker.stop()


@on_virtual_time
async def test_batches_of_revoked_partitions_are_not_opened() -> None:
    bench = Bench()
    bench.send(2)
    await bench.begin()
    bench.connections.registry.failure = FatalError("must not be asked")
    bench.source.poll()
    await bench.source.lose()
    await asyncio.sleep(1)
    assert bench.worker.health.live
    assert bench.source.budget.records == 0
    await bench.worker.stop()


@on_virtual_time
async def test_model_that_refuses_everything_fills_the_dead_letter_topic_in_order() -> None:
    bench = Bench()
    bench.connections.inference.script = lambda call: PoisonError("infer", "BAD_INPUT", "no")
    bench.send(5)
    await bench.begin()
    bench.source.poll()
    await asyncio.sleep(5)
    assert bench.topics == ["dead"] * 5
    await bench.worker.stop()
