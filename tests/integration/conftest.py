"""One real Kafka, schema registry and Triton for each process of the test run; topics and groups for each test.

``HEADRACE_STACK`` chooses how they run: ``embedded`` (the default, also where a Docker engine answers) or
``containers`` (the official images through testcontainers). Tests see ``Endpoints`` and can't tell the difference.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.embedded.triton import TritonServer
from headrace.connectors.embedded.triton_env import ensure_interpreter, models_folder
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.records import TopicSpec
from tests.integration.containers import container_stack

LONGEST = (
    "test_replay_demo",
    "test_embedded_lifecycle",
    "test_evaluate",
    "test_dlq_commands",
    "test_dlq_exactly_once",
    "test_tutorial",
    "test_wheel",
    "test_models_own",
    "test_dlq_docs",
    "test_transaction_faults",
    "test_demo",
    "test_demo_resilience",
    "test_replay_owners",
    "test_howto",
    "test_kafka_cluster",
    "test_replay",
    "test_ends_send",
    "test_models_extras",
    "test_ends_cli",
)
"""Files of a minute and a half or more: they begin first, or one process would still be at them when the others are
done. `--durations=0` shows when this is out of date."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def stack() -> Iterator[Endpoints]:
    """The shared servers, without workers. Never stop them: tests of failure take ``own_stack``."""
    kind = os.environ.get("HEADRACE_STACK", "embedded")
    if kind == "containers":
        with container_stack() as endpoints:
            yield endpoints
    elif kind == "embedded":
        with Stack() as embedded:
            yield embedded.endpoints
    else:
        pytest.exit(f"HEADRACE_STACK={kind}: must be 'embedded' or 'containers'", returncode=2)


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """An embedded stack for one test, whose servers it may stop, kill and start again."""
    with Stack() as embedded:
        yield embedded


@pytest.fixture
def make_triton(tmp_path: Path) -> Iterator[Callable[..., TritonServer]]:
    """Makes a Triton of one test's own with few models; not started. Arguments: further ones of its command line."""
    interpreter = ensure_interpreter(cache_dir(), Progress())
    full, small = tmp_path / "full", tmp_path / "models"
    setup = [str(interpreter.python), str(models_folder() / "setup_models.py"), "--repository", str(full)]
    subprocess.run(setup, check=True, stdout=subprocess.DEVNULL)
    for model in ("identity", "delay", "image_jpeg"):
        shutil.copytree(full / model, small / model)
    servers: list[TritonServer] = []
    with PortReservation() as ports:

        def make(*options: str) -> TritonServer:
            server = TritonServer(
                tmp_path / f"triton-{len(servers)}",
                interpreter,
                small,
                http_port=ports.take(),
                grpc_port=ports.take(),
                metrics_port=ports.take(),
                options=options,
            )
            servers.append(server)
            return server

        try:
            yield make
        finally:
            for server in servers:
                server.kill()


@pytest.fixture
def own_triton(make_triton: Callable[..., TritonServer]) -> TritonServer:
    """One without further arguments."""
    return make_triton()


@pytest.fixture
def names(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Makes names of topics, groups and subjects that belong to this test alone: the same suffix, the same name."""
    test = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)[:60].strip("-")
    prefix = f"{test}.{uuid.uuid4().hex[:8]}"
    return lambda suffix: f"{prefix}.{suffix}"


@pytest.fixture
def make_topics(stack: Endpoints, names: Callable[[str], str]) -> Callable[..., tuple[str, ...]]:
    """Creates topics of this test: ``requests, results = make_topics("requests", "results", partitions=4)``.

    Keywords: ``partitions`` (4 by default) and ``config``, Kafka's topic configuration by its own names.
    """

    def make(*suffixes: str, partitions: int = 4, config: dict[str, str] | None = None) -> tuple[str, ...]:
        specs = [TopicSpec(names(suffix), partitions, config=config or {}) for suffix in suffixes]
        ensure_topics(stack.bootstrap_servers, specs)
        return tuple(spec.name for spec in specs)

    return make
