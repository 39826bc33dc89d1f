"""Answers are read many at once, and come out as they do one by one, whatever the bytes."""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.envelope import ResultDecoder, encode_result
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.evaluate.answer_columns import ResultReader
from headrace.pipeline.evaluate.avro_columns import MOST_TURNS, ColumnReader, OddRecordsError
from headrace.pipeline.evaluate.compared import LeftOut, OffsetSet
from headrace.pipeline.evaluate.store import ANSWERS, TableWriter, write_result
from headrace.pipeline.records import (
    InferenceResult,
    Label,
    NamedTensor,
    PartOutput,
    Provenance,
    Segment,
    Tensor,
    Timings,
)
from headrace.pipeline.replay.ranges import PartitionRange
from tests.unit.result_fields import result_fields
from tests.unit.strategies import RESULTS, examples

RELEASED = Path(__file__).parents[2] / "schemas" / "released"
OFFSETS = 16
SCHEMA_ID, OTHER_ID, UNKNOWN_ID = 7, 8, 9


class Schemas:
    """A registry of these."""

    def __init__(self, schemas: dict[int, str]) -> None:
        self._schemas = schemas

    def schema(self, schema_id: int) -> str | None:
        return self._schemas.get(schema_id)

    def register(self, subject: str, schema: str, compatibility: str) -> int:
        raise NotImplementedError


OWN = {SCHEMA_ID: schema_json(Contract.RESULT), OTHER_ID: schema_json(Contract.RESULT)}


def events() -> OffsetSet:
    """Every other offset of two partitions."""
    found = OffsetSet("in", [PartitionRange(0, 0, OFFSETS), PartitionRange(3, 100, 100 + OFFSETS)])
    for offset in range(0, OFFSETS, 2):
        found.add(Provenance("in", 0, offset, 0))
        found.add(Provenance("in", 3, 100 + offset, 0))
    return found


POSITIONS = st.builds(
    Provenance,
    st.sampled_from(["in", "in", "in", "other"]),
    st.sampled_from([0, 3, 4]),
    st.integers(0, OFFSETS) | st.integers(99, 101 + OFFSETS) | st.integers(-(2**63), 2**63 - 1),
    st.just(0),
)
ANSWERED = st.builds(lambda result, at: replace(result, provenance=at), RESULTS, POSITIONS)
VALUES = st.builds(encode_result, ANSWERED, st.just(SCHEMA_ID))


def read(
    folder: Path, values: Sequence[bytes | None], routes: frozenset[str] = frozenset(), schemas: dict[int, str] = OWN
) -> tuple[list[dict[str, Any]], LeftOut, int]:
    """Rows, what is left out, and how many records were read one by one."""
    reader = ResultReader(Schemas(schemas), events(), routes)
    with TableWriter(folder / "many", ANSWERS) as table:
        reader.write(table, values)
    return rows(folder / "many"), reader.left_out, reader.one_by_one


def read_plainly(
    folder: Path, values: Iterable[bytes | None], routes: frozenset[str] = frozenset(), schemas: dict[int, str] = OWN
) -> tuple[list[dict[str, Any]], LeftOut]:
    """The same from the decoder that everything else uses."""
    decoder, among, left_out = ResultDecoder(), events(), LeftOut()
    for schema_id, schema in schemas.items():
        decoder.add_schema(schema_id, schema)
    with TableWriter(folder / "single", ANSWERS) as table:
        for value in values:
            try:
                result = decoder.decode(value)
            except PoisonError:
                left_out.unreadable += 1
                continue
            if result.provenance in among:
                write_result(table, result, routes)
            else:
                left_out.others += 1
    return rows(folder / "single"), left_out


def rows(path: Path) -> list[dict[str, Any]]:
    """NaN by its name: it does not equal itself."""
    found: list[dict[str, Any]] = _comparable(pq.read_table(path).to_pylist())
    return found


def _comparable(told: Any) -> Any:
    if isinstance(told, list):
        return [_comparable(each) for each in told]
    if isinstance(told, dict):
        return {name: _comparable(each) for name, each in told.items()}
    return "NaN" if isinstance(told, float) and math.isnan(told) else told


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("columns")


def answer(offset: int, **output: Any) -> InferenceResult:
    at = Provenance("in", 0, offset, 0)
    return InferenceResult("id", "OK", (PartOutput("p", "r", "m", "1", **output),), at, Timings(1, 2, 3), 1, "w", 0)


def tensor(datatype: str, shape: tuple[int, ...], data: bytes) -> NamedTensor:
    return NamedTensor(datatype, Tensor(datatype, shape, data))


SAMPLES = [
    encode_result(result, SCHEMA_ID)
    for result in (
        answer(0, labels=(Label("Katze 🐈", 0.75), Label("", math.nan)), text=""),
        answer(2, segments=(Segment(0.5, 1.5), Segment(1.5, 2, "语", 0.5, "text")), text="ä" * 300, batch_size=70_000),
        answer(4, tensors=(tensor("FP32", (2,), struct.pack("<2f", 1.5, math.inf)), tensor("FP32", (0,), b""))),
        answer(6, tensors=(tensor("BYTES", (1,), b"\1\0\0\0x"), tensor("INT64", (1,), struct.pack("<q", -(2**40))))),
        answer(8, tensors=(tensor("BF16", (1,), b"\x80\x3f"), tensor("BOOL", (2,), b"\0\1"), tensor("ODD", (), b"?"))),
        replace(answer(10), outputs=()),
        replace(answer(12), outputs=tuple(PartOutput(part, "r", "m", "1") for part in ("one", "other", "one"))),
        answer(3),
    )
]


# --- as the schema says


@settings(deadline=None, max_examples=examples(25), suppress_health_check=[HealthCheck.too_slow])  # large records
@given(st.lists(VALUES, max_size=2), st.sampled_from([frozenset[str](), frozenset({"", "a"})]))
def test_results_are_read_at_once_and_as_one_by_one(folder: Path, values: list[bytes], routes: frozenset[str]) -> None:
    found, left_out, one_by_one = read(folder, values, routes)
    assert (found, left_out) == read_plainly(folder, values, routes)
    assert one_by_one == 0  # an empty batch is of no schema


def test_everything_that_a_result_can_hold_is_read_at_once(folder: Path) -> None:
    found, left_out, one_by_one = read(folder, SAMPLES)
    assert (found, left_out) == read_plainly(folder, SAMPLES)
    assert (len(found), left_out.others, one_by_one) == (8, 1, 0)
    assert [row["parts"] for row in found] == [1, 1, 1, 1, 1, 2, 2, 2]
    assert [tensor["name"] for row in found for tensor in row["tensors"]] == ["FP32", "FP32", "INT64", "BF16", "BOOL"]


@pytest.mark.parametrize("version", sorted(path.name for path in RELEASED.iterdir()))
def test_results_of_older_writers_are_read_at_once(folder: Path, version: str) -> None:
    schema = (RELEASED / version / "inference_result.avsc").read_text()
    told = [answer(offset, labels=(Label("a", 0.5),), text="b") for offset in range(OFFSETS)]
    values = [encoded(schema, result_fields(each)) for each in told]
    found, left_out, one_by_one = read(folder, values, schemas={SCHEMA_ID: schema})
    assert (found, left_out) == read_plainly(folder, values, schemas={SCHEMA_ID: schema})
    assert (len(found), one_by_one) == (OFFSETS // 2, 0)


def test_what_newer_writers_add_is_passed_over(folder: Path) -> None:
    schema = json.loads(schema_json(Contract.RESULT))
    added = {
        "a_map": ({"type": "map", "values": {"type": "array", "items": "string"}}, {"a": ["b", "c"], "d": []}),
        "a_fixed": ({"type": "fixed", "name": "Fixed", "size": 3}, b"abc"),
        "a_flag": ("boolean", True),
        "a_float": ("float", 0.5),
        "an_enum": ({"type": "enum", "name": "Enum", "symbols": ["A", "B"]}, "B"),
        "a_union": (["null", "string", {"type": "array", "items": "double"}], [0.5, 1.5]),
        "a_record": ({"type": "record", "name": "More", "fields": [{"name": "part", "type": "bytes"}]}, {"part": b"p"}),
        "again": ("More", {"part": b"q"}),
    }
    schema["fields"] = [{"name": name, "type": kind} for name, (kind, _) in added.items()] + schema["fields"]
    values = []
    for offset in range(OFFSETS):
        fields = {**result_fields(answer(offset, text="t")), **{name: value for name, (_, value) in added.items()}}
        values.append(encoded(json.dumps(schema), fields | ({"a_union": None} if offset % 4 else {})))
    schemas = {SCHEMA_ID: json.dumps(schema)}
    found, left_out, one_by_one = read(folder, values, schemas=schemas)
    assert (found, left_out) == read_plainly(folder, values, schemas=schemas)
    assert (len(found), one_by_one) == (OFFSETS // 2, 0)


def encoded(schema: str, fields: dict[str, Any]) -> bytes:
    parsed: Any = fastavro.parse_schema(json.loads(schema))
    names = {field["name"] for field in parsed["fields"]}
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, parsed, {name: value for name, value in fields.items() if name in names})
    return struct.pack(">bI", 0, SCHEMA_ID) + stream.getvalue()


# --- not as the schema says


@settings(deadline=None)
@given(st.data())
def test_whatever_the_bytes_are_they_are_read_as_one_by_one(folder: Path, data: st.DataObject) -> None:
    values: list[bytes | None] = list(data.draw(st.lists(st.sampled_from(SAMPLES), min_size=1, max_size=3)))
    place = data.draw(st.integers(0, len(values) - 1))
    for _ in range(data.draw(st.integers(1, 3))):
        values[place] = data.draw(_mutated(values[place]))
    found, left_out, _ = read(folder, values)
    assert (found, left_out) == read_plainly(folder, values)


def _mutated(value: bytes | None) -> st.SearchStrategy[bytes | None]:
    whole = value or b"\0\0"
    places = st.integers(0, len(whole) - 1)
    return st.one_of(
        st.just(None),
        st.just(struct.pack(">bI", 0, OTHER_ID) + whole[5:]),
        st.just(struct.pack(">bI", 0, UNKNOWN_ID) + whole[5:]),
        st.binary(max_size=30),
        st.binary(min_size=1, max_size=9).map(lambda more: whole + more),
        places.map(lambda place: whole[:place]),
        st.builds(lambda place, byte: whole[:place] + bytes([byte]) + whole[place + 1 :], places, st.integers(0, 255)),
        st.builds(lambda place, more: whole[:place] + more + whole[place:], places, st.binary(min_size=1, max_size=9)),
    )


@pytest.mark.parametrize("cut", [1, 40])
def test_record_that_is_short_by_what_its_neighbour_is_too_long_is_no_record(folder: Path, cut: int) -> None:
    """One behind the other they are what the schema says."""
    one, other = (encode_result(answer(offset), SCHEMA_ID) for offset in (0, 2))
    values = [one[:-cut], other[:5] + one[-cut:] + other[5:], encode_result(answer(4), SCHEMA_ID)]
    found, left_out, one_by_one = read(folder, values)
    assert ([row["offset"] for row in found], left_out.unreadable, one_by_one) == ([4], 2, 3)


def test_text_that_is_not_told_must_be_utf_8_too(folder: Path) -> None:
    value = encode_result(replace(answer(0), worker="worker"), SCHEMA_ID)
    broken = value.replace(b"worker", b"w\xffrker")
    assert len(broken) == len(value)
    assert read(folder, [broken]) == ([], LeftOut(unreadable=1), 1)


def test_very_many_items_are_read_one_by_one(folder: Path) -> None:
    many = tuple(Label(str(number), 0.5) for number in range(MOST_TURNS + 1))
    values = [encode_result(answer(0, labels=many), SCHEMA_ID), encode_result(answer(2), SCHEMA_ID)]
    found, left_out, one_by_one = read(folder, values)
    assert (found, left_out) == read_plainly(folder, values)
    assert one_by_one == 2


# --- what no writer of ours does


def test_lists_in_several_blocks_with_or_without_their_sizes_are_read() -> None:
    """As other languages' writers make them: 3 items in blocks of 2 and 1, the latter with its size."""
    schema = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "list", "type": {"type": "array", "items": {"type": "record", "name": "I", "fields": [
            {"name": "name", "type": "string"}, {"name": "number", "type": "long"}]}}}],
    }  # fmt: skip
    items = [b"\x02a\x02", b"\x04bc\x03", b"\x00\x80\x01"]
    blocks = b"\x04" + items[0] + items[1] + b"\x01\x06" + items[2] + b"\x00"
    columns = ColumnReader(fastavro.parse_schema(schema), {"list[].name", "list[].number"}).read(
        [blocks, b"\0", blocks]
    )
    assert columns.texts("list[].name").to_pylist() == ["a", "bc", ""] * 2
    assert columns.integers("list[].number").tolist() == [1, -2, 64] * 2
    assert columns.owners("list[]").tolist() == [0, 0, 0, 2, 2, 2]
    read_by_fastavro: Any = fastavro.schemaless_reader(io.BytesIO(blocks), fastavro.parse_schema(schema), None)
    assert [item["number"] for item in read_by_fastavro["list"]] == [1, -2, 64]


@pytest.mark.parametrize("value", [b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x00"])
def test_numbers_of_more_than_64_bits_are_left_to_the_decoder(value: bytes) -> None:
    with pytest.raises(OddRecordsError):
        ColumnReader(NUMBER, {"number"}).read([value])


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
@example([-(2**63), 2**63 - 1, -1, 0, 63, 64, -64, -65])
def test_numbers_are_read_as_they_were_written(numbers: list[int]) -> None:
    columns = ColumnReader(NUMBER, {"number"}).read(list(map(_written, numbers)))
    assert columns.integers("number").tolist() == numbers


NUMBER = fastavro.parse_schema({"type": "record", "name": "N", "fields": [{"name": "number", "type": "long"}]})


def _written(number: int) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, NUMBER, {"number": number})
    return stream.getvalue()


def test_schema_that_has_a_huge_value_of_fixed_size_does_no_harm() -> None:
    """Four times the size is none, in 64 bits."""
    fields = [{"name": name, "type": "F"} for name in ("b", "c", "d")]
    first = {"name": "a", "type": {"type": "fixed", "name": "F", "size": 2**62}}
    schema = fastavro.parse_schema({"type": "record", "name": "R", "fields": [first, *fields]})
    with pytest.raises(OddRecordsError):
        ColumnReader(schema, ()).read([b""])
