"""Records that are not due yet, held back by the consumer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.connectors.kafka.early import EarlyRecords
from headrace.pipeline.records import Provenance, SourceRecord, TopicPartition
from headrace.pipeline.retrying import Retry, wait_seconds, with_retry

P0, P1 = TopicPartition("later", 0), TopicPartition("later", 1)
MANY = 1000
DELAY_SECONDS = 5
DELAYS = {P0.topic: float(DELAY_SECONDS)}
TWO_DAYS_MS = 172_800_000


class Bench:
    """Records that say in their value when they are due."""

    def __init__(self) -> None:
        self.now = 100.0
        self.early = EarlyRecords(lambda record: float(record.value or b"0") - self.now, lambda: self.now)

    def take(self, partition: TopicPartition, *due: float) -> list[float]:
        """What of records that are due then may be handed over at once."""
        return [each for each in due if not self.early.hold_back(partition, _record(each))]

    def due(self, most: int = MANY) -> list[float]:
        return _times(self.early.due(most))


def _record(due: float) -> SourceRecord:
    return SourceRecord(Provenance("later", 0, 0, 0), None, str(due).encode(), ())


def _times(records: Sequence[SourceRecord]) -> list[float]:
    return [float(record.value or b"") for record in records]


def test_record_that_is_due_is_not_held_back() -> None:
    bench = Bench()
    assert bench.take(P0, 99, 100) == [99, 100]
    assert not bench.early.partitions


def test_what_comes_after_an_early_record_waits_with_it() -> None:
    bench = Bench()
    assert bench.take(P0, 103, 99, 106, 101) == []
    assert set(bench.early.partitions) == {P0}
    assert bench.take(P1, 99) == [99]
    bench.now = 102.9
    assert bench.due() == []
    bench.now = 103
    assert bench.due() == [103, 99]
    assert bench.due() == []
    bench.now = 106
    assert bench.due() == [106, 101]
    assert not bench.early.partitions
    assert bench.take(P0, 106) == [106]


def test_no_more_than_there_is_room_for() -> None:
    bench = Bench()
    bench.take(P0, 101, 101, 101)
    bench.take(P1, 101)
    bench.now = 101
    assert bench.due(0) == []
    assert len(bench.due(2)) == 2
    assert len(bench.due(2)) == 2
    assert not bench.early.partitions


def test_what_was_held_back_goes_with_its_partition() -> None:
    bench = Bench()
    bench.take(P0, 101)
    bench.take(P1, 101)
    bench.early.drop(P0)
    bench.early.drop(P0)
    bench.now = 101
    assert bench.due() == [101]
    assert bench.take(P0, 101) == [101]


@pytest.mark.parametrize("jump_ms", [-TWO_DAYS_MS, -7000, 0, TWO_DAYS_MS])
@pytest.mark.parametrize("stamped", [True, False])
def test_records_due_together_go_together_whatever_the_wall_clock_does(jump_ms: int, stamped: bool) -> None:
    """20 records, fetched by a worker whose clock jumps before the first, the eleventh, or as they wait."""
    for jump_at in (0, 10, 20):
        clocks = Clocks()
        early = clocks.early_records()
        written_ms = clocks.epoch_ms
        for index in range(20):
            clocks.jumped_ms += jump_ms * (index == jump_at)
            record = _put_off(written_ms, stamped=stamped)
            assert early.hold_back(P0, record) or jump_ms > 0
        clocks.jumped_ms += jump_ms * (jump_at == 20)
        seconds = 0
        while early.partitions and seconds < 1000:
            early.due(MANY)
            seconds += 1
            clocks.monotonic += 1.0
        assert seconds - 1 <= 2 * DELAY_SECONDS
        if stamped:
            assert seconds - 1 <= DELAY_SECONDS


def test_what_is_fetched_later_is_not_held_for_twice_its_delay_afresh() -> None:
    clocks = Clocks()
    early = clocks.early_records()
    written_ms = clocks.epoch_ms
    clocks.jumped_ms = -TWO_DAYS_MS
    for _ in range(2):
        assert early.hold_back(P0, _put_off(written_ms))
        clocks.monotonic += DELAY_SECONDS
        assert len(early.due(MANY)) == 1


class Clocks:
    """Both of a worker: the wall clock jumps, the monotonic one does not."""

    def __init__(self) -> None:
        self.monotonic = 100.0
        self.jumped_ms = 0

    @property
    def epoch_ms(self) -> int:
        return 1_800_000_000_000 + round(1000 * self.monotonic) + self.jumped_ms

    def early_records(self) -> EarlyRecords:
        return EarlyRecords(lambda record: wait_seconds(record, self.epoch_ms, DELAYS), lambda: self.monotonic)


def _put_off(written_ms: int, *, stamped: bool = True) -> SourceRecord:
    retry = Retry("requests", 0, 0, 0, 1, 1, written_ms, written_ms + 1000 * DELAY_SECONDS, "infer", "TIMEOUT")
    return SourceRecord(Provenance(P0.topic, 0, 0, written_ms if stamped else -1), None, b"", with_retry((), retry))


@given(
    st.lists(st.tuples(st.sampled_from([P0, P1]), st.floats(100, 120)), max_size=30),
    st.lists(st.floats(0, 3), min_size=1, max_size=30),
    st.integers(1, 5),
)
def test_each_record_once_in_order_and_never_too_soon(
    records: list[tuple[TopicPartition, float]], steps: list[float], room: int
) -> None:
    bench = Bench()
    found: list[float] = []
    waiting = list(records)
    for step in [*steps, *[10.0] * (len(records) + 5)]:
        for partition, due in waiting[:3]:
            if bench.take(partition, due):
                assert due <= bench.now
                found.append(due)
        del waiting[:3]
        came = bench.due(room)
        assert all(due <= bench.now for due in came)
        found += came
        bench.now += step
    assert sorted(found) == sorted(due for _, due in records)
