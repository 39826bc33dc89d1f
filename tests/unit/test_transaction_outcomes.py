"""What is not known, or is known too late: time-outs of every call, replaced producers, a broker that goes away."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading

import pytest
from confluent_kafka import KafkaError

from headrace.connectors.kafka import gone_topics, transaction
from headrace.connectors.kafka.gone_topics import GoneTopics
from headrace.pipeline.errors import FatalError
from headrace.pipeline.ports import CommitUnit, OffsetCommit
from headrace.pipeline.records import OutputRecord
from tests.unit.fake_coordinator import FakeMessage, error
from tests.unit.transaction_bench import CALLS, FENCED, NOTHING, ONCE, P0, P1, TIMED_OUT, Bench

LASTING_TIME_OUT = error(KafkaError._TIMED_OUT)
ABORTABLE = error(KafkaError.UNKNOWN_TOPIC_OR_PART, "abortable")


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "MAX_BACKOFF_SECONDS", 0.0005)


# --- time-outs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
async def test_time_out_that_may_not_be_retried_replaces_the_producer(call: str) -> None:
    bench = Bench()
    bench.coordinator.answer(call, LASTING_TIME_OUT)
    assert await bench.commit()
    assert (bench.coordinator.count("abort"), bench.coordinator.epochs) == (0, {"mill-0-0": 2})
    assert bench.visible == ONCE


async def test_commit_that_timed_out_but_was_carried_out_is_not_doubled() -> None:
    bench = Bench()
    bench.coordinator.answer("commit", LASTING_TIME_OUT, applied=True)
    assert await bench.commit()
    assert (bench.coordinator.count("begin"), bench.visible) == (1, ONCE)


async def test_commit_that_times_out_until_the_deadline_but_was_carried_out_is_not_doubled() -> None:
    bench = Bench(timeout_seconds=0.05)
    bench.coordinator.answer("commit", TIMED_OUT, applied=True)
    bench.coordinator.answer("commit", TIMED_OUT, times=1000)
    assert await bench.commit()
    assert bench.coordinator.count("commit") > 1
    assert (bench.coordinator.count("begin"), bench.visible) == (1, ONCE)


async def test_abort_is_repeated_while_it_times_out() -> None:
    bench = Bench()
    bench.coordinator.answer("commit", ABORTABLE)
    bench.coordinator.answer("abort", TIMED_OUT, times=3)
    assert await bench.commit()
    assert (bench.coordinator.count("abort"), bench.coordinator.count("init")) == (4, 2)
    assert bench.visible == ONCE


async def test_abort_that_times_out_until_the_deadline_replaces_the_producer() -> None:
    bench = Bench(timeout_seconds=0.05)
    bench.coordinator.answer("commit", ABORTABLE)
    bench.coordinator.answer("abort", TIMED_OUT, times=1000)
    assert await bench.commit()
    assert bench.coordinator.count("abort") > 1
    assert (bench.coordinator.epochs, bench.visible) == ({"mill-0-0": 2}, ONCE)


# --- committed or not -----------------------------------------------------------------------------------------------


async def test_equal_offset_with_other_metadata_is_not_this_unit() -> None:
    """Metadata says what is done above the offset: a unit may change it alone."""
    bench = Bench()
    bench.coordinator.offsets["requests", 0] = (1, "earlier")
    bench.coordinator.answer("commit", FENCED)
    assert await bench.commit()
    assert (bench.coordinator.count("begin"), bench.visible) == (2, ONCE)


async def test_offset_committed_without_metadata_is_recognised() -> None:
    bench = Bench()
    await bench.transactions.start()
    bench.coordinator.answer("commit", FENCED, applied=True)
    outputs = (OutputRecord("results", None, b"1"),)
    assert await bench.transactions.commit(CommitUnit(outputs, (OffsetCommit(P0, 1, ""),), 1, lambda: True))
    assert bench.coordinator.outputs == [b"1"]


async def test_all_partitions_of_a_unit_are_committed_or_none() -> None:
    bench = Bench()
    bench.coordinator.answer("commit", FENCED)
    bench.coordinator.answer("commit", FENCED, applied=True)
    assert await bench.commit(1, P0, P1)
    assert bench.visible == ([b"1"], {("requests", 0): (1, "m1"), ("requests", 1): (1, "m1")})
    assert bench.coordinator.count("begin") == 2


async def test_unit_committed_before_it_was_lost_counts_as_committed() -> None:
    bench = Bench()
    bench.coordinator.answer("commit", FENCED, applied=True, before=bench.lose)
    assert await bench.commit()
    assert bench.visible == ONCE


async def test_unit_lost_and_not_committed_is_dropped() -> None:
    bench = Bench()
    bench.coordinator.answer("commit", FENCED, before=bench.lose)
    assert not await bench.commit()
    assert bench.visible == NOTHING


async def test_lost_unit_that_the_next_owner_did_in_part_is_not_taken_for_torn() -> None:
    """The next owner commits in units of its own: one of them may look like a piece of ours."""
    bench = Bench()

    def next_owner() -> None:
        bench.lose()
        bench.coordinator.offsets |= {("requests", 0): (1, "m1"), ("requests", 1): (9, "")}

    bench.coordinator.answer("commit", FENCED, before=next_owner)
    assert not await bench.commit(1, P0, P1)
    assert bench.coordinator.outputs == []


async def test_second_producer_that_fails_is_replaced_under_its_own_id() -> None:
    bench = Bench(producers=2)
    await bench.transactions.start()
    for offset in (1, 2):
        bench.coordinator.answer("commit", FENCED, applied=True)
        assert await bench.transactions.commit(bench.unit(offset))
    assert bench.coordinator.epochs == {"mill-0-0": 2, "mill-0-1": 2}
    assert bench.coordinator.outputs == [b"1", b"2"]


async def test_partition_whose_committed_offset_is_unstable_is_asked_for_again() -> None:
    bench = Bench()
    bench.coordinator.answer("commit", FENCED, applied=True)
    bench.coordinator.unreadable.append(error(KafkaError.UNSTABLE_OFFSET_COMMIT))
    assert await bench.commit()
    assert (bench.coordinator.count("committed"), bench.visible) == (2, ONCE)


async def test_committed_offsets_that_may_not_be_read_end_the_process() -> None:
    bench = Bench()
    bench.coordinator.answer("commit", FENCED, applied=True)
    bench.coordinator.unreadable.append(error(KafkaError.GROUP_AUTHORIZATION_FAILED))
    with pytest.raises(FatalError, match=r"refused committed offsets: why \(GROUP_AUTHORIZATION_FAILED\)"):
        await bench.commit()
    assert bench.coordinator.calls[-1] == "close"


# --- undelivered records --------------------------------------------------------------------------------------------


async def test_undelivered_records_reason_is_told_when_the_aborts_are_used_up() -> None:
    bench = Bench()
    reason = error(KafkaError._MSG_TIMED_OUT, "retriable")
    bench.coordinator.undeliverable.extend([reason] * 100)
    with pytest.raises(FatalError, match=r"keeps failing: produce to results: why \(_MSG_TIMED_OUT\)"):
        await bench.commit()
    assert bench.coordinator.count("abort") == transaction.MAX_ABORTS + 1
    assert bench.visible == NOTHING


async def test_undelivered_record_is_not_blamed_for_a_later_attempt(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    bench = Bench()
    bench.coordinator.undeliverable.append(error(KafkaError._MSG_TIMED_OUT))
    bench.coordinator.answer("send_offsets", None)
    bench.coordinator.answer("send_offsets", ABORTABLE)
    assert await bench.commit()
    told = [record.getMessage() for record in caplog.records if record.name == transaction.__name__]
    assert len(told) == 2
    assert "_MSG_TIMED_OUT" in told[0]
    assert "UNKNOWN_TOPIC_OR_PART" in told[1]
    assert bench.visible == ONCE


async def test_first_of_several_undelivered_records_tells_why() -> None:
    """Those after it only fail because of it."""
    bench = Bench()

    def report() -> None:
        for code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._PURGE_QUEUE):
            bench.coordinator.configs[0]["on_delivery"](error(code), FakeMessage("results", None, b"1"))

    bench.coordinator.answer("commit", ABORTABLE, before=report)
    with pytest.raises(FatalError, match="TOPIC_AUTHORIZATION_FAILED"):
        await bench.commit()
    assert bench.visible == NOTHING


# --- topics that are gone -------------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gone_topics, "GONE_SECONDS", 0.005)  # twenty aborts take longer


@pytest.mark.usefixtures("hasty")
async def test_topic_that_is_gone_is_named_long_before_the_calls_time_is_up() -> None:
    """librdkafka tells nothing of it: the commit times out again and again, as if it were only late."""
    bench = Bench()
    bench.coordinator.gone.add("results")
    async with asyncio.timeout(10):
        with pytest.raises(FatalError, match=r"topic results is gone from nowhere:9092: `headrace topics create`"):
            await bench.commit()
    assert bench.coordinator.epochs == {"mill-0-0": 2}, "what was open is not left to time out"
    assert bench.visible == NOTHING


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("topic", ["requests", "results"])
async def test_topic_that_is_gone_is_named_if_its_records_fail_at_once(topic: str) -> None:
    bench = Bench()
    bench.coordinator.answer("commit", ABORTABLE, times=10**6, before=lambda: bench.coordinator.gone.add(topic))
    with pytest.raises(FatalError, match=f"topic {topic} is gone"):
        await bench.commit()
    assert bench.visible == NOTHING


async def test_topic_that_is_made_again_in_time_is_written_to() -> None:
    bench = Bench()
    bench.coordinator.gone.add("results")
    bench.coordinator.answer("commit", TIMED_OUT, times=3)
    bench.coordinator.answer("commit", None, before=bench.coordinator.gone.clear)
    assert await bench.commit()
    assert bench.visible == ONCE


def test_topic_is_gone_when_no_listing_had_it_for_long() -> None:
    clock = iter((0.0, 9.0, 10.0, 19.0, 20.0)).__next__
    topics = GoneTopics({"a", "b"}, clock)
    for listed in ({"a"}, {"a", "b"}, {"a"}, set()):
        topics.see(listed)
        assert topics.names == []
    topics.see(set())
    assert topics.names == ["b"]


# --- the end --------------------------------------------------------------------------------------------------------


async def test_close_ends_a_unit_whose_generation_stays_stale() -> None:
    bench = Bench()
    await bench.transactions.start()
    bench.member.deaf = True
    bench.coordinator.answer("send_offsets", None, before=bench.tell_when_reached())
    bench.coordinator.generation = 2
    committing = asyncio.create_task(bench.transactions.commit(bench.unit()))
    await bench.reached.wait()
    async with asyncio.timeout(5):
        await bench.transactions.close()
    with pytest.raises(FatalError, match=r"stopped before .*ILLEGAL_GENERATION"):
        await committing
    assert bench.visible == NOTHING


async def test_replaced_producer_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # a captured log record holds the error, its frames and so the producer
    bench = Bench()
    bench.coordinator.answer("commit", FENCED, times=3)
    assert await bench.commit()
    gc.collect()
    assert len(bench.coordinator.producers) == 1


async def test_close_keeps_what_is_committed_and_ends_the_thread() -> None:
    before = set(threading.enumerate())
    bench = Bench(producers=2)
    own = set(threading.enumerate()) - before
    assert await bench.commit()
    await bench.transactions.close()
    gc.collect()  # what a client holds is given back when nobody holds the client
    assert not bench.coordinator.producers
    async with asyncio.timeout(5):
        await asyncio.gather(*(asyncio.to_thread(each.join) for each in own))
    assert own
    assert bench.visible == ONCE
