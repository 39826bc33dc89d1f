"""Transactions: every call of the transactional API stands here.

Kafka's consume-process-produce protocol with fencing by group metadata (KIP-98, KIP-447): outputs and input offsets
in one transaction, ``send_offsets_to_transaction`` with the member's current generation, stable transactional ids.
An error whose outcome is unknown is never guessed at: the producer is replaced (a new epoch aborts or completes
what was pending), then the committed offsets say whether the unit was committed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from headrace.connectors.kafka.client_log import LOG_LEVEL
from headrace.connectors.kafka.client_thread import ClientThread
from headrace.connectors.kafka.delivery_reports import SERVE_SECONDS, DeliveryReports, are_many
from headrace.connectors.kafka.errors import PASSING, Meaning, meaning_of
from headrace.connectors.kafka.gone_topics import GoneTopics
from headrace.connectors.kafka.lost_brokers import has_a_broker
from headrace.connectors.kafka.positions import committed_now
from headrace.connectors.kafka.transactional import (
    ALONE,
    CLIENT_LOG,
    TransactionSettings,
    count_error,
    producer_config,
)
from headrace.pipeline import metrics
from headrace.pipeline.errors import FatalError, FencedError, OutputRefusedError
from headrace.pipeline.ports import CommitUnit
from headrace.pipeline.records import OutputRecord

log = logging.getLogger(__name__)

T = TypeVar("T")

CALL_TIMEOUT_SECONDS = 5.0
"""One blocking call; a time-out is retried inside the unit's budget, so this only bounds how deaf the thread is."""
COMMIT_TIMEOUT_SECONDS = 0.5
"""Of a commit, repeated likewise: if a record fails, it waits all this time for those behind, which stay unsent."""
STUCK_SECONDS = 30.0
"""A call that lasts this long will never return: librdkafka does not always keep to a time-out."""
MAX_ABORTS = 20
"""Consecutive aborts of one unit before the process ends: with the back-off below about 15 s, past any election."""
MAX_REPLACEMENTS = 5
"""Consecutive replacements of the producer for one unit: each waits for the broker first, so more won't help."""
MAX_BACKOFF_SECONDS = 1.0
LOST_SECONDS = 10.0
"""How long the news that a unit's partitions are lost may take: a process that was stopped learns it by a heartbeat."""

GroupMetadata = object  # librdkafka's, opaque


class GroupMember(Protocol):
    """What transactions need of the consumer."""

    def group_metadata(self, refresh: bool) -> GroupMetadata:
        """The current generation's metadata; ``refresh`` asks the consumer's thread to take it anew first."""


class _Failed(Exception):
    """A transaction call failed, and what that means."""

    def __init__(
        self, meaning: Meaning, call: str, error: KafkaError, output: int | None = None, brokerless: bool = False
    ) -> None:
        super().__init__(f"{call}: {error.str()} ({error.name()})")
        self.meaning = meaning
        self.brokerless = brokerless
        """Its producer has no broker that it could ask."""
        self.output = output
        """Which of the unit's is too large, if the client itself has said so."""


class KafkaTransactions:
    """Implements ``ports.Transactions`` on one thread of its own.

    Args:
        on_unreachable: called with True when the broker stops answering transaction calls, with False when it is back.
        make_producer, make_consumer: called as librdkafka's classes are; the consumer only reads committed offsets.
    """

    def __init__(
        self,
        settings: TransactionSettings,
        member: GroupMember,
        on_unreachable: Callable[[bool], None] = lambda down: None,
        make_producer: Callable[..., Producer] = Producer,
        make_consumer: Callable[..., Consumer] = Consumer,
    ) -> None:
        self._settings = settings
        self._member = member
        self._on_unreachable = on_unreachable
        self._make_producer = make_producer
        self._make_consumer = make_consumer
        self._thread = ClientThread("transactions", STUCK_SECONDS)
        self._stopping = threading.Event()
        self._producers: dict[str, Producer] = {}
        self._turn = 0
        self._reports = DeliveryReports()
        self._gone = GoneTopics()
        self._remedy = "`headrace topics create` makes it again, and so does a worker that starts"

    async def start(self) -> None:
        await self._thread.run(self._start)

    async def commit(self, unit: CommitUnit) -> bool:
        outcome = asyncio.ensure_future(self._thread.run(lambda: self._commit(unit)))
        try:
            while not outcome.done():
                await asyncio.wait([outcome], timeout=SERVE_SECONDS if are_many(unit) else None)
                self._reports.serve()
            return outcome.result()
        finally:
            outcome.cancel()

    async def close(self) -> None:
        """Gives up waiting for the broker, if that is what it is doing; a transaction left open is aborted by it."""
        self._stopping.set()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                await self._thread.run(self._producers.clear)
        except (TimeoutError, FatalError):
            log.warning("a call of the Kafka client does not return: its transaction is left to the broker to abort")
        self._thread.stop()

    # --- on the thread

    def _start(self) -> None:
        for number in range(self._settings.producers):
            self._producer(str(number))

    def _next_name(self) -> str:
        self._turn = (self._turn + 1) % self._settings.producers
        return str(self._turn)

    def _producer(self, name: str) -> Producer:
        if name not in self._producers:
            self._producers.pop({ALONE: "0", "0": ALONE}.get(name, name), None)
            self._producers[name] = self._new_producer(name)
        return self._producers[name]

    def _new_producer(self, name: str) -> Producer:
        config = producer_config(self._settings, name, self._reports.note)
        producer = self._make_producer(config, logger=CLIENT_LOG)

        def initialise() -> Producer:
            nonlocal producer
            try:
                producer.init_transactions(CALL_TIMEOUT_SECONDS)
            except KafkaException:
                if not has_a_broker(producer):
                    producer = self._make_producer(config, logger=CLIENT_LOG)
                raise
            return producer

        return self._wait_for_broker(initialise, "init_transactions")

    def _has_a_broker(self, producer: Producer) -> bool:
        with self._thread.watched("list_topics"):
            return has_a_broker(producer, self._gone.see)

    def _wait_for_broker(self, call: Callable[[], T], name: str) -> T:
        """Repeat a call that is safe to repeat until the broker answers; only then is an error final."""
        backoff_seconds, down = 0.1, False
        while True:
            try:
                with self._thread.watched(name):
                    answer = call()
            except KafkaException as exception:
                error = cast("KafkaError", exception.args[0])
                if not (error.retriable() or error.code() in PASSING) or error.fatal():
                    raise FatalError(f"Kafka refused {name}: {error.str()} ({error.name()})") from exception
                if self._stopping.is_set():
                    raise FatalError(f"stopped while waiting for Kafka to answer {name}") from exception
                if not down:
                    log.warning("waiting for Kafka to answer %s: %s", name, error.str())
                    self._on_unreachable(True)
                down = True
                self._stopping.wait(backoff_seconds)
                backoff_seconds = min(backoff_seconds * 2, MAX_BACKOFF_SECONDS)
            else:
                if down:
                    log.info("Kafka answers %s again", name)
                    self._on_unreachable(False)
                return answer

    def _commit(self, unit: CommitUnit) -> bool:
        tries = aborts = replacements = 0
        stale_since: float | None = None
        alone = False
        self._gone = GoneTopics(
            {*(each.topic for each in unit.outputs), *(each.partition.topic for each in unit.offsets)}
        )
        while unit.still_owned():
            name = ALONE if alone else self._next_name()
            producer = self._producer(name)
            try:
                return self._attempt(producer, unit, refresh=stale_since is not None) or self._discard(name)
            except _Failed as failed:
                unaborted = self._abort(producer) if failed.meaning in _ABORTED else None
                self._discard(name)
                if failed.meaning is Meaning.MEMBER_FENCED and unit.still_owned():
                    # Or its partitions are lost, and it has joined anew: then the consumer will say so.
                    self._member.group_metadata(refresh=True)
                    if not self._is_lost(unit):
                        raise FencedError(f"another has joined the group as this worker: {failed}") from failed
                failed = unaborted or failed
                metrics.TRANSACTION_RETRIES.labels(failed.meaning.value).inc()
                log.warning("transaction of %d records: %s, %s", unit.records, failed.meaning.value, failed)
                if failed.meaning is Meaning.FATAL:
                    raise FatalError(f"Kafka refused the transaction: {failed}") from failed
                if failed.meaning is Meaning.TOO_LARGE:
                    if failed.output is not None or alone:
                        raise self._refused(unit, failed) from failed
                    alone = True  # a topic's limit goes for whole batches: the records may be small enough
                elif failed.meaning is Meaning.INDEFINITE:
                    replacements += not failed.brokerless
                    self._discard_brokerless()
                    self._producer(name)  # a new one, which brings the old one's transaction to its end
                    if self._was_committed(unit):
                        return True
                elif failed.meaning is Meaning.STALE_GENERATION:
                    # Soon our revoked or lost callback ends our ownership, or the fresh metadata is accepted. Unless
                    # the group has put us out (we did not poll for too long) while a cooperative revoke waits for
                    # this very transaction: then the consumer cannot tell of it.
                    stale_since = stale_since or time.monotonic()
                    if time.monotonic() - stale_since > self._settings.transaction_timeout_seconds:
                        raise FatalError(
                            "the group no longer takes this worker's commits, and has not taken its partitions away: "
                            f"it was stuck for too long in a rebalance ({failed})"
                        ) from failed
                else:
                    aborts += 1
                    self._has_a_broker(producer)
                if unit.still_owned() and (names := self._gone.names):
                    where = self._settings.bootstrap_servers
                    raise FatalError(f"topic {', '.join(names)} is gone from {where}: {self._remedy}") from failed
                if aborts > MAX_ABORTS or replacements > MAX_REPLACEMENTS:
                    raise FatalError(f"a transaction of {unit.records} records keeps failing: {failed}") from failed
                tries += 1
                if self._stopping.wait(min(0.01 * 2 ** min(tries, 8), MAX_BACKOFF_SECONDS)):
                    raise FatalError(f"stopped before a transaction could be tried again: {failed}") from failed
        return False

    def _discard(self, name: str) -> bool:
        """After an abort librdkafka takes records that were in flight for never sent: the next ones get their sequence
        numbers, which the broker confirms as duplicates and does not write. So no producer is used after one.
        """
        self._producers.pop(name, None)
        return False

    def _discard_brokerless(self) -> None:
        """Where one producer was told of no brokers, the others may have been. None of them has a transaction open."""
        for name in [name for name, each in self._producers.items() if not self._has_a_broker(each)]:
            del self._producers[name]

    def _attempt(self, producer: Producer, unit: CommitUnit, refresh: bool) -> bool:
        """One transaction, from begin to commit. False if the unit turned out not to be ours any more."""
        deadline = time.monotonic() + self._settings.transaction_timeout_seconds * 0.8
        self._reports.begin()
        self._call(producer, "begin_transaction", producer.begin_transaction, deadline)
        for index, output in enumerate(unit.outputs):
            self._produce(producer, index, output, deadline)
        if are_many(unit):
            self._reports.wait(producer, lambda: unit.still_owned() and not self._stopping.is_set())
        metadata = self._member.group_metadata(refresh)
        # After the capture: metadata of a later generation must never carry offsets of an earlier one.
        if not unit.still_owned():
            if failed := self._abort(producer):
                raise failed
            return False
        self._send_offsets(producer, unit, metadata, deadline)
        self._call(
            producer, "commit_transaction", lambda: producer.commit_transaction(COMMIT_TIMEOUT_SECONDS), deadline
        )
        producer.poll(0)  # the client's logs and errors come through here
        return True

    def _send_offsets(self, producer: Producer, unit: CommitUnit, metadata: GroupMetadata, deadline: float) -> None:
        offsets = [TopicPartition(*each.partition, each.offset, each.metadata) for each in unit.offsets]
        send = partial(producer.send_offsets_to_transaction, offsets, metadata, CALL_TIMEOUT_SECONDS)
        self._call(producer, "send_offsets_to_transaction", send, deadline)

    def _produce(self, producer: Producer, index: int, output: OutputRecord, deadline: float) -> None:
        partition = -1 if output.partition is None else output.partition
        while True:
            try:
                producer.produce(output.topic, output.value, output.key, partition, headers=list(output.headers))
                return
            except BufferError:
                producer.poll(0.01)
                if time.monotonic() > deadline:
                    raise _Failed(Meaning.ABORT, "produce", KafkaError(KafkaError._QUEUE_FULL)) from None
            except KafkaException as exception:
                error = cast("KafkaError", exception.args[0])
                raise _Failed(meaning_of(error), f"produce to {output.topic}", error, index) from exception

    def _refused(self, unit: CommitUnit, failed: _Failed) -> OutputRefusedError:
        if failed.output is not None:
            return OutputRefusedError(failed.output, str(failed))
        assert self._reports.undelivered is not None
        wanted = self._reports.undelivered.output
        same = ((output.topic, output.key, output.value) == wanted for output in unit.outputs)
        return OutputRefusedError(list(same).index(True), f"{wanted[0]} refused the record: {failed}")

    def _call(self, producer: Producer, name: str, call: Callable[[], object], deadline: float) -> None:
        """A call, repeated while it may be, there is a broker to ask, and the transaction's time lasts."""
        while True:
            try:
                with self._thread.watched(name):
                    call()
                return
            except KafkaException as exception:
                error = cast("KafkaError", exception.args[0])
                meaning = meaning_of(error)
                if meaning is Meaning.ABORT and (undelivered := self._reports.undelivered) is not None:
                    # The commit only says that some record failed; the delivery report says why.
                    error = undelivered.error
                    meaning = _delivery_meaning(error)
                    name = f"produce to {undelivered.output[0]}"
                if meaning is not Meaning.RETRY:
                    raise _Failed(meaning, name, error) from exception
                brokerless = not self._has_a_broker(producer)
                late = time.monotonic() > deadline or self._stopping.is_set()
                if brokerless or late or self._gone.names:
                    raise _Failed(Meaning.INDEFINITE, name, error, brokerless=brokerless) from exception
                self._stopping.wait(0.01)

    def _abort(self, producer: Producer) -> _Failed | None:
        """Abort. Returns what is wrong if that fails."""
        deadline = time.monotonic() + self._settings.transaction_timeout_seconds * 0.8
        try:
            self._call(
                producer, "abort_transaction", lambda: producer.abort_transaction(CALL_TIMEOUT_SECONDS), deadline
            )
        except _Failed as failed:
            failed.meaning = Meaning.FATAL if failed.meaning is Meaning.FATAL else Meaning.INDEFINITE
            return failed
        return None

    def _was_committed(self, unit: CommitUnit) -> bool:
        """Whether the group's committed offsets are this unit's.

        To be asked after the producer was replaced, when the transaction has come to its end one way or the other.
        Each unit changes the offset or metadata of each of its partitions, so equal means committed.
        """
        settings = self._settings
        consumer = self._make_consumer(
            {
                **settings.client,
                "bootstrap.servers": settings.bootstrap_servers,
                "group.id": settings.group_id,
                "isolation.level": "read_committed",
                "error_cb": count_error,
                "log_level": LOG_LEVEL,
            },
            logger=CLIENT_LOG,
        )
        try:
            asked = [TopicPartition(each.partition.topic, each.partition.partition) for each in unit.offsets]
            answer = self._wait_for_broker(
                lambda: committed_now(consumer, asked, CALL_TIMEOUT_SECONDS), "committed offsets"
            )
        finally:
            consumer.close()
        found = {(str(each.topic), int(each.partition)): (each.offset, each.metadata or "") for each in answer}
        same = [found[each.partition] == (each.offset, each.metadata) for each in unit.offsets]
        if any(same) and not all(same) and not self._is_lost(unit):
            raise FatalError(f"torn transaction: committed offsets are {found}, the unit's are {unit.offsets}")
        log.info("the transaction of unknown outcome was %s", "committed" if all(same) else "not committed")
        return all(same)

    def _is_lost(self, unit: CommitUnit) -> bool:
        """Whether partitions of the unit are another's, who moves their offsets on: perhaps before we are told so."""
        deadline = time.monotonic() + LOST_SECONDS
        while unit.still_owned() and time.monotonic() < deadline and not self._stopping.wait(0.01):
            pass
        return not unit.still_owned()


def _delivery_meaning(error: KafkaError) -> Meaning:
    meaning = meaning_of(error)
    return meaning if meaning in (Meaning.FATAL, Meaning.TOO_LARGE) else Meaning.ABORT


_ABORTED = frozenset({Meaning.ABORT, Meaning.TOO_LARGE, Meaning.STALE_GENERATION, Meaning.RETRY, Meaning.MEMBER_FENCED})
