from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.avro import Contract, parse, schema_json
from headrace.pipeline.envelope import (
    DeadLetterDecoder,
    RequestDecoder,
    ResultDecoder,
    encode_dead_letter,
    encode_request,
    encode_result,
)
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.fields import request_fields
from headrace.pipeline.records import (
    DeadLetter,
    InferenceRequest,
    InferenceResult,
    Modality,
    Part,
    Provenance,
    Reference,
    Stage,
    Tensor,
)
from headrace.pipeline.wire import encode
from tests.unit.strategies import DEAD_LETTERS, REQUESTS, RESULTS, damaged

SCHEMA_ID = 7
PART = Part("text", Modality.TEXT, "text/plain", "a river turns the mill")
REQUEST = InferenceRequest(
    id="3b241101-e2bb-4255-8caf-4136c566a962",
    type="com.example.text",
    source="/tests",
    time_ms=1_700_000_000_000,
    parts=(PART,),
)
LETTER = DeadLetter(
    key=b"key",
    value=b"value",
    headers=(("a", b"1"), ("a", None)),
    provenance=Provenance("requests", 3, 42, 1_700_000_000_000),
    stage=Stage.DECODE,
    code="CORRUPT",
    message="the bytes do not fit",
    attempts=0,
    first_failed_ms=1,
    last_failed_ms=2,
    worker="worker-0",
)


def request_decoder() -> RequestDecoder:
    decoder = RequestDecoder()
    decoder.add_schema(SCHEMA_ID, schema_json(Contract.REQUEST))
    return decoder


DECODER = request_decoder()


def letter_of(value: bytes) -> DeadLetter:
    decoder = DeadLetterDecoder()
    decoder.add_schema(SCHEMA_ID, schema_json(Contract.DEAD_LETTER))
    return decoder.decode(value)


def encoded_as_is(request: InferenceRequest) -> bytes:
    """As a producer that checks nothing would send it."""
    return encode(Contract.REQUEST, SCHEMA_ID, request_fields(request))


def code_of(value: bytes | None) -> str:
    with pytest.raises(PoisonError) as caught:
        DECODER.decode(value)
    assert caught.value.stage == Stage.DECODE
    return caught.value.code


@given(REQUESTS)
def test_request_comes_back_as_it_was_encoded(request: InferenceRequest) -> None:
    decoded = DECODER.decode(encode_request(request, SCHEMA_ID))
    assert decoded == request
    for name, value in request.parameters.items():
        assert type(decoded.parameters[name]) is type(value)


@given(RESULTS)
def test_result_comes_back_as_it_was_encoded(result: InferenceResult) -> None:
    decoder = ResultDecoder()
    decoder.add_schema(SCHEMA_ID, schema_json(Contract.RESULT))
    assert decoder.decode(encode_result(result, SCHEMA_ID)) == result


@given(DEAD_LETTERS)
def test_dead_letter_comes_back_as_it_was_encoded(letter: DeadLetter) -> None:
    assert letter_of(encode_dead_letter(letter, SCHEMA_ID)) == letter


@given(st.binary(max_size=200))
def test_any_avro_bytes_decode_to_a_request_or_poison(data: bytes) -> None:
    decode_or_poison(b"\x00\x00\x00\x00\x07" + data)


@given(st.none() | st.binary(max_size=200))
def test_any_value_decodes_to_a_request_or_poison(value: bytes | None) -> None:
    decode_or_poison(value)


@given(REQUESTS, st.data())
def test_mutated_request_decodes_to_a_request_or_poison(request: InferenceRequest, data: st.DataObject) -> None:
    """Flipped bits, cut ends, and pieces of one record inside another."""
    decode_or_poison(data.draw(damaged(encode_request(request, SCHEMA_ID), first=5)))


def decode_or_poison(value: bytes | None) -> None:
    """Any other exception than PoisonError fails the test."""
    with contextlib.suppress(PoisonError):
        assert DECODER.decode(value).parts


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id": ""}, "BAD_ID"),
        ({"id": "3b241101e2bb42558caf4136c566a962"}, "BAD_ID"),
        ({"id": REQUEST.id + "\n"}, "BAD_ID"),
        ({"type": ""}, "BAD_FIELD"),
        ({"source": ""}, "BAD_FIELD"),
        ({"time_ms": 2**62}, "BAD_TIME"),
        ({"time_ms": -(2**62)}, "BAD_TIME"),
        ({"parts": ()}, "NO_PARTS"),
        ({"parts": tuple(dataclasses.replace(PART, name=str(i)) for i in range(257))}, "TOO_MANY_PARTS"),
        ({"parameters": {str(i): i for i in range(257)}}, "TOO_MANY_PARAMETERS"),
        ({"parts": (dataclasses.replace(PART, content_type="a" * 1025),)}, "BAD_CONTENT_TYPE"),
        ({"parts": (PART, PART)}, "BAD_PART_NAME"),
        ({"parts": (dataclasses.replace(PART, name=""),)}, "BAD_PART_NAME"),
        ({"parts": (dataclasses.replace(PART, content=None),)}, "NO_CONTENT"),  # type: ignore[arg-type]  # as foreign producers can
    ],
)
def test_request_that_breaks_a_rule_is_poison(change: dict[str, Any], code: str) -> None:
    broken = dataclasses.replace(REQUEST, **change)
    assert code_of(encoded_as_is(broken)) == code
    with pytest.raises(PoisonError) as caught:
        encode_request(broken, SCHEMA_ID)
    assert caught.value.code == code


def test_request_at_its_limits_is_accepted() -> None:
    parts = tuple(dataclasses.replace(PART, name=str(i), content_type="a" * 1024) for i in range(256))
    request = dataclasses.replace(REQUEST, parts=parts, parameters={str(i): i for i in range(256)})
    assert DECODER.decode(encode_request(request, SCHEMA_ID)) == request


@pytest.mark.parametrize(
    ("content", "added"),
    [
        (Tensor("UINT8", (2,), b"ab"), "uri"),
        (Tensor("UINT8", (2,), b"ab"), "sha256"),
        (Reference("s3://bucket/key", 1, bytes(32)), "datatype"),
        (Reference("s3://bucket/key", 1, bytes(32)), "data"),
    ],
)
def test_tensor_and_reference_of_a_newer_writer_may_share_a_fields_name(
    content: Tensor | Reference, added: str
) -> None:
    schema = json.loads(schema_json(Contract.REQUEST))
    branches = schema["fields"][5]["type"]["items"]["fields"][3]["type"]
    branch = next(b for b in branches if isinstance(b, dict) and b["name"] == type(content).__name__)
    branch["fields"].append({"name": added, "type": "string", "default": ""})
    request = dataclasses.replace(REQUEST, parts=(dataclasses.replace(PART, content=content),))
    fields = request_fields(request)
    fields["parts"][0]["content"][added] = "x"
    stream = io.BytesIO(b"\x00\x00\x00\x00\x07")
    stream.seek(5)
    fastavro.schemaless_writer(stream, parse(json.dumps(schema)), fields)
    decoder = RequestDecoder()
    decoder.add_schema(SCHEMA_ID, json.dumps(schema))
    assert decoder.decode(stream.getvalue()) == request


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (Tensor("FP32", (2, 3), bytes(23)), "BAD_TENSOR"),
        (Tensor("FP32", (2, 3), bytes(25)), "BAD_TENSOR"),
        (Tensor("FP32", (-1, -6), bytes(24)), "BAD_TENSOR"),
        (Tensor("FP31", (1,), bytes(4)), "BAD_TENSOR"),
        (Tensor("UINT8", (1,) * 33, bytes(1)), "BAD_TENSOR"),
        (Tensor("UINT8", (2**62, 2**62), b""), "BAD_TENSOR"),
        (Tensor("BYTES", (2,), bytes(7)), "BAD_TENSOR"),
        (Tensor("BYTES", (0,), bytes(1)), "BAD_TENSOR"),
        (Reference("", 1, bytes(32)), "BAD_REFERENCE"),
        (Reference("s3://bucket/key", -1, bytes(32)), "BAD_REFERENCE"),
    ],
)
def test_content_that_contradicts_itself_is_poison(content: Tensor | Reference, code: str) -> None:
    part = dataclasses.replace(PART, modality=Modality.TENSOR, content=content)
    assert code_of(encoded_as_is(dataclasses.replace(REQUEST, parts=(part,)))) == code


@pytest.mark.parametrize(
    "tensor", [Tensor("FP64", (), bytes(8)), Tensor("BYTES", (2,), bytes(8)), Tensor("INT8", (0, 5), b"")]
)
def test_tensor_at_its_limits_is_accepted(tensor: Tensor) -> None:
    request = dataclasses.replace(REQUEST, parts=(dataclasses.replace(PART, content=tensor),))
    assert DECODER.decode(encode_request(request, SCHEMA_ID)).parts[0].content == tensor


def test_shape_of_a_million_dimensions_is_refused_at_once() -> None:
    """The product of its lengths would be a number of megabytes."""
    tensor = Tensor("UINT8", (2**62,) * 1_000_000, b"")
    part = dataclasses.replace(PART, content=tensor)
    assert code_of(encoded_as_is(dataclasses.replace(REQUEST, parts=(part,)))) == "BAD_TENSOR"


def test_value_cut_anywhere_is_poison() -> None:
    value = encode_request(REQUEST, SCHEMA_ID)
    assert {code_of(value[:length]) for length in range(5, len(value))} == {"CORRUPT"}


def test_bytes_that_the_contract_says_are_not_found_out_are_read_all_the_same() -> None:
    """A negative index of an enum or union, and a boolean of 7. If the reader ever refuses them, the page may too."""
    request = dataclasses.replace(REQUEST, parameters={"a": True})
    value = encode_request(request, SCHEMA_ID)
    modality, parameter = value.index(b"\x08text") + 5, value.index(b"\x02a\x06\x01") + 2
    changed = value[:modality] + b"\x09" + value[modality + 1 : parameter] + b"\x01\x07" + value[parameter + 2 :]
    read = DECODER.decode(changed)
    assert read.parts[0].modality is Modality.TEXT
    assert read.parameters == {"a": True}


def test_value_with_trailing_bytes_is_poison() -> None:
    assert code_of(encode_request(REQUEST, SCHEMA_ID) + b"\x00") == "TRAILING_BYTES"


def test_value_beyond_the_limit_is_poison() -> None:
    value = encode_request(REQUEST, SCHEMA_ID)
    decoder = RequestDecoder(max_value_bytes=len(value) - 1)
    decoder.add_schema(SCHEMA_ID, schema_json(Contract.REQUEST))
    with pytest.raises(PoisonError) as caught:
        decoder.decode(value)
    assert caught.value.code == "TOO_LARGE"


@pytest.mark.parametrize("parameter", [2**63, "\ud800"])
def test_parameter_that_avro_cannot_hold_is_refused_when_encoding(parameter: int | str) -> None:
    with pytest.raises(PoisonError) as caught:
        encode_request(dataclasses.replace(REQUEST, parameters={"a": parameter}), SCHEMA_ID)
    assert caught.value.code == "UNENCODABLE"


def test_dead_letter_with_unwritable_text_is_encoded_all_the_same() -> None:
    letter = dataclasses.replace(
        LETTER, message="\ud800" + "x" * 100_000, code="\udfff", request_id="\ud800", headers=(("\ud800", b""),)
    )
    decoded = letter_of(encode_dead_letter(letter, SCHEMA_ID))
    assert decoded.message.startswith("?xxx")
    assert len(decoded.message) == 8192
    assert decoded.headers == (("?", b""),)


@pytest.mark.parametrize(
    ("key_bytes", "header_bytes", "value_bytes", "kept"),
    [
        (10, 10, 1_000_000, ("key", "headers", "value")),
        (10, 10, 2_000_000, ("key", "headers")),
        (10, 2_000_000, 2_000_000, ("key",)),
        (2_000_000, 2_000_000, 2_000_000, ()),
    ],
)
def test_dead_letter_that_would_not_fit_leaves_out_the_largest_piece_first_and_counts_it(
    key_bytes: int, header_bytes: int, value_bytes: int, kept: tuple[str, ...]
) -> None:
    limit = 1_500_000
    letter = dataclasses.replace(
        LETTER, key=bytes(key_bytes), headers=(("h", bytes(header_bytes)),), value=bytes(value_bytes)
    )
    value = encode_dead_letter(letter, SCHEMA_ID, max_bytes=limit)
    decoded = letter_of(value)
    assert tuple(name for name in ("key", "headers", "value") if getattr(decoded, name)) == kept
    assert len(value) + len(decoded.key or b"") <= limit
    left_out = {"key": key_bytes, "headers": header_bytes, "value": value_bytes}
    assert decoded.omitted_bytes == pytest.approx(sum(n for name, n in left_out.items() if name not in kept), abs=20)
    assert decoded.provenance == LETTER.provenance
