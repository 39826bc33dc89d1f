"""Idempotency at work: the ids of each partition that is ours, restored, kept current, and asked for each record.

Lives on the event loop: the flow tells it what is assigned, committed and gone, and the processor asks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from headrace.pipeline import metrics
from headrace.pipeline.config import Settings
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import FatalError
from headrace.pipeline.flow import Flow, RecordRef
from headrace.pipeline.idempotency import Arrival, PartitionIds, Seen, decode_seen, encode_seen, key_of
from headrace.pipeline.journey import Journey, PartTask
from headrace.pipeline.ordering import Completion
from headrace.pipeline.ports import Changelog, Clock
from headrace.pipeline.records import OutputRecord, SourceRecord, TopicPartition

log = logging.getLogger(__name__)

Resume = Callable[[], list[PartTask]]
"""Goes on with a record that was parked. What is wrong with it becomes its outcome."""


@dataclass(frozen=True, slots=True)
class _Parked:
    ref: RecordRef
    event_id: str
    route: str
    resume: Resume


class Duplicates:
    """Implements ``flow.Outcomes``.

    Args:
        partitions: of each topic that is written to.
        flow: where duplicates are completed, without an outcome.
    """

    def __init__(
        self, settings: Settings, partitions: Mapping[str, int], changelog: Changelog, flow: Flow, clock: Clock
    ) -> None:
        self._max_ids = {
            topic: max(each.max_ids for each in some) for topic, some in settings.idempotent_topics.items()
        }
        self._changelogs = {topic: settings.seen_topic(topic) for topic in self._max_ids}
        self._topics = {changelog: topic for topic, changelog in self._changelogs.items()}
        self._widths = partitions
        self._changelog = changelog
        self._flow = flow
        self._clock = clock
        self._partitions: dict[TopicPartition, PartitionIds[_Parked]] = {}
        self._restoring: dict[TopicPartition, list[tuple[bytes, Seen]]] = {}
        """What is committed for partitions while they are restored, of records that were put off."""
        self.resumed: asyncio.Queue[list[PartTask]] = asyncio.Queue()  # bounded by the budget
        """The tasks of records that were parked and are processed after all: to be sent to their routes."""

    # --- what the flow tells (flow.Outcomes)

    async def restore(self, partitions: Collection[TopicPartition]) -> None:
        new = {
            each: PartitionIds[_Parked](self._max_ids[each.topic]) for each in partitions if each.topic in self._max_ids
        }
        if not new:
            return
        began = self._clock.monotonic()
        into = {partition: _noting(ids) for partition, ids in new.items()}
        self._restoring |= {partition: [] for partition in new}
        try:
            await self._changelog.restore(into, max(self._max_ids[each.topic] for each in new))
            for partition, ids in new.items():
                for key, seen in self._restoring[partition]:
                    ids.note(key, seen)
        finally:
            for partition in new:
                del self._restoring[partition]
        took_seconds = self._clock.monotonic() - began
        metrics.RESTORE_SECONDS.observe(took_seconds)
        log.info("restored %d ids of %d partitions in %.1f s", sum(map(len, new.values())), len(new), took_seconds)
        self._partitions |= new

    def committed(self, ref: RecordRef, completion: Completion) -> None:
        for output in completion.outputs:
            # Of a record that was put off, perhaps, and so of a partition that another worker may have.
            if (at := self._remembers(output)) is not None:
                key, seen = output.key or b"", decode_seen(output.value)
                if at in self._restoring:
                    self._restoring[at].append((key, seen))
                elif at in self._partitions:
                    self._partitions[at].note(key, seen)
        if (ids := self._partitions.get(ref.partition)) is None or not self._flow.holds(ref):
            return
        for parked, arrival in ids.settle(ref.offset):
            self._free(parked, arrival)

    def _remembers(self, output: OutputRecord) -> TopicPartition | None:
        """The partition whose changelog this is for, if it is for one."""
        topic = self._topics.get(output.topic)
        return None if topic is None or output.partition is None else TopicPartition(topic, output.partition)

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        for each in partitions:
            self._partitions.pop(each, None)

    # --- what the processor asks

    def arrive(
        self, ref: RecordRef, record: SourceRecord, event_id: str, route: RouteSettings, resume: Resume
    ) -> Arrival:
        """A record has been routed, in offset order. A duplicate is completed here; one that is parked is resumed."""
        ids = self._partitions.get(ref.partition)
        if route.idempotency is None or ids is None or not self._flow.holds(ref):
            return Arrival.FIRST
        window_ms, sent_ms = 1000 * route.idempotency.window_seconds, record.provenance.timestamp_ms
        parked = _Parked(ref, event_id, route.name, resume)
        arrival = ids.arrive(ref.offset, key_of(event_id), sent_ms, window_ms, parked)
        if arrival is Arrival.DUPLICATE:
            self._drop(ref, event_id, route.name)
        return arrival

    def remembered(self, journey: Journey) -> OutputRecord | None:
        """What is written beside the result of an event; None if its route does not ask for it."""
        origin = journey.record.provenance
        topic = self._changelogs.get(origin.topic)
        if journey.lead.idempotency is None or topic is None:
            return None
        if journey.retry is not None and origin.partition >= self._widths[topic]:
            return None  # of a topic that was made anew since, with fewer partitions
        value = encode_seen(Seen(origin.timestamp_ms, origin.offset))
        return OutputRecord(topic, key_of(journey.request.id), value, partition=origin.partition)

    # --- what becomes of a record

    def _free(self, parked: _Parked, arrival: Arrival) -> None:
        if arrival is Arrival.DUPLICATE:
            self._drop(parked.ref, parked.event_id, parked.route)
        elif self._flow.wants(parked.ref.partition, parked.ref.generation) and (tasks := parked.resume()):
            self.resumed.put_nowait(tasks)

    def _drop(self, ref: RecordRef, event_id: str, route: str) -> None:
        metrics.DUPLICATES.labels(route).inc()
        log.debug("%s[%d]@%d is a duplicate of event %s, which has its result", *ref.partition, ref.offset, event_id)
        self._flow.complete(ref, ())


def _noting(ids: PartitionIds[_Parked]) -> Callable[[SourceRecord], None]:
    def note(record: SourceRecord) -> None:
        if record.value is None:  # a tombstone
            ids.forget(record.key or b"")
            return
        try:
            ids.note(record.key or b"", decode_seen(record.value))
        except FatalError as error:
            at = record.provenance
            raise FatalError(f"{at.topic}[{at.partition}]@{at.offset} has {error}") from error

    return note
