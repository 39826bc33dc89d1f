"""What can come of an event other than its result, as errors."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.pipeline.errors import FatalError, HeadraceError, RetriableError
from headrace.pipeline.records import DeadLetter, SourceRecord


class InvalidEventError(HeadraceError, ValueError):
    """A part or an event that no worker would take. Nothing was sent."""


class ClosedError(HeadraceError):
    """The producer, consumer or client was closed."""


class InferenceTimeoutError(HeadraceError, TimeoutError):
    """Neither a result nor a dead letter of a request was read in time. It may still be answered, to nobody."""


class DeadLetteredError(HeadraceError):
    """A request became a dead letter.

    Attributes:
        letter: why, and the request's bytes.
        record: the dead letter's own record: where it lies in the dead-letter topic.
    """

    def __init__(self, letter: DeadLetter, record: SourceRecord) -> None:
        place, own = letter.provenance, record.provenance
        super().__init__(
            f"{place.topic}:{place.partition}:{place.offset} became a dead letter, {letter.stage}/{letter.code}: "
            f"{letter.message} (headrace dlq show {own.topic}:{own.partition}:{own.offset})"
        )
        self.letter = letter
        self.record = record

    @property
    def stage(self) -> str:
        """Where on its journey the request failed."""
        return self.letter.stage

    @property
    def code(self) -> str:
        """The reason's stable, upper-case name."""
        return self.letter.code

    @property
    def message(self) -> str:
        """What is wrong with the request, for a person."""
        return self.letter.message

    def __reduce__(self) -> tuple[type[DeadLetteredError], tuple[DeadLetter, SourceRecord]]:
        return type(self), (self.letter, self.record)


class UnreadableRecordError(HeadraceError):
    """A record in an output topic is neither a result nor a dead letter.

    Attributes:
        record: as it was read.
        reason: what is wrong with it.
    """

    def __init__(self, record: SourceRecord, reason: str) -> None:
        place = record.provenance
        super().__init__(f"{place.topic}:{place.partition}:{place.offset} cannot be read: {reason}")
        self.record = record
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableRecordError], tuple[SourceRecord, str]]:
        return type(self), (self.record, self.reason)


def check_known(given: Mapping[str, object], options: type) -> None:
    """Python takes any name for a ``TypedDict``'s: raises TypeError for one that is none, as for other arguments."""
    known = options.__annotations__
    for name in given:
        if name not in known:
            raise TypeError(f"unexpected keyword argument {name!r}; {options.__name__} are {', '.join(known)}")


def again(error: HeadraceError) -> HeadraceError:
    """The same error to be raised once more: an exception that is raised in several threads mixes up their traces."""
    plain = isinstance(error, ClosedError | FatalError | RetriableError)
    fresh = type(error)(str(error)) if plain else FatalError(str(error))
    fresh.__cause__ = error
    return fresh
