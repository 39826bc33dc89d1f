"""Every version of a contract reads every other: the writers and readers out there are of all versions."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import resources
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.pipeline.avro import Contract, mismatch, own_schema, parse, schema_json
from headrace.pipeline.config import Settings
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
from headrace.pipeline.records import InferenceRequest, Modality, Part
from headrace.pipeline.replay.manifest import ProgressDecoder, RunDecoder, encode_progress, encode_run
from headrace.pipeline.setup import register_contracts, topic_specs
from headrace.pipeline.wire import HEADER_BYTES, Decoder
from tests.unit.strategies import DEAD_LETTERS, PROGRESSES, REQUESTS, RESULTS, RUNS, examples

SCHEMA_ID = 7
REQUEST = InferenceRequest(
    id="3b241101-e2bb-4255-8caf-4136c566a962",
    type="com.example.text",
    source="/tests",
    time_ms=1_700_000_000_000,
    parts=(Part("text", Modality.TEXT, "text/plain", "a river turns the mill"),),
)
RELEASED = resources.files("headrace") / "schemas" / "released"
DECODERS: dict[Contract, Callable[[], Decoder[Any]]] = {
    Contract.REQUEST: RequestDecoder,
    Contract.RESULT: ResultDecoder,
    Contract.DEAD_LETTER: DeadLetterDecoder,
    Contract.REPLAY_RUN: RunDecoder,
    Contract.REPLAY_PROGRESS: ProgressDecoder,
}
ENCODERS: dict[Contract, Callable[[Any, int], bytes]] = {
    Contract.REQUEST: encode_request,
    Contract.RESULT: encode_result,
    Contract.DEAD_LETTER: encode_dead_letter,
    Contract.REPLAY_RUN: encode_run,
    Contract.REPLAY_PROGRESS: encode_progress,
}
RECORDS: dict[Contract, st.SearchStrategy[Any]] = {
    Contract.REQUEST: REQUESTS,
    Contract.RESULT: RESULTS,
    Contract.DEAD_LETTER: DEAD_LETTERS,
    Contract.REPLAY_RUN: RUNS,
    Contract.REPLAY_PROGRESS: PROGRESSES,
}


def released() -> list[tuple[Contract, str]]:
    versions = sorted(RELEASED.iterdir(), key=lambda version: version.name)
    files = [(contract, version / f"{contract.value}.avsc") for version in versions for contract in Contract]
    return [(contract, file.read_text(encoding="utf-8")) for contract, file in files if file.is_file()]


class MemoryRegistry:
    """A registry in memory: one id a schema, as Confluent's has it."""

    def __init__(self) -> None:
        self.subjects: dict[str, tuple[str, str]] = {}
        self._schemas: list[str] = []

    def schema(self, schema_id: int) -> str | None:
        return self._schemas[schema_id - 1] if 0 < schema_id <= len(self._schemas) else None

    def register(self, subject: str, schema: str, compatibility: str) -> int:
        self.subjects[subject] = (compatibility, schema)
        if schema not in self._schemas:
            self._schemas.append(schema)
        return self._schemas.index(schema) + 1


def written(schema: str, fields: dict[str, Any]) -> bytes:
    """A value as a writer with another schema writes it."""
    stream = io.BytesIO()
    stream.write(b"\x00" + SCHEMA_ID.to_bytes(4, "big"))
    fastavro.schemaless_writer(stream, parse(schema), fields)
    return stream.getvalue()


def decoder_of(contract: Contract, schema: str) -> Decoder[Any]:
    decoder = DECODERS[contract]()
    decoder.add_schema(SCHEMA_ID, schema)
    return decoder


def everything(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from everything(child)
    elif isinstance(node, list):
        for child in node:
            yield from everything(child)


def changed(contract: Contract, change: Callable[[dict[str, Any]], None]) -> str:
    schema = json.loads(schema_json(contract))
    change(schema)
    return json.dumps(schema)


def test_every_contract_has_a_released_version() -> None:
    assert {contract for contract, _ in released()} == set(Contract)


@pytest.mark.parametrize("contract", Contract)
def test_every_field_and_type_has_a_doc(contract: Contract) -> None:
    schema = json.loads(schema_json(contract))
    undocumented = [
        node["name"] for node in everything(schema) if "name" in node and len(node.get("doc", "")) < len("Its offset.")
    ]
    assert undocumented == []


@pytest.mark.parametrize("contract", Contract)
def test_every_enum_has_a_default_so_that_symbols_can_be_added(contract: Contract) -> None:
    enums = [node for node in everything(json.loads(schema_json(contract))) if node.get("type") == "enum"]
    assert all(enum["default"] == enum["symbols"][0] == "UNKNOWN" for enum in enums)


@pytest.mark.parametrize(("contract", "schema"), released())
def test_released_and_current_schema_read_each_other(contract: Contract, schema: str) -> None:
    assert mismatch(parse(schema), own_schema(contract)) is None
    assert mismatch(own_schema(contract), parse(schema)) is None


@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.too_slow], deadline=None)  # a busy machine
@given(st.data())
@pytest.mark.parametrize(("contract", "schema"), released())
def test_what_a_released_version_wrote_is_read_now_and_the_other_way_round(
    contract: Contract, schema: str, data: st.DataObject
) -> None:
    """Forward as a reader of the released version has it: with fastavro's own resolution."""
    record = data.draw(RECORDS[contract])
    current = ENCODERS[contract](record, SCHEMA_ID)
    fields = fastavro.schemaless_reader(io.BytesIO(current[HEADER_BYTES:]), own_schema(contract), parse(schema))
    old = io.BytesIO(current[:HEADER_BYTES])
    old.seek(HEADER_BYTES)
    fastavro.schemaless_writer(old, parse(schema), fields)
    decoder_of(contract, schema).decode(old.getvalue())


def test_unknown_fields_of_a_newer_writer_are_ignored() -> None:
    def change(schema: dict[str, Any]) -> None:
        more = {"type": "record", "name": "More", "fields": [{"name": "a", "type": ["null", "bytes"]}]}
        schema["fields"].insert(0, {"name": "more", "type": {"type": "array", "items": more}, "default": []})

    newer = changed(Contract.REQUEST, change)
    fields = request_fields(REQUEST) | {"more": [{"a": b"1"}, {"a": None}]}
    assert decoder_of(Contract.REQUEST, newer).decode(written(newer, fields)) == REQUEST


def test_fields_that_an_older_writer_lacks_take_their_defaults() -> None:
    def change(schema: dict[str, Any]) -> None:
        schema["fields"] = [field for field in schema["fields"] if "default" not in field]
        part = schema["fields"][4]["type"]["items"]
        part["fields"] = [field for field in part["fields"] if field["name"] != "content_type"]

    older = changed(Contract.REQUEST, change)
    decoded = decoder_of(Contract.REQUEST, older).decode(written(older, request_fields(REQUEST)))
    assert decoded == replace(REQUEST, parts=(replace(REQUEST.parts[0], content_type=""),))


def test_narrower_types_of_another_writer_are_read() -> None:
    """A producer that always has a subject and sends text only may say so in its schema."""

    def change(schema: dict[str, Any]) -> None:
        fields = {field["name"]: field for field in schema["fields"]}
        fields["subject"]["type"] = "string"
        fields["subject"]["default"] = ""
        fields["time"]["type"] = "int"
        fields["parts"]["type"]["items"]["fields"][3] = {"name": "content", "type": "string"}

    narrow = changed(Contract.REQUEST, change)
    request = replace(REQUEST, subject="mill", time_ms=5)
    assert decoder_of(Contract.REQUEST, narrow).decode(written(narrow, request_fields(request))) == request


def test_modality_that_is_not_known_yet_is_poison_and_named() -> None:
    newer = schema_json(Contract.REQUEST).replace('"TENSOR"', '"TENSOR", "SMELL"')
    fields = request_fields(REQUEST)
    fields["parts"][0]["modality"] = "SMELL"
    with pytest.raises(PoisonError, match="SMELL") as caught:
        decoder_of(Contract.REQUEST, newer).decode(written(newer, fields))
    assert caught.value.code == "UNKNOWN_MODALITY"


def without_id(schema: dict[str, Any]) -> None:
    del schema["fields"][0]


def with_a_field_without_default(schema: dict[str, Any]) -> None:
    schema["fields"].append({"name": "more", "type": "int"})


def with_another_type(schema: dict[str, Any]) -> None:
    schema["fields"][3]["type"] = "string"


def with_another_content_branch(schema: dict[str, Any]) -> None:
    schema["fields"][5]["type"]["items"]["fields"][3]["type"].append("double")


@pytest.mark.parametrize(
    "change", [without_id, with_a_field_without_default, with_another_type, with_another_content_branch]
)
def test_breaking_change_is_found_in_one_direction_at_least(change: Callable[[dict[str, Any]], None]) -> None:
    candidate, current = parse(changed(Contract.REQUEST, change)), own_schema(Contract.REQUEST)
    assert mismatch(candidate, current) or mismatch(current, candidate)


def test_setup_registers_every_subject_and_says_the_ids() -> None:
    registry = MemoryRegistry()
    config = Settings.model_validate(
        {
            "topics": {"requests": ["a", "b"], "results": "r", "dead_letters": "d"},
            "routes": [{"name": "x", "model": "m", "reply_topic": "r2", "reply_topics_allowed": ["r", "r3"]}],
        }
    )
    ids = register_contracts(registry, config)
    assert set(registry.subjects) == {f"{topic}-value" for topic in ("a", "b", "r", "r2", "r3", "d")}
    assert {level for level, _ in registry.subjects.values()} == {"FULL_TRANSITIVE"}
    assert registry.schema(ids.request) == schema_json(Contract.REQUEST)
    assert registry.schema(ids.result) == schema_json(Contract.RESULT)
    assert registry.schema(ids.dead_letter) == schema_json(Contract.DEAD_LETTER)
    assert register_contracts(registry, config) == ids


def test_topic_specs_name_every_topic_once_and_leave_room_for_dead_letters() -> None:
    specs = {spec.name: spec for spec in topic_specs(Settings())}
    assert set(specs) == {"inference.requests", "inference.results", "inference.dead-letters", "headrace.redriven"}
    limits = {name: int(spec.config["max.message.bytes"]) for name, spec in specs.items()}
    assert limits["inference.requests"] == limits["inference.results"] == 8 * 1024 * 1024
    assert limits["inference.dead-letters"] == 9 * 1024 * 1024
    assert specs.pop("headrace.redriven").partitions == 1
    assert {(spec.partitions, spec.replication_factor) for spec in specs.values()} == {(8, 1)}
