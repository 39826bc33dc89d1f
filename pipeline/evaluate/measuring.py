"""Numbers of pairs, averaged: of all records and of slices, with intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.pipeline.evaluate.compare import Comparison
from headrace.pipeline.evaluate.measures import LEAST_RECORDS, Interval, Measure, Slice
from headrace.pipeline.evaluate.slices import Sliced
from headrace.pipeline.evaluate.sql import quoted, whole_multiple
from headrace.pipeline.evaluate.statistics import (
    Floats,
    block_grid,
    mean_intervals,
    paired_tests,
    share_difference_intervals,
    share_intervals,
    sign_tests,
)

COLUMNS = 256
"""Slices whose intervals are found at once: thousands of resamples of each are in memory."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of each row of a table, in SQL; NULL where it has none.

    Attributes:
        name: of the measures.
        candidate, baseline: the number; ``baseline`` None if it is of both sides together.
        binary: it is 0 or 1, which has intervals and a test of its own.
        table: ``pairs``, ``outcomes``, or one that ``compare.join_numbers`` made.
        where: which of its rows.
    """

    name: str
    candidate: str
    baseline: str | None = None
    binary: bool = False
    table: str = "pairs"
    where: str = "true"

    @property
    def rows(self) -> str:
        """Those that it is of."""
        return f"(SELECT * FROM {self.table} WHERE {self.where})"


METRICS = (
    Metric("accuracy", "c_right", "b_right", binary=True),
    Metric("agreement", "label_same", binary=True),
    Metric("score", "c_score", "b_score"),
    Metric("text_accuracy", "c_text_right", "b_text_right", binary=True),
    Metric("text_agreement", "text_same", binary=True),
    Metric("text_distance", "text_distance"),
    Metric("segments_overlap", "overlap"),
    Metric("inference_ms", "c_inference_ms", "b_inference_ms"),
    Metric("waiting_ms", "c_waiting_ms", "b_waiting_ms"),
    Metric("cost_ms", "c_cost_ms", "b_cost_ms"),
    Metric("failed", "c_failed", "b_failed", binary=True, table="outcomes"),
    Metric("missing", "c_missing", "b_missing", binary=True, table="outcomes"),
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
        for kind in (None, *range(len(sliced.kinds))):
            yield from numbers.measures(kind)


class _Numbers:
    """One metric's, summed up.

    They are summed up as whole multiples of a unit that is small against the largest of them.
    """

    def __init__(self, comparison: Comparison, sliced: Sliced, metric: Metric) -> None:
        self._database = comparison.database
        self._sliced = sliced
        self._metric = metric
        self._candidate = f"({metric.candidate})::DOUBLE"
        self._baseline = f"({metric.baseline or 'NULL'})::DOUBLE"
        self._scale = 1.0 if metric.binary else self._find_scale()
        self._sum()

    def _find_scale(self) -> float:
        """A power of two by which all numbers have at most 61 bits, which leaves the sum of DuckDB many more."""
        largest = ", ".join(f"max(abs({each})) FILTER (isfinite({each}))" for each in (self._candidate, self._baseline))
        found = self._database.execute(f"SELECT greatest({largest}) FROM {self._metric.rows}").fetchone()
        exponent = math.frexp((found and found[0]) or 0.0)[1]
        return 2.0 ** min(60 - exponent, 900)

    def measures(self, kind: int | None) -> Iterator[Measure]:
        """Of all records, or of the slices of a kind."""
        values = 1 if kind is None else len(self._sliced.values[kind])
        least = 1 if kind is None else LEAST_RECORDS
        rows = self._sums(_ALL if kind is None else kind)
        cell = rows["r"].astype(np.int64) * values + rows["s"]
        kept = np.flatnonzero(np.bincount(cell, rows["records"], len(self._sliced.routes) * values) >= least)
        for first in range(0, len(kept), COLUMNS):
            cells = kept[first : first + COLUMNS]
            for each, told in zip(cells, self._measured(rows, cell, cells, least), strict=True):
                of: Slice | None = None if kind is None else self._sliced.slice(kind, int(each % values))
                yield Measure(self._metric.name, self._sliced.routes[each // values], of, *told)

    def _measured(self, rows: dict[str, Any], cell: Any, cells: Any, least: int) -> Iterator[_Told]:
        """What is told of some cells, a route and slice each; where fewer than ``least`` are paired, no difference."""
        inside = np.isin(cell, cells)
        places = rows["block"][inside], np.searchsorted(cells, cell[inside])
        sums = {name: block_grid(*places, rows[name][inside], len(cells)) for name in _SUMS}
        records, paired = (sums[name].sum(axis=0).astype(int) for name in ("records", "paired"))
        has_difference = paired >= least
        compared: Iterator[_Compared] = iter(())
        if has_difference.any():
            compared = self._compared({name: grid[:, has_difference] for name, grid in sums.items()})
        candidates = self._means(sums["c"], sums["records"])
        for place, candidate in enumerate(candidates):
            of_baseline = next(compared) if has_difference[place] else (None, None, None)
            yield int(records[place]), candidate, *of_baseline, int(paired[place])

    def _means(self, sums: Floats, counts: Floats) -> list[Interval]:
        return share_intervals(sums, counts) if self._metric.binary else mean_intervals(sums, counts, 1 / self._scale)

    def _compared(self, sums: dict[str, Floats]) -> Iterator[_Compared]:
        """Baseline, difference and its p-value of each column."""
        differences = sums["c_paired"] - sums["b"]
        if self._metric.binary:
            better, worse = sums["better"].sum(axis=0), sums["worse"].sum(axis=0)
            intervals = share_difference_intervals(differences, sums["paired"], better, worse)
            p_values = sign_tests(better, worse)
        else:
            intervals = mean_intervals(differences, sums["paired"], 1 / self._scale)
            p_values = paired_tests(differences, sums["paired"])
        return zip(self._means(sums["b"], sums["paired"]), intervals, p_values.tolist(), strict=True)

    def _sum(self) -> None:
        """The table of sums: of each route, slice and block that has some, in units, of all kinds of slices at once."""
        slices = [f"s{kind}" for kind in range(len(self._sliced.kinds))]
        sets = ", ".join(["(r, block)", *(f"(r, block, {each})" for each in slices)])
        kind = " ".join(f"WHEN GROUPING({each}) = 0 THEN {number}" for number, each in enumerate(slices))
        whole = (f"CASE WHEN isfinite({each}) THEN {whole_multiple(each, self._scale)} END" for each in "xy")
        self._database.execute(f"""
            CREATE OR REPLACE TEMP TABLE sums AS
            WITH numbers AS (
                SELECT r, {", ".join(slices)}, block, {self._candidate} AS x, {self._baseline} AS y
                FROM {self._metric.rows}
            ),
            wholes AS (SELECT *, {next(whole)} AS c, {next(whole)} AS b FROM numbers WHERE x IS NOT NULL)
            SELECT r, CASE {kind} ELSE {_ALL} END AS kind, coalesce({", ".join(slices)}) AS s, block,
                count(*) AS records, sum(c) AS c,
                count(y) AS paired, sum(c) FILTER (y IS NOT NULL) AS c_paired, sum(b) AS b,
                count(*) FILTER (x > y) AS better, count(*) FILTER (x < y) AS worse,
                count(*) FILTER (c IS NULL) AS c_odd, count(*) FILTER (y IS NOT NULL AND b IS NULL) AS b_odd
            FROM wholes GROUP BY GROUPING SETS ({sets}) HAVING kind = {_ALL} OR s IS NOT NULL
        """)

    def _sums(self, kind: int) -> dict[str, Any]:
        """Those of one kind."""
        found = self._database.execute("SELECT * EXCLUDE (kind) FROM sums WHERE kind = ?", [kind]).fetchnumpy()
        rows = {name: np.ma.filled(np.ma.asarray(column, np.float64), 0.0) for name, column in found.items()}
        for name, odd in (("c", rows["c_odd"]), ("b", rows["b_odd"]), ("c_paired", rows["c_odd"])):
            rows[name] = np.where(odd > 0, np.nan, rows[name])
        return {**rows, **{name: rows[name].astype(np.int64) for name in ("r", "s", "block")}}


_ALL = -1
"""In the place of a kind of slices: all records."""
_SUMS = ("records", "c", "paired", "c_paired", "b", "better", "worse")
_Compared = tuple[Interval, Interval, float]
_Told = tuple[int, Interval, Interval | None, Interval | None, float | None, int]
