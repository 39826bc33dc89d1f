"""Writing records of the project's own schemas in Avro's binary encoding, several times as fast as fastavro does.

The rules are those of Avro 1.12, "Binary encoding": a whole number is zigzag and seven bits a byte, the lowest first; a
text or bytes are behind their length; an array is a block of items behind its count, and an empty block; a union is the
number of its branch, and the value.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping
from operator import index
from typing import Any

from headrace.pipeline.avro import JsonNode, Parsed
from headrace.pipeline.avro_code import Code, UnsupportedSchemaError

Append = Callable[[bytes], object]
Write = Callable[[Any, Append], None]

_DOUBLE = struct.Struct("<d").pack
_NULL = "null"
_KNOWN = 4096
"""Whole numbers from 0 on whose bytes are kept."""
_BITS = {"int": 32, "long": 64}
_RECENT = 1024
"""Others whose bytes are kept: the records of a batch have much the same times."""


def writer(schema: Parsed, attributes: Mapping[str, str] | None = None) -> Write:
    """What appends the pieces of a record of this schema.

    It raises ValueError, OverflowError, TypeError, AttributeError or KeyError for a value that does not fit its field.

    Args:
        schema: of the record.
        attributes: of the objects that records are given as, by the names of the fields, where they are not the same;
            None: they are given as dictionaries of all their fields.

    Raises:
        UnsupportedSchemaError: it has maps, fixed, floats, booleans, or unions of anything but null and one type.
    """
    code = _Code(attributes)
    _write(code, schema, "value")
    return code.function("value, append")


class _Code(Code):
    def __init__(self, attributes: Mapping[str, str] | None) -> None:
        super().__init__(kept=_KEPT, whole=_whole, double=_DOUBLE, join=b"".join)
        self._attributes = attributes

    def field(self, record: str, name: str) -> str:
        """The source of a field's value."""
        if self._attributes is None:
            return f"{record}[{name!r}]"
        attribute = self._attributes.get(name, name)
        assert attribute.isidentifier()
        return f"{record}.{attribute}"


def _write(code: _Code, node: JsonNode, value: str) -> None:
    """Lines that append the bytes of a variable's value."""
    if isinstance(node, list):
        _optional(code, node, value)
    elif isinstance(node, dict):
        if "name" in node:
            code.named[node["name"]] = node
        _complex(code, node, value)
    elif node in code.named:
        _write(code, code.named[node], value)
    else:
        _primitive(code, node, value)


def _complex(code: _Code, node: JsonNode, value: str) -> None:
    match node["type"]:
        case "record":
            for field in node["fields"]:
                variable = code.name()
                code.add(f"{variable} = {code.field(value, field['name'])}")
                _write(code, field["type"], variable)
        case "enum":
            symbols = {symbol: _zigzag(number) for number, symbol in enumerate(node["symbols"])}
            code.add(f"append({code.constant(symbols)}[{value}])")
        case "array":
            item = code.name()
            with code.block(f"if len({value}):"):
                _number(code, f"len({value})", "long")
                with code.block(f"for {item} in {value}:"):
                    _write(code, node["items"], item)
            code.add(r"append(b'\0')")
        case str(kind):
            _primitive(code, kind, value)
        case _:
            raise UnsupportedSchemaError(f"type {node['type']}")


def _optional(code: _Code, branches: list[JsonNode], value: str) -> None:
    if len(branches) != 2 or _NULL not in branches:
        raise UnsupportedSchemaError(f"a union of {len(branches)} types")
    place = branches.index(_NULL)
    with code.block(f"if {value} is None:"):
        code.add(f"append({_zigzag(place)!r})")
    with code.block("else:"):
        code.add(f"append({_zigzag(1 - place)!r})")
        _write(code, branches[1 - place], value)


def _primitive(code: Code, kind: str, value: str) -> None:
    match kind:
        case "int" | "long":
            _number(code, value, kind)
        case "double":
            code.add(f"append(double({value}))")
        case "string" | "bytes":
            # Bytes, of whatever they are given as: the length of other buffers may count other things.
            code.add(f"{value} = {value}.encode()" if kind == "string" else f"{value} = join(({value},))")
            _number(code, f"len({value})", "long")
            code.add(f"append({value})")
        case _:
            raise UnsupportedSchemaError(f"type {kind}")


def _number(code: Code, value: str, kind: str) -> None:
    number = code.name()
    code.add(f"{number} = {value}")
    code.add(f"append(kept[{number}] if 0 <= {number} < {_KNOWN} else whole({number}, {kind!r}))")


@functools.lru_cache(_RECENT, typed=True)  # 5000.0 is no 5000
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
