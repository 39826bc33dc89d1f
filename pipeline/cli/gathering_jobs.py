"""Shares of what a comparison reads from Kafka, each written to tables of its own: whichever process does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.connectors.kafka.ranges import read_ranges, read_values
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.config import Settings
from headrace.pipeline.evaluate.answer_topics import AnswerTopics
from headrace.pipeline.evaluate.compared import LeftOut, OffsetSet, PartsOf
from headrace.pipeline.evaluate.gather import Events, RequestReader, gather_events, gather_failures, gather_results
from headrace.pipeline.evaluate.shares import Share
from headrace.pipeline.records import SourceRecord
from headrace.pipeline.replay.chosen import Choice, chosen
from headrace.pipeline.replay.ranges import PartitionRange
from headrace.pipeline.setup import DEAD_LETTER_HEADROOM_BYTES

TOLD_RECORDS = 500
"""Between signs of progress, about."""

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which events are compared.

    Attributes:
        topic, ranges: where they are.
        filters: which of them, as ``--filter`` says it.
        routes: whose answers; all, if empty.
        parts_of: makes what says which parts of an event.
        undecodable: whether records that cannot be decoded, too: a run makes dead letters of them.
    """

    topic: str
    ranges: tuple[PartitionRange, ...]
    filters: tuple[str, ...]
    routes: tuple[str, ...]
    parts_of: Callable[[], PartsOf]
    undecodable: bool = True


@dataclass(frozen=True, slots=True)
class ReadEvents:
    """A share of the events → a table of them, and which they are. Raises UnavailableError or FatalError.

    Attributes:
        settings: of the pipeline.
        scope: of all events.
        share: of their topic.
        path: the table.
    """

    settings: Settings
    scope: Scope
    share: Share
    path: Path

    def __call__(self, advance: Advance) -> Events:
        scope = self.scope
        events = Events(OffsetSet(scope.topic, scope.ranges))
        with _registry(self.settings) as registry:
            decode = RequestReader(registry, self.settings.topics.max_message_bytes)
            gather_events(
                self.path,
                records(self.settings, self.share, advance),
                Choice(chosen(scope.filters), decode).takes,
                decode,
                scope.parts_of(),
                events,
                undecodable=scope.undecodable,
            )
        return events


@dataclass(frozen=True, slots=True)
class ReadAnswers:
    """A share of a side's topics → tables of its answers and dead letters. Raises UnavailableError or FatalError.

    Attributes:
        settings: of the pipeline.
        topics: of the side.
        share: of these.
        events: that are compared.
        routes: whose answers; all, if empty.
        answers, failures: the tables.
    """

    settings: Settings
    topics: AnswerTopics
    share: Share
    events: OffsetSet
    routes: tuple[str, ...]
    answers: Path
    failures: Path

    def __call__(self, advance: Advance) -> LeftOut:
        letters = tuple(each for each in self.share if each.topic == self.topics.dead_letters)
        results = tuple(each for each in self.share if each.topic != self.topics.dead_letters)
        with _registry(self.settings) as registry:
            left_out = gather_results(
                self.answers, values(self.settings, results, advance), registry, self.events, self.routes
            )
            left_out.add(gather_failures(self.failures, values(self.settings, letters, advance), registry, self.events))
        return left_out


def records(settings: Settings, share: Share, advance: Advance) -> Iterator[SourceRecord]:
    """Those of a share. Raises UnavailableError or FatalError."""
    untold = 0
    for each in share:
        for record in read_ranges(settings.kafka, each.topic, each.ranges, _max_bytes(settings)):
            yield record
            untold += 1
            if untold == TOLD_RECORDS:
                advance(untold)
                untold = 0
    advance(untold)


def values(settings: Settings, share: Share, advance: Advance) -> Iterator[list[bytes | None]]:
    """Those of a share's records, some at a time. Raises UnavailableError or FatalError."""
    untold = 0
    for each in share:
        for some in read_values(settings.kafka, each.topic, each.ranges, _max_bytes(settings)):
            yield some
            untold += len(some)
            if untold >= TOLD_RECORDS:
                advance(untold)
                untold = 0
    advance(untold)


def _registry(settings: Settings) -> ConfluentRegistry:
    return ConfluentRegistry.of(settings.registry)


def _max_bytes(settings: Settings) -> int:
    return settings.topics.max_message_bytes + DEAD_LETTER_HEADROOM_BYTES
