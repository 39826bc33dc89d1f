"""Servers that are not there yet, or die under load: workers say what they wait for, and resume by themselves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from headrace.connectors.embedded.stack import Stack
from tests.integration.avro_ends import SCHEMAS, encode, event, numbers, text
from tests.integration.harness import DRAIN_SECONDS, Scene, Sent, WorkerProcess, wait_until
from tests.integration.mixed import mixed

EVENTS = 900
SETTLE_SECONDS = 90


@pytest.fixture(scope="module")
def mortal_stack() -> Iterator[Stack]:
    with Stack() as stack:
        yield stack


@pytest.fixture
def servers(mortal_stack: Stack) -> Stack:
    """Servers to kill. They all run at a test's beginning."""
    mortal_stack.revive()
    return mortal_stack


def wait_named(worker: WorkerProcess, dependency: str) -> None:
    """Until both its readiness and its log say what it waits for."""
    wait_until(
        lambda: worker.readyz()[0] == 503 and dependency in worker.readyz()[1], 30, f"readiness to name {dependency}"
    )
    assert f"waiting for {dependency}: " in worker.log


def start_stuck_again(workers: Sequence[WorkerProcess]) -> None:
    """A call of librdkafka may never return (docs/guarantees.md): then the worker ends, and is to be started again."""
    for worker in workers:
        if not worker.running:
            assert worker.wait_ended(0) == 1
            assert "has not returned in 30 s, in spite of its time-out" in worker.log[worker.log.rfind("is running") :]
            worker.start()


def settle(scene: Scene, workers: Sequence[WorkerProcess], sent: Sequence[Sent]) -> None:
    """Until all is answered, once, and all workers are ready; they are supervised."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while len(scene.answers) < len(sent) and time.monotonic() < deadline:
        scene.read_until_or(len(sent), lambda: not all(each.running for each in workers), SETTLE_SECONDS)
        start_stuck_again(workers)
    scene.settle(sent, SETTLE_SECONDS)
    start_stuck_again(workers)
    for worker in workers:
        worker.wait_ready(15)


def test_worker_started_before_its_servers_waits_for_each(
    servers: Stack, names: Callable[[str], str], tmp_path: Path
) -> None:
    with Scene(servers.endpoints, names("w"), tmp_path) as scene:
        for server in (servers.triton, servers.registry, servers.kafka):
            server.kill()
        worker = scene.worker(wait=False)
        wait_named(worker, "kafka")
        servers.kafka.start()
        wait_named(worker, "registry")
        servers.registry.start()
        wait_named(worker, "triton")
        sent = scene.send_events([event(numbers(index)) for index in range(20)])
        servers.triton.start()
        worker.wait_ready(15)
        scene.settle(sent)


def test_triton_killed_under_load_is_waited_for(servers: Stack, names: Callable[[str], str], tmp_path: Path) -> None:
    with Scene(servers.endpoints, names("w"), tmp_path) as scene:
        worker = scene.worker()
        sent = scene.send_events(mixed(EVENTS))
        scene.read_until(EVENTS // 5)
        servers.triton.kill()
        assert scene.lag() > 0, "the load was over before Triton was killed"
        wait_named(worker, "triton")
        servers.triton.start()
        worker.wait_ready(15)
        answers = scene.settle(sent)
        assert [each.content for each in answers.values() if each.dead] == []


def test_registry_that_is_down_holds_up_unknown_schemas_only(
    servers: Stack, names: Callable[[str], str], tmp_path: Path
) -> None:
    with Scene(servers.endpoints, names("w"), tmp_path) as scene:
        worker = scene.worker()
        scene.settle(scene.send_events([event(numbers(0))]))
        later = json.loads((SCHEMAS / "inference_request.avsc").read_text("utf-8"))
        later["fields"].append({"name": "note", "type": ["null", "string"], "default": None})
        schema_id = scene.registry.register_request_schema(scene.requests, json.dumps(later))
        servers.registry.kill()
        scene.settle(scene.send_events([event(numbers(1)), event(text("known"))]))
        assert worker.readyz()[0] == 200

        datum = {**event(numbers(2)), "note": "of a later version"}
        sent = scene.send([encode(schema_id, datum, json.dumps(later))])
        wait_named(worker, "registry")
        servers.registry.start()
        worker.wait_ready(15)
        (answer,) = scene.settle(sent).values()
        assert not answer.dead


@pytest.mark.parametrize("signal_name", ["kill", "stop"])
def test_broker_restarted_under_load_loses_and_doubles_nothing(
    servers: Stack, names: Callable[[str], str], tmp_path: Path, signal_name: str
) -> None:
    """By SIGKILL, as in a crash, and politely, as in an upgrade."""
    with Scene(servers.endpoints, names("w"), tmp_path) as scene:
        workers = [scene.worker(0), scene.worker(1)]
        scene.wait_shared(0, 1)
        sent = scene.send_events(mixed(2 * EVENTS))
        scene.read_until(EVENTS // 5)
        getattr(servers.kafka, signal_name)()
        for worker in workers:
            wait_named(worker, "kafka")
        servers.kafka.start()
        sent += scene.send_events(mixed(EVENTS // 3))
        settle(scene, workers, sent)


def test_clients_that_a_broker_shutting_down_tells_of_no_brokers_find_it_again(
    servers: Stack, names: Callable[[str], str], tmp_path: Path
) -> None:
    """The last broker to go lists none while it goes; who asks for metadata just then forgets it, too."""
    client = {"topic.metadata.refresh.interval.ms": 10}
    with Scene(servers.endpoints, names("w"), tmp_path, kafka={"client": client}) as scene:
        worker = scene.worker()
        sent = scene.send_events(mixed(2 * EVENTS))
        scene.read_until(EVENTS // 10)
        servers.kafka.stop()
        wait_named(worker, "kafka")
        servers.kafka.start()
        settle(scene, [worker], sent)


def test_worker_whose_client_library_is_stuck_ends_and_its_successor_goes_on(
    servers: Stack, names: Callable[[str], str], tmp_path: Path
) -> None:
    """With this setting librdkafka waits without end for a coordinator that it has forgotten. One day it may no longer:
    then the worker lives through it."""
    client = {"metadata.recovery.strategy": "rebootstrap"}
    with Scene(servers.endpoints, names("w"), tmp_path, kafka={"client": client}) as scene:
        worker = scene.worker()
        sent = scene.send_events(mixed(EVENTS))
        scene.read_until(EVENTS // 10)
        servers.kafka.kill()
        wait_named(worker, "kafka")
        servers.kafka.start()
        settle(scene, [worker], sent)


@pytest.mark.parametrize("server_name", ["triton", "kafka"])
def test_sigterm_during_an_outage_is_obeyed_in_time(
    servers: Stack, names: Callable[[str], str], tmp_path: Path, server_name: str
) -> None:
    """What cannot be drained is left to the successor."""
    with Scene(servers.endpoints, names("w"), tmp_path, kafka={"transaction_timeout_seconds": 5}) as scene:
        worker = scene.worker()
        sent = scene.send_events(mixed(EVENTS))
        scene.read_until(EVENTS // 10)
        getattr(servers, server_name).kill()
        assert worker.terminate(DRAIN_SECONDS + 8) == 0
        servers.revive()
        scene.worker(1)
        scene.settle(sent)
