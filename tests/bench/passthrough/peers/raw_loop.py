"""A raw confluent-kafka transaction loop: consume, answer, send offsets, commit. No retries, no aborts, nothing else.

Its clients are configured by the product's own functions, and it has what makes the product fast: group metadata that
is asked for once an assignment, and two producers in turn.
"""

from __future__ import annotations

import itertools
import json
import signal
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from headrace.connectors.kafka.consumer_settings import ConsumerSettings, consumer_config
from headrace.connectors.kafka.transactional import TransactionSettings, producer_config
from tests.bench.passthrough.spec import Answering, Spec

WAIT_SECONDS = 0.1
"""For a transaction's records to come together, while there are some."""
CALL_SECONDS = 30.0


def failed(error: KafkaError | None, _: Message) -> None:
    if error is not None:
        raise KafkaException(error)


class Loop:
    """The loop, until it is told to stop."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._wanted: int = spec.settings["records a transaction"]
        self._at_once: bool = spec.settings.get("waits for more", True) is False
        self._answering = Answering(spec)
        self._stopping = False
        self._metadata: Any = None
        self.transactions = self.records = 0
        clients = ConsumerSettings(spec.bootstrap_servers, spec.group, f"{spec.group}-0", (spec.requests,))
        self._consumer = Consumer(consumer_config(clients, failed_client))
        producing = TransactionSettings(
            spec.bootstrap_servers, spec.group, f"{spec.group}-0", spec.settings.get("producers", 2)
        )
        self._producers = [
            Producer(producer_config(producing, str(number), failed)) for number in range(producing.producers)
        ]

    def stop(self, *_: object) -> None:
        self._stopping = True

    def run(self) -> None:
        for producer in self._producers:
            producer.init_transactions(CALL_SECONDS)
        self._consumer.subscribe([self._spec.requests], on_assign=self._assigned)
        turns = itertools.cycle(self._producers)
        while not self._stopping:
            if records := self._consume():
                self._transact(next(turns), records)
        self._consumer.close()

    def _assigned(self, *_: object) -> None:
        self._metadata = None  # of the last generation

    def _consume(self) -> list[Message]:
        if not self._at_once:
            return self._consumer.consume(self._wanted, WAIT_SECONDS)
        first = self._consumer.poll(WAIT_SECONDS)
        return [] if first is None else [first, *self._consumer.consume(self._wanted - 1, 0)]

    def _transact(self, producer: Producer, records: list[Message]) -> None:
        if self._metadata is None:
            self._metadata = self._consumer.consumer_group_metadata()
        spec, answering = self._spec, self._answering
        ends: dict[int, int] = {}
        producer.begin_transaction()
        for record in records:
            if error := record.error():
                raise KafkaException(error)
            partition, offset = record.partition(), record.offset()
            assert partition is not None
            assert offset is not None
            value = answering.answer(record.value(), spec.requests, partition, offset, record.timestamp()[1])
            producer.produce(spec.results, value, record.key())
            ends[partition] = offset + 1
        offsets = [TopicPartition(spec.requests, partition, end) for partition, end in ends.items()]
        producer.send_offsets_to_transaction(offsets, self._metadata, CALL_SECONDS)
        producer.commit_transaction(CALL_SECONDS)
        self.transactions += 1
        self.records += len(records)


def failed_client(error: KafkaError) -> None:
    if error.fatal():
        raise KafkaException(error)


def main() -> None:
    spec = Spec.given()
    loop = Loop(spec)
    signal.signal(signal.SIGTERM, loop.stop)
    loop.run()
    Path(spec.report).write_text(json.dumps({"transactions": loop.transactions, "records": loop.records}))


if __name__ == "__main__":
    main()
