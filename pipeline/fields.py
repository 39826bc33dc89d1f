"""Records of the contracts ↔ the dictionaries that are read and written (see ``wire``).

Dictionaries come as the record was written; they are resolved by field name here: what an older writer lacks takes
its default, what a newer writer adds is ignored. ``avro.writer_schema`` has checked the types, so only what a schema
cannot say is checked per record.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any

from headrace.pipeline.limits import (
    MAX_CONTENT_TYPE_CHARACTERS,
    MAX_PARAMETERS,
    MAX_PARTS,
    MAX_TENSOR_DIMENSIONS,
)
from headrace.pipeline.records import (
    Content,
    DeadLetter,
    InferenceRequest,
    InferenceResult,
    Label,
    Modality,
    NamedTensor,
    Parameter,
    Part,
    PartOutput,
    Provenance,
    Reference,
    Segment,
    Tensor,
    Timings,
)
from headrace.pipeline.wire import Poison, poison

MAX_MESSAGE_CHARACTERS = 8192

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}").fullmatch
_MODALITIES = {modality.value: modality for modality in Modality}
_EARLIEST_MS, _LATEST_MS = -62_135_596_800_000, 253_402_300_799_999  # years 1 to 9999: what RFC 3339 can write
_ELEMENT_BYTES = {
    "BOOL": 1, "UINT8": 1, "INT8": 1,
    "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2,
    "UINT32": 4, "INT32": 4, "FP32": 4,
    "UINT64": 8, "INT64": 8, "FP64": 8,
}  # fmt: skip
_BYTES_PREFIX = 4  # each element of a BYTES tensor begins with its length

Fields = dict[str, Any]  # what is read and written: never leaves this module and ``wire``


# --- Dictionaries → records -----------------------------------------------------------------------------------------


def request_from(fields: Fields) -> InferenceRequest:
    """Raises PoisonError if it is no valid request."""
    request_id, kind, source, time_ms = fields["id"], fields["type"], fields["source"], fields["time"]
    if not _UUID(request_id):
        raise poison(Poison.BAD_ID, f"id {_quoted(request_id)} is not a UUID (8-4-4-4-12 hexadecimal digits)")
    if not kind or not source:
        raise poison(Poison.BAD_FIELD, f"{'source' if kind else 'type'} is empty")
    if not _EARLIEST_MS <= time_ms <= _LATEST_MS:
        raise poison(Poison.BAD_TIME, f"time {time_ms} ms is not within the years 1 to 9999")
    return InferenceRequest(
        id=request_id,
        type=kind,
        source=source,
        time_ms=time_ms,
        parts=_parts(fields["parts"]),
        subject=fields.get("subject"),
        parameters=_parameters(fields.get("parameters", {})),
        model=fields.get("model"),
        model_version=fields.get("model_version"),
        session=fields.get("session"),
    )


def _parameters(items: Fields) -> Fields:
    if len(items) > MAX_PARAMETERS:
        raise poison(
            Poison.TOO_MANY_PARAMETERS,
            f"the event has {len(items)} parameters, more than {MAX_PARAMETERS}: send what is data as a part",
        )
    return items


def _parts(items: list[Fields]) -> tuple[Part, ...]:
    if not items:
        raise poison(Poison.NO_PARTS, "the event has no parts: nothing to infer from")
    if len(items) > MAX_PARTS:
        raise poison(Poison.TOO_MANY_PARTS, f"the event has {len(items)} parts, more than {MAX_PARTS}")
    parts = tuple([_part(item) for item in items])
    if len(parts) > 1 and len({part.name for part in parts}) < len(parts):
        raise poison(Poison.BAD_PART_NAME, "two parts of the event have the same name")
    return parts


def _part(fields: Fields) -> Part:
    name = fields["name"]
    if not name:
        raise poison(Poison.BAD_PART_NAME, "a part has an empty name")
    modality = _MODALITIES.get(fields["modality"])
    if modality is None:
        allowed = ", ".join(_MODALITIES)
        raise poison(Poison.UNKNOWN_MODALITY, f"part {_quoted(name)} is {fields['modality']}: known are {allowed}")
    content = fields.get("content")
    if isinstance(content, dict):
        content = _structured(content, name)
    elif content is None:
        raise poison(Poison.NO_CONTENT, f"part {_quoted(name)} has no content")
    content_type = fields.get("content_type", "")
    if len(content_type) > MAX_CONTENT_TYPE_CHARACTERS:
        raise poison(
            Poison.BAD_CONTENT_TYPE,
            f"part {_quoted(name)} has a content type of {len(content_type)} characters, "
            f"more than {MAX_CONTENT_TYPE_CHARACTERS}: send a media type",
        )
    return Part(name, modality, content_type, content)


def _structured(fields: Fields, part: str) -> Content:
    """A tensor or a reference: told apart by their fields, which is quicker than asking fastavro for their names.

    By all of a tensor's: a newer writer's reference may have a field of the same name as one of them.
    """
    if "data" in fields and "datatype" in fields and "shape" in fields:
        tensor = _tensor(fields)
        if problem := _tensor_problem(tensor):
            raise poison(Poison.BAD_TENSOR, f"the tensor of part {_quoted(part)} {problem}")
        return tensor
    reference = Reference(fields["uri"], fields["size_bytes"], fields["sha256"])
    if not reference.uri or reference.size_bytes < 0:
        raise poison(Poison.BAD_REFERENCE, f"the reference of part {_quoted(part)} has no uri or a negative size")
    return reference


def _tensor_problem(tensor: Tensor) -> str | None:
    if len(tensor.shape) > MAX_TENSOR_DIMENSIONS:
        return f"has {len(tensor.shape)} dimensions, more than {MAX_TENSOR_DIMENSIONS}"
    if tensor.shape and min(tensor.shape) < 0:
        return f"has a negative length in its shape {list(tensor.shape)}"
    elements, data_bytes = prod(tensor.shape), len(tensor.data)
    if tensor.datatype == "BYTES":  # the elements' own lengths are checked where the tensor is split
        short = data_bytes < elements * _BYTES_PREFIX or (elements == 0 and data_bytes > 0)
        return f"has {data_bytes} bytes of data, too few or too many for {elements} BYTES elements" if short else None
    element_bytes = _ELEMENT_BYTES.get(tensor.datatype)
    if element_bytes is None:
        return f"is of {_quoted(tensor.datatype)}: known are {', '.join(_ELEMENT_BYTES)}, BYTES"
    if data_bytes != elements * element_bytes:
        wanted = f"{tensor.datatype} of shape {list(tensor.shape)} takes {elements * element_bytes}"
        return f"has {data_bytes} bytes of data, but {wanted}"
    return None


def _quoted(text: str) -> str:
    """For error messages: short and on one line, whatever the text."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _tensor(fields: Fields) -> Tensor:
    return Tensor(fields["datatype"], tuple(fields["shape"]), fields["data"])


def result_from(fields: Fields) -> InferenceResult:
    """A result; nothing but its schema is checked."""
    return InferenceResult(
        request_id=fields["request_id"],
        status=fields["status"],
        outputs=tuple([_output(output) for output in fields["outputs"]]),
        provenance=_provenance(fields["provenance"]),
        timings=_timings(fields.get("timings", {})),
        attempt=fields.get("attempt", 1),
        worker=fields.get("worker", ""),
        completed_ms=fields.get("completed", 0),
    )


def _output(fields: Fields) -> PartOutput:
    return PartOutput(
        part=fields["part"],
        route=fields.get("route", ""),
        model=fields["model"],
        model_version=fields.get("model_version", ""),
        tensors=tuple([NamedTensor(item["name"], _tensor(item["tensor"])) for item in fields.get("tensors", ())]),
        labels=tuple([Label(item["name"], item["score"]) for item in fields.get("labels", ())]),
        segments=tuple([_segment(item) for item in fields.get("segments", ())]),
        text=fields.get("text"),
        batch_size=fields.get("batch_size", 1),
    )


def _segment(fields: Fields) -> Segment:
    get = fields.get
    return Segment(fields["start_seconds"], fields["end_seconds"], get("label"), get("score"), get("text"))


def _provenance(fields: Fields) -> Provenance:
    return Provenance(fields["topic"], fields["partition"], fields["offset"], fields["timestamp"])


def _timings(fields: Fields) -> Timings:
    return Timings(fields.get("decode_ms", 0.0), fields.get("waiting_ms", 0.0), fields.get("inference_ms", 0.0))


def dead_letter_from(fields: Fields) -> DeadLetter:
    """A dead letter; nothing but its schema is checked."""
    return DeadLetter(
        key=fields.get("key"),
        value=fields.get("value"),
        headers=tuple([(header["key"], header.get("value")) for header in fields.get("headers", ())]),
        omitted_bytes=fields.get("omitted_bytes", 0),
        provenance=_provenance(fields["provenance"]),
        stage=fields["stage"],
        code=fields["code"],
        message=fields["message"],
        attempts=fields.get("attempts", 0),
        first_failed_ms=fields.get("first_failed", 0),
        last_failed_ms=fields.get("last_failed", 0),
        worker=fields.get("worker", ""),
        request_id=fields.get("request_id"),
        route=fields.get("route"),
        model=fields.get("model"),
        trace_id=fields.get("trace_id"),
    )


# --- Records → dictionaries -----------------------------------------------------------------------------------------


def request_fields(request: InferenceRequest) -> Fields:
    """Every field of the current schema."""
    return {
        "id": request.id,
        "type": request.type,
        "source": request.source,
        "time": request.time_ms,
        "subject": request.subject,
        "parts": [_part_fields(part) for part in request.parts],
        "parameters": {name: _parameter(value) for name, value in request.parameters.items()},
        "model": request.model,
        "model_version": request.model_version,
        "session": request.session,
    }


def _parameter(value: Parameter) -> Any:
    """Integers named as such: fastavro would write one beyond 64 bits as a double, and lose digits."""
    return ("long", value) if type(value) is int else value


RESULT_ATTRIBUTES = {"completed": "completed_ms", "timestamp": "timestamp_ms"}
"""What the fields of a result's records are called in their dataclasses, where it is not the same."""


def dead_letter_fields(letter: DeadLetter) -> Fields:
    """Every field of the current schema, texts made fit to be written."""
    return {
        "key": letter.key,
        "value": letter.value,
        "headers": [{"key": _unicode(key), "value": value} for key, value in letter.headers],
        "omitted_bytes": letter.omitted_bytes,
        "provenance": _provenance_fields(letter.provenance),
        "stage": str(letter.stage),
        "code": _mended(letter.code),
        "message": _mended(letter.message),
        "attempts": letter.attempts,
        "first_failed": letter.first_failed_ms,
        "last_failed": letter.last_failed_ms,
        "worker": letter.worker,
        "request_id": _mended(letter.request_id),
        "route": letter.route,
        "model": _mended(letter.model),
        "trace_id": letter.trace_id,
    }


def _mended(text: str | None) -> str | None:
    """Text cut to what a person reads."""
    return None if text is None else _unicode(text[:MAX_MESSAGE_CHARACTERS])


def _unicode(text: str) -> str:
    """Lone surrogates, which UTF-8 can't hold, replaced."""
    return text.encode(errors="replace").decode()


def _part_fields(part: Part) -> Fields:
    return {
        "name": part.name,
        "modality": part.modality.value,
        "content_type": part.content_type,
        "content": _content_fields(part.content),
    }


def _content_fields(content: Content) -> Any:
    if isinstance(content, Tensor):
        return _tensor_fields(content)
    if isinstance(content, Reference):
        return {"uri": content.uri, "size_bytes": content.size_bytes, "sha256": content.sha256}
    return content


def _tensor_fields(tensor: Tensor) -> Fields:
    return {"datatype": tensor.datatype, "shape": tensor.shape, "data": tensor.data}


def _provenance_fields(provenance: Provenance) -> Fields:
    return {
        "topic": provenance.topic,
        "partition": provenance.partition,
        "offset": provenance.offset,
        "timestamp": provenance.timestamp_ms,
    }
