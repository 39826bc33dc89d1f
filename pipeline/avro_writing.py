"""Writing records of the project's own schemas in Avro's binary encoding, several times as fast as fastavro does.

A schema is turned into functions once, one a type, each of which appends its value's bytes. The rules are those of
Avro 1.12, "Binary encoding": a whole number is zigzag and seven bits a byte, the lowest first; a text or bytes are
behind their length; an array is a block of items behind its count, and an empty block; a union is the number of its
branch, and the value. Reading stays with fastavro: what unknown writers have written takes more care (see ``avro``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from operator import index
from typing import Any

from headrace.pipeline.avro import JsonNode, Parsed

Append = Callable[[bytes], None]
Write = Callable[[Any, Append], None]

_DOUBLE = struct.Struct("<d").pack
_NULL = "null"
_END_OF_ARRAY = b"\0"
_KNOWN = 4096
"""Whole numbers from 0 on whose bytes are kept."""
_BITS = {"int": 32, "long": 64}


class UnsupportedSchemaError(Exception):
    """A schema has a type that is not written here."""


def writer(schema: Parsed) -> Write:
    """What writes a record of this schema, given as a dictionary of all its fields.

    It raises ValueError, OverflowError, TypeError, AttributeError or KeyError for a value that does not fit its field.

    Raises:
        UnsupportedSchemaError: it has maps, fixed, floats, booleans, or unions of anything but null and one type.
    """
    return _writer(schema, {})


def _writer(node: JsonNode, named: dict[str, Write]) -> Write:
    if isinstance(node, list):
        return _optional(node, named)
    if not isinstance(node, dict):
        found = _PRIMITIVES.get(node) or named.get(node)
        if found is None:
            raise UnsupportedSchemaError(f"type {node}")
        return found
    match node["type"]:
        case "record":
            write = _record(node, named)
        case "enum":
            write = _enum(node["symbols"])
        case "array":
            return _array(_writer(node["items"], named))
        case str(kind) if kind in _PRIMITIVES:
            return _PRIMITIVES[kind]
        case kind:
            raise UnsupportedSchemaError(f"type {kind}")
    named[node["name"]] = write
    return write


def _record(node: JsonNode, named: dict[str, Write]) -> Write:
    fields = tuple((field["name"], _writer(field["type"], named)) for field in node["fields"])

    def write(value: Any, append: Append) -> None:
        for name, write_field in fields:
            write_field(value[name], append)

    return write


def _enum(symbols: list[str]) -> Write:
    indices = {symbol: _zigzag(index) for index, symbol in enumerate(symbols)}
    return lambda value, append: append(indices[value])


def _array(write_item: Write) -> Write:
    def write(value: Any, append: Append) -> None:
        if value:
            _long(len(value), append)
            for item in value:
                write_item(item, append)
        append(_END_OF_ARRAY)

    return write


def _optional(branches: list[JsonNode], named: dict[str, Write]) -> Write:
    if len(branches) != 2 or _NULL not in branches:
        raise UnsupportedSchemaError(f"a union of {len(branches)} types")
    place = branches.index(_NULL)
    absent, present = _zigzag(place), _zigzag(1 - place)
    write_present = _writer(branches[1 - place], named)

    def write(value: Any, append: Append) -> None:
        if value is None:
            append(absent)
        else:
            append(present)
            write_present(value, append)

    return write


def _string(value: str, append: Append) -> None:
    _bytes(value.encode(), append)


def _bytes(value: bytes, append: Append) -> None:
    _long(len(value), append)
    append(value)


def _int(value: int, append: Append) -> None:
    append(_KEPT[value] if 0 <= value < _KNOWN else _whole(value, "int"))


def _long(value: int, append: Append) -> None:
    append(_KEPT[value] if 0 <= value < _KNOWN else _whole(value, "long"))


def _double(value: float, append: Append) -> None:
    append(_DOUBLE(value))


def _whole(value: int, kind: str) -> bytes:
    value, most = index(value), 1 << (_BITS[kind] - 1)  # numpy's integers would overflow in silence
    if not -most <= value < most:
        raise OverflowError(f"{value} is no {kind}: it has more than {_BITS[kind]} bits")
    return _zigzag(value)


def _zigzag(value: int) -> bytes:
    """Of a number of 64 bits at most."""
    left = (value << 1) ^ (value >> 63)
    found = bytearray()
    while left > 127:
        found.append(left & 127 | 128)
        left >>= 7
    found.append(left)
    return bytes(found)


_KEPT = tuple(map(_zigzag, range(_KNOWN)))
_PRIMITIVES: dict[str, Write] = {
    "string": _string,
    "bytes": _bytes,
    "int": _int,
    "long": _long,
    "double": _double,
}
