"""What is compared, as tables on disk: events, answers and what should have been answered, by original position.

Rows come one by one and go to Parquet files in groups; DuckDB joins them, in little memory and the rest on disk.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headrace.pipeline.evaluate.labels import Truth
from headrace.pipeline.ports import dtype_of
from headrace.pipeline.records import (
    DeadLetter,
    InferenceRequest,
    InferenceResult,
    PartOutput,
    Provenance,
    SourceRecord,
    Tensor,
)

GROUP_ROWS = 5_000
GROUP_BYTES = 8 * 2**20
"""Of large values: what reads the table has a group in memory at least."""
MEMORY_LIMIT = "512MB"
THREADS = 2

_POSITION = [("topic", pa.dictionary(pa.int32(), pa.string())), ("partition", pa.int32()), ("offset", pa.int64())]
EVENTS = pa.schema(
    [
        *_POSITION,
        ("part", pa.string()),
        ("modality", pa.string()),
        ("content_type", pa.string()),
        ("id", pa.string()),
        ("type", pa.string()),
        ("source", pa.string()),
        ("key", pa.string()),
        ("time_ms", pa.int64()),
        ("headers", pa.map_(pa.string(), pa.string())),
    ]
)
"""One row a part of an event; of a record that cannot be decoded one without part."""
ANSWERS = pa.schema(
    [
        *_POSITION,
        ("part", pa.string()),
        ("route", pa.string()),
        ("model", pa.string()),
        ("version", pa.string()),
        ("labels", pa.list_(pa.struct([("name", pa.string()), ("score", pa.float64())]))),
        ("text", pa.string()),
        (
            "segments",
            pa.list_(pa.struct([("start", pa.float64()), ("end", pa.float64()), ("label", pa.string())])),
        ),
        ("tensors", pa.list_(pa.struct([("name", pa.string()), ("values", pa.list_(pa.float32()))]))),
        ("waiting_ms", pa.float64()),
        ("inference_ms", pa.float64()),
        ("batch_size", pa.int64()),
        ("parts", pa.int32()),
    ]
)
"""One row a part that was answered, with the times of the whole result, and how many parts that is of. Of tensors those
that are of numbers, row-major, as 32-bit floats."""
FAILURES = pa.schema([*_POSITION, ("stage", pa.string()), ("code", pa.string())])
"""One row a dead letter."""
TRUTHS = pa.schema(
    [*_POSITION, ("id", pa.string()), ("part", pa.string()), ("route", pa.string()), ("label", pa.string())]
)
"""What should have been answered (see ``labels.Truth``): by position, or by the event's id."""


class TableWriter:
    """Rows to a Parquet file.

    Args:
        path: is made anew.
        schema: of the rows.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def add(self, *values: Any, size_bytes: int = 0) -> None:
        """One row, in the order of the schema. ``size_bytes``: of its large values, about."""
        self._rows.append(values)
        self._bytes += size_bytes
        if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._write()

    def add_rows(self, rows: Any) -> None:
        """Many rows, as a table of the schema; to be called with some thousands of them."""
        self._write()
        self._writer.write_table(rows)

    def close(self) -> None:
        """Write what is left."""
        self._write()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _write(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            self._writer.write_table(pa.table(arrays, schema=self._schema))
            self._rows = []
            self._bytes = 0


def write_event(table: TableWriter, record: SourceRecord, request: InferenceRequest | None) -> None:
    """A row for each part of an event; one without part, at the record's time, if there is no request in it."""
    at = record.provenance
    key = None if record.key is None else record.key.decode(errors="backslashreplace")
    headers = [
        (name, value.decode(errors="backslashreplace"))
        for name, value in dict(record.headers).items()
        if value is not None
    ]
    if request is None:
        table.add(*_place(at), None, None, None, None, None, None, key, at.timestamp_ms, headers)
        return
    for part in request.parts:
        table.add(
            *_place(at),
            part.name,
            part.modality.value,
            part.content_type,
            request.id.lower(),
            request.type,
            request.source,
            key,
            request.time_ms,
            headers,
        )


def write_result(table: TableWriter, result: InferenceResult, routes: Collection[str] = ()) -> None:
    """A row for each part of a result that one of the routes answered; any, if there are none."""
    parts = len({output.part for output in result.outputs})
    for output in result.outputs:
        if routes and output.route not in routes:
            continue
        tensors = list(_tensors(output))
        table.add(
            *_place(result.provenance),
            output.part,
            output.route,
            output.model,
            output.model_version,
            [{"name": label.name, "score": label.score} for label in output.labels],
            output.text,
            [{"start": each.start_seconds, "end": each.end_seconds, "label": each.label} for each in output.segments],
            tensors,
            result.timings.waiting_ms,
            result.timings.inference_ms,
            output.batch_size,
            parts,
            size_bytes=sum(each["values"].nbytes for each in tensors) + len(output.text or ""),
        )


def write_failure(table: TableWriter, letter: DeadLetter) -> None:
    """The row of a dead letter."""
    table.add(*_place(letter.provenance), letter.stage, letter.code)


def write_truth(table: TableWriter, truth: Truth) -> None:
    """The row of a label."""
    table.add(*(truth.position or (None, None, None)), truth.id, truth.part, truth.route, truth.label)


def _place(at: Provenance) -> tuple[str, int, int]:
    return at.topic, at.partition, at.offset


def _tensors(output: PartOutput) -> Iterable[dict[str, Any]]:
    for each in output.tensors:
        values = numbers(each.tensor)
        if values is not None:
            yield {"name": each.name, "values": values}


def numbers(tensor: Tensor) -> Any:
    """A tensor's elements, row-major, float32 [n]; None if they are no numbers, or not of the datatype that it says."""
    is_brain_float = tensor.datatype == "BF16"
    try:
        dtype = np.dtype("<u2") if is_brain_float else dtype_of(tensor.datatype)
    except KeyError:
        return None
    if dtype.hasobject or len(tensor.data) % dtype.itemsize:
        return None
    found = np.frombuffer(tensor.data, dtype)
    return (found.astype(np.uint32) << 16).view(np.float32) if is_brain_float else found.astype(np.float32)


def connect(spill: Path) -> duckdb.DuckDBPyConnection:
    """A database in memory that goes on on disk beyond its limit, in the folder ``spill``."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": str(spill),
        "threads": THREADS,
        "preserve_insertion_order": False,  # which costs memory
        "autoinstall_known_extensions": False,  # nothing is fetched from anywhere
    }
    return duckdb.connect(config=config)
