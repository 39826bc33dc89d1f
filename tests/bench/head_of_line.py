"""Head of line: what the others wait when one record of a hundred takes a second.

Run: ``python -m tests.bench.head_of_line``. Prints the table of docs/guarantees.md. A worker, a broker and Triton's
delay model, records at a steady rate, 10,000 keys. Each ordering is run undisturbed and disturbed in turn, so that the
machine's moods meet both; of a disturbed run only the quick records count. Latency is from ``produce`` to a
``read_committed`` consumer, in the same process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.state import Endpoints
from tests.bench.steady import SteadyLoad, percentile
from tests.integration.avro_ends import delayed
from tests.integration.harness import Scene

ORDERINGS = ("key", "none", "partition")
SLOW_EVERY = 100
SLOW_MS = 1000.0
RATE = 100.0
WARM_SECONDS = 5.0
RESOLUTION_SECONDS = 0.01


def settings(ordering: str, batch_records: int) -> dict[str, Any]:
    route = {
        "name": "delay",
        "model": "delay",
        "match": {"modality": ["TENSOR"]},
        "ordering": ordering,
        "batch": {"max_records": batch_records},
        "max_concurrency": 4,  # as many as the model has instances
    }
    return {"routes": [route]}


def latencies(load: SteadyLoad, scene: Scene, seconds: float, disturbed: bool) -> list[float]:
    """Of the quick records, in seconds."""
    count = int(seconds * RATE)
    slow = range(SLOW_EVERY // 2, count, SLOW_EVERY) if disturbed else range(0)
    values = [scene.value(delayed(SLOW_MS if number in slow else 0.0, float(number))) for number in range(count)]
    return load.latencies(values, slow)


def measure(
    endpoints: Endpoints, folder: Path, seconds: float, repetitions: int, batch_records: int
) -> dict[str, dict[bool, list[float]]]:
    """p99 in milliseconds of each repetition, by ordering and whether it was disturbed."""
    found: dict[str, dict[bool, list[float]]] = {name: {False: [], True: []} for name in ORDERINGS}
    medians: dict[str, dict[bool, list[float]]] = {name: {False: [], True: []} for name in ORDERINGS}
    for ordering in ORDERINGS:
        place = folder / ordering
        place.mkdir()
        with Scene(endpoints, f"line-{ordering}", place, **settings(ordering, batch_records)) as scene:
            scene.worker()
            load = SteadyLoad(scene, RATE, RESOLUTION_SECONDS)
            latencies(load, scene, WARM_SECONDS, True)
            for _ in range(repetitions):
                for disturbed in (False, True):
                    quick = latencies(load, scene, seconds, disturbed)
                    found[ordering][disturbed].append(percentile(quick, 0.99) * 1000)
                    medians[ordering][disturbed].append(percentile(quick, 0.5) * 1000)
                print(ordering, *(f"{found[ordering][each][-1]:.1f}" for each in (False, True)), flush=True)
    print("| ordering | p50 undisturbed | p50 disturbed | p99 undisturbed | p99 disturbed | ratio of p99 (each pair) |")
    print("|---|---|---|---|---|---|")
    for ordering, arms in found.items():
        ratios = [with_slow / without for without, with_slow in zip(arms[False], arms[True], strict=True)]
        cells = [statistics.median(each) for each in (*medians[ordering].values(), *arms.values())]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| `{ordering}` | " + " | ".join(f"{cell:.1f} ms" for cell in cells) + f" | {spread} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="of each run")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batch-records", type=int, default=1, help="1: a quick record never shares a slow one's call")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stack() as stack:
        measure(stack.endpoints, Path(folder), options.seconds, options.repetitions, options.batch_records)


if __name__ == "__main__":
    main()
