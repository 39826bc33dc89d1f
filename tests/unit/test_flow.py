from __future__ import annotations

import asyncio
import logging

import pytest

from headrace.pipeline.budget import Budget
from headrace.pipeline.commit import GroupCommit
from headrace.pipeline.errors import FatalError
from headrace.pipeline.flow import Flow, RecordRef, Unit
from headrace.pipeline.ports import StartPosition
from headrace.pipeline.records import OutputRecord, RecordBatch, TopicPartition
from tests.unit.fakes import FakeBroker, FakeSource, FakeTransactions, LoopClock, on_virtual_time, settle

P0, P1, P2 = (TopicPartition("requests", number) for number in range(3))
DRAIN_SECONDS = 10.0


class Bench:
    """A flow with a source whose partitions hold ten records of ten bytes each, and a list of what it delivered."""

    def __init__(self) -> None:
        self.broker = FakeBroker()
        for partition in (P0, P1, P2):
            for _ in range(10):
                self.broker.send(partition, key=b"k", value=b"123456789")
        self.budget = Budget(1000, 10**6)
        self.delivered: list[RecordBatch] = []
        self.flow = Flow(self.budget, self.delivered.append, DRAIN_SECONDS)
        self.source = FakeSource(self.broker, self.budget)

    async def begin(self, *partitions: TopicPartition, records: int = 4) -> None:
        await self.source.start(self.flow)
        await self.source.assign(*partitions)
        self.source.poll(records)

    def ref(self, offset: int, partition: TopicPartition = P0) -> RecordRef:
        return RecordRef(partition, self.source.generation, offset)

    def complete(self, offset: int, partition: TopicPartition = P0) -> None:
        self.flow.complete(self.ref(offset, partition), [OutputRecord("results", None, b"%d" % offset)])

    def collect(self, most: int = 100) -> Unit:
        unit = self.flow.collect(most)
        assert unit is not None
        return unit

    def delivered_offsets(self) -> list[int]:
        return [record.provenance.offset for batch in self.delivered for record in batch.records]


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- what is received -----------------------------------------------------------------------------------------------


@on_virtual_time
async def test_first_assignment_joins_even_without_partitions(bench: Bench) -> None:
    before = bench.flow.joined
    await bench.flow.assigned(1, {})
    assert (before, bench.flow.joined) == (False, True)
    assert bench.flow.partitions == frozenset()


@on_virtual_time
async def test_records_done_above_the_committed_offset_are_skipped_and_released(bench: Bench) -> None:
    await bench.begin(P0)
    bench.complete(2)
    unit = bench.collect()
    bench.broker.commit(unit.commit)
    bench.flow.settle(unit, committed=True)
    await bench.source.lose()
    assert bench.budget.records == 0
    bench.delivered.clear()
    await bench.source.assign(P0)
    bench.source.poll()
    assert bench.delivered_offsets() == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    assert (bench.budget.records, bench.budget.size_bytes) == (9, 90)


@on_virtual_time
async def test_batch_of_which_all_is_done_is_not_delivered(bench: Bench) -> None:
    await bench.begin(P0)
    bench.complete(3)
    bench.broker.commit(bench.collect().commit)
    bench.delivered.clear()
    successor = Bench()
    successor.broker.committed = bench.broker.committed
    await successor.begin(P0, records=3)
    successor.delivered.clear()
    successor.source.poll(1)
    assert successor.delivered == []
    assert successor.budget.records == 3


@on_virtual_time
async def test_foreign_metadata_is_told_and_ignored(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.broker.committed[P0] = StartPosition(2, "reset by hand")
    await bench.begin(P0)
    assert bench.delivered_offsets() == [2, 3, 4, 5]
    assert "requests[0]: foreign offset metadata ignored: 'reset by hand'" in caplog.text


@on_virtual_time
async def test_metadata_that_came_along_to_another_offset_skips_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.begin(P0)
    bench.complete(2)
    unit = bench.collect()
    bench.flow.settle(unit, committed=True)
    await bench.source.lose()
    bench.delivered.clear()
    bench.broker.committed[P0] = StartPosition(1, unit.commit.offsets[0].metadata)
    await bench.source.assign(P0)
    bench.source.poll(4)
    assert bench.delivered_offsets() == [1, 2, 3, 4]
    assert "requests[0]: metadata of another offset than 1 ignored: 'h1:0:" in caplog.text


@on_virtual_time
async def test_metadata_of_a_newer_format_is_fatal(bench: Bench) -> None:
    bench.broker.committed[P0] = StartPosition(2, "h9:AAAA")
    with pytest.raises(FatalError, match="run the newer headrace"):
        await bench.begin(P0)


@pytest.mark.parametrize("reassigned", [False, True])
@on_virtual_time
async def test_batch_of_an_older_generation_is_released_and_not_delivered(bench: Bench, reassigned: bool) -> None:
    await bench.begin(P0)
    late = bench.source.fetch(P0, 3)
    assert late is not None
    await bench.source.revoke()
    if reassigned:
        await bench.source.assign(P0)
    bench.delivered.clear()
    assert bench.budget.records == 3
    bench.flow.received([late])
    assert bench.delivered == []
    assert (bench.budget.records, bench.budget.size_bytes) == (0, 0)


@on_virtual_time
async def test_offset_that_comes_twice_is_refused(bench: Bench) -> None:
    """The topic was made anew, say. To go on would double results or wait for ever."""
    await bench.begin(P0)
    bench.source.positions[P0] = 0
    with pytest.raises(ValueError, match="offset 0 consumed again"):
        bench.source.poll()


# --- what is processed ----------------------------------------------------------------------------------------------


@on_virtual_time
async def test_completion_of_an_older_generation_is_ignored(bench: Bench) -> None:
    await bench.begin(P0)
    stale = bench.ref(0)
    await bench.source.lose()
    await bench.source.assign(P0)
    bench.source.poll(2)
    bench.flow.enter(stale, ["lane"])
    bench.flow.complete(stale, [OutputRecord("results", None, b"old")])
    assert bench.flow.collect(100) is None
    assert not bench.flow.wants(P0, stale.generation)
    assert bench.flow.wants(P0, bench.source.generation)


@on_virtual_time
async def test_completion_waits_for_its_lane(bench: Bench) -> None:
    await bench.begin(P0)
    for offset in range(3):
        bench.flow.enter(bench.ref(offset), ["lane"])
    bench.complete(1)
    assert not bench.flow.completed.is_set()
    assert bench.flow.collect(100) is None
    bench.complete(0)
    assert bench.flow.completed.is_set()
    assert [output.value for output in bench.collect().commit.outputs] == [b"0", b"1"]


@on_virtual_time
async def test_collect_gives_offsets_of_exactly_what_is_in_it(bench: Bench) -> None:
    await bench.begin(P0, P1)
    bench.complete(0, P0)
    bench.complete(1, P0)
    bench.complete(0, P1)
    unit = bench.collect().commit
    assert {each.partition: each.offset for each in unit.offsets} == {P0: 2, P1: 1}
    assert (unit.records, len(unit.outputs)) == (3, 3)
    assert bench.flow.collect(100) is None


@on_virtual_time
async def test_collect_is_bounded_and_fair_to_partitions(bench: Bench) -> None:
    """A partition with much to commit does not keep the others out."""
    await bench.begin(P0, P1, P2)
    for partition in (P0, P1, P2):
        for offset in range(4):
            bench.complete(offset, partition)
    first = []
    for _ in range(3):
        unit = bench.collect(2)
        assert unit.commit.records == 2
        first.append(unit.commit.offsets[0].partition)
        bench.flow.settle(unit, committed=True)
    assert sorted(first) == [P0, P1, P2]
    assert bench.collect(100).commit.records == 6


@on_virtual_time
async def test_settled_unit_leaves_the_budget(bench: Bench) -> None:
    await bench.begin(P0)
    bench.complete(0)
    bench.complete(1)
    unit = bench.collect()
    assert bench.budget.records == 4
    bench.flow.settle(unit, committed=True)
    assert (bench.budget.records, bench.budget.size_bytes) == (2, 20)


# --- what is revoked or lost ----------------------------------------------------------------------------------------


@on_virtual_time
async def test_revoke_waits_for_calls_in_flight_then_flushes_then_drops(bench: Bench) -> None:
    steps: list[str] = []

    async def flush() -> None:
        steps.append("flush")
        assert bench.flow.partitions == {P0}

    bench.flow.flush = flush
    await bench.begin(P0)
    assert bench.flow.begin_call(bench.ref(0))
    assert bench.flow.begin_call(bench.ref(1))
    revoking = asyncio.create_task(bench.source.revoke())
    await settle()
    assert not bench.flow.wants(P0, bench.source.generation)
    assert not bench.flow.begin_call(bench.ref(2))
    for offset in (0, 1):
        assert steps == []
        bench.complete(offset)
        bench.flow.end_call(bench.ref(offset))
        await settle()
    assert revoking.done()
    assert steps == ["flush"]
    assert bench.flow.partitions == frozenset()
    assert bench.budget.records == 0


@on_virtual_time
async def test_revoke_gives_up_at_its_deadline(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    await bench.begin(P0)
    bench.flow.begin_call(bench.ref(0))
    began = LoopClock().monotonic()
    await bench.source.revoke()
    assert LoopClock().monotonic() - began == pytest.approx(DRAIN_SECONDS, abs=0.1)
    assert "not drained in 10.0 s" in caplog.text
    assert bench.budget.records == 0
    bench.complete(0)
    bench.flow.end_call(bench.ref(0))
    assert bench.flow.collect(100) is None


@on_virtual_time
async def test_flush_shares_the_deadline_of_the_drain(bench: Bench) -> None:
    bench.flow.flush = asyncio.Event().wait  # type: ignore[assignment] # what it returns is not looked at
    await bench.begin(P0)
    bench.flow.begin_call(bench.ref(0))
    began = LoopClock().monotonic()
    asyncio.get_running_loop().call_later(7.0, bench.flow.end_call, bench.ref(0))
    await bench.source.revoke()
    assert LoopClock().monotonic() - began == pytest.approx(DRAIN_SECONDS, abs=0.1)


@on_virtual_time
async def test_revoke_of_nothing_held_needs_no_flush(bench: Bench) -> None:
    bench.flow.flush = asyncio.Event().wait  # type: ignore[assignment] # would wait for ever
    began = LoopClock().monotonic()
    await bench.flow.revoked(frozenset({P0}))
    assert LoopClock().monotonic() == began


@on_virtual_time
async def test_lost_drops_at_once_although_calls_are_in_flight(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    await bench.begin(P0, P1)
    bench.flow.begin_call(bench.ref(0))
    bench.complete(1)
    began = LoopClock().monotonic()
    await bench.source.lose()
    assert LoopClock().monotonic() == began
    assert (bench.flow.collect(100), bench.budget.records) == (None, 0)
    assert "lost 2 partitions" in caplog.text


@on_virtual_time
async def test_unit_knows_when_its_partitions_are_gone(bench: Bench) -> None:
    await bench.begin(P0)
    bench.complete(0)
    unit = bench.collect()
    assert unit.commit.still_owned()
    await bench.source.lose()
    assert not unit.commit.still_owned()
    bench.flow.settle(unit, committed=False)
    assert bench.budget.records == 0
    await bench.source.assign(P0)
    assert not unit.commit.still_owned()  # the partition is ours again, but not what was consumed of it


@on_virtual_time
async def test_dropped_unit_of_a_partition_that_is_still_ours_is_fatal(bench: Bench) -> None:
    """Its records are taken and would never be seen again."""
    await bench.begin(P0, P1)
    bench.complete(0, P0)
    bench.complete(0, P1)
    unit = bench.collect()
    await bench.flow.lost(frozenset({P0}))
    with pytest.raises(FatalError, match="still assigned"):
        bench.flow.settle(unit, committed=False)


@on_virtual_time
async def test_new_assignment_waits_for_the_transaction_of_the_last(bench: Bench) -> None:
    """Else it could read committed offsets that the transaction is about to change."""
    await bench.begin(P0)
    bench.complete(0)
    unit = bench.collect()
    await bench.source.lose()
    again = asyncio.create_task(bench.source.assign(P0))
    await asyncio.sleep(60)
    assert not again.done()
    bench.broker.commit(unit.commit)
    bench.flow.settle(unit, committed=True)
    await again
    bench.delivered.clear()
    bench.source.poll(1)
    assert bench.delivered_offsets() == [1]


@on_virtual_time
async def test_abandoned_flow_holds_nothing(bench: Bench) -> None:
    await bench.begin(P0, P1)
    bench.complete(0)
    unit = bench.collect()
    bench.flow.abandon()
    assert not unit.commit.still_owned()
    bench.flow.settle(unit, committed=False)
    assert (bench.flow.partitions, bench.budget.records) == (frozenset(), 0)


@on_virtual_time
async def test_assignment_is_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await bench.begin(P0, P1)
    assert "assigned 2 partitions (generation 1)" in caplog.text


# --- some partitions go, others stay (cooperative assignment) ---------------------------------------------------------


@on_virtual_time
async def test_transaction_of_what_goes_and_what_stays_is_waited_for_beyond_the_drain(bench: Bench) -> None:
    transactions = FakeTransactions(bench.broker)
    commit = asyncio.create_task(GroupCommit(bench.flow, transactions, LoopClock(), 100).run())
    await bench.begin(P0, P1)
    transactions.hold()
    for partition in (P0, P1):
        bench.complete(0, partition)
    await settle()
    assert transactions.pending is not None
    assert len(transactions.pending.offsets) == 2
    revoke = asyncio.create_task(bench.flow.revoked(frozenset({P0})))
    await asyncio.sleep(2 * DRAIN_SECONDS)
    assert not revoke.done()
    for partition in (P0, P1):
        bench.complete(1, partition)
    transactions.let_go()
    await revoke
    await settle()
    assert not commit.done()
    assert bench.flow.partitions == {P1}
    assert {each.value for each in bench.broker.outputs} == {b"0", b"1"}
    assert bench.broker.committed[P0].offset == 1, "its second record is left to the next owner"
    assert bench.broker.committed[P1].offset == 2
    commit.cancel()
