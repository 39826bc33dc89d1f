"""Reading dead letters between bounds that are fixed at the beginning, however many there are."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from headrace.connectors.kafka.history import KafkaTopicHistory
from headrace.connectors.kafka.ranges import read_ranges
from headrace.connectors.kafka.redrive import dead_letters_of, mark_records
from headrace.pipeline.config import Settings
from headrace.pipeline.letters import Letter, LetterChoice, Wanted, letter_of, narrowed
from headrace.pipeline.outcomes import OutcomeDecoder
from headrace.pipeline.ports import SchemaRegistry
from headrace.pipeline.records import SourceRecord
from headrace.pipeline.redriving import Marks
from headrace.pipeline.replay.ranges import PartitionRange, bound, resolve, total
from headrace.pipeline.setup import DEAD_LETTER_HEADROOM_BYTES

LOOK_BACK_FACTOR = 4
"""How many times the wanted dead letters to go back at first: markers of transactions take offsets too."""


class LetterReader:
    """The dead letters that are wanted, of a pipeline's topic. Joins no group, commits nothing.

    Args:
        settings: of the pipeline.
        wanted: which.
        registry: where writer schemas come from.

    Raises:
        ConfigError: a bound cannot be read, or is not in the topic.
        UnavailableError, FatalError: Kafka does not answer, or there is no such topic; also while reading.
    """

    def __init__(self, settings: Settings, wanted: Wanted, registry: SchemaRegistry) -> None:
        self._settings = settings
        self._topic = settings.topics.dead_letters
        self._choice = LetterChoice(wanted)
        self._decoder = OutcomeDecoder(registry, self._topic)
        now_ms = time.time_ns() // 1_000_000
        begin, end = bound(wanted.begin, now_ms), bound(wanted.end, now_ms)
        kafka = settings.kafka
        self._history = KafkaTopicHistory(kafka.bootstrap_servers, self._topic, kafka.client)
        self.ranges = narrowed(resolve(self._history, begin, end), self._topic, wanted.positions)
        """What there is between the bounds."""

    def read(self, ranges: Sequence[PartitionRange] | None = None) -> Iterator[tuple[SourceRecord, Letter | None]]:
        """Every record of the ranges, those of each partition in order; None beside one that is no dead letter."""
        wanted = self.ranges if ranges is None else ranges
        if not total(wanted):
            return
        max_bytes = self._settings.topics.max_message_bytes + DEAD_LETTER_HEADROOM_BYTES
        for record in read_ranges(self._settings.kafka, self._topic, wanted, max_bytes):
            yield record, letter_of(self._decoder.decode([record])[0])

    def wants(self, letter: Letter) -> bool:
        """Whether a dead letter within the bounds is one of those."""
        return self._choice.takes(letter)

    def retained(self) -> tuple[PartitionRange, ...]:
        """Of the ranges, what has not been deleted meanwhile."""
        held = self._history.retained()
        moved = (replace(each, start=max(each.start, held[each.partition].start)) for each in self.ranges)
        return tuple(replace(each, end=max(each.start, each.end)) for each in moved)

    def come_since(self, offsets: Mapping[int, int]) -> tuple[PartitionRange, ...]:
        """What has been committed from these offsets on, by partition, as far as it has not been deleted."""
        held = self._history.retained()
        starts = {partition: max(offset, held[partition].start) for partition, offset in offsets.items()}
        return tuple(
            PartitionRange(partition, start, max(start, held[partition].end)) for partition, start in starts.items()
        )

    def newest(self, count: int) -> tuple[list[Letter], bool]:
        """The newest ``count`` of those that are wanted, oldest first; and whether there are surely no others.

        Goes back from the end by growing steps, so that a long history is not read for a few dead letters, until no
        partition can hold a newer one before what was read of it.
        """
        back = count * LOOK_BACK_FACTOR
        while True:
            ranges = [replace(each, start=max(each.start, each.end - back)) for each in self.ranges]
            cut = {new.partition for new, old in zip(ranges, self.ranges, strict=True) if new.start > old.start}
            found: list[tuple[int, int, int, Letter]] = []
            read_since: dict[int, int] = {}
            more = False
            for record, letter in self.read(ranges):
                at = record.provenance
                read_since.setdefault(at.partition, at.timestamp_ms)
                if letter is not None and self.wants(letter):
                    heapq.heappush(found, (at.timestamp_ms, at.partition, at.offset, letter))
                    if len(found) > count:
                        more = True
                        heapq.heappop(found)
            since = found[0][0] if len(found) == count else -math.inf
            if not cut or all(read_since.get(partition, math.inf) <= since for partition in cut):
                return [letter for *_, letter in sorted(found, key=lambda each: each[:3])], not (more or cut)
            back *= LOOK_BACK_FACTOR


class MarksReader:
    """The marks of what was redriven, read on from where they were read to.

    Raises:
        UnavailableError, FatalError: Kafka does not hand them over.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._end = 0
        self.marks = Marks(dead_letters_of(settings))

    def read(self, on_mark: Callable[[tuple[int, int]], None] = lambda _: None) -> Marks:
        """All that are committed now. ``on_mark`` is told the partition and offset of each that is new."""
        end, records = mark_records(self._settings, self._end)
        for record in records:
            self._end = record.provenance.offset + 1
            if (place := self.marks.take(record)) is not None:
                on_mark(place)
        self._end = end
        return self.marks
