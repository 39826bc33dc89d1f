"""What the real registry makes of our schemas: each version fully compatible with every other, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import pytest

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.errors import FatalError
from headrace.pipeline.setup import COMPATIBILITY

RELEASED = resources.files("headrace") / "schemas" / "released"
VERSIONS = sorted(version.name for version in RELEASED.iterdir())


@pytest.fixture
def registry(stack: Endpoints) -> Iterator[ConfluentRegistry]:
    with ConfluentRegistry(stack.registry_url) as connected:
        yield connected


@pytest.mark.parametrize("contract", Contract)
@pytest.mark.parametrize("version", VERSIONS)
def test_current_schema_is_accepted_after_each_released_one(
    registry: ConfluentRegistry, names: Callable[[str], str], contract: Contract, version: str
) -> None:
    file = RELEASED / version / f"{contract.value}.avsc"
    if not file.is_file():
        pytest.skip(f"{contract.value} is younger than {version}")
    registry.register(names("value"), file.read_text(encoding="utf-8"), COMPATIBILITY)
    assert registry.register(names("value"), schema_json(contract), COMPATIBILITY) > 0


def part_fields(schema: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = schema["fields"][5]["type"]["items"]["fields"]
    return found


def remove_id(schema: dict[str, Any]) -> None:
    del schema["fields"][0]


def add_without_default(schema: dict[str, Any]) -> None:
    schema["fields"].append({"name": "more", "type": "int"})


def change_a_type(schema: dict[str, Any]) -> None:
    schema["fields"][3]["type"] = "string"


def add_a_kind_of_content(schema: dict[str, Any]) -> None:
    part_fields(schema)[3]["type"].append("double")


def resize_the_digest(schema: dict[str, Any]) -> None:
    part_fields(schema)[3]["type"][4]["fields"][2]["type"]["size"] = 64


@pytest.mark.parametrize(
    "change", [remove_id, add_without_default, change_a_type, add_a_kind_of_content, resize_the_digest]
)
def test_breaking_candidate_is_refused(
    registry: ConfluentRegistry, names: Callable[[str], str], change: Callable[[dict[str, Any]], None]
) -> None:
    registry.register(names("value"), schema_json(Contract.REQUEST), COMPATIBILITY)
    with pytest.raises(FatalError, match="refuses the schema"):
        registry.register(names("value"), changed(change), COMPATIBILITY)


def add_optional(schema: dict[str, Any]) -> None:
    schema["fields"].append({"name": "more", "type": ["null", "int"], "default": None})


def remove_optional(schema: dict[str, Any]) -> None:
    del schema["fields"][9]


def add_a_modality(schema: dict[str, Any]) -> None:
    part_fields(schema)[1]["type"]["symbols"].append("SMELL")


def add_a_kind_of_content_beside(schema: dict[str, Any]) -> None:
    part_fields(schema).append({"name": "stream", "type": ["null", "string"], "default": None})


@pytest.mark.parametrize("change", [add_optional, remove_optional, add_a_modality, add_a_kind_of_content_beside])
def test_way_of_evolving_that_the_docs_name_is_accepted(
    registry: ConfluentRegistry, names: Callable[[str], str], change: Callable[[dict[str, Any]], None]
) -> None:
    first = registry.register(names("value"), schema_json(Contract.REQUEST), COMPATIBILITY)
    assert registry.register(names("value"), changed(change), COMPATIBILITY) != first


def changed(change: Callable[[dict[str, Any]], None]) -> str:
    schema = json.loads(schema_json(Contract.REQUEST))
    change(schema)
    return json.dumps(schema)
