"""Dead letters as ``headrace dlq`` chooses among them: by reason, by event, by position. Pure.

When they were written is a matter of offsets (``replay.ranges``), as in a replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.pipeline.headers import redrives_of
from headrace.pipeline.outcomes import Outcome, Unreadable
from headrace.pipeline.patterns import Patterns
from headrace.pipeline.records import DeadLetter, Provenance, SourceRecord
from headrace.pipeline.replay.ranges import PartitionRange

Place = tuple[str, int, int]
"""Topic, partition, offset."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: where it lies, and what it says."""

    record: SourceRecord
    content: DeadLetter

    @property
    def pipeline(self) -> str:
        """Whose it is; empty if it does not say."""
        return (dict(self.record.headers).get("ce_source") or b"").decode(errors="replace")

    @property
    def redrives(self) -> int:
        """How many redrives it has behind it."""
        return redrives_of(self.record.headers)


def letter_of(outcome: Outcome | Unreadable) -> Letter | None:
    """None of a record that somebody else wrote to the dead-letter topic."""
    if isinstance(outcome, Outcome) and isinstance(outcome.content, DeadLetter):
        return Letter(outcome.record, outcome.content)
    return None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters: one of each kind that is given must hold. Texts may have the wildcards ``*`` and ``?``.

    Attributes:
        begin, end: between which places of the dead-letter topic, as ``replay.ranges.bound`` reads them.
        codes, stages, routes, models: of the failure.
        ids: of the request.
        topics: the event's own.
        pipelines: whose.
        positions: the dead letter's or the event's.
    """

    begin: str = "earliest"
    end: str = "latest"
    codes: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    pipelines: tuple[str, ...] = ()
    positions: tuple[Place, ...] = ()

    @property
    def chooses(self) -> bool:
        """Whether anything is asked for."""
        return self != Wanted()


class LetterChoice:
    """Takes dead letters or not; of ``wanted`` all but the bounds."""

    def __init__(self, wanted: Wanted) -> None:
        self._codes = Patterns(wanted.codes)
        self._stages = Patterns(wanted.stages)
        self._routes = Patterns(wanted.routes)
        self._models = Patterns(wanted.models)
        self._ids = Patterns(wanted.ids)
        self._topics = Patterns(wanted.topics)
        self._pipelines = Patterns(wanted.pipelines)
        self._positions = frozenset(wanted.positions)

    def takes(self, letter: Letter) -> bool:
        """Whether it is one of those."""
        content = letter.content
        return (
            self._codes.match(content.code)
            and self._stages.match(content.stage)
            and self._routes.match(content.route or "")
            and self._models.match(content.model or "")
            and self._ids.match(content.request_id or "")
            and self._topics.match(content.provenance.topic)
            and (self._pipelines.anything or self._pipelines.match(letter.pipeline))
            and self._is_at(letter)
        )

    def _is_at(self, letter: Letter) -> bool:
        places = self._positions
        return not places or bool(places & {_place(letter.record.provenance), _place(letter.content.provenance)})


def _place(provenance: Provenance) -> Place:
    return provenance.topic, provenance.partition, provenance.offset


def narrowed(
    ranges: Sequence[PartitionRange], dead_letters: str, positions: Sequence[Place]
) -> tuple[PartitionRange, ...]:
    """Of these ranges of the dead-letter topic, what has to be read to find dead letters at certain positions.

    If all are positions of that topic: from the first to the last of each partition. An event's own says nothing of
    where its dead letter is.
    """
    if not positions or any(topic != dead_letters for topic, _, _ in positions):
        return tuple(ranges)
    wanted: dict[int, list[int]] = {}
    for _, partition, offset in positions:
        wanted.setdefault(partition, []).append(offset)
    found = []
    for each in ranges:
        offsets = [offset for offset in wanted.get(each.partition, ()) if each.start <= offset < each.end]
        if offsets:
            found.append(PartitionRange(each.partition, min(offsets), max(offsets) + 1))
    return tuple(found)
