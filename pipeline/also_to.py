"""``also_to``: second records of an event that is answered, in its result's transaction. Pure."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from headrace.pipeline.config_output import AlsoTo, NextParts, ValueKind
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.emit import Emitter
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.headers import Delivery, mapped_headers, next_delivery, request_headers, result_headers
from headrace.pipeline.limits import MAX_HOPS
from headrace.pipeline.mapping import value_at
from headrace.pipeline.records import (
    InferenceRequest,
    InferenceResult,
    Modality,
    OutputRecord,
    Part,
    SourceRecord,
    Stage,
)


@dataclass(frozen=True, slots=True)
class Answered:
    """An event with its result."""

    record: SourceRecord
    request: InferenceRequest
    delivery: Delivery
    result: InferenceResult


def also_outputs(route: RouteSettings, answered: Answered, emitter: Emitter, pipeline: str) -> list[OutputRecord]:
    """The second records of an event.

    Args:
        route: that of its first part.
        answered: the event.
        emitter: makes the records.
        pipeline: its name, for ``ce_source`` and the source of new events.

    Raises:
        PoisonError: ``ALSO_TO_FAILED`` if one cannot be written, ``TOO_MANY_HOPS`` if this one would be the event's
            17th stage.
    """
    outputs = []
    for number, also in enumerate(route.also_to):
        try:
            output = _output(route, also, number, answered, emitter, pipeline)
        except ValueError as error:
            raise PoisonError(Stage.ENCODE, "ALSO_TO_FAILED", f"also_to of route {route.name}: {error}") from error
        if output is not None:
            outputs.append(output)
    return outputs


def _output(
    route: RouteSettings, also: AlsoTo, number: int, answered: Answered, emitter: Emitter, pipeline: str
) -> OutputRecord | None:
    record, result, delivery = answered.record, answered.result, answered.delivery
    key = record.key
    if also.write is ValueKind.RESULT:
        headers = result_headers(delivery, result.request_id, result.provenance, result.completed_ms, pipeline)
        return emitter.record(also.topic, result, key, headers)
    if also.write is ValueKind.JSON:
        fields = {name: value_at(path, record, answered.request, result) for name, path in also.fields.items()}
        headers = mapped_headers(
            delivery,
            result.request_id,
            result.provenance,
            result.completed_ms,
            pipeline,
            also.type or answered.request.type,
        )
        return emitter.record(also.topic, fields, key, headers)
    request = _next_request(route, also, number, answered, f"{pipeline}/{route.name}")
    if request is None:
        return None
    if delivery.hops >= MAX_HOPS:
        raise PoisonError(
            Stage.ENCODE,
            "TOO_MANY_HOPS",
            f"the event has gone through {delivery.hops} stages already: do the routes' also_to go round in a circle?",
        )
    return emitter.record(
        also.topic, request, key, request_headers(request, next_delivery(delivery, result.request_id))
    )


def _next_request(
    route: RouteSettings, also: AlsoTo, number: int, answered: Answered, source: str
) -> InferenceRequest | None:
    """The event for the next stage; None if there is nothing to make it of."""
    request, result = answered.request, answered.result
    parts = request.parts if also.parts is NextParts.ORIGINAL else _made_parts(also.parts, result)
    if not parts:
        return None
    return InferenceRequest(
        # the same however often the event is processed, for consumers that go by the id
        id=str(uuid.uuid5(uuid.UUID(request.id), f"{route.name}/{number}")),
        type=also.type or request.type,
        source=source,
        time_ms=request.time_ms,
        parts=parts,
        subject=request.subject,
        parameters=request.parameters,
        model=also.model,
        session=request.session,
    )


def _made_parts(made_of: NextParts, result: InferenceResult) -> tuple[Part, ...]:
    if made_of is NextParts.TEXT:
        return tuple(
            Part(output.part, Modality.TEXT, "text/plain", output.text) for output in result.outputs if output.text
        )
    several = len(result.outputs) > 1
    return tuple(
        Part(f"{output.part}.{item.name}" if several else item.name, Modality.TENSOR, "", item.tensor)
        for output in result.outputs
        for item in output.tensors
    )
