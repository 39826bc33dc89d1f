"""How long a partition waits until the ids that had results are restored: KafkaChangelog on an embedded broker.

Run: ``python -m tests.bench.restore``; ``--quick`` has a tenth of the ids. Prints the table of
docs/decisions/018-idempotency.md, and what a remembered id takes of memory.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Producer

from headrace.connectors.embedded.downloads import Downloads
from headrace.connectors.embedded.kafka import KafkaServer
from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.kafka.admin import ensure_topics
from headrace.connectors.kafka.changelog import KafkaChangelog
from headrace.pipeline.idempotency import PartitionIds, Seen, decode_seen, encode_seen, key_of
from headrace.pipeline.records import SourceRecord, TopicPartition, TopicSpec

IDS = 100_000
CASES = ((1, 100), (1, 1000), (8, 1000))
"""Partitions with so many ids each, and how many ids each transaction has."""
TIMES_MORE = 5
"""So many times the ids that are kept are in the topic, as in one that has been in use for long."""
REPETITIONS = 5


def fill(where: str, topic: str, partitions: int, ids: int, in_one: int) -> None:
    producer = Producer({"bootstrap.servers": where, "transactional.id": topic, "linger.ms": 5})
    producer.init_transactions(30)
    for start in range(0, ids, in_one):
        producer.begin_transaction()
        for offset in range(start, min(ids, start + in_one)):
            for partition in range(partitions):
                key, value = key_of(str(uuid.uuid4())), encode_seen(Seen(offset, offset))
                producer.produce(topic, value, key, partition)
        producer.commit_transaction(30)


async def restored(where: str, topic: str, partitions: int, ids: int) -> tuple[float, int]:
    """Seconds, and how many ids they were."""
    known = {TopicPartition("requests", number): PartitionIds[None](ids) for number in range(partitions)}

    def taking(into: PartitionIds[None]) -> Callable[[SourceRecord], None]:
        return lambda record: into.note(record.key or b"", decode_seen(record.value))

    changelog = KafkaChangelog(where, {}, "bench", {"requests": topic}, 600.0)
    began = time.perf_counter()
    await changelog.restore({at: taking(into) for at, into in known.items()}, ids)
    return time.perf_counter() - began, sum(map(len, known.values()))


def bytes_of_an_id(ids: int) -> float:
    tracemalloc.start()
    known = PartitionIds[None](ids)
    for offset in range(ids):
        known.note(key_of(str(uuid.uuid4())), Seen(1_800_000_000_000 + offset, offset))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken / ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the ids, once")
    quick = parser.parse_args().quick
    ids, repetitions = (IDS // 10, 1) if quick else (IDS, REPETITIONS)
    classpath = Downloads(cache_dir(), Progress()).kafka_classpath()
    with (
        PortReservation() as ports,
        tempfile.TemporaryDirectory() as folder,
        KafkaServer(Path(folder), classpath, ports.take(), ports.take()) as server,
    ):
        where = server.bootstrap_servers
        print("| partitions | ids in each | ids in a transaction | seconds | ids/s |\n|---|---|---|---|---|")
        for partitions, in_one in CASES:
            topic = f"seen-{partitions}-{in_one}"
            ensure_topics(where, [TopicSpec(topic, partitions)])
            fill(where, topic, partitions, TIMES_MORE * ids, in_one)
            took = []
            for _ in range(repetitions):
                seconds, found = asyncio.run(restored(where, topic, partitions, ids))
                assert found == partitions * ids
                took.append(seconds)
            middle = statistics.median(took)
            spread = f"{middle:.2f} ({min(took):.2f} to {max(took):.2f})"
            print(f"| {partitions} | {ids:,} | {in_one} | {spread} | {partitions * ids / middle:,.0f} |")
    print(f"\nmemory of an id: {bytes_of_an_id(ids):.0f} bytes")


if __name__ == "__main__":
    main()
