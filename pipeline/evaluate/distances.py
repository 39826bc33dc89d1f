"""How far the segments and tensors of two sides are apart, batch by batch in numpy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headrace.pipeline.evaluate.overlap import Floats, Spans, overlaps
from headrace.pipeline.evaluate.sql import ANSWER_KEY

BATCH_ROWS = 20_000
BATCH_ELEMENTS = 1_000_000
"""Of tensors, in a batch."""

KEY_FIELDS = (
    ("topic", pa.string()),
    ("partition", pa.int32()),
    ("offset", pa.int64()),
    ("part", pa.string()),
    ("route", pa.string()),
)
_OVERLAPS = pa.schema([*KEY_FIELDS, ("overlap", pa.float64())])
_DISTANCES = pa.schema(
    [
        *KEY_FIELDS,
        ("name", pa.string()),
        ("cosine", pa.float64()),
        ("max_abs", pa.float64()),
        ("mean_abs", pa.float64()),
    ]
)


def write_overlaps(database: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Of answers of which either side has segments, and not the same: what they have in common (see ``overlap``)."""
    batches = database.sql(f"""
        SELECT {ANSWER_KEY}, c.segments AS mine, b.segments AS theirs
        FROM candidate c JOIN baseline b USING ({ANSWER_KEY})
        WHERE (len(c.segments) > 0 OR len(b.segments) > 0) AND c.segments IS DISTINCT FROM b.segments
    """).to_arrow_reader(BATCH_ROWS)
    with pq.ParquetWriter(path, _OVERLAPS, compression="zstd") as table:
        for batch in batches:
            numbers: dict[str | None, int] = {}
            mine, theirs = (_spans(batch.column(name), numbers) for name in ("mine", "theirs"))
            found = overlaps(mine, theirs, batch.num_rows)
            table.write_batch(_with_key(batch, _OVERLAPS, pa.array(found)))


def _spans(column: Any, numbers: dict[str | None, int]) -> Spans:
    """A column of lists. ``numbers`` of labels are those of both sides, and grow."""
    spans = column.flatten()
    labels = spans.field("label").dictionary_encode()
    known = [numbers.setdefault(each, len(numbers)) for each in labels.dictionary.to_pylist()]
    unlabelled = numbers.setdefault(None, len(numbers))
    places = labels.indices.fill_null(len(known)).to_numpy(zero_copy_only=False)
    return Spans(
        pc.list_parent_indices(column).to_numpy(zero_copy_only=False),
        np.array([*known, unlabelled], np.int64)[places],
        spans.field("start").to_numpy(zero_copy_only=False),
        spans.field("end").to_numpy(zero_copy_only=False),
    )


def batch_rows(database: duckdb.DuckDBPyConnection) -> int:
    """How many answers may be in memory at once, by the elements of their tensors."""
    ((most,),) = database.execute("""
        SELECT max(list_sum(list_transform(tensors, lambda each: len(each.values))))
        FROM (SELECT tensors FROM candidate UNION ALL SELECT tensors FROM baseline)
    """).fetchall()
    return max(1, min(BATCH_ROWS, BATCH_ELEMENTS // int(most or 1)))


def write_tensor_distances(database: duckdb.DuckDBPyConnection, path: Path) -> tuple[str, ...]:
    """Of tensors with one name: the cosine of their angle, and how far they are apart.

    Only tensors that the baseline ever gives in the route are compared. Where one is missing on one side, or is of
    another length than the other side's, they have nothing in common: cosine 0, and an infinite distance.

    Returns:
        The names.
    """
    names_of = "list_transform({}.tensors, lambda each: each.name)"
    named = "coalesce(list_filter({}.tensors, lambda each: each.name = n.name)[1].values, [])"
    batches = database.sql(f"""
        WITH given AS (SELECT DISTINCT route, unnest({names_of.format("baseline")}) AS name FROM baseline)
        SELECT {ANSWER_KEY}, n.name AS name, {named.format("c")} AS mine, {named.format("b")} AS theirs
        FROM candidate c JOIN baseline b USING ({ANSWER_KEY}) JOIN given n USING (route)
        WHERE len(mine) > 0 OR len(theirs) > 0
    """).to_arrow_reader(batch_rows(database))
    names: set[str] = set()
    with pq.ParquetWriter(path, _DISTANCES, compression="zstd") as table:
        for batch in batches:
            names.update(batch.column("name").unique().to_pylist())
            table.write_batch(_with_key(batch, _DISTANCES, batch.column("name"), *_distances(batch)))
    return tuple(sorted(names))


def _distances(batch: Any) -> Floats:
    """Cosine, largest and mean absolute difference of each row: float64 [3, rows]."""
    mine, theirs = (pc.list_value_length(batch.column(name)) for name in ("mine", "theirs"))
    is_comparable = pc.equal(mine, theirs)
    found = np.tile(np.array([[0.0], [math.inf], [math.inf]]), batch.num_rows)
    if batch.num_rows:
        found[:, is_comparable.to_numpy(zero_copy_only=False)] = _apart(batch.filter(is_comparable))
    return found


def _apart(batch: Any) -> Floats:
    """The same of rows whose tensors are of one length."""
    if not batch.num_rows:
        return np.empty((3, 0))
    lengths = pc.list_value_length(batch.column("mine")).to_numpy().astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    one, other = (
        batch.column(name).flatten().to_numpy(zero_copy_only=False).astype(np.float64) for name in ("mine", "theirs")
    )
    with np.errstate(invalid="ignore"):  # infinities less one another: what is not a number is told as such
        apart = np.abs(one - other)
        squares = np.stack([np.add.reduceat(each * each, starts) for each in (one, other)])
        norms = np.sqrt(squares.prod(axis=0))
        cosine = np.clip(np.add.reduceat(one * other, starts) / np.where(norms == 0, 1.0, norms), -1.0, 1.0)
    cosine[(squares == 0).all(axis=0)] = 1.0  # nothing and nothing are the same
    largest, mean = np.maximum.reduceat(apart, starts), np.add.reduceat(apart, starts) / lengths
    return np.stack([cosine, largest, mean])


def _with_key(batch: Any, schema: Any, *columns: Any) -> Any:
    """The keys of a batch's answers, and what is told of them."""
    keys = [batch.column(name).cast(kind) for name, kind in KEY_FIELDS]
    return pa.record_batch([*keys, *columns], schema=schema)
