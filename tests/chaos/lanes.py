"""What is sent to lanes at a steady rate, what comes of it, and what that costs a worker's memory."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition

from headrace.pipeline.pacing import Pace
from tests.chaos.checker import position_in
from tests.integration.avro_ends import Position

LATE_SECONDS = 5.0
"""A sender that cannot keep its rate, by so much, fails the test: the load would not be what it says."""
READ_SECONDS = 60.0


class Lane:
    """Sends one value to a topic again and again, at a steady rate. One thread at a time may use it.

    Args:
        bootstrap_servers: of the brokers.
        topic: of the lane; it exists.
        value: of every record.
    """

    def __init__(self, bootstrap_servers: str, topic: str, value: bytes) -> None:
        self._topic = topic
        self._value = value
        self._producer = Producer(
            {"bootstrap.servers": bootstrap_servers, "enable.idempotence": True, "linger.ms": 0, "retries": 100}
        )
        self._failure: KafkaError | None = None
        self.sent_at: dict[Position, float] = {}
        """When each record that was delivered was sent, in seconds of the monotonic clock."""

    def send(self, rate: float, count: int) -> list[Position]:
        """So many records, so many a second. Returns when all are delivered, with where they are.

        Raises:
            AssertionError: one could not be delivered, or the rate not be kept.
        """
        positions: list[Position] = []
        pace = Pace(rate, time.monotonic(), LATE_SECONDS)
        for number in range(count):
            time.sleep(max(0.0, pace.wait_seconds(time.monotonic())))
            now = time.monotonic()
            assert pace.wait_seconds(now) > -LATE_SECONDS, f"{self._topic} gets less than {rate:.0f} records a second"
            pace.take(now)
            self._producer.produce(
                self._topic, self._value, b"k%d" % number, on_delivery=partial(self._report, now, positions)
            )
            self._producer.poll(0)
        assert self._producer.flush(30) == 0
        assert self._failure is None, self._failure
        return positions

    def _report(self, sent_at: float, positions: list[Position], error: KafkaError | None, record: Message) -> None:
        if error is not None:
            self._failure = error
            return
        position = Position(self._topic, cast("int", record.partition()), cast("int", record.offset()))
        self.sent_at[position] = sent_at
        positions.append(position)


class Outcomes:
    """A thread that reads output topics ``read_committed`` as they grow, from their beginnings.

    Args:
        bootstrap_servers: of the brokers.
        topics: to read; they exist.
    """

    def __init__(self, bootstrap_servers: str, topics: Sequence[str]) -> None:
        self._client = {"bootstrap.servers": bootstrap_servers}
        self._consumer = Consumer(
            {
                **self._client,
                "group.id": "outcomes",  # never joined
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
            }
        )
        known = self._consumer.list_topics(timeout=10).topics
        self._read_to = dict.fromkeys(((topic, each) for topic in topics for each in known[topic].partitions), 0)
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="outcomes")
        self.seen_at: dict[Position, float] = {}
        """When the first outcome of each input was seen, in seconds of the monotonic clock."""
        self.again: Counter[Position] = Counter()
        """Further outcomes of an input."""
        self.by_topic: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._consumer.assign([TopicPartition(*where, OFFSET_BEGINNING) for where in self._read_to])
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def wait(self, positions: Sequence[Position], seconds: float) -> None:
        """Until all of these have an outcome.

        Raises:
            AssertionError: not in time.
        """
        deadline = time.monotonic() + seconds
        for position in positions:
            while position not in self.seen_at:
                self._look(deadline, f"{position} has no outcome; {len(self.seen_at)} inputs have")

    def read_to_ends(self) -> None:
        """Until all is read that has been written, which an open transaction would hold up.

        Raises:
            AssertionError: not in time.
        """
        deadline = time.monotonic() + READ_SECONDS
        for where, end in self._ends().items():
            while (read_to := self._read_to[where]) < end:
                self._look(deadline, f"{where[0]}[{where[1]}] is read to {read_to} of {end}")

    def _ends(self) -> dict[tuple[str, int], int]:
        # Asked by a client of its own: one that is polled without a pause lets no other call pass.
        asking = Consumer({**self._client, "group.id": "ends", "isolation.level": "read_uncommitted"})
        try:
            return {
                where: asking.get_watermark_offsets(TopicPartition(*where), timeout=10)[1] for where in self._read_to
            }
        finally:
            asking.close()

    def _look(self, deadline: float, what: str) -> None:
        assert self._failure is None, f"the reader has ended: {self._failure!r}"
        assert time.monotonic() < deadline, f"in vain: {what}"
        self._stopping.wait(0.02)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                first = self._consumer.poll(0.1)
                if first is None:
                    continue
                now = time.monotonic()
                for record in (first, *self._consumer.consume(500, 0)):
                    self._take(record, now)
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits
            self._failure = error

    def _take(self, record: Message, now: float) -> None:
        topic, error = cast("str", record.topic()), record.error()
        if error is not None:
            assert error.code() == KafkaError._PARTITION_EOF, error
            self._read_to[topic, cast("int", record.partition())] = cast("int", record.offset())
            return
        self.by_topic[topic] += 1
        found = position_in(record.headers())
        assert found is not None, f"{topic}@{record.offset()} names no input"
        position = Position(*found)
        if position in self.seen_at:
            self.again[position] += 1
        else:
            self.seen_at[position] = now


def resident_bytes(pid: int) -> int:
    """What the process holds in memory now."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
