"""The transactions of a run, whose positions are a record of the run's own rather than a consumer group's offsets.

Without a group there is no generation to fence by (KIP-447), only the transactional id: and a process that has been
fenced gets a new epoch as soon as it replaces its producer, and fences the other. So whoever has made a producer looks
whether the run's newest record is one of its own. If it is, nobody else has committed, and nobody else can any more
without fencing this producer; if not, the run is another's.

All that is written of a run is written in such a transaction, its record in the runs topic too: when it begins, goes
on, ends, and is removed. So what another process has taken over cannot be written by this one any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

from confluent_kafka import Producer

from headrace.connectors.kafka.history import KafkaTopicHistory
from headrace.connectors.kafka.ranges import read_ranges
from headrace.connectors.kafka.transaction import GroupMetadata, KafkaTransactions
from headrace.connectors.kafka.transactional import BATCH_BYTES, TransactionSettings
from headrace.pipeline.config import KafkaSettings, Settings
from headrace.pipeline.errors import FatalError, FencedError, UnavailableError
from headrace.pipeline.ports import CommitUnit
from headrace.pipeline.records import OutputRecord
from headrace.pipeline.replay.ranges import PartitionRange, Retained
from headrace.pipeline.replay.settings import RECORD_BYTES, identity
from headrace.pipeline.setup import DEAD_LETTER_HEADROOM_BYTES

log = logging.getLogger(__name__)

AWAY_SECONDS = 0.5
TAKE_OVER_SECONDS = 30.0
LOOK_BACK_OFFSETS = 16
"""Markers, and what was aborted, take offsets too."""
GIVE_WAY_SECONDS = 1.0
"""A producer is replaced after half of this at the least, for mostly another process has fenced it, which commits at
once: if that were fenced in turn before it has, the two could go on so. At random, for it may do the same."""


class LostProgressError(FatalError):
    """How far a run is has been deleted."""


class _Nobody:
    """Is a member of no group."""

    def group_metadata(self, refresh: bool) -> GroupMetadata:
        return None


class KafkaRunTransactions(KafkaTransactions):
    """Implements ``counting.RunTransactions``: the last output of each unit is the run's progress.

    Args:
        settings: with one producer, so that one epoch fences.
        run: its id, for messages.
        newest: reads the value of the newest progress that is committed; None if there is none. Blocks; raises
            UnavailableError, which is waited out, or FatalError.
        remedy: what to do if a topic that it writes to is gone, for messages.
    """

    def __init__(
        self,
        settings: TransactionSettings,
        run: str,
        newest: Callable[[], bytes | None],
        on_unreachable: Callable[[bool], None] = lambda down: None,
        make_producer: Callable[..., Producer] = Producer,
        remedy: str | None = None,
    ) -> None:
        assert settings.producers == 1
        super().__init__(settings, _Nobody(), on_unreachable, make_producer)
        self._remedy = remedy or f"remove run {run}, and begin a new one"
        self._run = run
        self._newest = newest
        self._known = False
        self._found: bytes | None = None
        self._last: bytes | None = None
        self._pending: bytes | None = None

    @property
    def last(self) -> bytes | None:
        return self._last

    async def commit(self, unit: CommitUnit) -> bool:
        self._pending = unit.outputs[-1].value
        committed = await super().commit(unit)
        if committed:
            self._last = self._pending
        self._pending = None
        return committed

    def _new_producer(self, name: str) -> Producer:
        if self._known:
            self._give_way()
        producer = super()._new_producer(name)
        self._found = self._read()
        if not self._known:
            self._known, self._last = True, self._found
        self._check(self._found)
        return producer

    def _give_way(self) -> None:
        """Find out that the run is another's, if it can be seen, without fencing that one again."""
        self._stopping.wait(random.uniform(0.5, 1.0) * GIVE_WAY_SECONDS)
        with contextlib.suppress(UnavailableError):  # it may be our own transaction that is open
            self._check(self._newest())

    def _check(self, found: bytes | None) -> None:
        if found != self._last and (found is None or found != self._pending):
            raise FencedError(f"another process goes on with run {self._run}")

    def _send_offsets(self, producer: Producer, unit: CommitUnit, metadata: GroupMetadata, deadline: float) -> None:
        """The unit's last output says it all."""

    def _was_committed(self, unit: CommitUnit) -> bool:
        committed = self._found == self._pending  # what was read when the new producer had ended the transaction
        log.info("the transaction of unknown outcome was %s", "committed" if committed else "not committed")
        return committed

    def _read(self) -> bytes | None:
        down = False
        while True:
            try:
                found = self._newest()
            except UnavailableError as error:
                if not down:
                    log.warning("waiting to learn how far the run is: %s", error)
                    self._on_unreachable(True)
                down = True
                if self._stopping.wait(AWAY_SECONDS):
                    raise FatalError(f"stopped while waiting to learn how far the run is: {error}") from error
            else:
                if down:
                    self._on_unreachable(False)
                return found


def run_transactions(
    live: Settings,
    run: str,
    newest: Callable[[], bytes | None],
    on_unreachable: Callable[[bool], None] = lambda down: None,
) -> KafkaRunTransactions:
    """Those of a run, not started.

    Args:
        live: the pipeline's settings.
        run: its id.
        newest: as of ``KafkaRunTransactions``.
        on_unreachable: as of ``KafkaTransactions``.
    """
    kafka, largest = live.kafka, live.topics.max_message_bytes
    settings = TransactionSettings(
        bootstrap_servers=kafka.bootstrap_servers,
        group_id="",
        transactional_id=identity(live, run),
        producers=1,
        transaction_timeout_seconds=kafka.transaction_timeout_seconds,
        max_message_bytes=max(largest + DEAD_LETTER_HEADROOM_BYTES, RECORD_BYTES),
        max_batch_bytes=min(BATCH_BYTES, largest),
        client=kafka.client,
    )
    return KafkaRunTransactions(settings, run, newest, on_unreachable)


async def take_over(
    transactions: KafkaRunTransactions, outputs: tuple[OutputRecord, ...], *, new: bool = False
) -> None:
    """Fence every process at a run and commit this, once, with transactions that are used for nothing else.

    Args:
        transactions: of the run; closed at the end.
        outputs: what to commit; the last is progress.
        new: whether nobody may have committed anything in the run before.

    Raises:
        FencedError: another process has committed meanwhile, or before if the run is to be new.
        UnavailableError: Kafka does not answer in time.
        FatalError: Kafka does not let us.
    """
    try:
        async with asyncio.timeout(TAKE_OVER_SECONDS):
            await transactions.start()
            if new and transactions.last is not None:
                raise FencedError("another process has taken the run before it began")
            await transactions.commit(CommitUnit(outputs, (), 0, lambda: True))
    except TimeoutError as error:
        raise UnavailableError(f"Kafka does not take the run's records in {TAKE_OVER_SECONDS:.0f} s") from error
    finally:
        await transactions.close()


def newest_value(settings: KafkaSettings, topic: str) -> bytes | None:
    """The value of the last committed record of a run's progress topic; None if nothing was ever committed there.

    By offset: the clocks of the machines that wrote it may differ.

    Raises:
        UnavailableError: Kafka does not answer, or a transaction is open there: only the run's own processes write to
            it, and of those whoever asks has ended the last.
        LostProgressError: the record has been deleted.
        FatalError: there is no such topic.
    """
    history = KafkaTopicHistory(settings.bootstrap_servers, topic, settings.client)
    held = history.retained()[0]
    if history.written()[0] != held.end:
        raise UnavailableError(f"{topic} has a transaction that is open")
    found = last_value(settings, topic, held)
    if found is None and held.start > 0:
        raise LostProgressError(f"how far the run is has been deleted from {topic}: remove it, and begin a new one")
    return found


def last_value(settings: KafkaSettings, topic: str, held: Retained) -> bytes | None:
    """The value of the last record in what a topic's only partition holds. Raises UnavailableError or FatalError."""
    back = LOOK_BACK_OFFSETS
    while True:
        start = max(held.start, held.end - back)
        found = None
        for record in read_ranges(settings, topic, [PartitionRange(0, start, held.end)], RECORD_BYTES):
            found = record.value
        if found is not None or start == held.start:
            return found
        back *= LOOK_BACK_OFFSETS
