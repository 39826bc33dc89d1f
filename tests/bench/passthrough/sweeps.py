"""headrace beside the raw loop as something grows: workers, partitions, the size of records, and a long backlog."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.bench.passthrough.arms import MANY, Arm, headrace, raw
from tests.bench.passthrough.run import Sample, run
from tests.bench.passthrough.scene import BenchScene, numbers_of

WORKERS = (1, 2, 4)
PARTITIONS = (1, 4, 16, 64)
SIZES = (
    (1, "100 B", MANY),
    (218, "1 kB", MANY),
    (2_475, "10 kB", 20_000),
    (24_975, "100 kB", 3_000),
    (249_900, "1 MB", 300),
)
"""Numbers in an event, the record's size, and how many records."""
BACKLOG = 1_000_000
SMOKE_RECORDS = 300
RAW_RECORDS = 1_024


@dataclass(frozen=True, slots=True)
class Row:
    """One point of a sweep."""

    sweep: str
    point: str
    arm: Arm
    records: int
    samples: tuple[Sample, ...]


def points() -> list[tuple[str, str, Arm, int]]:
    """Sweep, point, arm and records."""
    pair = (headrace(), raw("raw", RAW_RECORDS))
    found = [("workers", str(workers), replace(headrace(), workers=workers), MANY) for workers in WORKERS]
    found += [
        ("partitions", str(partitions), replace(arm, partitions=partitions), MANY)
        for partitions in PARTITIONS
        for arm in pair
    ]
    found += [
        ("record size", size, replace(arm, load=numbers_of(floats, f"size-{floats}")), records)
        for floats, size, records in SIZES
        for arm in pair
    ]
    return [*found, ("backlog", f"{BACKLOG:,}", headrace(), BACKLOG)]


def sweep(scene: BenchScene, repetitions: int, smoke: bool) -> tuple[Row, ...]:
    """Raises AssertionError if something was lost or doubled."""
    found = []
    for number, (name, point, arm, records) in enumerate(points()):
        count = min(records, SMOKE_RECORDS) if smoke else records
        times = 1 if name == "backlog" else repetitions
        samples = tuple(run(scene, arm, f"sweep-{number}-{again}", count) for again in range(times))
        print(f"{name} {point} {arm.name}: {samples}", file=sys.stderr, flush=True)
        assert all(each.exact for each in samples), f"{name} {point} {arm.name}: {samples}"
        found.append(Row(name, point, arm, count, samples))
    return tuple(found)


def table(rows: Sequence[Row]) -> list[str]:
    """In Markdown."""
    lines = ["| | | program | records/s, median (range) | visible after, p50 / p99 |", "|---|---|---|---|---|"]
    for row in rows:
        rates = [each.records_per_second for each in row.samples]
        visible = (
            statistics.median(each.visible_p50_ms for each in row.samples),
            statistics.median(each.visible_p99_ms for each in row.samples),
        )
        lines.append(
            f"| {row.sweep} | {row.point} | {row.arm.title} | {statistics.median(rates):,.0f} ({min(rates):,.0f} to "
            f"{max(rates):,.0f}) | {visible[0]:,.0f} / {visible[1]:,.0f} ms |"
        )
    return lines
