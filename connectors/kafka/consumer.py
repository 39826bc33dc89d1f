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
from collections.abc import Callable, Collection, Coroutine, Iterable
from concurrent.futures import Future, wait
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from headrace.connectors.kafka.client_log import client_log
from headrace.connectors.kafka.consumer_settings import ConsumerSettings, consumer_config
from headrace.connectors.kafka.early import EarlyRecords
from headrace.connectors.kafka.lost_brokers import LostBrokers, lost_brokers, warn_of_new_client
from headrace.connectors.kafka.positions import committed_positions, named
from headrace.connectors.kafka.received import Received, partition_of, source_record
from headrace.connectors.kafka.transaction import GroupMetadata
from headrace.connectors.kafka.waking import Waker
from headrace.pipeline import metrics, records
from headrace.pipeline.budget import Budget
from headrace.pipeline.config import Assignment
from headrace.pipeline.errors import FatalError, FencedError
from headrace.pipeline.ports import AssignmentListener
from headrace.pipeline.records import RecordBatch
from headrace.pipeline.retrying import wait_seconds

log = logging.getLogger(__name__)

_client_log = client_log("consumer")

FETCH_RECORDS = 512
"""Records taken from librdkafka at a time: amortises the hand-over, and bounds how far a budget is overshot."""
LANE_FETCH_RECORDS = 128
"""Where topics have shares of the budget: how many of a topic whose share is full may stand before those of another."""
POLL_SECONDS = 0.1
PAUSED_POLL_SECONDS = 0.02
ROOM_WAIT_SECONDS = 0.2
"""A budget spent for less than this is waited for without pausing: resuming throws the fetched records away."""
WAKE_SECONDS = 0.05
"""How often a rebalance callback looks after what else needs this thread while it waits."""
LEAVE_SECONDS = 1.0
"""It takes milliseconds, if a broker is there at all."""


class GroupConsumer:
    """Implements ``ports.RecordSource`` and the transactions' ``GroupMember``.

    A static member identity: a worker that is killed and restarted in its slot takes its partitions back without a
    rebalance, and one that stops leaves the group at once. With eager assignment (`range`) a rebalance revokes
    everything; with `cooperative-sticky` only what another member is to have, and the rest goes on. A partition's
    generation, ours and not the group's, is the number of the assignment that brought it.

    Args:
        budget: is taken from; while it is spent nothing is fetched.
        make_consumer: called as librdkafka's class is.
        lost: finds out whether a new client is needed; by default it asks the brokers themselves.
    """

    def __init__(
        self,
        settings: ConsumerSettings,
        budget: Budget,
        make_consumer: Callable[..., Consumer] = Consumer,
        lost: LostBrokers | None = None,
    ) -> None:
        self._settings = settings
        self._budget = budget
        self._fetch_records = LANE_FETCH_RECORDS if budget.divided else FETCH_RECORDS
        self._make_consumer = make_consumer
        self._lost_brokers = lost or lost_brokers(settings.bootstrap_servers, settings.client)
        self._cooperative = settings.assignment is Assignment.COOPERATIVE_STICKY
        self._generation = 0
        self._assigned: dict[records.TopicPartition, int] = {}
        self._early = EarlyRecords(lambda record: wait_seconds(record, time.time_ns() // 1_000_000, settings.delays))
        self._full = False
        self._held: frozenset[str] = frozenset()
        self._paused: frozenset[records.TopicPartition] = frozenset()
        self._metadata: GroupMetadata = None
        self._member_id: str | None = None
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

    def hold(self, topics: frozenset[str]) -> None:
        self._held = topics

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
        while not self._consume():
            warn_of_new_client()

    def _consume(self) -> bool:
        """Until it is stopped. False if the client has lost the brokers for good before."""
        consumer = self._make_consumer(consumer_config(self._settings, self._on_error), logger=_client_log)
        consumer.subscribe(
            list(self._settings.topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        self._waker = Waker(consumer)
        try:
            while not self._stopping.is_set():
                self._take_metadata_if_wanted(consumer)
                self._full = self._budget.full and (self._full or not self._budget.wait_for_room(ROOM_WAIT_SECONDS))
                self._pause(consumer, self._assigned.keys() if self._full else self._unwanted())
                self._poll(consumer, PAUSED_POLL_SECONDS if self._full else POLL_SECONDS)
                if self._lost_brokers.by(consumer):
                    self._lose(consumer)
                    return False
            # A static member's close() leaves its seat in the group; unsubscribing gives it up at once.
            consumer.unsubscribe()
            deadline = time.monotonic() + self._settings.callback_timeout_seconds
            while self._assigned and time.monotonic() < deadline:
                self._poll(consumer, PAUSED_POLL_SECONDS)
            # A close() that overtakes the client's LeaveGroup, which it sends on a thread of its own, drops it.
            deadline = time.monotonic() + LEAVE_SECONDS
            while consumer.memberid() and time.monotonic() < deadline:
                self._poll(consumer, PAUSED_POLL_SECONDS)
            return True
        finally:
            self._waker.close()
            consumer.close()

    def _lose(self, consumer: Consumer) -> None:
        """Whatever it still has the group has long given to others."""
        assigned = consumer.assignment()
        self._release(consumer, assigned, self._listener.lost(_names(assigned)))

    def _unwanted(self) -> set[records.TopicPartition]:
        """Paused while others are read: what is early, lanes that are held, topics that have taken their share."""
        held = self._held  # set from the event loop
        return {
            *self._early.partitions,
            *(
                each
                for each in self._assigned
                if each.topic in held or self._budget.crowds_out(each.topic, each in self._paused)
            ),
        }

    def _pause(self, consumer: Consumer, partitions: Collection[records.TopicPartition]) -> None:
        """Have these, and no others, paused."""
        wanted = frozenset(partitions)
        if more := wanted - self._paused:
            consumer.pause(_client_partitions(more))
        if less := self._paused - wanted:
            consumer.resume(_client_partitions(less))
            self._waker.wake()
        self._paused = wanted

    def _poll(self, consumer: Consumer, timeout_seconds: float) -> None:
        """Wait for one record, then take what else is there: ``consume(n, t)`` alone would wait for n or for t."""
        first = consumer.poll(timeout_seconds)
        found: list[Received] = []
        if first is not None:  # a message without a value is false
            found += self._found([first])
            found += self._found(consumer.consume(min(self._fetch_records, max(self._budget.room_records - 1, 0)), 0))
        if self._callback_failed:
            raise self._callback_failed
        # A rebalance may have run inside consume. What was polled of a partition that went will come again; the client
        # itself drops what it had fetched for an assignment that is over.
        self._hand_over([each for each in found if each.generation == self._assigned.get(each.partition)])
        self._hand_over([Received.of(record, self._assigned) for record in self._early.due(self._room_for_early())])

    def _found(self, polled: Iterable[Message]) -> list[Received]:
        """The records among what was polled of partitions that are ours, each with its partition's generation now.

        Those that are not due are held back.
        """
        found: list[Received] = []
        for message in polled:
            if error := message.error():
                self._check(error)
                continue
            each = Received.of(source_record(message), self._assigned)
            if each.generation and not (
                each.partition.topic in self._settings.delays and self._early.hold_back(each.partition, each.record)
            ):
                found.append(each)
        return found

    def _room_for_early(self) -> int:
        """Delay topics have one share of the budget, be it their own or that of all others."""
        return min(FETCH_RECORDS, next((self._budget.room_of(each.topic) for each in self._early.partitions), 0))

    def _hand_over(self, found: list[Received]) -> None:
        if not found:
            return
        found.sort(key=partition_of)  # stable: offsets stay in order
        batches = [
            RecordBatch(partition, self._assigned[partition], tuple([each.record for each in some]))
            for partition, some in itertools.groupby(found, key=partition_of)
        ]
        for batch in batches:
            size_bytes = sum(record.size_bytes for record in batch.records)
            self._budget.take(len(batch.records), size_bytes, batch.partition.topic)
            metrics.RECORDS.labels(batch.partition.topic).inc(len(batch.records))
        self._loop.call_soon_threadsafe(self._receive, batches)

    def _take_metadata_if_wanted(self, consumer: Consumer) -> None:
        if self._metadata_wanted.is_set():
            self._metadata_wanted.clear()
            self._take_metadata(consumer)
            self._metadata_fresh.set()

    def _take_metadata(self, consumer: Consumer) -> None:
        """The metadata of the group's generation now.

        Not while this member is out of the group, and never of a membership in which what it holds was not assigned:
        a static member that the group took for dead just as it was joining comes back under a new member id, and
        librdkafka then keeps its partitions without a word, although others may have had them meanwhile.
        """
        metadata = consumer.consumer_group_metadata()
        member_id = consumer.memberid()  # after the capture: it never becomes again what it was
        if self._assigned and member_id != self._member_id:
            if member_id:
                raise FatalError("the group took this worker for dead while it was joining: start it again")
            return
        self._metadata, self._member_id = metadata, member_id

    def _check(self, error: KafkaError) -> None:
        if error.code() in (KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED) or _FENCED_WORDS in error.str():
            raise FencedError(f"another has joined the group as {self._settings.instance_id}: {error.str()}")
        if error.fatal() or error.code() in _REFUSED:
            raise FatalError(f"Kafka refused to consume: {error.str()} ({error.name()})")
        log.warning("consume: %s (%s)", error.str(), error.name())

    def _on_error(self, error: KafkaError) -> None:
        metrics.KAFKA_ERRORS.labels("consumer").inc()
        self._lost_brokers.note(error)
        down = error.code() == KafkaError._ALL_BROKERS_DOWN
        (log.warning if down else log.debug)("kafka: %s", error.str())

    # --- rebalance callbacks, on the consumer thread, from inside poll, consume, unsubscribe and close

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._guard(lambda: self._assign(consumer, partitions))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._guard(lambda: self._revoke(consumer, partitions))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._guard(lambda: self._release(consumer, partitions, self._listener.lost(_names(partitions))))

    def _guard(self, callback: Any) -> None:
        """The client library swallows what a callback raises: keep it for the poll loop to raise."""
        try:
            callback()
        except BaseException as error:  # noqa: BLE001 - raised again by _poll
            self._callback_failed = error

    def _assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._callback_failed:
            return
        deadline = self._callback_deadline()
        self._take_metadata(consumer)
        if partitions:
            self._on_loop(consumer, self._listener.assigning(), deadline, until_stopped=True)
        positions = committed_positions(consumer, partitions, deadline, self._stopping)
        self._generation += 1
        self._on_loop(consumer, self._listener.assigned(self._generation, positions), deadline, until_stopped=True)
        self._assigned |= dict.fromkeys(positions, self._generation)
        metrics.ASSIGNED_PARTITIONS.set(len(self._assigned))
        added = [
            TopicPartition(*partition, OFFSET_BEGINNING if position.offset is None else position.offset)
            for partition, position in positions.items()
        ]
        (consumer.incremental_assign if self._cooperative else consumer.assign)(added)
        if self._full:
            consumer.pause(added)
            self._paused |= positions.keys()
        elif self._cooperative:
            self._waker.wake()  # while it waits for a rebalance callback the client pauses what stays, too

    def _revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._cooperative:
            # The group is a generation on already, unlike in an eager rebalance: what is drained is committed in it.
            self._take_metadata(consumer)
        self._release(consumer, partitions, self._listener.revoked(_names(partitions)))

    def _release(
        self, consumer: Consumer, partitions: list[TopicPartition], listener_call: Coroutine[Any, Any, None]
    ) -> None:
        gone = [each for each in partitions if named(each) in self._assigned]
        try:
            self._on_loop(consumer, listener_call, self._callback_deadline())
        finally:
            for each in map(named, gone):
                del self._assigned[each]
                self._early.drop(each)
                self._paused -= {each}
            metrics.ASSIGNED_PARTITIONS.set(len(self._assigned))
            try:
                # librdkafka remembers a pause beyond unassign: a partition that came back would stay paused for ever.
                consumer.resume(gone)
            finally:
                if self._cooperative:
                    consumer.incremental_unassign(gone)
                    self._waker.wake()
                else:
                    consumer.unassign()

    def _callback_deadline(self) -> float:
        return time.monotonic() + self._settings.callback_timeout_seconds

    def _on_loop(
        self, consumer: Consumer, call: Coroutine[Any, Any, None], deadline: float, until_stopped: bool = False
    ) -> None:
        """Wait for the event loop. Transactions that are open get the group metadata that they ask for meanwhile."""
        outcome = asyncio.run_coroutine_threadsafe(call, self._loop)
        while not wait([outcome], WAKE_SECONDS).done:
            self._take_metadata_if_wanted(consumer)
            if until_stopped and self._stopping.is_set():
                outcome.cancel()
                return
            if time.monotonic() > deadline:
                outcome.cancel()
                raise FatalError(
                    f"a rebalance has not been dealt with in {self._settings.callback_timeout_seconds:.0f} s: a "
                    "transaction or a piece of work does not come to its end"
                )
        outcome.result()


def _client_partitions(partitions: Iterable[records.TopicPartition]) -> list[TopicPartition]:
    return [TopicPartition(*each) for each in partitions]


def _names(partitions: list[TopicPartition]) -> frozenset[records.TopicPartition]:
    return frozenset(map(named, partitions))


_REFUSED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
        KafkaError._FATAL,
        KafkaError._BAD_MSG,  # of a batch with a wrong checksum: records would be passed over
    }
)
_FENCED_WORDS = KafkaError(KafkaError.FENCED_INSTANCE_ID).str()
"""In a fatal error of a consumer, whose own code is always ``_FATAL`` (and whose ``fatal()`` is false)."""
