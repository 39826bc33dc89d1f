"""One record's journey, while it is in flight."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.pipeline.flow import RecordRef
from headrace.pipeline.headers import Delivery
from headrace.pipeline.records import InferenceRequest, Part, PartOutput, SourceRecord


@dataclass(slots=True, eq=False)
class Journey:
    """A decoded and routed record. Ends once: with a result when all its parts are answered, or as a dead letter."""

    ref: RecordRef
    record: SourceRecord
    request: InferenceRequest
    delivery: Delivery
    reply_to: tuple[str, int | None]
    decode_seconds: float
    outputs: list[PartOutput | None]
    ended: bool = False
    waited_seconds: float = 0.0
    inferred_seconds: float = 0.0
    attempts: int = 0


@dataclass(slots=True, eq=False)
class PartTask:
    """One part of a journey on its way through its route."""

    journey: Journey
    index: int
    model: str
    version: str
    route: str
    deadline_ms: int | None
    admitted_at: float = 0.0
    waited_seconds: float = 0.0
    inferred_seconds: float = 0.0
    attempts: int = 0

    @property
    def part(self) -> Part:
        return self.journey.request.parts[self.index]
