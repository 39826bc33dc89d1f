"""Numbers of pairs, averaged: of all records and of slices, with intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.pipeline.evaluate.compare import Comparison
from headrace.pipeline.evaluate.measures import Interval, Measure, Slice
from headrace.pipeline.evaluate.slices import LEAST_RECORDS, Sliced
from headrace.pipeline.evaluate.sql import quoted
from headrace.pipeline.evaluate.statistics import BLOCKS, Floats, mean_intervals, paired_tests, sign_tests


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of each row of a table, in SQL; NULL where it has none.

    Attributes:
        name: of the measures.
        candidate, baseline: the number; ``baseline`` None if it is of both sides together.
        binary: it is 0 or 1, so that McNemar's test can be made.
        table: ``pairs``, ``outcomes``, or one that ``compare.join_numbers`` made.
        where: which of its rows.
    """

    name: str
    candidate: str
    baseline: str | None = None
    binary: bool = False
    table: str = "pairs"
    where: str = "true"


METRICS = (
    Metric("accuracy", "c_label = truth", "b_label = truth", binary=True),
    Metric("agreement", "c_label = b_label", binary=True),
    Metric("score", "c_score", "b_score"),
    Metric("text_accuracy", "c_text_right", "b_text_right", binary=True),
    Metric("text_agreement", "text_same", binary=True),
    Metric("text_distance", "text_distance"),
    Metric("segments_overlap", "overlap"),
    Metric("inference_ms", "c_inference_ms", "b_inference_ms"),
    Metric("waiting_ms", "c_waiting_ms", "b_waiting_ms"),
    Metric("cost_ms", "c_cost_ms", "b_cost_ms"),
    Metric("failed", "c_failed", "b_failed", binary=True, table="outcomes"),
)


def tensor_metrics(names: Sequence[str]) -> Iterator[Metric]:
    """How far tensors of these names are apart."""
    for name in names:
        for kind in ("cosine", "max_abs", "mean_abs"):
            yield Metric(f"{kind}.{name}", kind, table="tensors", where=f"name = {quoted(name)}")


def measure(comparison: Comparison, metrics: Sequence[Metric]) -> Iterator[Measure]:
    """Each metric of all records, then of the slices that have enough of them."""
    for metric in metrics:
        sliced = comparison.outcomes if metric.table == comparison.outcomes.table else comparison.pairs
        numbers = _Numbers(comparison, sliced, metric)
        whole = tuple(numbers.measures(None))
        yield from whole
        for kind in range(len(sliced.kinds)) if whole else ():
            yield from numbers.measures(kind)


class _Numbers:
    """One metric's, summed up.

    They are summed up as whole numbers, of multiples of a fraction that is small against the largest of them: whole
    numbers have the same sum in every order, and DuckDB's threads add in whichever they come.
    """

    def __init__(self, comparison: Comparison, sliced: Sliced, metric: Metric) -> None:
        self._database = comparison.database
        self._sliced = sliced
        self._metric = metric
        self._rows = f"(SELECT * FROM {metric.table} WHERE {metric.where})"
        self._candidate = f"({metric.candidate})::DOUBLE"
        self._baseline = f"({metric.baseline or 'NULL'})::DOUBLE"
        self._scale = 1.0 if metric.binary else self._find_scale()

    def _find_scale(self) -> float:
        """A power of two by which all numbers have at most 61 bits, which leaves the sum of DuckDB many more."""
        largest = ", ".join(f"max(abs({each})) FILTER (isfinite({each}))" for each in (self._candidate, self._baseline))
        found = self._database.execute(f"SELECT greatest({largest}) FROM {self._rows}").fetchone()
        exponent = math.frexp((found and found[0]) or 0.0)[1]
        return 2.0 ** min(60 - exponent, 900)

    def measures(self, kind: int | None) -> Iterator[Measure]:
        """Of all records, or of the slices of a kind."""
        values = 1 if kind is None else len(self._sliced.values[kind])
        rows = self._sums("0" if kind is None else f"s{kind}")
        cell = rows["r"].astype(np.int64) * values + rows["s"]
        grids = {name: _grid(rows, name, cell, len(self._sliced.routes) * values) for name in _SUMS}
        least = 1 if kind is None else LEAST_RECORDS
        kept = np.flatnonzero(grids["records"].sum(axis=0) >= least)
        if not len(kept):
            return
        measured = _measured({name: grid[:, kept] for name, grid in grids.items()}, self._metric.binary)
        for each, numbers in zip(kept, measured, strict=True):
            of: Slice | None = None if kind is None else self._sliced.slice(kind, int(each % values))
            yield Measure(self._metric.name, self._sliced.routes[each // values], of, *numbers)

    def _sums(self, slice_column: str) -> dict[str, Any]:
        """Of each route, slice and block that has some."""
        whole = (f"CASE WHEN isfinite({each}) THEN round({each} * {self._scale!r})::BIGINT END" for each in "xy")
        found = self._database.execute(f"""
            WITH numbers AS (
                SELECT r, {slice_column} AS s, block, {self._candidate} AS x, {self._baseline} AS y FROM {self._rows}
            ),
            wholes AS (SELECT *, {next(whole)} AS c, {next(whole)} AS b FROM numbers WHERE x IS NOT NULL)
            SELECT r, s, block, count(*) AS records, sum(c) AS c,
                count(y) AS paired, sum(c) FILTER (y IS NOT NULL) AS c_paired, sum(b) AS b,
                count(*) FILTER (x > y) AS better, count(*) FILTER (x < y) AS worse,
                count(*) FILTER (c IS NULL) AS c_odd, count(*) FILTER (y IS NOT NULL AND b IS NULL) AS b_odd
            FROM wholes WHERE s IS NOT NULL GROUP BY r, s, block
        """).fetchnumpy()
        rows = {name: np.ma.filled(np.ma.asarray(column, np.float64), 0.0) for name, column in found.items()}
        for name, odd in (("c", rows["c_odd"]), ("b", rows["b_odd"]), ("c_paired", rows["c_odd"])):
            rows[name] = np.where(odd > 0, np.nan, rows[name] / self._scale)
        return {**rows, **{name: rows[name].astype(np.int64) for name in ("r", "s", "block")}}


_SUMS = ("records", "c", "paired", "c_paired", "b", "better", "worse")
_Compared = tuple[Interval, Interval, float]
_Told = tuple[int, Interval, Interval | None, Interval | None, float | None]


def _grid(rows: dict[str, Any], name: str, cell: Any, cells: int) -> Floats:
    """One of the sums by block and cell, a cell for each route and slice; float64 [blocks, cells]."""
    grid = np.zeros((BLOCKS, cells))
    grid[rows["block"], cell] = rows[name]
    return grid


def _measured(sums: dict[str, Floats], is_binary: bool) -> Iterator[_Told]:
    """What is told of each column."""
    records = sums["records"].sum(axis=0).astype(int).tolist()
    candidates = mean_intervals(sums["c"], sums["records"])
    paired = sums["paired"].sum(axis=0) > 0
    compared: Iterator[_Compared] = iter(())
    if paired.any():
        compared = _compared({name: column[:, paired] for name, column in sums.items()}, is_binary)
    for count, candidate, has_baseline in zip(records, candidates, paired, strict=True):
        yield count, candidate, *(next(compared) if has_baseline else (None, None, None))


def _compared(sums: dict[str, Floats], is_binary: bool) -> Iterator[_Compared]:
    """Baseline, difference and its p-value of each column."""
    differences = sums["c_paired"] - sums["b"]
    if is_binary:
        p_values = sign_tests(sums["better"].sum(axis=0), sums["worse"].sum(axis=0))
    else:
        p_values = paired_tests(differences, sums["paired"])
    return zip(
        mean_intervals(sums["b"], sums["paired"]),
        mean_intervals(differences, sums["paired"]),
        p_values.tolist(),
        strict=True,
    )
