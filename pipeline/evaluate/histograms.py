"""How often a number lies where, by route, and how far the two sides' distributions are apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.pipeline.evaluate.compare import Comparison
from headrace.pipeline.evaluate.evaluation import Histogram
from headrace.pipeline.evaluate.measuring import METRICS, Metric, tensor_metrics
from headrace.pipeline.evaluate.statistics import BLOCKS, drift, tidy

BINS = 40
SAMPLE = 100_000
"""Values of a side that a test of drift is made of, at most, about: those of the first blocks, which are of a hash."""
WIDE = 20
"""Times that the largest time is of the smallest, from which on bins grow with the times."""

_NAMES = ("score", "text_distance", "segments_overlap", "inference_ms", "waiting_ms")
_UNIT = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class _Range:
    """Of a number that some route has: how often, and between what it lies, with and without outlying ones."""

    route: int
    count: int
    least: float
    most: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Bins:
    """From ``low`` to ``high``; ``growing``: each is by the same factor wider than the one before."""

    low: float
    high: float
    growing: bool = False

    @property
    def edges(self) -> tuple[float, ...]:
        space = np.geomspace if self.growing else np.linspace
        return tuple(tidy(float(each)) for each in space(self.low, self.high, BINS + 1))

    def place(self, number: str) -> str:
        """The bin of a number, in SQL."""
        if self.growing:
            into = f"ln(greatest({number}, {self.low!r}) / {self.low!r}) / {math.log(self.high / self.low)!r}"
        else:
            into = f"({number} - {self.low!r}) / {self.high - self.low!r}"
        return f"greatest(0, least({BINS - 1}, floor(({into}) * {BINS})))::INTEGER"


def histograms(comparison: Comparison) -> Iterator[Histogram]:
    """Of scores, distances and latencies."""
    metrics = [each for each in METRICS if each.name in _NAMES]
    metrics += [each for each in tensor_metrics(comparison.tensors) if not each.name.startswith("mean_abs.")]
    for metric in metrics:
        for found in _ranges(comparison, metric):
            yield _histogram(comparison, metric, found)


def _ranges(comparison: Comparison, metric: Metric) -> list[_Range]:
    """Of both sides together."""
    sides = [each for each in (metric.candidate, metric.baseline) if each is not None]
    numbers = " UNION ALL ".join(f"SELECT r, {number} AS number FROM {metric.rows}" for number in sides)
    found = comparison.database.execute(f"""
        SELECT r, count(*), min(number), max(number), quantile_disc(number, 0.001), quantile_disc(number, 0.995)
        FROM ({numbers}) WHERE isfinite(number) GROUP BY r ORDER BY r
    """).fetchall()
    return [_Range(*row) for row in found]


def _bins(name: str, found: _Range) -> _Bins:
    """Where the numbers lie; the few that are far out count to the first or last bin."""
    kind = name.partition(".")[0]
    if kind in ("text_distance", "segments_overlap") or (kind == "score" and found.least >= 0 and found.most <= 1):
        return _Bins(*_UNIT)
    if kind == "cosine":  # next to 1, mostly: what counts is how near
        return _Bins(max(-1.0, 1 - 10.0 ** math.ceil(math.log10(max(1 - found.low, 1e-6)))), 1.0)
    low = 0.0 if kind == "max_abs" else found.low
    high = found.high if found.high > low else low + max(abs(low), 1.0) / 100
    return _Bins(low, high, growing=name.endswith("_ms") and 0 < low * WIDE < high)


def _histogram(comparison: Comparison, metric: Metric, found: _Range) -> Histogram:
    bins = _bins(metric.name, found)
    candidate = _counts(comparison, metric, metric.candidate, found.route, bins)
    baseline = None
    if metric.baseline is not None:
        baseline = _counts(comparison, metric, metric.baseline, found.route, bins)
    route = comparison.pairs.routes[found.route]
    if baseline is None or not any(baseline):
        return Histogram(metric.name, route, bins.edges, candidate)
    apart = _drift(comparison, metric, found) if any(candidate) else None
    return Histogram(metric.name, route, bins.edges, candidate, baseline, apart)


def _counts(comparison: Comparison, metric: Metric, number: str, route: int, bins: _Bins) -> tuple[int, ...]:
    found = comparison.database.execute(f"""
        SELECT {bins.place("number")} AS bin, count(*)
        FROM (SELECT {number} AS number FROM {metric.rows} WHERE r = {route})
        WHERE isfinite(number) GROUP BY bin
    """).fetchall()
    counts = dict(found)
    return tuple(counts.get(number, 0) for number in range(BINS))


def _drift(comparison: Comparison, metric: Metric, found: _Range) -> float:
    blocks = math.ceil(BLOCKS * min(1.0, 2 * SAMPLE / found.count))  # the count is of both sides
    return drift(*(_sample(comparison, metric, each, found.route, blocks) for each in _both(metric)))


def _both(metric: Metric) -> Sequence[str]:
    return metric.candidate, metric.baseline or "NULL"


def _sample(comparison: Comparison, metric: Metric, number: str, route: int, blocks: int) -> Any:
    rows = comparison.database.execute(f"""
        SELECT number FROM (
            SELECT {number} AS number FROM {metric.rows} WHERE r = {route} AND block < {blocks}
        ) WHERE isfinite(number)
    """).fetchnumpy()
    return np.ma.getdata(rows["number"])
