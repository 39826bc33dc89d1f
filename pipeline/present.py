"""Results and dead letters for people (lines) and for programs (JSON). Pure."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from headrace.pipeline.headers import redrives_of
from headrace.pipeline.ports import dtype_of
from headrace.pipeline.records import (
    Content,
    DeadLetter,
    InferenceRequest,
    InferenceResult,
    PartOutput,
    Provenance,
    Reference,
    Segment,
    SourceRecord,
    Tensor,
)
from headrace.pipeline.tables import clean

LABELS_SHOWN = 3
SEGMENTS_SHOWN = 4
NUMBERS_SHOWN = 5
HEXDUMP_BYTES = 256
HEXDUMP_WIDTH = 16
HEADER_CHARACTERS = 120

Json = dict[str, Any]  # leaves the process as text only


def position(provenance: Provenance) -> str:
    """``topic:partition:offset``, as ``headrace dlq show`` takes it."""
    return f"{provenance.topic}:{provenance.partition}:{provenance.offset}"


def moment(epoch_ms: int) -> str:
    """Local time of day with milliseconds; a dash if there is none, or none that a calendar has."""
    if epoch_ms <= 0:
        return "-"
    try:
        return dt.datetime.fromtimestamp(epoch_ms / 1000).astimezone().isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):  # anybody may have written it
        return "-"


def finding(output: PartOutput) -> str:
    """What a model said of a part, in one short line."""
    pieces = []
    if output.labels:
        pieces.append(", ".join(f"{label.name} {label.score:.2f}" for label in output.labels[:LABELS_SHOWN]))
    if output.segments:
        shown = ", ".join(_span(segment, output.text is None) for segment in output.segments[:SEGMENTS_SHOWN])
        more = len(output.segments) - SEGMENTS_SHOWN
        kind = "" if any(segment.label for segment in output.segments) else "speech "
        pieces.append(f"{kind}{shown}" + (f" and {more} more" if more > 0 else ""))
    if output.text is not None:
        pieces.append(output.text)
    if not pieces:
        pieces += [
            "no speech" if item.name == "SPEECH_SECONDS" else f"{item.name} {tensor_summary(item.tensor)}"
            for item in output.tensors
        ]
    return "; ".join(pieces) or "nothing found"


def _span(segment: Segment, with_text: bool) -> str:
    """``0.00-2.00 s tabby 0.71``; its text only where the whole text does not follow anyway."""
    pieces = [f"{segment.start_seconds:.2f}-{segment.end_seconds:.2f} s"]
    if segment.label is not None:
        pieces.append(segment.label)
    if segment.score is not None:
        pieces.append(f"{segment.score:.2f}")
    if with_text and segment.text is not None:
        pieces.append(repr(segment.text))
    return " ".join(pieces)


def tensor_summary(tensor: Tensor) -> str:
    """Datatype, shape and the first elements."""
    elements = _elements_there(tensor, NUMBERS_SHOWN)
    shown = " ".join(f"{element:.4g}" if isinstance(element, float) else str(element) for element in elements)
    more = " …" if int(np.prod(tensor.shape)) > len(elements) else ""
    return f"{tensor.datatype}{list(tensor.shape)} {shown}{more}"


def tensor_elements(tensor: Tensor, limit: int | None = None) -> list[Any]:
    """The elements as Python numbers, or as text for ``BYTES``, row-major; the first ``limit`` of them.

    Raises:
        KeyError, ValueError: nobody knows its datatype, or its data end with half an element.
    """
    if tensor.datatype == "BYTES":
        return [element.decode(errors="replace") for element in islice(_bytes_elements(tensor.data), limit)]
    if tensor.datatype == "BF16":  # numpy has none: the upper half of a FP32
        halves = np.frombuffer(tensor.data, "<u2")[:limit].astype("<u4") << np.uint32(16)
        return list(halves.view("<f4").tolist())
    return list(np.frombuffer(tensor.data, dtype_of(tensor.datatype))[:limit].tolist())


def _elements_there(tensor: Tensor, limit: int | None = None) -> list[Any]:
    """As `tensor_elements`; none of what is no tensor: anybody may have written the result."""
    try:
        return tensor_elements(tensor, limit)
    except (KeyError, ValueError):
        return []


def _bytes_elements(data: bytes) -> Iterator[bytes]:
    """Each element of a ``BYTES`` tensor: a 4-byte little-endian length and its bytes."""
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


def result_lines(result: InferenceResult) -> list[str]:
    """One line for each part that was answered, whatever its text."""
    width = max((len(output.part) for output in result.outputs), default=0)
    return [
        clean(f"{output.part:<{width}}  {finding(output)}  ({_model(output)}, batch of {output.batch_size})")
        for output in result.outputs
    ]


def result_timing(result: InferenceResult) -> str:
    """Where its time went."""
    timings = result.timings
    return (
        f"decode {timings.decode_ms:.1f} ms, waiting {timings.waiting_ms:.1f} ms, "
        f"inference {timings.inference_ms:.1f} ms, worker {result.worker}, attempt {result.attempt}"
    )


def result_json(result: InferenceResult, record: SourceRecord) -> Json:
    """A result with tensors as flat lists of elements."""
    return {
        "kind": "result",
        "request_id": result.request_id,
        "status": result.status,
        "request": _place(result.provenance),
        "record": _place(record.provenance),
        "key": _text(record.key),
        "outputs": [_output_json(output) for output in result.outputs],
        "timings_ms": {
            "decode": result.timings.decode_ms,
            "waiting": result.timings.waiting_ms,
            "inference": result.timings.inference_ms,
        },
        "attempt": result.attempt,
        "worker": result.worker,
        "completed_ms": result.completed_ms,
    }


def dead_letter_line(letter: DeadLetter, record: SourceRecord, redriven_ms: int | None = None) -> str:
    """Where it lies, what it was, and why, in one line; and when it was redriven."""
    where = f"{position(record.provenance)}  of {position(letter.provenance)}"
    redriven = f"  (redriven {moment(redriven_ms)})" if redriven_ms else ""
    return clean(f"{where}  {letter.stage}/{letter.code}: {letter.message}{redriven}")


def dead_letter_lines(letter: DeadLetter, record: SourceRecord, redriven_ms: int | None = None) -> list[str]:
    """Everything known of it, and when it was redriven, ending with a dump of the original bytes."""
    value = letter.value or b""
    redrives = redrives_of(record.headers)
    facts = {
        "dead letter": position(record.provenance),
        "original": f"{position(letter.provenance)}, {moment(letter.provenance.timestamp_ms)}",
        "stage": letter.stage,
        "code": letter.code,
        "reason": letter.message,
        "attempts": f"{letter.attempts}, failed {moment(letter.first_failed_ms)} to {moment(letter.last_failed_ms)}",
        "redriven": moment(redriven_ms) if redriven_ms else None,
        "redrives": f"{redrives:,} before it failed this time" if redrives else None,
        "worker": letter.worker,
        "request id": letter.request_id,
        "route": letter.route,
        "model": letter.model,
        "trace id": letter.trace_id,
        "key": None if letter.key is None else repr(_text(letter.key)),
        "omitted": f"{letter.omitted_bytes:,} bytes did not fit" if letter.omitted_bytes else None,
    }
    lines = [f"{name:<12} {fact}" for name, fact in facts.items() if fact]
    lines += [f"{'header':<12} {name} = {_short(content)}" for name, content in letter.headers]
    lines.append(f"{'value':<12} {'none' if letter.value is None else f'{len(value):,} bytes'}")
    return [*map(clean, lines), *hexdump(value)]


def request_lines(request: InferenceRequest) -> list[str]:
    """What an event says, one line for each part."""
    lines = [f"{'decoded':<12} {request.type} from {request.source}, {moment(request.time_ms)}, id {request.id}"]
    lines += [
        f"{'part':<12} {part.name}: {part.modality} {part.content_type} {_content(part.content)}"
        for part in request.parts
    ]
    return [*map(clean, lines)]


def dead_letter_json(letter: DeadLetter, record: SourceRecord) -> Json:
    """A dead letter; original bytes in base64."""
    return {
        "kind": "dead_letter",
        "record": _place(record.provenance),
        "request": _place(letter.provenance),
        "stage": letter.stage,
        "code": letter.code,
        "message": letter.message,
        "attempts": letter.attempts,
        "first_failed_ms": letter.first_failed_ms,
        "last_failed_ms": letter.last_failed_ms,
        "redrives": redrives_of(record.headers),
        "worker": letter.worker,
        "request_id": letter.request_id,
        "route": letter.route,
        "model": letter.model,
        "trace_id": letter.trace_id,
        "omitted_bytes": letter.omitted_bytes,
        "key_base64": _base64(letter.key),
        "value_base64": _base64(letter.value),
        "headers": [{"name": name, "value_base64": _base64(content)} for name, content in letter.headers],
    }


def hexdump(data: bytes, limit_bytes: int = HEXDUMP_BYTES) -> list[str]:
    """Offset, bytes and printable characters, as ``xxd`` shows them; says how much was left out."""
    lines = []
    for start in range(0, min(len(data), limit_bytes), HEXDUMP_WIDTH):
        row = data[start : min(start + HEXDUMP_WIDTH, limit_bytes)]
        printable = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"  {start:08x}  {row.hex(' '):<{HEXDUMP_WIDTH * 3 - 1}}  {printable}")
    if len(data) > limit_bytes:
        lines.append(f"  … {len(data) - limit_bytes:,} bytes more (--raw writes them all)")
    return lines


def _output_json(output: PartOutput) -> Json:
    return {
        "part": output.part,
        "route": output.route,
        "model": output.model,
        "model_version": output.model_version,
        "labels": [{"name": label.name, "score": label.score} for label in output.labels],
        "segments": [
            {
                "start_seconds": segment.start_seconds,
                "end_seconds": segment.end_seconds,
                "label": segment.label,
                "score": segment.score,
                "text": segment.text,
            }
            for segment in output.segments
        ],
        "text": output.text,
        "tensors": [
            {
                "name": item.name,
                "datatype": item.tensor.datatype,
                "shape": list(item.tensor.shape),
                "data": _elements_there(item.tensor),
            }
            for item in output.tensors
        ],
        "batch_size": output.batch_size,
    }


def _place(provenance: Provenance) -> Json:
    return {
        "topic": provenance.topic,
        "partition": provenance.partition,
        "offset": provenance.offset,
        "timestamp_ms": provenance.timestamp_ms,
    }


def _model(output: PartOutput) -> str:
    return f"{output.model} {output.model_version}".strip()


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="backslashreplace")


def _short(content: bytes | None) -> str:
    text = _text(content)
    if text is None:
        return "none"
    return text if len(text) <= HEADER_CHARACTERS else f"{text[:HEADER_CHARACTERS]}… ({len(content or b''):,} bytes)"


def _content(content: Content) -> str:
    if isinstance(content, Tensor):
        return tensor_summary(content)
    if isinstance(content, Reference):
        return f"{content.uri} ({content.size_bytes:,} bytes)"
    return f"{len(content):,} bytes" if isinstance(content, bytes) else repr(content[:HEADER_CHARACTERS])


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
