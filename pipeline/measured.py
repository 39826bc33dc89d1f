"""What a worker serves at ``/metrics``, summed up for people. Pure: text in, rows out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

PREFIX = "headrace_"


@dataclass(frozen=True, slots=True)
class Measured:
    """One series. For a histogram the mean and upper bounds of the median and the 99th percentile, in its unit."""

    name: str
    labels: tuple[tuple[str, str], ...]
    count: float | None
    value: float
    p50: float | None = None
    p99: float | None = None


def measured(text: str, pattern: str = "") -> list[Measured]:
    """The series of headrace's metrics whose name holds ``pattern``, in the order in which they are served.

    Args:
        text: in Prometheus' text format.
        pattern: part of a name.

    Raises:
        ValueError: the text is not of that format.
    """
    families = [family for family in text_string_to_metric_families(text) if family.name.startswith(PREFIX)]
    return [row for family in families if pattern in family.name for row in _rows(family)]


def _rows(family: Metric) -> Iterator[Measured]:
    if family.type == "histogram":
        yield from _histograms(family)
        return
    for sample in family.samples:
        if not sample.name.endswith("_created"):
            yield Measured(sample.name, tuple(sorted(sample.labels.items())), None, sample.value)


def _histograms(family: Metric) -> Iterator[Measured]:
    buckets: defaultdict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = defaultdict(list)
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in family.samples:
        labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        if sample.name.endswith("_bucket"):
            buckets[labels].append((float(sample.labels.get("le", "")), sample.value))
        elif sample.name.endswith("_sum"):
            sums[labels] = sample.value
    for labels, bounds in buckets.items():
        count = max(total for _, total in bounds)
        if count:
            mean = sums.get(labels, 0.0) / count
            yield Measured(family.name, labels, count, mean, _within(bounds, count / 2), _within(bounds, count * 0.99))


def _within(bounds: list[tuple[float, float]], rank: float) -> float:
    """The least upper bound that so many observations are within; infinity above the last."""
    return min((bound for bound, total in bounds if total >= rank), default=math.inf)
