"""The same servers from the official images, for machines with a Docker engine: thin, and chosen by HEADRACE_STACK."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import HttpWaitStrategy, LogMessageWaitStrategy

from headrace.connectors.embedded.artifacts import KAFKA_VERSION, REGISTRY_VERSION
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.registry import API_PATH
from headrace.connectors.embedded.state import Endpoints

KAFKA_IMAGE = f"apache/kafka:{KAFKA_VERSION}"
REGISTRY_IMAGE = f"apicurio/apicurio-registry:{REGISTRY_VERSION}"
TRITON_IMAGE = os.environ.get("HEADRACE_TRITON_IMAGE", "nvcr.io/nvidia/tritonserver:25.01-py3")
"""Its python backend needs what ``triton_models/requirements.txt`` lists: name an image that has it."""

_KAFKA_ALIAS = "kafka"
_INSIDE_PORT = 19092


@contextlib.contextmanager
def container_stack() -> Iterator[Endpoints]:
    """Kafka, registry and Triton in containers on one network, removed at the end."""
    with contextlib.ExitStack() as resources:
        ports = resources.enter_context(PortReservation())
        network = resources.enter_context(Network())
        kafka_port = ports.take()  # fixed beforehand, because the broker has to advertise it
        resources.enter_context(kafka(network, kafka_port))
        registry_container = resources.enter_context(registry(network))
        triton_container = resources.enter_context(triton())
        host = triton_container.get_container_host_ip()
        yield Endpoints(
            bootstrap_servers=f"{host}:{kafka_port}",
            registry_url=f"http://{host}:{registry_container.get_exposed_port(8080)}{API_PATH}",
            triton_grpc=f"{host}:{triton_container.get_exposed_port(8001)}",
            triton_http=f"{host}:{triton_container.get_exposed_port(8000)}",
            triton_metrics_url=f"http://{host}:{triton_container.get_exposed_port(8002)}/metrics",
        )


def kafka(network: Network, port: int) -> DockerContainer:
    """A KRaft node with a listener for this machine and one for the other containers."""
    settings = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": f"HOST://:{port},INSIDE://:{_INSIDE_PORT},CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"HOST://localhost:{port},INSIDE://{_KAFKA_ALIAS}:{_INSIDE_PORT}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,HOST:PLAINTEXT,INSIDE:PLAINTEXT",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_INTER_BROKER_LISTENER_NAME": "INSIDE",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
        "KAFKA_MESSAGE_MAX_BYTES": str(32 * 1024 * 1024),
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }
    container = DockerContainer(KAFKA_IMAGE).with_network(network).with_network_aliases(_KAFKA_ALIAS)
    container = container.with_bind_ports(port, port).with_envs(**settings)
    return container.waiting_for(LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(60))


def registry(network: Network) -> DockerContainer:
    """A registry that keeps its schemas in the Kafka container."""
    settings = {
        "APICURIO_STORAGE_KIND": "kafkasql",
        "APICURIO_KAFKASQL_BOOTSTRAP_SERVERS": f"{_KAFKA_ALIAS}:{_INSIDE_PORT}",
    }
    container = DockerContainer(REGISTRY_IMAGE).with_network(network).with_exposed_ports(8080).with_envs(**settings)
    return container.waiting_for(HttpWaitStrategy(8080, f"{API_PATH}/subjects").with_startup_timeout(90))


def triton() -> DockerContainer:
    """Triton with the repository in HEADRACE_MODEL_REPOSITORY, as rendered by ``triton_models/setup_models.py``."""
    repository = Path(os.environ["HEADRACE_MODEL_REPOSITORY"]).resolve()
    container = DockerContainer(TRITON_IMAGE).with_exposed_ports(8000, 8001, 8002)
    container = container.with_volume_mapping(str(repository), "/models", "ro").with_kwargs(shm_size="1g")
    container = container.with_command("tritonserver --model-repository=/models --disable-auto-complete-config")
    return container.waiting_for(HttpWaitStrategy(8000, "/v2/health/ready").with_startup_timeout(180))
