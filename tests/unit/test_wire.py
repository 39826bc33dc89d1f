from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.envelope import RequestDecoder, encode_request
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.records import InferenceRequest, Modality, Part
from headrace.pipeline.wire import REFUSED_CAPACITY, REFUSED_SECONDS, Decoder, schema_id_of

SCHEMA = schema_json(Contract.REQUEST)
REQUEST = InferenceRequest(
    id="3b241101-e2bb-4255-8caf-4136c566a962",
    type="com.example.text",
    source="/tests",
    time_ms=1,
    parts=(Part("text", Modality.TEXT, "text/plain", "a river turns the mill"),),
)


class Monotonic:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def decoder_at(clock: Monotonic) -> Decoder[dict[str, Any]]:
    return Decoder(Contract.REQUEST, lambda fields: fields, monotonic=clock)


def framed(schema_id: int) -> bytes:
    return struct.pack(">bI", 0, schema_id)


def code_of(decoder: RequestDecoder, value: bytes) -> str:
    with pytest.raises(PoisonError) as caught:
        decoder.decode(value)
    return caught.value.code


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "EMPTY_VALUE"),
        (b"", "EMPTY_VALUE"),
        (b"\x00\x00\x00\x00", "NOT_WIRE_FORMAT"),
        (b"\x01\x00\x00\x00\x07abc", "NOT_WIRE_FORMAT"),
        (b'{"id": "3b241101"}', "NOT_WIRE_FORMAT"),
        (framed(2**31), "UNKNOWN_SCHEMA"),
    ],
)
def test_value_outside_the_wire_format_is_poison(value: bytes | None, code: str) -> None:
    with pytest.raises(PoisonError) as caught:
        schema_id_of(value)
    assert (caught.value.stage, caught.value.code) == ("decode", code)


@given(st.integers(0, 2**31 - 1), st.binary(max_size=9))
def test_schema_id_is_the_big_endian_integer_after_the_magic_byte(schema_id: int, rest: bytes) -> None:
    assert schema_id_of(framed(schema_id) + rest) == schema_id


def test_missing_names_each_unknown_id_once_and_no_impossible_one() -> None:
    decoder = RequestDecoder()
    decoder.add_schema(1, SCHEMA)
    decoder.add_schema(2, None)
    values = [
        framed(1),
        framed(2),
        framed(3),
        framed(3),
        framed(2**31),
        None,
        b"",
        b"\x00\x00",
        b"\x01\x00\x00\x00\x04",
    ]
    assert decoder.missing(values) == {3}


def test_record_of_an_id_that_the_registry_lacks_is_poison() -> None:
    decoder = RequestDecoder()
    decoder.add_schema(9, None)
    assert code_of(decoder, framed(9) + b"abc") == "UNKNOWN_SCHEMA"


def test_refused_id_is_asked_for_again_after_a_while_and_then_usable() -> None:
    """A registry's replica may learn of a new id late: the producer's next records must get through."""
    clock = Monotonic()
    decoder = decoder_at(clock)
    decoder.add_schema(9, None)
    clock.now = REFUSED_SECONDS - 0.1
    assert decoder.missing([framed(9)]) == set()
    clock.now = REFUSED_SECONDS
    assert decoder.missing([framed(9)]) == {9}
    decoder.add_schema(9, SCHEMA)
    assert decoder.missing([framed(9)]) == set()
    assert decoder.decode(encode_request(REQUEST, 9))["id"] == REQUEST.id


def test_refusal_that_expires_within_a_batch_still_says_why() -> None:
    clock = Monotonic()
    decoder = decoder_at(clock)
    decoder.add_schema(9, '"int"')
    clock.now = 2 * REFUSED_SECONDS
    with pytest.raises(PoisonError) as caught:
        decoder.decode(framed(9))
    assert caught.value.code == "WRONG_SCHEMA"


def test_random_ids_are_forgotten_beyond_the_capacity() -> None:
    decoder = decoder_at(Monotonic())
    everything = [framed(schema_id) for schema_id in range(3 * REFUSED_CAPACITY)]
    for schema_id in range(3 * REFUSED_CAPACITY):
        decoder.add_schema(schema_id, None)
    assert len(decoder.missing(everything)) == 2 * REFUSED_CAPACITY


def test_forgetting_refusals_never_forgets_a_usable_schema() -> None:
    decoder = decoder_at(Monotonic())
    decoder.add_schema(0, SCHEMA)
    for schema_id in range(1, 3 * REFUSED_CAPACITY):
        decoder.add_schema(schema_id, None)
    assert decoder.missing([framed(0)]) == set()


def record_schema(**field: Any) -> str:
    """The request schema with one more field."""
    schema = json.loads(SCHEMA)
    schema["fields"].append({"name": "more", **field})
    return json.dumps(schema)


NESTED: Any = "int"
for _ in range(80):
    NESTED = {"type": "array", "items": NESTED}

DOUBLING: Any = {"type": "record", "name": "R0", "fields": []}
for level in range(1, 40):
    DOUBLING = {
        "type": "record",
        "name": f"R{level}",
        "fields": [{"name": "a", "type": DOUBLING}, {"name": "b", "type": f"R{level - 1}"}],
    }

SELF = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
ENDLESS = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": "Node"}]}
EMPTY = {"type": "record", "name": "Empty", "fields": []}


@pytest.mark.parametrize(
    "schema",
    [
        "",
        "{",
        "[" * 100_000,
        "null",
        "{}",
        '"int"',
        '{"type": "object", "properties": {}}',
        'syntax = "proto3"; message InferenceRequest {}',
        '{"type": "record", "name": "InferenceRequest", "namespace": "io.headrace", "fields": []}',
        SCHEMA.replace("io.headrace", "com.example"),
        SCHEMA.replace('"size": 32', '"size": 20'),
        SCHEMA.replace('"logicalType": "timestamp-millis"', '"x": 1').replace('"long"', '"string"'),
        schema_json(Contract.RESULT),
        json.dumps({"type": "array", "items": json.loads(SCHEMA)}),
        record_schema(type="com.example.Elsewhere"),
        record_schema(type={"type": "array", "items": "null"}),
        record_schema(type={"type": "array", "items": EMPTY}),
        record_schema(type={"type": "array", "items": {"type": "fixed", "name": "Nothing", "size": 0}}),
        record_schema(type=SELF),
        record_schema(type=ENDLESS),
        record_schema(type=NESTED),
        record_schema(type=DOUBLING),
        record_schema(type="null", doc="x" * 300_000),
    ],
    ids=lambda schema: schema[-40:],
)
def test_schema_that_is_unsafe_or_describes_something_else_makes_its_records_poison(schema: str) -> None:
    """Read as they are, some of these take the C stack, all memory, or for ever."""
    decoder = RequestDecoder()
    decoder.add_schema(7, schema)
    assert decoder.missing([framed(7)]) == set()
    assert code_of(decoder, framed(7) + b"\x02" * 1_000_000) == "WRONG_SCHEMA"


@pytest.mark.parametrize(
    "block_count", [b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
)
def test_block_count_that_lies_is_found_out_at_the_end_of_the_bytes(block_count: bytes) -> None:
    """2^63 - 1 parts, and -2^63 of them with a size, in a record of a hundred bytes."""
    decoder = RequestDecoder()
    decoder.add_schema(7, SCHEMA)
    value = encode_request(REQUEST, 7)
    part_count = value.index(b"\x02\x08text")
    assert code_of(decoder, value[:part_count] + block_count + value[part_count + 1 :]) == "CORRUPT"
