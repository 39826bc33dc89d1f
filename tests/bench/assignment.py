"""Eager against cooperative assignment: how long partitions go without a result when workers come and go.

Run: ``python -m tests.bench.assignment [--delay-ms N] [--batch-records N] [--repetitions N]``. Prints a
table of docs/decisions/012-group-assignment.md. Two real workers under a steady load; a third joins, leaves by SIGTERM,
and one of the two is killed and restarted within its session. The modes take turns, on one stack.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from confluent_kafka import Consumer, Producer, TopicPartition

from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.state import Endpoints
from headrace.pipeline.config import Assignment
from tests.integration.avro_ends import delayed, event, numbers
from tests.integration.harness import Scene, WorkerProcess, wait_until

PARTITIONS = 12
RATE = 300
WARM_SECONDS = 3.0
AFTER_SECONDS = 3.0
"""Watched after an event is over."""
SESSION_SECONDS = 30.0
"""Long enough for a restart on two busy cores."""
EVENTS = ("a third joins", "it leaves (SIGTERM)", "SIGKILL, restarted in its slot")


@dataclass(slots=True)
class Watch:
    """When results of each request partition became visible to a read_committed reader, in monotonic seconds."""

    seen: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def gaps(self, began: float, ended: float) -> list[float]:
        """Each partition's longest time without a result in this time, in seconds."""
        found = []
        for partition in range(PARTITIONS):
            times = [began, *(each for each in list(self.seen[partition]) if began <= each <= ended), ended]
            found.append(max(later - earlier for earlier, later in itertools.pairwise(times)))
        return found


@dataclass(frozen=True, slots=True)
class Load:
    """Events for the identity model or, with a delay, for the one that takes so long over a batch.

    The delay model has four instances: with calls of 500 ms and batches of 64 they take 512 events/s, of 16 128.
    """

    delay_ms: int
    batch_records: int


def routes(batch_records: int) -> list[dict[str, Any]]:
    return [
        {
            "name": model,
            "model": model,
            "match": {"modality": ["TENSOR"], "explicit": model == "delay"},
            "batch": {"max_records": batch_records},
        }
        for model in ("delay", "identity")
    ]


@contextmanager
def threads(*targets: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run these until the end of the block."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def run(target: Callable[[threading.Event], None]) -> None:
        try:
            target(stop)
        except BaseException as error:  # noqa: BLE001 - raised again by the block's end
            failed.append(error)

    running = [threading.Thread(target=run, args=(target,)) for target in targets]
    for each in running:
        each.start()
    try:
        yield
    finally:
        stop.set()
        for each in running:
            each.join()
    if failed:
        raise failed[0]


def send_steadily(scene: Scene, load: Load, stop: threading.Event) -> None:
    producer = Producer({"bootstrap.servers": scene.endpoints.bootstrap_servers, "linger.ms": 2})
    value = scene.value(delayed(load.delay_ms, 1.0) if load.delay_ms else event(numbers(1.0)))
    began, number = time.monotonic(), 0
    while not stop.wait(0.01):
        while number < (time.monotonic() - began) * RATE:
            producer.produce(scene.requests, value, b"%d" % number, number % PARTITIONS)
            number += 1
        producer.poll(0)
    assert producer.flush(30) == 0


def read_on(scene: Scene, watch: Watch, stop: threading.Event) -> None:
    reader = Consumer(
        {
            "bootstrap.servers": scene.endpoints.bootstrap_servers,
            "group.id": f"{scene.group}-reader",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 20,
        }
    )
    try:
        reader.assign([TopicPartition(scene.results, partition, 0) for partition in range(PARTITIONS)])
        while not stop.is_set():
            records = reader.consume(200, 0.02)
            now = time.monotonic()
            for record in records:
                if not record.error():
                    where = scene.registry.decode(cast("bytes", record.value()))["provenance"]
                    watch.seen[where["partition"]].append(now)
    finally:
        reader.close()


def run(endpoints: Endpoints, mode: Assignment, number: int, load: Load) -> dict[str, list[float]]:
    """Gaps by event."""
    gaps: dict[str, list[float]] = {}
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(
            endpoints,
            f"assignment-{os.getpid()}-{number}-{mode.value}",
            Path(folder),
            kafka={"assignment": mode.value, "session_timeout_seconds": SESSION_SECONDS},
            topics={"partitions": PARTITIONS},
            routes=routes(load.batch_records),
        )
        with scene:
            workers = [scene.worker(slot, wait=False) for slot in (0, 1)]
            for each in workers:
                each.wait_ready()
            scene.wait_shared(0, 1)
            with threads(lambda stop: send_steadily(scene, load, stop), lambda stop: read_on(scene, watch, stop)):
                wait_until(lambda: len(watch.seen) == PARTITIONS, 30, "results of every partition")
                time.sleep(WARM_SECONDS)
                third = scene.worker(2, wait=False)
                # From when it joins: what its start costs on few cores is not the assignment's.
                wait_until(lambda: "slot 2 of" in third.log, 60, "the third to join")
                gaps[EVENTS[0]] = watched(watch, lambda: scene.wait_shared(0, 1, 2))
                gaps[EVENTS[1]] = watched(watch, lambda: leave(scene, third))
                gaps[EVENTS[2]] = watched(watch, lambda: restart(workers[1]))
    return gaps


def leave(scene: Scene, worker: WorkerProcess) -> None:
    worker.terminate()
    scene.wait_shared(0, 1)


def restart(worker: WorkerProcess) -> None:
    worker.kill()
    worker.start()
    worker.wait_ready()


def watched(watch: Watch, happen: Callable[[], object]) -> list[float]:
    """The gaps of what happens, from its beginning until all flows again."""
    began = time.monotonic()
    happen()
    time.sleep(AFTER_SECONDS)
    return watch.gaps(began, time.monotonic())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay-ms", type=int, default=0)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batch-records", type=int, default=64)
    options = parser.parse_args()
    load = Load(options.delay_ms, options.batch_records)
    results: dict[tuple[str, Assignment], list[list[float]]] = defaultdict(list)
    with Stack() as stack:
        for number in range(options.repetitions):
            for mode in list(Assignment)[:: -1 if number % 2 else 1]:
                busy = os.getloadavg()[0]
                for name, gaps in run(stack.endpoints, mode, number, load).items():
                    results[name, mode].append(gaps)
                    print(
                        f"{number + 1} {mode.value:18} {name:32} max {max(gaps):6.2f} s  median "
                        f"{statistics.median(gaps):6.2f} s  load {busy:.1f}",
                        file=sys.stderr,
                        flush=True,
                    )
    print("| event | assignment | longest gap, worst partition | median partition |")
    print("|---|---|---|---|")
    for name in EVENTS:
        for mode in Assignment:
            cells = [_cell([of(gaps) for gaps in results[name, mode]]) for of in (max, statistics.median)]
            print(f"| {name} | {mode.value} | {cells[0]} | {cells[1]} |")


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
