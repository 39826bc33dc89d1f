"""docs/schemas.md: the Avro schemas as tables, for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from headrace.pipeline.avro import Contract, schema_json

_HEAD = """\
# Schemas

What the records on the topics are made of, from the files in `schemas/`. A field with a default may be left out by a
writer whose own schema lacks it. How they travel and change: [contracts](contracts.md). `make docs` writes this page.
"""

Schema = Any  # Avro's JSON: a name, a list or an object


def page() -> str:
    """The page's text."""
    return "\n".join([_HEAD, *(part for contract in Contract for part in _contract(contract))])


def _contract(contract: Contract) -> Iterator[str]:
    record = json.loads(schema_json(contract))
    yield from _record(record, 2, set())


def _record(record: Schema, depth: int, told: set[str]) -> Iterator[str]:
    """A record, then the records and enums in it, each once."""
    told.add(record["name"])
    yield f"{'#' * depth} {record['name']}\n"
    yield f"{record['doc']}\n"
    yield "| field | type | default | |"
    yield "|---|---|---|---|"
    for field in record["fields"]:
        default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
        yield f"| `{field['name']}` | {_type(field['type'])} | {default} | {field.get('doc', '')} |"
    yield ""
    for field in record["fields"]:
        for inner in _named(field["type"]):
            if inner["name"] in told:
                continue
            if inner["type"] == "record":
                yield from _record(inner, depth + 1, told)
            else:
                told.add(inner["name"])
                symbols = ", ".join(f"`{symbol}`" for symbol in inner["symbols"])
                yield f"{'#' * (depth + 1)} {inner['name']}\n"
                yield f"{inner.get('doc', '')} One of {symbols}.\n".lstrip()


def _named(schema: Schema) -> Iterator[Schema]:
    """The records and enums that a type defines."""
    if isinstance(schema, list):
        for branch in schema:
            yield from _named(branch)
    elif isinstance(schema, dict):
        if schema["type"] in ("record", "enum"):
            yield schema
        else:
            yield from _named(schema.get("items") or schema.get("values") or "")


def _type(schema: Schema) -> str:
    if isinstance(schema, str):
        return schema.rpartition(".")[2]
    if isinstance(schema, list):
        return " or ".join(_type(branch) for branch in schema)
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    if schema["type"] == "map":
        return f"map of {_type(schema['values'])}"
    if schema["type"] in ("record", "enum", "fixed"):
        return str(schema["name"])
    return f"{schema['type']} ({schema['logicalType']})" if "logicalType" in schema else str(schema["type"])
