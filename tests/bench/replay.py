"""Replay beside live: how fast each answers the same backlog with the same model, in turn, on one machine.

Run: ``python -m tests.bench.replay``. A worker of a group that has committed nothing, and a replay, go through the same
topic; of each the rate is that of its results' timestamps, the first tenth left out.
Prints the table in docs/replay.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.records import TopicSpec
from tests.integration.avro_ends import DATA, Datum, event, image, numbers, text
from tests.integration.harness import Scene, wait_until
from tests.integration.replays import Replays

PARTITIONS = 4
PHOTO = (DATA / "photos" / "cat.jpg").read_bytes()
LEFT_OUT = 0.1
LOADS: Mapping[str, tuple[int, Any]] = {
    "identity": (40_000, lambda index: event(numbers(index))),
    "text_embedding": (3_000, lambda index: event(text(f"sentence number {index} of many, none of them long"))),
    "image_jpeg": (1_000, lambda index: event(image(PHOTO))),
}
"""Model → how many events, and which."""
MANY_SECONDS = 300


def events(make: Any, count: int) -> list[Datum]:
    return [make(index) for index in range(count)]


def rate_of(bootstrap_servers: str, topic: str, count: int) -> float:
    """Records a second in a topic by their timestamps, once it holds so many."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "bench",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    known = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, each, OFFSET_BEGINNING) for each in known])
    times: list[int] = []
    try:
        deadline = time.monotonic() + MANY_SECONDS
        while len(times) < count:
            assert time.monotonic() < deadline, f"{topic} holds {len(times)} of {count}"
            for record in consumer.consume(10_000, 0.2):
                error = record.error()
                assert error is None or error.code() == KafkaError._PARTITION_EOF, error
                if error is None:
                    times.append(record.timestamp()[1])
    finally:
        consumer.close()
    times.sort()
    first = int(count * LEFT_OUT)
    return (count - first) / ((times[-1] - times[first]) / 1000)


def live(endpoints: Endpoints, folder: Path, requests: str, name: str, count: int) -> float:
    """A worker of a new group, through the whole topic."""
    folder.mkdir()
    topics = {"requests": [requests], "partitions": PARTITIONS}
    with Scene(endpoints, name, folder, topics=topics) as scene:
        scene.worker(wait=False)
        wait_until(lambda: scene.results in _topics(endpoints), 60, "the topic of results")
        rate = rate_of(endpoints.bootstrap_servers, scene.results, count)
        scene.close()
    return rate


def _topics(endpoints: Endpoints) -> Any:
    return AdminClient({"bootstrap.servers": endpoints.bootstrap_servers}).list_topics(timeout=10).topics


def replayed(endpoints: Endpoints, folder: Path, requests: str, name: str, count: int) -> float:
    """A replay of the whole topic."""
    folder.mkdir()
    scene = Replays(endpoints, name, folder, topics={"partitions": PARTITIONS})
    with scene:
        outcome = scene.replay(requests, "--run", "r")
        assert outcome["results"] == count, outcome
        return rate_of(endpoints.bootstrap_servers, outcome["results_topic"], count)


def measure(endpoints: Endpoints, folder: Path, repetitions: int) -> None:
    print("| model | live | replay | ratio (each pair) |")
    print("|---|---|---|---|")
    for model, (count, make) in LOADS.items():
        place = folder / model
        place.mkdir()
        with Scene(endpoints, f"fill-{model}", place) as scene:
            ensure_topics(endpoints.bootstrap_servers, [TopicSpec(scene.requests, PARTITIONS)])
            scene.send_events(events(make, count))
            requests = scene.requests
        arms: tuple[list[float], list[float]] = ([], [])
        for number in range(repetitions):
            for rates, arm in zip(arms, (live, replayed), strict=True):
                name = f"{arm.__name__}-{model}-{number}"
                rates.append(arm(endpoints, folder / name, requests, name, count))
        ratios = [after / before for before, after in zip(*arms, strict=True)]
        cells = [f"{statistics.median(rates):,.0f}/s" for rates in arms]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| `{model}` | {cells[0]} | {cells[1]} | {spread} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stack() as stack:
        measure(stack.endpoints, Path(folder), options.repetitions)


if __name__ == "__main__":
    main()
