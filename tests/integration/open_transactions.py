"""What others leave in a topic: transactions that are open, and records that are gone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient


def delete_records(where: str, topic: str) -> None:
    """All that there are."""
    admin = AdminClient({"bootstrap.servers": where})
    for future in admin.delete_records([TopicPartition(topic, 0, -1)]).values():
        future.result(20)


def leave_open(where: str, topic: str, transactional_id: str, value: bytes = b"open") -> Producer:
    """What has left a transaction open, with a record in this topic."""
    producer = Producer({"bootstrap.servers": where, "transactional.id": transactional_id})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, value, b"other", 0)
    assert producer.flush(20) == 0
    return producer


@contextlib.contextmanager
def left_open(where: str, topic: str, value: bytes = b"open") -> Iterator[None]:
    """A transaction of somebody else's, which is aborted at the end."""
    producer = leave_open(where, topic, f"{topic}.other", value)
    try:
        yield
    finally:
        producer.abort_transaction(20)
