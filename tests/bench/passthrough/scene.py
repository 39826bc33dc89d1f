"""The one broker and registry of a comparison, and the same records for every arm."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient

from headrace.connectors.embedded.downloads import Downloads
from headrace.connectors.embedded.kafka import KafkaServer
from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.registry import RegistryServer
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.records import TopicSpec
from tests.integration.avro_ends import Datum, Registry, encode, event, numbers
from tests.integration.foreign_producer import register

PARTITIONS = 8
KEYS = 10_000
FLOATS = 218
"""Of each event's tensor, so that its record has 1,000 bytes."""
UNFLUSHED = 20_000
HEAP = ("-Xmx2g", "-Xmn1600m")
"""Of the broker: with the embedded stack's 512 MiB it collects its garbage every second or two, for some 30 ms."""
COMPILER = ("-XX:TieredStopAtLevel=4", "-XX:ReservedCodeCacheSize=240m")
"""As brokers have it in production: the embedded stack's own compiles less, for it is to start soon."""


@dataclass(frozen=True, slots=True)
class Load:
    """Events of one kind.

    Attributes:
        name: part of the topic's.
        make: one of them, from chance.
    """

    name: str
    make: Callable[[random.Random], Datum]


def numbers_of(floats: int, name: str) -> Load:
    """Events with a tensor of so many numbers."""
    return Load(name, lambda chance: event(numbers(*(chance.random() for _ in range(floats)))))


NUMBERS = numbers_of(FLOATS, "numbers")


@dataclass(frozen=True, slots=True)
class Ids:
    """Of the schemas."""

    request: int
    result: int


@dataclass(frozen=True, slots=True)
class Requests:
    """A topic of requests.

    Attributes:
        topic: its name.
        count: records in it.
        ends: by topic and partition: what a group commits that has read it all.
        mean_bytes: of a value.
    """

    topic: str
    count: int
    ends: Mapping[tuple[str, int], int]
    mean_bytes: float


class BenchScene:
    """Servers that run, and topics of requests as they are asked for.

    Args:
        bootstrap_servers: of the broker.
        registry_url: of the registry.
        folder: for what the programs leave.
        collections: the broker's log of its garbage collections.
    """

    def __init__(self, bootstrap_servers: str, registry_url: str, folder: Path, collections: Path) -> None:
        self.triton_url = ""
        """Host and port of Triton's gRPC; empty: there is none."""
        self.bootstrap_servers = bootstrap_servers
        self.registry_url = registry_url
        self.folder = folder
        self.collections = collections
        self.registry = Registry(registry_url)
        self.admin = AdminClient({"bootstrap.servers": bootstrap_servers})
        self.ids = Ids(
            self.registry.register_request_schema("bench"),
            register(registry_url, "bench-result-value", schema_json(Contract.RESULT)),
        )
        self._requests: dict[str, Requests] = {}

    @contextmanager
    def with_triton(self, url: str) -> Iterator[None]:
        """For programs that are started meanwhile."""
        self.triton_url = url
        try:
            yield
        finally:
            self.triton_url = ""

    def requests(self, load: Load, count: int, partitions: int = PARTITIONS) -> Requests:
        """The topic of so many; the first time it is filled."""
        topic = f"bench-{load.name}-{count}-{partitions}.requests"
        if topic not in self._requests:
            self._requests[topic] = self._fill(topic, load, count, partitions)
        return self._requests[topic]

    def values(self, load: Load, count: int) -> Iterator[bytes]:
        """Of so many requests, all different."""
        chance = random.Random(1)
        for _ in range(count):
            yield encode(self.ids.request, load.make(chance))

    def make_topic(self, name: str, partitions: int = PARTITIONS) -> None:
        """Its records have the broker's times, by one clock for all arms."""
        config = {"message.timestamp.type": "LogAppendTime"}
        ensure_topics(self.bootstrap_servers, [TopicSpec(name, partitions, config=config)])

    def drop_topic(self, name: str) -> None:
        for future in self.admin.delete_topics([name], operation_timeout=30).values():
            future.result()

    def _fill(self, topic: str, load: Load, count: int, partitions: int) -> Requests:
        ends: dict[tuple[str, int], int] = {(topic, partition): 0 for partition in range(partitions)}
        size_bytes = 0

        def delivered(error: KafkaError | None, record: Message) -> None:
            assert error is None, error
            ends[topic, record.partition() or 0] += 1

        ensure_topics(self.bootstrap_servers, [TopicSpec(topic, partitions)])
        producer = Producer({"bootstrap.servers": self.bootstrap_servers, "enable.idempotence": True, "linger.ms": 20})
        for number, value in enumerate(self.values(load, count)):
            size_bytes += len(value)
            producer.produce(topic, value, b"%d" % (number % KEYS), on_delivery=delivered)
            if number % UNFLUSHED == 0:
                assert producer.flush(60) == 0
            producer.poll(0)
        assert producer.flush(60) == 0
        return Requests(topic, count, ends, size_bytes / count)


@contextmanager
def bench_scene() -> Iterator[BenchScene]:
    """A broker and a registry of the benchmark's own."""
    downloads = Downloads(cache_dir(), Progress())
    classpath, jar = downloads.kafka_classpath(), downloads.registry_jar()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name, PortReservation() as ports:
        folder = Path(name)
        collections = folder / "collections.log"
        flags = (*HEAP, *COMPILER, f"-Xlog:gc:file={collections}:time")
        kafka = KafkaServer(folder / "kafka", classpath, ports.take(), ports.take(), java_flags=flags)
        registry = RegistryServer(folder / "registry", jar, ports.take(), kafka.bootstrap_servers)
        try:
            kafka.start()
            registry.start()
            yield BenchScene(kafka.bootstrap_servers, registry.url, folder, collections)
        finally:
            registry.kill()
            kafka.kill()
