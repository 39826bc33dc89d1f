"""What is compared, read from Kafka into tables: events, both sides' answers, and what should have been answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import duckdb

from headrace.connectors.kafka.history import KafkaTopicHistory
from headrace.connectors.kafka.reader import Beginning, CommittedReader
from headrace.pipeline.cli.gathering_jobs import ReadAnswers, ReadEvents, Scope, records
from headrace.pipeline.cli.processes import Processes
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.answer_topics import AnswerTopics
from headrace.pipeline.evaluate.compared import LeftOut, OffsetSet
from headrace.pipeline.evaluate.evaluation import Position
from headrace.pipeline.evaluate.gather import Events
from headrace.pipeline.evaluate.gather_labels import gather_topic_truths, gather_truths
from headrace.pipeline.evaluate.labels import read_labels
from headrace.pipeline.evaluate.shares import Share, TopicRanges, shares
from headrace.pipeline.ports import SchemaRegistry
from headrace.pipeline.records import InferenceRequest
from headrace.pipeline.replay.connect import decoding
from headrace.pipeline.replay.ranges import At, Bound, Earliest, Latest, PartitionRange, resolve, total

CLOCKS_APART_MS = 5 * 60 * 1000
"""A result may have an earlier timestamp than its event, if the clocks of producer and worker do not agree."""
TOPIC_LABELS = "topic:"
READ_SECONDS = 30.0
SHARED_OFFSETS = 100_000
"""Of fewer the start of processes takes longer than they save."""


class Progress(Protocol):
    """Is told how far the reading is."""

    def begin(self, what: str, total: int) -> None:
        """What is done next, and how much of it there is; 0 if that is not known."""

    def advance(self, count: int) -> None:
        """So much more of it is done."""


class Gathering:
    """Reads from the topics of one Kafka, and joins no group.

    Args:
        settings: of the pipeline.
        progress: is told.
        processes: how many share in what is much.
        shared_offsets: what is much.

    All methods raise UnavailableError or FatalError if Kafka or the registry does not let us.
    """

    def __init__(
        self,
        settings: Settings,
        progress: Progress,
        processes: int = 1,
        shared_offsets: int = SHARED_OFFSETS,
    ) -> None:
        self._settings = settings
        self._processes = Processes(processes)
        self._shared_offsets = shared_offsets
        self.progress = progress

    def close(self) -> None:
        """End the processes: their memory may be needed elsewhere."""
        self._processes.close()

    def ranges(self, topic: str, begin: Bound, end: Bound) -> tuple[PartitionRange, ...]:
        """What lies between two bounds now. Raises ConfigError as ``ranges.resolve`` does."""
        kafka = self._settings.kafka
        return resolve(KafkaTopicHistory(kafka.bootstrap_servers, topic, kafka.client), begin, end)

    def events(self, tables: Path, scope: Scope) -> Events:
        """Write tables of events.

        Args:
            tables: theirs: its ``*`` stands for a number.
            scope: which.
        """
        shared = self._shares("events", [TopicRanges(scope.topic, scope.ranges)])
        jobs = [ReadEvents(self._settings, scope, share, _numbered(tables, number)) for number, share in shared]
        events = Events(OffsetSet(scope.topic, scope.ranges))
        for found in self._processes.run(jobs, self.progress.advance):
            events.update(found)
        return events

    def answers(self, answers: Path, failures: Path, of: AnswerTopics, scope: Scope, events: Events) -> LeftOut:
        """Write tables of a side's answers and dead letters, named as those of events are."""
        begin = Earliest() if of.own else At(max(0, (events.first_ms or 0) - CLOCKS_APART_MS))
        topics = (*of.results, *filter(None, (of.dead_letters,)))
        shared = self._shares(of.title, [TopicRanges(topic, self.ranges(topic, begin, Latest())) for topic in topics])
        jobs = [
            ReadAnswers(
                self._settings,
                of,
                share,
                events.offsets,
                scope.routes,
                _numbered(answers, number),
                _numbered(failures, number),
            )
            for number, share in shared
        ]
        left_out = LeftOut()
        for found in self._processes.run(jobs, self.progress.advance):
            left_out.add(found)
        return left_out

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
        whole = (TopicRanges(topic, self.ranges(topic, Earliest(), Latest())),)
        self.progress.begin("labels", _offsets(whole))
        gather_topic_truths(path, records(self._settings, whole, self.progress.advance), database, scratch)

    def _shares(self, what: str, whole: Sequence[TopicRanges]) -> Iterator[tuple[int, Share]]:
        """By number: in the order of the whole, which is that of the tables."""
        self.progress.begin(what, _offsets(whole))
        return enumerate(shares(whole, self._processes.count if _offsets(whole) >= self._shared_offsets else 1))


def _offsets(whole: Sequence[TopicRanges]) -> int:
    return sum(total(each.ranges) for each in whole)


def _numbered(tables: Path, number: int) -> Path:
    return tables.with_name(tables.name.replace("*", f"{number:03}"))


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
