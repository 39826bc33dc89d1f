"""Avro records of one schema → columns, thousands of records at once: far faster than one by one.

A position in each record moves along, all of them together, field by field, in numpy. What is not plainly as the schema
says is not judged here: ``wire.Decoder`` reads such records one by one, and says what is wrong with which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.pipeline.avro import JsonNode, Parsed

Integers = NDArray[np.int64]

MOST_TURNS = 5_000
"""Of all loops over the items of lists, for one batch: each turn takes as long for one record as for a thousand."""
SMALL_BYTES = 32
"""Pieces that have fewer, on average, are put together a byte at a time, all at once; larger ones one by one."""
_LAST_SHIFT = 63
"""In bits: of the last byte of a number that still fits into 64 of them."""
_ONE = np.uint64(1)
_WIDTHS = {"boolean": 1, "float": 4, "double": 8}
_MARGIN = bytes(8)
"""Behind the last record: the byte where it ends may be looked at before it is seen that it does."""
_ITEMS = "[]"
_NO_SIZES = np.empty(0, np.int64)


class OddRecordsError(Exception):
    """Some record of a batch is not plainly what the schema says, or has very many items."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What stands at one path: a number of each of these rows, or where its bytes begin, and how many they are."""

    rows: Integers
    values: NDArray[Any]
    sizes: Integers


class Columns:
    """A batch of records, taken apart.

    A path is ``field.field``; ``list[].field`` is that of a list's items. Its *level* is ``list[]``, that of the
    records themselves is the empty string. Rows of a level stand in the order of the records, and of their items.

    Args:
        data: that all positions are of.
        count: of records.
        told: by path.
        parents: by level, the row of the level above that each item is of.
    """

    def __init__(
        self, data: memoryview, count: int, told: dict[str, list[_Told]], parents: dict[str, list[Integers]]
    ) -> None:
        self._data = data
        self._told = told
        self._owners: dict[str, Integers] = {}
        self._places = {"": np.arange(count)}
        for level, found in parents.items():  # a list's own level comes before those in it
            owners = self._places[level_of(level.removesuffix(_ITEMS))][np.concatenate(found)]
            order = np.argsort(owners, kind="stable")
            self._owners[level] = owners[order]
            self._places[level] = np.empty_like(order)
            self._places[level][order] = np.arange(len(order))

    def count(self, level: str) -> int:
        """Rows."""
        return len(self._places.get(level, ()))

    def owners(self, level: str) -> Integers:
        """Of each item the row of the level above."""
        return self._owners.get(level, np.empty(0, np.int64))

    def integers(self, path: str, default: int = 0) -> Integers:
        """A whole number of each row."""
        return self._filled(path, np.full(self.count(level_of(path)), default, np.int64))

    def floats(self, path: str) -> NDArray[np.float64]:
        """A number of each row, 0 by default."""
        return self._filled(path, np.zeros(self.count(level_of(path))))

    def _filled(self, path: str, found: NDArray[Any]) -> NDArray[Any]:
        for told, places in self._placed(path):
            found[places] = told.values
        return found

    def pieces(self, path: str) -> tuple[bytes, Integers, NDArray[np.bool_]]:
        """Of each row bytes or a text's: all in a row, where each begins and ends in them, and whether it has any.

        The ends are int64 [rows + 1], from 0 on.
        """
        rows = self.count(level_of(path))
        starts, sizes, present = np.zeros(rows, np.int64), np.zeros(rows, np.int64), np.zeros(rows, np.bool_)
        for told, places in self._placed(path):
            starts[places], sizes[places], present[places] = told.values, told.sizes, True
        ends = ends_of(sizes)
        if ends[-1] <= SMALL_BYTES * rows:
            taken = np.arange(ends[-1]) + np.repeat(starts - ends[:-1], sizes)
            return np.frombuffer(self._data, np.uint8)[taken].tobytes(), ends, present
        data = self._data
        spans = zip(starts.tolist(), (starts + sizes).tolist(), strict=True)
        return b"".join([data[start:end] for start, end in spans]), ends, present

    def texts(self, path: str, default: str | None = None) -> Any:
        """Of each row: a pyarrow array of strings. ``default`` is empty, or None for null."""
        joined, ends, present = self.pieces(path)
        buffers = pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(joined)
        nulls = None if default is not None or present.all() else pa.array(present).buffers()[1]
        return pa.StringArray.from_buffers(len(present), *buffers, nulls)

    def _placed(self, path: str) -> list[tuple[_Told, Integers]]:
        places = self._places.get(level_of(path), np.empty(0, np.int64))
        return [(told, places[told.rows]) for told in self._told.get(path, ())]


class ColumnReader:
    """Takes records of one schema apart.

    Args:
        schema: of the writer, checked by ``avro.writer_schema``.
        wanted: paths of what is told: of numbers, texts and bytes.
    """

    def __init__(self, schema: Parsed, wanted: Collection[str]) -> None:
        self._schema = schema
        self._wanted = _Wanted(frozenset(wanted))
        self._named: dict[str, Parsed] = {}
        self._find_names(schema)

    def read(self, values: Sequence[bytes], skip: int = 0) -> Columns:
        """The records.

        Args:
            values: of a record each.
            skip: bytes before it.

        Raises:
            OddRecordsError: they are to be read one by one.
        """
        data = b"".join([*values, _MARGIN])
        sizes = np.fromiter(map(len, values), np.int64, len(values))
        ends = np.cumsum(sizes)
        walk = _Walk(data, self._wanted, self._named)
        # Positions only grow: one that comes to the end of its record has read that record's bytes, and all of them.
        if not np.array_equal(walk.read(self._schema, "", np.arange(len(values)), ends - sizes + skip), ends):
            raise OddRecordsError
        return Columns(memoryview(data), len(values), walk.told, walk.parents)

    def _find_names(self, node: JsonNode) -> None:
        if isinstance(node, list):
            for branch in node:
                self._find_names(branch)
        elif isinstance(node, dict):
            if "name" in node:
                self._named[node["name"]] = node
            for child in (*(field["type"] for field in node.get("fields", ())), node.get("items"), node.get("values")):
                self._find_names(child)


class _Wanted:
    """Paths, and the levels that they are of or lie in."""

    def __init__(self, paths: frozenset[str]) -> None:
        self.paths = paths
        self.levels: set[str] = set()
        for path in paths:
            level = level_of(path)
            while level:
                self.levels.add(level)
                level = level_of(level.removesuffix(_ITEMS))


class _Walk:
    """One batch. Positions are indices of bytes, int64 [rows]; what reads returns those behind what it has read."""

    def __init__(self, data: bytes, wanted: _Wanted, named: dict[str, Parsed]) -> None:
        self._data = data
        self._bytes = np.frombuffer(data, np.uint8)
        self._end = len(data) - len(_MARGIN)
        self._wanted = wanted
        self._named = named
        self._turns = 0
        self.told: dict[str, list[_Told]] = {}
        self.parents: dict[str, list[Integers]] = {}
        self._counts: Counter[str] = Counter()

    def read(self, node: JsonNode, path: str, rows: Integers, at: Integers) -> Integers:
        """A value of each row."""
        if isinstance(node, str):
            node = self._named.get(node, node)
        if isinstance(node, list):
            return self._union(node, path, rows, at)
        match node["type"] if isinstance(node, dict) else node:
            case "record" | "error":
                for field in node["fields"]:
                    at = self.read(field["type"], f"{path}.{field['name']}" if path else field["name"], rows, at)
                return at
            case "array":
                return self._list([node["items"]], path + _ITEMS, rows, at)
            case "map":
                return self._list(["string", node["values"]], path + "{}", rows, at)
            case "string" | "bytes" as kind:
                return self._text(kind, path, rows, at)
            case "int" | "long":
                values, at = self._long(at)
                self._tell(path, rows, values)
                return at
            case "enum":
                return self._index(at, len(node["symbols"]))[1]
            case "null":
                return at
            case "fixed":
                return self._past(at, np.int64(min(node["size"], len(self._data))))
            case kind:
                return self._wide(kind, path, rows, at)

    def _union(self, branches: list[JsonNode], path: str, rows: Integers, at: Integers) -> Integers:
        chosen, at = self._index(at, len(branches))
        for number, branch in enumerate(branches):
            some = np.flatnonzero(chosen == number)
            if some.size:
                at[some] = self.read(branch, path, rows[some], at[some])
        return at

    def _list(self, item: list[JsonNode], level: str, rows: Integers, at: Integers) -> Integers:
        """Blocks of items, each behind its count; the last one has none. An item is one value behind the other."""
        if level in self._wanted.levels:
            self.parents.setdefault(level, [np.empty(0, np.int64)])
        at = at.copy()
        unread = np.arange(len(at))
        while unread.size:
            counts, moved = self._long(at[unread])
            sized = counts < 0  # then the block's size follows
            moved[sized] = self._long(moved[sized])[1]
            at[unread] = moved
            unread, counts = unread[counts != 0], np.abs(counts[counts != 0])
            for turn in range(int(counts.max(initial=0))):
                self._turn()
                having = unread[counts > turn]
                made = self._made(level, rows[having])
                for part in item:
                    at[having] = self.read(part, level, made, at[having])
        return at

    def _turn(self) -> None:
        self._turns += 1
        if self._turns > MOST_TURNS:
            raise OddRecordsError

    def _made(self, level: str, parents: Integers) -> Integers:
        """Rows of new items."""
        known = self.parents.get(level)
        if known is None:  # nothing is told of them
            return parents
        first = self._counts[level]
        known.append(parents)
        self._counts[level] += len(parents)
        return np.arange(first, first + len(parents))

    def _text(self, kind: str, path: str, rows: Integers, at: Integers) -> Integers:
        sizes, at = self._long(at)
        end = self._past(at, sizes)
        if kind == "string":
            self._check_utf8(at, end)
        self._tell(path, rows, at, sizes)
        return end

    def _wide(self, kind: str, path: str, rows: Integers, at: Integers) -> Integers:
        """A number of a fixed width, or a boolean."""
        width = _WIDTHS[kind]
        end = self._past(at, np.int64(width))
        if path in self._wanted.paths:
            self._tell(path, rows, self._bytes[at[:, None] + np.arange(width)].view(f"<f{width}")[:, 0])
        return end

    def _index(self, at: Integers, count: int) -> tuple[Integers, Integers]:
        """Of a symbol or a branch, of so many."""
        found, at = self._long(at)
        if at.size and (np.min(found) < 0 or np.max(found) >= count):
            raise OddRecordsError
        return found, at

    def _long(self, at: Integers) -> tuple[Integers, Integers]:
        """Whole numbers: seven bits a byte, the lowest first, and of all the lowest is the sign."""
        byte = self._bytes[at]
        at = self._past(at, np.int64(1))
        found = (byte & 127).astype(np.uint64)
        longer, shift = np.flatnonzero(byte > 127), 7
        while longer.size:
            byte = self._bytes[at[longer]]
            if shift > _LAST_SHIFT or (shift == _LAST_SHIFT and np.max(byte) > 1):
                raise OddRecordsError
            at[longer] = self._past(at[longer], np.int64(1))
            found[longer] |= (byte & 127).astype(np.uint64) << np.uint64(shift)
            longer, shift = longer[byte > 127], shift + 7
        return ((found >> _ONE) ^ -(found & _ONE)).view(np.int64), at

    def _past(self, at: Integers, sizes: Integers | np.int64) -> Integers:
        """Behind so many bytes. Raises OddRecordsError if the batch ends before."""
        end = at + sizes
        if end.size and (np.min(sizes) < 0 or np.max(end) > self._end):
            raise OddRecordsError
        return end

    def _check_utf8(self, at: Integers, end: Integers) -> None:
        """What is ASCII needs no closer look."""
        beyond = self._beyond_ascii
        some = np.flatnonzero(beyond[at] < beyond[end])
        for first, last in zip(at[some].tolist(), end[some].tolist(), strict=True):
            try:
                self._data[first:last].decode()
            except UnicodeDecodeError as error:
                raise OddRecordsError from error

    @cached_property
    def _beyond_ascii(self) -> NDArray[np.int32]:
        """How many bytes before each are not ASCII."""
        return np.concatenate([[0], np.cumsum(self._bytes > 127, dtype=np.int32)])

    def _tell(self, path: str, rows: Integers, values: NDArray[Any], sizes: Integers = _NO_SIZES) -> None:
        if path in self._wanted.paths:
            self.told.setdefault(path, []).append(_Told(rows, values, sizes))


def level_of(path: str) -> str:
    """The level whose rows have a value at this path."""
    return path[: path.rfind(_ITEMS) + len(_ITEMS)] if _ITEMS in path else ""


def ends_of(sizes: Integers) -> Integers:
    """Where pieces of these sizes end, one behind the other, and before them 0: int64 [pieces + 1]."""
    return np.concatenate([[0], np.cumsum(sizes)])
