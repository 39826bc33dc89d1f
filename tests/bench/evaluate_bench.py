"""How long a comparison of a million events takes, and how much memory.

Run: ``python -m tests.bench.evaluate_bench``. The tables are made up: a candidate and a baseline with five labels an
answer, a tenth of them with a vector, too; what should have been answered of each; 3 routes, 1,000 keys, 20 sources.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import duckdb

from headrace.pipeline.evaluate.analysis import AnalysisRequest, analyse
from headrace.pipeline.evaluate.compare import Files
from headrace.pipeline.evaluate.store import connect

EVENTS = 1_000_000
PARTITIONS = 8
ELEMENTS = 32
CLASSES = 100
WRONG = {"candidate": 0.12, "baseline": 0.10}
REFUSED = 0.001

_PLACE = f"'requests' AS topic, (i % {PARTITIONS})::INTEGER AS partition, i // {PARTITIONS} AS \"offset\", 'p' AS part"


def chance(salt: str) -> str:
    """From 0 to 1, of an event: always the same."""
    return f"((hash(i, '{salt}') >> 11) / 9007199254740992.0)"


def truth() -> str:
    return f"floor({chance('truth')} * {CLASSES})::INTEGER"


def write(database: duckdb.DuckDBPyConnection, path: Path, columns: str, events: int, where: str = "true") -> Path:
    database.execute(f"COPY (SELECT {columns} FROM range({events}) t(i) WHERE {where}) TO '{path}' (FORMAT parquet)")
    return path


def answers(side: str) -> str:
    wrong = f"{chance(side)} < {WRONG[side]}"
    best = f"'class-' || CASE WHEN {wrong} THEN ({truth()} + 1) % {CLASSES} ELSE {truth()} END"
    score = f"0.5 + 0.5 * {chance(side + 'score')}"
    others = ", ".join(f"{{'name': 'class-{other}', 'score': (1 - ({score})) / {other + 1}}}" for other in range(1, 5))
    vector = ", ".join(
        f"({chance(f'v{place}')} + 0.02 * {chance(f'{side}{place}')})::FLOAT" for place in range(ELEMENTS)
    )
    kind = "{'name': 'EMBEDDING', 'values': [" + vector + "]}"
    return f"""{_PLACE}, 'route-' || i % 3 AS route, 'model' AS model, '1' AS version,
        [{{'name': {best}, 'score': {score}}}, {others}] AS labels, NULL::VARCHAR AS text,
        []::STRUCT(start DOUBLE, "end" DOUBLE, label VARCHAR)[] AS segments,
        CASE WHEN i % 10 = 0 THEN [{kind}] ELSE [] END AS tensors,
        5 * -ln(1 - {chance(side + "w")}) AS waiting_ms, 20 - 10 * ln(1 - {chance(side + "t")}) AS inference_ms,
        8 AS batch_size, 1 AS parts"""


def make(folder: Path, events: int) -> Files:
    event = f"""{_PLACE}, ['IMAGE', 'TEXT', 'AUDIO'][1 + i % 3] AS modality, 'image/jpeg' AS content_type,
        uuid()::VARCHAR AS id, 'type' AS type, 'camera-' || i % 20 AS source, 'key-' || i % 1000 AS key,
        1700000000000 + i * 20 AS time_ms, MAP {{'tenant': 'tenant-' || i % 5}} AS headers"""
    refused = f"{chance('refused')} < {REFUSED}"
    answered = f"NOT {refused}"
    with duckdb.connect(config={"threads": 2, "memory_limit": "1GB", "temp_directory": str(folder)}) as database:
        return Files(
            write(database, folder / "events", event, events),
            write(database, folder / "candidate", answers("candidate"), events, answered),
            write(database, folder / "baseline", answers("baseline"), events),
            write(
                database,
                folder / "truths",
                f"{_PLACE}, NULL::VARCHAR AS id, '' AS route, 'class-' || {truth()} AS label",
                events,
            ),
            write(database, folder / "failures", f"{_PLACE}, 'infer' AS stage, 'CODE' AS code", events, refused),
            write(database, folder / "none", f"{_PLACE}, 'infer' AS stage, 'CODE' AS code", 0),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--folder", type=Path, help="tables that are there are used again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        files = make(folder, options.events)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, busy = time.monotonic(), time.process_time()
        with connect(folder / "spill") as database:
            found = analyse(database, files, folder, AnalysisRequest("candidate", "baseline", ("header.tenant",)))
        seconds, busy = time.monotonic() - began, time.process_time() - busy
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"{found.events:,} events, {len(found.measures):,} measures: {seconds:.1f} s ({busy:.1f} s of processors),"
            f" peak {peak / 1024:,.0f} MiB (before: {before / 1024:,.0f})"
        )


if __name__ == "__main__":
    main()
