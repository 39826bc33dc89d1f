"""Avro schemas: the project's own, and which writer schemas are safe and readable.

A writer schema is checked once, when it is first met, so that decoding a record needs no check of its types:

- *safe*: fastavro's compiled reader runs off the C stack on a recursive schema, takes a short record for 2^60 array
  items if an item takes no bytes, and makes 10,000 values of each byte if an item has that many fields of type null. So
  a usable schema is finite, shallow, and its items hold few values a byte: then the record's length bounds time and
  memory.
- *readable*: Avro's resolution rules hold for every field that the reader knows. Records are then read as they were
  written, and resolved by field name where they are turned into dataclasses (``envelope``). fastavro's own resolution
  is not used: it is slower, and turns the strings of a ``bytes | string`` union into bytes.
"""

from __future__ import annotations

import enum
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, cast

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from headrace.pipeline.limits import MAX_SCHEMA_CHARACTERS, MAX_SCHEMA_DEPTH, MAX_SCHEMA_NODES, MAX_VALUES_PER_BYTE

JsonNode = Any  # a schema as JSON: str | list | dict, nested
Parsed = Any  # what fastavro.parse_schema returns: the same, named types by full name

PRIMITIVES = frozenset(("null", "boolean", "int", "long", "float", "double", "bytes", "string"))
_RECORDS = frozenset(("record", "error"))
# What Python reads as a value of the reader's type. Avro's bytes <-> string promotion is left out: it would change it.
_PROMOTIONS = {"int": {"long", "float", "double"}, "long": {"float", "double"}, "float": {"double"}}


class Contract(enum.Enum):
    """The record kinds of the topics. The value is the name of the file under ``schemas/``."""

    REQUEST = "inference_request"
    RESULT = "inference_result"
    DEAD_LETTER = "dead_letter"
    REPLAY_RUN = "replay_run"
    REPLAY_PROGRESS = "replay_progress"


class UnusableSchemaError(Exception):
    """A writer schema cannot be read safely, or not as the contract asks. Says why."""


@functools.cache
def schema_json(contract: Contract) -> str:
    """The contract's current schema, as it is registered."""
    return (resources.files("headrace") / "schemas" / f"{contract.value}.avsc").read_text(encoding="utf-8")


@functools.cache
def own_schema(contract: Contract) -> Parsed:
    """The contract's current schema, parsed for reading and writing."""
    return parse(schema_json(contract))


def parse(text: str) -> Parsed:
    """Parses a schema, without its logical types: times stay integers and ids strings, which is also faster.

    Raises:
        UnusableSchemaError: if it is no Avro schema, or not a safe one.
    """
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise UnusableSchemaError(f"it has {len(text)} characters, more than {MAX_SCHEMA_CHARACTERS}")
    try:
        node = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableSchemaError("it is not JSON") from error
    try:
        parsed = fastavro.parse_schema(_without_logical_types(node, MAX_SCHEMA_DEPTH))
        _Measuring().measure(parsed)
    except (SchemaParseException, UnknownType, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnusableSchemaError(f"it is no self-contained Avro schema ({type(error).__name__}: {error})") from error
    return parsed


def writer_schema(text: str, contract: Contract) -> Parsed:
    """Parses a writer schema and checks that its records can be read as ``contract``.

    Raises:
        UnusableSchemaError: if not.
    """
    parsed, reader = parse(text), own_schema(contract)
    name = parsed.get("name") if isinstance(parsed, dict) else None
    if name != reader["name"]:
        raise UnusableSchemaError(f"it describes {name or 'no record'}, not {reader['name']}")
    if problem := mismatch(parsed, reader):
        raise UnusableSchemaError(problem)
    return parsed


def mismatch(writer: Parsed, reader: Parsed) -> str | None:
    """Why a reader with one schema can't read what is written with the other; None if it can.

    Avro's schema resolution, decided on the schemas alone: the answer holds for every record.
    """
    return _Resolution(writer, reader).problem()


def _without_logical_types(node: JsonNode, depth: int) -> JsonNode:
    if depth == 0:
        raise UnusableSchemaError(f"it is nested deeper than {MAX_SCHEMA_DEPTH}")
    if isinstance(node, dict):
        return {
            key: _without_logical_types(value, depth - 1)
            for key, value in node.items()
            if key not in ("logicalType", "doc")
        }
    if isinstance(node, list):
        return [_without_logical_types(value, depth - 1) for value in node]
    return node


@dataclass(frozen=True, slots=True)
class _Measure:
    """The schema's expanded ``nodes`` and ``depth``, and by how much one value goes beyond what its bytes allow.

    ``surplus``: what it holds in memory, in values, less ``MAX_VALUES_PER_BYTE`` for each byte that it takes on the
    wire; of all values of the type, the worst. Arrays and maps count as empty: their items answer for themselves.
    """

    nodes: int
    depth: int
    surplus: int


_NOTHING = _Measure(nodes=1, depth=1, surplus=1)  # null: a value of no bytes
_ONE_BYTE = 1 - MAX_VALUES_PER_BYTE  # the surplus of a value that takes a byte, such as an empty string or array
_LEAF = _Measure(nodes=1, depth=1, surplus=_ONE_BYTE)
_WIDE = {"float": 4, "double": 8}  # bytes of the primitives that always take more than one


class _Measuring:
    """Measures a schema with its references written out; refuses recursion, hollow items, and too much of it.

    Also what fastavro lets through that is no Avro, and would make reading the schema or a record raise something odd.
    """

    def __init__(self) -> None:
        self._named: dict[str, _Measure | None] = {}  # None while the type is being measured

    def measure(self, node: Parsed) -> _Measure:
        if isinstance(node, list):
            return self._union(node)
        kind = _kind(node)
        if kind in PRIMITIVES:
            return _NOTHING if kind == "null" else _fixed(_WIDE.get(kind, 1))
        if isinstance(node, str):
            return self._reference(node)
        if kind == "map":
            return _items(self.measure(node["values"]), key=_ONE_BYTE)
        if kind == "array":
            return _items(self.measure(node["items"]), key=0)
        return self._definition(node, kind)

    def _union(self, branches: Parsed) -> _Measure:
        measured = [self.measure(branch) for branch in branches]
        worst = max((branch.surplus for branch in measured), default=0)
        return _bounded(measured, surplus=worst - MAX_VALUES_PER_BYTE)  # less the branch's index, a byte

    def _reference(self, name: str) -> _Measure:
        known = self._named[name]
        if known is None:
            raise UnusableSchemaError(f"{name} contains itself")
        return known

    def _definition(self, node: Parsed, kind: str) -> _Measure:
        name = node["name"]
        self._named[name] = None
        if kind in _RECORDS:
            measured = self._record(node)
        elif kind == "fixed":
            measured = _fixed(_size(node))
        else:
            measured = _enum(node)
        self._named[name] = measured
        return measured

    def _record(self, node: Parsed) -> _Measure:
        if not all(isinstance(field["name"], str) for field in node["fields"]):
            raise UnusableSchemaError(f"a field of {node['name']} has a name that is no text")
        children = [self.measure(field["type"]) for field in node["fields"]]
        return _bounded(children, surplus=1 + sum(child.surplus for child in children))


def _enum(node: Parsed) -> _Measure:
    if not isinstance(node["symbols"], list):
        raise UnusableSchemaError(f"the symbols of {node['name']} are no list")
    return _LEAF


def _size(node: Parsed) -> int:
    if not isinstance(node["size"], int) or node["size"] < 0:
        raise UnusableSchemaError(f"the size of {node['name']} is no whole number of bytes")
    return node["size"]


def _fixed(size_bytes: int) -> _Measure:
    """A value that takes so many bytes, or more."""
    return _Measure(nodes=1, depth=1, surplus=1 - size_bytes * MAX_VALUES_PER_BYTE)


def _items(item: _Measure, *, key: int) -> _Measure:
    """An array or map of such items; ``key`` is the surplus of a map's key."""
    if item.surplus + key > 0:
        raise UnusableSchemaError(
            f"it has an array or map whose items can hold more than {MAX_VALUES_PER_BYTE} values a byte: "
            "take out fields of type null, and records that do nothing but hold another"
        )
    return _bounded([item], surplus=_ONE_BYTE)


def _bounded(children: list[_Measure], *, surplus: int) -> _Measure:
    nodes = 1 + sum(child.nodes for child in children)
    depth = 1 + max((child.depth for child in children), default=0)
    if nodes > MAX_SCHEMA_NODES or depth > MAX_SCHEMA_DEPTH:
        raise UnusableSchemaError(f"it expands to more than {MAX_SCHEMA_NODES} types or {MAX_SCHEMA_DEPTH} levels")
    return _Measure(nodes, depth, surplus)


class _Resolution:
    def __init__(self, writer: Parsed, reader: Parsed) -> None:
        self._writer, self._reader = writer, reader
        self._writer_names, self._reader_names = dict(_named(writer)), dict(_named(reader))

    def problem(self) -> str | None:
        return self._mismatch(self._writer, self._reader, self._reader["name"])

    def _mismatch(self, writer: Parsed, reader: Parsed, path: str) -> str | None:
        if isinstance(writer, list):
            return next((why for branch in writer if (why := self._mismatch(branch, reader, path))), None)
        if isinstance(reader, list):
            whys = [self._mismatch(writer, branch, path) for branch in reader]
            return None if None in whys else f"{path}: {_kind(writer)} is none of {', '.join(map(_kind, reader))}"
        writer, reader = _resolve(writer, self._writer_names), _resolve(reader, self._reader_names)
        writer_kind, reader_kind = _kind(writer), _kind(reader)
        if writer_kind != reader_kind:
            promoted = reader_kind in _PROMOTIONS.get(writer_kind, ())
            return None if promoted else f"{path}: {writer_kind} is not {reader_kind}"
        match reader_kind:
            case "record":
                return self._record_mismatch(writer, reader, path)
            case "array":
                return self._mismatch(writer["items"], reader["items"], f"{path}[]")
            case "map":
                return self._mismatch(writer["values"], reader["values"], f"{path}{{}}")
            case "fixed" if writer["size"] != reader["size"]:
                return f"{path}: {writer['size']} bytes are not {reader['size']}"
        return None

    def _record_mismatch(self, writer: Parsed, reader: Parsed, path: str) -> str | None:
        if _short(writer) != _short(reader):
            return f"{path}: {writer['name']} is not {reader['name']}"
        written = {field["name"]: field["type"] for field in writer["fields"]}
        for field in reader["fields"]:
            where = f"{path}.{field['name']}"
            if field["name"] in written:
                if why := self._mismatch(written[field["name"]], field["type"], where):
                    return why
            elif "default" not in field:
                return f"{where} is missing"
        return None


def _named(node: Parsed) -> Iterator[tuple[str, Parsed]]:
    if isinstance(node, list):
        for branch in node:
            yield from _named(branch)
    elif isinstance(node, dict):
        if "name" in node:
            yield node["name"], node
        for child in (*(field["type"] for field in node.get("fields", ())), node.get("items"), node.get("values")):
            yield from _named(child)


def _resolve(node: Parsed, names: dict[str, Parsed]) -> Parsed:
    return names.get(node, node) if isinstance(node, str) else node


def _kind(node: Parsed) -> str:
    return cast("str", node["type"] if isinstance(node, dict) else node)


def _short(node: Parsed) -> str:
    return cast("str", node["name"]).rpartition(".")[2]
