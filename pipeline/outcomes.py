"""What came of an event, as a consumer reads it: a result from a reply topic, or a dead letter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.pipeline.envelope import DeadLetterDecoder, ResultDecoder
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.ports import SchemaRegistry
from headrace.pipeline.records import DeadLetter, InferenceResult, SourceRecord


@dataclass(frozen=True, slots=True)
class Outcome:
    """One committed output record, decoded. ``record`` says where it lies; its ``content`` whose outcome it is."""

    record: SourceRecord
    content: InferenceResult | DeadLetter


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record in an output topic that is neither: somebody else wrote it there."""

    record: SourceRecord
    reason: str


class OutcomeDecoder:
    """Records of the output topics → outcomes. Asks the registry once for each schema id.

    Args:
        registry: where writer schemas come from.
        dead_letters: the dead-letter topic; records of any other topic are results.
    """

    def __init__(self, registry: SchemaRegistry, dead_letters: str) -> None:
        self._registry = registry
        self._dead_letters = dead_letters
        self._decoders = (ResultDecoder(), DeadLetterDecoder())

    def decode(self, records: Sequence[SourceRecord]) -> list[Outcome | Unreadable]:
        """One for each record, in order. Raises UnavailableError if the registry is needed and does not answer."""
        return [self._decoded(record) for record in records]

    def _decoded(self, record: SourceRecord) -> Outcome | Unreadable:
        decoder = self._decoders[record.provenance.topic == self._dead_letters]
        for schema_id in decoder.missing([record.value]):
            decoder.add_schema(schema_id, self._registry.schema(schema_id))
        try:
            return Outcome(record, decoder.decode(record.value))
        except PoisonError as error:
            return Unreadable(record, error.message)
