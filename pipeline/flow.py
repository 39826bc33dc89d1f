"""Records in flight: from the source's hands to a transaction, or dropped when their partition goes.

Lives on the event loop. Owns the ledgers of the current assignment, answers the source's rebalance calls, and makes
the units that the group commit writes.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from headrace.pipeline.budget import Budget
from headrace.pipeline.errors import FatalError, OutputRefusedError
from headrace.pipeline.light import light_dataclass
from headrace.pipeline.offsets import MetadataFormat, decode_metadata
from headrace.pipeline.ordering import Completion, Instead, Lane, PartitionLedger, Taken
from headrace.pipeline.ports import CommitUnit, OffsetCommit, StartPosition
from headrace.pipeline.records import OutputRecord, RecordBatch, SourceRecord, TopicPartition

log = logging.getLogger(__name__)


@light_dataclass(frozen=True, slots=True)
class RecordRef:
    """A record in flight: its partition, the generation it was consumed in, and its offset."""

    partition: TopicPartition
    generation: int
    offset: int


class Calls(Protocol):
    """What infer calls ask before they take records along, and say when they end (see ``Flow``)."""

    def wants(self, partition: TopicPartition, generation: int) -> bool: ...

    def begin_call(self, ref: RecordRef) -> bool: ...

    def end_call(self, ref: RecordRef) -> None: ...


class Outcomes(Protocol):
    """Keeps what came of the records of partitions, as long as they are ours (see ``Duplicates``)."""

    async def restore(self, partitions: Collection[TopicPartition]) -> None:
        """Know what is committed of these partitions, which are to be ours when this returns."""

    def committed(self, ref: RecordRef, completion: Completion) -> None:
        """What came of a record has been committed."""

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """They are ours no more."""


@dataclass(slots=True)
class _Held:
    """A partition that is ours."""

    partition: TopicPartition
    generation: int
    ledger: PartitionLedger
    alive: bool = True
    draining: bool = False
    """No infer call takes its records along any more."""
    closed: bool = False
    """No transaction does."""
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """A commit unit and whose records it holds."""

    commit: CommitUnit
    taken: tuple[tuple[_Held, Taken], ...]


class Flow:
    """Implements ``ports.AssignmentListener``.

    Args:
        budget: shared with the source: everything it takes is released here, once.
        deliver: where record batches go to be processed.
        drain_timeout_seconds: how long a revoke waits for infer calls in flight and the commits of what they complete.
        offset_metadata: the newest format of offset metadata that is written.
    """

    def __init__(
        self,
        budget: Budget,
        deliver: Callable[[RecordBatch], None],
        drain_timeout_seconds: float,
        offset_metadata: MetadataFormat = MetadataFormat.H2,
    ) -> None:
        self._budget = budget
        self._deliver = deliver
        self._drain_timeout_seconds = drain_timeout_seconds
        self._window = offset_metadata.window
        self._held: dict[TopicPartition, _Held] = {}
        self._call_ended = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._turn = 0
        self.joined = False
        """True from the first assignment on, even one of no partitions."""
        self.completed = asyncio.Event()
        """Set when there may be something to commit."""
        self.flush: Callable[[], Awaitable[None]] = _nothing
        """Commits everything that is ready; set by the group commit."""
        self.outcomes: Outcomes | None = None
        """Set by the worker if a route needs it."""
        self.leaving: Callable[[frozenset[TopicPartition]], None] = _nobody
        """Told of partitions before they are drained, and once they are gone; set by the shadows."""

    # --- what the source calls (ports.AssignmentListener)

    async def assigning(self) -> None:
        # A group's follower can come back in the very generation it left, which then fences nothing: a transaction
        # that outlived its drain could still commit offsets that have just been read as uncommitted.
        await self._settled.wait()

    async def assigned(self, generation: int, positions: Mapping[TopicPartition, StartPosition]) -> None:
        if self.outcomes is not None and positions:
            await self.outcomes.restore(positions.keys())
        self.joined = True
        for partition, position in positions.items():
            start = position.offset or 0
            done, complaint = decode_metadata(start, position.metadata)
            if complaint:
                log.warning("%s[%d]: %s", *partition, complaint)
            self._held[partition] = _Held(partition, generation, PartitionLedger(start, done, self._window))
        log.info("assigned %d partitions (generation %d)", len(positions), generation)

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        held = [self._held[partition] for partition in partitions if partition in self._held]
        if not held:
            return
        for each in held:
            each.draining = True
        self.leaving(partitions)
        try:
            async with asyncio.timeout(self._drain_timeout_seconds):
                while any(each.calls for each in held):
                    self._call_ended.clear()
                    await self._call_ended.wait()
                await self.flush()
        except TimeoutError:
            log.warning("revoked: not drained in %.1f s, the rest will be processed again", self._drain_timeout_seconds)
            if self._held.keys() - partitions:
                # A transaction may be under way with records of those that stay, too, which must not be dropped.
                for each in held:
                    each.closed = True
                await self._settled.wait()
        self._drop(partitions)
        log.info("revoked %d partitions", len(partitions))

    async def lost(self, partitions: frozenset[TopicPartition]) -> None:
        self._drop(partitions)
        log.warning("lost %d partitions: another worker has them, what was in flight is dropped", len(partitions))

    def abandon(self) -> None:
        """Drop everything: this worker has failed and commits no more."""
        self._drop(self.partitions)

    def received(self, batches: Sequence[RecordBatch]) -> None:
        for batch in batches:
            held = self._held.get(batch.partition)
            if held is None or held.generation != batch.generation:
                size_bytes = sum(record.size_bytes for record in batch.records)
                self._budget.release(len(batch.records), size_bytes, batch.partition.topic)
                continue
            admitted = tuple(record for record in batch.records if self._admit(held, record))
            if admitted:
                self._deliver(RecordBatch(batch.partition, batch.generation, admitted))
            if len(admitted) < len(batch.records):
                self.completed.set()  # the metadata that said so may have nothing to say any more

    def _admit(self, held: _Held, record: SourceRecord) -> bool:
        if held.ledger.admit(record.provenance.offset, record.size_bytes):
            return True
        self._budget.release(1, record.size_bytes, held.partition.topic)
        return False

    def _drop(self, partitions: frozenset[TopicPartition]) -> None:
        for partition in partitions:
            if held := self._held.pop(partition, None):
                held.alive = False
                self._budget.release(*held.ledger.outstanding, partition.topic)
        if self.outcomes is not None:
            self.outcomes.forget(partitions)
        self.leaving(partitions)

    # --- what the processing calls

    def wants(self, partition: TopicPartition, generation: int) -> bool:
        """False if work on this record batch is in vain: its partition is gone or going."""
        held = self._held.get(partition)
        return held is not None and held.generation == generation and not held.draining

    def enter(self, ref: RecordRef, lanes: Sequence[Lane]) -> None:
        """Queue a record in its order lanes (see ``ordering``), in offset order."""
        if held := self._find(ref):
            held.ledger.enter(ref.offset, lanes)

    def begin_call(self, ref: RecordRef) -> bool:
        """An infer call is about to take this record along; False if it must not."""
        if not self.wants(ref.partition, ref.generation):
            return False
        self._held[ref.partition].calls += 1
        return True

    def holds(self, ref: RecordRef) -> bool:
        """Whether a record's partition is still ours, if only to be drained."""
        return self._find(ref) is not None

    def hold(self, ref: RecordRef) -> bool:
        """More work on a record whose infer call ends: a drain waits for it too. False if the record has gone."""
        held = self._find(ref)
        if held is None:
            return False
        held.calls += 1
        return True

    def end_call(self, ref: RecordRef) -> None:
        """The counterpart of a ``begin_call`` or ``hold`` that returned True."""
        if held := self._find(ref):
            held.calls -= 1
            self._call_ended.set()

    def complete(self, ref: RecordRef, outputs: Sequence[OutputRecord], instead: Instead | None = None) -> None:
        """A record is processed (see ``ordering.Completion``). Dropped without trace if its partition has gone."""
        held = self._find(ref)
        if held is not None and held.ledger.complete(ref.offset, outputs, instead):
            self.completed.set()

    def _find(self, ref: RecordRef) -> _Held | None:
        held = self._held.get(ref.partition)
        return held if held is not None and held.generation == ref.generation else None

    # --- what the group commit calls

    def collect(self, max_records: int, max_bytes: int = sys.maxsize) -> Unit | None:
        """Completed records as one unit; another partition goes first each time.

        Args:
            max_records: how many at most.
            max_bytes: of their outputs, at most, unless one record has more.
        """
        partitions = list(self._held)
        self._turn = (self._turn + 1) % len(partitions) if partitions else 0
        taken: list[tuple[_Held, Taken]] = []
        records_left, bytes_left = max_records, max_bytes
        for partition in partitions[self._turn :] + partitions[: self._turn]:
            held = self._held[partition]
            if held.closed:
                continue
            if (
                records_left > 0
                and bytes_left > 0
                and (some := held.ledger.take(records_left, bytes_left, at_least_one=not taken))
            ):
                records_left -= some.records
                bytes_left -= some.output_bytes
                taken.append((held, some))
        if not taken:
            return None
        self._settled.clear()
        return _unit(tuple(taken))

    def refuse(self, unit: Unit, error: OutputRefusedError) -> Unit:
        """The same unit with something else in the place of the record whose output its topic refuses.

        Raises:
            FatalError: it is a dead letter that is refused.
        """
        taken = list(unit.taken)
        owner, number, place = _whose(unit, error.index)
        held, some = taken[owner]
        instead = some.completions[number].instead
        if instead is None:
            raise FatalError(f"a dead letter cannot be written: {error}")
        completions = list(some.completions)
        completions[number] = instead(place, str(error))
        taken[owner] = held, replace(some, completions=tuple(completions))
        return _unit(tuple(taken))

    def settle(self, unit: Unit, committed: bool) -> None:
        """A unit's transaction has come to its end: its records are no longer in flight.

        Raises:
            FatalError: it was not committed, but not all its partitions are gone: the rest would be lost.
        """
        for held, some in unit.taken:
            self._budget.release(some.records, some.size_bytes, held.partition.topic)
        self._settled.set()
        if committed and self.outcomes is not None:
            for held, some in unit.taken:
                for offset, completion in zip(some.offsets, some.completions, strict=True):
                    self.outcomes.committed(RecordRef(held.partition, held.generation, offset), completion)
        if not committed and any(held.alive for held, _ in unit.taken):
            raise FatalError("a transaction was dropped although partitions of it are still assigned")

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        return frozenset(self._held)


def _unit(taken: tuple[tuple[_Held, Taken], ...]) -> Unit:
    owners = [held for held, _ in taken]
    commit = CommitUnit(
        outputs=tuple([output for _, some in taken for output in some.outputs]),
        offsets=tuple(OffsetCommit(held.partition, some.offset, some.metadata) for held, some in taken),
        records=sum(some.records for _, some in taken),
        still_owned=lambda: all(each.alive for each in owners),
    )
    return Unit(commit, taken)


def _whose(unit: Unit, index: int) -> tuple[int, int, int]:
    """Which partition's which completion an output of a unit is of, and which of its outputs it is."""
    places = [
        (owner, number, place)
        for owner, (_, some) in enumerate(unit.taken)
        for number, completion in enumerate(some.completions)
        for place in range(len(completion.outputs))
    ]
    return places[index]


async def _nothing() -> None:
    return None


def _nobody(partitions: frozenset[TopicPartition]) -> None:
    return None
