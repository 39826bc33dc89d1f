"""Our own writer of Avro, against fastavro's, which is the reference."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given

from headrace.pipeline.avro import Contract, own_schema
from headrace.pipeline.avro_code import UnsupportedSchemaError
from headrace.pipeline.avro_writing import writer
from headrace.pipeline.envelope import encode_result
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.fields import RESULT_ATTRIBUTES, dead_letter_fields
from headrace.pipeline.records import (
    DeadLetter,
    InferenceResult,
    NamedTensor,
    PartOutput,
    Provenance,
    Tensor,
    Timings,
)
from tests.unit.result_fields import result_fields
from tests.unit.strategies import DEAD_LETTERS, RESULTS

RESULT = InferenceResult(
    request_id="7b0c9f5e-6c1c-4b2a-9d39-3f1f5f0d3f11",
    status="OK",
    outputs=(PartOutput("photo", "image", "image_jpeg", "1"),),
    provenance=Provenance("requests", 0, 1, 2),
    timings=Timings(0.1, 0.2, 0.3),
    attempt=1,
    worker="mill-0",
    completed_ms=1,
)


def written(schema: Any, value: Any, attributes: Mapping[str, str] | None = None) -> bytes:
    pieces: list[bytes] = []
    writer(schema, attributes)(value, pieces.append)
    return b"".join(pieces)


def reference(schema: Any, value: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, value)
    return stream.getvalue()


@given(RESULTS)
def test_result_has_the_bytes_that_fastavro_writes(result: InferenceResult) -> None:
    schema, fields = own_schema(Contract.RESULT), result_fields(result)
    assert written(schema, fields) == reference(schema, fields)
    assert written(schema, result, RESULT_ATTRIBUTES) == reference(schema, fields)


@given(DEAD_LETTERS)
def test_dead_letter_has_the_bytes_that_fastavro_writes(letter: DeadLetter) -> None:
    schema, fields = own_schema(Contract.DEAD_LETTER), dead_letter_fields(letter)
    assert written(schema, fields) == reference(schema, fields)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("power", range(64))
@pytest.mark.parametrize("beside", [-1, 0, 1])
def test_whole_numbers_of_every_length(sign: int, power: int, beside: int) -> None:
    value = sign * 2**power + beside
    if -(2**63) <= value < 2**63:
        assert written("long", value) == reference("long", value)
    if -(2**31) <= value < 2**31:
        assert written("int", value) == reference("int", value)
        assert written("int", np.int32(value)) == written("long", np.int64(value)) == reference("int", value)


@pytest.mark.parametrize(("kind", "bits"), [("int", 32), ("long", 64)])
def test_number_of_too_many_bits_is_none(kind: str, bits: int) -> None:
    for value in (2 ** (bits - 1), -(2 ** (bits - 1)) - 1):
        with pytest.raises(OverflowError, match=f"is no {kind}"):
            written(kind, value)


@pytest.mark.parametrize("value", ["1", 1.5, None, b"1"])
def test_what_is_no_whole_number_is_not_taken_for_one(value: Any) -> None:
    with pytest.raises(TypeError):
        written("long", value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "map", "values": "long"},
        ["string", "long"],
        ["null", "string", "long"],
        {"type": "fixed", "name": "Four", "size": 4},
        "boolean",
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": "Unknown"}]},
    ],
)
def test_schema_of_other_types_is_left_to_fastavro(schema: Any) -> None:
    with pytest.raises(UnsupportedSchemaError):
        writer(schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"outputs": None},
        {"outputs": (PartOutput("p", "r", "m", "1", labels=None),)},  # type: ignore[arg-type]
        {"worker": None},
        {"worker": b"mill"},
        {"worker": "\ud800"},
        {"status": "FINE"},
        {"attempt": 2**31},
        {"completed_ms": 2**63},
        {"completed_ms": 0.5},
        {"timings": Timings("slow", 0.0, 0.0)},  # type: ignore[arg-type]
    ],
)
def test_value_that_does_not_fit_is_poison(wrong: dict[str, Any]) -> None:
    with pytest.raises(PoisonError) as caught:
        encode_result(dataclasses.replace(RESULT, **wrong), 1)
    assert (caught.value.code, caught.value.stage) == ("UNENCODABLE", "encode")


FLOATS = np.arange(4, dtype=np.float32)


@pytest.mark.parametrize("data", [FLOATS, memoryview(FLOATS.data)])
def test_buffer_whose_length_is_not_in_bytes_is_written_as_its_bytes(data: Any) -> None:
    """User code may take it for bytes."""
    outputs = (PartOutput("p", "r", "m", "1", tensors=(NamedTensor("t", Tensor("FP32", (4,), data)),)),)
    whole = dataclasses.replace(outputs[0].tensors[0].tensor, data=FLOATS.tobytes())
    same = (dataclasses.replace(outputs[0], tensors=(NamedTensor("t", whole),)),)
    assert encode_result(dataclasses.replace(RESULT, outputs=outputs), 1) == encode_result(
        dataclasses.replace(RESULT, outputs=same), 1
    )
