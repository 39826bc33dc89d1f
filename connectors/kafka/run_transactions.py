"""The transactions of a run, whose positions are a record of the run's own rather than a consumer group's offsets.

Without a group there is no generation to fence by (KIP-447), only the transactional id: and a process that has been
fenced gets a new epoch as soon as it replaces its producer, and fences the other. So whoever has made a producer looks
whether the run's newest record is one of its own. If it is, nobody else has committed, and nobody else can any more
without fencing this producer; if not, the run is another's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from confluent_kafka import Producer

from headrace.connectors.kafka.history import KafkaTopicHistory
from headrace.connectors.kafka.ranges import read_ranges
from headrace.connectors.kafka.transaction import GroupMetadata, KafkaTransactions
from headrace.connectors.kafka.transactional import TransactionSettings
from headrace.pipeline.config import KafkaSettings
from headrace.pipeline.errors import FatalError, FencedError, UnavailableError
from headrace.pipeline.ports import CommitUnit
from headrace.pipeline.replay.ranges import PartitionRange, Retained
from headrace.pipeline.replay.settings import RECORD_BYTES

log = logging.getLogger(__name__)

AWAY_SECONDS = 0.5
LOOK_BACK_OFFSETS = 16
"""Markers, and what was aborted, take offsets too."""


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
            UnavailableError.
    """

    def __init__(
        self,
        settings: TransactionSettings,
        run: str,
        newest: Callable[[], bytes | None],
        on_unreachable: Callable[[bool], None] = lambda down: None,
        make_producer: Callable[..., Producer] = Producer,
    ) -> None:
        assert settings.producers == 1
        super().__init__(settings, _Nobody(), on_unreachable, make_producer)
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
        producer = super()._new_producer(name)
        self._found = self._read()
        if not self._known:
            self._known, self._last = True, self._found
        elif self._found not in (self._last, self._pending):
            raise FencedError(f"another process goes on with run {self._run}")
        return producer

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


def newest_value(settings: KafkaSettings, topic: str) -> bytes | None:
    """The value of the last committed record of a run's progress topic; None if nothing was ever committed there.

    By offset: the clocks of the machines that wrote it may differ.

    Raises:
        UnavailableError: Kafka does not answer, or a transaction is open there: only the run's own processes write to
            it, and of those whoever asks has ended the last.
        FatalError: there is no such topic, or the record has been deleted.
    """
    history = KafkaTopicHistory(settings.bootstrap_servers, topic, settings.client)
    held = history.retained()[0]
    if history.written()[0] != held.end:
        raise UnavailableError(f"{topic} has a transaction that is open")
    found = last_value(settings, topic, held)
    if found is None and held.start > 0:
        raise FatalError(f"how far the run is has been deleted from {topic}: remove the run, and begin a new one")
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
