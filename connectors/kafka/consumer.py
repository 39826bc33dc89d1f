"""The group consumer: one thread that polls, hands record batches to the event loop, and waits on rebalances.

The thread alone touches the librdkafka consumer, its group metadata included: taking that from another thread was
seen to starve beside ``poll``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.connectors.kafka.group import client_id
from headrace.connectors.kafka.received import source_record
from headrace.connectors.kafka.transaction import RECOVERY, GroupMetadata
from headrace.pipeline import metrics, records
from headrace.pipeline.budget import Budget
from headrace.pipeline.errors import FatalError, SlotTakenError
from headrace.pipeline.ports import AssignmentListener, StartPosition
from headrace.pipeline.records import RecordBatch, SourceRecord

log = logging.getLogger(__name__)

_client_log = logging.getLogger("librdkafka.consumer")

FETCH_RECORDS = 512
"""Records taken from librdkafka at a time: amortises the hand-over, and bounds how far a budget is overshot."""
POLL_SECONDS = 0.1
PAUSED_POLL_SECONDS = 0.02
ROOM_WAIT_SECONDS = 0.2
"""A budget spent for less than this is waited for without pausing: resuming throws the fetched records away."""
POSITIONS_TIMEOUT_SECONDS = 120.0
"""Committed offsets become readable when the last owner's transaction ends: its time-out, which the settings bound by
100 s, the ten seconds after which the broker notices, and a margin."""
CALLBACK_TIMEOUT_SECONDS = 240.0
MAX_POLL_INTERVAL_SECONDS = 300.0
"""Above all that a rebalance callback waits for: past it the group gives the partitions away."""
LEAVE_SECONDS = 1.0
"""It takes milliseconds, if a broker is there at all."""
CLIENT_RECEIVE_BYTES = 100_000_000
"""librdkafka's default for the largest response, with its overhead. A broker sends a record whole, however large."""


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    bootstrap_servers: str
    group_id: str
    instance_id: str
    topics: tuple[str, ...]
    session_timeout_seconds: float = 6.0
    max_message_bytes: int = 8 * 1024 * 1024
    client: Mapping[str, str | int | float | bool] = field(default_factory=dict)


class GroupConsumer:
    """Implements ``ports.RecordSource`` and the transactions' ``GroupMember``.

    Eager assignment with a static member identity: a worker that is killed and restarted in its slot takes its
    partitions back without a rebalance, and one that stops leaves the group at once.

    Args:
        budget: is taken from; while it is spent nothing is fetched.
        make_consumer: called as librdkafka's class is.
    """

    def __init__(
        self, settings: ConsumerSettings, budget: Budget, make_consumer: Callable[..., Consumer] = Consumer
    ) -> None:
        self._settings = settings
        self._budget = budget
        self._make_consumer = make_consumer
        self._generation = 0
        self._assigned: list[TopicPartition] = []
        self._metadata: GroupMetadata = None
        self._metadata_wanted = threading.Event()
        self._metadata_fresh = threading.Event()
        self._stopping = threading.Event()
        self._callback_failed: BaseException | None = None
        self._ended: Future[None] = Future()

    # --- on the event loop

    async def start(self, listener: AssignmentListener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._thread, name="consumer", daemon=True).start()

    async def wait_ended(self) -> None:
        await asyncio.shield(asyncio.wrap_future(self._ended))

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.wait([asyncio.wrap_future(self._ended)])

    def _receive(self, batches: list[RecordBatch]) -> None:
        """The event loop would only log what this raises: keep it for the poll loop to raise."""
        try:
            self._listener.received(batches)
        except Exception as error:  # noqa: BLE001 - raised again by _poll
            self._callback_failed = error

    # --- on the transactions' thread

    def group_metadata(self, refresh: bool) -> GroupMetadata:
        if refresh:
            self._metadata_fresh.clear()
            self._metadata_wanted.set()
            self._metadata_fresh.wait(1.0)  # on time-out the old metadata is refused once more, and asked for again
        return self._metadata

    # --- on the consumer thread

    def _thread(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - handed over whole to whoever supervises the thread
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    def _run(self) -> None:
        consumer = self._make_consumer(self._config(), logger=_client_log)
        consumer.subscribe(
            list(self._settings.topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        try:
            while not self._stopping.is_set():
                self._take_metadata_if_wanted(consumer)
                if self._budget.full and not self._budget.wait_for_room(ROOM_WAIT_SECONDS):
                    self._poll_paused(consumer)
                    continue
                self._poll(consumer, POLL_SECONDS)
            # A static member's close() leaves its seat in the group; unsubscribing gives it up at once.
            consumer.unsubscribe()
            deadline = time.monotonic() + CALLBACK_TIMEOUT_SECONDS
            while self._assigned and time.monotonic() < deadline:
                self._poll(consumer, PAUSED_POLL_SECONDS)
            # A close() that overtakes the client's LeaveGroup, which it sends on a thread of its own, drops it.
            deadline = time.monotonic() + LEAVE_SECONDS
            while consumer.memberid() and time.monotonic() < deadline:
                self._poll(consumer, PAUSED_POLL_SECONDS)
        finally:
            consumer.close()

    def _config(self) -> dict[str, Any]:
        settings = self._settings
        return {
            **RECOVERY,
            "receive.message.max.bytes": CLIENT_RECEIVE_BYTES + settings.max_message_bytes,
            **settings.client,
            "bootstrap.servers": settings.bootstrap_servers,
            "group.id": settings.group_id,
            "group.instance.id": settings.instance_id,
            "client.id": client_id(settings.instance_id),
            "session.timeout.ms": int(settings.session_timeout_seconds * 1000),
            "heartbeat.interval.ms": int(settings.session_timeout_seconds * 1000 / 4),
            "max.poll.interval.ms": int(MAX_POLL_INTERVAL_SECONDS * 1000),
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "range",
            "fetch.wait.max.ms": 100,
            "fetch.queue.backoff.ms": 2,  # default 1000: the fetcher sleeps a second each time its queue is full
            "queued.min.messages": 20_000,
            "queued.max.messages.kbytes": 65_536,
            "error_cb": self._on_error,
            "log_level": 4,  # warnings and worse, of syslog's levels
        }

    def _poll_paused(self, consumer: Consumer) -> None:
        consumer.pause(consumer.assignment())
        generation = self._generation  # what a later one brings is not paused
        try:
            while self._budget.full and generation == self._generation and not self._stopping.is_set():
                self._take_metadata_if_wanted(consumer)
                self._poll(consumer, PAUSED_POLL_SECONDS)
        finally:
            consumer.resume(consumer.assignment())

    def _poll(self, consumer: Consumer, timeout_seconds: float) -> None:
        """Wait for one record, then take what else is there: ``consume(n, t)`` alone would wait for n or for t."""
        first = consumer.poll(timeout_seconds)
        generation = self._generation
        rest = consumer.consume(min(FETCH_RECORDS, max(self._budget.room_records - 1, 0)), 0) if first else []
        if self._callback_failed:
            raise self._callback_failed
        if generation != self._generation or not self._assigned:
            first = None  # polled before a rebalance that ran inside consume: it will come again
        self._hand_over([record for record in (first, *rest) if record is not None])

    def _hand_over(self, polled: list[Message]) -> None:
        found: list[SourceRecord] = []
        for record in polled:
            if error := record.error():
                self._check(error)
            else:
                found.append(source_record(record))
        if not found:
            return
        self._budget.take(len(found), sum(record.size_bytes for record in found))
        found.sort(key=_partition_of)  # stable: offsets stay in order
        batches = [
            RecordBatch(partition, self._generation, tuple(batch))
            for partition, batch in itertools.groupby(found, key=_partition_of)
        ]
        for batch in batches:
            metrics.RECORDS.labels(batch.partition.topic).inc(len(batch.records))
        self._loop.call_soon_threadsafe(self._receive, batches)

    def _take_metadata_if_wanted(self, consumer: Consumer) -> None:
        if self._metadata_wanted.is_set():
            self._metadata_wanted.clear()
            self._metadata = consumer.consumer_group_metadata()
            self._metadata_fresh.set()

    def _check(self, error: KafkaError) -> None:
        if error.code() in (KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED):
            raise SlotTakenError(f"another process has joined the group as {self._settings.instance_id}: {error.str()}")
        if error.fatal() or error.code() in _REFUSED:
            raise FatalError(f"Kafka refused to consume: {error.str()} ({error.name()})")
        log.warning("consume: %s (%s)", error.str(), error.name())

    def _on_error(self, error: KafkaError) -> None:
        metrics.KAFKA_ERRORS.labels("consumer").inc()
        down = error.code() == KafkaError._ALL_BROKERS_DOWN
        (log.warning if down else log.debug)("kafka: %s", error.str())

    # --- rebalance callbacks, on the consumer thread, from inside poll, consume, unsubscribe and close

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._guard(lambda: self._assign(consumer, partitions))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._guard(lambda: self._release(consumer, self._listener.revoked(_names(partitions))))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._guard(lambda: self._release(consumer, self._listener.lost(_names(partitions))))

    def _guard(self, callback: Any) -> None:
        """The client library swallows what a callback raises: keep it for the poll loop to raise."""
        try:
            callback()
        except BaseException as error:  # noqa: BLE001 - raised again by _poll
            self._callback_failed = error

    def _assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._callback_failed:
            return
        self._wait_until_settled()
        positions = {} if self._stopping.is_set() else self._positions(consumer, partitions)
        self._generation += 1
        self._metadata = consumer.consumer_group_metadata()
        self._on_loop(self._listener.assigned(self._generation, positions))
        self._assigned = [
            TopicPartition(*partition, OFFSET_BEGINNING if position.offset is None else position.offset)
            for partition, position in positions.items()
        ]
        metrics.ASSIGNED_PARTITIONS.set(len(self._assigned))
        consumer.assign(self._assigned)

    def _release(self, consumer: Consumer, listener_call: Coroutine[Any, Any, None]) -> None:
        try:
            self._on_loop(listener_call)
        finally:
            self._assigned = []
            metrics.ASSIGNED_PARTITIONS.set(0)
            try:
                # librdkafka remembers a pause beyond unassign: a partition that came back would stay paused for ever.
                consumer.resume(consumer.assignment())
            finally:
                consumer.unassign()

    def _wait_until_settled(self) -> None:
        """Until the transaction of the last assignment, if one is open, can no longer change the committed offsets."""
        settled = asyncio.run_coroutine_threadsafe(self._listener.assigning(), self._loop)
        deadline = time.monotonic() + POSITIONS_TIMEOUT_SECONDS
        while not wait([settled], 0.05).done:
            if self._stopping.is_set():
                settled.cancel()
                return
            if time.monotonic() > deadline:
                raise FatalError(f"a transaction has not come to its end in {POSITIONS_TIMEOUT_SECONDS:.0f} s")
        settled.result()

    def _positions(
        self, consumer: Consumer, partitions: list[TopicPartition]
    ) -> dict[records.TopicPartition, StartPosition]:
        """The committed offsets, once they are stable: a transaction of the last owner may still be pending."""
        deadline = time.monotonic() + POSITIONS_TIMEOUT_SECONDS
        while partitions:
            try:
                answer = consumer.committed(partitions, 5.0)
                problem = next((each.error for each in answer if each.error), None)
            except KafkaException as exception:
                problem = cast("KafkaError", exception.args[0])
            if problem is None:
                return {
                    records.TopicPartition(str(each.topic), each.partition): StartPosition(
                        each.offset if each.offset >= 0 else None, each.metadata or ""
                    )
                    for each in answer
                }
            if self._stopping.is_set():
                break
            if time.monotonic() > deadline:
                raise FatalError(f"could not read the committed offsets: {problem.str()}")
            log.info("waiting for stable committed offsets: %s", problem.str())
            self._stopping.wait(0.05)
        return {}

    def _on_loop(self, call: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(call, self._loop).result(CALLBACK_TIMEOUT_SECONDS)


def _partition_of(record: SourceRecord) -> records.TopicPartition:
    return records.TopicPartition(record.provenance.topic, record.provenance.partition)


def _names(partitions: list[TopicPartition]) -> frozenset[records.TopicPartition]:
    return frozenset(records.TopicPartition(str(each.topic), each.partition) for each in partitions)


_REFUSED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
    }
)
