"""Three Kafka brokers on this machine, each reachable directly and through a fault proxy; and who leads what."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaException
from confluent_kafka.admin import ClusterMetadata, PartitionMetadata  # type: ignore[attr-defined]  # not in its __all__

from headrace.connectors.embedded.kafka import KafkaServer
from headrace.connectors.embedded.ports import LOOPBACK, PortReservation
from headrace.connectors.kafka.admin import admin_client
from headrace.pipeline.errors import StackError
from tests.chaos.proxy import FaultProxy

NODES = (1, 2, 3)
GROUPS, TRANSACTIONS = "__consumer_offsets", "__transaction_state"
READY_SECONDS = 120.0
_METADATA_SECONDS = 2.0
_ASKED_SECONDS = 15.0
_POLL_SECONDS = 0.05

_SETTINGS = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
    "replica.lag.time.max.ms": "5000",  # 30 s by default: so long acks=all waits for a follower that is stuck
    "replica.socket.timeout.ms": "5000",  # 30 s by default: so long a follower waits for a leader that is stuck
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",  # 10 s by default
}


@dataclass(frozen=True, slots=True)
class _Ports:
    """Of one node; ``proxy`` is where its proxy listens, which leads to ``proxied``."""

    direct: int
    controller: int
    proxied: int
    proxy: int


class KafkaCluster:
    """Three nodes, each broker and controller, with replication factor 3 and two replicas in sync to write.

    As a context manager it is started, and killed at the end. Two of the three nodes must run for it to answer.

    Args:
        data_dir: for the nodes' folders; made if missing, and kept.
        classpath: the broker's jars.
        ports: where ports are taken from.
    """

    def __init__(self, data_dir: Path, classpath: Sequence[Path], ports: PortReservation) -> None:
        self._ports = {node: _Ports(*(ports.take() for _ in range(4))) for node in NODES}
        cluster_id = str(uuid.uuid4())
        self.servers: Mapping[int, KafkaServer] = {
            node: KafkaServer(
                data_dir / f"kafka-{node}",
                classpath,
                own.direct,
                own.controller,
                cluster_id=cluster_id,
                settings=_settings(node, self._ports),
                name=f"Kafka node {node}",
            )
            for node, own in self._ports.items()
        }
        self.proxies: dict[int, FaultProxy] = {}
        """By node, once started; they outlive their broker."""
        client = {"metadata.recovery.strategy": "none"}  # never forget brokers that have been killed
        self._admin = admin_client(self.bootstrap_servers, client)

    @property
    def bootstrap_servers(self) -> str:
        """All brokers, directly."""
        return ",".join(f"{LOOPBACK}:{own.direct}" for own in self._ports.values())

    @property
    def proxied_bootstrap_servers(self) -> str:
        """All brokers through their proxies, which is also where their clients are sent on to."""
        return ",".join(f"{LOOPBACK}:{own.proxy}" for own in self._ports.values())

    @property
    def running(self) -> tuple[int, ...]:
        """The nodes whose process runs."""
        return tuple(node for node, server in self.servers.items() if server.process.running)

    # --- begin and end

    def start(self, *nodes: int) -> None:
        """Start these nodes together, by default all that do not run; returns when the cluster is ready.

        That is: every node that runs answers and is known as a broker, and Kafka's own topics have their leaders.

        Raises:
            StackError: with the end of a node's log, if it is not in time; others may run on.
        """
        for node, own in self._ports.items():
            if node not in self.proxies:
                self.proxies[node] = FaultProxy(own.proxy, own.proxied)
        chosen = nodes or tuple(node for node in NODES if node not in self.running)
        with ThreadPoolExecutor(len(NODES)) as pool:  # each formats its storage first, which takes a JVM's start
            list(pool.map(lambda node: self.servers[node].spawn(), chosen))
        for node in self.running:
            self.servers[node].wait_ready()
        self._wait(self._has_leaders, READY_SECONDS, "every node is a broker and Kafka's topics have leaders")

    def kill(self, node: int) -> None:
        """SIGKILL, as in a crash. The others notice when its session has expired, after three seconds."""
        self.servers[node].kill()

    def stop(self, node: int) -> None:
        """Shut down in order: its partitions are led by others before it goes."""
        self.servers[node].stop()

    def wait_in_sync(self, seconds: float = READY_SECONDS) -> None:
        """Wait until every replica of every partition is in sync. Raises StackError if that takes too long."""
        self._wait(self._in_sync, seconds, "all replicas are in sync")

    def close(self) -> None:
        """Kill the nodes and close the proxies. In order they could not go: the last would have no quorum."""
        try:
            for server in self.servers.values():
                server.kill()
        finally:  # a Ctrl-C meanwhile too
            for proxy in self.proxies.values():
                proxy.close()
            self.proxies.clear()

    def __enter__(self) -> KafkaCluster:
        try:
            self.start()
        except BaseException:  # Ctrl-C too: leave nothing behind
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # --- who leads what, by the cluster's metadata

    def leader(self, topic: str, partition: int) -> int:
        """The node that leads a partition.

        Raises:
            LookupError: if there is no such partition, or nobody leads it now.
        """
        found = self._partitions(self._metadata(), topic).get(partition)
        if found is None or found.leader < 0:
            raise LookupError(f"{topic}-{partition} has no leader")
        return found.leader

    def group_coordinator(self, group: str) -> int:
        """The node that coordinates a consumer group. Raises LookupError as ``leader``."""
        return self._coordinator(GROUPS, group)

    def transaction_coordinator(self, transactional_id: str) -> int:
        """The node that coordinates a producer's transactions. Raises LookupError as ``leader``."""
        return self._coordinator(TRANSACTIONS, transactional_id)

    def _coordinator(self, topic: str, name: str) -> int:
        partitions = len(self._partitions(self._metadata(), topic))
        if not partitions:
            raise LookupError(f"there is no {topic} yet: nobody has needed it")
        return self.leader(topic, abs(java_hash(name)) % partitions)

    def _metadata(self) -> ClusterMetadata:
        """As any broker sees it. Raises StackError if none answers for long."""
        deadline = time.monotonic() + _ASKED_SECONDS
        while True:
            try:
                return self._admin.list_topics(timeout=_METADATA_SECONDS)
            except KafkaException as error:  # asked of a broker that was just killed, for instance
                if time.monotonic() > deadline:
                    raise StackError(f"no broker of {self.bootstrap_servers} answers") from error

    @staticmethod
    def _partitions(metadata: ClusterMetadata, topic: str) -> Mapping[int, PartitionMetadata]:
        found = metadata.topics.get(topic)
        return found.partitions if found is not None else {}

    def _has_leaders(self, metadata: ClusterMetadata) -> bool:
        internal = [topic for name, topic in metadata.topics.items() if name.startswith("__")]
        leaders = {partition.leader for topic in internal for partition in topic.partitions.values()}
        return {*self.running} <= metadata.brokers.keys() and leaders <= {*self.running}

    def _in_sync(self, metadata: ClusterMetadata) -> bool:
        partitions = [each for topic in metadata.topics.values() for each in topic.partitions.values()]
        return all(each.leader >= 0 and {*each.isrs} == {*each.replicas} for each in partitions)

    def _wait(self, condition: Callable[[ClusterMetadata], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition(self._metadata()):
            if time.monotonic() > deadline:
                raise StackError(f"not in {seconds:.0f} s: {what}; nodes {self.running} run")
            time.sleep(_POLL_SECONDS)


def java_hash(text: str) -> int:
    """``String.hashCode`` of Java, except that the one without an absolute value is 0, as in Kafka's ``Utils.abs``."""
    units = text.encode("utf-16-be")
    value = 0
    for high, low in zip(units[::2], units[1::2], strict=True):
        value = (31 * value + (high << 8) + low) & 0xFFFFFFFF
    if value == 0x80000000:
        return 0
    return value - (1 << 32) if value > 0x80000000 else value


def _settings(node: int, ports: Mapping[int, _Ports]) -> dict[str, str]:
    own = ports[node]
    listeners = {"PLAINTEXT": own.direct, "PROXIED": own.proxied, "CONTROLLER": own.controller}
    advertised = {"PLAINTEXT": own.direct, "PROXIED": own.proxy}
    return {
        **_SETTINGS,
        "node.id": str(node),
        "controller.quorum.voters": ",".join(f"{each}@{LOOPBACK}:{ports[each].controller}" for each in ports),
        "listeners": ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in listeners.items()),
        "advertised.listeners": ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in advertised.items()),
    }
