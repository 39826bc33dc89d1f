from __future__ import annotations

import asyncio
import threading

import pytest
from confluent_kafka import KafkaError

from headrace.connectors.kafka import transaction
from headrace.connectors.kafka.transactional import TransactionSettings
from headrace.pipeline.errors import FatalError, FencedError
from headrace.pipeline.ports import CommitUnit, OffsetCommit
from headrace.pipeline.records import OutputRecord
from tests.unit.fake_coordinator import error
from tests.unit.transaction_bench import CALLS, FENCED, NOTHING, ONCE, P0, P1, TIMED_OUT, Bench


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits between attempts are real, on a thread: shortened to what a test can afford."""
    monkeypatch.setattr(transaction, "MAX_BACKOFF_SECONDS", 0.0005)


# --- what goes well -------------------------------------------------------------------------------------------------


async def test_unit_is_one_transaction_with_its_offsets() -> None:
    bench = Bench()
    assert await bench.commit()
    assert bench.visible == ONCE
    assert bench.coordinator.calls == ["init", "begin", "produce", "send_offsets", "commit"]
    assert bench.coordinator.produced == [
        {"topic": "results", "value": b"1", "key": b"k", "partition": -1, "headers": [("h", None)]}
    ]


async def test_output_goes_to_the_partition_it_names() -> None:
    bench = Bench()
    await bench.transactions.start()
    outputs = (OutputRecord("replies", None, b"v", (), 3),)
    assert await bench.transactions.commit(CommitUnit(outputs, (OffsetCommit(P0, 1, ""),), 1, lambda: True))
    assert bench.coordinator.produced[0]["partition"] == 3


async def test_producers_take_turns_with_stable_ids() -> None:
    bench = Bench(producers=2)
    await bench.transactions.start()
    for offset in (1, 2, 3):
        assert await bench.transactions.commit(bench.unit(offset))
    assert bench.coordinator.epochs == {"mill-0-0": 1, "mill-0-1": 1}
    assert bench.coordinator.outputs == [b"1", b"2", b"3"]


async def test_settings_of_the_client_do_not_override_what_exactly_once_rests_on() -> None:
    bench = Bench(client={"transactional.id": "mine", "linger.ms": "500", "security.protocol": "ssl"})
    await bench.transactions.start()
    config = bench.coordinator.configs[0]
    assert (config["transactional.id"], config["linger.ms"]) == ("mill-0-0", 0)
    assert (config["security.protocol"], config["partitioner"]) == ("ssl", "murmur2_random")


async def test_settings_reach_the_clients() -> None:
    bench = Bench(timeout_seconds=7.5)
    bench.coordinator.answer("commit", FENCED, applied=True)
    assert await bench.commit()
    config = bench.coordinator.configs[0]
    assert (config["bootstrap.servers"], config["transaction.timeout.ms"]) == ("nowhere:9092", 7500)
    assert config["message.max.bytes"] == TransactionSettings("", "", "").max_message_bytes
    assert bench.coordinator.reader_configs[0]["group.id"] == "mill"


async def test_client_is_polled_even_if_no_queue_is_ever_full() -> None:
    """Its errors and logs come through there."""
    bench = Bench()
    assert await bench.commit()
    assert bench.coordinator.polls == 1


async def test_unit_that_is_not_ours_is_not_begun() -> None:
    bench = Bench()
    bench.lose()
    assert not await bench.commit()
    assert bench.coordinator.calls == ["init"]


async def test_unit_lost_while_the_metadata_is_taken_is_aborted() -> None:
    """The metadata may be of the next generation already: it must not carry offsets of this one."""
    bench = Bench()
    bench.member.capture = bench.lose
    assert not await bench.commit()
    assert bench.visible == NOTHING
    assert bench.coordinator.calls == ["init", "begin", "produce", "abort"]


async def test_unit_lost_whose_abort_fails_leaves_a_fresh_producer() -> None:
    bench = Bench()
    bench.member.capture = bench.lose
    bench.coordinator.answer("abort", FENCED)
    assert not await bench.commit()
    assert bench.coordinator.count("init") == 2
    assert bench.visible == NOTHING


# --- what may be tried again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["begin", "send_offsets", "commit"])
async def test_retriable_call_is_repeated_as_it_is(call: str) -> None:
    bench = Bench()
    bench.coordinator.answer(call, TIMED_OUT, times=3)
    assert await bench.commit()
    assert bench.coordinator.count(call) == 4
    assert (bench.coordinator.count("abort"), bench.visible) == (0, ONCE)


async def test_retriable_produce_begins_the_transaction_anew() -> None:
    bench = Bench()
    bench.coordinator.answer("produce", TIMED_OUT)
    assert await bench.commit()
    assert (bench.coordinator.count("abort"), bench.coordinator.count("init")) == (1, 2)
    assert bench.visible == ONCE


async def test_full_queue_is_polled_until_there_is_room() -> None:
    bench = Bench()
    bench.coordinator.queue_full_times = 3
    assert await bench.commit()
    assert bench.coordinator.polls >= 3
    assert bench.visible == ONCE


async def test_queue_that_stays_full_aborts_and_tries_again() -> None:
    bench = Bench(timeout_seconds=0.01)
    bench.coordinator.queue_full_times = 10**9
    with pytest.raises(FatalError, match="keeps failing"):
        await bench.commit()
    assert bench.coordinator.count("abort") == transaction.MAX_ABORTS + 1
    assert bench.visible == NOTHING


@pytest.mark.parametrize("call", ["produce", "send_offsets", "commit"])
async def test_abortable_call_aborts_and_the_same_unit_is_tried_again(call: str) -> None:
    bench = Bench()
    bench.coordinator.answer(call, error(KafkaError.UNKNOWN_TOPIC_OR_PART, "abortable"), times=2)
    assert await bench.commit()
    assert (bench.coordinator.count("abort"), bench.coordinator.count("init")) == (2, 3)
    assert bench.visible == ONCE


async def test_undelivered_record_aborts_and_is_sent_again() -> None:
    bench = Bench()
    bench.coordinator.undeliverable.append(error(KafkaError._MSG_TIMED_OUT))
    assert await bench.commit()
    assert (bench.coordinator.count("abort"), bench.coordinator.count("produce")) == (1, 2)
    assert bench.visible == ONCE


async def test_undelivered_record_that_never_will_be_ends_the_process() -> None:
    bench = Bench()
    bench.coordinator.undeliverable.append(error(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(FatalError, match="TOPIC_AUTHORIZATION_FAILED"):
        await bench.commit()
    assert bench.visible == NOTHING


async def test_aborts_are_bounded() -> None:
    bench = Bench()
    bench.coordinator.answer("commit", error(KafkaError.UNKNOWN_TOPIC_OR_PART, "abortable"), times=100)
    with pytest.raises(FatalError, match=r"1 records keeps failing.*UNKNOWN_TOPIC_OR_PART"):
        await bench.commit()
    assert bench.coordinator.count("abort") == transaction.MAX_ABORTS + 1


async def test_retries_end_when_the_unit_is_lost() -> None:
    bench = Bench()
    abortable = error(KafkaError.UNKNOWN_TOPIC_OR_PART, "abortable")
    bench.coordinator.answer("commit", abortable)
    bench.coordinator.answer("commit", abortable, before=bench.lose)
    assert not await bench.commit()
    assert bench.visible == NOTHING


# --- generations and members ----------------------------------------------------------------------------------------


async def test_stale_generation_is_tried_again_with_fresh_metadata() -> None:
    bench = Bench()
    bench.coordinator.generation = 2
    assert await bench.commit()
    assert bench.member.refreshes == 1
    assert (bench.coordinator.count("abort"), bench.visible) == (1, ONCE)


async def test_stale_generation_of_lost_partitions_is_dropped() -> None:
    bench = Bench()
    bench.coordinator.answer("send_offsets", error(KafkaError.ILLEGAL_GENERATION, "abortable"), before=bench.lose)
    assert not await bench.commit()
    assert bench.visible == NOTHING


async def test_generation_that_stays_stale_ends_the_process() -> None:
    bench = Bench(timeout_seconds=0.05)
    bench.coordinator.generation = 2
    bench.member.deaf = True
    with pytest.raises(FatalError, match="stuck for too long in a rebalance"):
        await bench.commit()
    assert bench.visible == NOTHING


@pytest.mark.parametrize("call", CALLS)
async def test_fenced_member_ends_the_process(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its consumer is asked first: it may know that it was itself, as it joined anew."""
    monkeypatch.setattr(transaction, "LOST_SECONDS", 0.05)
    bench = Bench()
    bench.coordinator.answer(call, error(KafkaError.FENCED_INSTANCE_ID, "abortable"))
    with pytest.raises(FencedError, match="another has joined the group as this worker"):
        await bench.commit()
    assert bench.member.refreshes == 1
    assert bench.visible == NOTHING


async def test_fenced_member_whose_loss_is_told_late_drops_the_unit() -> None:
    bench = Bench()
    threading.Timer(0.05, bench.lose).start()
    bench.coordinator.answer("send_offsets", error(KafkaError.FENCED_INSTANCE_ID, "abortable"))
    assert not await bench.commit()
    assert bench.visible == NOTHING


async def test_member_fenced_by_its_own_return_drops_the_unit() -> None:
    """Whoever lost its membership, and with it its partitions, joins anew with the same identity."""
    bench = Bench()
    fenced = error(KafkaError.FENCED_INSTANCE_ID, "abortable")
    bench.coordinator.answer("send_offsets", fenced, before=bench.lose)
    assert not await bench.commit()
    assert (bench.coordinator.count("abort"), bench.visible) == (1, NOTHING)


@pytest.mark.parametrize("call", CALLS)
async def test_refused_call_ends_the_process_with_the_brokers_words(call: str) -> None:
    bench = Bench()
    bench.coordinator.answer(call, error(KafkaError.TOPIC_AUTHORIZATION_FAILED, "abortable"))
    with pytest.raises(FatalError, match=r"Kafka refused the transaction: .*why.*TOPIC_AUTHORIZATION_FAILED"):
        await bench.commit()
    assert bench.visible == NOTHING


# --- what nobody knows the outcome of -------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [False, True])
async def test_commit_of_unknown_outcome_is_decided_by_the_committed_offsets(applied: bool) -> None:
    """The answer was lost: the unit is written again only if it was not committed."""
    bench = Bench()
    bench.coordinator.answer("commit", FENCED, applied=applied)
    assert await bench.commit()
    assert bench.visible == ONCE
    assert (bench.coordinator.count("init"), bench.coordinator.count("committed")) == (2, 1)
    assert bench.coordinator.count("begin") == (1 if applied else 2)
    assert bench.coordinator.calls[-1] == ("close" if applied else "commit")


@pytest.mark.parametrize("call", CALLS)
async def test_producer_that_fails_for_good_is_replaced(call: str) -> None:
    bench = Bench()
    bench.coordinator.answer(call, FENCED)
    assert await bench.commit()
    assert bench.coordinator.epochs == {"mill-0-0": 2}
    assert (bench.coordinator.count("abort"), bench.visible) == (0, ONCE)


@pytest.mark.parametrize("call", ["begin", "send_offsets", "commit"])
async def test_call_that_only_times_out_is_of_unknown_outcome(call: str) -> None:
    bench = Bench(timeout_seconds=0.02)
    bench.coordinator.answer(call, TIMED_OUT, times=5)
    assert await bench.commit()
    assert bench.coordinator.count("init") >= 2
    assert bench.visible == ONCE


@pytest.mark.parametrize("kind", ["fatal", "abortable", ""])
async def test_failed_abort_makes_the_producer_be_replaced(kind: str) -> None:
    bench = Bench()
    bench.coordinator.answer("commit", error(KafkaError.UNKNOWN_TOPIC_OR_PART, "abortable"))
    bench.coordinator.answer("abort", error(KafkaError._STATE, kind))
    assert await bench.commit()
    assert (bench.coordinator.count("init"), bench.coordinator.count("committed")) == (2, 1)
    assert bench.coordinator.count("begin") == 2
    assert bench.visible == ONCE


async def test_abort_that_is_refused_ends_the_process() -> None:
    bench = Bench()
    bench.coordinator.answer("commit", error(KafkaError.UNKNOWN_TOPIC_OR_PART, "abortable"))
    bench.coordinator.answer("abort", error(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "fatal"))
    with pytest.raises(FatalError, match="refused the transaction"):
        await bench.commit()


async def test_replacements_are_bounded() -> None:
    bench = Bench()
    bench.coordinator.answer("begin", FENCED, times=100)
    with pytest.raises(FatalError, match="keeps failing"):
        await bench.commit()
    assert bench.coordinator.count("init") == 1 + transaction.MAX_REPLACEMENTS + 1


async def test_only_the_failed_one_of_two_producers_is_replaced() -> None:
    bench = Bench(producers=2)
    bench.coordinator.answer("commit", FENCED, applied=True)
    assert await bench.commit()
    assert sorted(bench.coordinator.epochs.values()) == [1, 2]
    assert await bench.transactions.commit(bench.unit(2))
    assert bench.coordinator.outputs == [b"1", b"2"]


async def test_half_a_unit_in_the_committed_offsets_is_never_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "LOST_SECONDS", 0.05)
    bench = Bench()

    def tear() -> None:
        bench.coordinator.offsets["requests", 0] = (1, "m1")

    bench.coordinator.answer("commit", FENCED, before=tear)
    with pytest.raises(FatalError, match="torn transaction"):
        await bench.commit(1, P0, P1)


async def test_half_a_unit_of_partitions_whose_loss_is_told_late_is_dropped() -> None:
    """After a long stop: the new owner has moved one of them on, and our own client has yet to notice."""
    bench = Bench()
    half = {("requests", 0): (1, "m1")}
    bench.coordinator.answer("commit", FENCED, before=lambda: bench.coordinator.offsets.update(half))
    bench.coordinator.answer("close", None, before=bench.tell_when_reached())
    committing = asyncio.create_task(bench.commit(1, P0, P1))
    await bench.reached.wait()
    await asyncio.sleep(0.05)
    assert not committing.done()
    bench.lose()
    assert not await committing
    assert bench.coordinator.outputs == []


async def test_offsets_that_somebody_else_moved_on_drop_a_lost_unit() -> None:
    bench = Bench()

    def others() -> None:
        bench.lose()
        bench.coordinator.offsets["requests", 0] = (9, "")

    bench.coordinator.answer("commit", FENCED, before=others)
    assert not await bench.commit(1, P0, P1)
    assert bench.coordinator.outputs == []
