"""Head of line: what the others wait when one record of a hundred takes a second.

Run: ``python -m tests.bench.head_of_line``. Prints the table of docs/guarantees.md. A worker, a broker and Triton's
delay model, records at a steady rate, 10,000 keys. Each ordering is run undisturbed and disturbed in turn, so that the
machine's moods meet both; of a disturbed run only the quick records count. Latency is from ``produce`` to a
``read_committed`` consumer, in the same process.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, cast

from confluent_kafka import Producer

from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.state import Endpoints
from tests.integration.avro_ends import delayed
from tests.integration.harness import Scene

ORDERINGS = ("key", "none", "partition")
KEYS = 10_000
SLOW_EVERY = 100
SLOW_MS = 1000.0
RATE = 100.0
TAIL_SECONDS = 3.0
"""After the last record is sent: for the answers of the slow ones."""


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


class Run:
    """Sends records for so long, and notes when the answer of each quick one is seen."""

    def __init__(self, scene: Scene, producer: Producer, seconds: float, disturbed: bool, rng: random.Random) -> None:
        self._scene = scene
        self._producer = producer
        self._count = int(seconds * RATE)
        self._slow = range(SLOW_EVERY // 2, self._count, SLOW_EVERY) if disturbed else range(0)
        self._rng = rng
        self._sent_at: dict[int, float] = {}
        self._values = {
            number: scene.value(delayed(SLOW_MS if number in self._slow else 0.0, float(number)))
            for number in range(self._count)
        }
        self.latencies: list[float] = []

    def carry_out(self) -> list[float]:
        """Latencies of the quick records, in seconds."""
        before = len(self._scene.answers)
        sender = threading.Thread(target=self._send)
        sender.start()
        try:
            deadline = time.monotonic() + self._count / RATE + TAIL_SECONDS + 30
            while len(self._scene.answers) < before + self._count:
                fresh = self._scene.read(0.01)
                now = time.monotonic()
                for answer in fresh:
                    number = int(cast("bytes", answer.header("correlation_id")))
                    if number not in self._slow:
                        self.latencies.append(now - self._sent_at[number])
                assert now < deadline, "not all are answered"
        finally:
            sender.join()
        return self.latencies

    def _send(self) -> None:
        began = time.monotonic()
        for number in range(self._count):
            if (left := began + number / RATE - time.monotonic()) > 0:
                time.sleep(left)
            key = b"k%d" % self._rng.randrange(KEYS)
            self._sent_at[number] = time.monotonic()
            self._producer.produce(
                self._scene.requests, self._values[number], key, headers=[("correlation_id", b"%d" % number)]
            )
            self._producer.poll(0)
        self._producer.flush(30)


def percentile(latencies: list[float], share: float) -> float:
    return sorted(latencies)[int(share * (len(latencies) - 1))]


def measure(
    endpoints: Endpoints, folder: Path, seconds: float, repetitions: int, batch_records: int
) -> dict[str, dict[bool, list[float]]]:
    """p99 in milliseconds of each repetition, by ordering and whether it was disturbed."""
    found: dict[str, dict[bool, list[float]]] = {name: {False: [], True: []} for name in ORDERINGS}
    medians: dict[str, dict[bool, list[float]]] = {name: {False: [], True: []} for name in ORDERINGS}
    rng = random.Random(1)
    for ordering in ORDERINGS:
        place = folder / ordering
        place.mkdir()
        with Scene(endpoints, f"line-{ordering}", place, **settings(ordering, batch_records)) as scene:
            scene.worker()
            producer = Producer(
                {"bootstrap.servers": endpoints.bootstrap_servers, "enable.idempotence": True, "linger.ms": 0}
            )
            Run(scene, producer, 5, True, rng).carry_out()  # to be warm
            for _ in range(repetitions):
                for disturbed in (False, True):
                    latencies = Run(scene, producer, seconds, disturbed, rng).carry_out()
                    found[ordering][disturbed].append(percentile(latencies, 0.99) * 1000)
                    medians[ordering][disturbed].append(percentile(latencies, 0.5) * 1000)
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
