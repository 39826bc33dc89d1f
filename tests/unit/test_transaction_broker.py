"""A broker that is not there, goes away, or takes no record of this size."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka import KafkaError

from headrace.connectors.kafka import transaction
from headrace.pipeline.errors import FatalError, OutputRefusedError
from headrace.pipeline.ports import CommitUnit, OffsetCommit
from headrace.pipeline.records import OutputRecord
from tests.unit.fake_coordinator import FakeMessage, error
from tests.unit.transaction_bench import FENCED, NOTHING, ONCE, P0, TIMED_OUT, Bench

LASTING_TIME_OUT = error(KafkaError._TIMED_OUT)


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "MAX_BACKOFF_SECONDS", 0.0005)


# --- waiting for the broker -----------------------------------------------------------------------------------------


async def test_start_waits_for_a_broker_that_is_not_there() -> None:
    bench = Bench()
    bench.coordinator.answer("init", error(KafkaError._ALL_BROKERS_DOWN), times=2)
    await bench.transactions.start()
    assert bench.coordinator.count("init") == 3
    assert bench.down == [True, False]


async def test_producers_that_were_told_of_no_brokers_are_replaced() -> None:
    bench = Bench()
    bench.coordinator.brokerless = 2
    await bench.transactions.start()
    assert len(bench.coordinator.configs) == 3
    assert await bench.transactions.commit(bench.unit())
    assert bench.visible == ONCE


async def test_producers_that_are_told_of_no_brokers_in_a_transaction_are_replaced_at_once() -> None:
    bench = Bench(producers=2)
    await bench.transactions.start()
    for producer in bench.coordinator.producers:
        producer.brokerless = True
    assert await bench.transactions.commit(bench.unit(1))
    assert await bench.transactions.commit(bench.unit(2))
    assert bench.coordinator.count("send_offsets") == 3, "the one call that found it out, and one for each unit"
    assert len(bench.coordinator.configs) == 4
    assert bench.coordinator.outputs == [b"1", b"2"]


async def test_committed_offsets_are_waited_for() -> None:
    bench = Bench()
    bench.coordinator.answer("commit", FENCED, applied=True)
    bench.coordinator.answer("committed", error(KafkaError.UNSTABLE_OFFSET_COMMIT))
    assert await bench.commit()
    assert bench.coordinator.count("committed") == 2
    assert bench.visible == ONCE


@pytest.mark.parametrize("kind", ["", "fatal"])
async def test_start_that_is_refused_is_fatal(kind: str) -> None:
    bench = Bench()
    bench.coordinator.answer("init", error(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, kind))
    with pytest.raises(FatalError, match="refused init_transactions: why"):
        await bench.transactions.start()


async def test_close_ends_the_wait_for_a_broker() -> None:
    bench = Bench()
    bench.coordinator.answer("init", error(KafkaError._ALL_BROKERS_DOWN), before=bench.tell_when_reached())
    bench.coordinator.answer("init", error(KafkaError._ALL_BROKERS_DOWN), times=100_000)
    starting = asyncio.create_task(bench.transactions.start())
    await bench.reached.wait()
    async with asyncio.timeout(5):
        await bench.transactions.close()
    with pytest.raises(FatalError, match="stopped while waiting for Kafka to answer init_transactions"):
        await starting


async def test_close_ends_a_commit_that_is_retried() -> None:
    bench = Bench()
    await bench.transactions.start()
    bench.coordinator.answer("commit", TIMED_OUT, before=bench.tell_when_reached())
    bench.coordinator.answer("commit", TIMED_OUT, times=100_000)
    bench.coordinator.answer("init", error(KafkaError._ALL_BROKERS_DOWN), times=100_000)
    committing = asyncio.create_task(bench.transactions.commit(bench.unit()))
    await bench.reached.wait()
    async with asyncio.timeout(5):
        await bench.transactions.close()
    with pytest.raises(FatalError, match="stopped while waiting"):
        await committing
    assert bench.visible == NOTHING


# --- a broker that goes away ----------------------------------------------------------------------------------------


async def test_broker_that_goes_away_is_waited_for_before_the_outcome_is_read() -> None:
    bench = Bench()
    await bench.transactions.start()
    bench.coordinator.answer("commit", LASTING_TIME_OUT, applied=True)
    bench.coordinator.answer("init", error(KafkaError._TRANSPORT), times=3)
    bench.coordinator.answer("committed", error(KafkaError._TIMED_OUT), times=2)
    assert await bench.transactions.commit(bench.unit())
    assert bench.down == [True, False, True, False]
    assert bench.visible == ONCE


async def test_replacement_that_is_refused_ends_the_process() -> None:
    bench = Bench()
    await bench.transactions.start()
    bench.coordinator.answer("commit", FENCED)
    bench.coordinator.answer("init", error(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "fatal"))
    with pytest.raises(FatalError, match="refused init_transactions"):
        await bench.transactions.commit(bench.unit())
    assert bench.visible == NOTHING


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._RESOLVE,
        KafkaError._WAIT_COORD,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.REQUEST_TIMED_OUT,
    ],
)
async def test_start_outlasts_every_error_that_passes(code: int) -> None:
    bench = Bench()
    bench.coordinator.answer("init", error(code))
    await bench.transactions.start()
    assert bench.down == [True, False]


async def test_start_outlasts_what_the_client_calls_retriable() -> None:
    bench = Bench()
    bench.coordinator.answer("init", error(KafkaError.BROKER_NOT_AVAILABLE, "retriable"))
    await bench.transactions.start()
    assert bench.coordinator.epochs == {"mill-0-0": 1}


async def test_error_that_passes_for_others_but_is_fatal_ends_the_start() -> None:
    bench = Bench()
    bench.coordinator.answer("init", error(KafkaError._TIMED_OUT, "fatal"))
    with pytest.raises(FatalError, match="refused init_transactions"):
        await bench.transactions.start()


async def test_unused_connections_are_closed_unless_the_settings_say_otherwise() -> None:
    """So that a client that waits for a coordinator that has gone looks for the new one: on real brokers in
    tests/integration/test_transaction_faults.py."""
    for client, expected in (({}, 5000), ({"connections.max.idle.ms": "60000"}, "60000")):
        bench = Bench(client=client)
        await bench.transactions.start()
        assert bench.coordinator.configs[0]["connections.max.idle.ms"] == expected


# --- records too large for their topic ------------------------------------------------------------------------------


def unit_of(bench: Bench, *values: bytes) -> CommitUnit:
    outputs = tuple(OutputRecord("results", b"k", value) for value in values)
    return CommitUnit(outputs, (OffsetCommit(P0, 1, "m1"),), len(values), lambda: bench.owned)


async def test_oversized_record_refused_by_the_client_is_named() -> None:
    bench = Bench()
    await bench.transactions.start()
    bench.coordinator.answer("produce", None)
    bench.coordinator.answer("produce", error(KafkaError.MSG_SIZE_TOO_LARGE))
    with pytest.raises(OutputRefusedError, match=r"produce to results: why \(MSG_SIZE_TOO_LARGE\)") as refused:
        await bench.transactions.commit(unit_of(bench, b"1", b"22", b"3"))
    assert refused.value.index == 1
    assert (bench.coordinator.count("abort"), bench.visible) == (1, NOTHING)


async def test_oversized_record_refused_by_the_broker_is_named() -> None:
    bench = Bench(producers=2)
    await bench.transactions.start()
    bench.coordinator.largest_bytes = 3
    with pytest.raises(OutputRefusedError, match=r"results refused the record: .*MSG_SIZE_TOO_LARGE") as refused:
        await bench.transactions.commit(unit_of(bench, b"1", b"2", b"3333", b"4"))
    assert refused.value.index == 2
    assert (bench.coordinator.count("abort"), bench.visible) == (2, NOTHING)
    assert await bench.transactions.commit(unit_of(bench, b"1", b"2", b"4"))
    assert bench.coordinator.outputs == [b"1", b"2", b"4"]


async def test_oversized_record_is_named_although_others_failed_with_it_and_were_told_of_first() -> None:
    bench = Bench(producers=1)
    await bench.transactions.start()

    codes = {b"1": KafkaError._PURGE_QUEUE, b"2": KafkaError.MSG_SIZE_TOO_LARGE, b"3": KafkaError._PURGE_QUEUE}

    def report() -> None:
        for value, code in codes.items():
            bench.coordinator.configs[-1]["on_delivery"](error(code), FakeMessage("results", b"k", value))

    bench.coordinator.answer("commit", error(KafkaError.MSG_SIZE_TOO_LARGE, "abortable"), times=2, before=report)
    with pytest.raises(OutputRefusedError, match="results refused the record") as refused:
        await bench.transactions.commit(unit_of(bench, b"1", b"2", b"3"))
    assert refused.value.index == 1


async def test_batch_that_is_too_large_although_its_records_are_not_is_sent_record_by_record() -> None:
    bench = Bench(producers=2)
    await bench.transactions.start()
    bench.coordinator.largest_bytes = 3
    for _ in range(2):
        assert await bench.transactions.commit(unit_of(bench, b"11", b"22", b"33"))
    assert bench.coordinator.outputs == [b"11", b"22", b"33"] * 2
    # No id of its own: whoever comes after a kill ends what is open under the ids that it begins with.
    assert bench.coordinator.epochs == {"mill-0-0": 4, "mill-0-1": 1}
