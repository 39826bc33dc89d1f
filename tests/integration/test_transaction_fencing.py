"""The transaction engine on the shared real broker: fenced producers, stale members, and what the broker refuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka import transaction
from headrace.pipeline.errors import FatalError, FencedError, OutputRefusedError
from headrace.pipeline.ports import CommitUnit, OffsetCommit
from headrace.pipeline.records import OutputRecord, TopicPartition
from tests.integration.transaction_rig import Member, Rig, drop_records, fence_it

LIMIT_BYTES = 5000
MOMENTS = [
    ("init_transactions", True),
    ("begin_transaction", True),
    ("produce", True),
    ("send_offsets_to_transaction", True),
    ("commit_transaction", True),
    ("abort_transaction", False),
]
"""Calls, and whether another producer comes after or before it."""


class Crash(Exception):
    """The process ends here: nothing more is done with what is open."""


def crash(_: Producer | None) -> None:
    raise Crash


@pytest.fixture
def make_rig(
    stack: Endpoints, names: Callable[[str], str], make_topics: Callable[..., tuple[str, ...]]
) -> Callable[..., Rig]:
    make_topics("t.requests", partitions=2)
    make_topics("t.results", partitions=1, config={"max.message.bytes": str(LIMIT_BYTES)})
    return lambda **settings: Rig(stack.bootstrap_servers, stack.bootstrap_servers, names("t"), **settings)


# --- fenced ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "after"), MOMENTS)
async def test_fenced_producer_is_replaced_and_its_unit_is_there_once(
    make_rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture, call: str, after: bool
) -> None:
    async with make_rig(producers=1) as rig:
        plan = rig.strikes.after if after else rig.strikes.before
        if call == "init_transactions":
            plan(call, fence_it(rig))
        await rig.start()
        if call == "abort_transaction":
            rig.strikes.after("produce", drop_records)
        if call != "init_transactions":
            plan(call, fence_it(rig))
        for number in (1, 2, 3):
            assert await rig.commit(number)
            await rig.check(*range(1, number + 1))
        assert rig.strikes.pending == []
        assert ": indefinite, " in caplog.text


async def test_unit_of_unknown_outcome_that_was_committed_is_not_doubled(make_rig: Callable[..., Rig]) -> None:
    """The broker has carried the commit out, and the call fails nevertheless: it is made twice by a fenced producer."""

    def commit_then_fence(producer: Producer | None) -> None:
        assert producer is not None
        Producer.commit_transaction(producer, 10)
        fence_it(rig)(producer)
        Producer.begin_transaction(producer)

    async with make_rig() as rig:
        await rig.start()
        rig.strikes.before("commit_transaction", commit_then_fence)
        rig.strikes.after("init_transactions", lambda _: replaced.append(True))
        replaced: list[bool] = []
        for number in (1, 2, 3):
            assert await rig.commit(number)
            await rig.check(*range(1, number + 1))
        assert replaced == [True]


@pytest.mark.parametrize("values", [[b"1"], [b"1" * 400] * 40])
async def test_transaction_that_a_dead_process_left_open_is_ended_by_its_successor_at_once(
    make_rig: Callable[..., Rig], values: list[bytes]
) -> None:
    """Also if its records were being sent one by one: the batch was too large for the topic."""
    async with make_rig(transaction_timeout_seconds=60.0) as rig:
        await rig.start()
        rig.strikes.before("commit_transaction", crash)
        if len(values) > 1:
            rig.strikes.before("commit_transaction", lambda _: rig.strikes.before("commit_transaction", crash))
        with pytest.raises(Crash):
            await rig.commit(1, *values)
    async with make_rig(transaction_timeout_seconds=60.0) as successor:
        began = time.monotonic()
        await successor.start()
        await successor.check()
        assert time.monotonic() - began < 15
        assert await successor.commit(1)
        await successor.check(1)


# --- the group ------------------------------------------------------------------------------------------------------


@pytest.fixture
def join(make_rig: Callable[..., Rig], stack: Endpoints) -> Iterator[Callable[..., Member]]:
    members: list[Member] = []

    def make(group: str, topic: str, **config: str) -> Member:
        members.append(Member(stack.bootstrap_servers, group, [topic], **config))
        return members[-1]

    yield make
    for member in members:
        member.close()


async def test_unit_of_a_stale_generation_whose_partitions_stay_is_there_once(
    make_rig: Callable[..., Rig], join: Callable[..., Member], caplog: pytest.LogCaptureFixture
) -> None:
    async with make_rig() as rig:
        await rig.start()
        # It reads another topic: the group gets a new generation, and no partition moves.
        rig.strikes.before("send_offsets_to_transaction", lambda _: join(rig.group, rig.results).join(rig.member))
        for number in (1, 2, 3):
            assert await rig.commit(number)
            await rig.check(*range(1, number + 1))
        assert rig.strikes.pending == []
        assert caplog.text.count(": stale_generation, ") == 1


async def test_unit_of_a_stale_generation_whose_partition_went_is_not_there(
    make_rig: Callable[..., Rig], join: Callable[..., Member]
) -> None:
    async with make_rig() as rig:
        await rig.start()
        rig.strikes.before("send_offsets_to_transaction", lambda _: join(rig.group, rig.requests).join(rig.member))
        rig.owned = lambda: rig.member.partitions() == {0, 1}
        assert not await rig.commit(1)
        assert rig.strikes.pending == []
        await rig.check()
        (kept,) = rig.member.partitions()
        offsets = (OffsetCommit(TopicPartition(rig.requests, kept), 2, "m2"),)
        outputs = (OutputRecord(rig.results, b"k", b"2"),)
        assert await rig.transactions.commit(CommitUnit(outputs, offsets, 1, lambda: True))
        assert await asyncio.to_thread(rig.offsets) == {kept: (2, "m2")}
        assert await asyncio.to_thread(rig.values) == [b"2"]


async def test_unit_of_a_member_whose_slot_was_taken_is_not_there(
    make_rig: Callable[..., Rig], join: Callable[..., Member], names: Callable[[str], str]
) -> None:
    async with make_rig() as rig:
        await rig.start()
        identity = {"group.instance.id": f"{names('t')}-0"}
        rig.strikes.before("send_offsets_to_transaction", lambda _: join(rig.group, rig.requests, **identity).join())
        with pytest.raises(FencedError, match="FENCED_INSTANCE_ID"):
            await rig.commit(1)
        await rig.check()


# --- refused --------------------------------------------------------------------------------------------------------


async def test_time_out_that_the_broker_refuses_is_fatal(make_rig: Callable[..., Rig]) -> None:
    async with make_rig(transaction_timeout_seconds=1000.0) as rig:
        with pytest.raises(FatalError, match=r"refused init_transactions: .*INVALID_TRANSACTION_TIMEOUT"):
            await rig.start()


async def test_record_that_its_topic_does_not_take_is_named_and_holds_up_no_other(
    make_rig: Callable[..., Rig],
) -> None:
    async with make_rig() as rig:
        await rig.start()
        began = time.monotonic()
        with pytest.raises(OutputRefusedError, match=r"t\.results refused the record: .*MSG_SIZE_TOO_LARGE") as refused:
            await rig.commit(1, b"1", b"2", b"3" * (LIMIT_BYTES + 1), b"4")
        assert refused.value.index == 2
        assert time.monotonic() - began < transaction.CALL_TIMEOUT_SECONDS
        await rig.check()
        for number in (1, 2, 3):
            assert await rig.commit(number)
        await rig.check(1, 2, 3)


async def test_record_that_the_client_does_not_take_is_named(make_rig: Callable[..., Rig]) -> None:
    async with make_rig(max_message_bytes=2000) as rig:
        await rig.start()
        with pytest.raises(OutputRefusedError, match="MSG_SIZE_TOO_LARGE") as refused:
            await rig.commit(1, b"1", b"2" * 3000)
        assert refused.value.index == 1
        await rig.check()
        assert await rig.commit(1)
        await rig.check(1)


async def test_batch_that_its_topic_does_not_take_is_sent_record_by_record(make_rig: Callable[..., Rig]) -> None:
    async with make_rig() as rig:
        await rig.start()
        values = [b"%d" % index * 100 for index in range(10, 50)]
        for number in (1, 2, 3):
            assert await rig.commit(number, *values)
        assert await rig.commit(4, b"small")
        assert await asyncio.to_thread(rig.values) == [*values * 3, b"small"]
        assert await asyncio.to_thread(rig.offsets) == {0: (4, "m4"), 1: (4, "m4")}
