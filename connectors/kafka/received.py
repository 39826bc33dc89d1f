"""What the client library hands over as a message → a source record."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import NamedTuple, cast

from confluent_kafka import Message

from headrace.pipeline.records import Headers, Provenance, SourceRecord, TopicPartition


class Received(NamedTuple):
    """A record, and which of its partition's assignments it came in; None if the partition is not ours."""

    partition: TopicPartition
    generation: int | None
    record: SourceRecord

    @classmethod
    def of(cls, record: SourceRecord, assigned: Mapping[TopicPartition, int]) -> Received:
        partition = TopicPartition(record.provenance.topic, record.provenance.partition)
        return cls(partition, assigned.get(partition), record)


partition_of = operator.attrgetter("partition")


def source_record(message: Message) -> SourceRecord:
    """The record in a message that is no error."""
    provenance = Provenance(
        cast("str", message.topic()),
        cast("int", message.partition()),
        cast("int", message.offset()),
        message.timestamp()[1],
    )
    headers = _headers(message)
    return SourceRecord(provenance, message.key(), message.value(), headers or (), headers_readable=headers is not None)


_headers_of = operator.methodcaller("headers")
"""``message.headers()``, called such that the interpreter checks for an error.

If a name is not UTF-8 the client library (2.16) returns a broken list *and* leaves an exception set. A plain call of
a method, once the interpreter has specialised it, takes the list and raises the exception somewhere else.
"""


def _headers(message: Message) -> Headers | None:
    """None if a name is not UTF-8, which Kafka and other clients let pass: ours then hands over no header at all."""
    try:
        return tuple(_headers_of(message) or ())
    except (SystemError, UnicodeDecodeError):
        return None
