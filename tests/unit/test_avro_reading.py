"""Our own reader of Avro, against fastavro's, whose word is the last: what it does not read is read there."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from headrace.pipeline.avro import Contract, UnusableSchemaError, own_schema, parse, schema_json
from headrace.pipeline.avro_code import MOST_LINES, MOST_NESTED
from headrace.pipeline.avro_reading import UnusualError, reader
from headrace.pipeline.envelope import RequestDecoder, encode_request
from headrace.pipeline.fields import dead_letter_fields, request_fields
from headrace.pipeline.records import DeadLetter, InferenceRequest, InferenceResult, Part
from headrace.pipeline.records import Modality as M
from tests.unit.result_fields import result_fields
from tests.unit.strategies import DEAD_LETTERS, REQUESTS, RESULTS, damaged
from tests.unit.test_wire import record, record_schema

PREFIX = b"\0\1\2\3\4"
SLOW = settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


def written(schema: Any, value: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, value)
    return stream.getvalue()


def by_fastavro(schema: Any, data: bytes) -> tuple[Any, int]:
    stream = io.BytesIO(data)
    return fastavro.schemaless_reader(stream, schema, None), stream.tell()


def read(schema: Any, data: bytes) -> tuple[Any, int]:
    made = reader(schema)
    assert made is not None
    found, end = made(PREFIX + data, len(PREFIX))
    return found, end - len(PREFIX)


def same(schema: Any, value: Any) -> bool:
    data = written(schema, value)
    return repr(read(schema, data)) == repr(by_fastavro(schema, data))  # of the same types, and NaN like NaN


@given(REQUESTS)
def test_requests_are_read_as_fastavro_does(request: InferenceRequest) -> None:
    assert same(own_schema(Contract.REQUEST), request_fields(request))


@given(RESULTS)
def test_results_are_read_as_fastavro_does(result: InferenceResult) -> None:
    assert same(own_schema(Contract.RESULT), result_fields(result))


@given(DEAD_LETTERS)
def test_dead_letters_are_read_as_fastavro_does(letter: DeadLetter) -> None:
    assert same(own_schema(Contract.DEAD_LETTER), dead_letter_fields(letter))


SIMPLE: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32),
    "double": st.floats(),
    "bytes": st.binary(max_size=200),
    "string": st.text(max_size=200),
}
Typed = tuple[Any, st.SearchStrategy[Any]]


def branch(kind: str) -> st.SearchStrategy[Any]:
    """Values of a union's branch, named: fastavro's writer would look for one that fits."""
    return SIMPLE[kind] if kind == "null" else SIMPLE[kind].map(lambda value: (kind, value))


@st.composite
def typed(draw: st.DrawFn, depth: int) -> Typed:
    """An Avro type and values of it, as fastavro's writer takes them."""
    kind = draw(st.sampled_from([*SIMPLE, "fixed", "enum", *["record", "union", "array", "map"] * (depth > 0)]))
    name = f"T{draw(st.uuids()).hex}"
    match kind:
        case "fixed":
            size = draw(st.integers(0, 5))
            return {"type": "fixed", "name": name, "size": size}, st.binary(min_size=size, max_size=size)
        case "enum":
            symbols = draw(st.lists(st.sampled_from("ABCDEF"), min_size=1, unique=True))
            return {"type": "enum", "name": name, "symbols": symbols}, st.sampled_from(symbols)
        case "record":
            children = draw(st.lists(typed(depth - 1), max_size=4))
            fields = {f"f{number}": values for number, (_, values) in enumerate(children)}
            return record(name, *(child for child, _ in children)), st.fixed_dictionaries(fields)
        case "array":
            child, values = draw(typed(depth - 1))
            return {"type": "array", "items": child}, st.lists(values, max_size=5)
        case "map":
            child, values = draw(typed(depth - 1))
            return {"type": "map", "values": child}, st.dictionaries(st.text(max_size=9), values, max_size=5)
        case "union":
            kinds = draw(st.lists(st.sampled_from([*SIMPLE]), min_size=1, max_size=4, unique=True))
            return kinds, st.one_of(*map(branch, kinds))
    return kind, SIMPLE[kind]


@st.composite
def schemas(draw: st.DrawFn) -> Typed:
    """A schema that is in use, and values of it."""
    schema, values = draw(typed(3))
    try:
        return parse(json.dumps(record("Whole", schema, "long"))), values
    except UnusableSchemaError:
        assume(False)
        raise


@SLOW
@given(schemas(), st.data())
def test_values_of_any_schema_are_read_as_fastavro_does(made: Typed, data: st.DataObject) -> None:
    schema, values = made
    assert same(schema, {"f0": data.draw(values), "f1": 7})


@SLOW
@given(schemas(), st.data())
def test_whatever_is_read_of_damaged_bytes_fastavro_reads_too(made: Typed, data: st.DataObject) -> None:
    """Flipped bits, cut ends, and pieces put in: it is read as fastavro reads it, or not at all."""
    schema, values = made
    wire = data.draw(damaged(written(schema, {"f0": data.draw(values), "f1": data.draw(SIMPLE["long"])})))
    try:
        found = read(schema, wire)
    except Exception:  # noqa: BLE001 - whatever: then fastavro is asked
        return
    assert repr(found) == repr(by_fastavro(schema, wire))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("power", range(64))
@pytest.mark.parametrize("beside", [-1, 0, 1])
def test_whole_numbers_of_every_length(sign: int, power: int, beside: int) -> None:
    value = sign * 2**power + beside
    if -(2**63) <= value < 2**63:
        assert read("long", written("long", value)) == (value, len(written("long", value)))


@pytest.mark.parametrize(
    ("schema", "data"),
    [
        ("long", b"\xff" * 9 + b"\x02"),  # 65 bits
        ("long", b"\x80" * 10 + b"\x01"),
        ("string", b"\x01"),  # -1 characters
        ("boolean", b"\x02"),
        ({"type": "array", "items": "long"}, b"\x01\x02\x02\x00"),  # a block with its size
        ({"type": "enum", "name": "E", "symbols": ["A"]}, b"\x01"),
        (["null", "long"], b"\x04"),
        ({"type": "array", "items": {"type": "fixed", "name": "F", "size": 2}}, b"\xfe" + b"\xff" * 8 + b"\x01a"),
    ],
)  # fmt: skip
def test_what_is_unusual_is_not_read(schema: Any, data: bytes) -> None:
    with pytest.raises(UnusualError):
        read(schema, data)


def arrays(depth: int) -> Any:
    return "long" if depth == 0 else {"type": "array", "items": arrays(depth - 1)}


@pytest.mark.parametrize("more", [arrays(MOST_NESTED), record("Long", *["long"] * MOST_LINES)], ids=["deep", "long"])
def test_schema_that_is_too_much_for_source_is_read_by_fastavro(more: Any) -> None:
    schema = record_schema(type=["null", more])
    assert reader(parse(schema)) is None
    decoder = RequestDecoder()
    decoder.add_schema(7, schema)
    request = InferenceRequest("7b0c9f5e-6c1c-4b2a-9d39-3f1f5f0d3f11", "t", "s", 1, (Part("p", M.TEXT, "", "hello"),))
    assert decoder.decode(encode_request(request, 7) + b"\x00") == request


def test_array_in_blocks_with_sizes_is_decoded_all_the_same() -> None:
    decoder = RequestDecoder()
    decoder.add_schema(7, schema_json(Contract.REQUEST))
    request = InferenceRequest("7b0c9f5e-6c1c-4b2a-9d39-3f1f5f0d3f11", "t", "s", 1, (Part("p", M.TEXT, "", "hello"),))
    value = encode_request(request, 7)
    part = b"\x02p\x02\x00\x04\x0ahello"
    assert value.count(b"\x02" + part + b"\x00") == 1
    sized = value.replace(b"\x02" + part, b"\x01" + bytes([2 * len(part)]) + part)
    assert decoder.decode(sized) == request
