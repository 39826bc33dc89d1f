from __future__ import annotations

import threading

import pytest
from confluent_kafka import KafkaError

from headrace.connectors.kafka import delivery_reports
from headrace.connectors.kafka.delivery_reports import MANY
from headrace.pipeline.errors import FatalError
from headrace.pipeline.ports import CommitUnit, OffsetCommit
from headrace.pipeline.records import OutputRecord
from tests.unit.fake_coordinator import error
from tests.unit.transaction_bench import NOTHING, P0, Bench


def unit(bench: Bench, records: int) -> CommitUnit:
    outputs = tuple(OutputRecord("results", b"k", b"%d" % number) for number in range(records))
    return CommitUnit(outputs, (OffsetCommit(P0, records, ""),), records, lambda: bench.owned)


async def test_reports_of_many_records_are_taken_on_the_event_loop_before_the_commit() -> None:
    bench = Bench(producers=2)
    await bench.transactions.start()
    for _ in range(2):
        assert await bench.transactions.commit(unit(bench, MANY))
    assert set(bench.coordinator.reported) == {threading.current_thread().name}
    assert len(bench.coordinator.reported) == 2
    assert len(bench.coordinator.outputs) == 2 * MANY


async def test_reports_of_few_records_are_left_to_the_commit() -> None:
    bench = Bench()
    await bench.transactions.start()
    assert await bench.transactions.commit(unit(bench, MANY - 1))
    assert bench.coordinator.reported == []


async def test_commit_does_not_wait_for_ever_for_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_reports, "WAIT_SECONDS", 0.05)
    bench = Bench()
    bench.coordinator.reports = False
    await bench.transactions.start()
    assert await bench.transactions.commit(unit(bench, MANY))
    assert len(bench.coordinator.outputs) == MANY


async def test_record_that_fails_ends_the_wait_and_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_reports, "WAIT_SECONDS", 1000.0)
    bench = Bench()
    bench.coordinator.undeliverable.append(error(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    await bench.transactions.start()
    with pytest.raises(FatalError, match=r"produce to results.*TOPIC_AUTHORIZATION_FAILED"):
        await bench.transactions.commit(unit(bench, MANY))
    assert bench.visible == NOTHING


async def test_producer_that_is_fenced_meanwhile_is_replaced() -> None:
    """The client raises its fatal error from whatever is called next, a poll on the event loop, too."""
    bench = Bench()
    await bench.transactions.start()

    def fence() -> None:
        bench.coordinator.epochs["mill-0-0"] += 1

    bench.coordinator.answer("produce", None, before=fence)
    assert await bench.transactions.commit(unit(bench, MANY))
    assert len(bench.coordinator.outputs) == MANY
    assert bench.coordinator.count("init") == 2
