from __future__ import annotations

import asyncio

import pytest

from headrace.pipeline.budget import Budget
from headrace.pipeline.commit import GroupCommit
from headrace.pipeline.errors import FatalError, OutputRefusedError
from headrace.pipeline.flow import Flow, RecordRef
from headrace.pipeline.offsets import OffsetBitmap
from headrace.pipeline.ordering import Completion
from headrace.pipeline.ports import StartPosition
from headrace.pipeline.records import OutputRecord, TopicPartition
from tests.unit.fakes import FakeBroker, FakeSource, FakeTransactions, LoopClock, on_virtual_time, settle

P0 = TopicPartition("requests", 0)


class Bench:
    def __init__(self, max_records: int = 100, linger_seconds: float = 0.0) -> None:
        self.broker = FakeBroker()
        self.budget = Budget(1000, 10**6)
        self.flow = Flow(self.budget, lambda batch: None, 10.0)
        self.source = FakeSource(self.broker, self.budget)
        self.transactions = FakeTransactions(self.broker)
        self.commit = GroupCommit(self.flow, self.transactions, LoopClock(), max_records, linger_seconds=linger_seconds)
        self.running: asyncio.Task[None]

    async def begin(self, records: int) -> None:
        self.running = asyncio.create_task(self.commit.run())
        for _ in range(records):
            self.broker.send(P0, value=b"v")
        await self.source.start(self.flow)
        await self.source.assign(P0)
        self.source.poll()

    def complete(self, *offsets: int) -> None:
        for offset in offsets:
            ref = RecordRef(P0, self.source.generation, offset)
            self.flow.complete(ref, [OutputRecord("results", None, b"%d" % offset)])

    @property
    def sizes(self) -> list[int]:
        return [unit.records for unit in self.transactions.units]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@on_virtual_time
async def test_idle_worker_commits_a_single_record_at_once(bench: Bench) -> None:
    await bench.begin(3)
    began = LoopClock().monotonic()
    bench.complete(0)
    await settle()
    assert bench.sizes == [1]
    assert LoopClock().monotonic() == began
    assert bench.budget.records == 2


@on_virtual_time
async def test_all_that_completes_during_a_commit_goes_into_the_next(bench: Bench) -> None:
    await bench.begin(10)
    bench.transactions.hold()
    bench.complete(0)
    await settle()
    for offset in range(1, 10):
        bench.complete(offset)
        await settle()
    assert bench.transactions.pending is not None
    bench.transactions.let_go()
    await settle()
    assert bench.sizes == [1, 9]
    assert bench.broker.position(P0).offset == 10
    assert bench.budget.records == 0


@on_virtual_time
async def test_unit_is_bounded_and_the_rest_follows_at_once() -> None:
    bench = Bench(max_records=4)
    await bench.begin(10)
    bench.complete(*range(10))
    await settle(50)
    assert bench.sizes == [4, 4, 2]


@on_virtual_time
async def test_flush_returns_at_once_when_nothing_is_ready(bench: Bench) -> None:
    await bench.begin(2)
    async with asyncio.timeout(1):
        await bench.commit.flush()
    assert bench.sizes == []


@on_virtual_time
async def test_flush_waits_for_the_transaction_in_flight_and_what_became_ready(bench: Bench) -> None:
    await bench.begin(4)
    bench.transactions.hold()
    bench.complete(0)
    await settle()
    flushing = asyncio.create_task(bench.commit.flush())
    bench.complete(2, 1)
    await settle()
    assert not flushing.done()
    bench.transactions.let_go()
    await flushing
    assert bench.sizes == [1, 2]
    assert bench.transactions.pending is None


@on_virtual_time
async def test_two_flushes_both_return(bench: Bench) -> None:
    await bench.begin(2)
    bench.transactions.hold()
    bench.complete(0)
    await settle()
    both = asyncio.gather(bench.commit.flush(), bench.commit.flush())
    await settle()
    bench.transactions.let_go()
    async with asyncio.timeout(1):
        await both


@on_virtual_time
async def test_lingering_commits_share_a_transaction_and_a_flush_does_not_wait_for_them() -> None:
    bench = Bench(linger_seconds=0.2)
    await bench.begin(60)
    for offset in range(40):
        bench.complete(offset)
        await asyncio.sleep(0.025)
    assert len(bench.sizes) in (4, 5)
    await asyncio.sleep(1)
    assert sum(bench.sizes) == 40
    began = LoopClock().monotonic()
    bench.complete(40)
    await settle()
    assert sum(bench.sizes) == 40
    await bench.commit.flush()
    assert sum(bench.sizes) == 41
    assert LoopClock().monotonic() == began


@on_virtual_time
async def test_backlog_does_not_linger() -> None:
    bench = Bench(max_records=4, linger_seconds=0.2)
    await bench.begin(10)
    bench.complete(*range(10))
    await asyncio.sleep(0.25)
    assert bench.sizes == [4, 4, 2]


@on_virtual_time
async def test_revoke_commits_what_is_complete_before_it_returns(bench: Bench) -> None:
    await bench.begin(4)
    bench.complete(0, 2)
    await bench.source.revoke()
    assert [output.value for output in bench.broker.outputs] == [b"0", b"2"]
    assert bench.budget.records == 0


@on_virtual_time
async def test_dropped_unit_leaves_the_budget_and_the_next_assignment_commits_it_again(bench: Bench) -> None:
    await bench.begin(3)
    bench.transactions.hold()
    bench.complete(0, 1)
    await settle()
    await bench.source.lose()
    assert bench.budget.records == 2  # those in the transaction
    bench.transactions.let_go()
    await settle()
    assert (bench.broker.outputs, bench.budget.records) == ([], 0)
    await bench.source.assign(P0)
    bench.source.poll()
    bench.complete(0, 1, 2)
    await settle()
    assert [output.value for output in bench.broker.outputs] == [b"0", b"1", b"2"]


@on_virtual_time
async def test_fatal_error_ends_run(bench: Bench) -> None:
    await bench.begin(2)
    bench.transactions.failures.append(FatalError("fenced"))
    bench.complete(0)
    with pytest.raises(FatalError, match="fenced"):
        await bench.running
    assert bench.broker.outputs == []


@on_virtual_time
async def test_revoke_does_not_wait_for_ever_when_commits_have_ended(bench: Bench) -> None:
    await bench.begin(2)
    bench.transactions.failures.append(FatalError("fenced"))
    bench.complete(0)
    await settle()
    began = LoopClock().monotonic()
    await bench.source.revoke()
    assert LoopClock().monotonic() - began == pytest.approx(10.0, abs=0.1)


# --- what a topic refuses -------------------------------------------------------------------------------------------


def two_outputs(name: bytes) -> list[OutputRecord]:
    return [OutputRecord("results", None, name), OutputRecord("twins", None, name)]


@on_virtual_time
async def test_refused_output_makes_a_dead_letter_of_its_record_and_of_no_other(bench: Bench) -> None:
    await bench.begin(4)
    for offset in range(3):

        def letter(place: int, why: str, offset: int = offset) -> Completion:
            return Completion([OutputRecord("dead", None, f"{offset}.{place}: {why}".encode())])

        bench.flow.complete(RecordRef(P0, bench.source.generation, offset), two_outputs(b"%d" % offset), letter)
    bench.transactions.failures.append(OutputRefusedError(3, "too large"))
    await settle()
    assert [each.value for each in bench.broker.outputs] == [b"0", b"0", b"1.1: too large", b"2", b"2"]
    assert [(each.offset, unit.records) for unit in bench.transactions.units for each in unit.offsets][-1] == (3, 3)
    assert bench.budget.records == 1


@on_virtual_time
async def test_dead_letter_that_is_refused_ends_the_worker(bench: Bench) -> None:
    await bench.begin(2)
    bench.transactions.failures.append(OutputRefusedError(0, "too large"))
    bench.complete(0)
    with pytest.raises(FatalError, match="a dead letter cannot be written: too large"):
        await bench.running
    assert bench.broker.outputs == []


@on_virtual_time
async def test_outputs_of_one_transaction_are_bounded_in_bytes(bench: Bench) -> None:
    commit = GroupCommit(bench.flow, bench.transactions, LoopClock(), max_records=100, max_bytes=10)
    await bench.source.start(bench.flow)
    for _ in range(6):
        bench.broker.send(P0, value=b"v")
    await bench.source.assign(P0)
    bench.source.poll()
    for offset, size in enumerate((4, 4, 4, 25, 1, 1)):
        bench.flow.complete(
            RecordRef(P0, bench.source.generation, offset), [OutputRecord("results", None, bytes(size))]
        )
    running = asyncio.create_task(commit.run())
    await settle()
    assert bench.sizes == [2, 1, 1, 2]
    running.cancel()


@on_virtual_time
async def test_what_was_done_before_and_is_skipped_at_the_end_is_committed_without_metadata(bench: Bench) -> None:
    """A transaction of offsets alone: else the group would seem to lag until the next record comes."""
    done = OffsetBitmap(0)
    for offset in (1, 2):
        done.add(offset)
    bench.broker.committed[P0] = StartPosition(0, done.encode(0))
    running = asyncio.create_task(bench.commit.run())
    for _ in range(3):
        bench.broker.send(P0, value=b"v")
    await bench.source.start(bench.flow)
    await bench.source.assign(P0)
    bench.source.poll(1)
    bench.complete(0)
    await settle()
    assert bench.broker.committed[P0].offset == 1
    assert bench.broker.committed[P0].metadata != ""
    bench.source.poll()
    await settle()
    assert bench.broker.committed[P0] == StartPosition(3, "")
    assert bench.sizes == [1, 0]
    assert bench.budget.records == 0
    running.cancel()
