"""Values of result topics → rows of the table of answers, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.pipeline.avro import Contract, UnusableSchemaError, writer_schema
from headrace.pipeline.envelope import ResultDecoder
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.evaluate.avro_columns import ColumnReader, Columns, OddRecordsError, ends_of
from headrace.pipeline.evaluate.compared import LeftOut, OffsetSet
from headrace.pipeline.evaluate.store import ANSWERS, TableWriter, numbers, write_result
from headrace.pipeline.ports import SchemaRegistry
from headrace.pipeline.records import Tensor
from headrace.pipeline.wire import HEADER_BYTES, schema_id_of

_OUTPUTS, _LABELS, _SEGMENTS, _TENSORS = (
    "outputs[]",
    "outputs[].labels[]",
    "outputs[].segments[]",
    "outputs[].tensors[]",
)
_WANTED = frozenset(
    {
        *(f"provenance.{name}" for name in ("topic", "partition", "offset")),
        *(f"timings.{name}" for name in ("waiting_ms", "inference_ms")),
        *(f"{_OUTPUTS}.{name}" for name in ("part", "route", "model", "model_version", "text", "batch_size")),
        *(f"{_LABELS}.{name}" for name in ("name", "score")),
        *(f"{_SEGMENTS}.{name}" for name in ("start_seconds", "end_seconds", "label")),
        *(f"{_TENSORS}.{name}" for name in ("name", "tensor.datatype", "tensor.data")),
    }
)


class ResultReader:
    """Results → the table of answers: all of a batch at once, or, where one is odd, one by one. Same rows either way.

    Args:
        registry: where writer schemas come from; asked once for each id, or twice.
        among: of which events.
        routes: whose answers; all, if empty.

    Attributes:
        left_out: what no row has come of.
        one_by_one: how many records were read so.
    """

    def __init__(self, registry: SchemaRegistry, among: OffsetSet, routes: frozenset[str] = frozenset()) -> None:
        self._registry = registry
        self._among = among
        self._routes = routes
        self._decoder = ResultDecoder()
        self._readers: dict[int, ColumnReader] = {}
        self.left_out = LeftOut()
        self.one_by_one = 0

    def write(self, table: TableWriter, values: Sequence[bytes | None]) -> None:
        """Rows of a batch. Raises UnavailableError if the registry is needed and does not answer."""
        try:
            columns = self._columns(values)
        except OddRecordsError:
            self._write_one_by_one(table, values)
        else:
            table.add_rows(self._rows(columns))

    def _columns(self, values: Sequence[bytes | None]) -> Columns:
        """Raises OddRecordsError, also if they are not all of one schema."""
        present = [value for value in values if value is not None]
        heads = {value[:HEADER_BYTES] for value in present}
        if len(heads) != 1 or len(present) < len(values):
            raise OddRecordsError
        try:
            reader = self._reader(schema_id_of(heads.pop()))
        except (PoisonError, UnusableSchemaError) as error:
            raise OddRecordsError from error
        return reader.read(present, HEADER_BYTES)

    def _reader(self, schema_id: int) -> ColumnReader:
        """Raises UnusableSchemaError if records of this schema are no results."""
        if schema_id not in self._readers:
            schema = self._registry.schema(schema_id)
            if schema is None:
                raise UnusableSchemaError("there is none")
            self._readers[schema_id] = ColumnReader(writer_schema(schema, Contract.RESULT), _WANTED)
        return self._readers[schema_id]

    def _rows(self, columns: Columns) -> Any:
        """Those of events that are compared."""
        topics = pc.equal(columns.texts("provenance.topic"), self._among.topic)
        partitions, offsets = (columns.integers(f"provenance.{name}") for name in ("partition", "offset"))
        is_compared = topics.to_numpy(zero_copy_only=False) & self._among.hold(partitions, offsets)
        rows = _answers(columns, self._among.topic, partitions, offsets)
        is_wanted = is_compared[columns.owners(_OUTPUTS)]
        if self._routes:
            is_wanted &= pc.is_in(rows["route"], pa.array(sorted(self._routes))).to_numpy()
        self.left_out.others += int(np.count_nonzero(~is_compared))
        return rows if is_wanted.all() else rows.filter(pa.array(is_wanted))

    def _write_one_by_one(self, table: TableWriter, values: Sequence[bytes | None]) -> None:
        self.one_by_one += len(values)
        for schema_id in self._decoder.missing(values):
            self._decoder.add_schema(schema_id, self._registry.schema(schema_id))
        for value in values:
            try:
                result = self._decoder.decode(value)
            except PoisonError:
                self.left_out.unreadable += 1
                continue
            if result.provenance in self._among:
                write_result(table, result, self._routes)
            else:
                self.left_out.others += 1


def _answers(columns: Columns, topic: str, partitions: Any, offsets: Any) -> Any:
    """A row of ``ANSWERS`` for each output, as if all events were of one topic."""
    owners = columns.owners(_OUTPUTS)
    parts, routes, models, versions = (
        columns.texts(f"{_OUTPUTS}.{name}", "") for name in ("part", "route", "model", "model_version")
    )
    waiting_ms, inference_ms = (columns.floats(f"timings.{name}") for name in ("waiting_ms", "inference_ms"))
    told = {
        "topic": pa.DictionaryArray.from_arrays(np.zeros(len(owners), np.int32), [topic]),
        "partition": partitions[owners].astype(np.int32),  # one that does not fit is of no event that is compared
        "offset": offsets[owners],
        "part": parts,
        "route": routes,
        "model": models,
        "version": versions,
        "labels": _list(columns, columns.owners(_LABELS), _labels(columns)),
        "text": columns.texts(f"{_OUTPUTS}.text"),
        "segments": _list(columns, columns.owners(_SEGMENTS), _segments(columns)),
        "tensors": _tensors(columns),
        "waiting_ms": waiting_ms[owners],
        "inference_ms": inference_ms[owners],
        "batch_size": columns.integers(f"{_OUTPUTS}.batch_size", 1),
        "parts": _distinct(owners, parts)[owners],
    }
    return pa.table(told, ANSWERS)


def _distinct(owners: Any, parts: Any) -> Any:
    """How many names of parts each result has: int32 [results]."""
    names = parts.dictionary_encode()
    pairs = np.unique(owners * max(1, len(names.dictionary)) + names.indices.to_numpy())
    return np.bincount(pairs // max(1, len(names.dictionary))).astype(np.int32)


def _labels(columns: Columns) -> Any:
    return _struct("labels", columns.texts(f"{_LABELS}.name", ""), columns.floats(f"{_LABELS}.score"))


def _segments(columns: Columns) -> Any:
    starts, ends = (columns.floats(f"{_SEGMENTS}.{name}") for name in ("start_seconds", "end_seconds"))
    return _struct("segments", starts, ends, columns.texts(f"{_SEGMENTS}.label"))


def _tensors(columns: Columns) -> Any:
    """Of each output those that are of numbers."""
    names, datatypes = (columns.texts(f"{_TENSORS}.{name}", "") for name in ("name", "tensor.datatype"))
    data, ends, _ = columns.pieces(f"{_TENSORS}.tensor.data")
    owners = columns.owners(_TENSORS)
    if pc.all(pc.equal(datatypes, "FP32"), min_count=0).as_py() and not (ends % 4).any():
        values, ends = np.frombuffer(data, "<f4"), ends // 4
    else:
        pieces = zip(datatypes.to_pylist(), ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        found = [numbers(Tensor(datatype, (), data[start:end])) for datatype, start, end in pieces]
        is_kept = np.array([each is not None for each in found])
        kept = [each for each in found if each is not None]
        values = np.concatenate([np.empty(0, np.float32), *kept])
        ends = ends_of(np.array([len(each) for each in kept], np.int64))
        names, owners = names.filter(pa.array(is_kept)), owners[is_kept]
    lists = pa.ListArray.from_arrays(ends.astype(np.int32), values)
    return _list(columns, owners, _struct("tensors", names, lists))


def _struct(column: str, *fields: Any) -> Any:
    """Items of the lists in a column."""
    return pa.StructArray.from_arrays(fields, fields=list(ANSWERS.field(column).type.value_type))


def _list(columns: Columns, owners: Any, items: Any) -> Any:
    """The items that each output owns."""
    counts = np.bincount(owners, minlength=columns.count(_OUTPUTS))
    return pa.ListArray.from_arrays(ends_of(counts).astype(np.int32), items)
