"""Dead letters tried again: which can be, what is written of each, and the marks by which none is tried twice. Pure.

A dead letter that is redriven is written, key, value and headers as they were, to the pipeline's topic of redriven
records, with the header of a record that was put off (see ``retrying``). The same transaction holds its *mark*, in a
compacted topic with one partition, and, last, the transaction's *seal*. Who begins to redrive ends the transaction of
who did before, and then reads all marks; who finds another's seal where its own was the last has been followed.
"""

from __future__ import annotations

import enum
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.pipeline.config import Settings
from headrace.pipeline.config_base import DELAY_PATTERN
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.headers import delivery_of
from headrace.pipeline.letters import Letter
from headrace.pipeline.offset_table import OffsetTable
from headrace.pipeline.records import Headers, OutputRecord, Provenance, SourceRecord, TopicSpec
from headrace.pipeline.retrying import Retry, with_retry
from headrace.pipeline.setup import configured, topic_specs
from headrace.pipeline.wire import Poison

_KEY = re.compile(rb"([A-Za-z0-9._-]+):([0-9]{1,9}):([0-9]{1,18})").fullmatch
MARKS_SUFFIX = "-marks"
SEAL_KEY = b"seal"
"""Of every transaction's last record; no dead letter's position looks like it."""


class Left(enum.StrEnum):
    """Why a dead letter that was chosen is not redriven."""

    REDRIVEN = "redriven"
    OMITTED = "omitted"
    HEADERS = "headers"
    NO_REQUEST = "no_request"
    OTHER_PIPELINE = "other_pipeline"
    TOO_LARGE = "too_large"


LEFT_MEANS = {
    Left.REDRIVEN: "redriven before (--again does it again)",
    Left.OMITTED: "cannot be: content was left out, it would not have fitted the dead letter",
    Left.HEADERS: "cannot be: headers could not be read, so that they are not in the dead letter",
    Left.NO_REQUEST: "cannot be: no request, somebody else had written to a delay topic",
    Left.OTHER_PIPELINE: "of another pipeline (--pipeline)",
    Left.TOO_LARGE: "cannot be: larger than topics.max_message_bytes allows now",
}


# --- topics


def marks_topic(settings: Settings) -> str:
    """Where the marks are."""
    return f"{settings.redriven_topic}{MARKS_SUFFIX}"


def redrive_topic_specs(settings: Settings) -> tuple[TopicSpec, TopicSpec]:
    """The topic of redriven records, and that of marks, which must never be deleted by age."""
    (redriven,) = (spec for spec in topic_specs(settings) if spec.name == settings.redriven_topic)
    config = {"cleanup.policy": "compact"}
    marks = TopicSpec(marks_topic(settings), 1, settings.topics.replication_factor, config)
    return redriven, configured(settings, marks)


# --- marks


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The dead-letter topic. Its ``id`` changes when it is made anew: offsets begin again, and marks mean nothing."""

    topic: str
    id: str


def mark(letters: DeadLetters, position: Provenance, marks: str, redriven_ms: int) -> OutputRecord:
    """Says that the dead letter at this position was redriven."""
    value = _json({"topic_id": letters.id, "redriven_ms": redriven_ms})
    return OutputRecord(marks, _key(position.topic, position.partition, position.offset), value, partition=0)


def unmark(letters: DeadLetters, place: tuple[int, int], marks: str) -> OutputRecord:
    """Takes the mark of the dead letter at this partition and offset away: it is there no more."""
    return OutputRecord(marks, _key(letters.topic, *place), None, partition=0)


def seal(marks: str, process: str, number: int) -> OutputRecord:
    """The last record of a process's ``number``-th transaction. No two are equal."""
    return OutputRecord(marks, SEAL_KEY, _json({"process": process, "number": number}), partition=0)


class Marks:
    """Which dead letters of a topic were redriven, and when; eight bytes each."""

    def __init__(self, letters: DeadLetters) -> None:
        self.letters = letters
        self._redriven_ms = OffsetTable()

    def take(self, record: SourceRecord) -> tuple[int, int] | None:
        """Learn from a record of the marks' topic. Returns partition and offset of a dead letter that it marks."""
        place = _marked(self.letters, record)
        redriven_ms = 0 if place is None else _redriven_ms(self.letters, record)
        if place is None or not redriven_ms:
            return None
        self._redriven_ms[place] = redriven_ms
        return place

    def redriven_ms(self, position: Provenance) -> int | None:
        """When the dead letter at this position was redriven, in epoch milliseconds; None if it was not."""
        return self._redriven_ms[position.partition, position.offset] or None


class SpentMarks:
    """Marks of dead letters that are gone.

    Args:
        letters: the topic that they were in.
        starts: where its partitions begin now.
    """

    def __init__(self, letters: DeadLetters, starts: Mapping[int, int]) -> None:
        self._letters = letters
        self._starts = starts
        self._spent = OffsetTable()

    def take(self, record: SourceRecord) -> None:
        """Learn from a record of the marks' topic."""
        place = _marked(self._letters, record)
        if place is not None:
            gone = place[1] < self._starts.get(place[0], 0) or not _redriven_ms(self._letters, record)
            self._spent[place] = record.value is not None and gone

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Partition and offset of each."""
        return iter(self._spent)


def _marked(letters: DeadLetters, record: SourceRecord) -> tuple[int, int] | None:
    """Which dead letter of a topic of that name a record marks, or takes the mark from."""
    found = _KEY(record.key or b"")
    if found is None or found[1].decode() != letters.topic:
        return None
    return int(found[2]), int(found[3])


def _redriven_ms(letters: DeadLetters, record: SourceRecord) -> int:
    """0 if it was not in this topic, but in one that had its name, or if the mark is somebody else's."""
    try:
        content = json.loads(record.value or b"")
        topic_id, redriven_ms = content["topic_id"], content["redriven_ms"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    is_time = type(redriven_ms) is int and redriven_ms in range(2**63)  # what is larger has no room in the table
    return redriven_ms if is_time and topic_id == letters.id else 0


def _key(topic: str, partition: int, offset: int) -> bytes:
    return f"{topic}:{partition}:{offset}".encode()


def _json(fields: dict[str, str | int]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


# --- what is redriven


class Redriving:
    """Decides, and makes the records.

    Args:
        settings: of the pipeline.
        marks: of the dead letters that were redriven.
        pipelines: whose dead letters; by default those of this pipeline.
        again: also those that were redriven before.
    """

    def __init__(
        self, settings: Settings, marks: Marks, pipelines: Collection[str] = (), *, again: bool = False
    ) -> None:
        self._settings = settings
        self._marks = marks
        self._marks_topic = marks_topic(settings)
        self._any_pipeline = bool(pipelines)
        self._again = again

    def left(self, letter: Letter) -> Left | None:
        """Why it is not redriven; None if it is to be."""
        content = letter.content
        if not self._any_pipeline and letter.pipeline not in ("", self._settings.name):
            return Left.OTHER_PIPELINE
        if self._is_delay_topic(content.provenance.topic):
            return Left.NO_REQUEST
        if content.omitted_bytes:
            return Left.OMITTED
        if content.code == Poison.BAD_HEADER and not content.headers:
            return Left.HEADERS
        if not self._again and self._marks.redriven_ms(letter.record.provenance) is not None:
            return Left.REDRIVEN
        return None

    def records(self, letter: Letter, now_ms: int) -> tuple[OutputRecord, OutputRecord]:
        """What is written of a dead letter: the record that it was, due now, and its mark."""
        content, origin = letter.content, letter.content.provenance
        retry = Retry(
            *(origin.topic, origin.partition, origin.offset, origin.timestamp_ms),
            number=0,
            attempts=content.attempts,
            first_failed_ms=content.first_failed_ms,
            due_ms=now_ms,
            stage=content.stage,
            code=content.code,
            redrives=letter.redrives + 1,
        )
        topic = self._settings.redriven_topic
        return (
            OutputRecord(topic, content.key, content.value, with_retry(content.headers, retry)),
            mark(self._marks.letters, letter.record.provenance, self._marks_topic, now_ms),
        )

    def _is_delay_topic(self, topic: str) -> bool:
        """Also one of a delay that the settings have no more; a request topic whose name only begins so is none."""
        if topic == self._settings.redriven_topic:
            return True
        prefix = self._settings.delay_topic("")
        is_named_so = topic.startswith(prefix) and re.fullmatch(DELAY_PATTERN, topic.removeprefix(prefix)) is not None
        return is_named_so and topic not in self._settings.topics.requests


def deadline_passed(headers: Headers, now_ms: int) -> bool:
    """Whether the event's own deadline has passed: tried again it would be a dead letter at once."""
    try:
        deadline_ms = delivery_of(headers).deadline_ms
    except PoisonError:
        return False
    return deadline_ms is not None and deadline_ms < now_ms


@dataclass(slots=True)
class Tally:
    """What was found, and what became of it.

    Attributes:
        redriven: dead letters by (code, stage).
        left: those that were chosen and left where they are, by why.
        late: of the redriven ones, those whose own deadline had passed.
        unreadable: records in the dead-letter topic that are none.
    """

    redriven: Counter[tuple[str, str]] = field(default_factory=Counter)
    left: Counter[Left] = field(default_factory=Counter)
    late: int = 0
    unreadable: int = 0

    @property
    def count(self) -> int:
        """Redriven dead letters."""
        return self.redriven.total()

    def add(self, letters: Sequence[Letter], now_ms: int) -> None:
        """These are redriven."""
        for letter in letters:
            self.redriven[letter.content.code, letter.content.stage] += 1
            self.late += deadline_passed(letter.content.headers, now_ms)
