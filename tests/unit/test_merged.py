from __future__ import annotations

from headrace.pipeline.records import Provenance, RecordBatch, SourceRecord, TopicPartition
from headrace.pipeline.worker import merged

A, B = TopicPartition("a", 0), TopicPartition("a", 1)


def batch(partition: TopicPartition, generation: int, *offsets: int) -> RecordBatch:
    records = (SourceRecord(Provenance(*partition, offset, 0), None, b"", ()) for offset in offsets)
    return RecordBatch(partition, generation, tuple(records))


def told(batches: list[RecordBatch]) -> list[tuple[TopicPartition, int, list[int]]]:
    return [(each.partition, each.generation, [r.provenance.offset for r in each.records]) for each in batches]


def test_records_of_a_partition_and_generation_become_one_batch_in_their_order() -> None:
    found = merged([batch(A, 1, 1), batch(B, 1, 7), batch(A, 1, 2, 3), batch(A, 2, 3), batch(B, 1, 8), batch(A, 2, 4)])
    assert told(found) == [(A, 1, [1, 2, 3]), (B, 1, [7, 8]), (A, 2, [3, 4])]


def test_one_batch_stays_as_it_is() -> None:
    one = batch(A, 1, 1, 2)
    assert merged([one])[0] is one
