"""The cluster of the chaos tests: three brokers that take over from each other, directly and behind their proxies."""

from __future__ import annotations

import os
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.connectors.embedded.downloads import Downloads
from headrace.connectors.embedded.java import java_command
from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.records import TopicSpec
from tests.chaos.cluster import NODES, KafkaCluster, java_hash
from tests.integration.harness import wait_until

PARTITIONS = 6
CLIENT: dict[str, str | int | bool] = {"metadata.recovery.strategy": "none", "reconnect.backoff.max.ms": 500}


@pytest.fixture(scope="module")
def classpath() -> tuple[Path, ...]:
    return Downloads(cache_dir(), Progress()).kafka_classpath()


@pytest.fixture(scope="module")
def shared_cluster(classpath: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with PortReservation() as ports, KafkaCluster(folder, classpath, ports) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: KafkaCluster) -> KafkaCluster:
    """All nodes run at a test's beginning."""
    shared_cluster.start()
    shared_cluster.wait_in_sync()
    return shared_cluster


@pytest.fixture
def topic(cluster: KafkaCluster, names: Callable[[str], str]) -> str:
    ensure_topics(cluster.bootstrap_servers, [TopicSpec(names("t"), PARTITIONS, len(NODES))])
    return names("t")


def read_committed(bootstrap_servers: str, topic: str) -> list[bytes]:
    """The values in a topic, from its beginning to its end."""
    settings = {"group.id": f"{topic}.reader", "isolation.level": "read_committed", "enable.partition.eof": True}
    consumer = Consumer({**CLIENT, **settings, "bootstrap.servers": bootstrap_servers, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
    values, unfinished = [], PARTITIONS
    try:
        while unfinished:
            record = consumer.poll(20)
            assert record is not None, "the topic could not be read to its end"
            error = record.error()
            if error is None:
                values.append(record.value() or b"")
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error
                unfinished -= 1
    finally:
        consumer.close()
    return values


class Load:
    """Produces numbered records with acks=all until it is left, and knows which were acknowledged."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        settings = {"enable.idempotence": True, "acks": "all", "linger.ms": 5, "message.timeout.ms": 60_000}
        self._producer = Producer({**CLIENT, **settings, "bootstrap.servers": bootstrap_servers})
        self._topic = topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.acknowledged: list[bytes] = []
        self.failed: list[str] = []

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(0.002):
            self._producer.produce(self._topic, b"%d" % number, b"%d" % number, on_delivery=self._report)
            self._producer.poll(0)
            number += 1
        self._producer.flush(60)

    def _report(self, error: KafkaError | None, record: Message) -> None:
        if error is None:
            self.acknowledged.append(record.value() or b"")
        else:
            self.failed.append(error.str())

    def wait_for_more(self, count: int = 100) -> None:
        wanted = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= wanted, 30, f"{count} more records to be acknowledged")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()


def leaders(cluster: KafkaCluster, topic: str) -> set[int]:
    """The nodes that lead partitions of a topic; 0 stands for nobody."""
    found = set()
    for partition in range(PARTITIONS):
        try:
            found.add(cluster.leader(topic, partition))
        except LookupError:
            found.add(0)
    return found


def test_every_node_is_known_directly_and_through_its_proxy(cluster: KafkaCluster) -> None:
    for bootstrap_servers in (cluster.bootstrap_servers, cluster.proxied_bootstrap_servers):
        brokers = AdminClient({"bootstrap.servers": bootstrap_servers}).list_topics(timeout=10).brokers
        assert ",".join(f"{brokers[node].host}:{brokers[node].port}" for node in NODES) == bootstrap_servers
    with pytest.raises(LookupError, match="nothing-0 has no leader"):
        cluster.leader("nothing", 0)


def test_transactions_go_through_the_proxies_and_stop_when_those_hold(cluster: KafkaCluster, topic: str) -> None:
    producer = Producer(
        {**CLIENT, "bootstrap.servers": cluster.proxied_bootstrap_servers, "transactional.id": f"{topic}.id"}
    )
    producer.init_transactions(30)
    coordinator = cluster.proxies[cluster.transaction_coordinator(f"{topic}.id")]
    for outcome in (producer.commit_transaction, producer.abort_transaction, producer.commit_transaction):
        producer.begin_transaction()
        for number in range(30):
            producer.produce(topic, outcome.__name__.encode(), b"%d" % number)
        producer.flush(20)
        coordinator.hold(requests=False, replies=True)
        ending = threading.Thread(target=outcome)
        ending.start()
        ending.join(0.3)
        assert ending.is_alive()
        coordinator.heal()
        ending.join(20)
        assert not ending.is_alive()
    assert all(proxy.connections for proxy in cluster.proxies.values())
    values = Counter(read_committed(cluster.proxied_bootstrap_servers, topic))
    assert values == {b"commit_transaction": 60}


def test_coordinators_are_those_that_kafka_names(
    cluster: KafkaCluster, topic: str, classpath: tuple[Path, ...], tmp_path: Path
) -> None:
    consumer = Consumer({**CLIENT, "bootstrap.servers": cluster.bootstrap_servers, "group.id": f"{topic}.grüppe😀"})
    consumer.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
    described = admin.describe_consumer_groups([f"{topic}.grüppe😀"])[f"{topic}.grüppe😀"].result(20)
    consumer.close()
    assert cluster.group_coordinator(f"{topic}.grüppe😀") == described.coordinator.id

    identity = f"{topic}-0"
    producer = Producer({**CLIENT, "bootstrap.servers": cluster.bootstrap_servers, "transactional.id": identity})
    producer.init_transactions(30)
    command = ["-cp", os.pathsep.join(map(str, classpath)), "org.apache.kafka.tools.TransactionsCommand"]
    command += ["--bootstrap-server", cluster.bootstrap_servers, "describe", "--transactional-id", identity]
    done = subprocess.run(java_command(command, 128, tmp_path), capture_output=True, text=True, timeout=60)
    heading, row = (line.split() for line in done.stdout.splitlines()[:2])
    assert cluster.transaction_coordinator(identity) == int(row[heading.index("CoordinatorId")])


@pytest.mark.parametrize(
    ("text", "value"),
    [("", 0), ("hello", 99162322), ("polygenelubricants", 0)],
)
def test_hash_is_that_of_java(text: str, value: int) -> None:
    assert java_hash(text) == value


def test_broker_that_is_stopped_hands_its_partitions_over_first(cluster: KafkaCluster, topic: str) -> None:
    node = cluster.leader(topic, 0)
    cluster.stop(node)
    assert cluster.servers[node].process.exit_code == 143  # by itself, and not by SIGKILL
    assert leaders(cluster, topic) == {*NODES} - {node}
    cluster.start()
    cluster.wait_in_sync()


def test_killing_each_broker_in_turn_loses_and_doubles_no_record(cluster: KafkaCluster, topic: str) -> None:
    with Load(cluster.proxied_bootstrap_servers, topic) as load:
        for node in NODES:
            load.wait_for_more()
            cluster.kill(node)
            wait_until(lambda node=node: not leaders(cluster, topic) & {0, node}, 30, "others to lead")  # type: ignore[misc]
            load.wait_for_more()
            cluster.start(node)
            cluster.wait_in_sync()
    assert load.failed == []
    found = Counter(read_committed(cluster.bootstrap_servers, topic))
    assert found == Counter(load.acknowledged)
    assert set(found.values()) == {1}


def test_transaction_that_ends_while_its_partitions_have_no_leader_is_seen_when_they_have_one(
    cluster: KafkaCluster, names: Callable[[str], str]
) -> None:
    """Kafka 4.3.0 to 4.4.0 write it down as complete without its markers (KAFKA-20734): its records, and all that come
    after them, stay invisible to read_committed readers for ever. Such a broker must not become the pinned one."""
    topic = names("single")
    ensure_topics(cluster.bootstrap_servers, [TopicSpec(topic, PARTITIONS, 1, {"min.insync.replicas": "1"})])
    wait_until(lambda: leaders(cluster, topic) == {*NODES}, 20, "leaders")
    producer = Producer({**CLIENT, "bootstrap.servers": cluster.bootstrap_servers, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    for partition in range(PARTITIONS):
        producer.produce(topic, b"%d" % partition, partition=partition)
    assert producer.flush(10) == 0
    node = cluster.leader(topic, 0)
    cluster.kill(node)
    wait_until(lambda: 0 in leaders(cluster, topic), 30, "partitions without a leader")
    producer.commit_transaction(30)
    cluster.start(node)
    assert sorted(read_committed(cluster.bootstrap_servers, topic)) == [b"%d" % each for each in range(PARTITIONS)]
