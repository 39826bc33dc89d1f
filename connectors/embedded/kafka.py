"""Apache Kafka: a node in KRaft mode, broker and controller in one process; by default the only one."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from headrace.connectors.embedded.java import java_command
from headrace.connectors.embedded.ports import LOOPBACK
from headrace.connectors.embedded.process import ServerProcess
from headrace.connectors.embedded.server import Server
from headrace.connectors.kafka.admin import is_ready
from headrace.pipeline.errors import StackError

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Largest record batch the broker takes; topics set their own, lower limit."""

_READY_SECONDS = 120.0
_STOP_SECONDS = 20.0
_FORMAT_SECONDS = 60.0
_HEAP_MIB = 512
_SETTINGS = "server.properties"
_LOG_FOLDER = "log"
"""Both lie in the working folder: a path in a properties file would have to be Latin-1, and be two with a comma."""

_PROPERTIES = f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{LOOPBACK}:{{controller_port}}
listeners=PLAINTEXT://{LOOPBACK}:{{port}},CONTROLLER://{LOOPBACK}:{{controller_port}}
advertised.listeners=PLAINTEXT://{LOOPBACK}:{{port}}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={_LOG_FOLDER}
auto.create.topics.enable=false
num.partitions=4
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
message.max.bytes={MAX_MESSAGE_BYTES}
replica.fetch.max.bytes={MAX_MESSAGE_BYTES + 1024 * 1024}
socket.request.max.bytes={4 * MAX_MESSAGE_BYTES}
log.segment.bytes=134217728
log.cleaner.dedupe.buffer.size=16777216
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
unstable.api.versions.enable=false
"""
# The cleaner of compacted topics takes its buffer at once, 128 MiB by default: a third of the heap, for topics that are
# small here. A restarted broker waits until the session of its killed predecessor has expired (9 s by default).


class KafkaServer(Server):
    """A broker on fixed ports whose data stays in ``data_dir`` over restarts.

    Args:
        data_dir: logs, configuration and output; made if missing.
        classpath: the broker's jars.
        port: of the clients' listener.
        controller_port: of the controller's listener.
        cluster_id: the same for all nodes of a cluster; by default one of its own.
        settings: broker settings by Kafka's names, which go before those of a node that is alone.
        java_flags: for its virtual machine, which go before its usual ones.
        name: what people call it, for messages.
    """

    def __init__(
        self,
        data_dir: Path,
        classpath: Sequence[Path],
        port: int,
        controller_port: int,
        *,
        cluster_id: str | None = None,
        settings: Mapping[str, str] | None = None,
        java_flags: Sequence[str] = (),
        name: str = "Kafka",
    ) -> None:
        self._data_dir = data_dir
        self._classpath = os.pathsep.join(map(str, classpath))
        self._port = port
        self._controller_port = controller_port
        self._cluster_id = cluster_id
        self._settings = settings or {}
        self._java_flags = tuple(java_flags)
        super().__init__(ServerProcess(name, data_dir / "kafka.log"))

    @property
    def bootstrap_servers(self) -> str:
        return f"{LOOPBACK}:{self._port}"

    def spawn(self) -> None:
        """Start without waiting. Raises StackError if its storage cannot be prepared."""
        self._data_dir.mkdir(parents=True, exist_ok=True)
        properties = _PROPERTIES.format(port=self._port, controller_port=self._controller_port)
        own = "".join(f"{name}={value}\n" for name, value in self._settings.items())
        (self._data_dir / _SETTINGS).write_text(properties + own)  # of two lines with one name the last counts
        if not (self._data_dir / _LOG_FOLDER / "meta.properties").exists():
            self._format()
        self._process.spawn(self._java("kafka.Kafka", _SETTINGS), os.environ, self._data_dir)

    def wait_ready(self) -> None:
        """Wait until the broker answers. Raises StackError with the end of its log."""
        self._process.wait_until(lambda: is_ready(self.bootstrap_servers), _READY_SECONDS)

    def stop(self) -> None:
        """Shut down tidily; data is kept."""
        self._process.stop(_STOP_SECONDS)

    def _java(self, *main: str) -> list[str]:
        flags = (
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
            *self._java_flags,  # of two flags that say different things the last counts
        )
        return java_command(["-cp", self._classpath, *main], _HEAP_MIB, self._data_dir / "tmp", flags)

    def _format(self) -> None:
        cluster_id = self._cluster_id or str(uuid.uuid4())
        command = self._java("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", _SETTINGS)
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=_FORMAT_SECONDS, cwd=self._data_dir
            )
        except subprocess.TimeoutExpired as error:
            raise StackError(f"Kafka's storage was not formatted in {_FORMAT_SECONDS:.0f} s: try again") from error
        if done.returncode != 0:
            raise StackError(f"Kafka's storage could not be formatted:\n{done.stdout}{done.stderr}".rstrip())
