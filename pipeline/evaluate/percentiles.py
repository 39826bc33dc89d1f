"""Percentiles of latency: of all records and of slices.

All values of one column are in memory at once, with the numbers of their slices: some tens of bytes a record.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.pipeline.evaluate.compare import Comparison
from headrace.pipeline.evaluate.measures import LEAST_RECORDS, Interval, Measure
from headrace.pipeline.evaluate.slices import Sliced
from headrace.pipeline.evaluate.statistics import Floats, difference_interval, interval, percentile_ranks

COLUMNS = ("inference_ms", "waiting_ms")
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
NAMES = tuple(f"{column}.{name}" for column in COLUMNS for name in SHARES)


def measure_percentiles(comparison: Comparison) -> Iterator[Measure]:
    """``inference_ms.p50`` and so on, their intervals of order statistics; differences have no test."""
    for column in COLUMNS:
        sides = _sides(comparison, column)
        if sides is None:
            continue
        for kind in (None, *range(len(comparison.pairs.kinds))):
            yield from _measures(column, kind, comparison.pairs, sides)


@dataclass(frozen=True, slots=True)
class _Groups:
    """All values, in order within each group; where each group begins, and how many it has."""

    values: Floats
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    def percentiles(self, share: float) -> dict[int, Interval]:
        """Of each group that has values."""
        groups = np.flatnonzero(self.counts)
        counts = self.counts[groups]
        middle, low, high = percentile_ranks(counts, share)
        starts = self.starts[groups]
        is_known = (low >= 0) & (high < counts)
        low, high = (np.where(is_known, end, middle) for end in (low, high))
        ends = (np.where(is_known, self.values[starts + end], math.nan) for end in (low, high))
        rows = zip(groups.tolist(), self.values[starts + middle], *ends, strict=True)
        return {group: interval(*numbers) for group, *numbers in rows}


class _Sorted:
    """Numbers in order, and of each the route and, by kind, the slice."""

    def __init__(self, values: Floats, routes: Any, slices: list[Any]) -> None:
        order = np.argsort(values)
        self.values = values[order]
        self._routes = routes[order]
        self._slices = [each[order] for each in slices]

    def groups(self, kind: int | None, width: int) -> _Groups:
        """By route and slice of a kind, which has so many of them."""
        slices = np.zeros_like(self._routes) if kind is None else self._slices[kind]
        numbers = np.where(slices < 0, 0, 1 + self._routes * width + slices)
        numbers = numbers.astype(np.min_scalar_type(numbers.max(initial=0)))  # what has few bits is sorted fast
        order = np.argsort(numbers, kind="stable")
        counts = np.bincount(numbers, minlength=1)
        starts = np.cumsum(counts) - counts
        return _Groups(self.values[order], starts[1:], counts[1:])


@dataclass(frozen=True, slots=True)
class _Sides:
    """``paired``: the candidate's where there is a baseline's."""

    candidate: _Sorted
    paired: _Sorted
    baseline: _Sorted


def _sides(comparison: Comparison, column: str) -> _Sides | None:
    slices = ", ".join(
        f"coalesce(s{number}, -1)::SMALLINT AS s{number}" for number in range(len(comparison.pairs.kinds))
    )
    found = comparison.database.execute(f"""
        SELECT r, {slices}, c_{column} AS c, coalesce(b_{column}, 'nan'::DOUBLE) AS b FROM pairs
        WHERE isfinite(c_{column})
    """).fetchnumpy()
    rows = {name: np.ma.getdata(values) for name, values in found.items()}
    if not len(rows["r"]):
        return None
    paired = np.isfinite(rows["b"])
    slices_of = [rows[f"s{number}"] for number in range(len(comparison.pairs.kinds))]

    def ordered(name: str, where: Any) -> _Sorted:
        return _Sorted(rows[name][where], rows["r"][where].astype(np.int32), [each[where] for each in slices_of])

    candidate = ordered("c", slice(None))
    return _Sides(candidate, candidate if paired.all() else ordered("c", paired), ordered("b", paired))


def _measures(column: str, kind: int | None, sliced: Sliced, sides: _Sides) -> Iterator[Measure]:
    width = 1 if kind is None else len(sliced.values[kind])
    least = 1 if kind is None else LEAST_RECORDS
    candidates, paired, baselines = (
        side.groups(kind, width) for side in (sides.candidate, sides.paired, sides.baseline)
    )
    for name, share in SHARES.items():
        found, of_paired, of_baseline = (each.percentiles(share) for each in (candidates, paired, baselines))
        for group, told in found.items():
            records = int(candidates.counts[group])
            if records < least:
                continue
            of = None if kind is None else sliced.slice(kind, group % width)
            pairs = int(paired.counts[group]) if group in of_baseline else 0
            measure = Measure(f"{column}.{name}", sliced.routes[group // width], of, records, told, paired=pairs)
            if pairs >= least:
                difference = difference_interval(of_paired[group], of_baseline[group])
                measure = replace(measure, baseline=of_baseline[group], difference=difference)
            yield measure
