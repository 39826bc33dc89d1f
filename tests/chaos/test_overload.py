"""One lane gets ten times what its model does: nothing is lost or doubled, memory is bounded, the other lane flows.

``make chaos`` floods it for a minute, ``make chaos-long`` for ten (``HEADRACE_CHAOS_OVERLOAD_SECONDS``). What the other
lane waits is measured, not tested: ``build/chaos-overload.json`` tells.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.records import TopicSpec
from tests.bench.steady import percentile
from tests.chaos.lanes import Lane, Outcomes, resident_bytes
from tests.integration.avro_ends import Datum, Position, event, numbers
from tests.integration.harness import Scene, WorkerProcess, wait_until

REPORT = Path(__file__).parents[2] / "build" / "chaos-overload.json"
SECONDS = 60.0
LONG_SECONDS = 600.0
UNDISTURBED_SECONDS = 30.0
TIMES = 10.0
LANES = ("bulk", "urgent")
URGENT_RATE = 20.0
URGENT_MS = 5
BATCH_RECORDS = 8
BULK_CALLS = 2
"""Infer calls of the flooded lane at a time: half of what the model can do, for both lanes share it."""
BULK_MS = 240
"""Of a call, while the flood lasts; then none, or what it leaves would take ten times as long to be answered."""
MEASURED_RECORDS = 16 * BULK_CALLS * BATCH_RECORDS
BULK_FLOATS = 2000
MAX_IN_FLIGHT_BYTES = 24 * 1024 * 1024
CLIENT_QUEUE_BYTES = 16 * 1024 * 1024
"""What the worker's Kafka client may hold beside that (``queued.max.messages.kbytes``)."""
HELD_TIMES = 2
"""What is in flight is in memory as a record, and as the content of a call or of a result."""
FLAT = 1.15
LOOK_SECONDS = 0.5


def bulk_event(until: float | None = None) -> Datum:
    parameters: dict[str, Any] = {"delay_ms": BULK_MS}
    if until is not None:
        parameters["delay_until_ms"] = int(1000 * until)
    return event(numbers(*[1.0] * BULK_FLOATS), parameters=parameters)


def milliseconds(lane: Lane, outcomes: Outcomes, positions: Iterable[Position]) -> dict[str, float]:
    """From ``produce`` until a reader sees the outcome."""
    found = [1000 * (outcomes.seen_at[position] - lane.sent_at[position]) for position in positions]
    return {"p50_ms": round(percentile(found, 0.5), 1), "p99_ms": round(percentile(found, 0.99), 1)}


class Looks:
    """What the worker holds, looked at while the flood lasts."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self.resident: list[int] = []
        self.in_flight: list[float] = []

    def until(self, over: Callable[[], bool]) -> None:
        while not over():
            self.resident.append(resident_bytes(self._worker.pid))
            self.in_flight.append(self._worker.metric("headrace_in_flight_bytes"))
            time.sleep(LOOK_SECONDS)

    @property
    def thirds(self) -> tuple[int, int]:
        """The most that was resident in the first third of the time, and in the last."""
        third = len(self.resident) // 3
        return max(self.resident[:third]), max(self.resident[-third:])


@pytest.fixture
def scene(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> Scene:
    prefix = names("scene")
    lanes = {name: f"{prefix}.{name}" for name in LANES}
    ensure_topics(stack.bootstrap_servers, [TopicSpec(topic, 4) for topic in lanes.values()])
    route = {"model": "delay", "match": {"modality": ["TENSOR"]}, "batch": {"max_records": BATCH_RECORDS}}
    return Scene(
        stack,
        prefix,
        tmp_path,
        routes=[
            {**route, "name": "bulk", "topics": [lanes["bulk"]], "max_concurrency": BULK_CALLS},
            {**route, "name": "urgent", "topics": [lanes["urgent"]]},
        ],
        topics={"requests": list(lanes.values())},
        worker={"max_in_flight_bytes": MAX_IN_FLIGHT_BYTES},
    )


def flood(scene: Scene, worker: WorkerProcess, outcomes: Outcomes, seconds: float) -> dict[str, Any]:
    """Undisturbed first, then flooded, then until all is answered. The numbers of it."""
    servers = scene.endpoints.bootstrap_servers
    bulk_topic, urgent_topic = (f"{scene.group}.{name}" for name in LANES)
    measured = Lane(servers, bulk_topic, scene.value(bulk_event()))
    urgent = Lane(servers, urgent_topic, scene.value(event(numbers(1.0), parameters={"delay_ms": URGENT_MS})))

    began = time.monotonic()
    outcomes.wait(measured.send(10_000, MEASURED_RECORDS), 60)
    capacity = MEASURED_RECORDS / (time.monotonic() - began)

    undisturbed = urgent.send(URGENT_RATE, int(URGENT_RATE * UNDISTURBED_SECONDS))
    outcomes.wait(undisturbed, 30)

    before = resident_bytes(worker.pid)
    bulk = Lane(servers, bulk_topic, scene.value(bulk_event(time.time() + seconds)))
    looks = Looks(worker)
    with ThreadPoolExecutor(2) as pool:
        flooding = pool.submit(bulk.send, TIMES * capacity, int(TIMES * capacity * seconds))
        flowing = pool.submit(urgent.send, URGENT_RATE, int(URGENT_RATE * seconds))
        looks.until(flooding.done)
        flooded, disturbed = flooding.result(), flowing.result()
    backlog = sum(position not in outcomes.seen_at for position in flooded)
    began = time.monotonic()
    outcomes.wait([*flooded, *disturbed], 60 + 2 * seconds)
    drain_seconds = time.monotonic() - began
    wait_until(lambda: not scene.lag(bulk_topic) and not scene.lag(urgent_topic), 30, "all offsets to be committed")

    calm, stormy = (milliseconds(urgent, outcomes, each) for each in (undisturbed, disturbed))
    first, last = looks.thirds
    return {
        "seconds": seconds,
        "bulk_capacity_per_s": round(capacity, 1),
        "bulk_sent": len(flooded),
        "bulk_backlog": backlog,
        "drain_s": round(drain_seconds, 1),
        "urgent_sent": len(disturbed),
        "undisturbed": calm,
        "disturbed": stormy,
        "p50_ratio": round(stormy["p50_ms"] / calm["p50_ms"], 2),
        "p99_ratio": round(stormy["p99_ms"] / calm["p99_ms"], 2),
        "resident_bytes_before": before,
        "resident_bytes_first_third": first,
        "resident_bytes_last_third": last,
        "resident_bytes_most": max(looks.resident),
        "in_flight_bytes_most": int(max(looks.in_flight)),
        "inputs": len(measured.sent_at) + len(urgent.sent_at) + len(bulk.sent_at),
        "without_outcome": len(
            (measured.sent_at.keys() | urgent.sent_at.keys() | bulk.sent_at.keys()) - outcomes.seen_at.keys()
        ),
    }


@pytest.mark.timeout(300 + 4 * LONG_SECONDS)
def test_flooded_lane_costs_the_other_nothing_and_the_worker_no_memory(scene: Scene) -> None:
    seconds = float(os.environ.get("HEADRACE_CHAOS_OVERLOAD_SECONDS") or SECONDS)
    with scene:
        worker = scene.worker()
        with Outcomes(scene.endpoints.bootstrap_servers, (scene.results, scene.dead_letters)) as outcomes:
            report = flood(scene, worker, outcomes, seconds)
            generations = re.findall(r"\(generation (\d+)\)", worker.log)
            hung = re.findall(r".*REQTMOUT.*", worker.log)
            put_out = re.findall(r"revoked.*|lost \d+ partitions.*", worker.log)
            assert worker.terminate() == 0
            outcomes.read_to_ends()
        report |= {
            "outcomes": sum(outcomes.by_topic.values()),
            "dead_letters": outcomes.by_topic[scene.dead_letters],
            "doubled": outcomes.again.total(),
            "generations": len(generations),
        }
    text = json.dumps(report, indent=2)
    print(text, file=sys.stderr)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(text + "\n")

    assert report["without_outcome"] == report["doubled"] == report["dead_letters"] == 0
    assert report["outcomes"] == report["inputs"]
    assert (generations, put_out) == (["1"], []), "the group has put the worker out"
    assert hung == [], "its client has closed a connection to a broker that is well"
    assert report["bulk_backlog"] > report["bulk_sent"] / 2, "the lane was not overloaded"
    assert report["resident_bytes_last_third"] <= FLAT * report["resident_bytes_first_third"]
    assert 0 < report["in_flight_bytes_most"] <= MAX_IN_FLIGHT_BYTES
    grown = report["resident_bytes_most"] - report["resident_bytes_before"]
    assert grown <= HELD_TIMES * MAX_IN_FLIGHT_BYTES + CLIENT_QUEUE_BYTES
