"""Apicurio Registry, with the API of Confluent's. It keeps schemas and ids in a Kafka topic, so restarts keep them."""

from __future__ import annotations

import os
from pathlib import Path

from headrace.connectors.embedded.http import answers_ok
from headrace.connectors.embedded.java import java_command
from headrace.connectors.embedded.ports import LOOPBACK
from headrace.connectors.embedded.process import ServerProcess
from headrace.connectors.embedded.server import Server
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.records import TopicSpec

API_PATH = "/apis/ccompat/v7"

_READY_SECONDS = 90.0
_STOP_SECONDS = 10.0
_HEAP_MIB = 256
_JOURNAL = "kafkasql-journal"


class RegistryServer(Server):
    """A schema registry on a fixed port. What it stores is in Kafka: ``data_dir`` holds only output.

    Args:
        data_dir: output and scratch files; made if missing.
        runner_jar: as unpacked by ``Downloads``.
        port: of its HTTP API.
        bootstrap_servers: the Kafka that stores the schemas; it must answer before ``start``.
    """

    def __init__(self, data_dir: Path, runner_jar: Path, port: int, bootstrap_servers: str) -> None:
        self._data_dir = data_dir
        self._runner_jar = runner_jar
        self._port = port
        self._bootstrap_servers = bootstrap_servers
        super().__init__(ServerProcess("the schema registry", data_dir / "registry.log"))

    @property
    def url(self) -> str:
        """Base URL for clients of Confluent's registry."""
        return f"http://{LOOPBACK}:{self._port}{API_PATH}"

    def spawn(self) -> None:
        """Start without waiting. Raises UnavailableError if Kafka does not answer."""
        # Left to itself it makes this topic with the broker's retention, which forgets schemas after a week.
        ensure_topics(self._bootstrap_servers, [TopicSpec(_JOURNAL, 1, config={"retention.ms": "-1"})])
        environment = {
            **os.environ,
            "QUARKUS_HTTP_HOST": LOOPBACK,
            "QUARKUS_HTTP_PORT": str(self._port),
            "QUARKUS_LOG_LEVEL": "WARN",
            "APICURIO_STORAGE_KIND": "kafkasql",
            "APICURIO_KAFKASQL_BOOTSTRAP_SERVERS": self._bootstrap_servers,
            "APICURIO_KAFKASQL_CONSUMER_POLL_TIMEOUT": "100",
            "APICURIO_STORAGE_SNAPSHOT_LOCATION": str(self._data_dir),
        }
        main = ["-jar", str(self._runner_jar)]
        command = java_command(main, _HEAP_MIB, self._data_dir / "tmp")
        self._process.spawn(command, environment, self._data_dir)

    def wait_ready(self) -> None:
        """Wait until the API answers. Raises StackError with the end of its log."""
        self._process.wait_until(lambda: answers_ok(self._port, f"{API_PATH}/subjects"), _READY_SECONDS)

    def stop(self) -> None:
        """Shut down tidily."""
        self._process.stop(_STOP_SECONDS)
