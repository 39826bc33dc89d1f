from __future__ import annotations

import contextlib
import copy
import io
import json
import struct
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.pipeline.avro import Contract, UnusableSchemaError, parse, schema_json
from headrace.pipeline.envelope import RequestDecoder, encode_request
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.limits import MAX_VALUES_PER_BYTE
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
    assert decoder.missing([framed(9), framed(10)]) == {9, 10}  # of another batch, beside it
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


def record(name: str, *types: Any) -> Any:
    return {"type": "record", "name": name, "fields": [{"name": f"f{i}", "type": t} for i, t in enumerate(types)]}


HOLLOW = record("Hollow", *["null"] * 100)
SQUARED = record("Squared", "int", HOLLOW, *["Hollow"] * 90)
"""One byte on the wire, nine thousand values in memory."""
THRICE = record("Outer", record("Middle", record("Inner", "int")))


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
        record_schema(type={"type": "array", "items": SQUARED}),
        record_schema(type={"type": "map", "values": SQUARED}),
        record_schema(type={"type": "array", "items": ["int", HOLLOW]}),
        record_schema(type={"type": "array", "items": {"type": "array", "items": HOLLOW}}),
        record_schema(type={"type": "array", "items": THRICE}),
        record_schema(type={"type": "map", "values": record("Outermost", THRICE)}),
        record_schema(type={"type": "fixed", "name": "Half", "size": 1.5}),
        record_schema(type={"type": "fixed", "name": "Less", "size": -1}),
        record_schema(type={"type": "enum", "name": "Letters", "symbols": "AB"}),
        record_schema(type={"type": "record", "name": "Listed", "fields": [{"name": ["a"], "type": "int"}]}),
        record_schema(name=["a"], type="int"),
        record_schema(name={"a": 1}, type="int"),
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
    "added",
    [
        SQUARED,
        {"type": "array", "items": record("Point", "int")},
        {"type": "array", "items": ["null", record("Wide", *["long"] * 70)]},
        {"type": "array", "items": record("Padded", "null", "int", "string")},
        {"type": "array", "items": record("Outer", record("Middle", record("Inner", "double")))},
        {"type": "map", "values": record("Box", record("Corner", "int", "int"), "float")},
        {"type": "array", "items": {"type": "map", "values": "null"}},
    ],
    ids=lambda added: str(added)[:60],
)
def test_schema_whose_items_hold_no_more_than_their_bytes_is_usable(added: Any) -> None:
    """Outside of arrays and maps a field is there once a record: then anything goes, up to the size of the schema."""
    decoder = RequestDecoder()
    decoder.add_schema(7, record_schema(type=["null", added]))
    assert decoder.decode(encode_request(REQUEST, 7) + b"\x00") == REQUEST


@st.composite
def types(draw: st.DrawFn, depth: int) -> Any:
    """Avro types, the hollow ones more often than they are met with."""
    kinds = ["null", "null", "int", "string", "fixed", "float", "double"] + ["record", "union", "array", "map"] * (
        depth > 0
    )
    kind = draw(st.sampled_from(kinds))
    name = f"T{draw(st.uuids()).hex}"
    match kind:
        case "record":
            return record(name, *draw(st.lists(types(depth=depth - 1), max_size=5)))
        case "union":  # Avro allows one array, map and null each
            return ["null", record(name, *draw(st.lists(types(depth=depth - 1), max_size=5)))]
        case "array":
            return {"type": "array", "items": draw(types(depth=depth - 1))}
        case "map":
            return {"type": "map", "values": draw(types(depth=depth - 1))}
        case "fixed":
            return {"type": "fixed", "name": name, "size": draw(st.integers(0, 2))}
    return kind


MOSTLY_ZEROS = bytes([0, 0, 0, 1, 2, 2, 4, 97] * 32)
"""As a table of what to write for any byte."""


def values_in(value: Any) -> int:
    """How many Python values a decoded one is made of; an empty container is one."""
    if isinstance(value, dict):
        return 1 + sum(values_in(child) for child in value.values())
    return 1 + sum(values_in(child) for child in value) if isinstance(value, list) else 1


@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(st.lists(types(depth=2), min_size=1, max_size=5).map(lambda fields: record("Item", *fields)), st.data())
def test_items_of_a_usable_schema_make_few_values_a_byte(item: Any, data: st.DataObject) -> None:
    """Whatever the bytes: those that make most of little are zeros and small numbers."""
    try:
        schema = parse(json.dumps({"type": "array", "items": item}))
    except UnusableSchemaError:
        return
    count = data.draw(st.integers(1, 63))
    wire = bytes([2 * count]) + data.draw(st.binary(min_size=400)).translate(MOSTLY_ZEROS)
    stream = io.BytesIO(wire)
    try:
        decoded = fastavro.schemaless_reader(stream, schema, None)
    except (EOFError, IndexError, ValueError):
        return
    assert values_in(decoded) <= MAX_VALUES_PER_BYTE * stream.tell()


JUNK: list[Any] = [None, True, -1, 1.5, 2**70, "", "a", "null", "Part", [], ["null"], [[1]], {}, {"a": 1}, SELF, EMPTY]


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a schema with every key in it."""
    for key, child in list(
        node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    ):
        yield node, key
        yield from places(child)


@given(st.data())
def test_schema_with_anything_anywhere_is_usable_or_makes_its_records_poison(data: st.DataObject) -> None:
    """Registries other than Confluent's take what is no Avro, and no schema may end the worker."""
    schema = json.loads(SCHEMA)
    more = [
        record("Added", "int"),
        {"type": "enum", "name": "Added", "symbols": ["A"]},
        {"type": "map", "values": "int"},
    ]
    schema["fields"].insert(0, {"name": "more", "type": data.draw(st.sampled_from(more))})
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = data.draw(st.sampled_from(list(places(schema))))
        container[key] = copy.deepcopy(data.draw(st.sampled_from(JUNK)))
    decoder = RequestDecoder()
    decoder.add_schema(7, json.dumps(schema))
    for value in (framed(7) + b"\x02" * 90, framed(7) + b"\x00" * 90, encode_request(REQUEST, 7)):
        with contextlib.suppress(PoisonError):
            decoder.decode(value)


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
