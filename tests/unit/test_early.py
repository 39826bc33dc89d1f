"""Records that are not due yet, held back by the consumer."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from headrace.connectors.kafka.early import EarlyRecords
from headrace.pipeline.records import Provenance, SourceRecord, TopicPartition

P0, P1 = TopicPartition("later", 0), TopicPartition("later", 1)
MANY = 1000


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
