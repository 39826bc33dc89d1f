"""The group consumer with cooperative assignment: what goes, what stays, and in which generation it is committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from headrace.connectors.kafka import consumer
from headrace.pipeline.commit import GroupCommit
from headrace.pipeline.config import Assignment
from headrace.pipeline.errors import FatalError
from headrace.pipeline.flow import RecordRef
from headrace.pipeline.ports import CommitUnit
from headrace.pipeline.records import OutputRecord, TopicPartition
from tests.unit.fake_group_client import ROOM, TOPIC, Bench, ours, wait_until
from tests.unit.fakes import LoopClock

P0, P1 = (TopicPartition(TOPIC, number) for number in (0, 1))
MUCH_ROOM = 10_000


class CommittingBench(Bench):
    """With transactions that the broker refuses unless they carry the metadata of the group's generation now."""

    def __init__(self, room: int = MUCH_ROOM) -> None:
        super().__init__(Assignment.COOPERATIVE_STICKY, room)
        self.committed: list[TopicPartition] = []
        self.refused = 0
        self.pending = False
        """Whether a transaction is open."""
        self.free = asyncio.Event()
        self.free.set()
        self._commit = GroupCommit(self.flow, self, LoopClock(), 100)

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def commit(self, unit: CommitUnit) -> bool:
        """As the transaction engine does: again with fresh metadata while the partitions are ours."""
        refresh, self.pending = False, True
        while unit.still_owned():
            await self.free.wait()
            metadata = await asyncio.to_thread(self.consumer.group_metadata, refresh)
            if metadata == self.client.generation and unit.still_owned():
                self.committed += [each.partition for each in unit.offsets]
                self.client.history.append(("commit", tuple(each.partition.partition for each in unit.offsets)))
                self.pending = False
                return True
            self.refused += 1
            refresh = True
            await asyncio.sleep(0.01)
        self.pending = False
        return False

    async def __aenter__(self) -> CommittingBench:
        self._committing = asyncio.create_task(self._commit.run())
        await self.consumer.start(self.flow)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.free.set()
        await self.consumer.stop()
        self._committing.cancel()

    async def assigned(self, *partitions: int) -> None:
        """Partitions with three records in flight in each."""
        self.client.available.update(dict.fromkeys(partitions, 3))
        self.client.tell("on_assign", *partitions)
        await wait_until(lambda: all(len(self.records_of(each)) == 3 for each in partitions))

    def complete(self, partition: TopicPartition, offset: int = 0) -> None:
        (generation, *_) = (generation for generation, at in self.records_of(partition.partition) if at == offset)
        self.flow.complete(RecordRef(partition, generation, offset), [OutputRecord("results", None, b"")])


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no room before the test makes some."""
    monkeypatch.setattr(consumer, "ROOM_WAIT_SECONDS", 0.01)


@pytest.fixture
async def bench() -> AsyncIterator[CommittingBench]:
    """Two partitions, each with three records in flight."""
    bench = CommittingBench()
    async with bench:
        await bench.assigned(0, 1)
        yield bench


async def test_strategy_is_the_cooperative_one(bench: CommittingBench) -> None:
    assert bench.config["partition.assignment.strategy"] == "cooperative-sticky"


async def test_fetching_of_what_stays_is_woken_after_each_step(bench: CommittingBench) -> None:
    """The client pauses it for the callback, and its fetching threads would sleep on."""
    bench.client.tell("on_revoke", 0)
    await wait_until(lambda: bench.client.history[-2:] == [("unassign", (0,)), ("woken", (1,))])
    bench.client.tell("on_assign")
    await wait_until(lambda: bench.client.history[-2:] == [("assign", ()), ("woken", (1,))])


async def test_partition_that_stays_is_neither_drained_nor_dropped(bench: CommittingBench) -> None:
    ref = RecordRef(P1, 1, 0)
    assert bench.flow.begin_call(ref)  # a drain would wait for it
    bench.client.tell("on_revoke", 0)
    await wait_until(lambda: bench.client.changes[-1] == ("unassign", (0,)))
    assert bench.flow.partitions == ours(1)
    assert bench.flow.wants(P1, 1)
    assert bench.budget.records == len(bench.records_of(1))
    bench.flow.end_call(ref)
    bench.complete(P1)
    await wait_until(lambda: bench.committed == [P1])


async def test_added_partition_has_a_generation_of_its_own(bench: CommittingBench) -> None:
    await bench.assigned(2)
    bench.client.available[1] = 2
    await wait_until(lambda: len(bench.records_of(1)) == 5)
    assert bench.records_of(2) == [(2, 0), (2, 1), (2, 2)]
    assert bench.records_of(1) == [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]


async def test_partition_that_comes_back_starts_anew(bench: CommittingBench) -> None:
    bench.client.tell("on_revoke", 0)
    await wait_until(lambda: bench.flow.partitions == ours(1))
    bench.delivered.clear()
    await bench.assigned(0)
    assert bench.records_of(0) == [(2, 0), (2, 1), (2, 2)]


async def test_record_polled_before_its_partition_went_inside_consume_is_dropped(bench: CommittingBench) -> None:
    bench.client.news_in_consume.append(("on_revoke", (0,)))
    bench.client.available[0] = 1
    await wait_until(lambda: bench.client.changes[-1] == ("unassign", (0,)))
    bench.client.available[1] = 1
    await wait_until(lambda: len(bench.records_of(1)) == 4)
    assert len(bench.records_of(0)) == 3
    assert bench.budget.records == 4


async def test_record_polled_before_another_partition_went_inside_consume_is_kept(bench: CommittingBench) -> None:
    """It would not come again."""
    bench.client.news_in_consume.append(("on_revoke", (0,)))
    bench.client.available[1] = 1
    await wait_until(lambda: bench.client.changes[-1] == ("unassign", (0,)))
    await wait_until(lambda: len(bench.records_of(1)) == 4)
    assert bench.records_of(1)[-1] == (1, 3)


async def test_lost_means_all(bench: CommittingBench) -> None:
    bench.client.tell("on_lost", 0, 1)
    await wait_until(lambda: bench.client.changes[-1] == ("unassign", (0, 1)))
    assert bench.budget.records == 0
    bench.complete(P0)
    bench.delivered.clear()
    await bench.assigned(0, 1)
    assert {generation for generation, _ in bench.records_of(0)} == {2}
    assert bench.committed == []


async def test_everything_is_given_up_at_the_end(bench: CommittingBench) -> None:
    bench.complete(P1)
    await bench.consumer.stop()
    await bench.consumer.wait_ended()
    assert bench.client.changes[-1] == ("unassign", (0, 1))
    assert bench.client.closed_as is None
    assert bench.committed == [P1]


# --- pausing --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def full() -> AsyncIterator[CommittingBench]:
    """One partition that has taken all the room, so that it is paused."""
    bench = CommittingBench(ROOM)
    async with bench:
        bench.client.tell("on_assign", 0)
        await wait_until(lambda: bench.client.paused == {0})
        yield bench


async def test_partition_added_without_room_is_paused_too(full: CommittingBench) -> None:
    full.client.tell("on_assign", 1)
    await wait_until(lambda: full.flow.partitions == ours(0, 1))
    await wait_until(lambda: full.client.paused == {0, 1})
    assert full.budget.records == ROOM
    assert full.records_of(1) == []
    full.client.available[0] = 0
    for offset in range(ROOM):
        full.complete(P0, offset)
    await wait_until(lambda: full.records_of(1))
    assert {generation for generation, _ in full.records_of(1)} == {2}


async def test_partition_that_stays_is_still_paused_when_another_goes(full: CommittingBench) -> None:
    full.client.tell("on_assign", 1)
    await wait_until(lambda: full.client.paused == {0, 1})
    full.client.tell("on_revoke", 1)
    await wait_until(lambda: full.client.changes[-1] == ("unassign", (1,)))
    assert full.client.paused == {0}
    assert full.budget.records == ROOM
    full.client.available[0] = 0
    full.client.tell("on_assign", 1)
    for offset in range(ROOM):
        full.complete(P0, offset)
    await wait_until(lambda: full.records_of(1))


# --- group metadata -------------------------------------------------------------------------------------------------


async def test_what_is_drained_is_committed_in_the_generation_that_the_group_is_in(bench: CommittingBench) -> None:
    """The group has begun it before the partition is revoked, and nobody else has the thread to ask."""
    ref = RecordRef(P0, 1, 0)
    assert bench.flow.begin_call(ref)
    bench.client.generation = 2
    bench.client.tell("on_revoke", 0)
    await wait_until(lambda: not bench.flow.wants(P0, 1))
    bench.complete(P0)
    bench.flow.end_call(ref)
    await wait_until(lambda: bench.client.changes[-1] == ("unassign", (0,)))
    assert (bench.committed, bench.refused) == ([P0], 0)


async def test_generation_that_changes_during_a_drain_holds_up_nothing(bench: CommittingBench) -> None:
    ref = RecordRef(P0, 1, 0)
    assert bench.flow.begin_call(ref)
    bench.client.tell("on_revoke", 0)
    await wait_until(lambda: not bench.flow.wants(P0, 1))
    bench.client.generation = 2
    bench.complete(P1)
    await wait_until(lambda: bench.committed == [P1])
    bench.complete(P0)
    bench.flow.end_call(ref)
    await wait_until(lambda: bench.client.changes[-1] == ("unassign", (0,)))
    assert bench.committed == [P1, P0]


async def test_assignment_that_waits_for_an_open_transaction_gives_it_fresh_metadata(bench: CommittingBench) -> None:
    """Else each would wait for the other."""
    bench.free.clear()
    bench.complete(P1)
    bench.client.tell("on_assign", 2)
    await wait_until(lambda: not bench.client.news)
    bench.client.generation = 2
    bench.free.set()
    await wait_until(lambda: bench.flow.partitions == ours(0, 1, 2))
    assert bench.committed == [P1]


async def test_positions_are_not_read_while_a_transaction_is_open(bench: CommittingBench) -> None:
    bench.free.clear()
    bench.complete(P1)
    await wait_until(lambda: bench.pending)
    bench.client.tell("on_assign", 2)
    await wait_until(lambda: not bench.client.news)
    await asyncio.to_thread(bench.consumer.group_metadata, True)  # answered when the callback waits, or is over
    bench.free.set()
    await wait_until(lambda: bench.flow.partitions == ours(0, 1, 2))
    await wait_until(lambda: bench.client.changes[-1] == ("assign", (2,)))
    end = bench.client.history.index(("assign", (2,)))
    assert bench.client.history[end - 2 : end] == [("commit", (1,)), ("committed", (2,))]


async def test_assignment_is_not_starved_by_transactions_of_other_partitions(bench: CommittingBench) -> None:
    """The next is begun before the loop comes round to whoever waited for the last."""
    stop = asyncio.Event()

    async def keep_committing() -> None:
        """There is always more to commit than the one transaction that is open."""
        offset = 0
        while not stop.is_set():
            bench.client.available[1] = max(0.0, 50 - len(bench.records_of(1)) + offset)
            while offset < len(bench.records_of(1)):
                bench.complete(P1, offset)
                offset += 1
                await asyncio.sleep(0)
            await asyncio.sleep(0)

    load = asyncio.create_task(keep_committing())
    try:
        await wait_until(lambda: len(bench.committed) > 2)
        for number in range(2, 6):
            bench.client.available[number] = 0
            bench.client.tell("on_assign", number)
            await wait_until(partial(_has, bench, number))
    finally:
        stop.set()
        await load


def _has(bench: Bench, partition: int) -> bool:
    return ours(partition) <= bench.flow.partitions


async def test_generation_that_changes_nothing_of_ours_needs_no_rebalance_callback(bench: CommittingBench) -> None:
    bench.client.generation = 2
    bench.complete(P1)
    await wait_until(lambda: bench.committed == [P1])
    assert bench.refused >= 1
    assert bench.client.changes == [("assign", (0, 1))]


async def test_rebalance_that_adds_nothing_brings_fresh_metadata_and_waits_for_nothing(bench: CommittingBench) -> None:
    bench.free.clear()
    bench.complete(P1)
    bench.client.generation = 2
    bench.client.tell("on_assign")
    await wait_until(lambda: bench.client.changes[-1] == ("assign", ()))
    bench.free.set()
    await wait_until(lambda: bench.committed == [P1])
    assert bench.refused <= 1  # begun before the rebalance, if at all


async def test_member_that_is_out_of_the_group_keeps_its_last_metadata(bench: CommittingBench) -> None:
    bench.client.member_id, bench.client.generation = "", -1
    assert await asyncio.to_thread(bench.consumer.group_metadata, True) == 1
    bench.client.tell("on_lost", 0, 1)
    await wait_until(lambda: not bench.flow.partitions)
    bench.client.member_id, bench.client.generation = "mill-0-anew", 3
    bench.client.tell("on_assign", 0)
    await wait_until(lambda: bench.flow.partitions == ours(0))
    assert bench.consumer.group_metadata(False) == 3


async def test_member_that_comes_back_as_another_without_having_lost_its_partitions_ends() -> None:
    """librdkafka does this to a static member that the group forgets while it is joining."""
    bench = CommittingBench()
    async with bench:
        await bench.assigned(0, 1)
        bench.client.member_id, bench.client.generation = "mill-0-anew", 3
        bench.client.tell("on_assign")
        with pytest.raises(FatalError, match="took this worker for dead while it was joining"):
            await bench.consumer.wait_ended()
        bench.complete(P0)
        assert bench.consumer.group_metadata(False) == 1
        bench.flow.abandon()
