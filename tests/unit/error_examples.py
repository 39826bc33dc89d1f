"""An example of each error that a record, a part or an answer can be: what headrace's own code makes of it."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from headrace.connectors.video import child, messages
from headrace.connectors.video.messages import Refusal
from headrace.pipeline.admission import check_deadline
from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.codecs import to_row
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.config_video import VideoSettings
from headrace.pipeline.envelope import RequestDecoder, encode_result
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.fields import request_fields
from headrace.pipeline.headers import delivery_of
from headrace.pipeline.inference import data_input, plan_of
from headrace.pipeline.limits import (
    MAX_CONTENT_TYPE_CHARACTERS,
    MAX_PARAMETERS,
    MAX_PARTS,
    MAX_TEXT_BYTES,
)
from headrace.pipeline.outputs import split
from headrace.pipeline.ports import InferReply, ModelSignature, SamplingPlan, TensorSpec
from headrace.pipeline.records import (
    Content,
    InferenceRequest,
    InferenceResult,
    Modality,
    Part,
    Provenance,
    Reference,
    Tensor,
    Timings,
)
from headrace.pipeline.routing import Router
from headrace.pipeline.wire import encode
from tests.docs.error_table import kind_of
from tests.unit.fakes import REQUEST_SCHEMA, request, request_value, text_part
from tests.unit.mp4_files import Mp4, plain


class Outcome(NamedTuple):
    """What a record or a part comes to."""

    kind: str
    stage: str
    code: str


def outcome(call: Callable[[], object]) -> Outcome:
    """Of a call that must raise."""
    try:
        call()
    except PoisonError as error:
        return outcome_of(error)
    raise AssertionError("nothing is wrong with this")


def outcome_of(error: object) -> Outcome:
    assert isinstance(error, PoisonError)
    return Outcome(kind_of(error), error.stage, error.code)


# --- the record -----------------------------------------------------------------------------------------------------

OTHER_SCHEMA, NO_SCHEMA = 8, 9
VALUE = request_value()


def decode(value: bytes | None, **options: Any) -> Outcome:
    decoder = RequestDecoder(**options)
    decoder.add_schema(REQUEST_SCHEMA, schema_json(Contract.REQUEST))
    decoder.add_schema(OTHER_SCHEMA, schema_json(Contract.RESULT))
    decoder.add_schema(NO_SCHEMA, None)  # as the registry says
    return outcome(lambda: decoder.decode(value))


def framed(schema_id: int) -> bytes:
    return struct.pack(">bI", 0, schema_id) + VALUE[5:]


def sent(*with_parts: Part, **changes: Any) -> Outcome:
    """An event as a producer that checks nothing writes it."""
    if with_parts:
        changes["parts"] = with_parts
    event = replace(request(), **changes)
    return decode(encode(Contract.REQUEST, REQUEST_SCHEMA, request_fields(event)))


def unknown_modality() -> Outcome:
    fields = request_fields(request())
    fields["parts"][0]["modality"] = "UNKNOWN"
    return decode(encode(Contract.REQUEST, REQUEST_SCHEMA, fields))


PART = text_part()
RECORD: Mapping[str, Callable[[], Outcome]] = {
    "EMPTY_VALUE": lambda: decode(None),
    "TOO_LARGE": lambda: decode(VALUE, max_value_bytes=len(VALUE) - 1),
    "NOT_WIRE_FORMAT": lambda: decode(b'{"id": "3b241101"}'),
    "UNKNOWN_SCHEMA": lambda: decode(framed(NO_SCHEMA)),
    "WRONG_SCHEMA": lambda: decode(framed(OTHER_SCHEMA)),
    "CORRUPT": lambda: decode(VALUE[: len(VALUE) // 2]),
    "TRAILING_BYTES": lambda: decode(VALUE + b"\0"),
    "BAD_ID": lambda: sent(id="7"),
    "BAD_TIME": lambda: sent(time_ms=2**62),
    "BAD_FIELD": lambda: sent(type=""),
    "NO_PARTS": lambda: sent(parts=()),
    "TOO_MANY_PARTS": lambda: sent(*(replace(PART, name=str(number)) for number in range(MAX_PARTS + 1))),
    "TOO_MANY_PARAMETERS": lambda: sent(parameters={str(number): 1 for number in range(MAX_PARAMETERS + 1)}),
    "BAD_PART_NAME": lambda: sent(PART, PART),
    "BAD_CONTENT_TYPE": lambda: sent(replace(PART, content_type="a" * (MAX_CONTENT_TYPE_CHARACTERS + 1))),
    "UNKNOWN_MODALITY": unknown_modality,
    "NO_CONTENT": lambda: sent(replace(PART, content=None)),  # type: ignore[arg-type]  # as a foreign producer can
    "BAD_TENSOR": lambda: sent(replace(PART, content=Tensor("FP32", (2,), b"\0"))),
    "BAD_REFERENCE": lambda: sent(replace(PART, content=Reference("", 1, bytes(32)))),
    "BAD_HEADER": lambda: outcome(lambda: delivery_of((("deadline", b"tomorrow"),))),
}

# --- routes and deadlines -------------------------------------------------------------------------------------------

TEXT_ALONE = RouteSettings.model_validate({"name": "text", "model": "echo", "match": {"modality": ["TEXT"]}})


def route(event: InferenceRequest) -> Outcome:
    return outcome(lambda: Router([TEXT_ALONE]).plan(event, ()))


ROUTES: Mapping[str, Callable[[], Outcome]] = {
    "NO_ROUTE": lambda: route(request(replace(PART, modality=Modality.IMAGE))),
    "UNKNOWN_MODEL": lambda: route(request(model="nobody")),
    "VERSION_WITHOUT_MODEL": lambda: route(request(model_version="1")),
    "BAD_VERSION": lambda: route(request(model="echo", model_version="latest")),
    "NO_PARTS": lambda: route(replace(request(), parts=())),
    "DEADLINE_EXCEEDED": lambda: outcome(lambda: check_deadline(1000, 1001)),
}

# --- contents -------------------------------------------------------------------------------------------------------

ENCODED, NUMBERS = TensorSpec("DATA", "BYTES", (1,)), TensorSpec("X", "FP32", (2,))
JPEG = plain(7)
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 20_000, 30) + bytes(9)
WAV = b"RIFF\0\0\0\0WAVE" + bytes(40)
FRAMES = [plain(value) for value in (0, 100, 200)]


def prepared(modality: Modality, content: Content, content_type: str = "", spec: TensorSpec = ENCODED) -> Outcome:
    return outcome(lambda: to_row(Part("p", modality, content_type, content), spec))


def given(tensor: Tensor, datatype: str = "FP32") -> Outcome:
    return prepared(Modality.TENSOR, tensor, spec=replace(NUMBERS, datatype=datatype))


def sampled(video: bytes, **changes: Any) -> Outcome:
    """What the decoding process answers, in this process, and what the worker makes of that."""
    plan: SamplingPlan = replace(plan_of(VideoSettings(), 64), **changes)
    file = os.memfd_create("video")
    try:
        os.write(file, video)
        (answer,) = child.answer_to(plan, file)
    finally:
        os.close(file)
    refusal = messages.answer_of(answer[messages.LENGTH_BYTES :], plan.max_frames)
    assert isinstance(refusal, Refusal)
    return Outcome("poison", "prepare", refusal.code)


def two_inputs() -> Outcome:
    return outcome(lambda: data_input(ModelSignature("m", "1", 8, (ENCODED, NUMBERS), ())))


CONTENTS: Mapping[tuple[str, str], Callable[[], Outcome]] = {
    ("any part", "REFERENCE_UNSUPPORTED"): lambda: prepared(Modality.TEXT, Reference("s3://bucket/key", 5, bytes(32))),
    ("any part", "MODALITY_MISMATCH"): lambda: prepared(Modality.TEXT, "words", spec=NUMBERS),
    ("tensor", "BAD_CONTENT"): lambda: prepared(Modality.TENSOR, b"\0\0\0\0"),
    ("tensor", "TENSOR_MISMATCH"): lambda: given(Tensor("FP32", (3,), bytes(12))),
    ("tensor", "UNSUPPORTED_DATATYPE"): lambda: given(Tensor("BF16", (2,), bytes(4)), "BF16"),
    ("tensor", "BAD_TENSOR"): lambda: given(Tensor("FP32", (2,), bytes(7))),
    ("text", "EMPTY_CONTENT"): lambda: prepared(Modality.TEXT, ""),
    ("text", "UNSUPPORTED_CONTENT_TYPE"): lambda: prepared(Modality.TEXT, "words", "text/plain; charset=latin-1"),
    ("text", "BAD_TEXT"): lambda: prepared(Modality.TEXT, b"\xff\xfe"),
    ("text", "TOO_LARGE"): lambda: prepared(Modality.TEXT, "x" * (MAX_TEXT_BYTES + 1)),
    ("image", "BAD_CONTENT"): lambda: prepared(Modality.IMAGE, "words"),
    ("image", "EMPTY_CONTENT"): lambda: prepared(Modality.IMAGE, b""),
    ("image", "UNSUPPORTED_CONTENT_TYPE"): lambda: prepared(Modality.IMAGE, JPEG, "image/gif"),
    ("image", "CONTENT_TYPE_MISMATCH"): lambda: prepared(Modality.IMAGE, JPEG, "image/png"),
    ("image", "BAD_IMAGE"): lambda: prepared(Modality.IMAGE, JPEG[:20]),
    ("image", "TOO_LARGE"): lambda: prepared(Modality.IMAGE, PNG),
    ("audio", "BAD_CONTENT"): lambda: prepared(Modality.AUDIO, "words"),
    ("audio", "EMPTY_CONTENT"): lambda: prepared(Modality.AUDIO, b""),
    ("audio", "UNSUPPORTED_CONTENT_TYPE"): lambda: prepared(Modality.AUDIO, WAV, "audio/flac"),
    ("audio", "CONTENT_TYPE_MISMATCH"): lambda: prepared(Modality.AUDIO, WAV, "audio/pcm"),
    ("audio", "BAD_AUDIO"): lambda: prepared(Modality.AUDIO, WAV[:30]),
    ("video", "BAD_CONTENT"): lambda: prepared(Modality.VIDEO, "words"),
    ("video", "EMPTY_CONTENT"): lambda: prepared(Modality.VIDEO, b""),
    ("video", "UNSUPPORTED_CONTENT_TYPE"): lambda: prepared(Modality.VIDEO, Mp4(FRAMES).content(), "video/webm"),
    ("video", "BAD_VIDEO"): lambda: prepared(Modality.VIDEO, bytes(40)),
    ("video", "VIDEO_TRUNCATED"): lambda: sampled(Mp4(FRAMES).content()[:-300]),
    ("video", "VIDEO_EMPTY"): lambda: sampled(Mp4([]).content()),
    ("video", "VIDEO_TOO_LARGE"): lambda: sampled(Mp4(FRAMES, size=(9000, 9000)).content()),
    ("video", "VIDEO_TOO_LONG"): lambda: sampled(Mp4(FRAMES, ticks=[10**6] * 3).content()),
    ("video", "VIDEO_TOO_SLOW"): lambda: sampled(Mp4(FRAMES, size=(64, 48)).content(), timeout_seconds=-1.0),
    ("video", "UNSUPPORTED_CODEC"): lambda: sampled(Mp4(FRAMES, codec=b"av01").content()),
    ("model", "UNSUPPORTED_MODEL"): two_inputs,
}

# --- answers --------------------------------------------------------------------------------------------------------


def answered(spec: TensorSpec, array: np.ndarray) -> Outcome:
    model = ModelSignature("m", "1", 8, (ENCODED,), (spec,))
    (found,) = split(InferReply("1", {spec.name: array}), model, ["p"], "route")
    return outcome_of(found)


def unencodable() -> Outcome:
    result = InferenceResult("id", "\ud800", (), Provenance("t", 0, 0, 0), Timings(0.0, 0.0, 0.0), 1, "w", 0)
    return outcome(lambda: encode_result(result, 2))


REJECTED = np.array([[b"too dark"]], np.object_)
ANSWERS: Mapping[str, Callable[[], Outcome]] = {
    "MODEL_REJECTED": lambda: answered(TensorSpec("ERROR", "BYTES", (1,)), REJECTED),
    "BAD_MODEL_OUTPUT": lambda: answered(TensorSpec("Y", "FP32", (1,)), np.full((1, 1), np.nan, np.float32)),
    "UNENCODABLE": unencodable,
}


async def soon(condition: Callable[[], object]) -> None:
    """Until it comes true, on a loop whose time is the test's."""
    async with asyncio.timeout(3600):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.05)
