"""What a consumer hands over: a committed record of an output topic, and what it says."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.pipeline.headers import CORRELATION_ID
from headrace.pipeline.outcomes import Outcome, OutcomeDecoder, Unreadable
from headrace.pipeline.records import DeadLetter, Headers, InferenceResult, Provenance, SourceRecord
from headrace.sdk.errors import DeadLetteredError, UnreadableRecordError


@dataclass(frozen=True, slots=True)
class Received:
    """A record of an output topic.

    Attributes:
        record: where it lies, its key and its headers.
        content: a result, a dead letter, or what it is that is neither (somebody else wrote it there).
    """

    record: SourceRecord
    content: InferenceResult | DeadLetter | Unreadable

    @property
    def result(self) -> InferenceResult:
        """The result.

        Raises:
            DeadLetteredError: it is a dead letter.
            UnreadableRecordError: it is neither.
        """
        match self.content:
            case InferenceResult():
                return self.content
            case DeadLetter():
                raise DeadLetteredError(self.content, self.record)
            case Unreadable():
                raise UnreadableRecordError(self.record, self.content.reason)

    @property
    def position(self) -> Provenance:
        """Where the record itself lies; the request's position is in the result or dead letter."""
        return self.record.provenance

    @property
    def key(self) -> bytes | None:
        """The request's key."""
        return self.record.key

    @property
    def headers(self) -> Headers:
        """In order, as on the wire."""
        return self.record.headers

    @property
    def correlation_id(self) -> bytes | None:
        """The request's, or its id if it had none."""
        return dict(self.record.headers).get(CORRELATION_ID)


def received(decoder: OutcomeDecoder, record: SourceRecord) -> Received:
    """Decode one record. Raises UnavailableError if the registry is needed and does not answer."""
    (found,) = decoder.decode([record])
    return Received(record, found.content if isinstance(found, Outcome) else found)
