"""What is compared, read from Kafka into tables: events, both sides' answers, and what should have been answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import duckdb

from headrace.connectors.kafka.history import KafkaTopicHistory
from headrace.connectors.kafka.ranges import read_ranges
from headrace.connectors.kafka.reader import Beginning, CommittedReader
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.answer_topics import AnswerTopics
from headrace.pipeline.evaluate.compared import OffsetSet, PartsOf
from headrace.pipeline.evaluate.evaluation import Position
from headrace.pipeline.evaluate.gather import (
    Events,
    LeftOut,
    gather_events,
    gather_outcomes,
    gather_topic_truths,
    gather_truths,
)
from headrace.pipeline.evaluate.labels import read_labels
from headrace.pipeline.outcomes import Outcome, OutcomeDecoder, Unreadable
from headrace.pipeline.ports import SchemaRegistry
from headrace.pipeline.records import InferenceRequest, SourceRecord
from headrace.pipeline.replay.chosen import Choice, chosen
from headrace.pipeline.replay.connect import decoding
from headrace.pipeline.replay.ranges import At, Bound, Earliest, Latest, PartitionRange, resolve, total
from headrace.pipeline.setup import DEAD_LETTER_HEADROOM_BYTES

CLOCKS_APART_MS = 5 * 60 * 1000
"""A result may have an earlier timestamp than its event, if the clocks of producer and worker do not agree."""
TOPIC_LABELS = "topic:"
TOLD_RECORDS = 500
"""Between signs of progress."""
READ_SECONDS = 30.0


class Progress(Protocol):
    """Is told how far the reading is."""

    def begin(self, what: str, total: int) -> None:
        """What is done next, and how much of it there is; 0 if that is not known."""

    def advance(self, count: int) -> None:
        """So much more of it is done."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which events are compared.

    Attributes:
        topic, ranges: where they are.
        filters: which of them, as ``--filter`` says it.
        routes: whose answers; all, if empty.
        parts_of: which parts of an event.
        undecodable: whether records that cannot be decoded, too: a run makes dead letters of them.
    """

    topic: str
    ranges: tuple[PartitionRange, ...]
    filters: tuple[str, ...]
    routes: tuple[str, ...]
    parts_of: PartsOf
    undecodable: bool = True


class Gathering:
    """Reads from the topics of one Kafka, and joins no group.

    Args:
        settings: of the pipeline.
        registry: for the schemas of what is read.
        progress: is told.

    All methods raise UnavailableError or FatalError if Kafka or the registry does not let us.
    """

    def __init__(self, settings: Settings, registry: SchemaRegistry, progress: Progress) -> None:
        self._settings = settings
        self._registry = registry
        self.progress = progress
        self._max_bytes = settings.topics.max_message_bytes + DEAD_LETTER_HEADROOM_BYTES

    def ranges(self, topic: str, begin: Bound, end: Bound) -> tuple[PartitionRange, ...]:
        """What lies between two bounds now. Raises ConfigError as ``ranges.resolve`` does."""
        kafka = self._settings.kafka
        return resolve(KafkaTopicHistory(kafka.bootstrap_servers, topic, kafka.client), begin, end)

    def events(self, path: Path, scope: Scope) -> Events:
        """Write the table of events."""
        events = Events(OffsetSet(scope.topic, scope.ranges))
        decode = _remembering(decoding(self._registry, self._settings))
        takes = Choice(chosen(scope.filters), decode).takes
        records = self._read("events", scope.topic, scope.ranges)
        gather_events(path, records, takes, decode, scope.parts_of, events, undecodable=scope.undecodable)
        return events

    def answers(self, answers: Path, failures: Path, of: AnswerTopics, scope: Scope, events: Events) -> LeftOut:
        """Write the tables of a side's answers and dead letters."""
        return gather_outcomes(
            answers, failures, self._outcomes(of, events.first_ms or 0), events.offsets, scope.routes
        )

    def truths(self, path: Path, labels: str, database: duckdb.DuckDBPyConnection, scratch: Path) -> None:
        """Write the table of what should have been answered.

        Args:
            path: the table.
            labels: ``topic:NAME``, or a file.
            database: sorts out the labels of a topic.
            scratch: a file to make on the way.

        Raises:
            ConfigError: a label is none, or the file cannot be read.
        """
        if not labels.startswith(TOPIC_LABELS):
            gather_truths(path, read_labels(Path(labels)))
            return
        topic = labels.removeprefix(TOPIC_LABELS)
        if not topic:
            raise ConfigError(f"--labels {labels}: name the topic, as in topic:inference.labels")
        ranges = self.ranges(topic, Earliest(), Latest())
        gather_topic_truths(path, self._read("labels", topic, ranges), database, scratch)

    def events_at(self, topic: str) -> EventsAt:
        """Finds single events again."""
        return EventsAt(self._settings, self._registry, topic)

    def _outcomes(self, of: AnswerTopics, first_ms: int) -> Iterator[Outcome | Unreadable]:
        begin = Earliest() if of.own else At(max(0, first_ms - CLOCKS_APART_MS))
        decoder = OutcomeDecoder(self._registry, of.dead_letters or "")
        for topic in (*of.results, *filter(None, (of.dead_letters,))):
            for record in self._read(of.title, topic, self.ranges(topic, begin, Latest())):
                yield from decoder.decode([record])

    def _read(self, what: str, topic: str, ranges: Sequence[PartitionRange]) -> Iterator[SourceRecord]:
        self.progress.begin(what, total(ranges))
        for number, record in enumerate(read_ranges(self._settings.kafka, topic, ranges, self._max_bytes), 1):
            if number % TOLD_RECORDS == 0:
                self.progress.advance(TOLD_RECORDS)
            yield record


class EventsAt:
    """Single events of a topic, over one consumer."""

    def __init__(self, settings: Settings, registry: SchemaRegistry, topic: str) -> None:
        self._decode = decoding(registry, settings)
        self._reader = CommittedReader(settings.kafka, [topic], Beginning())

    def __call__(self, at: Position) -> InferenceRequest | None:
        """The event; None if it is gone or cannot be decoded. Raises UnavailableError."""
        record = self._reader.record_at(at.topic, at.partition, at.offset, READ_SECONDS)
        return None if record is None else self._decode(record)

    def close(self) -> None:
        """Leave Kafka."""
        self._reader.close()


def _remembering(
    decode: Callable[[SourceRecord], InferenceRequest | None],
) -> Callable[[SourceRecord], InferenceRequest | None]:
    """Decodes a record once, also if it is asked for twice in a row: to choose it, and then to keep it."""
    last: tuple[SourceRecord, InferenceRequest | None] | None = None

    def remembered(record: SourceRecord) -> InferenceRequest | None:
        nonlocal last
        if last is None or last[0] is not record:
            last = record, decode(record)
        return last[1]

    return remembered
