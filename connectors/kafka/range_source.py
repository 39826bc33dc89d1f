"""The records of fixed ranges, once each, without any group: what a replay consumes."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from confluent_kafka import Consumer

from headrace.connectors.kafka.client_log import client_log
from headrace.connectors.kafka.consumer import FETCH_RECORDS
from headrace.connectors.kafka.lost_brokers import lost_brokers, warn_of_new_client
from headrace.connectors.kafka.ranges import NO_GROUP, RangeCursor, range_consumer_config
from headrace.connectors.kafka.waking import wake_fetchers
from headrace.pipeline import records
from headrace.pipeline.budget import Budget
from headrace.pipeline.errors import UnavailableError
from headrace.pipeline.ports import AssignmentListener, StartPosition
from headrace.pipeline.records import RecordBatch, SourceRecord
from headrace.pipeline.replay.pacing import Pacing
from headrace.pipeline.replay.ranges import PartitionRange

log = logging.getLogger(__name__)

_client_log = client_log("replay")

POLL_SECONDS = 0.1
PACED_POLL_SECONDS = 0.01
IDLE_SECONDS = 0.02
HELD_RECORDS = 1_000
"""So many of a partition's records wait for their time; then no more are fetched until half of them have gone."""
HELD_BYTES = 64 * 1024 * 1024
"""Of all together: then only partitions of which nothing waits are fetched from."""
AWAY_SECONDS = 1.0
GENERATION = 1


@dataclass(frozen=True, slots=True)
class RangeSettings:
    bootstrap_servers: str
    topic: str
    ranges: tuple[PartitionRange, ...]
    max_message_bytes: int = 8 * 1024 * 1024
    client: Mapping[str, str | int | float | bool] = field(default_factory=dict)


class RangeSource:
    """Implements ``ports.RecordSource``. Ends by itself when all is committed.

    Args:
        budget: is taken from; while it is spent nothing is handed on.
        positions: how far each partition is, where something is done; asked when the source starts.
        choose: which records are handed on; the others are passed over like offsets without a record.
        pacing: when; None if there is nothing to wait for.
        make_consumer: called as librdkafka's class is.
    """

    def __init__(
        self,
        settings: RangeSettings,
        budget: Budget,
        positions: Callable[[], Mapping[int, StartPosition]],
        choose: Callable[[SourceRecord], bool],
        pacing: Pacing | None = None,
        make_consumer: Callable[..., Consumer] = Consumer,
    ) -> None:
        self._settings = settings
        self._budget = budget
        self._positions = positions
        self._choose = choose
        self._pacing = pacing
        self._make_consumer = make_consumer
        self._lost_brokers = lost_brokers(settings.bootstrap_servers, settings.client)
        self._cursor = RangeCursor(settings.topic, settings.ranges)
        self._held: dict[int, deque[SourceRecord]] = {}
        self._held_bytes = 0
        self._paused: set[int] = set()
        self._stopping = threading.Event()
        self._failed: BaseException | None = None
        self._ended: Future[None] = Future()
        self.exhausted = False
        """Every record that is chosen is committed."""

    @property
    def remaining(self) -> int:
        """Offsets that have not been read yet, and records that are not committed yet."""
        held = sum(len(records) for records in list(self._held.values()))
        return self._cursor.unread_offsets + held + self._budget.records

    # --- on the event loop

    async def start(self, listener: AssignmentListener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._thread, name="replay", daemon=True).start()

    async def wait_ended(self) -> None:
        await asyncio.shield(asyncio.wrap_future(self._ended))

    def hold(self, topics: frozenset[str]) -> None:
        """A range is of one topic, and read in any case."""

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.wait([asyncio.wrap_future(self._ended)])

    def _receive(self, batch: RecordBatch) -> None:
        """The event loop would only log what this raises: keep it for the thread to raise."""
        try:
            self._listener.received([batch])
        except Exception as error:  # noqa: BLE001 - raised again by _step
            self._failed = error

    def _note_exhausted(self) -> None:
        """What is in flight is dropped and the source told to stop without a break on the event loop: here, what was
        dropped is not taken for committed.
        """
        if self._budget.records == 0 and not self._stopping.is_set():
            self.exhausted = True

    # --- on the source's thread

    def _thread(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - handed over whole to whoever supervises the thread
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    def _run(self) -> None:
        settings = self._settings
        config = range_consumer_config(settings.bootstrap_servers, settings.client, settings.max_message_bytes)
        config |= {"group.id": NO_GROUP, "error_cb": self._lost_brokers.note}
        try:
            self._begin()
            while not self._read_with(self._make_consumer(config, logger=_client_log)):
                warn_of_new_client()
        finally:
            names = frozenset(self._name(partition) for partition in self._cursor.next)
            asyncio.run_coroutine_threadsafe(self._listener.revoked(names), self._loop).result()

    def _read_with(self, consumer: Consumer) -> bool:
        """Until all is done, or it is stopped. False if the client has lost the brokers for good before."""
        try:
            consumer.assign(self._cursor.places(self._cursor.unread))
            self._paused.clear()
            while not self._stopping.is_set() and not self.exhausted:
                self._step(consumer)
                if self._lost_brokers.by(consumer):
                    return False
            return True
        finally:
            consumer.close()

    def _begin(self) -> None:
        cursor = self._cursor
        done = self._positions()
        for partition, at in done.items():
            assert at.offset is not None
            cursor.move(partition, at.offset)
        positions = {
            self._name(partition): done.get(partition) or StartPosition(offset, "")
            for partition, offset in cursor.next.items()
        }
        asyncio.run_coroutine_threadsafe(self._listener.assigned(GENERATION, positions), self._loop).result()

    def _step(self, consumer: Consumer) -> None:
        """Hand on what is due, or read more, or find that all is done."""
        if self._failed:
            raise self._failed
        if self._budget.full:
            self._budget.wait_for_room(POLL_SECONDS)
            return
        self._release()
        if not self._cursor.unread and not self._held:
            if self._budget.records == 0:
                self._loop.call_soon_threadsafe(self._note_exhausted)
            time.sleep(IDLE_SECONDS)
            return
        self._resume(consumer)
        self._read(consumer, PACED_POLL_SECONDS if self._held else POLL_SECONDS)

    def _read(self, consumer: Consumer, timeout_seconds: float) -> None:
        first = consumer.poll(timeout_seconds)
        if first is None:  # a message without a value is false
            self._cursor.check()
            return
        before = set(self._cursor.unread)
        for message in (first, *consumer.consume(min(FETCH_RECORDS, max(self._budget.room_records - 1, 0)), 0)):
            record = self._cursor.take(message)
            if record is not None and self._chosen(record):
                self._held.setdefault(record.provenance.partition, deque()).append(record)
                self._held_bytes += record.size_bytes
        if done := before - self._cursor.unread:
            consumer.incremental_unassign(self._cursor.places(done))
        self._release()
        self._pause(consumer)

    def _chosen(self, record: SourceRecord) -> bool:
        """What is needed to say so may be away."""
        while not self._stopping.is_set():
            try:
                return self._choose(record)
            except UnavailableError as error:
                log.warning("waiting: %s", error)
                self._stopping.wait(AWAY_SECONDS)
        return False

    def _release(self) -> None:
        """Hand on what is due: the oldest first, if it has to wait."""
        if self._pacing is None:
            for partition, held in self._held.items():
                self._hand_on(partition, held)
            self._held.clear()
            return
        while self._held and not self._budget.full:
            partition = min(self._held, key=lambda each: self._held[each][0].provenance.timestamp_ms)
            now = time.monotonic()
            if self._pacing.wait_seconds(self._held[partition][0].provenance.timestamp_ms, now) > 0:
                return
            self._pacing.take(now)
            self._hand_on(partition, [self._held[partition].popleft()])
            if not self._held[partition]:
                del self._held[partition]

    def _hand_on(self, partition: int, some: Iterable[SourceRecord]) -> None:
        batch = RecordBatch(self._name(partition), GENERATION, tuple(some))
        size_bytes = sum(record.size_bytes for record in batch.records)
        self._held_bytes -= size_bytes
        self._budget.take(len(batch.records), size_bytes)
        self._loop.call_soon_threadsafe(self._receive, batch)

    def _pause(self, consumer: Consumer) -> None:
        enough = 0 if self._held_bytes > HELD_BYTES else HELD_RECORDS
        full = {each for each, held in self._held.items() if len(held) > enough} & self._cursor.unread - self._paused
        if full:
            consumer.pause(self._cursor.places(full))
            self._cursor.forgive(full)
            self._paused |= full

    def _resume(self, consumer: Consumer) -> None:
        enough = 0 if self._held_bytes > HELD_BYTES else HELD_RECORDS // 2
        room = {each for each in self._paused if len(self._held.get(each, ())) <= enough}
        if room:
            self._paused -= room
            consumer.resume(self._cursor.places(room & self._cursor.unread))
            wake_fetchers(consumer)

    def _name(self, partition: int) -> records.TopicPartition:
        return records.TopicPartition(self._settings.topic, partition)
